"""`attn`: every attention layer, with its heads, its Q, K and V, and how large its map is or would be."""

from __future__ import annotations

from collections.abc import Sequence

from unetinspect.record import Attention, Trace
from unetinspect.units import format_bytes, format_shape, format_si, plural
from unetinspect.views.header import header
from unetinspect.views.stages import attention_lines
from unetinspect.views.table import Column, Table


def attention_table(trace: Trace, attentions: Sequence[Attention]) -> Table:
    """Show attention layers, all or those that a filter left, in execution order."""
    return Table(
        columns=(
            Column("attention layer", _path, path=True),
            Column("kind", lambda layer: layer.kind),
            Column("heads x dim", lambda layer: f"{layer.heads} x {layer.head_dim}", drop=1),
            Column("Q", lambda layer: format_shape(layer.query_shape), drop=6),
            Column("K", lambda layer: format_shape(layer.key_shape), drop=7),
            Column("V", lambda layer: format_shape(layer.value_shape), drop=8),
            Column("map", lambda layer: format_shape(layer.map_shape)),
            Column("map bytes", lambda layer: format_bytes(layer.map_bytes), right=True, drop=4),
            Column("MACs", lambda layer: format_si(layer.macs), right=True, drop=5),
            Column("index", lambda layer: "-" if layer.index is None else str(layer.index), right=True, drop=9),
            Column("processor", lambda layer: layer.processor or "-", drop=10),
        ),
        rows=attentions,
        above=header(trace.model, trace.run),
        below=_below(trace, attentions),
        group=lambda layer: layer.stage,
    )


def _below(trace: Trace, attentions: Sequence[Attention]) -> list[str]:
    lines = attention_lines(trace)
    if len(attentions) < len(trace.attentions):
        lines.insert(0, f"{len(attentions)} shown of {len(trace.attentions)}")
    if trace.attentions and not attentions:
        kinds = dict.fromkeys(layer.kind for layer in trace.attentions)
        stages = dict.fromkeys(layer.stage for layer in trace.attentions)
        tokens = sorted({layer.query_shape[2] for layer in trace.attentions})
        lines.insert(
            1,
            f"none of the layers is like that: they are {', '.join(kinds)}, with {', '.join(map(str, tokens))} query tokens, "
            f"in {', '.join(stages)}",
        )
    fused = sum(not layer.materialised for layer in attentions)
    held = len(attentions) - fused
    if fused:
        largest = max(layer.map_bytes for layer in attentions if not layer.materialised)
        lines.append(
            f"maps are (batch * heads, query_tokens, key_tokens); scaled-dot-product attention never holds them in memory: "
            f"they would be this large, the largest {format_bytes(largest)} in {trace.run.dtype}"
        )
    if held:
        lines.append(f"{plural(held, 'layer')} held the map in memory: no scaled-dot-product attention there")
    return lines


def _path(layer: Attention) -> str:
    return f"{layer.path} (call {layer.call})" if layer.call else layer.path
