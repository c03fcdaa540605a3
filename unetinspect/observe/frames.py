"""Follows the axis of a video's frames through a forward pass, to distinguish attention along it from attention in space.

A tensor's axes are written as factors: (batch * frames, channels, height * width) is [[batch, frames], [channels],
[height, width]], each with its length. Reshaping splits and merges factors, permuting moves them, and every other
operation that keeps the number of axes keeps their meaning. Shapes alone are ambiguous: 16 frames look like 4 x 4 pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from math import prod
from typing import Any, NamedTuple

from torch import Tensor

from unetinspect.observe.tensors import TensorTable
from unetinspect.record import Shape

_REGROUPING = frozenset({"view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "flatten", "_reshape_alias", "unflatten"})


class Factor(NamedTuple):
    """A part of an axis: whether it counts frames, and its length."""

    is_frames: bool
    length: int


Axes = tuple[tuple[Factor, ...], ...]


class FrameAxis:
    """Which axes of which tensors count frames, in one forward pass."""

    def __init__(self, inputs: Mapping[str, Tensor], frame_axes: Mapping[str, int]) -> None:
        """Start from the inputs that have such an axis, by name with the index of that axis; an image UNet has none."""
        self._axes: TensorTable[Axes] = TensorTable()
        self._is_video = bool(frame_axes)
        for name, axis in frame_axes.items():
            tensor = inputs[name]
            self._axes[tensor] = tuple((Factor(place == axis, length),) for place, length in enumerate(tensor.shape))

    def apply(self, op: str, args: tuple[Any, ...], inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> None:
        """Follow the axes through one operation."""
        if not self._is_video:
            return
        operands = [(tensor, axes) for tensor in inputs if (axes := self._axes.get(tensor)) is not None]
        if not operands:
            return
        for result in outputs:
            axes = self._after(op, args, operands, tuple(result.shape))
            if axes is not None:
                self._axes[result] = axes

    def same_axes(self, tensor: Tensor, result: Tensor) -> None:
        """Give a result the axes of a tensor, except for the length of the last one, its channels."""
        axes = self._axes.get(tensor)
        if axes is not None:
            self._axes[result] = _kept(axes, tuple(result.shape))

    def is_along_frames(self, query: Tensor, axis: int = -2) -> bool:
        """Return whether the queries, the axis given of (..., query_tokens, head_dim), are frames and nothing else."""
        axes = self._axes.get(query)
        if axes is None:
            return False
        tokens = axes[axis]
        return any(factor.is_frames for factor in tokens) and all(factor.is_frames or factor.length == 1 for factor in tokens)

    @staticmethod
    def _after(op: str, args: tuple[Any, ...], operands: list[tuple[Tensor, Axes]], shape: Shape) -> Axes | None:
        _, axes = operands[0]
        if op in _REGROUPING:
            return regroup(axes, shape)
        if op == "permute":
            return tuple(axes[place] for place in args[1])
        if op == "transpose":
            swapped = list(axes)
            swapped[args[1]], swapped[args[2]] = axes[args[2]], axes[args[1]]
            return tuple(swapped)
        if op == "t":
            return axes[::-1]
        same = [(operand.shape, axes) for operand, axes in operands if operand.ndim == len(shape)]
        exact = [axes for operand_shape, axes in same if operand_shape == shape]
        return _kept(exact[0] if exact else same[0][1], shape) if same else None


def regroup(axes: Iterable[Sequence[Factor]], shape: Shape) -> Axes | None:
    """Return the axes of a reshaped tensor; None if a factor would be split unevenly, or the tensor is empty.

    >>> frames, rest = Factor(True, 4), Factor(False, 6)
    >>> regroup([[rest], [frames]], (24,)) == ((rest, frames),)
    True
    >>> regroup([[rest, frames]], (2, 3, 4)) == ((Factor(False, 2),), (Factor(False, 3),), (frames,))
    True
    """
    if 0 in shape:
        return None
    factors = [factor for axis in axes for factor in axis][::-1]
    grouped = []
    for place, length in enumerate(shape):
        group, missing = [], length
        while missing > 1:
            if not factors:
                return None
            factor = factors.pop()
            part = factor.length if missing % factor.length == 0 else missing
            if factor.length % part:
                return None
            group.append(Factor(factor.is_frames, part))
            if part < factor.length:
                factors.append(Factor(factor.is_frames, factor.length // part))
            missing //= part
        # Factors of length 1 (one frame) go to the next axes of that length, one each; surplus ones stay here.
        waiting = _ones_first(shape[place + 1 :])
        while factors and factors[-1].length == 1 and (not group or _ones_first(f.length for f in reversed(factors)) > waiting):
            group.append(factors.pop())
        grouped.append(tuple(group))
    return tuple(grouped)


def _ones_first(lengths: Iterable[int]) -> int:
    """Count the lengths of 1 before the first that is longer."""
    return sum(1 for _ in takewhile(lambda length: length == 1, lengths))


def _kept(axes: Axes, shape: Shape) -> Axes:
    """Return the axes after an operation that changed their lengths: downsampled pixels, projected channels, dropped frames."""
    return tuple(
        axis if prod(factor.length for factor in axis) == length else (Factor(len(axis) == 1 and axis[0].is_frames, length),)
        for axis, length in zip(axes, shape, strict=True)
    )
