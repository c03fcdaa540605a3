"""Fits a table to a width without cutting a value: groups rows, drops columns, and last shortens paths on the left."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import zip_longest

from msgspec import Struct
from msgspec.structs import replace

from unetinspect.terminal import cells
from unetinspect.units import visible
from unetinspect.views.table import Column, Row, Table

GAP = 2
_SHORT_MARK = ".."
_WORD = re.compile(r"[^\s_]*_|\S+|\s+")


class Layout(Struct, frozen=True):
    """A table that fits, as text.

    Attributes:
        columns: The columns that are left.
        lines: For each row its texts; a row of one text is the heading of a group.
        dropped: Headers of the columns that went.
        shortened: Whether paths were shortened.
    """

    columns: tuple[Column, ...]
    lines: tuple[tuple[str, ...], ...]
    dropped: tuple[str, ...] = ()
    shortened: bool = False


def fit(table: Table, width: int | None, *, shorten: bool = True) -> Layout:
    """Lay a table out in `width` columns; None is as wide as it needs.

    Where it does not fit: rows with a group move under its heading, then columns go, then paths are shortened. What
    still does not fit stands over: no value is ever cut.
    """
    full = _whole(table)
    if width is None or least_width(full) <= width:
        return full
    if table.group is not None:
        full = _grouped(table, table.group)
    if least_width(full) > width:
        full = _without_empty(full)
    while least_width(full) > width:
        fewer = _without_one(full)
        if fewer is None:
            break
        full = fewer
    return _shortened(full, width) if shorten and least_width(full) > width else full


def wrap_lines(layout: Layout, width: int | None) -> Layout:
    """Break the texts of columns that may wrap to what `width` leaves them; what does not fit follows in lines of its own."""
    wrapping = [place for place, column in enumerate(layout.columns) if column.wrap]
    if width is None or not wrapping or _with_gaps(widths(layout)) <= width:
        return layout
    spare = max(width - least_width(layout), 0) // len(wrapping)
    rooms = widths(layout, wrapped=True)
    lines: list[tuple[str, ...]] = []
    for line in layout.lines:
        is_heading = len(line) < len(layout.columns)
        parts = [
            wrap_cell(text, rooms[place] + spare) if place in wrapping and not is_heading else [text] for place, text in enumerate(line)
        ]
        lines += zip_longest(*parts, fillvalue="")
    return replace(layout, lines=tuple(lines))


def widths(layout: Layout, *, wrapped: bool = False) -> list[int]:
    """Return how wide each column is, or can be where those that may wrap do."""
    rows = [line for line in layout.lines if len(line) == len(layout.columns)]
    return [_column_width(column, [row[place] for row in rows], wrapped=wrapped) for place, column in enumerate(layout.columns)]


def _whole(table: Table) -> Layout:
    return Layout(tuple(table.columns), tuple(tuple(visible(column.show(row)) for column in table.columns) for row in table.rows))


def _grouped(table: Table, group_of: Callable[[Row], str]) -> Layout:
    columns = tuple(column for column in table.columns if not column.in_heading)
    lines: list[tuple[str, ...]] = []
    current = None
    for row in table.rows:
        group = group_of(row)
        first, *others = (visible(column.show(row)) for column in columns)
        if group and group != current:
            lines.append((visible(group),))
        current = group
        lines.append(("  " + first.removeprefix(f"{group}.") if group else first, *others))
    return Layout(columns, tuple(lines))


def _without_empty(layout: Layout) -> Layout:
    """Take away the columns that may go and hold nothing; nobody misses them."""
    rows = [line for line in layout.lines if len(line) == len(layout.columns)]
    kept = [place for place, column in enumerate(layout.columns) if not column.drop or any(row[place].strip() for row in rows)]
    lines = tuple(line if len(line) < len(layout.columns) else tuple(line[place] for place in kept) for line in layout.lines)
    return replace(layout, columns=tuple(layout.columns[place] for place in kept), lines=lines)


def _without_one(layout: Layout) -> Layout | None:
    """Drop the column that may go first; of equals, the one on the right."""
    ranked = [(column.drop, place) for place, column in enumerate(layout.columns) if column.drop]
    if not ranked:
        return None
    _, gone = max(ranked)
    lines = tuple(line if len(line) < len(layout.columns) else (*line[:gone], *line[gone + 1 :]) for line in layout.lines)
    columns = (*layout.columns[:gone], *layout.columns[gone + 1 :])
    return replace(layout, columns=columns, lines=lines, dropped=(*layout.dropped, layout.columns[gone].header))


def _shortened(layout: Layout, width: int) -> Layout:
    """Shorten paths by as much as is missing, those of the widest column first."""
    found = widths(layout, wrapped=True)
    paths = sorted((place for place, column in enumerate(layout.columns) if column.path), key=lambda place: -found[place])
    for place in paths:
        missing = least_width(layout) - width
        if missing > 0:
            layout = _with_short_paths(layout, place, found[place] - missing)
    return layout


def _with_short_paths(layout: Layout, place: int, room: int) -> Layout:
    lines = tuple(
        line if len(line) < len(layout.columns) else (*line[:place], _shorten(line[place], room), *line[place + 1 :])
        for line in layout.lines
    )
    return replace(layout, lines=lines, shortened=layout.shortened or lines != layout.lines)


def _shorten(path: str, room: int) -> str:
    """Shorten a path on the left, at dots, to `room` characters; what stands after the last dot always stays.

    >>> _shorten("down_blocks.0.attentions.1.proj_in", 22)
    '..attentions.1.proj_in'
    """
    text = path.lstrip()
    indent = path[: len(path) - len(text)]
    parts = text.split(".")
    short = text
    while cells(indent + short) > room and len(parts) > 1:
        parts = parts[1:]
        short = _SHORT_MARK + ".".join(parts)
    return indent + short


def least_width(layout: Layout) -> int:
    """Return how narrow a layout can be without a value being cut."""
    return _with_gaps(widths(layout, wrapped=True))


def _with_gaps(columns: Sequence[int]) -> int:
    return sum(columns) + GAP * (len(columns) - 1)


def _column_width(column: Column, texts: Sequence[str], *, wrapped: bool) -> int:
    longest = max(map(cells, (column.header, *texts)))
    if not (wrapped and column.wrap):
        return longest
    words = [word for text in texts for word in _WORD.findall(text)]
    return min(longest, max(column.wrap, *map(cells, (column.header, *words))))


def wrap_cell(text: str, width: int) -> list[str]:
    """Break a text into lines of at most `width`, between words or behind an underscore.

    >>> wrap_cell("projection_class_embeddings_input_dim", 30)
    ['projection_class_embeddings_', 'input_dim']
    """
    lines = [""]
    for word in _WORD.findall(text):
        if lines[-1] and cells(lines[-1] + word.rstrip()) > width:
            lines.append("")
        lines[-1] += word if lines[-1] or word.strip() else ""
    return [line.rstrip() for line in lines]
