"""Writes what a box says of itself, its channels and attention layers, above its rows, in as few lines as a width allows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from msgspec.structs import replace

from unetinspect.drawing.terminal.cards import Card, Row
from unetinspect.terminal import cells

_Piece = tuple[str, str]


def told(cards: Sequence[Card], width: int) -> list[Card]:
    """Return the cards of a column of a width with their summaries as their first rows."""
    titled = _are_titled(cards, width)
    return [_told(card, width, titled=titled) for card in cards]


def widths(columns: Sequence[Sequence[Card]], least: Sequence[int], room: int) -> tuple[int, ...]:
    """Return how wide columns become that have some room together: the fewest lines, and of those ways the narrowest.

    Args:
        columns: The cards of each, their summaries not told yet.
        least: What each needs, columns of the terminal.
        room: What they may grow by together.
    """
    growths = range(max(room, 0) + 1)
    lines = [
        [sum(len(card.rows) for card in told(cards, width + by)) for by in growths] for cards, width in zip(columns, least, strict=True)
    ]
    ways = [way for way in product(growths, repeat=len(columns)) if sum(way) <= max(room, 0)]
    best = min(ways, key=lambda way: (sum(column[by] for column, by in zip(lines, way, strict=True)), sum(way)))
    return tuple(width + by for width, by in zip(least, best, strict=True))


def _are_titled(cards: Sequence[Card], width: int) -> bool:
    """Return whether the channels of all can stand in their frames: all do, or none."""
    return all(cells(card.title) + cells(_place(card)) + 6 <= width for card in cards if card.channels)


def _place(card: Card) -> str:
    return ", ".join(filter(None, (card.size, card.channels)))


def _told(card: Card, width: int, *, titled: bool) -> Card:
    size, channels = (_place(card), "") if titled else (card.size, card.channels)
    lines = _lines([(channels, "")] if channels else [], card.marks, width - 4)
    rows = [Row(", ".join(text for text, _ in line), pieces=tuple(line)) for line in lines]
    return replace(card, size=size, rows=(*rows, *card.rows), channels="", marks=())


def _lines(channels: Sequence[_Piece], marks: Sequence[_Piece], width: int) -> list[list[_Piece]]:
    """Fold a summary; the channels have a line of their own where that takes no more lines."""
    apart, together = [*_folded(channels, width), *_folded(marks, width)], _folded([*channels, *marks], width)
    return min(apart, together, key=len)


def _folded(pieces: Sequence[_Piece], width: int) -> list[list[_Piece]]:
    lines: list[list[_Piece]] = []
    for piece in pieces:
        if lines and cells(", ".join(text for text, _ in (*lines[-1], piece))) <= width:
            lines[-1].append(piece)
        else:
            lines.append([piece])
    return lines
