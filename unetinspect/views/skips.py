"""`skips`: which tensor feeds which up block's resnet, and what it does to the channels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from unetinspect.record import Skip, SkipChange, Trace
from unetinspect.units import format_shape, plural
from unetinspect.views.header import header
from unetinspect.views.stages import skip_counts
from unetinspect.views.table import Column, Table

_CHANGES = {"filter": "filtered in the Fourier domain", "cast": "cast to another dtype"}


def skips_table(trace: Trace) -> Table:
    """Show each skip in the order in which it is consumed; what happened to it on the way, where something did."""
    changed = [Column("on its way", lambda skip: way_text(skip) or "-", wrap=24, drop=7)] if any(map(way_text, trace.skips)) else []
    return Table(
        columns=(
            Column("consumed by", _target, path=True),
            Column("skip, produced by", _sources, path=True),
            Column("skip shape", lambda skip: format_shape(skip.shape), drop=8),
            *changed,
            Column("hidden + skip = concat -> out", skip_sum),
            Column("1x1 shortcut", lambda skip: (skip.shortcut or "-").removeprefix(f"{skip.target}."), drop=10),
        ),
        rows=trace.skips,
        above=header(trace.model, trace.run),
        below=skip_lines(trace),
        group=lambda skip: skip.target_stage,
    )


def way_text(skip: Skip) -> str:
    """Write what happened to a skip between the module that produced it and the concatenation: "filtered", "+ NAME"."""
    return "; ".join(text for change in skip.changes if (text := _change_text(change, skip)))


def _change_text(change: SkipChange, skip: Skip) -> str:
    if change.kind == "sum":
        added = [name for name in change.with_ if name not in skip.sources]  # the sources are named already
        return f"+ {' + '.join(added)}" if added else ""
    if change.kind == "reshape":
        return f"reshaped to {format_shape(change.shape)}"
    if change.kind == "slice":
        return f"a part of it, {format_shape(change.shape)}"
    return _CHANGES.get(change.kind) or ", ".join(change.ops)


def skip_sum(skip: Skip) -> str:
    """Write "1280 + 640 = 1920 -> 1280"; where the numbers disagree, what the first convolution takes instead."""
    out = "?" if skip.out_channels is None else skip.out_channels
    text = f"{skip.hidden_channels} + {skip.skip_channels} = {skip.concat_channels} -> {out}"
    return text if skip.adds_up else f"{text} (MISMATCH: its first convolution takes {skip.conv_channels})"


def skip_lines(trace: Trace) -> list[str]:
    """Say whether the counts and the channels agree, what happened on the way, and what became of skips that nothing consumed."""
    if not trace.skips:
        return [f"{trace.model.class_name} has no skips: nothing that one stage made is concatenated in another", *_residuals(trace)]
    wrong = [skip for skip in trace.skips if not skip.adds_up]
    checked = sum(skip.conv_channels is not None for skip in trace.skips)
    lines = [skip_counts(trace), *_reads(trace), *_unused(trace), *_way_lines(trace)]
    if any(skip.concat_in == "" for skip in trace.skips):
        lines.append(f"concatenated outside any block, in {trace.model.class_name}'s own forward")
    if wrong:
        lines.append(f"MISMATCH in {len(wrong)} of {len(trace.skips)}: hidden + skip is not what the first convolution takes")
    elif checked:
        lines.append(f"hidden + skip is what the first convolution takes, in {checked} of {len(trace.skips)}")
    return lines


def _residuals(trace: Trace) -> Iterator[str]:
    """Say what a ControlNet or T2I-Adapter, which has no way up, returns in place of one tensor."""
    if len(trace.outputs) > 1:
        yield f"what it makes on its way down leaves it, to be added to a UNet's: {returned_text(trace)}"


def returned_text(trace: Trace) -> str:
    """Write the tensors of a UNet that returns several: "12 down_block_res_samples + 1 mid_block_res_sample"."""
    counts = Counter(output.name.partition(".")[0] for output in trace.outputs)
    named = [f"{count} {name}" if not name.isdigit() else "" for name, count in counts.items()]
    return " + ".join(filter(None, named)) or plural(len(trace.outputs), "feature")


def _reads(trace: Trace) -> Iterator[str]:
    again = len(trace.skips) - trace.totals.skips.consumed
    if again > 0:
        yield f"read {len(trace.skips)} times: a block that runs several times concatenates the same skip each time"


def _unused(trace: Trace) -> Iterator[str]:
    unused = trace.totals.skips.produced - trace.totals.skips.consumed
    if unused > 0:
        yield f"{unused} of the tensors that were produced as skips were never concatenated: no up block reads them"


def _way_lines(trace: Trace) -> Iterator[str]:
    """Sum up what happened on the way, so that it is said where the column has no room."""
    stages: dict[str, list[str]] = {}
    for skip in trace.skips:
        for change in skip.changes:
            text = _change_text(change, skip)
            if text:
                what = re.sub(r"\.\d+$", "", text) if change.kind == "sum" else _CHANGES.get(change.kind, text)
                stages.setdefault(what, []).append(skip.target_stage)
    for what, found in stages.items():
        yield f"on their way, {len(found)} of {len(trace.skips)}: {what} (those of {', '.join(dict.fromkeys(found))})"


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
