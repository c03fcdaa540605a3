"""The four tables of the page: stages, skips, attention layers, modules. The page's script only sorts and hides rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from msgspec import Struct

from unetinspect.drawing.page.markup import TIMES, Markup, joined, tag
from unetinspect.record import Attention, Module, Skip, Stage, Trace
from unetinspect.units import format_bytes, format_count, format_shape, format_si, format_size
from unetinspect.views.skips import skip_sum, way_text

Pick = Literal["stage", "skip", "attn", "module"]


class PageColumn(Struct, frozen=True):
    """One column of a table of the page.

    Attributes:
        header: What stands above it.
        show: The text of a row's cell.
        value: The number to sort it by; None: it is sorted as text.
        css: A class for its cells: "p" of a path.
    """

    header: str
    show: Callable[[Any], str]
    value: Callable[[Any], int | None] | None = None
    css: str = ""


class PageTable(Struct, frozen=True):
    """One table of the page.

    Attributes:
        id: Its section's id: "attention".
        title: Its heading.
        noun: What a row is, in the singular.
        caption: What its rows and columns are, in a sentence.
        pick: What picking a row picks.
        columns: The first one names the row.
        rows: Records, in their own order.
        kinds: The kinds of its rows, to filter by; none: there is no filter.
        hint: An example of what to search for; none: there is no search.
    """

    id: str
    title: str
    noun: str
    caption: str
    pick: Pick
    columns: tuple[PageColumn, ...]
    rows: Sequence[Any]
    kinds: tuple[str, ...] = ()
    hint: str = ""


def page_tables(trace: Trace) -> tuple[PageTable, ...]:
    """Return the tables of the page, in the order of their tabs."""
    return _stages(trace), _skips(trace), _attentions(trace), _modules(trace)


def table_markup(table: PageTable) -> Markup:
    """Write a table with its caption and every row; cells that are sorted by a number carry it as `data-value`."""
    heads = [tag("th", column.header, scope="col", class_=None if column.value is None else "n") for column in table.columns]
    rows = [_row(table, row) for row in table.rows]
    body = tag("tbody", *rows) if rows else tag("tbody", tag("tr", tag("td", "none", colspan=len(heads)), class_="empty"))
    caption = tag("caption", table.caption)
    return tag("table", caption, tag("thead", tag("tr", *heads)), body, data_pick=table.pick, data_noun=table.noun)


def _row(table: PageTable, row: Any) -> Markup:
    name, *rest = table.columns
    kind = row.kind if table.kinds else None
    return joined(tag("tr", tag("th", name.show(row), scope="row"), *(_cell(column, row) for column in rest), data_kind=kind), Markup("\n"))


def _cell(column: PageColumn, row: Any) -> Markup:
    text = column.show(row)
    if column.value is None:
        return tag("td", text, class_=column.css or None)
    value = column.value(row)
    return tag("td", text, data_value="" if value is None else value)


def _stages(trace: Trace) -> PageTable:
    return PageTable(
        *("stages", "Stages", "stage"),
        "The modules right below the UNet, and the items of its lists, in the order in which they ran.",
        "stage",
        (
            PageColumn("stage", lambda stage: stage.name),
            PageColumn("class", lambda stage: stage.class_name),
            PageColumn("in", lambda stage: format_shape(stage.in_shape)),
            PageColumn("out", lambda stage: format_shape(stage.out_shape)),
            PageColumn("resnets", lambda stage: str(stage.resnets), lambda stage: stage.resnets),
            PageColumn("transformer blocks", lambda stage: str(stage.transformer_blocks), lambda stage: stage.transformer_blocks),
            PageColumn("attention layers", lambda stage: str(_layers(stage)), _layers),
            *_costs(),
        ),
        trace.stages,
    )


def _skips(trace: Trace) -> PageTable:
    changed = any(map(way_text, trace.skips))
    way = (PageColumn("on its way", lambda skip: way_text(skip) or "-"),) if changed else ()
    return PageTable(
        *("skips", "Skips", "skip"),
        "Tensors that one module made and a later one concatenated to its input, in the order in which they were taken.",
        "skip",
        (
            PageColumn("taken by", lambda skip: _again(skip.target, skip)),
            PageColumn("made by", lambda skip: " + ".join(skip.sources), css="p"),
            PageColumn("shape", lambda skip: format_shape(skip.shape)),
            *way,
            PageColumn("hidden + skip = concat → out", sum_shown, lambda skip: skip.concat_channels),
            PageColumn(f"1{TIMES}1 shortcut", _shortcut, css="p"),
        ),
        trace.skips,
    )


def _attentions(trace: Trace) -> PageTable:
    return PageTable(
        *("attention", "Attention", "attention layer"),
        f"In the order in which they ran. Q, K and V are (batch, heads, tokens, head_dim), a map is query tokens {TIMES} key tokens.",
        "attn",
        (
            PageColumn("attention layer", lambda layer: _again(layer.path, layer)),
            PageColumn("kind", lambda layer: layer.kind),
            PageColumn("map", _map, lambda layer: layer.map_shape[1] * layer.map_shape[2]),
            PageColumn("heads", lambda layer: str(layer.heads), lambda layer: layer.heads),
            PageColumn("head dim", lambda layer: str(layer.head_dim), lambda layer: layer.head_dim),
            PageColumn("Q", lambda layer: format_shape(layer.query_shape)),
            PageColumn("K", lambda layer: format_shape(layer.key_shape)),
            PageColumn("V", lambda layer: format_shape(layer.value_shape)),
            PageColumn("map bytes", lambda layer: format_bytes(layer.map_bytes), lambda layer: layer.map_bytes),
            PageColumn("MACs", lambda layer: format_si(layer.macs), lambda layer: layer.macs),
            PageColumn("processor", lambda layer: layer.processor or "-"),
            PageColumn("index", lambda layer: "-" if layer.index is None else str(layer.index), lambda layer: layer.index),
        ),
        trace.attentions,
        kinds=tuple(dict.fromkeys(layer.kind for layer in trace.attentions)),
        hint=_like(trace.attentions),
    )


def _modules(trace: Trace) -> PageTable:
    return PageTable(
        *("modules", "Modules", "module"),
        "Every module below the UNet, in the order of named_modules(); shapes are those of its first call.",
        "module",
        (
            PageColumn("module", lambda module: module.path),
            PageColumn("class", _class),
            PageColumn("in", lambda module: format_shape(module.in_shape)),
            PageColumn("out", lambda module: format_shape(module.out_shape)),
            *_costs(),
            PageColumn("calls", lambda module: str(module.calls), lambda module: module.calls),
        ),
        [module for module in trace.modules if module.path],
        hint="mid_block Conv2d",
    )


def _costs() -> tuple[PageColumn, ...]:
    return (
        PageColumn("params", lambda row: format_count(row.params), lambda row: row.params),
        PageColumn("MACs", lambda row: format_si(row.macs), lambda row: row.macs),
        PageColumn("peak activations", lambda row: format_bytes(row.activation_bytes), lambda row: row.activation_bytes),
    )


def _again(path: str, row: Skip | Attention) -> str:
    return f"{path} (call {row.call})" if row.call else path


def _layers(stage: Stage) -> int:
    return stage.attention.total + stage.attention.without_processor + stage.attention.pooling


def _map(layer: Attention) -> str:
    return times(format_size(layer.map_shape[1:]))


def _like(layers: Sequence[Attention]) -> str:
    return f"{layers[0].kind} {layers[0].map_shape[1]}" if layers else ""


def times(text: str) -> str:
    """Write "4096x77" with the sign for it, which a terminal may lack and a page never does."""
    return text.replace("x", TIMES)


def sum_shown(skip: Skip) -> str:
    """Write "1280 + 640 = 1920 → 1280"."""
    return skip_sum(skip).replace("->", "→")


def _shortcut(skip: Skip) -> str:
    return (skip.shortcut or "-").removeprefix(f"{skip.target}.")


def _class(module: Module) -> str:
    return f"{module.class_name}({module.detail})" if module.detail else module.class_name
