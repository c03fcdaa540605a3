"""`skips`: which tensor each resnet of the up blocks consumes, and how the channels change; the explanation in words.

Every number in the explanation is observed; the usual reason for `layers_per_block + 1` is given only if it applies to every block.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby

from unetinspect.record import Skip, Trace
from unetinspect.record.selection import no_skip_matches
from unetinspect.units import format_shape, format_size, plural
from unetinspect.views.header import header
from unetinspect.views.stages import skip_counts
from unetinspect.views.table import Column, Table, fields_of
from unetinspect.views.words import CHANGES, freeu_factor, freeu_place, inside, skip_changes, skip_sum, skip_way, with_call


def skips_table(trace: Trace, skips: Sequence[Skip] | None = None) -> Table:
    """Show skips, all or a selection, in the order in which they are consumed, with their changes on the way where there are any."""
    skips = trace.skips if skips is None else skips
    written = {"changes": lambda skip: skip_way(skip, trace.run) or "-"}
    changed = (
        [Column("changes", written["changes"], wrap=24, drop=7)] if any(text for skip in skips for _, text in skip_changes(skip)) else []
    )
    selected = [f"{len(skips)} of {len(trace.skips)} shown"] if len(skips) < len(trace.skips) else []
    if selected and not skips:
        selected.append(no_skip_matches(trace.skips))
    return Table(
        columns=(
            Column("consumed by", lambda skip: with_call(skip.target, skip.call), path=True),
            Column("produced by", _sources, path=True, page=lambda skip: " + ".join(skip.sources)),
            Column("index", lambda skip: str(skip.index), right=True, drop=5, value=lambda skip: skip.index),
            Column("shape", lambda skip: format_shape(skip.shape), drop=8),
            *changed,
            Column("hidden + skip = concat -> out", skip_sum, value=lambda skip: skip.concat_channels),
            Column("1x1 shortcut", lambda skip: (skip.shortcut or "-").removeprefix(f"{skip.target}."), path=True, drop=10),
        ),
        rows=skips,
        above=header(trace.model, trace.run),
        below=[*selected, *skip_lines(trace)],
        group=lambda skip: skip.target_stage,
        fields=fields_of(Skip),
        name="target",
        computed=written,
    )


def skip_lines(trace: Trace) -> list[str]:
    """Write whether counts and channels agree, and how skips are changed on the way; or that there are none."""
    if not trace.skips:
        lines = [f"{trace.model.class_name} has no skips: no stage concatenates the output of another"]
        if len(trace.outputs) > 1:  # a ControlNet or T2I-Adapter has no up blocks
            lines.append(f"its outputs are added to a UNet's: {returned_text(trace)}")
        return lines
    wrong = [skip for skip in trace.skips if not skip.adds_up]
    checked = sum(skip.conv_channels is not None for skip in trace.skips)
    counts = trace.totals.skips
    lines = [skip_counts(trace)]
    if len(trace.skips) > counts.consumed:
        lines.append(f"concatenated {len(trace.skips)} times: a block that runs several times uses the same skip each time")
    if counts.produced > counts.consumed:
        lines.append(f"{plural(counts.produced - counts.consumed, 'skip')} never concatenated: no up block reads them")
    lines += _way_lines(trace)
    if any(skip.concat_in == "" for skip in trace.skips):
        lines.append(f"concatenated outside any block, in {trace.model.class_name}'s own forward")
    if wrong:
        lines.append(f"MISMATCH in {len(wrong)} of {len(trace.skips)}: hidden + skip differs from the first convolution's input channels")
    elif checked:
        lines.append(f"hidden + skip matches the first convolution's input channels ({checked} of {len(trace.skips)})")
    return lines


def returned_text(trace: Trace) -> str:
    """Write the tensors of a UNet that returns several: "12 down_block_res_samples + 1 mid_block_res_sample"."""
    counts = Counter(output.name.partition(".")[0] for output in trace.outputs)
    named = [f"{count} {name}" if not name.isdigit() else "" for name, count in counts.items()]
    return " + ".join(filter(None, named)) or plural(len(trace.outputs), "feature")


def _way_lines(trace: Trace) -> Iterator[str]:
    """Summarize the changes: a narrow table has no column for them."""
    stages: dict[str, list[str]] = {}
    for skip in trace.skips:
        for change, text in skip_changes(skip):
            what = re.sub(r"\.\d+$", "", text) if change.kind == "sum" else CHANGES.get(change.kind, text)
            stages.setdefault(what + freeu_factor(skip, change, trace.run), []).append(skip.target_stage)
    for what, found in stages.items():
        yield f"changed on the way, {len(found)} of {len(trace.skips)}: {what} ({', '.join(dict.fromkeys(found))})"
    if trace.run.freeu is not None:
        filtered = dict.fromkeys(skip.target_stage for skip in trace.skips for change in skip.changes if change.kind == "filter")
        factors = [f"b{place + 1} {trace.run.freeu[place]:g} ({stage})" for stage in filtered if (place := freeu_place(stage)) is not None]
        if factors:
            yield f"FreeU scales half of the hidden channels: {', '.join(factors)}"


def _sources(skip: Skip) -> str:
    """Write the source; a sum within one stage with braces: "down_blocks.0.{a,b}"."""
    if len(skip.sources) == 1:
        return skip.source
    stage = f"{skip.source_stage}."
    if not all(source.startswith(stage) for source in skip.sources):
        return " + ".join(skip.sources)
    return f"{stage}{{{','.join(source.removeprefix(stage) for source in skip.sources)}}}"


def explain_skips(trace: Trace) -> list[str]:
    """Explain which skips each down block pushes, which each up block pops, why so many, and why with those channels."""
    if not trace.skips:
        return [*header(trace.model, trace.run), "", *skip_lines(trace)]
    paragraphs = [
        header(trace.model, trace.run),
        ["Pushed on the way down", *_pushes(trace)],
        ["Popped on the way up, last pushed first", *_pops(trace)],
        _why_so_many(trace),
        _why_those_channels(trace),
        skip_lines(trace),
    ]
    return [line for paragraph in paragraphs for line in (*paragraph, "")][:-1]


def _pushes(trace: Trace) -> list[str]:
    pushed = {skip.index: skip for skip in trace.skips}  # a skip that is read twice is pushed once
    in_order = [pushed[index] for index in sorted(pushed)]
    lines = []
    for stage, group in groupby(in_order, key=lambda skip: skip.source_stage):
        skips = list(group)
        names = ["" if skip.source == stage else f"{inside(skip.source, stage)} " for skip in skips]
        parts = [f"{name}{skip.skip_channels} channels at {format_size(skip.shape[2:])}" for name, skip in zip(names, skips, strict=True)]
        lines.append(f"  {stage} pushes {len(skips)}: {', '.join(parts)}")
    return lines


def _pops(trace: Trace) -> list[str]:
    lines = []
    for stage, skips in _by_target(trace):
        widths = ", ".join(str(skip.concat_channels) for skip in skips)
        takers = "resnets" if all(".resnets" in skip.target for skip in skips) else "modules"
        lines.append(f"  {stage} pops {len(skips)}: its {takers} take {widths} channels")
        lines += [
            f"    {with_call(inside(skip.target, stage), skip.call)}: {skip_sum(skip)}; the skip is {' + '.join(skip.sources)}"
            for skip in skips
        ]
    return lines


def _why_so_many(trace: Trace) -> list[str]:
    targets = _by_target(trace)
    layers = _layers_per_block(trace, targets)
    if not layers:
        counts = {len(skips) for _, skips in targets}
        each = ", ".join(f"{stage} {len(skips)}" for stage, skips in targets)
        pops = f"each of its up blocks pops {counts.pop()}" if len(counts) == 1 else f"its up blocks pop {each}"
        return ["Why so many", f"  This UNet does not follow the rule of layers_per_block + 1: {pops}."]
    downs = [stage for stage in trace.stages if stage.role == "down"]
    pushed = [sum(skip.source_stage == stage.name for skip in trace.skips) for stage in downs]
    samplers = {skip.source_stage for skip in trace.skips if ".downsamplers." in skip.source}
    without = [stage.name for stage in downs if stage.name not in samplers]
    exception = f" ({', '.join(without)} {'has' if len(without) == 1 else 'have'} none)" if without else ""
    first, last = targets[0][1], targets[-1][1]
    same = len(set(layers)) == 1
    rule = f"layers_per_block is {layers[0]}" if same else f"layers_per_block is {layers}"
    number = f" = {layers[0] + 1}" if same else ""
    popped = " + ".join(str(len(skips)) for _, skips in targets)
    return [
        f"Why layers_per_block + 1{number} resnets in every up block",
        (
            f"  {rule}. A down block pushes one tensor after each resnet and one after its downsampler{exception}. "
            f"conv_in pushes one first: 1 + {' + '.join(map(str, pushed))} = {1 + sum(pushed)} skips."
        ),
        (
            f"  Each up block pops the tensors that the resnets at its level pushed ({targets[0][0]}: "
            f"{plural(layers[-1], 'tensor')} of {first[0].source_stage}), and one extra: the tensor that the level started with, pushed by "
            f"the downsampler of the level before ({first[-1].source}), or at the last level by {last[-1].source}."
        ),
        f"  {popped} = {len(trace.skips)}: every skip must be consumed, each by a resnet of its own.",
    ]


def _why_those_channels(trace: Trace) -> list[str]:
    lines = [
        "Why those channels",
        "  The input of a resnet has hidden + skip channels: those of the hidden states before it, and those of the skip.",
    ]
    for why, stages in groupby(_by_target(trace), key=lambda target: _why(target[1])):
        names = [stage for stage, _ in stages]
        lines.append(f"  {names[0]}{f' to {names[-1]}' if len(names) > 1 else ''}: {why}.")
    return lines


def _why(skips: Sequence[Skip]) -> str:
    hidden, pushed = skips[0].hidden_channels, skips[0].skip_channels
    if all((skip.hidden_channels, skip.skip_channels) == (hidden, pushed) for skip in skips):
        times = " each time" if len(skips) > 1 else ""
        why = "hidden states and skips have the same width" if hidden == pushed else "neither width changes"
        return f"{hidden} + {pushed} = {hidden + pushed}{times}: {why}"
    return "; ".join(_reason(skip, before) for skip, before in zip(skips, [None, *skips], strict=False))


def _reason(skip: Skip, before: Skip | None) -> str:
    name = inside(skip.target, skip.target_stage)
    text = f"{name} {skip.hidden_channels} + {skip.skip_channels} = {skip.concat_channels}"
    if before is None:
        return f"{text} (hidden states of the previous block, skip of {skip.source_stage})"
    changed = []
    if skip.hidden_channels != before.hidden_channels:
        changed.append(f"the previous resnet changed the hidden states to {skip.hidden_channels}")
    if skip.skip_channels != before.skip_channels:
        changed.append(f"{skip.source} pushed {skip.skip_channels}")
    return f"{text} ({'; '.join(changed)})" if changed else text


def _by_target(trace: Trace) -> list[tuple[str, list[Skip]]]:
    return [(stage, list(group)) for stage, group in groupby(trace.skips, key=lambda skip: skip.target_stage)]


def _layers_per_block(trace: Trace, targets: list[tuple[str, list[Skip]]]) -> list[int]:
    """Return the number for each down block, where every up block pops its level's tensors and one more; else nothing."""
    value = trace.model.config.get("layers_per_block")
    layers = [value] * sum(stage.role == "down" for stage in trace.stages) if isinstance(value, int) else value
    made = trace.totals.skips
    if not isinstance(layers, list) or made.produced != made.consumed or trace.skips[-1].source != "conv_in":
        return []
    is_classical = [len(skips) for _, skips in targets] == [count + 1 for count in reversed(layers)] and all(
        len({skip.source_stage for skip in skips[:-1]}) == 1 and skips[-1].source_stage != skips[0].source_stage for _, skips in targets
    )
    return layers if is_classical else []
