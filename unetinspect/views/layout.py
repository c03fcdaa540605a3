"""Fits a table to a width without cutting a value: groups rows, drops columns, and last shortens paths on the left."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from itertools import zip_longest

from msgspec import Struct
from msgspec.structs import replace

from unetinspect.terminal import cells
from unetinspect.units import in_lines, visible
from unetinspect.views.table import Column, Table

GAP = 2
_SHORT_MARK = ".."
_WORD = re.compile(r"[^\s_]*_|\S+|\s+")
# Of a file name, whose words may be of any length.
_FILE_WORD = re.compile(r"[^/_.\s-]{0,23}[/_.\s-]|[^/_.\s-]{1,24}")


class Layout(Struct, frozen=True):
    """A table that fits, as text.

    Attributes:
        headings: The headings of groups, by the index of the row that follows.
        styles: The styles of rows, by their index.
        dropped: Headers of the dropped columns.
        shortened: Whether paths were shortened.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    headings: dict[int, str] = {}
    styles: dict[int, str] = {}
    dropped: tuple[str, ...] = ()
    shortened: bool = False

    def without(self, places: Container[int]) -> Layout:
        """Return the layout without the columns at some places."""
        kept = [place for place in range(len(self.columns)) if place not in places]
        columns = tuple(self.columns[place] for place in kept)
        return replace(self, columns=columns, rows=tuple(tuple(row[place] for place in kept) for row in self.rows))


def fit(table: Table, width: int | None, *, shorten: bool = True) -> Layout:
    """Lay a table out in `width` columns; None is as wide as it needs.

    If it does not fit, rows are grouped under headings, then columns are dropped, then paths are shortened. No value is cut:
    what still does not fit is wider.
    """
    layout = Layout(
        tuple(table.columns),
        tuple(tuple(visible(column.show(row)) for column in table.columns) for row in table.rows),
        styles={place: table.style(row) for place, row in enumerate(table.rows)} if table.style else {},
    )
    if width is None or least_width(layout) <= width:
        return layout
    if table.group is not None:
        layout = _grouped(layout, [visible(table.group(row)) for row in table.rows])
    if least_width(layout) > width:
        empty = [place for place, column in enumerate(layout.columns) if column.drop and not any(row[place].strip() for row in layout.rows)]
        layout = layout.without(empty)
    while least_width(layout) > width:
        ranked = [(column.drop, place) for place, column in enumerate(layout.columns) if column.drop]
        if not ranked:
            break
        _, gone = max(ranked)  # of equals, the one on the right
        layout = replace(layout.without([gone]), dropped=(*layout.dropped, layout.columns[gone].header))
    return _shortened(layout, width) if shorten else layout


def wrap_lines(layout: Layout, width: int | None) -> Layout:
    """Wrap the texts of columns that may wrap to what `width` leaves them; a text continues in rows of its own."""
    wrapping = [place for place, column in enumerate(layout.columns) if column.wrap]
    if width is None or not wrapping or _with_gaps(widths(layout)) <= width:
        return layout
    spare = max(width - least_width(layout), 0) // len(wrapping)
    rooms = widths(layout, wrapped=True)
    rows: list[tuple[str, ...]] = []
    headings, styles = {}, {}
    for number, row in enumerate(layout.rows):
        if number in layout.headings:
            headings[len(rows)] = layout.headings[number]
        parts = [
            wrap_cell(text, rooms[place] + spare, file=layout.columns[place].file) if place in wrapping else [text]
            for place, text in enumerate(row)
        ]
        for line in zip_longest(*parts, fillvalue=""):
            styles[len(rows)] = layout.styles.get(number, "")
            rows.append(line)
    return replace(layout, rows=tuple(rows), headings=headings, styles=styles)


def widths(layout: Layout, *, wrapped: bool = False) -> list[int]:
    """Return the width of each column; with `wrapped`, the least width of those that may wrap."""
    found = []
    for place, column in enumerate(layout.columns):
        texts = [row[place] for row in layout.rows]
        longest = max(map(cells, (column.header, *texts)))
        if wrapped and column.wrap:
            words = [word for text in texts for word in _words(text, file=column.file)]
            longest = min(longest, max(column.wrap, *map(cells, (column.header, *words))))
        found.append(longest)
    return found


def _grouped(layout: Layout, groups: Sequence[str]) -> Layout:
    layout = layout.without([place for place, column in enumerate(layout.columns) if column.in_heading])
    headings = {place: group for place, group in enumerate(groups) if group and (not place or group != groups[place - 1])}
    rows = [
        ("  " + row[0].removeprefix(f"{group}.") if group else row[0], *row[1:]) for row, group in zip(layout.rows, groups, strict=True)
    ]
    return replace(layout, rows=tuple(rows), headings=headings)


def _shortened(layout: Layout, width: int) -> Layout:
    """Shorten paths as far as needed, those of the widest column first."""
    found = widths(layout, wrapped=True)
    for place in sorted((place for place, column in enumerate(layout.columns) if column.path), key=lambda place: -found[place]):
        missing = least_width(layout) - width
        if missing > 0:
            rows = tuple((*row[:place], _shorten(row[place], found[place] - missing), *row[place + 1 :]) for row in layout.rows)
            layout = replace(layout, rows=rows, shortened=layout.shortened or rows != layout.rows)
    return layout


def _shorten(path: str, room: int) -> str:
    """Shorten a path on the left, at dots, to `room` characters; the part after the last dot always stays.

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


def _words(text: str, *, file: bool) -> list[str]:
    return (_FILE_WORD if file else _WORD).findall(text)


def wrap_cell(text: str, width: int, *, file: bool = False) -> list[str]:
    """Break a text into lines of at most `width`, between words or after an underscore; with `file`, after any mark or 24 letters.

    >>> wrap_cell("projection_class_embeddings_input_dim", 30)
    ['projection_class_embeddings_', 'input_dim']
    """
    lines = in_lines(_words(text, file=file), lambda words: cells("".join(words).strip()) <= width)
    return ["".join(line).strip() for line in lines] or [""]
