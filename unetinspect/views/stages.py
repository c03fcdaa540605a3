"""`trace`: the UNet stage by stage, and its totals."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from unetinspect.record import AttentionCounts, Role, Stage, Trace
from unetinspect.units import format_bytes, format_count, format_shape, format_si, plural
from unetinspect.views.costs import cost_lines
from unetinspect.views.header import header
from unetinspect.views.table import Column, Table

_KINDS = ("self", "cross", "joint", "temporal")


def stages_table(trace: Trace) -> Table:
    """Show each stage with its shapes, resnets, attention layers, parameters and costs; totals below."""
    return Table(
        columns=(
            Column("stage", lambda stage: stage.name, path=True),
            Column("class", lambda stage: stage.class_name, drop=9),
            Column("in", lambda stage: format_shape(stage.in_shape)),
            Column("out", lambda stage: format_shape(stage.out_shape)),
            Column("resnets", lambda stage: _blank_zero(stage.resnets), right=True, drop=1),
            Column("transformer blocks", lambda stage: _blank_zero(stage.transformer_blocks), right=True, drop=8),
            Column("kinds", lambda stage: _kinds(stage.attention), drop=7),
            Column("attn", lambda stage: _blank_zero(_all_layers(stage.attention)), right=True),
            Column("params", lambda stage: format_count(stage.params) if stage.params else "", right=True, drop=2),
            Column("MACs", lambda stage: format_si(stage.macs) if stage.macs else "", right=True, drop=5),
            Column("peak", lambda stage: format_bytes(stage.activation_bytes), right=True, drop=6),
        ),
        rows=trace.stages,
        above=header(trace.model, trace.run),
        below=[_totals_line(trace), skip_counts(trace), *attention_lines(trace), *_idle(trace), *cost_lines(trace)],
    )


def attention_lines(trace: Trace) -> list[str]:
    """Say the attention layers in the field's words, and per block of the U."""
    counts = trace.totals.attention
    beside = [f"and {plural(counts.pooling, 'attention pooling')} beside the U, not counted above"] if counts.pooling else []
    if counts.without_processor:
        layers = plural(counts.without_processor, "attention layer")
        word = "more " if counts.total else ""
        beside.append(f"{word}{layers} without an attention processor: unet.attn_processors, and others' counts, leave them out")
    blocks = sum(stage.transformer_blocks for stage in trace.stages)
    kinds = " + ".join(f"{count} {kind}" for kind, count in _by_kind(counts))
    prefix = f"{plural(blocks, 'transformer block')}, " if blocks else ""
    first = [f"{prefix}{plural(counts.total, 'attention layer')}: {kinds}"] if counts.total else []
    if not _all_layers(counts):
        return ["no attention layers", *beside]
    per_block = per_block_text(trace.stages)
    return [*first, *([f"attention layers per block, {per_block}"] if per_block else []), *beside]


def per_block_text(stages: Sequence[Stage]) -> str:
    """Write the attention layers of each block of the U: "down | mid | up: 4, 4, 4, 0 | 2 | 0, 6, 6, 6"; "" without blocks."""
    blocks: list[tuple[Role, int]] = [
        (stage.role, _all_layers(stage.attention)) for stage in stages if _is_block(stage) and stage.role in ("down", "mid", "up")
    ]
    groups = [(role, [str(count) for _, count in group]) for role, group in groupby(blocks, key=lambda block: block[0])]
    roles, counts = " | ".join(role for role, _ in groups), " | ".join(", ".join(counts) for _, counts in groups)
    return f"{roles}: {counts}" if groups else ""


def _totals_line(trace: Trace) -> str:
    totals = trace.totals
    sizes = totals.weight_bytes_by_dtype or {trace.run.dtype: totals.weight_bytes}
    weights = " + ".join(f"{format_bytes(size)} in {dtype}" for dtype, size in sizes.items())
    return f"total: {format_count(totals.params)} params ({totals.params:,}; {weights})"


def skip_counts(trace: Trace) -> str:
    """Say whether every skip that was produced was consumed."""
    made, used = trace.totals.skips.produced, trace.totals.skips.consumed
    if not made and not used:
        return "no skips"
    sign = "=" if made == used else "!="
    return f"{plural(made, 'skip')} produced {sign} {used} consumed"


def _idle(trace: Trace) -> list[str]:
    """Own up to parameters of modules that this pass did not run, so that the column adds up to the total."""
    idle = trace.totals.params - sum(stage.params for stage in trace.stages)
    return [f"{format_count(idle)} params stand outside these stages or were not run"] if idle > 0 else []


def _is_block(stage: Stage) -> bool:
    """Tell a block from what stands between blocks: Stable Cascade's `down_downscalers`, aMUSEd's projections."""
    return "block" in stage.name or bool(_all_layers(stage.attention))


def _all_layers(counts: AttentionCounts) -> int:
    """Count the layers of the U that were seen, with a processor or without."""
    return counts.total + counts.without_processor


def _by_kind(counts: AttentionCounts) -> list[tuple[str, int]]:
    found = [(kind, getattr(counts, "self_" if kind == "self" else kind)) for kind in _KINDS]
    return [(kind, count) for kind, count in found if count]


def _kinds(counts: AttentionCounts) -> str:
    beside = [("pooling", counts.pooling), ("without processor", counts.without_processor)]
    kinds = [*_by_kind(counts), *((kind, count) for kind, count in beside if count)]
    return " + ".join(f"{count} {kind}" for kind, count in kinds)


def _blank_zero(count: int) -> str:
    return str(count) if count else ""
