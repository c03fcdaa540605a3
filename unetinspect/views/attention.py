"""`attn`: every attention layer with its heads, Q, K, V and the size of its map; counts of layers in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from math import prod

from unetinspect.record import Attention, AttentionCounts, Role, Stage, Trace
from unetinspect.record.selection import no_match
from unetinspect.units import format_bytes, format_shape, format_si, format_size, plural
from unetinspect.views.header import header
from unetinspect.views.table import Column, Table
from unetinspect.views.words import with_call

_KINDS = ("self", "cross", "joint", "temporal")


def attention_table(trace: Trace, attentions: Sequence[Attention]) -> Table:
    """Show attention layers, all or a selection, in execution order."""
    return Table(
        columns=(
            Column("attention layer", lambda layer: with_call(layer.path, layer.call), path=True),
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
            Column(
                "index", lambda layer: "-" if layer.index is None else str(layer.index), right=True, drop=9, value=lambda layer: layer.index
            ),
            Column("processor", lambda layer: layer.processor or "-", drop=10),
        ),
        rows=attentions,
        above=header(trace.model, trace.run),
        below=list(_lines(trace, attentions)),
        group=lambda layer: layer.stage,
    )


def _lines(trace: Trace, attentions: Sequence[Attention]) -> Iterator[str]:
    if len(attentions) < len(trace.attentions):
        yield f"{len(attentions)} of {len(trace.attentions)} shown"
    if trace.attentions and not attentions:
        yield no_match(trace.attentions)
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
