"""The text of an error as people paste it, made plain; and the frames of a traceback in it."""

from __future__ import annotations

import re
from typing import NamedTuple

_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]{0,40}[A-Za-z]|\][^\x07\x1b\n]{0,500}(?:\x07|\x1b\\)|[()][A-Z0-9])")
# Brackets and signs as they are typed in Chinese and Japanese; and the space that no line breaks at.
_FULL_WIDTH = str.maketrans("\uff08\uff09\uff1a\uff0c\uff3b\uff3d\uff07\uff02\xa0", "():,[]'\" ")
# A boxed traceback goes on in the next row where a row is full up to its border.
_BOXED = re.compile(r"(?<=\S) [│|]\n[│|] (?=\S)")
_FRAME = re.compile(r"(\w{1,80})\.py[\\\"']{0,3}(?:, line |:)([0-9]{1,7})(?:,? in |,?[\s│|]{1,120}in )([\w.<>]{1,80})")
_PATH_CHARACTERS = 400
_PATH_START = re.compile(r"[\s\"'│|]")
# Where UNets run: diffusers, and the tools and trainers that have UNets of their own.
_HOMES = (
    "diffusers",
    "ldm",
    "ldm_patched",
    "sgm",
    "comfy",
    "cldm",
    "ip_adapter",
    "animatediff",
    "networks",
    "lora",
    "library",
    "custom_nodes",
)
# Frames between a module and its code: torch's own, wrappers, hooks.
_BETWEEN = re.compile(
    r"/torch/|_contextlib|/diffusers/(?:utils|hooks)/|/accelerate/|/peft/|/functools|/transformers/(?:trainer|utils/generic)|<frozen|runpy"
)


class Frame(NamedTuple):
    """One frame of a traceback.

    Attributes:
        start: Where it stands in the text.
        end: Where what it shows begins: its line of code.
        home: The part of its path that runs UNets, such as "diffusers"; None: none does.
        place: File and function: "attention_processor.__call__".
        written: As an explanation names it: "diffusers.models.attention_processor.__call__, line 2749".
        path: The path of its file, with slashes.
    """

    start: int
    end: int
    home: str | None
    place: str
    written: str
    path: str


def plain_text(text: str) -> str:
    r"""Return the text without colours, with plain line ends and brackets, and with what cannot be encoded replaced.

    >>> plain_text("\x1b[31mRuntimeError\x1b[0m\r\n\uff082x2560\uff09")
    'RuntimeError\n(2x2560)'
    """
    encoded = text.encode("utf-8", "replace").decode("utf-8")
    lines = encoded.replace("\r\n", "\n").replace("\r", "\n").translate(_FULL_WIDTH)
    return _BOXED.sub("", _ESCAPES.sub("", lines))


def find_frames(text: str) -> list[Frame]:
    """List the frames of every traceback in the text (Python's, IPython's and boxed ones) that are a program's own code."""
    return [frame for match in _FRAME.finditer(text) if not _BETWEEN.search((frame := _frame(text, match)).path)]


def _frame(text: str, match: re.Match[str]) -> Frame:
    file, line, function = match.groups()
    before = text[max(0, match.start() - _PATH_CHARACTERS) : match.start()]
    path = f"{_PATH_START.split(before)[-1]}{file}.py".replace("\\\\", "/").replace("\\", "/")
    folders = path.split("/")[:-1]
    home = next((folder for folder in reversed(folders) if folder in _HOMES), None)
    inside = folders[len(folders) - 1 - folders[::-1].index(home) :] if home else []
    place = f"{file}.{function.rpartition('.')[2]}"
    written = f"{'.'.join([*inside, file])}.{function}, line {line}"
    return Frame(match.start(), match.end(), home, place, written, f"/{path}")
