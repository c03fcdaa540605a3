"""`trace`: the UNet stage by stage, its totals, and what the pass costs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from msgspec import to_builtins

from unetinspect.record import AttentionCounts, Run, Stage, Totals, Trace
from unetinspect.units import format_bytes, format_count, format_shape, format_si, plural
from unetinspect.views.attention import all_layers, attention_lines, counts_by_kind
from unetinspect.views.header import header
from unetinspect.views.table import Column, Table, flatten


def stages_table(trace: Trace) -> Table:
    """Show each stage with its shapes, resnets, attention layers, parameters and costs; totals below."""
    return Table(
        columns=(
            Column("stage", lambda stage: stage.name, path=True),
            Column("class", lambda stage: stage.class_name, drop=9),
            Column("in", lambda stage: format_shape(stage.in_shape)),
            Column("out", lambda stage: format_shape(stage.out_shape)),
            Column.number("resnets", lambda stage: stage.resnets, drop=1),
            Column.number("transformer blocks", lambda stage: stage.transformer_blocks, drop=8),
            Column("kinds", lambda stage: _kinds(stage.attention), drop=7),
            Column.number("attn", lambda stage: all_layers(stage.attention)),
            Column.number("params", lambda stage: stage.params, format_count, drop=2),
            Column.number("MACs", lambda stage: stage.macs, format_si, drop=5),
            Column.number("peak", lambda stage: stage.activation_bytes, format_bytes, drop=6),
        ),
        rows=trace.stages,
        above=header(trace.model, trace.run),
        below=[*_parameter_lines(trace), skip_counts(trace), *attention_lines(trace), *cost_lines(trace)],
        name="name",
        computed={
            name: partial(_same, value)
            for name, value in flatten(to_builtins(trace.totals), "totals.")
            if value is not None and not isinstance(value, list | tuple)
        },
    )


def _same(value: Any, _: Stage) -> Any:
    """Return a total, which is the same in the row of each stage."""
    return value


def _kinds(counts: AttentionCounts) -> str:
    beside = [("pooling", counts.pooling), ("without processor", counts.without_processor)]
    return " + ".join(f"{count} {kind}" for kind, count in (*counts_by_kind(counts), *beside) if count)


def _parameter_lines(trace: Trace) -> Iterator[str]:
    totals = trace.totals
    sizes = totals.weight_bytes_by_dtype or {trace.run.dtype: totals.weight_bytes}
    weights = " + ".join(f"{format_bytes(size)} in {dtype}" for dtype, size in sizes.items())
    yield f"total: {format_count(totals.params)} params ({totals.params:,}; {weights})"
    outside = totals.params - sum(stage.params for stage in trace.stages)
    if outside > 0:  # so that the column adds up to the total
        yield f"{format_count(outside)} params are outside these stages or did not run"


def skip_counts(trace: Trace) -> str:
    """Write how many skips were produced and how many of them were consumed."""
    made, used = trace.totals.skips.produced, trace.totals.skips.consumed
    return f"{plural(made, 'skip')} produced, {used} consumed" if made or used else "no skips"


def cost_lines(trace: Trace) -> list[str]:
    """Write the multiply-accumulates, the operations left out of them, and the peak of the activations; nothing for old records."""
    totals = trace.totals
    lines = list(_mac_lines(totals, trace.run.forward_batch))
    if totals.uncounted:
        operations = ", ".join(f"{operation.calls} {operation.op.removeprefix('aten.')}" for operation in totals.uncounted)
        lines.append(f"        not counted (no FLOP formula): {operations}")
    fused, materialized = totals.peak_activation_bytes, totals.peak_activation_bytes_with_maps
    if fused is not None:
        lines.append(f"peak:   {format_bytes(fused)} of activations, in {totals.peak_activation_in or 'the UNet itself'}")
        if materialized is not None and materialized > fused:
            module = totals.peak_activation_in_with_maps or "the UNet itself"
            lines.append(f"        {format_bytes(materialized)} with materialized attention maps, in {module}")
        lines += _memory_lines(totals)
    return [*lines, *(f"        {line}" for line in attached_lines(trace.run) if lines)]


def _memory_lines(totals: Totals) -> Iterator[str]:
    """Yield the memory of the forward pass and of a training step, each with its parts."""
    if totals.inference_bytes is None:
        return
    weights = f"weights {format_bytes(totals.weight_bytes)}"
    yield f"memory: inference {format_bytes(totals.inference_bytes)} = {weights} + activations {format_bytes(totals.peak_activation_bytes)}"
    if (step := totals.training) is None:
        return
    activations, backward = format_bytes(step.peak_activation_bytes), format_bytes(step.peak_activation_bytes - step.kept_bytes)
    freed = step.step_bytes > step.peak_activation_bytes
    yield (
        f"        training {format_bytes(step.total_bytes)} = {weights} + gradients {format_bytes(step.gradient_bytes)}"
        f" + optimizer state ({step.optimizer}) {format_bytes(step.optimizer_bytes)}"
        f" + {f'optimizer step {format_bytes(step.step_bytes)}' if freed else f'activations {activations}'}"
    )
    checkpointed = " with gradient checkpointing" if step.gradient_checkpointing else ""
    yield (
        f"        activations{checkpointed} {activations} = saved for backward {format_bytes(step.kept_bytes)} + backward pass {backward}"
        f"{'; freed before the optimizer step' if freed else ''}"
    )


def attached_lines(run: Run) -> Iterator[str]:
    """Yield that the costs do not include an attached model."""
    if run.plugged is not None:
        yield f"of the UNet alone, without {run.plugged}"


def _mac_lines(totals: Totals, batch: int) -> Iterator[str]:
    """Yield the total with its parts, and the number that most papers give: of one sample, without attention products."""
    if totals.macs is None or totals.macs_by_kind is None:
        return
    kinds = totals.macs_by_kind
    parts = [("conv", kinds.conv), ("linear", kinds.linear), ("attention products", kinds.attention)]
    split = " + ".join(f"{format_si(macs)} {name}" for name, macs in parts if macs)
    of_batch = f" for the batch of {batch}" if batch > 1 else ""
    whole = f"{format_si(totals.macs, 'MACs')}{of_batch} ({format_si(totals.flops, 'FLOPs')})"
    yield f"MACs:   {whole}: {split}" if split else f"MACs:   {whole}"
    usual = []
    if batch > 1 and totals.macs:
        usual.append(f"{format_si(totals.macs / batch, 'MACs')} per sample")
    if kinds.attention:
        without = (totals.macs - kinds.attention) / batch
        usual.append(f"{format_si(without, 'MACs')} without attention products, as in most papers and counters")
    if usual:
        yield f"        {'; '.join(usual)}"
