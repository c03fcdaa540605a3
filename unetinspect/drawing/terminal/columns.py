"""Stands the cards of a U in two columns whose rows are level where a skip goes from one to the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from unetinspect.drawing.outline import Box
from unetinspect.drawing.terminal.cards import Card, Row, joint


class Item(Struct, frozen=True):
    """One line of a column.

    Attributes:
        kind: The frame's top or bottom, a row, or what is between two cards: an arrow's head, its line, words, nothing.
        card: The card; None between cards.
        row: The row; None where a card has room to spare.
        text: Words beside an arrow.
        near: The cards above and below, where it stands between cards.
    """

    kind: Literal["top", "row", "bottom", "arrow", "line", "words", "blank"]
    card: Card | None = None
    row: Row | None = None
    text: str = ""
    near: tuple[Card | None, Card | None] = (None, None)


BLANK = Item("blank")


def left_column(cards: Sequence[Card], after: Card | None, arrow: str) -> list[Item]:
    """Return the lines of the way down, with what leads in and out; `after` is what runs next."""
    items: list[Item] = []
    if not cards:
        return items
    for upper, lower in zip([None, *cards], [*cards, None], strict=True):
        following = lower or after
        if upper is not None or following is not None:
            items += _between(joint(upper, following, arrow), (upper, lower))
        items += _card(lower) if lower else []
    if items and after and after.side == "right" and items[-1].kind == "arrow":
        items[-1] = replace(items[-1], kind="line")  # it goes on below, and up
    return items


def right_column(cards: Sequence[Card], before: Card | None, arrow: str) -> list[Item]:
    """Return the lines of the way up, from the top down; `before` is what ran before it."""
    upward = list(reversed(cards))
    items: list[Item] = []
    if not cards:
        return items
    for upper, lower in zip([None, *upward], [*upward, None], strict=True):
        earlier = lower or before
        if upper is not None or earlier is not None:
            items += reversed(_between(joint(earlier, upper, arrow), (upper, lower)))
        items += _card(lower) if lower else []
    return items


def _between(words: list[tuple[bool, str]], near: tuple[Card | None, Card | None]) -> list[Item]:
    return [Item("arrow" if is_arrow else "words", text=text, near=near) for is_arrow, text in words]


def _card(card: Card) -> list[Item]:
    return [Item("top", card), *(Item("row", card, row) for row in card.rows), Item("bottom", card)]


class _Column:
    """A column that is being filled up."""

    def __init__(self, items: Sequence[Item], *, upward: bool) -> None:
        self._items = list(items)
        self._upward = upward
        self.placed: list[Item] = []
        self._start = 0

    def advance(self, number: int | None) -> None:
        """Place everything above the row of a link, or all that is left."""
        self._start = len(self.placed)
        while self._items and not _is_end(self._items[0], number):
            self.placed.append(self._items.pop(0))

    def pad(self, height: int) -> None:
        """Make room above the next row: with a longer arrow, else an empty line of the card."""
        card = self._items[0].card if self._items else None
        missing = max(height - len(self.placed), 0)
        heads = [place for place, item in enumerate(self.placed) if place >= self._start and item.kind in ("arrow", "line", "words")]
        if self._start == 0:
            self.placed[:0] = [BLANK] * missing
        elif heads or card is None:
            self._lengthen(heads[-1] if heads else len(self.placed), missing)
        else:
            self.placed += [Item("row", card)] * missing

    def _lengthen(self, place: int, missing: int) -> None:
        """Put lines between two cards: behind the arrow's head, which stands on top where the flow goes up."""
        between = self.placed[place] if place < len(self.placed) else BLANK
        line = Item("line", near=between.near) if between.kind in ("arrow", "line") else BLANK
        place += self._upward
        self.placed[place:place] = [line] * missing

    def take(self) -> None:
        """Place the row that stood next."""
        self.placed.append(self._items.pop(0))


def _is_end(item: Item, number: int | None) -> bool:
    return number is not None and item.row is not None and item.row.link is not None and item.row.link.number == number


def level(left: Sequence[Item], right: Sequence[Item], drawn: Sequence[int]) -> tuple[list[Item], list[Item]]:
    """Place the lines of both columns so that both ends of each drawn link, from the top down, stand on one line."""
    columns = _Column(left, upward=False), _Column(right, upward=True)
    for number in drawn:
        for column in columns:
            column.advance(number)
        height = max(len(column.placed) for column in columns)
        for column in columns:
            column.pad(height)
            column.take()
    for column in columns:
        column.advance(None)
    height = max(len(column.placed) for column in columns)
    for column in columns:
        column.pad(height)
    return columns[0].placed, columns[1].placed


def beside(left: Sequence[Item], card: Card) -> tuple[list[Item], list[Item]]:
    """Place a card of branches so that the rows of each box begin level with the first card on the left of its size.

    The last branch leaves what is between down and up, where there is such a card.
    """
    right: list[Item] = []
    each = len(card.rows) // len(card.boxes)
    for place, box in enumerate(card.boxes):
        height = _height_of(left, box, is_last=box is card.boxes[-1])
        if place == 0:
            right += [BLANK] * (height - 1) + [Item("top", card)]
        right += [Item("row", card)] * (height - len(right))
        right += [Item("row", card, row) for row in card.rows[place * each : (place + 1) * each]]
    right.append(Item("bottom", card))
    height = max(len(left), len(right))
    return [*left, *[BLANK] * (height - len(left))], [*right, *[BLANK] * (height - len(right))]


def _height_of(left: Sequence[Item], box: Box, *, is_last: bool) -> int:
    tops = [(place, item.card) for place, item in enumerate(left) if item.kind == "top" and item.card]
    between = [place for place, card in tops if is_last and card.side == "bottom"]
    return next(iter(between), next((place for place, card in tops if card.boxes[0].size == box.size), 0))
