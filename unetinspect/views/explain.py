"""`skips --explain`: why the up blocks look as they do, in words, with this UNet's own numbers.

Every number is read off the skips that were observed; the classical reason for `layers_per_block + 1` is given only
where it holds for every block.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from unetinspect.record import Skip, Stage, Trace
from unetinspect.units import format_size, plural
from unetinspect.views.header import header
from unetinspect.views.skips import skip_lines, skip_sum


def explain_skips(trace: Trace) -> list[str]:
    """Say what each down block pushes, what each up block pops, why so many, and why with those channels."""
    if not trace.skips:
        return [*header(trace.model, trace.run), "", *skip_lines(trace)]
    paragraphs = [
        header(trace.model, trace.run),
        ["On the way down, what is pushed", *_pushes(trace)],
        ["On the way up, what is popped: the last pushed first", *_pops(trace)],
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
        parts = [f"{_name_in(skip, stage)}{skip.skip_channels} channels at {format_size(skip.shape[2:])}" for skip in skips]
        lines.append(f"  {stage} pushes {len(skips)}: {', '.join(parts)}")
    return lines


def _pops(trace: Trace) -> list[str]:
    lines = []
    for stage, skips in _by_target(trace):
        widths = ", ".join(str(skip.concat_channels) for skip in skips)
        takers = "resnets" if all(".resnets" in skip.target for skip in skips) else "modules"
        lines.append(f"  {stage} pops {len(skips)}: its {takers} take {widths} channels")
        lines += [
            f"    {_inside(skip.target, stage)}{_call(skip)}: {skip_sum(skip)}; the skip is {' + '.join(skip.sources)}" for skip in skips
        ]
    return lines


def _why_so_many(trace: Trace) -> list[str]:
    layers = _layers(trace)
    targets = _by_target(trace)
    if layers is None or not _is_classical(trace, layers, targets):
        return ["Why so many", f"  This UNet does not follow the rule of layers_per_block + 1: {_popped(targets)}."]
    downs = [stage for stage in trace.stages if stage.role == "down"]
    counts = [sum(skip.source_stage == stage.name for skip in trace.skips) for stage in downs]
    first, last = targets[0][1], targets[-1][1]
    same = len(set(layers)) == 1
    rule = f"layers_per_block is {layers[0]}" if same else f"layers_per_block is {layers}"
    number = f" = {layers[0] + 1}" if same else ""
    popped = " + ".join(str(len(skips)) for _, skips in targets)
    return [
        f"Why layers_per_block + 1{number} resnets in every up block",
        (
            f"  {rule}. {_maker_words(trace, downs)} conv_in pushes one before all of them: "
            f"1 + {' + '.join(map(str, counts))} = {1 + sum(counts)} skips."
        ),
        (
            f"  Each up block pops what the down block at its level pushed behind its resnets ({targets[0][0]}: "
            f"{plural(layers[-1], 'tensor')} of {first[0].source_stage}), and one more: the tensor that this level began with, pushed by "
            f"the downsampler one level further out ({first[-1].source}), or, at the last level, by {last[-1].source}."
        ),
        f"  {popped} = {len(trace.skips)}: every skip is used up, and each needs a resnet of its own to be concatenated in.",
    ]


def _maker_words(trace: Trace, downs: Sequence[Stage]) -> str:
    without = [
        stage.name for stage in downs if not any(".downsamplers." in skip.source for skip in trace.skips if skip.source_stage == stage.name)
    ]
    exceptions = f", except {', '.join(without)}, which has none" if without else ""
    return f"A down block pushes one tensor behind each of its resnets, and one behind its downsampler{exceptions}."


def _why_those_channels(trace: Trace) -> list[str]:
    lines = [
        "Why those channels",
        "  A resnet takes hidden + skip: the hidden states as the module before it left them, and the skip as it was pushed.",
    ]
    for why, stages in groupby(_by_target(trace), key=lambda target: _why(target[1])):
        names = [stage for stage, _ in stages]
        lines.append(f"  {names[0]}{f' to {names[-1]}' if len(names) > 1 else ''}: {why}.")
    return lines


def _why(skips: Sequence[Skip]) -> str:
    if len({(skip.hidden_channels, skip.skip_channels) for skip in skips}) == 1:
        return _steady(skips)
    return "; ".join(_reason(skip, before) for skip, before in zip(skips, [None, *skips], strict=False))


def _popped(targets: Sequence[tuple[str, list[Skip]]]) -> str:
    """Say how many skips each up block pops, in one number where it is the same for all."""
    counts = {len(skips) for _, skips in targets}
    if len(counts) == 1:
        return f"{plural(len(targets), 'stage')} on its way up pop {counts.pop()} each"
    return f"its up blocks pop {', '.join(f'{stage} {len(skips)}' for stage, skips in targets)}"


def _steady(skips: Sequence[Skip]) -> str:
    hidden, pushed = skips[0].hidden_channels, skips[0].skip_channels
    times = " each time" if len(skips) > 1 else ""
    why = "hidden states and skips keep one width there" if hidden == pushed else "neither width changes there"
    return f"{hidden} + {pushed} = {hidden + pushed}{times}: {why}"


def _reason(skip: Skip, before: Skip | None) -> str:
    name = _inside(skip.target, skip.target_stage)
    text = f"{name} {skip.hidden_channels} + {skip.skip_channels} = {skip.concat_channels}"
    if before is None:
        return f"{text} (hidden states of the block before, skip of {skip.source_stage})"
    changed = []
    if skip.hidden_channels != before.hidden_channels:
        changed.append(f"the resnet before has brought the hidden states to {skip.hidden_channels}")
    if skip.skip_channels != before.skip_channels:
        changed.append(f"{skip.source} was pushed with {skip.skip_channels}")
    return f"{text} ({'; '.join(changed)})" if changed else text


def _by_target(trace: Trace) -> list[tuple[str, list[Skip]]]:
    return [(stage, list(group)) for stage, group in groupby(trace.skips, key=lambda skip: skip.target_stage)]


def _layers(trace: Trace) -> list[int] | None:
    """Return layers_per_block for each down block, None where the config has no such key."""
    value = trace.model.config.get("layers_per_block")
    downs = sum(stage.role == "down" for stage in trace.stages)
    if isinstance(value, int):
        return [value] * downs
    return list(value) if isinstance(value, list) and len(value) == downs else None


def _is_classical(trace: Trace, layers: list[int], targets: list[tuple[str, list[Skip]]]) -> bool:
    """Tell whether every up block pops its level's tensors and one more, and all that were produced are used."""
    made = trace.totals.skips
    if len(targets) != len(layers) or made.produced != made.consumed or trace.skips[-1].source != "conv_in":
        return False
    return all(
        len(skips) == count + 1 and len({skip.source_stage for skip in skips[:-1]}) == 1 and skips[-1].source_stage != skips[0].source_stage
        for (_, skips), count in zip(targets, reversed(layers), strict=True)
    )


def _name_in(skip: Skip, stage: str) -> str:
    return "" if skip.source == stage else f"{_inside(skip.source, stage)} "


def _inside(path: str, stage: str) -> str:
    """Return a module's name inside its stage; one that is a mere number there keeps its whole path."""
    name = path.removeprefix(f"{stage}.")
    return path if name.isdigit() else name


def _call(skip: Skip) -> str:
    return f" (call {skip.call})" if skip.call else ""
