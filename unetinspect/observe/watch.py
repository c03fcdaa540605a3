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
from unetinspect.observe.skips import SkipLink, SkipWatch
from unetinspect.observe.tensors import tensors_in
from unetinspect.record import Shape
from unetinspect.record.stages import StageOf


@dataclass(slots=True, frozen=True)
class Observation:
    """What was seen of one forward pass.

    Attributes:
        calls: Every module call, in the order in which they began; the first is the root.
        skips: In the order in which they were consumed.
        produced: The calls that made each skip tensor that a stage returned, in the order in which they returned, and its shape.
        attentions: In the order in which they were computed.
        returned: What the root returned.
        from_main_input: The steps of the calls whose output depends on the first input.
        macs: The multiply-accumulates of every operation that has a formula.
        uncounted: How often each operation without a formula ran.
        peak: The most bytes of activations that were alive at once.
        peak_with_maps: The same if fused attention materialized its maps.
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
    """A tensor that an operation was given: its shape, and the module or input that it comes from ("" for a weight)."""

    shape: Shape
    source: str


class ForwardRaisedError(Exception):
    """Raised when the pass raised.

    Attributes:
        path: The module that raised; "" is the root.
        error: What was raised.
        operation: The operation that raised it; "" if it was not an operation.
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
    stage_of: StageOf,
    frame_axes: Mapping[str, int] | None = None,
) -> Observation:
    """Run the forward pass of `root` by calling `run`, and record what happens.

    `inputs` are the tensors that it is given, by name, the main one (`sample`) first. `stage_of` returns the stage of a
    module's path, and `frame_axes` names the axis of a video's frames for the inputs that have one. Every hook and mode is
    removed afterwards, even if the pass raises.

    Raises:
        ForwardRaisedError: The pass raised.
    """
    watcher = _Watcher(inputs, stage_of, frame_axes or {})
    with ExitStack() as on:
        on.enter_context(torch.no_grad())
        on.enter_context(watcher.stack.watch(root))
        on.enter_context(watcher)
        on.enter_context(watcher.attention)
        try:
            output = run()
        except Exception as error:
            raise ForwardRaisedError(watcher.stack.raised_in(error), error, *watcher.failed_at(error)) from error
    return Observation(
        calls=watcher.stack.calls,
        skips=watcher.skips.finish(),
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
    """Sees every operation below the module calls, and passes each event on to the parts of the observation."""

    def __init__(self, inputs: Mapping[str, Tensor], stage_of: StageOf, frame_axes: Mapping[str, int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._provenance = Provenance()
        self._main_input, *_ = [self._provenance.add_input(name, tensor) for name, tensor in inputs.items()]
        self._frames = FrameAxis(inputs, frame_axes)
        self._failed: tuple[Exception, str, tuple[Operand, ...]] | None = None
        self.from_main_input: set[int] = set()
        self.stack = CallStack(self._on_enter, self._on_leave)
        self.skips = SkipWatch(self._provenance, self.stack, stage_of, self._main_input)
        self.macs = MacWatch(self.stack)
        self.memory = MemoryWatch(self.stack)
        self.attention = AttentionWatch(self._provenance, self.stack, self._frames, self.macs, self.memory)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        inputs = tensors_in([*args, *kwargs.values()])
        try:
            # A subclass of torch.Tensor has its own results.
            output = func(*args, **kwargs) if types else meta_kernels.run(func, args, kwargs, inputs)
        except Exception as error:
            self._failed = error, func.overloadpacket.__name__, tuple(map(self._operand, tensors_in(args)))
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
        self._frames.apply(op, args, inputs, outputs)
        self.skips.on_operation(func, args, kwargs, output)
        return output

    def failed_at(self, error: Exception) -> tuple[str, tuple[Operand, ...]]:
        """Return the operation that raised an error and its operands; "" and none if an operation did not raise it."""
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
