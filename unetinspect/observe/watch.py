"""One observed forward pass: hooks and modes on, the pass, hooks and modes off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from unetinspect.observe import meta_kernels
from unetinspect.observe.attention import AttentionProduct, AttentionWatch
from unetinspect.observe.calls import CallStack, ModuleCall
from unetinspect.observe.frames import FrameAxis
from unetinspect.observe.macs import Count, MacWatch
from unetinspect.observe.memory import MemoryWatch, Peak
from unetinspect.observe.provenance import Provenance
from unetinspect.observe.skips import CONCAT_OP, CONVOLUTION_OP, SkipLink, SkipWatch, concat_arguments
from unetinspect.observe.tensors import tensors_in
from unetinspect.record import Shape


@dataclass(slots=True, frozen=True)
class Observation:
    """What was seen of one forward pass.

    Attributes:
        calls: Every module call, in the order in which they began; the first is the root.
        skips: In the order in which they were consumed.
        produced: The calls that made each skip tensor that was handed out, in the order in which they returned, and its shape.
        attentions: In the order in which they were computed.
        returned: What the root returned.
        from_main_input: The steps of the calls whose output depends on the first input.
        macs: The multiply-accumulates of every operation that has a formula.
        uncounted: How often each operation ran that has none.
        peak: The most bytes of activations that lived at once.
        peak_with_maps: The same, as if fused attention had held its maps.
    """

    calls: list[ModuleCall]
    skips: list[SkipLink]
    produced: dict[tuple[ModuleCall, ...], Shape]
    attentions: list[AttentionProduct]
    returned: Any
    from_main_input: frozenset[int]
    macs: list[Count]
    uncounted: Mapping[str, int]
    peak: Peak
    peak_with_maps: Peak


class Operand(NamedTuple):
    """A tensor that an operation was given: its shape, and the module, or the input, that it comes from ("" a weight)."""

    shape: Shape
    source: str


class ForwardRaisedError(Exception):
    """Raised when the pass raised.

    Attributes:
        path: The module in which it did; "" is the root.
        error: What was raised.
        operation: The operation that raised it, "" where that was no operation.
        operands: The tensors that the operation was given.
    """

    def __init__(self, path: str, error: Exception, operation: str = "", operands: tuple[Operand, ...] = ()) -> None:
        super().__init__(f"{path}: {error}")
        self.path = path
        self.error = error
        self.operation = operation
        self.operands = operands


def watch_forward(
    run: Callable[[], Any],
    root: nn.Module,
    inputs: Mapping[str, Tensor],
    stage_of: Callable[[str], str | None],
    frame_axes: Mapping[str, int] | None = None,
) -> Observation:
    """Run the forward pass of `root` by calling `run`, and write down what happens.

    `inputs` are the tensors that it is given, by name, the main one (`sample`) first. `stage_of` says for a module's
    path which stage it belongs to, `frame_axes` for the inputs of a video which axis counts its frames. Every hook and
    mode is gone again afterwards, also if the pass raises.

    Raises:
        ForwardRaisedError: The pass raised.
    """
    provenance = Provenance()
    frames = FrameAxis((inputs[name], axis) for name, axis in frame_axes.items()) if frame_axes else None
    watcher = _Watcher(provenance, inputs, stage_of, frames)
    with ExitStack() as on:
        on.enter_context(torch.no_grad())
        on.enter_context(watcher.stack.watch(root))
        on.enter_context(watcher)
        on.enter_context(watcher.attention)
        try:
            output = run()
        except Exception as error:
            raise ForwardRaisedError(watcher.stack.raised_in(error), error, *watcher.failed_at(error)) from error
    skips = watcher.skips.finish()
    return Observation(
        calls=watcher.stack.calls,
        skips=skips,
        produced=dict(sorted(watcher.skips.produced.items(), key=lambda item: [call.bit or 0 for call in reversed(item[0])])),
        attentions=watcher.attention.products,
        returned=output,
        from_main_input=frozenset(watcher.from_main_input),
        macs=watcher.macs.counts,
        uncounted=watcher.macs.uncounted,
        peak=watcher.memory.peak,
        peak_with_maps=watcher.memory.peak_with_maps,
    )


class _Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation below the module calls, and hands each event to whom it concerns."""

    def __init__(
        self, provenance: Provenance, inputs: Mapping[str, Tensor], stage_of: Callable[[str], str | None], frames: FrameAxis | None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        bits = [provenance.add_input(name, tensor) for name, tensor in inputs.items()]
        self._main_input = bits[0]
        self._provenance = provenance
        self._frames = frames
        self.from_main_input: set[int] = set()
        self._failed: tuple[Exception, str, tuple[Operand, ...]] | None = None
        self.stack = CallStack(self._on_enter, self._on_leave)
        self.skips = SkipWatch(provenance, self.stack, stage_of, self._main_input)
        self.macs = MacWatch(self.stack)
        self.memory = MemoryWatch(self.stack)
        self.attention = AttentionWatch(provenance, self.stack, frames, self.macs, self.memory)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        inputs = tensors_in([*args, *kwargs.values()])
        try:
            # A subclass of torch.Tensor has its own results.
            output = func(*args, **kwargs) if types else meta_kernels.run(func, args, kwargs, inputs)
        except Exception as error:
            self._failed = error, func.overloadpacket.__name__, tuple(self._operand(tensor) for tensor in tensors_in(args))
            raise
        if self.attention.inside == "kernel":
            return output
        op, outputs = func.overloadpacket.__name__, tensors_in(output)
        self.macs.on_operation(func, args, kwargs, output, listed=self.attention.inside is None)
        if not func.is_view:
            self.memory.on_operation(inputs, outputs)
        if self.attention.inside == "layer":
            return output
        self._provenance.apply(op, inputs, outputs)
        if self._frames is not None:
            self._frames.apply(op, args, inputs, outputs)
        if func is CONCAT_OP:
            self.skips.on_concat(*concat_arguments(args, kwargs), output)
        elif func is CONVOLUTION_OP:
            self.skips.on_convolution(args[1], args[8])
        return output

    def failed_at(self, error: Exception) -> tuple[str, tuple[Operand, ...]]:
        """Return the operation that raised an error, and what it was given; none where it was raised by no operation."""
        return self._failed[1:] if self._failed is not None and self._failed[0] is error else ("", ())

    def _operand(self, tensor: Tensor) -> Operand:
        origin = self._provenance.of(tensor)
        names = [call.path for call in origin.source_calls] or [str(source) for source in origin.sources]
        return Operand(tuple(tensor.shape), names[-1] if names else "")

    def _on_enter(self, call: ModuleCall, given: list[Any], tensors: list[Tensor]) -> None:
        self.memory.on_enter(call)
        self._provenance.enter(call, tensors)
        self.skips.on_enter(call, given, tensors)

    def _on_leave(self, call: ModuleCall, given: list[Tensor], output: Any, outputs: list[Tensor]) -> None:
        self.memory.on_leave(call)
        self._provenance.leave(call, given, outputs)
        self.skips.on_leave(call, output)
        if any(self._provenance.of(tensor).descends_from(self._main_input) for tensor in outputs):
            self.from_main_input.add(call.step)
