"""Finds skips: data that one stage made and a much later one concatenated to data that had meanwhile come of it.

The rule, at every concatenation along the channels (dim 1): an operand is a skip if one of its nearest sources is an
ancestor of the other operand, or if both are the same tensor. In a UNet the hidden states that come up from below were
made of everything that the down blocks pushed. Two streams that go down side by side and feed each other have that
property too (ControlNet-XS concatenates the UNet's data to its control stream): a UNet puts its skips always at one place
among the operands, and what stands at another than that of the last one, on the way up, is no skip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unetinspect.observe.calls import CallStack, ModuleCall
from unetinspect.observe.changes import changes_since_source
from unetinspect.observe.provenance import NearestSource, Origin, Provenance
from unetinspect.observe.tensors import tensors_in
from unetinspect.record import Shape, SkipChange

_CONCAT = "concat"


@dataclass(slots=True, eq=False)
class SkipLink:
    """A skip as it was seen: filled in as the pass goes on.

    Attributes:
        sources: The calls that made the skip tensor, in the order in which they returned, but last the one that names it:
            to whose output the others were added.
        place: Where the skip stood among the operands, counted from behind; None where all operands were one tensor.
        skip_shape: The skip tensor.
        hidden_channels: Channels of all other operands.
        concat_channels: Channels of the concatenation.
        executing: The call in which the concatenation was made.
        target: The call that took it.
        conv_channels: Input channels of the first convolution in the target.
        shortcut: The call of a 1x1 convolution that takes the concatenation's channels, beside the first one.
        changes: What happened to the skip tensor on its way.
    """

    sources: tuple[ModuleCall, ...]
    skip_shape: Shape
    place: int | None
    hidden_channels: int
    concat_channels: int
    executing: ModuleCall
    target: ModuleCall | None = None
    conv_channels: int | None = None
    shortcut: ModuleCall | None = None
    changes: tuple[SkipChange, ...] = ()


class SkipWatch:
    """Collects the skips of one pass, and the tensors that stages offered as skips."""

    def __init__(self, provenance: Provenance, stack: CallStack, stage_of: Callable[[str], str | None], main_input: int) -> None:
        self.links: list[SkipLink] = []
        self.produced: dict[tuple[ModuleCall, ...], Shape] = {}
        self._provenance = provenance
        self._stack = stack
        self._stage_of = stage_of
        self._main_input = main_input
        self._targets: dict[ModuleCall, SkipLink] = {}
        self._offered: dict[int, tuple[ModuleCall, ...]] = {}
        self._read: set[tuple[ModuleCall, ...]] = set()

    def on_concat(self, operands: Sequence[Tensor], dim: int, output: Tensor) -> None:
        """Look at a concatenation, and remember it if one of its operands is a skip."""
        executing = self._stack.current
        if executing is None or output.ndim < 3 or dim % output.ndim != 1 or len(operands) < 2:
            return
        for place in range(len(operands) - 1, -1, -1):
            sources = self._skip_sources(operands, place)
            if sources:
                self._add(sources, operands, place, output, executing)
                return

    def on_enter(self, call: ModuleCall, given: list[Any], tensors: Sequence[Tensor]) -> None:
        """Let a call inside a stage take a concatenation that was made outside one, or a tensor that the stage was offered."""
        if self._is_stage(call.path):
            self._offered = {id(tensor): producers for producers, tensor in self._note_produced(given)}
        elif self._stage_of(call.path):
            for tensor in tensors:
                if id(tensor) in self._offered:
                    self._read.add(self._offered[id(tensor)])
                link = self._provenance.of(tensor).marks.get(_CONCAT)
                if link is not None and link.target is None:
                    self._take(link, call)

    def on_leave(self, call: ModuleCall, output: Any) -> None:
        """Note the skips that a stage hands out."""
        if self._is_stage(call.path):
            self._offered = {}
            self._note_produced(output if isinstance(output, tuple | list) else [output])

    def on_convolution(self, weight: Tensor, groups: int) -> None:
        """Hold a convolution's width against the concatenation that its target took."""
        for call in self._stack.open_calls:
            link = self._targets.get(call)
            if link is None:
                continue
            takes = weight.shape[1] * groups
            if link.conv_channels is None:
                link.conv_channels = takes
            elif takes == link.concat_channels and all(side == 1 for side in weight.shape[2:]):
                link.shortcut = self._stack.current

    def finish(self) -> list[SkipLink]:
        """Return the skips in the order in which they were consumed, without those inside one stage."""
        between = []
        for link in self.links:
            link.target = link.target or link.executing
            if self._stage_of(link.target.path) not in {self._stage_of(source.path) for source in link.sources}:
                between.append(link)
        last_place = next((link.place for link in reversed(between) if link.place is not None), None)
        kept = [link for link in between if link.place in (None, last_place)]
        # ControlNet-XS offers its other stream's tensors too, which are read by a convolution and added: no skips here.
        for producers in self._read - {link.sources for link in kept}:
            self.produced.pop(producers, None)
        for link in kept:
            self.produced.setdefault(link.sources, link.skip_shape)
        return kept

    def _skip_sources(self, operands: Sequence[Tensor], place: int) -> tuple[ModuleCall, ...]:
        origin = self._provenance.of(operands[place])
        others = [operand for i, operand in enumerate(operands) if i != place]
        twin = any(other is operands[place] for other in others)
        calls = origin.source_calls
        below = [self._provenance.of(other) for other in others]
        if twin or any(other.descends_from(call.bit) for call in calls for other in below):
            return self._producers(origin)
        return ()

    def _producers(self, origin: Origin) -> tuple[ModuleCall, ...]:
        main = _main_source(origin)
        calls = sorted(origin.source_calls, key=lambda call: call is main)
        return tuple(self._inside_stage(call) for call in calls)

    def _inside_stage(self, call: ModuleCall) -> ModuleCall:
        """Step into a stage that handed on what a module in it returned, so that the module is named."""
        while self._is_stage(call.path) and call.inner is not None:
            call = call.inner
        return call

    def _add(self, sources: tuple[ModuleCall, ...], operands: Sequence[Tensor], place: int, output: Tensor, executing: ModuleCall) -> None:
        others = [operand for i, operand in enumerate(operands) if i != place]
        is_twin = any(other is operands[place] for other in others)
        link = SkipLink(
            sources=sources,
            skip_shape=tuple(operands[place].shape),
            place=None if is_twin else place - len(operands),
            hidden_channels=sum(other.shape[1] for other in others),
            concat_channels=output.shape[1],
            executing=executing,
        )
        link.changes = changes_since_source(self._provenance.of(operands[place]))
        self.links.append(link)
        self._provenance.mark(output, **{_CONCAT: link})
        if self._stage_of(executing.path) and not self._is_stage(executing.path):
            self._take(link, executing)

    def _take(self, link: SkipLink, call: ModuleCall) -> None:
        link.target = call
        self._targets[call] = link

    def _note_produced(self, values: list[Any] | tuple[Any, ...]) -> list[tuple[tuple[ModuleCall, ...], Tensor]]:
        """Count the tensors that stand in a tuple or list beside a stage's own tensors, and come of the main input."""
        noted = []
        for value in values:
            if isinstance(value, tuple | list):
                for tensor in tensors_in(value):
                    origin = self._provenance.of(tensor)
                    producers = self._producers(origin)
                    if producers and origin.descends_from(self._main_input):
                        self.produced.setdefault(producers, tuple(tensor.shape))
                        noted.append((producers, tensor))
        return noted

    def _is_stage(self, path: str) -> bool:
        return bool(path) and self._stage_of(path) == path


def _main_source(origin: Origin) -> NearestSource | None:
    """Return what the tensor was before anything was added to it: the first operand of each operation, all the way back."""
    while origin.step is not None and origin.step.parents:
        origin = origin.step.parents[0]
    return next(iter(origin.sources), None)


def concat_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Sequence[Tensor], int]:
    """Return the operands and the dim of an `aten.cat` call."""
    operands = args[0] if args else kwargs["tensors"]
    dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    return operands, dim


CONCAT_OP = torch.ops.aten.cat.default
CONVOLUTION_OP = torch.ops.aten.convolution.default
