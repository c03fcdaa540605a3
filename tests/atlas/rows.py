"""A row of `atlas.jsonl`: one message that diffusers or torch raises, and what was seen to cause it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NotRequired, TypedDict


class Row(TypedDict):
    """One message and one cause of it.

    Attributes:
        text: The message in one line: each number is '#', each other variable part '@'.
        numbers: What each '#' is, as the other rows call it; "" where that is unknown.
        frames: diffusers' frames, outermost first, as "file.function".
        code: The line of code of the innermost of them.
        module: The innermost torch module whose forward was running, its indexes as *; "" for none.
        cause: The sort of mistake: "size", "missing", "config", ...; "raises" where the text was only read from the source.
        about: The config keys and arguments that the mistake is in, between spaces.
        axis: The axis that was wrong; for "raises" the stage: "config", "forward", "load", "processors" or "pipeline".
        classes: The classes that said it.
        own: Whether diffusers itself says it, and not torch or Python below it.
        weak: Whether the message has too little constant text to be recognized within a line.
    """

    text: str
    numbers: list[str]
    frames: list[str]
    code: NotRequired[str]
    module: str
    cause: str
    about: str
    axis: str
    classes: list[str]
    own: NotRequired[bool]
    weak: NotRequired[bool]


def to_line(row: Row) -> str:
    """Write a row as one line of JSON, its keys in alphabetical order."""
    return json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows, one a line and sorted, so that two runs write the same file."""
    path.write_text("".join(f"{line}\n" for line in sorted(map(to_line, rows))), encoding="utf-8")


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a file, as many as it has lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
