"""Tables as text: for a terminal, Markdown, CSV, TSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from unetinspect.terminal import cells, paint, wrap_words
from unetinspect.units import visible
from unetinspect.views.layout import GAP, Layout, fit, widths, wrap_lines
from unetinspect.views.table import Column, Line, Table, data_text, flat_fields

_NUMBERED = re.compile(r"\d+\. ")


class Screen(Struct, frozen=True, kw_only=True):
    """Where a table is drawn.

    Attributes:
        width: Columns; None is as many as the table needs (a pipe, a file).
        height: Lines; None is as many as the answer needs.
        unicode: Whether box-drawing characters can be shown.
        shorten: Whether long paths may be shortened.
    """

    width: int | None
    height: int | None = None
    color: bool = False
    unicode: bool = True
    shorten: bool = True


def render_table(table: Table, screen: Screen) -> tuple[str, tuple[str, ...]]:
    """Draw a table as text; returns it, and notes on what was left out because the screen is too narrow."""
    layout = fit(table, screen.width, shorten=screen.shorten)
    above, below = (
        "\n".join(part for line in lines for part in _wrapped(line, screen))
        for lines in (
            [*([Line(table.title, "heading")] if table.title else []), *table.above],
            [*table.below, *_legend(table, layout.columns)],
        )
    )
    blocks = [above, _draw(layout, screen) if table.rows else "", below]
    left_out = []
    if table.rows and layout.dropped:
        left_out.append(f"left out at {screen.width} columns: {', '.join(reversed(layout.dropped))} (--width 0 shows all)")
    if table.rows and layout.shortened:
        left_out.append("long paths are shortened on the left: --no-truncate shows them whole")
    hints = (f"{table.title.lower()}: {line}" if table.title else line for line in left_out)
    return "\n\n".join(block for block in blocks if block) + "\n", tuple(hints)


def _legend(table: Table, columns: Sequence[Column]) -> list[str]:
    shown = [column.header for column in columns] if table.rows else []
    return [f"{header}: {meaning}" for header, meaning in table.legend.items() if header in shown]


def render_markdown(table: Table) -> str:
    """Write a table as Markdown, every column of it."""
    headers = [column.header for column in table.columns]
    lines = [headers, ["---:" if column.right else "---" for column in table.columns]]
    lines += [[visible(column.show(row).strip()) for column in table.columns] for row in table.rows]
    body = "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines if table.rows)
    below_it = [*table.below, *_legend(table, table.columns)]
    above, below = ("  \n".join(_markdown_lines(part)) for part in (table.above, below_it))
    title = f"### {table.title}" if table.title else ""
    return "\n\n".join(block for block in (title, above, body, below) if block) + "\n"


def _markdown_lines(lines: Sequence[str]) -> Iterator[str]:
    """Yield styled words in bold, and indented lines as items of a list, unless they have a number.

    A line that stands alone under its heading is prose, not a list of one item.
    """
    for before, line, after in zip(["", *lines], lines, [*lines[1:], ""], strict=False):
        lead = line.lead if isinstance(line, Line) else 0
        styled, rest = (visible(part).replace("*", "\\*") for part in (line[:lead].strip(), line[lead:] if lead else line.strip()))
        text = f"**{styled}**{rest}" if styled else rest
        is_alone = not lead and not before.startswith("  ") and not after.startswith("  ")
        if not line.startswith("  ") or is_alone or _NUMBERED.match(text):
            yield text
        else:
            yield f"{' ' * (len(line) - len(line.lstrip()) - 2)}- {text.removeprefix('-> ')}"


def render_csv(table: Table, *, delimiter: str) -> str:
    """Write a table's data under the names of the record's fields; shapes as tuples, an absent value as nothing."""
    names, rows = flat_fields(table)
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([[_cell(value) for value in row] for row in rows])
    return text.getvalue()


def _cell(value: Any) -> Any:
    text = data_text(value)
    return visible(text, keep_lines=True) if isinstance(text, str) else text


def _wrapped(line: str, screen: Screen) -> list[str]:
    first, *rest = wrap_words(visible(line), screen.width)
    if screen.color and isinstance(line, Line):
        first = paint(first[: line.lead], line.style) + first[line.lead :]
    return [first, *rest]


def _draw(layout: Layout, screen: Screen) -> str:
    style = paint if screen.color else lambda text, _: text
    layout = wrap_lines(layout, screen.width)
    rooms = widths(layout)
    lines = [style(_aligned([column.header for column in layout.columns], layout, rooms), "name")]
    lines.append(("─" if screen.unicode else "-") * (sum(rooms) + GAP * (len(rooms) - 1)))
    for number, row in enumerate(layout.rows):
        if number in layout.headings:
            lines.append(style(layout.headings[number], "heading"))
        lines.append(style(_aligned(row, layout, rooms), layout.styles.get(number, "")))
    return "\n".join(lines)


def _aligned(texts: Sequence[str], layout: Layout, rooms: Sequence[int]) -> str:
    padded = []
    for text, column, room in zip(texts, layout.columns, rooms, strict=True):
        blanks = " " * (room - cells(text))
        padded.append(blanks + text if column.right else text + blanks)
    return (" " * GAP).join(padded).rstrip()
