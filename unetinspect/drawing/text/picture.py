"""Draws the cards of a U on a canvas: the down path on the left, the up path on the right, what is between them below both.

The rows of the two columns are level where a skip goes from one to the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from unetinspect.drawing.outline import Level, Outline
from unetinspect.drawing.text.canvas import Canvas, Glyphs
from unetinspect.drawing.text.cards import Card, Cards, Row, joint, widths, with_summaries
from unetinspect.terminal import cells
from unetinspect.views.words import skip_label

_MOST_INDENT = 5
_LEAST_INDENT = 1
_LEAST_GAP = 3
_LEAST_LINE = 5
_GOOD_GAP = 16
_ARM = 4


class Item(Struct, frozen=True):
    """One line of a column.

    Attributes:
        kind: The frame's top or bottom, a row, or what is between two cards: an arrow's head, its line, words, nothing.
        card: None between cards.
        row: None where a card has room to spare.
        near: The cards above and below, where it is between cards.
    """

    kind: Literal["top", "row", "bottom", "arrow", "line", "words", "blank"]
    card: Card | None = None
    row: Row | None = None
    text: str = ""
    near: tuple[Card | None, Card | None] = (None, None)


BLANK = Item("blank")


def path_lines(cards: Sequence[Card], end: Card | None, arrow: str, *, upward: bool) -> list[Item]:
    """Return the lines of a path, from the top down, with what leads in and out.

    `cards` are in execution order; `end` is what runs after the down path, or before the up path.
    """
    items: list[Item] = []
    if not cards:
        return items
    for upper, lower in pairwise([None, *(reversed(cards) if upward else cards), None]):
        first, then = (lower or end, upper) if upward else (upper, lower or end)
        if first is not None or then is not None:
            words = joint(first, then, arrow)
            between = [Item("arrow" if is_arrow else "words", text=text, near=(upper, lower)) for is_arrow, text in words]
            items += reversed(between) if upward else between
        if lower is not None:
            items += [Item("top", lower), *(Item("row", lower, row) for row in lower.rows), Item("bottom", lower)]
    if not upward and end and end.side == "right" and items[-1].kind == "arrow":
        items[-1] = replace(items[-1], kind="line")  # it goes on below, and up
    return items


class _Column:
    """A column that is being filled up."""

    def __init__(self, items: Sequence[Item], *, upward: bool) -> None:
        self._items = list(items)
        self._upward = upward
        self._start = 0
        self.placed: list[Item] = []

    def advance(self, number: int | None) -> None:
        """Place everything above the row of a link, or all that is left."""
        self._start = len(self.placed)
        while self._items:
            row = self._items[0].row
            if row is not None and row.link is not None and row.link.number == number:
                return
            self.placed.append(self._items.pop(0))

    def pad(self, height: int) -> None:
        """Make room above the next row: with a longer arrow, else an empty line of the card."""
        card = self._items[0].card if self._items else None
        missing = max(height - len(self.placed), 0)
        heads = [place for place, item in enumerate(self.placed) if place >= self._start and item.kind in ("arrow", "line", "words")]
        if self._start == 0:
            self.placed[:0] = [BLANK] * missing
        elif heads or card is None:
            place = heads[-1] if heads else len(self.placed)
            between = self.placed[place] if heads else BLANK
            line = Item("line", near=between.near) if between.kind in ("arrow", "line") else BLANK
            # Where the flow goes up, the arrow's head is on top.
            place += self._upward
            self.placed[place:place] = [line] * missing
        else:
            self.placed += [Item("row", card)] * missing

    def take(self) -> None:
        """Place the next row."""
        self.placed.append(self._items.pop(0))


def level(left: Sequence[Item], right: Sequence[Item], drawn: Sequence[int]) -> tuple[list[Item], list[Item]]:
    """Place the lines of both columns so that both ends of each drawn link, from the top down, are on one line."""
    columns = _Column(left, upward=False), _Column(right, upward=True)
    for number in (*drawn, None):
        for column in columns:
            column.advance(number)
        height = max(len(column.placed) for column in columns)
        for column in columns:
            column.pad(height)
            if number is not None:
                column.take()
    return columns[0].placed, columns[1].placed


def beside(left: Sequence[Item], card: Card) -> tuple[list[Item], list[Item]]:
    """Place a card of branches so that the rows of each box begin level with the first card of its size on the left.

    The last branch is level with the card between the down and the up path, if there is one.
    """
    right: list[Item] = []
    each = len(card.rows) // len(card.boxes)
    tops = [(line, item.card) for line, item in enumerate(left) if item.kind == "top" and item.card]
    for place, box in enumerate(card.boxes):
        between = [line for line, other in tops if box is card.boxes[-1] and other.side == "bottom"]
        height = next(iter(between), next((line for line, other in tops if other.boxes[0].size == box.size), 0))
        if place == 0:
            right += [BLANK] * (height - 1) + [Item("top", card)]
        right += [Item("row", card)] * (height - len(right))
        right += [Item("row", card, row) for row in card.rows[place * each : (place + 1) * each]]
    right.append(Item("bottom", card))
    height = max(len(left), len(right))
    return [*left, *[BLANK] * (height - len(left))], [*right, *[BLANK] * (height - len(right))]


class Picture:
    """A U, in at most so many columns if possible.

    Attributes:
        least: How many columns it needs.
    """

    def __init__(self, outline: Outline, shown: Level, glyphs: Glyphs, most: int, *, classes: bool, stacked: bool) -> None:
        self._glyphs = glyphs
        cards = Cards(outline, shown, glyphs.arrow, classes=classes, stacked=stacked)
        self._drawn = cards.drawn
        self._top, self._left, self._bottom, self._right = (cards.on(side) for side in ("top", "left", "bottom", "right"))
        self._branching = len(self._right) == 1 and self._right[0].branches
        if self._branching:
            self._left, self._bottom = [*self._left, *self._bottom], []
        # How many larger resolutions there are is how far in a box is.
        sizes = sorted({box.cells for box in outline.boxes if box.side in ("left", "right") and box.cells}, reverse=True)
        self._depths = {box.name: sizes.index(box.cells) if box.cells in sizes else 0 for box in outline.boxes}
        self._deepest = max(self._depths.values(), default=0)
        labels = [cells(skip_label(link.skip)) for link in outline.links if link.number in self._drawn]
        gap = max(labels) + _LEAST_LINE if labels else _LEAST_GAP
        self._wide = self._summarize(most - gap)
        others = [card.width for card in self._top] + [card.width + _ARM * bool(self._bottom[1:]) for card in self._bottom]
        self.least = max(sum(self._wide) + gap, *others, 0) if others else sum(self._wide) + gap
        self._indent = min(_MOST_INDENT * self._deepest, max(most - self.least, 0) // 2)
        self.width = min(max(most, self.least), self.least + 2 * self._indent + max(_GOOD_GAP - gap, 0))
        self._canvas = Canvas()

    def _summarize(self, most: int) -> tuple[int, ...]:
        """Write the summaries of all cards; return the widths of the columns, in total at most this if possible."""
        columns = self._left, self._right
        needs = [_widest(cards, self._glyphs) for cards in columns]
        wide = widths(columns, needs, most - sum(needs) - 2 * _LEAST_INDENT * self._deepest)
        self._left, self._right = (with_summaries(cards, width) for cards, width in zip(columns, wide, strict=True))
        least = max((card.width for card in self._bottom), default=0)
        self._bottom = with_summaries(self._bottom, *widths([self._bottom], [least], sum(wide) - least))
        return wide

    def draw(self) -> Canvas:
        """Draw it all."""
        arrow = self._glyphs.arrow
        top = sum(len(card.rows) + 2 for card in self._top) + len(self._top[:1])
        if self._branching:  # the down path, and beside each size what leaves it there
            down = path_lines(self._left, None, arrow, upward=False)
            while down and down[-1].card is None:  # what leaves the last card leaves by a branch
                down.pop()
            start, (left, right) = top, beside(down, self._right[0])
        else:
            down = path_lines(self._left, next(iter(self._bottom + self._right), None), arrow, upward=False)
            up = path_lines(self._right, next(iter((self._left + self._bottom)[::-1]), None), arrow, upward=True)
            drawn = [row.link.number for card in self._left for row in card.rows if row.link and row.link.number in self._drawn]
            start, (left, right) = 0, level([*[BLANK] * top, *down], up, drawn)
            beside_top = [card for item in right[:top] for card in (item.card, *item.near) if card]
            if not all(card.width + 1 < self._column(other) for card in self._top for other in beside_top):
                start, (left, right) = top, level(down, up, drawn)
        line = 0
        for card in self._top:
            self._card(line, 0, card.width, card)
            line += len(card.rows) + 2
        for place, (one, other) in enumerate(zip(left, right, strict=True), start):
            self._item(place, one, "left")
            self._item(place, other, "right")
            self._link(place, one, other)
        if not self._branching:
            self._draw_bottom(start + len(left))
        return self._canvas

    def _column(self, card: Card) -> int:
        """Return the column where a card begins: smaller resolutions are further in."""
        indent = self._indent * self._depths[card.boxes[0].name] // max(self._deepest, 1)
        return self.width - self._wide[1] - indent if card.side == "right" else indent

    def _card(self, line: int, column: int, width: int, card: Card) -> None:
        """Draw a whole card at once."""
        self._frame(line, column, width, card, 0)
        for place, row in enumerate(card.rows, line + 1):
            self._row(place, column, width, card, row)
        self._frame(line + len(card.rows) + 1, column, width, card, 2)

    def _frame(self, line: int, column: int, width: int, card: Card, corner: int) -> None:
        first, last = self._glyphs.corners[corner : corner + 2]
        self._canvas.write(line, column, first + self._glyphs.across * (width - 2) + last, card.side)
        if corner == 0 and card.title:
            self._canvas.write(line, column + 1, f" {card.title} ", "name")
        if corner == 0 and card.size:
            self._canvas.write(line, column + width - 3 - cells(card.size), f" {card.size} ", "name")

    def _row(self, line: int, column: int, width: int, card: Card, row: Row | None) -> None:
        self._canvas.write(line, column, self._glyphs.down + " " * (width - 2) + self._glyphs.down, card.side)
        if row is not None:
            column += 2
            for place, (text, style) in enumerate(row.pieces or ((row.text, row.style),)):
                column = self._canvas.write(line, column, ", " if place else "")
                column = self._canvas.write(line, column, text, style)

    def _item(self, line: int, item: Item, side: str) -> None:
        wide = self._wide[side == "right"]
        if item.card is not None:
            column = self._column(item.card)
            if item.kind == "row":
                self._row(line, column, wide, item.card, item.row)
            else:
                self._frame(line, column, wide, item.card, 0 if item.kind == "top" else 2)
        elif item.kind != "blank":
            # The line between two cards is within both.
            columns = [self._column(card) for card in item.near if card]
            column = max(columns) + 2 if side == "left" else min(columns) + wide - 3
            head = self._glyphs.arrow_down if side == "left" else self._glyphs.arrow_up
            self._canvas.write(line, column, {"arrow": head, "line": self._glyphs.down}.get(item.kind, ""), side)
            self._canvas.write(line, column + 2 if side == "left" else column - 1 - cells(item.text), item.text, "shape")

    def _link(self, line: int, left: Item, right: Item) -> None:
        """Draw the skip that goes across on this line."""
        link = left.row.link if left.row else None
        if link is None or not right.row or link != right.row.link or not left.card or not right.card:
            return
        first, last = self._column(left.card) + self._wide[0], self._column(right.card) - 1
        self._canvas.write(line, first - 1, self._glyphs.leaves, "left")
        self._canvas.write(line, first, self._glyphs.across * (last - first) + self._glyphs.right, "skip")
        label = f" {skip_label(link.skip)} "
        self._canvas.write(line, (first + last + 1 - cells(label)) // 2, label, "skip")

    def _draw_bottom(self, line: int) -> None:
        """Draw what is between down and up as the bottom of the U, or the line that joins the two."""
        first = self._column(self._left[-1]) if self._left else 0
        last = self._column(self._right[0]) + self._wide[1] if self._right else self.width
        if not self._bottom:
            self._join(line, first, last)
            return
        need = max(card.width for card in self._bottom) + _ARM * bool(self._bottom[1:])
        width = max(need, last - first) if self._right else need
        first = min(first, max(self.width - width, 0))
        for place, card in enumerate(self._bottom):
            is_last = card is self._bottom[-1]
            self._card(line, first, width if is_last else width - _ARM, card)
            line += len(card.rows) + 2
            if not is_last:
                self._passing(line - len(card.rows) - 2, line, first + width - 3)
            if not is_last or not self._right:
                line = self._step(line, first + 2, self._bottom[place : place + 2], first + width - 3)

    def _step(self, line: int, column: int, cards: list[Card], passing: int) -> int:
        """Write what is between two cards of the bottom, or the last one's output; return the line below."""
        words = joint(cards[0], cards[1] if cards[1:] else None, self._glyphs.arrow)
        for is_arrow, text in words:
            self._canvas.write(line, column, self._glyphs.arrow_down if is_arrow else " ", "bottom")
            self._canvas.write(line, column + 2, text, "shape")
            line += 1
        self._passing(line - len(words), line, passing)
        return line

    def _passing(self, first: int, last: int, column: int) -> None:
        """Draw the line from the last card of the bottom up past the others, if it leads up to the right."""
        if self._right and joint(self._bottom[-1], self._right[0], "")[0][0]:
            for line in range(first, last):
                self._canvas.write(line, column, self._glyphs.down, "right")

    def _join(self, line: int, first: int, last: int) -> None:
        """Join the down path to the up path if nothing is between them."""
        if not self._left or not self._right or not joint(self._left[-1], self._right[0], "")[0][0]:
            return
        _, _, left, right = self._glyphs.corners
        column, end = first + 2, last - 3
        self._canvas.write(line, column, left + self._glyphs.across * (end - column - 1) + right, "bottom")


def _widest(cards: list[Card], glyphs: Glyphs) -> int:
    """Return how wide a column is: its widest card, or the widest words between two cards."""
    pairs = pairwise([None, *cards, None]) if cards else ()
    words = [text for before, after in pairs for _, text in joint(before, after, glyphs.arrow)]
    return max([card.width for card in cards] + [cells(text) + 6 for text in words], default=0)
