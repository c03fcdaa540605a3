"""Which parts of two UNets correspond: a sequence alignment by depth, channels and class.

Names do not show it: BK-SDM-Tiny's `up_blocks.0` corresponds to Stable Diffusion's `up_blocks.1`, because a level is missing.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, log2
from typing import TypeVar

from unetinspect.record import Module, Shape, Stage
from unetinspect.record.run import channels_of

# The cost of a part without a partner: two parts are partners if they cost less than twice this.
_ALONE = 4.0
_LEVEL = 4.0
_NAME = 6.0
_SKIP = 3.0
_MOST_OCTAVES = 3.0
_ROUNDED = 0.5

Key = TypeVar("Key", bound=Hashable)
Part = TypeVar("Part")
Pair = tuple[Part | None, Part | None]


@dataclass(frozen=True, slots=True)
class Place:
    """What decides whether two parts correspond.

    Attributes:
        in_level: How often the sample was halved before it; None: its input has no spatial axes.
        out_level: The same of its output.
        in_channels: Channels of its input, or None.
        out_channels: Channels of its output, or None.
        skip_from: What makes the skip that it consumes: "layer", "sampler", "conv"; "": it consumes none.
        number: Its place in its list, counted from the outside of the U.
    """

    name: str
    class_name: str
    in_level: float | None
    out_level: float | None
    in_channels: int | None
    out_channels: int | None
    skip_from: str = ""
    number: int = 0

    @classmethod
    def of(cls, part: Stage | Module, size: Shape, *, name: str, number: int, skip_from: str = "") -> Place:
        """Return the place of a stage or a module in a pass with a sample of some size."""
        levels = level(part.in_shape, size), level(part.out_shape, size)
        widths = channels_of(part.in_shape, size), channels_of(part.out_shape, size)
        return cls(name, part.class_name, *levels, *widths, skip_from, number)

    @property
    def base(self) -> str:
        """The name without its number: "down_block" of "down_blocks.0"."""
        first, _, last = self.name.rpartition(".")
        return (first if last.isdigit() else self.name).removesuffix("s")


def level(shape: Shape | None, sample_size: Shape) -> float | None:
    """Return how often the sample was halved to get a shape, (batch, channels, ..., *space); None: no spatial axes.

    >>> level((2, 1280, 8, 8), (64, 64)), level((2, 1280), (64, 64)), level((1, 128, 32768), (65536,))
    (3.0, None, 1.0)
    """
    if shape is None or len(shape) < 2 + len(sample_size):
        return None
    space = shape[-len(sample_size) :]
    if min(*space, *sample_size) < 1:  # only in a saved trace that somebody edited
        return None
    return sum(log2(whole / part) for whole, part in zip(sample_size, space, strict=True)) / len(space)


def alike(a: Shape | None, b: Shape | None, size_a: Shape, size_b: Shape) -> bool:
    """Return whether two shapes differ only in the batch and the size of the sample: channels and level are the same.

    >>> alike((2, 640, 16, 16), (8, 640, 24, 24), (64, 64), (96, 96)), alike((2, 640, 16, 16), (2, 640, 24, 24), (64, 64), (64, 64))
    (True, False)
    """
    if a is None or b is None or size_a == size_b:
        return a is b or (a is not None and b is not None and a[1:] == b[1:])
    levels = level(a, size_a), level(b, size_b)
    if levels[0] is None or levels[1] is None:
        return levels == (None, None) and a[1:] == b[1:]
    # An odd side is rounded up when halved.
    return channels_of(a, size_a) == channels_of(b, size_b) and abs(levels[0] - levels[1]) < _ROUNDED


def cost(a: Place, b: Place) -> float:
    """Return how different two places are, regardless of their order."""
    if a.base != b.base and a.class_name != b.class_name:
        return inf
    return (
        _NAME * (a.base != b.base)
        + (a.class_name != b.class_name)
        + _LEVEL * _apart(a.in_level, b.in_level)
        + _apart(a.out_level, b.out_level)
        + _octaves(a.out_channels, b.out_channels)
        + 0.5 * _octaves(a.in_channels, b.in_channels)
        + _SKIP * (a.skip_from != b.skip_from)
        + 0.01 * abs(a.number - b.number)
    )


def align(a: Sequence[Place], b: Sequence[Place]) -> list[Pair[Place]]:
    """Pair two sequences, each in its order; parts without a partner are paired with None.

    Sequences with the same names are paired one to one: levels cannot improve on that, and tiny sizes have none.
    """
    names = [[place.name for place in side] for side in (a, b)]
    if names[0] == names[1]:
        return list(zip(a, b, strict=True))
    # Of alignments with the same cost the search prefers one, which must not depend on which side is A.
    if names[0] > names[1]:
        return [(mine, other) for other, mine in _search(b, a)]
    return _search(a, b)


def merged(a: Mapping[Key, Part], b: Mapping[Key, Part], partner: Mapping[Key, Key]) -> list[Pair[Part]]:
    """Put the parts of both into one order: that of A, and parts only in B after the part that they follow in B.

    >>> merged({"x": 1, "y": 2}, {"x": 3, "z": 4}, {"x": "x"})
    [(1, 3), (2, None), (None, 4)]
    """
    order: list[Pair[Key]] = [(key, partner.get(key)) for key in a]
    paired = set(partner.values())
    spot = 0
    for key in b:
        if key in paired:
            spot = next(place for place, pair in enumerate(order) if pair[1] == key) + 1
            continue
        while spot < len(order) and order[spot][1] is None:
            spot += 1
        order.insert(spot, (None, key))
        spot += 1
    return [(None if mine is None else a[mine], None if other is None else b[other]) for mine, other in order]


def _search(a: Sequence[Place], b: Sequence[Place]) -> list[Pair[Place]]:
    best = [[_ALONE * (row + column) for column in range(len(b) + 1)] for row in range(len(a) + 1)]
    for row, mine in enumerate(a, 1):
        for column, other in enumerate(b, 1):
            alone = min(best[row - 1][column], best[row][column - 1]) + _ALONE
            best[row][column] = min(best[row - 1][column - 1] + cost(mine, other), alone)
    pairs: list[Pair[Place]] = []
    row, column = len(a), len(b)
    while row and column:
        if best[row][column] == best[row - 1][column - 1] + cost(a[row - 1], b[column - 1]):
            row, column = row - 1, column - 1
            pairs.append((a[row], b[column]))
        elif best[row][column] == best[row - 1][column] + _ALONE:
            row -= 1
            pairs.append((a[row], None))
        else:
            column -= 1
            pairs.append((None, b[column]))
    pairs += [(place, None) for place in reversed(a[:row])] + [(None, place) for place in reversed(b[:column])]
    return pairs[::-1]


def _apart(a: float | None, b: float | None) -> float:
    if a is None or b is None:
        return 0.5 * ((a is None) != (b is None))
    return abs(a - b)


def _octaves(a: int | None, b: int | None) -> float:
    return min(abs(log2(a / b)), _MOST_OCTAVES) if a and b else 0.0
