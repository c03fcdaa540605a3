"""The CPU in place of a CUDA device: for tests, and for dry runs of a measurement."""

from __future__ import annotations

import platform
from time import perf_counter

import torch

from unetinspect.profile.timing import Clock


class HostClock(Clock):
    """The CPU: an operation is finished when its call returns, and no memory is counted."""

    matrix_side = 32

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.device_name = platform.processor() or platform.machine()

    def mark(self) -> float:
        return perf_counter()

    def wait(self) -> None:
        pass

    def elapsed_ms(self, start: float, end: float) -> float:
        return (end - start) * 1e3

    def allocated_bytes(self) -> int:
        return 0

    def peak_bytes(self) -> int:
        return 0

    def reset_peak(self) -> None:
        pass
