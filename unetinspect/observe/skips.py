"""Finds skips: a tensor that one stage made and a much later one concatenates to data that was derived from it in between.

The rule, at every concatenation along the channels (dim 1): an operand is a skip if one of its nearest sources is an ancestor
of the other operand, or if both are the same tensor. In a UNet the hidden states of the up path were derived from everything
that the down blocks pushed. Two streams that run down side by side and feed each other have that property too
(ControlNet-XS concatenates the UNet's data to its control stream). But a UNet always concatenates its skips at the same place
among the operands: a tensor at another place than the last skip of the up path is not a skip.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from unetinspect.observe.calls import CallStack, ModuleCall
from unetinspect.observe.provenance import Origin, Provenance, Step
from unetinspect.observe.tensors import tensors_in
from unetinspect.record import ChangeKind, Shape, SkipChange
from unetinspect.record.stages import StageOf

_CONCAT = "concat"
_CHANGES: dict[ChangeKind, frozenset[str]] = {
    "sum": frozenset({"add", "add_", "sub", "sub_"}),
    "reshape": frozenset(
        {"view", "_unsafe_view", "reshape", "permute", "transpose", "unsqueeze", "squeeze", "expand", "t", "flatten", "repeat"}
    ),
    "slice": frozenset({"slice", "select", "narrow", "split", "split_with_sizes", "chunk", "unbind"}),
    "cast": frozenset({"_to_copy"}),
}
_COPIES = frozenset({"clone", "alias", "detach", "contiguous", "lift_fresh"})


@dataclass(slots=True, eq=False)
class SkipLink:
    """A skip, completed as the pass goes on.

    Attributes:
        sources: The calls that made the skip tensor, in the order in which they returned, except that the call which names
            the skip, to whose output the others were added, comes last.
        place: Index of the skip among the operands, counted from the end; None if all operands were one tensor.
        hidden_channels: Channels of all other operands.
        concat_channels: Channels of the concatenation.
        executing: The call that concatenated.
        changes: What happened to the skip tensor on its way.
        target: The call that consumed the concatenation.
        conv_channels: Input channels of the first convolution in the target.
        shortcut: The call of a further 1x1 convolution in the target with as many input channels as the concatenation.
    """

    sources: tuple[ModuleCall, ...]
    skip_shape: Shape
    place: int | None
    hidden_channels: int
    concat_channels: int
    executing: ModuleCall
    changes: tuple[SkipChange, ...]
    target: ModuleCall | None = None
    conv_channels: int | None = None
    shortcut: ModuleCall | None = None


class SkipWatch:
    """Collects the skips of one pass.

    Attributes:
        produced: For each tensor that a stage returned as a skip, the calls that made it, and its shape.
    """

    def __init__(self, provenance: Provenance, stack: CallStack, stage_of: StageOf, main_input: int) -> None:
        self.produced: dict[tuple[ModuleCall, ...], Shape] = {}
        self._links: list[SkipLink] = []
        self._provenance = provenance
        self._stack = stack
        self._stage_of = stage_of
        self._main_input = main_input
        self._targets: dict[ModuleCall, SkipLink] = {}
        self._offered: dict[int, tuple[ModuleCall, ...]] = {}
        self._read: set[tuple[ModuleCall, ...]] = set()

    def on_operation(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Look at a concatenation, which may consume a skip, or at a convolution, which may read one."""
        if func is torch.ops.aten.cat.default:
            operands = args[0] if args else kwargs["tensors"]
            self._on_concat(operands, args[1] if len(args) > 1 else kwargs.get("dim", 0), output)
        elif func is torch.ops.aten.convolution.default:
            self._on_convolution(weight=args[1], groups=args[8])

    def on_enter(self, call: ModuleCall, given: list[Any], tensors: Sequence[Tensor]) -> None:
        """Note whether a call inside a stage is given a concatenation made outside one, or a tensor that the stage was offered."""
        if self._is_stage(call.path):
            self._offered = {id(tensor): producers for producers, tensor in self._note_produced(given)}
        elif self._stage_of(call.path):
            for tensor in tensors:
                if id(tensor) in self._offered:
                    self._read.add(self._offered[id(tensor)])
                link = self._provenance.of(tensor).marks.get(_CONCAT)
                if link is not None and link.target is None:
                    self._consume(link, call)

    def on_leave(self, call: ModuleCall, output: Any) -> None:
        """Note the skips that a stage returns."""
        if self._is_stage(call.path):
            self._offered = {}
            self._note_produced(output if isinstance(output, tuple | list) else [output])

    def finish(self) -> list[SkipLink]:
        """Return the skips in the order in which they were consumed, without those inside one stage."""
        between = []
        for link in self._links:
            link.target = link.target or link.executing
            if self._stage_of(link.target.path) not in {self._stage_of(source.path) for source in link.sources}:
                between.append(link)
        last_place = next((link.place for link in reversed(between) if link.place is not None), None)
        kept = [link for link in between if link.place in (None, last_place)]
        # ControlNet-XS also offers the tensors of its other stream, which a convolution reads and adds: they are not skips.
        for producers in self._read - {link.sources for link in kept}:
            self.produced.pop(producers, None)
        for link in kept:
            self.produced.setdefault(link.sources, link.skip_shape)
        return kept

    def _on_concat(self, operands: Sequence[Tensor], dim: int, output: Tensor) -> None:
        executing = self._stack.current
        if executing is None or output.ndim < 3 or dim % output.ndim != 1 or len(operands) < 2:
            return
        for place in range(len(operands) - 1, -1, -1):
            skip, others = operands[place], [*operands[:place], *operands[place + 1 :]]
            origin = self._provenance.of(skip)
            below = [self._provenance.of(other) for other in others]
            is_twin = any(other is skip for other in others)
            is_skip = is_twin or any(other.descends_from(call.bit) for call in origin.source_calls for other in below)
            sources = self._producers(origin) if is_skip else ()
            if sources:
                link = SkipLink(
                    sources=sources,
                    skip_shape=tuple(skip.shape),
                    place=None if is_twin else place - len(operands),
                    hidden_channels=sum(other.shape[1] for other in others),
                    concat_channels=output.shape[1],
                    executing=executing,
                    changes=changes_since_source(origin),
                )
                self._links.append(link)
                self._provenance.mark(output, **{_CONCAT: link})
                if self._stage_of(executing.path) and not self._is_stage(executing.path):
                    self._consume(link, executing)
                return

    def _on_convolution(self, weight: Tensor, groups: int) -> None:
        channels = weight.shape[1] * groups
        for call in self._stack.open_calls:
            link = self._targets.get(call)
            if link is None:
                continue
            if link.conv_channels is None:
                link.conv_channels = channels
            elif channels == link.concat_channels and all(side == 1 for side in weight.shape[2:]):
                link.shortcut = self._stack.current

    def _consume(self, link: SkipLink, call: ModuleCall) -> None:
        link.target = call
        self._targets[call] = link

    def _producers(self, origin: Origin) -> tuple[ModuleCall, ...]:
        """Return the calls that made a tensor, the one that names it last; not a stage itself, but the module in it that returned first."""
        first = origin  # what a tensor was before anything was added to it: the first operand of each operation, all the way back
        while first.step is not None and first.step.parents:
            first = first.step.parents[0]
        main = next(iter(first.sources), None)
        producers = []
        for source in sorted(origin.source_calls, key=lambda call: call is main):
            call = source
            while self._is_stage(call.path) and call.inner is not None:
                call = call.inner
            producers.append(call)
        return tuple(producers)

    def _note_produced(self, values: Iterable[Any]) -> list[tuple[tuple[ModuleCall, ...], Tensor]]:
        """Note the tensors in tuples or lists, among what a stage was given or returned, that descend from the main input."""
        noted = []
        for value in values:
            for tensor in tensors_in(value) if isinstance(value, tuple | list) else ():
                origin = self._provenance.of(tensor)
                producers = self._producers(origin)
                if producers and origin.descends_from(self._main_input):
                    self.produced.setdefault(producers, tuple(tensor.shape))
                    noted.append((producers, tensor))
        return noted

    def _is_stage(self, path: str) -> bool:
        return bool(path) and self._stage_of(path) == path


