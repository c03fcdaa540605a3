"""Puts what is written in a box into its rectangle, and finds the heights at which skips leave and enter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from unetinspect.drawing.outline import Box
from unetinspect.drawing.place.contents import GAP, PAD_X, PAD_Y, ROW_GAP, ROW_INSET, Content, Line
from unetinspect.drawing.scene import Badge, PlacedBox, Rect, Row, Text

# Where in its line a text's baseline lies, below the middle of the line, per em.
_BASELINE = 0.36
_BADGE_HEIGHT = 15.0


class Ports(Struct, frozen=True):
    """At which height skips leave and enter a box.

    Attributes:
        made: By the skip's `index`.
        taken: By the skip's `order`.
    """

    made: dict[int, float]
    taken: dict[int, float]


def fill(box: Box, content: Content, rect: Rect, *, scaled: bool) -> tuple[PlacedBox, Ports]:
    """Put a box's content into its rectangle: what it is at the top, its rows at the bottom."""
    texts: list[Text] = []
    badges: list[Badge] = []
    free = rect.height - content.height
    y = rect.y + PAD_Y + (0 if content.rows or scaled else free / 2)
    for line in content.head:
        _write(line, rect.x + PAD_X, rect.right - PAD_X, y, texts, badges)
        y += line.height
    ports = Ports(dict(_spread([skip.index for skip in box.made], rect)), dict(_spread([skip.order for skip in box.taken], rect)))
    rows = tuple(_rows(content, rect, ports))
    return PlacedBox(box, rect, tuple(texts), tuple(badges), rows, scaled), ports


def _rows(content: Content, rect: Rect, ports: Ports) -> Iterator[Row]:
    y = rect.bottom - PAD_Y + ROW_GAP - sum(row.height + ROW_GAP for row in content.rows)
    for row in content.rows:
        texts: list[Text] = []
        badges: list[Badge] = []
        placed = Rect(rect.x + ROW_INSET, y, rect.width - 2 * ROW_INSET, row.height)
        for line in row.lines:
            _write(line, placed.x + ROW_INSET, placed.right - ROW_INSET, y, texts, badges)
            if line.made is not None:
                ports.made[line.made.index] = y + line.height / 2
            if line.taken is not None:
                ports.taken[line.taken.order] = y + line.height / 2
            y += line.height
        yield Row(placed, row.layers, tuple(texts), tuple(badges))
        y += ROW_GAP


def _spread(keys: Sequence[int], rect: Rect) -> Iterator[tuple[int, float]]:
    """Spread the ports of a box that has no rows over its height."""
    for place, key in enumerate(keys):
        yield key, rect.y + rect.height * (place + 1) / (len(keys) + 1)


def _write(line: Line, left: float, right: float, top: float, texts: list[Text], badges: list[Badge]) -> None:
    """Put the parts of a line between two edges."""
    middle = top + line.height / 2
    ends = right - sum(part.width + GAP for part in line.parts if part.right) + GAP
    for part in line.parts:
        x = ends if part.right else left
        baseline = middle + _BASELINE * part.size
        if part.badge:
            border = Rect(x, middle - _BADGE_HEIGHT / 2, part.width, _BADGE_HEIGHT)
            text = Text(border.middle[0], baseline, part.content, part.style, part.size, part.bold, "middle")
            badges.append(Badge(border, text, part.badge))
        elif part.right:
            texts.append(Text(x + part.width, baseline, part.content, part.style, part.size, part.bold, "end"))
        elif part.content:
            texts.append(Text(x, baseline, part.content, part.style, part.size, part.bold))
        if part.right:
            ends += part.width + GAP
        else:
            left += part.width + GAP
