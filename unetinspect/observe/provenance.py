"""Which data each tensor of the pass was derived from.

Each tensor has an `Origin`, kept in a table of weak references and never on the tensor itself:

- `ancestors` is a bit set of all completed module calls, model inputs and call arguments that the tensor depends on;
- `sources` are the nearest of them: the first module outputs and model inputs on the way back.

A module that returns exactly one tensor becomes that tensor's source. A module that returns several (a down block: its
hidden states and the tuple of its skips) does not, so that their sources name the modules inside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.structs import replace
from torch import Tensor

from unetinspect.observe.calls import Argument, ModuleCall
from unetinspect.observe.tensors import TensorTable
from unetinspect.record import Shape

NearestSource = ModuleCall | str


class Step(NamedTuple):
    """An operation that made a tensor: its name, the origins of its operands, and the tensor's shape."""

    op: str
    parents: tuple[Origin, ...]
    shape: Shape


class Origin(Struct, frozen=True, eq=False):
    """Where a tensor comes from.

    Attributes:
        ancestors: Bit set of everything that it depends on.
        sources: The nearest module calls, and names of model inputs, that it was derived from.
        returned: The call that returned it; None if an operation changed it since.
        marks: Notes of the observers in this package, by their own keys.
        step: The operation that made it from its nearest sources; None for a source itself.
    """

    ancestors: int = 0
    sources: frozenset[NearestSource] = frozenset()
    returned: ModuleCall | None = None
    marks: dict[str, Any] = {}
    step: Step | None = None

    @property
    def source_calls(self) -> list[ModuleCall]:
        """The module calls among the sources, in the order in which they returned."""
        calls = [source for source in self.sources if isinstance(source, ModuleCall)]
        return sorted(calls, key=lambda call: call.bit or 0)

    def descends_from(self, bit: int | None) -> bool:
        """Return whether the tensor depends on what `bit` marks."""
        return bit is not None and bool(self.ancestors >> bit & 1)


_NOWHERE = Origin()


class Provenance:
    """The origins of all tensors that are alive in one forward pass."""

    def __init__(self) -> None:
        self._origins: TensorTable[Origin] = TensorTable()
        self._bits = count()

    def of(self, tensor: Tensor) -> Origin:
        """Return a tensor's origin; that of a weight or a constant is empty."""
        return self._origins.get(tensor) or _NOWHERE

    def mark(self, tensor: Tensor, **marks: Any) -> None:
        """Add marks to a tensor."""
        origin = self.of(tensor)
        self._origins[tensor] = replace(origin, marks={**origin.marks, **marks})

    def add_input(self, name: str, tensor: Tensor) -> int:
        """Register an input of the model; returns the bit that marks its descendants."""
        bit = next(self._bits)
        self._origins[tensor] = Origin(1 << bit, frozenset([name]))
        return bit

    def enter(self, call: ModuleCall, given: Sequence[Tensor]) -> None:
        """Mark each tensor that a call is given with a bit of its own, to distinguish what the call derives from each."""
        seen: set[int] = set()
        for tensor in given:
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            bit = next(self._bits)
            origin = self.of(tensor)
            self._origins[tensor] = replace(origin, ancestors=origin.ancestors | 1 << bit)
            call.arguments.append(Argument(bit, tuple(tensor.shape), origin.returned))

    def leave(self, call: ModuleCall, given: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Mark what a call returned; a single output gets the call as its source."""
        call.bit = next(self._bits)
        passed_on = {id(tensor) for tensor in given}
        for tensor in outputs:
            origin = self.of(tensor)
            if id(tensor) in passed_on:
                continue  # nn.Identity, or dropout in eval mode
            ancestors = origin.ancestors | 1 << call.bit
            if len(outputs) == 1:
                call.inner = origin.returned
                self._origins[tensor] = Origin(ancestors, frozenset([call]), call)
            else:
                self._origins[tensor] = replace(origin, ancestors=ancestors)

    def apply(self, op: str, inputs: list[Tensor], outputs: Iterable[Tensor]) -> None:
        """Derive the origins of an operation's outputs from those of its inputs."""
        origins = [self.of(tensor) for tensor in inputs]
        ancestors = 0
        sources: set[NearestSource] = set()
        for origin in origins:
            ancestors |= origin.ancestors
            sources |= origin.sources
        parents = tuple(origin for origin in origins if origin.sources)
        for output in outputs:
            marks = dict(self._kept_marks(inputs, origins, output)) if any(origin.marks for origin in origins) else {}
            self._origins[output] = Origin(ancestors, frozenset(sources), None, marks, Step(op, parents, tuple(output.shape)))

    @staticmethod
    def _kept_marks(inputs: list[Tensor], origins: list[Origin], output: Tensor) -> Iterator[tuple[str, Any]]:
        """Yield the marks that an operation passes on: those of inputs that it only reshapes, casts or scales."""
        alone = len(inputs) == 1 and inputs[0].numel() == output.numel()
        for tensor, origin in zip(inputs, origins, strict=True):
            if origin.marks and (alone or tensor.shape == output.shape):
                yield from origin.marks.items()
