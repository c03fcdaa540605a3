"""Fits a table to a width without cutting a value: groups rows, drops columns, and last shortens paths on the left."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from unetinspect.views.table import Column, Row, Table

GAP = 2
_SHORT_MARK = ".."
_WORD = re.compile(r"[^\s_]*_|\S+|\s+")


@dataclass(frozen=True, slots=True)
class Layout:
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


def needed_width(layout: Layout) -> int:
    """Return how wide a layout is when nothing wraps."""
    return sum(_widths(layout, wrapped=False)) + GAP * (len(layout.columns) - 1)


def wrapped_lines(layout: Layout, width: int | None) -> list[tuple[str, ...]]:
    """Return the lines with the texts of columns that may wrap broken to what `width` leaves them."""
    wrapping = [place for place, column in enumerate(layout.columns) if column.wrap]
    widths = _widths(layout, wrapped=True)
    if width is None or not wrapping or needed_width(layout) <= width:
        return list(layout.lines)
    spare = max(width - least_width(layout), 0) // len(wrapping)
    return [
        tuple(wrap_cell(text, widths[place] + spare) if place in wrapping else text for place, text in enumerate(line))
        for line in layout.lines
    ]


def _whole(table: Table) -> Layout:
    return Layout(tuple(table.columns), tuple(tuple(column.show(row) for column in table.columns) for row in table.rows))


def _grouped(table: Table, group_of: Callable[[Row], str]) -> Layout:
    columns = tuple(column for column in table.columns if not column.in_heading)
    lines: list[tuple[str, ...]] = []
    current = None
    for row in table.rows:
        group = group_of(row)
        first, *others = (column.show(row) for column in columns)
        if group and group != current:
            lines.append((group,))
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
    widths = _widths(layout, wrapped=True)
    paths = sorted((place for place, column in enumerate(layout.columns) if column.path), key=lambda place: -widths[place])
    for place in paths:
        missing = least_width(layout) - width
        if missing > 0:
            layout = _with_short_paths(layout, place, widths[place] - missing)
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
    while len(indent + short) > room and len(parts) > 1:
        parts = parts[1:]
        short = _SHORT_MARK + ".".join(parts)
    return indent + short


def least_width(layout: Layout) -> int:
    """Return how narrow a layout can be without a value being cut."""
    return sum(_widths(layout, wrapped=True)) + GAP * (len(layout.columns) - 1)


def _widths(layout: Layout, *, wrapped: bool) -> list[int]:
    rows = [line for line in layout.lines if len(line) == len(layout.columns)]
    return [_column_width(column, [row[place] for row in rows], wrapped=wrapped) for place, column in enumerate(layout.columns)]


def _column_width(column: Column, texts: Sequence[str], *, wrapped: bool) -> int:
    longest = max(map(len, (column.header, *texts)))
    if not (wrapped and column.wrap):
        return longest
    words = [word for text in texts for word in _WORD.findall(text)]
    return min(longest, max(column.wrap, *map(len, (column.header, *words))))


def wrap_cell(text: str, width: int) -> str:
    r"""Break a text into lines of at most `width`, between words or behind an underscore.

    >>> wrap_cell("projection_class_embeddings_input_dim", 30)
    'projection_class_embeddings_\ninput_dim'
    """
    lines = [""]
    for word in _WORD.findall(text):
        if lines[-1] and len(lines[-1]) + len(word.rstrip()) > width:
            lines.append("")
        lines[-1] += word if lines[-1] or word.strip() else ""
    return "\n".join(line.rstrip() for line in lines)
