"""Follows the memory of activations: which are alive at each moment of a pass, from the lifetimes of their storages.

An activation is a tensor that an operation of the pass creates: weights, buffers and inputs existed before and are not
counted. A view shares its storage with its base. No allocator is asked, so the bytes are the same on meta, where nothing is
allocated; the workspace of a kernel is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from unetinspect.observe.calls import CallStack, ModuleCall
from unetinspect.observe.meta_kernels import Operations
from unetinspect.observe.tensors import tensors_in

_LOGSUMEXP_BYTES = 4  # for one query, in the accumulation dtype: float32 or wider


class _Lifetime(ref):  # type: ignore[type-arg]
    """A weak reference to a storage, with the bytes to subtract when the storage is freed."""

    __slots__ = ("key", "size")
    key: int
    size: int


class LiveBytes:
    """The bytes of all storages that operations created and that are still alive: `now`."""

    def __init__(self) -> None:
        self.now = 0
        self._alive: dict[int, _Lifetime] = {}

    def add(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool:
        """Add what an operation created; returns False if it created no storage (a view, or an operation in place)."""
        given = {storage._cdata for storage in map(_storage, inputs) if storage is not None}
        grown = False
        for storage in map(_storage, outputs):
            if storage is not None and storage._cdata not in given and storage._cdata not in self._alive:
                lifetime = _Lifetime(storage, self._forget)
                lifetime.key, lifetime.size = storage._cdata, storage.nbytes()
                self._alive[lifetime.key] = lifetime
                self.now += lifetime.size
                grown = True
        return grown

    def _forget(self, lifetime: ref[Any]) -> None:
        assert isinstance(lifetime, _Lifetime)  # noqa: S101 (the only references that call this)
        self.now -= lifetime.size
        del self._alive[lifetime.key]


@dataclass(slots=True)
class Peak:
    """The largest number of live bytes so far, and the first call in which it was reached."""

    size: int = 0
    call: ModuleCall | None = None

    def raise_to(self, size: int, call: ModuleCall | None) -> None:
        """Replace the peak if this number is larger."""
        if size > self.size:
            self.size, self.call = size, call


class MemoryWatch:
    """Follows the live bytes of one pass, and their peak: in all, and within each module call.

    Attributes:
        peak: With fused attention, whose maps are never materialized.
        peak_with_maps: As if each fused attention ran as torch's math attention, which materializes its map.
    """

    def __init__(self, stack: CallStack) -> None:
        self.peak = Peak()
        self.peak_with_maps = Peak()
        self._live = LiveBytes()
        self._stack = stack
        self._scratch: dict[Any, int] = {}

    def on_enter(self, call: ModuleCall) -> None:
        """Count what is already alive in the call's peak."""
        call.live_bytes = self._live.now

    def on_leave(self, call: ModuleCall) -> None:
        """Count the call's peak in that of the call around it."""
        if call.parent is not None:
            call.parent.live_bytes = max(call.parent.live_bytes, call.live_bytes)

    def on_operation(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Add what an operation created."""
        if self._live.add(inputs, outputs):
            self._note(self._live.now, self._live.now)

    def on_fused_attention(self, run: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        """Add the output of a fused attention, with the log-sum-exp of each query that its kernel also returns."""
        before = self._live.now
        inputs = tensors_in([args, kwargs])
        self._live.add(inputs, [output])
        logsumexp = output[..., 0].numel() * max(_LOGSUMEXP_BYTES, output.element_size())
        self._note(self._live.now + logsumexp, before + self._math_scratch(run, args, kwargs))

    def _note(self, size: int, size_with_maps: int) -> None:
        call = self._stack.current
        self.peak.raise_to(size, call)
        self.peak_with_maps.raise_to(max(size, size_with_maps), call)
        if call is not None:
            call.live_bytes = max(call.live_bytes, size)

    def _math_scratch(self, run: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """Return the peak of torch's math attention, found by running it on meta once for each layout of the operands."""
        key = (*map(_signature, args), *((name, _signature(value)) for name, value in kwargs.items()))
        if key not in self._scratch:
            given, named = list(map(_on_meta, args)), {name: _on_meta(value) for name, value in kwargs.items()}
            scratch = PeakWatch()
            with scratch:
                run(*given, **named)
            self._scratch[key] = scratch.peak
        return self._scratch[key]


class PeakWatch(Operations):  # type: ignore[no-untyped-call]
    """Measures the peak of operations beyond what they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._live = LiveBytes()

    @property
    def now(self) -> int:
        """The bytes that are alive."""
        return self._live.now

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        output = super().__torch_dispatch__(func, types, args, kwargs)
        self._live.add(tensors_in([args, kwargs]), tensors_in(output))
        self.peak = max(self.peak, self._live.now)
        return output


def _storage(tensor: Tensor) -> torch.UntypedStorage | None:
    """Return the storage of a tensor; a sparse tensor has none."""
    try:
        return tensor.untyped_storage()
    except NotImplementedError:
        return None


def _signature(value: Any) -> Any:
    return (value.shape, value.stride(), value.dtype) if isinstance(value, Tensor) else value


def _on_meta(value: Any) -> Any:
    """Return a tensor with the same shape, strides and dtype on meta; other values as they are."""
    if not isinstance(value, Tensor) or value.is_meta:
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
