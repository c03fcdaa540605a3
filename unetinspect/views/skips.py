"""`skips`: which tensor feeds which up block's resnet, and what it does to the channels."""

from __future__ import annotations

from unetinspect.record import Skip, Trace
from unetinspect.units import format_shape
from unetinspect.views.header import header
from unetinspect.views.stages import skip_counts
from unetinspect.views.table import Column, Table


def skips_table(trace: Trace) -> Table:
    """Show each skip in the order in which it is consumed."""
    return Table(
        columns=(
            Column("consumed by", _target, path=True),
            Column("skip, produced by", _sources, path=True),
            Column("skip shape", lambda skip: format_shape(skip.shape), drop=8),
            Column("hidden + skip = concat -> out", skip_sum),
            Column("1x1 shortcut", lambda skip: (skip.shortcut or "-").removeprefix(f"{skip.target}."), drop=10),
        ),
        rows=trace.skips,
        above=header(trace.model, trace.run),
        below=skip_lines(trace),
        group=lambda skip: skip.target_stage,
    )


def skip_sum(skip: Skip) -> str:
    """Write "1280 + 640 = 1920 -> 1280"; where the numbers disagree, what the first convolution takes instead."""
    out = "?" if skip.out_channels is None else skip.out_channels
    text = f"{skip.hidden_channels} + {skip.skip_channels} = {skip.concat_channels} -> {out}"
    return text if skip.adds_up else f"{text} (MISMATCH: its first convolution takes {skip.conv_channels})"


def skip_lines(trace: Trace) -> list[str]:
    """Say whether the counts and the channels agree, and what became of skips that were not consumed."""
    if not trace.skips and not trace.totals.skips.produced:
        return [f"{trace.model.class_name} has no skips here: nothing that a stage made is concatenated later on"]
    wrong = [skip for skip in trace.skips if not skip.adds_up]
    checked = sum(skip.conv_channels is not None for skip in trace.skips)
    lines = [skip_counts(trace)]
    unused = trace.totals.skips.produced - trace.totals.skips.consumed
    if unused:
        lines.append(f"{unused} of the tensors that were produced as skips were never concatenated: no up block reads them")
    if wrong:
        lines.append(f"MISMATCH in {len(wrong)} of {len(trace.skips)}: hidden + skip is not what the first convolution takes")
    elif checked:
        lines.append(f"hidden + skip is what the first convolution takes, in {checked} of {len(trace.skips)}")
    return lines


def _sources(skip: Skip) -> str:
    """Write the source; where the tensor is a sum made in a stage's own body, as a shell would: "down_blocks.0.{a,b}"."""
    if len(skip.sources) == 1:
        return skip.source
    stage = f"{skip.source_stage}."
    if not all(source.startswith(stage) for source in skip.sources):
        return " + ".join(skip.sources)
    return f"{stage}{{{','.join(source.removeprefix(stage) for source in skip.sources)}}}"


def _target(skip: Skip) -> str:
    return f"{skip.target} (call {skip.call})" if skip.call else skip.target
