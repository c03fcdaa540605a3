"""Times forward passes and watches their memory, whole and stage by stage, on any `Clock`. Imports torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from unetinspect.profile.clock import Clock
from unetinspect.record import Spread

# For each stage, the modules that are called in it, from outside of them.
StageModules = Mapping[str, Sequence[nn.Module]]

# Products that one pair of marks holds, so that starting the first weighs little; and how often that is timed.
_PRODUCTS, _ROUNDS = 4, 5
_TERA_PER_MILLI = 1e9


@dataclass(frozen=True, slots=True)
class Times:
    """What each repeat took, in milliseconds.

    Attributes:
        forward: Passes without hooks.
        hooked: Passes with hooks.
        stages: For each stage, its time in each of the passes with hooks.
    """

    forward: list[float]
    hooked: list[float]
    stages: dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class StageMemory:
    """Bytes of one stage beyond those that were allocated before the pass; None where the device counts none."""

    held: int | None = None
    peak: int | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a pass; None where the device counts none.

    Attributes:
        allocated: Before it.
        peak: The most at once during a pass without hooks, beyond `allocated`.
        activations: The most after any of its operations: what kernels took for themselves is given back by then.
        stages: The same for each stage, and what lived at its end.
    """

    allocated: int | None
    peak: int | None
    activations: int | None
    stages: dict[str, StageMemory]


def time_passes(run: Callable[[], None], stages: StageModules, clock: Clock, *, warmup: int, repeats: int) -> Times:
    """Time the pass that `run` makes, in turn without hooks and with those that time its stages.

    The two take turns, so that a device that grows warm, or whose rate drifts, is the same for both. The first `warmup` turns
    are not counted: in them kernels are loaded and chosen, and what is to be compiled is.
    """
    times = Times(forward=[], hooked=[], stages={name: [] for name in stages})
    for turn in range(warmup + repeats):
        forward = _timed(run, clock)
        spans = _Spans(clock)
        with hooked(stages, spans.start, spans.end):
            forward_with_hooks = _timed(run, clock)
        if turn >= warmup:
            times.forward.append(forward)
            times.hooked.append(forward_with_hooks)
            for name, repeats_of_stage in times.stages.items():
                repeats_of_stage.append(spans.elapsed_ms(name))
    return times


class _AfterEach(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the most that was allocated after an operation."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._clock = clock
        self.most = clock.allocated_bytes()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = operation(*args, **(kwargs or {}))
        after = self._clock.allocated_bytes()
        self.most = None if self.most is None or after is None else max(self.most, after)
        return output


def watch_memory(run: Callable[[], None], stages: StageModules, clock: Clock, *, compiled: bool = False) -> Memory:
    """Measure the memory of the pass that `run` makes, in passes of their own: without hooks, with, and operation by operation.

    A compiled pass has no operations that one could look on at.
    """
    clock.wait()
    before = clock.allocated_bytes()
    clock.reset_peak()
    run()
    peak = _beyond(clock.peak_bytes(), before)
    found = {name: StageMemory() for name in stages}

    def start(name: str) -> None:
        clock.reset_peak()

    def end(name: str) -> None:
        last, peak = found[name], _beyond(clock.peak_bytes(), before)
        found[name] = StageMemory(
            held=_beyond(clock.allocated_bytes(), before), peak=peak if last.peak is None or peak is None else max(last.peak, peak)
        )

    with hooked(stages, start, end):
        run()
    activations = None
    if before is not None and not compiled:
        with _AfterEach(clock) as each:
            run()
        activations = _beyond(each.most, before)
    return Memory(allocated=before, peak=peak, activations=activations, stages=found)


@contextmanager
def hooked(stages: StageModules, start: Callable[[str], None], end: Callable[[str], None]) -> Iterator[None]:
    """Call `start` and `end` with the name of a stage around each call of its modules while the block runs, and hook nothing else."""

    def before(name: str) -> Callable[..., None]:
        return lambda module, given: start(name)

    def after(name: str) -> Callable[..., None]:
        return lambda module, given, output: end(name)

    with ExitStack() as hooks:
        for name, modules in stages.items():
            for module in modules:
                hooks.callback(module.register_forward_pre_hook(before(name)).remove)
                hooks.callback(module.register_forward_hook(after(name)).remove)
        yield


def matrix_tflops(clock: Clock, dtype: torch.dtype) -> float:
    """Return the rate, in 10^12 FLOPs per second, at which the device multiplies two large square matrices: the best of several.

    Each element of the product is `side` multiply-adds, which are 2 FLOPs each: 2 * side^3 in all.
    """
    side = clock.matrix_side
    generator = torch.Generator(clock.device).manual_seed(0)
    left, right = (torch.empty(side, side, device=clock.device, dtype=dtype).normal_(generator=generator) for _ in range(2))
    product = torch.empty_like(left)

    def multiply() -> None:
        for _ in range(_PRODUCTS):
            torch.matmul(left, right, out=product)

    multiply()
    best_ms = min(_timed(multiply, clock) for _ in range(_ROUNDS))
    return tera_per_second(_PRODUCTS * 2 * side**3, best_ms)


def tera_per_second(flops: int, ms: float) -> float:
    """Return a rate in 10^12 per second; nothing at all is done at the rate 0, however short the time.

    >>> tera_per_second(800_000_000_000, 10), tera_per_second(0, 0)
    (80.0, 0.0)
    """
    return flops / ms / _TERA_PER_MILLI if flops else 0.0


def spread_of(times: Sequence[float]) -> Spread:
    """Return the median, the 10th and the 90th percentile; between two values they are interpolated.

    >>> spread_of([1.0, 3.0, 2.0])
    Spread(median=2.0, low=1.2, high=2.8)
    """
    tenths = quantiles(times if len(times) > 1 else [*times, *times], n=10, method="inclusive")
    return Spread(low=tenths[0], median=tenths[4], high=tenths[8])


class _Spans:
    """The marks around each call of each stage in one pass."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begun: list[Any] = []
        self._spans: dict[str, list[tuple[Any, Any]]] = defaultdict(list)

    def start(self, name: str) -> None:
        self._begun.append(self._clock.mark())

    def end(self, name: str) -> None:
        self._spans[name].append((self._begun.pop(), self._clock.mark()))

    def elapsed_ms(self, name: str) -> float:
        return sum(self._clock.elapsed_ms(start, end) for start, end in self._spans[name])


def _timed(run: Callable[[], None], clock: Clock) -> float:
    clock.wait()
    start = clock.mark()
    run()
    end = clock.mark()
    clock.wait()
    return clock.elapsed_ms(start, end)


def _beyond(size: int | None, before: int | None) -> int | None:
    return None if size is None or before is None else size - before
