"""What is captured while the block runs: tensors joined over the calls of the UNet, and the prompts. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from unetinspect.capturing.captured import Captured, Captures
from unetinspect.capturing.taps import At, FeatureTap, MapTap, SkipTap, Steps, Tap
from unetinspect.capturing.words import Prompt, read_prompts


class Seen(Captures):
    """What was captured, inside the block so far.

    Attributes:
        notes: What a reader should know.
    """

    def __init__(self, taps: Sequence[Tap], tokenizer: Any) -> None:
        self.notes: tuple[str, ...] = ()
        self._taps = taps
        self._tokenizer = tokenizer
        self._texts: list[Tensor] = []
        self._entries: dict[Any, _Entry] = {}
        self._finished: dict[type[Tap], tuple[Captured, ...]] = {}

    @property
    def maps(self) -> tuple[Captured, ...]:
        """One for each attention layer, and each of its products: tap by tap, in the order of computation."""
        return self._captured(MapTap)

    @property
    def features(self) -> tuple[Captured, ...]:
        """One for each module, in the order of the taps and of their paths."""
        return self._captured(FeatureTap)

    @property
    def skips(self) -> tuple[Captured, ...]:
        """One for each skip: tap by tap, in the order in which they are consumed."""
        return self._captured(SkipTap)

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The texts that the pipeline's text encoder has read."""
        return read_prompts(self._tokenizer, [row for ids in self._texts for row in ids.tolist()])

    def keep(self, tap: Tap, at: At, tensor: Tensor, axes: tuple[str, ...], **kept: Any) -> None:
        """Add a tensor to what was captured at one place; one of another shape begins anew, at a place of its own."""
        place = (id(tap), at.path, at.kind, at.product, kept["execution"], kept.get("source"), tensor.shape)
        if place not in self._entries:
            axes = ("step", *axes) if tap.steps is None else axes
            number = next(number for number, known in enumerate(self._taps) if known is tap)
            about = Captured(at.path, at.kind, at.stage, axes, None, at.grid, (), (), product=at.product, tap=number, **kept)
            self._entries[place] = _Entry(tap, about)
        self._entries[place].add(tensor, at)

    def read(self, input_ids: Tensor) -> None:
        """Note what the text encoder reads, (prompt, token)."""
        self._texts.append(input_ids)

    def finish(self) -> None:
        """Join the calls for good."""
        for kind in (MapTap, FeatureTap, SkipTap):
            self._finished[kind] = self._captured(kind, last=True)
        self._entries.clear()

    def _captured(self, kind: type[Tap], *, last: bool = False) -> tuple[Captured, ...]:
        if kind in self._finished:
            return self._finished[kind]
        found = []
        for entry in sorted((entry for entry in self._entries.values() if isinstance(entry.tap, kind)), key=self._place):
            found.append(entry.captured())
            if last:  # one by one: what was joined and what it becomes are never all there at once
                entry.tensors.clear()
        return tuple(found)

    def _place(self, entry: _Entry) -> tuple[int, int]:
        about, tap = entry.about, entry.tap
        return about.tap, tap.paths.index(about.path) if isinstance(tap, FeatureTap) else 0


@dataclass
class _Entry:
    """What was captured at one place, with one shape, of the calls so far; a sum for their mean."""

    tap: Tap
    about: Captured  # all but the tensor, the calls and the timesteps
    tensors: list[Tensor] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    timesteps: list[Any] = field(default_factory=list)

    def add(self, tensor: Tensor, at: At) -> None:
        self.calls.append(at.call)
        if at.timestep is not None:
            self.timesteps.append(at.timestep)
        steps: Steps = self.tap.steps
        if steps is None or not self.tensors:
            self.tensors.append(tensor)
        elif steps == "last":
            self.tensors, self.calls, self.timesteps = [tensor], self.calls[-1:], self.timesteps[-1:]
        elif tensor.requires_grad:
            self.tensors = [self.tensors[0] + tensor]
        else:  # in place: two of a large map would be alive otherwise
            self.tensors[0].add_(tensor)

    def captured(self) -> Captured:
        steps = self.tap.steps
        tensor = torch.stack(self.tensors) if steps is None else self.tensors[0]
        tensor = tensor / len(self.calls) if steps == "mean" else tensor
        # Reading a timestep waits for its device: not before somebody asks.
        times = [torch.as_tensor(time).flatten()[0] for time in self.timesteps]
        timesteps = tuple(float(time) for time in times if not time.is_meta)
        return replace(self.about, tensor=tensor, calls=tuple(self.calls), timesteps=timesteps)
