"""The text of an error as people paste it, made plain; and the frames of a traceback in it."""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import NamedTuple

_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]{0,40}[A-Za-z]|\][^\x07\x1b\n]{0,500}(?:\x07|\x1b\\)|[()][A-Z0-9])")
# Brackets and signs as they are typed in Chinese and Japanese; and the space that no line breaks at.
_FULL_WIDTH = str.maketrans("\uff08\uff09\uff1a\uff0c\uff3b\uff3d\uff07\uff02\xa0", "():,[]'\" ")
# A boxed traceback goes on in the next row where a row is full up to its border.
_BOXED = re.compile(r"(?<=\S) [│|]\n[│|] (?=\S)")
_FRAME = re.compile(r"\.py[\\\"']{0,3}(?:, line |:)([0-9]{1,7})(?:,? in |,?[\s│|]{1,120}in )([\w.<>]{1,80})")
_PATH_CHARACTERS = 400
_PATH_START = re.compile(r"[\s\"'│|]")
# Where UNets run: their own code, not that of torch below it nor of the pipeline above.
_HOMES = ("diffusers", "ldm", "ldm_patched", "sgm", "comfy", "cldm", "ip_adapter", "peft")
_NOT_MODELS = ("/utils/", "/hooks/")


class Frame(NamedTuple):
    """One frame of a traceback: where it stands in the text, and "diffusers.models.attention_processor.__call__, line 2749"."""

    start: int
    home: str | None
    written: str


def plain_text(text: str) -> str:
    r"""Return the text without colours, with plain line ends and brackets, and with what cannot be encoded replaced.

    >>> plain_text("\x1b[31mRuntimeError\x1b[0m\r\n\uff082x2560\uff09")
    'RuntimeError\n(2x2560)'
    """
    encoded = text.encode("utf-8", "replace").decode("utf-8")
    lines = encoded.replace("\r\n", "\n").replace("\r", "\n").translate(_FULL_WIDTH)
    return _BOXED.sub("", _ESCAPES.sub("", lines))


def find_frames(text: str) -> list[Frame]:
    """List the frames of every traceback in the text: Python's, IPython's and boxed ones."""
    return [_frame(text, match) for match in _FRAME.finditer(text)]


def last_home(frames: list[Frame], start: int, end: int) -> str | None:
    """Return the innermost place between two positions that runs UNets: diffusers' own before that of any other tool."""
    places = frames[bisect_left(frames, start, key=_start) : bisect_left(frames, end, key=_start)]
    at_home = [frame for frame in places if frame.home is not None]
    of_diffusers = [frame for frame in at_home if frame.home == "diffusers"]
    chosen = of_diffusers or at_home
    return chosen[-1].written if chosen else None


def has_frames(frames: list[Frame], start: int, end: int) -> bool:
    """Tell whether any frame stands between two positions."""
    return bisect_left(frames, start, key=_start) < bisect_left(frames, end, key=_start)


def _start(frame: Frame) -> int:
    return frame.start


def _frame(text: str, match: re.Match[str]) -> Frame:
    before = text[max(0, match.start() - _PATH_CHARACTERS) : match.start()]
    path = _PATH_START.split(before)[-1].replace("\\\\", "/").replace("\\", "/")
    parts = path.split("/")
    home = next((part for part in reversed(parts[:-1]) if part in _HOMES), None)
    if home is None or any(place in f"/{path}" for place in _NOT_MODELS):
        return Frame(match.start(), None, "")
    inside = parts[len(parts) - 1 - parts[::-1].index(home) :]
    return Frame(match.start(), home, f"{'.'.join(inside)}.{match[2]}, line {match[1]}")
