"""A sheet of characters with styles, and how texts are folded and printed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from msgspec import Struct

from unetinspect.terminal import cells, cells_of, paint


class Glyphs(Struct, frozen=True):
    """The characters that lines are drawn with: `leaves` is where a skip leaves a box, `arrow` is between two shapes.

    The corners are top left, top right, bottom left, bottom right.
    """

    across: str
    down: str
    corners: tuple[str, str, str, str]
    leaves: str
    right: str
    arrow_down: str
    arrow_up: str
    arrow: str


BOXES = Glyphs("─", "│", ("╭", "╮", "╰", "╯"), "├", "▶", "▼", "▲", "→")
ASCII = Glyphs("-", "|", ("+", "+", "+", "+"), "+", ">", "v", "^", "->")


def fold(text: str, width: int, *, indent: str = "") -> list[str]:
    """Break a text between words into lines of at most `width` columns; all but the first are indented.

    A shape or a sum in brackets is kept together if it fits in a line; a word that is too long is broken.
    """
    lines = [""]
    for word in _pieces(text):
        for piece in [word] if cells(word) <= width - len(indent) else word.split(" "):
            for place, part in enumerate(_parts(piece, width - len(indent))):
                gap = " " if lines[-1].strip() else ""
                if place or cells(lines[-1] + gap + part) > width:
                    lines.append(indent)
                    gap = ""
                lines[-1] += gap + part
    return lines


def _pieces(text: str) -> Iterator[str]:
    """Split into words, keeping what is in brackets whole."""
    piece, depth = "", 0
    for char in text:
        depth += (char == "(") - (char == ")")
        if char == " " and depth <= 0:
            yield piece
            piece = ""
        else:
            piece += char
    yield piece


def _parts(word: str, width: int) -> Iterator[str]:
    """Break a word that is too long, after a dot or an underscore if it has one."""
    while cells(word) > width:
        room = next(place for place in range(len(word), 0, -1) if cells(word[:place]) <= max(width, 2))
        end = max(word.rfind(".", 0, room), word.rfind("_", 0, room)) + 1 or room
        yield word[:end]
        word = word[end:]
    yield word


class Canvas:
    """Characters on lines; what is written later replaces what was there."""

    def __init__(self) -> None:
        self._cells: dict[tuple[int, int], tuple[str, str]] = {}

    def write(self, line: int, column: int, text: str, style: str = "") -> int:
        """Write a text from a column on; return the column after it."""
        for char in text:
            width = cells_of(char)
            if width == 0:
                before, its_style = self._cells.get((line, column - 1), (" ", style))
                self._cells[line, column - 1] = (before + char, its_style)
                continue
            self._cells[line, column] = (char, style)
            if width == 2:
                self._cells[line, column + 1] = ("", style)
            column += width
        return column

    def lines(self, *, color: bool) -> list[str]:
        """Return the lines, with ANSI colors where asked."""
        height = max((line for line, _ in self._cells), default=-1) + 1
        width = max((column for _, column in self._cells), default=-1) + 1
        rows = ([self._cells.get((line, column), (" ", "")) for column in range(width)] for line in range(height))
        found = []
        for row in rows:
            while row and row[-1][0] == " ":
                row.pop()
            runs = groupby(row, key=lambda cell: cell[1] if color else "")
            found.append("".join(paint("".join(char for char, _ in run), style) for style, run in runs))
        return found
