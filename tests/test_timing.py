"""Times and memory, measured on a device of which every number is known: its time passes, and its memory fills, as the test says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from host_clock import HostClock
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from unetinspect import UsageError
from unetinspect.profile.timing import (
    Clock,
    Memory,
    StageMemory,
    cuda_device,
    matrix_tflops,
    spread_of,
    time_passes,
    watch_memory,
)

MARK_MS = 0.25


class Simulated(HostClock):
    """A device whose time and memory are what its modules say; each mark takes a quarter of a millisecond."""

    matrix_side = 64

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.live = self.most = 1000
        self.marks = 0

    def mark(self) -> float:
        self.marks += 1
        self.now += MARK_MS
        return self.now

    def elapsed_ms(self, start: float, end: float) -> float:
        return end - start

    def allocated_bytes(self) -> int:
        return self.live

    def peak_bytes(self) -> int:
        return self.most

    def reset_peak(self) -> None:
        self.most = self.live

    def take(self, size: int) -> None:
        self.live += size
        self.most = max(self.most, self.live)


class Stage(nn.Module):
    """Takes time, and memory that it keeps or gives back."""

    def __init__(self, clock: Simulated, ms: float, scratch: int, kept: int) -> None:
        super().__init__()
        self.clock, self.ms, self.scratch, self.kept, self.slower = clock, ms, scratch, kept, 1.0
        self.fails = False

    def forward(self) -> None:
        if self.fails:
            raise ArithmeticError
        self.clock.now += self.ms * self.slower
        self.clock.take(self.scratch)
        self.clock.take(self.kept - self.scratch)
        torch.ones(1)  # an operation, so that somebody looks at what is allocated


class Whole(nn.Module):
    """Runs `first` once and `second` twice, and 3 ms of its own; each pass is slower than the last by what `factors` say."""

    def __init__(self, clock: Simulated, factors: Iterable[float] = ()) -> None:
        super().__init__()
        self.clock = clock
        self.first, self.second = Stage(clock, 10, scratch=500, kept=200), Stage(clock, 20, scratch=100, kept=50)
        self.factors = iter(factors)

    @property
    def stages(self) -> dict[str, list[nn.Module]]:
        return {"first": [self.first], "second": [self.second]}

    def forward(self) -> None:
        self.first.slower = self.second.slower = factor = next(self.factors, 1.0)
        before = self.clock.live
        self.first()
        self.second()
        self.clock.now += 3 * factor
        self.second()
        self.clock.take(before - self.clock.live)


def has_hooks(module: nn.Module) -> bool:
    """Tell whether any hook is on a module or on what is in it."""
    return any(inner._forward_hooks or inner._forward_pre_hooks for inner in module.modules())


def test_times_are_those_of_the_repeats_alone() -> None:
    """Two warm-ups of each kind, however slow, count for nothing; turns alternate; a stage that runs twice has both times.

    A stage may be several modules: a list whose items are called.
    """
    clock = Simulated()
    turns = [9.0, 7.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    whole = Whole(clock, [factor for factor in turns for _ in range(2)])
    times = time_passes(whole, whole.stages, clock, warmup=2, repeats=5)

    # 10 + 20 + 3 + 20 of a pass, and the mark at its end; with hooks, two marks more around each of three calls.
    assert times.forward == [53 * factor + MARK_MS for factor in (1, 2, 3, 4, 5)]
    assert times.hooked == [53 * factor + 7 * MARK_MS for factor in (1, 2, 3, 4, 5)]
    assert times.stages == {
        "first": [10 * factor + MARK_MS for factor in (1, 2, 3, 4, 5)],
        "second": [2 * (20 * factor + MARK_MS) for factor in (1, 2, 3, 4, 5)],
    }
    assert not has_hooks(whole)
    both = time_passes(whole, {"both": [whole.first, whole.second]}, clock, warmup=0, repeats=1)
    assert both.stages == {"both": [10 + 20 + 20 + 3 * MARK_MS]}


def test_memory_is_counted_from_what_was_there_before() -> None:
    """Peaks and the bytes at a stage's end leave out the 1000 bytes of before; nothing is timed meanwhile.

    The operations of a compiled pass are not watched.
    """
    clock = Simulated()
    whole = Whole(clock)
    memory = watch_memory(whole, whole.stages, clock)

    assert (memory.allocated, memory.peak, memory.activations) == (1000, 500, 300)
    # 200 are kept of the first stage; the second's calls hold 100 beyond that, then 100 beyond 50 more.
    assert memory.stages == {"first": StageMemory(allocated=200, peak=500), "second": StageMemory(allocated=300, peak=350)}
    assert clock.marks == 0
    assert not has_hooks(whole)
    assert watch_memory(whole, whole.stages, clock, compiled=True) == Memory(1000, 500, None, memory.stages)


@pytest.mark.parametrize("measure", [lambda *of: time_passes(*of, warmup=0, repeats=1), watch_memory], ids=["time", "memory"])
def test_hooks_are_gone_after_a_pass_that_raised(measure: Callable[..., Any]) -> None:
    """The second pass, the one with hooks, raises inside a stage."""
    clock = Simulated()
    whole = Whole(clock)
    passes = []

    def run() -> None:
        passes.append(has_hooks(whole))
        whole.second.fails = len(passes) == 2
        whole()

    with pytest.raises(ArithmeticError):
        measure(run, whole.stages, clock)

    assert passes == [False, True]
    assert not has_hooks(whole)


def test_the_rate_of_a_matrix_product_is_that_of_the_best_round() -> None:
    """Four products of 64 x 64 in 5 ms, the best of five rounds: 4 * 2 * 64^3 / 5 ms."""
    clock = Simulated()
    rounds = iter([6.0, 5.0, 9.0, 7.0, 8.0])
    marks: list[float] = []
    real_mark = clock.mark

    def mark() -> float:
        if len(marks) % 2:
            clock.now += next(rounds) - MARK_MS
        marks.append(clock.now)
        return real_mark()

    clock.mark = mark  # type: ignore[method-assign]

    assert matrix_tflops(clock, torch.float32) == pytest.approx(4 * 2 * 64**3 / 5e-3 / 1e12)
    assert len(marks) == 10


@given(st.lists(st.floats(min_value=1e-3, max_value=1e6), min_size=1, max_size=30))
def test_spreads_are_the_quantiles_of_torch(times: list[float]) -> None:
    """The 10th, 50th and 90th percentile, interpolated."""
    spread = spread_of(times)
    expected = torch.tensor(times, dtype=torch.float64).quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()

    assert [spread.low, spread.median, spread.high] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "count", "message", "hint"),
    [
        ("cuda:1", 0, "profile measures a CUDA device, and torch sees none here", "estimate MACs and memory without one"),
        ("meta", 1, "--device meta: profile measures a CUDA device", "leave --device out, or give cuda or cuda:N; "),
        ("cuda:2", 2, "--device cuda:2: torch sees 2 CUDA devices here, counted from 0", "--device cuda:1"),
    ],
)
def test_another_device_is_refused(name: str, count: int, message: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, and what to do instead."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(UsageError) as raised:
        cuda_device(name)

    assert raised.value.message == message
    assert hint in (raised.value.hint or "")


def test_the_first_cuda_device_is_taken_unless_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` and `cuda` are cuda:0."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    assert [str(cuda_device(name)) for name in ("auto", "cuda", "cuda:1")] == ["cuda:0", "cuda:0", "cuda:1"]


class FakeEvent:
    """An event that was recorded at the time that its stream says."""

    def __init__(self, *, enable_timing: bool) -> None:
        self.timing = enable_timing

    def record(self, stream: Any) -> None:
        self.at = next(stream) if self.timing else None

    def elapsed_time(self, end: Any) -> float:
        return float(end.at - self.at)


def test_a_cuda_clock_asks_torch_of_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events go into the stream of the device, and every question names it, though another is torch's current one."""
    device = torch.device("cuda:1")
    asked: list[tuple[str, Any]] = []

    def answer(name: str, value: Any) -> Callable[[Any], Any]:
        def ask(of: Any) -> Any:
            asked.append((name, of))
            return value

        return ask

    answers = {"get_device_name": "Chip", "current_stream": iter([3, 8]), "memory_allocated": 5, "max_memory_allocated": 7}
    for name, value in {**answers, "synchronize": None, "reset_peak_memory_stats": None}.items():
        monkeypatch.setattr(torch.cuda, name, answer(name, value))
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    clock = Clock(device)
    start, end = clock.mark(), clock.mark()
    clock.wait()
    clock.reset_peak()

    assert clock.elapsed_ms(start, end) == 5
    assert (clock.device_name, clock.allocated_bytes(), clock.peak_bytes()) == ("Chip", 5, 7)
    assert {of for _, of in asked} == {device}
    assert {name for name, _ in asked} == {*answers, "synchronize", "reset_peak_memory_stats"}
