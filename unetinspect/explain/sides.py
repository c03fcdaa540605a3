"""Which sides of a sample leave a skip and the hidden states that it meets at different sizes."""

from __future__ import annotations

from collections.abc import Iterator

_MOST_HALVINGS = 5


def sides_to(expected: int, got: int) -> Iterator[range]:
    """Yield the sides of a sample with which hidden states of `expected` meet a skip of `got`, for each level where that can be.

    Halving an odd side rounds up (a convolution with padding 1) or down; doubling cannot make it odd again.

    >>> list(sides_to(8, 7))[:3], list(sides_to(24, 25))[:2]
    ([range(7, 8), range(13, 15), range(25, 29)], [range(25, 26), range(50, 52)])
    """
    if got % 2 and abs(expected - got) == 1:
        for scale in (2**level for level in range(_MOST_HALVINGS)):
            yield range((got - 1) * scale + 1, got * scale + 1) if expected > got else range(got * scale, (got + 1) * scale)


def written_sides(expected: int, got: int) -> str:
    """Write these sides: "7, 13 to 14, 25 to 28, 49 to 56, 97 to 112"."""
    return ", ".join(f"{sides[0]} to {sides[-1]}" if len(sides) > 1 else str(sides[0]) for sides in sides_to(expected, got))
