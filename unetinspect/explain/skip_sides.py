"""Which sides of a sample leave a skip and the hidden states that it meets at different sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from unetinspect.catalog import Entry, load_catalog
from unetinspect.unets.builder import is_list

# Blocks that halve by a pooling or a filter, which rounds down, whatever downsample_padding says.
_ROUND_DOWN = ("ResnetDownsample", "SimpleCrossAttn", "Skip")


class Sides(NamedTuple):
    """Sides of a sample that lead to one such meeting: from `first` to `last`, and the nearest that run."""

    first: int
    last: int
    below: int
    above: int


def sides_to(expected: int, got: int, halvings: int) -> tuple[Sides, ...]:
    """Find the sides that a U which halves so often brings to hidden states of `expected` and a skip of `got`.

    Halving an odd side rounds up (a convolution with padding 1) or down; doubling cannot make it odd again. Those levels
    that lie deeper ran before, so that all their sides are even.

    >>> sides_to(8, 7, 2)
    (Sides(first=7, last=7, below=4, above=8), Sides(first=13, last=14, below=12, above=16))
    >>> sides_to(24, 25, 3)[1:]
    (Sides(first=50, last=51, below=48, above=56), Sides(first=100, last=103, below=96, above=104))
    """
    if got % 2 == 0 or abs(expected - got) != 1:
        return ()
    return tuple(
        _at_level(expected, got, level, 2**halvings) for level in range(halvings) if expected // 2 % 2 ** (halvings - level - 1) == 0
    )


def _at_level(expected: int, got: int, level: int, step: int) -> Sides:
    scale = 2**level
    first, last = ((got - 1) * scale + 1, got * scale) if expected > got else (got * scale, (got + 1) * scale - 1)
    return Sides(first, last, first // step * step, -(-last // step) * step)


class Rigid(NamedTuple):
    """A catalog model that takes no odd sides: how often it halves, and whether it rounds up."""

    entry: Entry
    halvings: int
    rounds_up: bool


def rigid_models() -> Iterator[Rigid]:
    """Yield the models of the catalog that do not pass on the size of their skips to what doubles the hidden states."""
    for entry in load_catalog().values():
        kinds = entry.config.get("down_block_types")
        if not is_list(kinds) or entry.class_name not in ("UNet2DModel", "UNet2DConditionModel"):
            continue
        down = any(mark in str(kind) for kind in kinds for mark in _ROUND_DOWN)
        if entry.class_name == "UNet2DModel" or down:
            yield Rigid(entry, len(kinds) - 1, not down and entry.config.get("downsample_padding", 1) != 0)
