"""What a pass cost, module by module and stage by stage, from the counts of its operations. Imports torch."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

from msgspec import Struct

from unetinspect.observe import Observation
from unetinspect.observe.calls import ModuleCall
from unetinspect.observe.macs import MacKind
from unetinspect.record import MacsByKind, Uncounted
from unetinspect.stages import StageOf, paths_above


class Cost(Struct, frozen=True, kw_only=True):
    """What a module, or a stage, or the whole cost; the fields are those of the record's sections."""

    macs: int
    macs_by_kind: MacsByKind
    flops: int
    activation_bytes: int


NO_COST = Cost(macs=0, macs_by_kind=MacsByKind(conv=0, linear=0, attention=0), flops=0, activation_bytes=0)


def module_costs(seen: Observation) -> dict[str, Cost]:
    """Return what each module cost in which something ran, its children included, by path; "" is the whole."""
    around: dict[str, frozenset[str]] = {"": frozenset([""])}
    for call in seen.calls:
        if call.path not in around:
            around[call.path] = frozenset([call.path, *paths_above(call.path)])
    return _costs(seen, lambda call: around[call.path])


def stage_costs(seen: Observation, stage_of: StageOf) -> dict[str, Cost]:
    """Return what each stage cost that ran, by name."""
    stages = {call.path: frozenset(filter(None, [stage_of(call.path)])) for call in seen.calls}
    return _costs(seen, lambda call: stages[call.path])


def whole_cost(seen: Observation) -> Cost:
    """Return what the whole pass cost."""
    return _costs(seen, lambda call: frozenset([""]))[""]


def uncounted(seen: Observation) -> tuple[Uncounted, ...]:
    """List the operations that no formula counts, the most frequent first."""
    return tuple(
        Uncounted(op=op, calls=calls) for op, calls in sorted(seen.uncounted.items(), key=lambda item: (-item[1], item[0])) if calls
    )


def _costs(seen: Observation, groups_of: Callable[[ModuleCall], frozenset[str]]) -> dict[str, Cost]:
    macs: dict[str, Counter[MacKind]] = defaultdict(Counter)
    for count in seen.macs:
        for group in groups_of(count.call) if count.call else ():
            macs[group][count.kind] += count.macs
    peaks: Counter[str] = Counter()
    for call in seen.calls:
        for group in groups_of(call):
            peaks[group] = max(peaks[group], call.live_bytes)
    return {group: _cost(macs[group], peak) for group, peak in peaks.items()}


def _cost(macs: Counter[MacKind], peak: int) -> Cost:
    return Cost(
        macs=macs.total(),
        macs_by_kind=MacsByKind(conv=macs["conv"], linear=macs["linear"], attention=macs["attention"]),
        flops=2 * macs.total(),
        activation_bytes=peak,
    )
