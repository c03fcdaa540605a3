"""The totals of two UNets, and what differs between two passes without being a difference of the UNets."""

from __future__ import annotations

from collections.abc import Iterator

from unetinspect.record import AttentionCounts, Trace
from unetinspect.record.diff import DiffSide, Quantity, TotalsDiff

_KINDS = ("self", "cross", "joint", "temporal", "pooling", "without_processor", "total")


def quantity(a: int | None, b: int | None) -> Quantity:
    """Hold two numbers against each other.

    >>> quantity(4, 2)
    Quantity(a=4, b=2, difference=-2, ratio=0.5)
    """
    difference = None if a is None or b is None else b - a
    return Quantity(a=a, b=b, difference=difference, ratio=b / a if a and b is not None else None)


def compare_totals(a: Trace, b: Trace) -> TotalsDiff:
    """Hold the totals against each other."""
    mine, other = a.totals, b.totals
    costs = ("params", "weight_bytes", "macs", "flops", "peak_activation_bytes", "peak_activation_bytes_with_maps")
    return TotalsDiff(
        **{name: quantity(getattr(mine, name), getattr(other, name)) for name in costs},
        attention={kind: quantity(_layers(mine.attention, kind), _layers(other.attention, kind)) for kind in _KINDS},
        transformer_blocks=quantity(*(sum(stage.transformer_blocks for stage in trace.stages) for trace in (a, b))),
        resnets=quantity(*(sum(stage.resnets for stage in trace.stages) for trace in (a, b))),
        skips_produced=quantity(mine.skips.produced, other.skips.produced),
        skips_consumed=quantity(mine.skips.consumed, other.skips.consumed),
    )


def differ(totals: TotalsDiff) -> bool:
    """Whether any number differs that both sides have."""
    numbers = (getattr(totals, name) for name in totals.__struct_fields__)
    found = (inner for number in numbers for inner in (number.values() if isinstance(number, dict) else (number,)))
    return any(number.difference for number in found)


def diff_side(trace: Trace) -> DiffSide:
    """Say which UNet a side is, and how it was run."""
    model = trace.model
    overrides = {key: model.config[key] for key in model.config_overrides if key in model.config}
    return DiffSide.of(model, trace.run, params=trace.totals.params, overrides=overrides)


def notes(a: Trace, b: Trace) -> Iterator[str]:
    """Yield what a reader should know of how the two were run; none of it is a difference by itself."""
    if a.run.device != b.run.device:
        yield f"run on different devices: A on {a.run.device}, B on {b.run.device}"
    if a.run.forward_batch == b.run.forward_batch and (a.run.batch, a.run.cfg) != (b.run.batch, b.run.cfg):
        yield f"both run a batch of {a.run.forward_batch}: A {_batch(a)}, B {_batch(b)}"
    for name in dict.fromkeys((*a.run.versions, *b.run.versions)):
        versions = [trace.run.versions.get(name, "unknown") for trace in (a, b)]
        if versions[0] != versions[1]:
            yield f"traced with different versions of {name}: A with {versions[0]}, B with {versions[1]}"
    for side, trace in (("A", a), ("B", b)):
        if trace.totals.params and not any(module.tensors for module in trace.modules):
            yield f"the record of {side} names no tensors, as an older version wrote it: trace it again to compare weights"


def _layers(counts: AttentionCounts, kind: str) -> int:
    return int(getattr(counts, "self_" if kind == "self" else kind))


def _batch(trace: Trace) -> str:
    return f"{trace.run.batch}, doubled for CFG" if trace.run.cfg else f"{trace.run.batch}, without CFG"
