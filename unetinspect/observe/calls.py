"""The module calls of a forward pass: which runs inside which, in which order, with which shapes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from msgspec import Struct
from torch import Tensor, nn

from unetinspect.observe.tensors import tensors_in
from unetinspect.record import Shape


class ModuleCall(Struct, eq=False):
    """One execution of one module.

    Attributes:
        step: Its place in the order in which calls began; the root is 0.
        path: The module's name in `named_modules()`.
        parent: The call that it ran in, None for the root.
        number: How many executions of this module came before.
        in_shape: The first tensor that it was given.
        out_shape: The first tensor that it returned.
        arguments: The tensors that it was given.
        bit: The bit that marks descendants of its output; None until it has returned.
        inner: The call inside this one that had already returned the very same tensor.
        live_bytes: The most bytes of activations alive at once while it ran, including those created before.
    """

    step: int
    path: str
    module: nn.Module
    parent: ModuleCall | None
    number: int
    in_shape: Shape | None = None
    out_shape: Shape | None = None
    arguments: list[Argument] = []
    bit: int | None = None
    inner: ModuleCall | None = None
    live_bytes: int = 0


class Argument(Struct, frozen=True):
    """A tensor that a call was given.

    Attributes:
        bit: The bit that marks what the call derives from it.
        made_by: The call that returned it; None if it was changed since.
    """

    bit: int
    shape: Shape
    made_by: ModuleCall | None = None


class CallStack:
    """The open module calls, innermost last, and all that have begun.

    `watch` hooks every module of a tree and removes every hook again, whatever happens in between. `on_enter` is called
    with the call, its arguments, and the tensors among them; `on_leave` with the call, the tensors among its arguments, its
    output, and the tensors in that.

    Attributes:
        calls: Every call that has begun, in that order.
    """

    def __init__(
        self,
        on_enter: Callable[[ModuleCall, list[Any], list[Tensor]], None],
        on_leave: Callable[[ModuleCall, list[Tensor], Any, list[Tensor]], None],
    ) -> None:
        self.calls: list[ModuleCall] = []
        self._failures: list[tuple[BaseException, str]] = []
        self._open: list[ModuleCall] = []
        self._count: dict[str, int] = {}
        self._on_enter = on_enter
        self._on_leave = on_leave

    @property
    def current(self) -> ModuleCall | None:
        """The innermost open call."""
        return self._open[-1] if self._open else None

    @property
    def open_calls(self) -> tuple[ModuleCall, ...]:
        """The open calls, innermost last."""
        return tuple(self._open)

    def raised_in(self, error: BaseException) -> str:
        """Return the path of the innermost call that an error passed through; "" if the root itself raised it."""
        return next((path for failure, path in self._failures if failure is error), "")

    @contextmanager
    def watch(self, root: nn.Module) -> Iterator[None]:
        """Put hooks on `root` and every module in it while the block runs."""
        handles = []
        try:
            for path, module in root.named_modules():
                handles.append(module.register_forward_pre_hook(self._enter_hook(path), with_kwargs=True))
                handles.append(module.register_forward_hook(self._leave, with_kwargs=True, always_call=True))
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._open.clear()

    def _enter_hook(self, path: str) -> Callable[..., None]:
        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            call = ModuleCall(len(self.calls), path, module, self.current, self._count.get(path, 0))
            self._count[path] = call.number + 1
            self.calls.append(call)
            self._open.append(call)
            given = [*args, *kwargs.values()]
            tensors = tensors_in(given)
            call.in_shape = tuple(tensors[0].shape) if tensors else None
            self._on_enter(call, given, tensors)

        return enter

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        # If a module raised and a forward around it caught that, its children's calls are still open.
        while self._open and self._open[-1].module is not module:
            self._open.pop()
        if not self._open:
            return
        call = self._open[-1]
        error = sys.exception()
        if output is None and error is not None:  # the hook is also called for a module that raised, innermost first
            self._failures.append((error, call.path))
        tensors = tensors_in(output)
        call.out_shape = tuple(tensors[0].shape) if tensors else None
        self._on_leave(call, tensors_in([*args, *kwargs.values()]), output, tensors)
        self._open.pop()
