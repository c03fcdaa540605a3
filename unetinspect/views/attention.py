"""`attn`: every attention layer with its heads, Q, K, V and the size of its map; counts of layers in words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from math import prod
from typing import Any

from msgspec import structs

from unetinspect.naming import processor_layers
from unetinspect.record import Attention, AttentionCounts, Role, Stage, Trace
from unetinspect.record.selection import EVERY_LAYER, Selection, no_match, with_grids
from unetinspect.units import format_bytes, format_shape, format_si, format_size, plural
from unetinspect.views.header import header
from unetinspect.views.table import Column, Table, fields_of
from unetinspect.views.words import with_call

_FOLDED = ("equal layers are folded into one row, with the numbers of each; --no-fold lists all",)
# A layer in a transformer block of a stage, with the block's number.
_IN_BLOCK = re.compile(r"(.+\.(?:temporal_)?transformer_(?:blocks|layers))\.(\d+)\.(.+)")
_KINDS = ("self", "cross", "joint", "temporal")


class _Row(Attention, frozen=True, kw_only=True):
    """An attention layer; of equal layers in consecutive transformer blocks the first, with a range in its path.

    Attributes:
        indices: The `index` of each of them.
    """

    indices: tuple[int | None, ...]


def attention_table(trace: Trace, attentions: Sequence[Attention], *, fold: bool = False, selection: Selection = EVERY_LAYER) -> Table:
    """Show attention layers, all or those of a selection, in execution order; `fold` shows those of equal blocks in one row."""
    rows = [_row(layers) for layers in (_alike(attentions) if fold else [[layer] for layer in attentions])]
    folded = len(rows) < len(attentions)
    with_key = processor_layers(trace)
    return Table(
        columns=(
            Column("attention layer", lambda layer: with_call(layer.path, layer.call), path=True),
            *([Column("layers", lambda layer: f"{len(layer.indices)} x", right=True)] if folded else []),
            Column("kind", lambda layer: layer.kind),
            Column("heads x dim", lambda layer: f"{layer.heads} x {layer.head_dim}", drop=1),
            Column("Q", lambda layer: format_shape(layer.query_shape), drop=6),
            Column("K", lambda layer: format_shape(layer.key_shape), drop=7),
            Column("V", lambda layer: format_shape(layer.value_shape), drop=8),
            Column(
                "map",
                lambda layer: format_shape(layer.map_shape),
                value=lambda layer: prod(layer.map_shape[1:]),
                page=lambda layer: format_size(layer.map_shape[1:]),
            ),
            Column.number("map bytes", lambda layer: layer.map_bytes, format_bytes, drop=4),
            Column.number("MACs", lambda layer: layer.macs, format_si, drop=5),
            Column("index", lambda layer: _indices(layer.indices), right=True, drop=9, value=lambda layer: layer.index),
            Column("processor", lambda layer: layer.processor or "-", drop=10),
        ),
        rows=rows,
        above=header(trace.model, trace.run),
        below=[*_lines(trace, attentions, selection), *(_FOLDED if folded else ())],
        group=lambda layer: layer.stage,
        records=attentions,
        fields=fields_of(Attention),
        name="path",
        computed={"processor_key": lambda layer: f"{layer.path}.processor" if layer.path in with_key else None},
    )


def _row(layers: Sequence[Attention]) -> _Row:
    """Fold layers of consecutive transformer blocks; one stays as it is."""
    first, path = layers[0], layers[0].path
    if len(layers) > 1:
        number = _IN_BLOCK.sub(r"\2", layers[-1].path)
        path = _IN_BLOCK.sub(rf"\1.\2-{number}.\3", path)
    return _Row(**{**structs.asdict(first), "path": path}, indices=tuple(layer.index for layer in layers))


def _alike(attentions: Sequence[Attention]) -> list[list[Attention]]:
    """Group layers of consecutive transformer blocks that are equal in all but their index; a group stands where its first layer does."""
    rows: dict[Any, list[Attention]] = {}
    last: dict[Any, tuple[int, Any]] = {}
    for layer in attentions:
        found = _IN_BLOCK.fullmatch(layer.path)
        if found is None:
            rows[layer.path, layer.call] = [layer]
            continue
        before, number, after = found[1], int(found[2]), found[3]
        alike = structs.replace(layer, path=f"{before}.{after}", index=None)
        place, key = last.get(alike, (-1, None))
        if key is None or number != place + 1:
            key = layer.path, layer.call
        rows.setdefault(key, []).append(layer)
        last[alike] = number, key
    return list(rows.values())


def _indices(indices: Sequence[int | None]) -> str:
    first, *rest = ("-" if index is None else str(index) for index in indices)
    return f"{first}, {rest[0]} .. {rest[-1]}" if len(rest) > 1 else ", ".join([first, *rest])


def _lines(trace: Trace, attentions: Sequence[Attention], selection: Selection) -> Iterator[str]:
    if len(attentions) < len(trace.attentions):
        yield f"{len(attentions)} of {len(trace.attentions)} shown"
    if trace.attentions and not attentions:
        yield from filter(None, no_match(with_grids(trace), selection))
    yield from attention_lines(trace)
    if attentions:
        yield "map: (batch * heads, query_tokens, key_tokens)"
    fused = [layer.map_bytes for layer in attentions if not layer.materialised]
    if fused:
        largest = f"{format_bytes(max(fused))} in {trace.run.dtype}"
        yield f"scaled-dot-product attention does not materialize maps; the largest would take {largest}"
    if len(fused) < len(attentions):
        yield f"{plural(len(attentions) - len(fused), 'layer')} with a materialized map (no scaled-dot-product attention)"


def attention_lines(trace: Trace) -> list[str]:
    """Write the number of attention layers, by kind and per block of the U."""
    counts = trace.totals.attention
    beside = [f"plus {plural(counts.pooling, 'attention pooling')} outside the U, not counted above"] if counts.pooling else []
    if counts.without_processor:
        layers = plural(counts.without_processor, "attention layer")
        beside.append(f"{'plus ' if counts.total else ''}{layers} without an attention processor (not in unet.attn_processors)")
    if not all_layers(counts):
        return ["no attention layers", *beside]
    lines = []
    if counts.total:
        blocks = sum(stage.transformer_blocks for stage in trace.stages)
        kinds = " + ".join(f"{count} {kind}" for kind, count in counts_by_kind(counts))
        lines.append(f"{plural(blocks, 'transformer block') + ', ' if blocks else ''}{plural(counts.total, 'attention layer')}: {kinds}")
    if per_block := per_block_text(trace.stages):
        lines.append(f"attention layers per block, {per_block}")
    return [*lines, *beside]


def per_block_text(stages: Sequence[Stage]) -> str:
    """Write the attention layers of each block of the U: "down | mid | up: 4, 4, 4, 0 | 2 | 0, 6, 6, 6"; "" without blocks."""
    # Modules between blocks are left out: Stable Cascade's `down_downscalers`, aMUSEd's projections.
    blocks = [stage for stage in stages if "block" in stage.name or all_layers(stage.attention)]
    counts: list[tuple[Role, int]] = [(stage.role, all_layers(stage.attention)) for stage in blocks if stage.role in ("down", "mid", "up")]
    groups = [(role, ", ".join(str(count) for _, count in group)) for role, group in groupby(counts, key=lambda block: block[0])]
    return f"{' | '.join(role for role, _ in groups)}: {' | '.join(text for _, text in groups)}" if groups else ""


def all_layers(counts: AttentionCounts) -> int:
    """Count the observed layers of the U, with a processor or without."""
    return counts.total + counts.without_processor


def counts_by_kind(counts: AttentionCounts) -> list[tuple[str, int]]:
    """Return the kinds that occur, with the number of their layers."""
    found = [(kind, getattr(counts, "self_" if kind == "self" else kind)) for kind in _KINDS]
    return [(kind, count) for kind, count in found if count]
