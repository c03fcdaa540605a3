"""Two records compared: what was added, removed and changed from A to B. Pure; it knows no torch."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from unetinspect.compare.align import alike
from unetinspect.compare.modules import Modules, compare_layers, pair_stages
from unetinspect.compare.parts import (
    change_of,
    compare_attentions,
    compare_configs,
    compare_inputs,
    compare_ports,
    compare_skips,
    compare_tensors,
    differing,
)
from unetinspect.record import Shape, Stage, Trace
from unetinspect.record.diff import Diff, DiffSide, LayerDiff, NameCounts, Quantity, StageDiff, TotalsDiff

__all__ = ["compare"]

# Not `activation_bytes`, which includes what lives beside a stage, nor what follows from these.
_STAGE_FIELDS = (
    *("name", "role", "class_name", "in_shape", "out_shape"),
    *("resnets", "transformer_blocks", "attention", "params", "macs"),
)
_SIZE_FIELDS = {"in_shape", "out_shape", "macs"}
_TOTALS = ("params", "weight_bytes", "macs", "flops", "peak_activation_bytes", "peak_activation_bytes_with_maps")
_KINDS = ("self", "cross", "joint", "temporal", "pooling", "without_processor", "total")


def compare(a: Trace, b: Trace) -> Diff:
    """Compare two UNets, each as it was observed.

    Stages are paired by their place in the U, layers by their place in the stage, skips and attention layers by the layers that
    they belong to; tensors, config keys, inputs and ports by name.
    """
    stages, paths = _compare_stages(a, b)
    mine, other = _totals(a), _totals(b)
    attention = {kind: _quantity(mine.pop(kind), other.pop(kind)) for kind in _KINDS}
    diff = Diff(
        same=False,
        a=_side(a),
        b=_side(b),
        notes=tuple(_notes(a, b)),
        config=compare_configs(a.model, b.model),
        totals=TotalsDiff(attention=attention, **{name: _quantity(mine[name], other[name]) for name in mine}),
        stages=stages,
        skips=compare_skips(a.skips, b.skips, paths),
        attentions=compare_attentions(a.attentions, b.attentions, paths),
        inputs=compare_inputs(a, b),
        tensors=compare_tensors(a, b),
        ports=compare_ports(a, b),
    )
    return replace(diff, same=_is_same(diff))


def _is_same(diff: Diff) -> bool:
    changes = {part.change for parts in (diff.stages, diff.skips, diff.attentions) for part in parts}
    totals = [getattr(diff.totals, name) for name in diff.totals.__struct_fields__ if name != "attention"]
    return (
        diff.a.class_name == diff.b.class_name
        and changes <= {"same"}
        and not (diff.config or diff.inputs)
        and all(count == NameCounts(same=count.same) for count in (diff.tensors.total, *diff.ports.values()))
        and not any(number.difference for number in (*totals, *diff.totals.attention.values()))  # None: one side was not counted
    )


def _compare_stages(a: Trace, b: Trace) -> tuple[tuple[StageDiff, ...], dict[str, str]]:
    """Return the pairs of stages, and for each module in them its path in A with its path in B."""
    paths = {"": ""}
    modules = Modules(a), Modules(b)
    found = []
    for mine, other in pair_stages(a, b):
        layers: tuple[LayerDiff, ...] = ()
        if mine is not None and other is not None:
            layers = compare_layers(*modules, mine.name, other.name, paths)
        found.append(_compare_stage(mine, other, layers, (a.run.sample_size, b.run.sample_size)))
    return tuple(found), paths


def _compare_stage(a: Stage | None, b: Stage | None, layers: tuple[LayerDiff, ...], sizes: tuple[Shape, Shape]) -> StageDiff:
    differs: tuple[str, ...] = ()
    resized = False
    if a is not None and b is not None:
        differs = (*differing(a, b, _STAGE_FIELDS), *(("layers",) if layers else ()))
        shapes = (a.in_shape, b.in_shape), (a.out_shape, b.out_shape)
        resized = {*differs} not in (set(), {"macs"}) and {*differs} <= _SIZE_FIELDS and all(alike(*pair, *sizes) for pair in shapes)
    macs = [0 if stage is None else stage.macs for stage in (a, b)]
    return StageDiff(
        change=change_of(a, b, differs, "name"),
        a=a,
        b=b,
        differs=differs,
        params=(b.params if b else 0) - (a.params if a else 0),
        macs=None if macs[0] is None or macs[1] is None else macs[1] - macs[0],
        layers=layers,
        resized=resized,
    )


def _totals(trace: Trace) -> dict[str, int | None]:
    totals = trace.totals
    return {
        **{name: getattr(totals, name) for name in _TOTALS},
        **{kind: getattr(totals.attention, "self_" if kind == "self" else kind) for kind in _KINDS},
        "transformer_blocks": sum(stage.transformer_blocks for stage in trace.stages),
        "resnets": sum(stage.resnets for stage in trace.stages),
        "skips_produced": totals.skips.produced,
        "skips_consumed": totals.skips.consumed,
    }


def _quantity(a: int | None, b: int | None) -> Quantity:
    """Compare two numbers.

    >>> _quantity(4, 2)
    Quantity(a=4, b=2, difference=-2, ratio=0.5)
    """
    difference = None if a is None or b is None else b - a
    return Quantity(a=a, b=b, difference=difference, ratio=b / a if a and b is not None else None)


def _side(trace: Trace) -> DiffSide:
    model = trace.model
    overrides = {key: model.config[key] for key in model.config_overrides if key in model.config}
    return DiffSide.of(model, trace.run, params=trace.totals.params, overrides=overrides)


def _notes(a: Trace, b: Trace) -> Iterator[str]:
    """Yield differences between the two passes that are not differences of the UNets."""
    if a.run.device != b.run.device:
        yield f"run on different devices: A on {a.run.device}, B on {b.run.device}"
    if a.run.forward_batch == b.run.forward_batch and (a.run.batch, a.run.cfg) != (b.run.batch, b.run.cfg):
        batches = [f"{trace.run.batch}, {'doubled for CFG' if trace.run.cfg else 'without CFG'}" for trace in (a, b)]
        yield f"both run a batch of {a.run.forward_batch}: A {batches[0]}, B {batches[1]}"
    for name in dict.fromkeys((*a.run.versions, *b.run.versions)):
        versions = [trace.run.versions.get(name, "unknown") for trace in (a, b)]
        if versions[0] != versions[1]:
            yield f"traced with different versions of {name}: A with {versions[0]}, B with {versions[1]}"
    for side, trace in (("A", a), ("B", b)):
        if trace.totals.params and not any(module.tensors for module in trace.modules):
            yield f"the record of {side} has no tensors (written by an older version): trace it again to compare weights"
