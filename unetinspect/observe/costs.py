"""What a pass cost, module by module, from the counts of its operations. Imports torch."""

from __future__ import annotations

from collections import Counter, defaultdict

from msgspec import Struct

from unetinspect.observe import Observation
from unetinspect.observe.macs import MacKind
from unetinspect.observe.stages import paths_above
from unetinspect.record import MacsByKind, Uncounted


class Cost(Struct, frozen=True, kw_only=True):
    """What a module cost; the fields are those of the record's sections."""

    macs: int
    macs_by_kind: MacsByKind
    flops: int
    activation_bytes: int


NO_COST = Cost(macs=0, macs_by_kind=MacsByKind(conv=0, linear=0, attention=0), flops=0, activation_bytes=0)


def module_costs(seen: Observation) -> dict[str, Cost]:
    """Return what each module cost in which something ran, its children included, by path; "" is the whole."""
    around = {call.path: (call.path, *paths_above(call.path)) for call in seen.calls}
    macs: dict[str, Counter[MacKind]] = defaultdict(Counter)
    for count in seen.macs:
        for path in around[count.call.path] if count.call else ():
            macs[path][count.kind] += count.macs
    peaks: Counter[str] = Counter()
    for call in seen.calls:
        for path in around[call.path]:
            peaks[path] = max(peaks[path], call.live_bytes)
    return {path: _cost(macs[path], peak) for path, peak in peaks.items()}


def uncounted(seen: Observation) -> tuple[Uncounted, ...]:
    """List the operations that no formula counts, the most frequent first."""
    return tuple(
        Uncounted(op=op, calls=calls) for op, calls in sorted(seen.uncounted.items(), key=lambda item: (-item[1], item[0])) if calls
    )


def _cost(macs: Counter[MacKind], peak: int) -> Cost:
    return Cost(
        macs=macs.total(),
        macs_by_kind=MacsByKind(conv=macs["conv"], linear=macs["linear"], attention=macs["attention"]),
        flops=2 * macs.total(),
        activation_bytes=peak,
    )
