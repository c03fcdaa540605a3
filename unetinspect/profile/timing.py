"""Times forward passes and watches their memory, whole and stage by stage. Imports torch; only `Clock` needs a GPU."""

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

from unetinspect.errors import UsageError
from unetinspect.record import Spread
from unetinspect.units import plural

# For each stage, its modules that are called from outside the stage.
StageModules = Mapping[str, Sequence[nn.Module]]

# Products between two marks, so that the start of the first hardly counts; and how often they are timed.
_PRODUCTS, _ROUNDS = 4, 5
_TERA_PER_MILLI = 1e9
_ELSEWHERE = "`unetinspect trace` and `unetinspect sweep` estimate MACs and memory without one"


class Clock:
    """A CUDA device, timed by events in its stream; memory is that of torch's allocator.

    Attributes:
        device_name: Its name in its driver.
        matrix_side: Rows of square matrices whose product is large for this device.
    """

    matrix_side = 8192  # a product takes 1 to 20 ms on a data-center GPU, and its three matrices 384 MiB in float16

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.device_name = torch.cuda.get_device_name(device)
        self._stream = torch.cuda.current_stream(device)

    def mark(self) -> Any:
        """Mark the moment at which the device has finished all work so far; does not wait for it."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event

    def wait(self) -> None:
        """Wait until the device has finished all work."""
        torch.cuda.synchronize(self.device)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return the milliseconds between two marks; call `wait` first."""
        return float(start.elapsed_time(end))

    def allocated_bytes(self) -> int:
        """Return the bytes of all tensors on the device."""
        return torch.cuda.memory_allocated(self.device)

    def peak_bytes(self) -> int:
        """Return the peak of those bytes since `reset_peak`."""
        return torch.cuda.max_memory_allocated(self.device)

    def reset_peak(self) -> None:
        """Set the peak to the bytes of now."""
        torch.cuda.reset_peak_memory_stats(self.device)


def cuda_device(name: str) -> torch.device:
    """Return the CUDA device for `--device`: "auto" and "cuda" are the first.

    Raises:
        UsageError: It is not a CUDA device, or torch does not see it.
    """
    device = torch.device("cuda" if name == "auto" else name)
    if device.type != "cuda":
        raise UsageError(
            f"--device {name}: profile measures a CUDA device", hint=f"leave --device out, or give cuda or cuda:N; {_ELSEWHERE}"
        )
    if not torch.cuda.is_available():
        raise UsageError("profile measures a CUDA device, and torch sees none here", hint=_ELSEWHERE)
    index, last = device.index or 0, torch.cuda.device_count() - 1
    if index > last:
        raise UsageError(
            f"--device {name}: torch sees {plural(last + 1, 'CUDA device')} here, counted from 0", hint=f"--device cuda:{last}"
        )
    return torch.device("cuda", index)


@dataclass(frozen=True, slots=True)
class Times:
    """The times of each repeat, in milliseconds.

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
    """Bytes of one stage beyond those allocated before the pass, at its end and at its peak."""

    allocated: int = 0
    peak: int = 0


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a pass.

    Attributes:
        allocated: Before the pass.
        peak: The peak of a pass without hooks, beyond `allocated`.
        activations: The maximum after any operation, when kernels have freed their workspaces; None where the pass is compiled.
        stages: Those of each stage.
    """

    allocated: int
    peak: int
    activations: int | None
    stages: dict[str, StageMemory]


def time_passes(run: Callable[[], None], stages: StageModules, clock: Clock, *, warmup: int, repeats: int) -> Times:
    """Time the pass that `run` makes, without hooks and with hooks that time its stages.

    The two take turns, so that a device that warms up, or whose clock rate drifts, affects both alike. The first `warmup` turns are
    not counted: in them kernels are loaded and chosen, and stages are compiled.
    """
    times = Times(forward=[], hooked=[], stages={name: [] for name in stages})
    begun: list[Any] = []
    spans: dict[str, list[tuple[Any, Any]]] = defaultdict(list)

    def start(name: str) -> None:
        begun.append(clock.mark())

    def end(name: str) -> None:
        spans[name].append((begun.pop(), clock.mark()))

    for turn in range(warmup + repeats):
        forward = _timed(run, clock)
        spans.clear()
        with hooked(stages, start, end):
            forward_with_hooks = _timed(run, clock)
        if turn >= warmup:
            times.forward.append(forward)
            times.hooked.append(forward_with_hooks)
            for name, repeats_of_stage in times.stages.items():
                repeats_of_stage.append(sum(clock.elapsed_ms(*span) for span in spans[name]))
    return times


class _AfterEach(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the maximum that was allocated after an operation."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._clock = clock
        self.most = clock.allocated_bytes()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = operation(*args, **(kwargs or {}))
        self.most = max(self.most, self._clock.allocated_bytes())
        return output


def watch_memory(run: Callable[[], None], stages: StageModules, clock: Clock, *, compiled: bool = False) -> Memory:
    """Measure the memory of the pass that `run` makes, in three passes: without hooks, with hooks, and operation by operation.

    The operations of a compiled pass cannot be watched.
    """
    clock.wait()
    before = clock.allocated_bytes()
    clock.reset_peak()
    run()
    peak = clock.peak_bytes() - before
    found = {name: StageMemory() for name in stages}

    def start(name: str) -> None:
        clock.reset_peak()

    def end(name: str) -> None:
        peak = max(found[name].peak, clock.peak_bytes() - before)
        found[name] = StageMemory(allocated=clock.allocated_bytes() - before, peak=peak)

    with hooked(stages, start, end):
        run()
    activations = None
    if not compiled:
        with _AfterEach(clock) as each:
            run()
        activations = each.most - before
    return Memory(allocated=before, peak=peak, activations=activations, stages=found)


@contextmanager
def hooked(stages: StageModules, start: Callable[[str], None], end: Callable[[str], None]) -> Iterator[None]:
    """Call `start` and `end` with the name of a stage around each call of its modules while the block runs."""
    with ExitStack() as hooks:
        for name, modules in stages.items():
            for module in modules:
                hooks.callback(module.register_forward_pre_hook(lambda module, given, name=name: start(name)).remove)
                hooks.callback(module.register_forward_hook(lambda module, given, output, name=name: end(name)).remove)
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
    """Return a rate in 10^12 per second; 0 FLOPs have the rate 0, however short the time.

    >>> tera_per_second(800_000_000_000, 10), tera_per_second(0, 0)
    (80.0, 0.0)
    """
    return flops / ms / _TERA_PER_MILLI if flops else 0.0


def spread_of(times: Sequence[float]) -> Spread:
    """Return the median, the 10th and the 90th percentile, interpolated between two values.

    >>> spread_of([1.0, 3.0, 2.0])
    Spread(median=2.0, low=1.2, high=2.8)
    """
    tenths = quantiles(times if len(times) > 1 else [*times, *times], n=10, method="inclusive")
    return Spread(low=tenths[0], median=tenths[4], high=tenths[8])


def _timed(run: Callable[[], None], clock: Clock) -> float:
    clock.wait()
    start = clock.mark()
    run()
    end = clock.mark()
    clock.wait()
    return clock.elapsed_ms(start, end)
