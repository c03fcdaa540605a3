"""Two records held against each other: what was added, removed and changed from A to B. Pure; it knows no torch."""

from __future__ import annotations

from unetinspect.compare.align import alike
from unetinspect.compare.layers import Modules, compare_layers
from unetinspect.compare.names import compare_configs, compare_inputs, compare_ports, compare_tensors
from unetinspect.compare.parts import change_of, compare_attentions, compare_skips, differing
from unetinspect.compare.stages import stage_pairs
from unetinspect.compare.totals import compare_totals, diff_side, differ, notes
from unetinspect.record import Shape, Stage, Trace
from unetinspect.record.diff import Diff, LayerDiff, NameCounts, StageDiff

__all__ = ["compare"]

# Not `activation_bytes`, which tells what lives beside a stage as well, nor what follows from these.
_STAGE_FIELDS = (
    *("name", "role", "class_name", "in_shape", "out_shape"),
    *("resnets", "transformer_blocks", "attention", "params", "macs"),
)
_SIZE_FIELDS = {"in_shape", "out_shape", "macs"}


def compare(a: Trace, b: Trace) -> Diff:
    """Compare two UNets, each as it was observed.

    Stages are paired by where they stand in the U, layers by where they stand in their stage, skips and attention layers
    through the layers that they belong to; tensors, config keys, inputs and ports by name.
    """
    stages, paths = _stages(a, b)
    found = {
        "config": compare_configs(a.model, b.model),
        "totals": compare_totals(a, b),
        "stages": stages,
        "skips": compare_skips(a.skips, b.skips, paths),
        "attentions": compare_attentions(a.attentions, b.attentions, paths),
        "inputs": compare_inputs(a, b),
        "tensors": compare_tensors(a, b),
        "ports": compare_ports(a, b),
    }
    diff = Diff(same=False, a=diff_side(a), b=diff_side(b), notes=tuple(notes(a, b)), **found)  # type: ignore[arg-type]
    return diff if _differ(diff) else Diff(same=True, a=diff.a, b=diff.b, notes=diff.notes, **found)  # type: ignore[arg-type]


def _stages(a: Trace, b: Trace) -> tuple[tuple[StageDiff, ...], dict[str, str]]:
    """Return the pairs of stages, and of all modules in them: each path in A with its path in B."""
    paths = {"": ""}
    modules = Modules.of(a), Modules.of(b)
    found = []
    for mine, other in stage_pairs(a, b):
        layers: tuple[LayerDiff, ...] = ()
        if mine is not None and other is not None:
            layers = compare_layers(*modules, mine.name, other.name, paths)
        found.append(_stage(mine, other, layers, (a.run.sample_size, b.run.sample_size)))
    return tuple(found), paths


def _stage(a: Stage | None, b: Stage | None, layers: tuple[LayerDiff, ...], sizes: tuple[Shape, Shape]) -> StageDiff:
    differs: tuple[str, ...] = ()
    if a is not None and b is not None:
        differs = (*differing(a, b, _STAGE_FIELDS), *(("layers",) if layers else ()))
    macs = [0 if stage is None else stage.macs for stage in (a, b)]
    return StageDiff(
        change=change_of(a, b, differs, "name"),
        a=a,
        b=b,
        differs=differs,
        params=(b.params if b else 0) - (a.params if a else 0),
        macs=None if macs[0] is None or macs[1] is None else macs[1] - macs[0],
        layers=layers,
        resized=a is not None and b is not None and _resized(a, b, differs, sizes),
    )


def _resized(a: Stage, b: Stage, differs: tuple[str, ...], sizes: tuple[Shape, Shape]) -> bool:
    shapes = ((a.in_shape, b.in_shape), (a.out_shape, b.out_shape))
    return {*differs} - {"macs"} != set() and {*differs} <= _SIZE_FIELDS and all(alike(*pair, *sizes) for pair in shapes)


def _differ(diff: Diff) -> bool:
    changes = [part.change for parts in (diff.stages, diff.skips, diff.attentions) for part in parts]
    counts = [diff.tensors.total, *diff.ports.values()]
    return (
        diff.a.class_name != diff.b.class_name
        or any(change != "same" for change in changes)
        or bool(diff.config or diff.inputs)
        or any(count != NameCounts(same=count.same) for count in counts)
        or differ(diff.totals)
    )
