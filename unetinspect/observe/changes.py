"""What happened to a tensor between the module that made it and where it was used: sums, filters, other shapes.

Read off the operations that `Provenance` saw since the tensor's nearest sources.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from unetinspect.observe.calls import ModuleCall
from unetinspect.observe.provenance import Origin, Step
from unetinspect.record import ChangeKind, Shape, SkipChange

_KINDS: dict[ChangeKind, frozenset[str]] = {
    "sum": frozenset({"add", "add_", "sub", "sub_"}),
    "reshape": frozenset(
        {"view", "_unsafe_view", "reshape", "permute", "transpose", "unsqueeze", "squeeze", "expand", "t", "flatten", "repeat"}
    ),
    "slice": frozenset({"slice", "select", "narrow", "split", "split_with_sizes", "chunk", "unbind"}),
    "cast": frozenset({"_to_copy"}),
}
# They hand on what they are given, in another place of memory.
_COPIES = frozenset({"clone", "alias", "detach", "contiguous", "lift_fresh"})


def changes_since_source(origin: Origin) -> tuple[SkipChange, ...]:
    """List what was done to a tensor since its nearest sources, in that order; nothing for what a module returned."""
    main = list(_main_line(origin))
    changes: list[SkipChange] = []
    for is_filter, group in groupby(_split_at_sums(main), key=_is_filter):
        for part in group:
            changes += [_filter(part)] if is_filter else _changes(part)
    return tuple(changes)


def _main_line(origin: Origin) -> Iterator[Step]:
    """Yield the operations along which the tensor itself was handed on, the first one first."""
    steps = []
    step = origin.step
    while step is not None:
        steps.append(step)
        step = step.parents[0].step if step.parents else None
    yield from reversed(steps)


def _split_at_sums(steps: list[Step]) -> list[list[Step]]:
    """Part the operations into runs: each sum alone, and what lies between two sums together."""
    return [list(run) for is_sum, group in groupby(steps, key=_is_sum) for run in ([[step] for step in group] if is_sum else [list(group)])]


def _is_sum(step: Step) -> bool:
    return step.op in _KINDS["sum"] and len(step.parents) > 1


def _is_filter(steps: list[Step]) -> bool:
    return any("fft" in step.op for step in steps)


def _filter(steps: list[Step]) -> SkipChange:
    return SkipChange(kind="filter", shape=steps[-1].shape, ops=tuple(step.op for step in steps))


def _changes(steps: list[Step]) -> Iterator[SkipChange]:
    for kind, group in groupby((step for step in steps if step.op not in _COPIES), key=_kind):
        part = list(group)
        if kind == "reshape" and part[-1].shape == _shape_before(part[0]):
            continue
        added = tuple(name for step in part for parent in step.parents[1:] for name in _names(parent)) if kind == "sum" else ()
        yield SkipChange(kind=kind, with_=added, shape=part[-1].shape, ops=tuple(step.op for step in part))


def _kind(step: Step) -> ChangeKind:
    if _is_sum(step):
        return "sum"
    found: list[ChangeKind] = [kind for kind, ops in _KINDS.items() if step.op in ops and kind != "sum"]
    return found[0] if found else "other"


def _shape_before(step: Step) -> Shape | None:
    parent = step.parents[0] if step.parents else None
    if parent is None:
        return None
    return parent.step.shape if parent.step is not None else parent.returned.out_shape if parent.returned is not None else None


def _names(origin: Origin) -> list[str]:
    return sorted(source.path if isinstance(source, ModuleCall) else source for source in origin.sources)
