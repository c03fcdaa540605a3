"""What a measurement asks of a device: the time, the memory, its name. Imports torch.

Everything that only a GPU can do stands in `CudaClock`, and no more than a call each; `HostClock` runs the same
measurement on the CPU, for tests.
"""

from __future__ import annotations

import platform
from time import perf_counter
from typing import Any, Protocol

import torch

from unetinspect.errors import UsageError
from unetinspect.units import plural

_ELSEWHERE = "`unetinspect trace` and `unetinspect sweep` estimate MACs and memory without one"


class Clock(Protocol):
    """A device that can be timed.

    Attributes:
        device: Where to run what is timed.
        device_name: What the device calls itself.
        matrix_side: Rows of square matrices whose product is large for this device.
    """

    device: torch.device
    device_name: str
    matrix_side: int

    def mark(self) -> Any:
        """Note the moment at which the device has done what it was given so far; nothing waits for it."""

    def wait(self) -> None:
        """Wait until the device has done everything that it was given."""

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return the milliseconds between two marks, once `wait` has returned after them."""

    def allocated_bytes(self) -> int | None:
        """Return how many bytes of tensors live on the device; None: it does not count them."""

    def peak_bytes(self) -> int | None:
        """Return the most that lived at once since `reset_peak`; None: it does not count them."""

    def reset_peak(self) -> None:
        """Let the peak begin anew, with what lives now."""


class CudaClock:
    """A CUDA device: events in its stream tell the time, torch's allocator the memory."""

    matrix_side = 8192  # a product takes 1 to 20 ms on a data-centre GPU, and its three matrices 384 MiB in float16

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.device_name = torch.cuda.get_device_name(device)
        self._stream = torch.cuda.current_stream(device)

    def mark(self) -> Any:
        """Record an event in the stream."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event

    def wait(self) -> None:
        """Wait for every kernel."""
        torch.cuda.synchronize(self.device)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return the device's own time between two events."""
        return float(start.elapsed_time(end))

    def allocated_bytes(self) -> int | None:
        """Return what torch's allocator has handed out; no kernel needs to have finished for that."""
        return torch.cuda.memory_allocated(self.device)

    def peak_bytes(self) -> int | None:
        """Return the most that torch's allocator had handed out at once."""
        return torch.cuda.max_memory_allocated(self.device)

    def reset_peak(self) -> None:
        """Let the allocator's peak begin anew."""
        torch.cuda.reset_peak_memory_stats(self.device)


class HostClock:
    """The CPU: it has done each operation when the call returns, and counts no memory."""

    matrix_side = 256

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.device_name = platform.processor() or platform.machine()

    def mark(self) -> Any:
        """Read the time."""
        return perf_counter()

    def wait(self) -> None:
        """Return at once."""

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return the time between two readings."""
        return float(end - start) * 1e3

    def allocated_bytes(self) -> int | None:
        """Return None."""
        return None

    def peak_bytes(self) -> int | None:
        """Return None."""
        return None

    def reset_peak(self) -> None:
        """Do nothing."""


def cuda_device(name: str) -> torch.device:
    """Return the CUDA device for `--device`: "auto" and "cuda" are the first.

    Raises:
        UsageError: There is none, or not that one, or another device is asked for.
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
