"""The four tables of the page: those of the terminal, as HTML. The page's script only sorts and hides rows."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from unetinspect.drawing.labels import typeset
from unetinspect.drawing.page.markup import Markup, joined, tag
from unetinspect.drawing.text_width import TIMES
from unetinspect.record import Trace
from unetinspect.views.attention import attention_table
from unetinspect.views.skips import skips_table
from unetinspect.views.stages import stages_table
from unetinspect.views.table import Column, Table
from unetinspect.views.tree import modules_table

Pick = Literal["stage", "skip", "attn", "module"]


class PageTable(Struct, frozen=True):
    """One table of the page.

    Attributes:
        id: Its section's id: "attention".
        noun: What a row is, in the singular.
        caption: What its rows and columns are, in a sentence.
        pick: What picking a row picks.
        table: The first column names the row.
        kinds: The kinds of its rows, to filter by; empty: no filter.
        hint: An example of what to search for; empty: no search.
    """

    id: str
    title: str
    noun: str
    caption: str
    pick: Pick
    table: Table
    kinds: tuple[str, ...] = ()
    hint: str = ""


def page_tables(trace: Trace) -> tuple[PageTable, ...]:
    """Return the tables of the page, in the order of their tabs."""
    layers = trace.attentions
    return (
        PageTable(
            id="stages",
            title="Stages",
            noun="stage",
            caption="The modules right below the UNet, and the items of its lists, in execution order.",
            pick="stage",
            table=stages_table(trace),
        ),
        PageTable(
            id="skips",
            title="Skips",
            noun="skip",
            caption="Tensors that one module produces and a later one concatenates to its input, in the order in which they are consumed.",
            pick="skip",
            table=skips_table(trace),
        ),
        PageTable(
            id="attention",
            title="Attention",
            noun="attention layer",
            caption=f"In execution order. Q, K and V are (batch, heads, tokens, head_dim), a map is query tokens {TIMES} key tokens.",
            pick="attn",
            table=attention_table(trace, layers),
            kinds=tuple(dict.fromkeys(layer.kind for layer in layers)),
            hint=f"{layers[0].kind} {layers[0].map_shape[1]}" if layers else "",
        ),
        PageTable(
            id="modules",
            title="Modules",
            noun="module",
            caption="Every module below the UNet, in the order of named_modules(); shapes are those of its first call.",
            pick="module",
            table=modules_table(trace),
            hint="mid_block Conv2d",
        ),
    )


def table_markup(page: PageTable) -> Markup:
    """Write a table with its caption and every row; cells that are sorted by a number carry it as `data-value`."""
    columns = page.table.columns
    heads = [tag("th", typeset(column.header), scope="col", class_=None if column.value is None else "n") for column in columns]
    name, *rest = columns
    rows = []
    for row in page.table.rows:
        cells = (tag("th", name.show(row), scope="row"), *(_cell(column, row) for column in rest))
        rows.append(joined(tag("tr", *cells, data_kind=row.kind if page.kinds else None), Markup("\n")))
    body = tag("tbody", *rows) if rows else tag("tbody", tag("tr", tag("td", "none", colspan=len(heads)), class_="empty"))
    caption = tag("caption", tag("span", page.caption))
    return tag("table", caption, tag("thead", tag("tr", *heads)), body, data_pick=page.pick, data_noun=page.noun)


def _cell(column: Column, row: Any) -> Markup:
    text = (column.page or column.show)(row)
    if column.value is None:
        return tag("td", text, class_="p" if column.path else None)
    value = column.value(row)
    return tag("td", typeset(text), data_value="" if value is None else value)
