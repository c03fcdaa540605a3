"""Follows the axis of a video's frames through a forward pass, so that attention along it can be told from attention in space.

A tensor's axes are written as factors: (batch * frames, channels, height * width) is [[batch, frames], [channels],
[height, width]], each with its length. Reshaping splits and merges factors, permuting moves them, and every other
operation that keeps the number of axes keeps what they mean. Shapes alone could not tell: 16 frames look like 4 x 4 pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
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

    def __init__(self, inputs: Iterable[tuple[Tensor, int]]) -> None:
        """Start from the inputs that have such an axis, each with its place among the tensor's axes."""
        self._axes: TensorTable[Axes] = TensorTable()
        for tensor, axis in inputs:
            self._axes[tensor] = tuple((Factor(place == axis, length),) for place, length in enumerate(tensor.shape))

    def apply(self, op: str, args: tuple[Any, ...], inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> None:
        """Follow the axes through one operation."""
        operands = [(tensor, axes) for tensor in inputs if (axes := self._axes.get(tensor)) is not None]
        if not operands:
            return
        for result in outputs:
            axes = self._after(op, args, operands, tuple(result.shape))
            if axes is not None:
                self._axes[result] = axes

    def same_axes(self, tensor: Tensor, result: Tensor) -> None:
        """Let a result have the axes of a tensor, the last one (its channels) apart."""
        axes = self._axes.get(tensor)
        if axes is not None:
            self._axes[result] = _kept(axes, tuple(result.shape))

    def is_along_frames(self, query: Tensor, axis: int = -2) -> bool:
        """Tell whether the queries, which an axis of (..., query_tokens, head_dim) counts, are frames and nothing else."""
        axes = self._axes.get(query)
        if axes is None:
            return False
        tokens = axes[axis]
        return any(factor.is_frames for factor in tokens) and all(factor.is_frames or factor.length == 1 for factor in tokens)

    @staticmethod
    def _after(name: str, args: tuple[Any, ...], operands: list[tuple[Tensor, Axes]], shape: Shape) -> Axes | None:
        _, axes = operands[0]
        if name in _REGROUPING:
            return regroup(axes, shape)
        if name == "permute":
            return tuple(axes[place] for place in args[1])
        if name == "transpose":
            return _swapped(axes, args[1], args[2])
        if name == "t":
            return axes[::-1]
        same = [(operand.shape, axes) for operand, axes in operands if operand.ndim == len(shape)]
        exact = [axes for operand_shape, axes in same if operand_shape == shape]
        return _kept(exact[0] if exact else same[0][1], shape) if same else None


def regroup(axes: Iterable[Sequence[Factor]], shape: Shape) -> Axes | None:
    """Return the axes of a tensor that was reshaped, None where a factor would have to be torn in uneven parts, or it is empty.

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
            taken = factor.length if missing % factor.length == 0 else missing
            if factor.length % taken:
                return None
            group.append(Factor(factor.is_frames, taken))
            if taken < factor.length:
                factors.append(Factor(factor.is_frames, factor.length // taken))
            missing //= taken
        # Factors of length 1 (one frame) go to the axes of that length that follow next, one each; what is too many stays here.
        waiting = _ones_first(shape[place + 1 :])
        while factors and factors[-1].length == 1 and (not group or _ones_first(f.length for f in reversed(factors)) > waiting):
            group.append(factors.pop())
        grouped.append(tuple(group))
    return tuple(grouped)


def _ones_first(lengths: Iterable[int]) -> int:
    """Count the lengths of 1 before the first that is longer."""
    return sum(1 for _ in takewhile(lambda length: length == 1, lengths))


def _kept(axes: Axes, shape: Shape) -> Axes:
    """Return the same axes where an operation changed their lengths: pixels that were halved, channels, frames that were cut."""
    return tuple(
        axis if _length(axis) == length else (Factor(len(axis) == 1 and axis[0].is_frames, length),)
        for axis, length in zip(axes, shape, strict=True)
    )


def _length(axis: Sequence[Factor]) -> int:
    product = 1
    for factor in axis:
        product *= factor.length
    return product


def _swapped(axes: Axes, first: int, second: int) -> Axes:
    swapped = list(axes)
    swapped[first], swapped[second] = swapped[second], swapped[first]
    return tuple(swapped)