def changes_since_source(origin: Origin) -> tuple[SkipChange, ...]:
    """List what was done to a tensor since its nearest sources, in that order; nothing if a module returned it as it is.

    The operations are those along which the tensor itself was passed on. What is done between two sums is one filter if any
    of it is a Fourier transform.
    """
    steps: list[Step] = []
    step = origin.step
    while step is not None:
        steps.append(step)
        step = step.parents[0].step if step.parents else None
    changes: list[SkipChange] = []
    for is_sum, group in groupby(reversed(steps), key=_is_sum):
        run = list(group)
        if not is_sum and any("fft" in step.op for step in run):
            changes.append(SkipChange(kind="filter", shape=run[-1].shape, ops=tuple(step.op for step in run)))
        else:
            for part in [[step] for step in run] if is_sum else [run]:
                changes += _changes(part)
    return tuple(changes)


def _changes(steps: Iterable[Step]) -> Iterator[SkipChange]:
    for kind, group in groupby((step for step in steps if step.op not in _COPIES), key=_change_kind):
        part = list(group)
        if kind == "reshape" and part[-1].shape == _shape_before(part[0]):
            continue
        added = [source for parent in part[0].parents[1:] for source in parent.sources] if kind == "sum" else []
        names = sorted(source.path if isinstance(source, ModuleCall) else source for source in added)
        yield SkipChange(kind=kind, with_=tuple(names), shape=part[-1].shape, ops=tuple(step.op for step in part))


def _is_sum(step: Step) -> bool:
    return step.op in _CHANGES["sum"] and len(step.parents) > 1


def _change_kind(step: Step) -> ChangeKind:
    if _is_sum(step):
        return "sum"
    return next((kind for kind, ops in _CHANGES.items() if step.op in ops and kind != "sum"), "other")


def _shape_before(step: Step) -> Shape | None:
    parent = step.parents[0] if step.parents else None
    if parent is None:
        return None
    return parent.step.shape if parent.step is not None else parent.returned.out_shape if parent.returned is not None else None
