"""Draws the cards of a U on a canvas: the way down on the left, the way up on the right, what is between below both."""

from __future__ import annotations

from unetinspect.drawing.outline import Outline
from unetinspect.drawing.terminal.canvas import Canvas, Glyphs
from unetinspect.drawing.terminal.cards import Card, Deck, Manner, Row, joint
from unetinspect.drawing.terminal.columns import BLANK, Item, beside, left_column, level, right_column
from unetinspect.drawing.terminal.summary import told, widths
from unetinspect.terminal import cells

_MOST_INDENT = 5
_LEAST_INDENT = 1
_LEAST_GAP = 3
_LEAST_LINE = 5
_GOOD_GAP = 16
_ARM = 4


class Picture:
    """A U at one width.

    Attributes:
        least: How many columns it needs.
        width: How many it takes.
    """

    def __init__(self, outline: Outline, manner: Manner, glyphs: Glyphs, most: int) -> None:
        self._glyphs = glyphs
        self._deck = Deck(outline, manner)
        self._top, self._left, self._bottom, self._right = (self._deck.on(side) for side in ("top", "left", "bottom", "right"))
        self._branching = len(self._right) == 1 and self._right[0].branches
        if self._branching:
            self._left, self._bottom = [*self._left, *self._bottom], []
        self._depths = _depths(outline)
        self._deepest = max(self._depths.values(), default=0)
        labels = [cells(link.channels) for link in self._deck.links if link.number in self._deck.drawn]
        gap = max(labels) + _LEAST_LINE if labels else _LEAST_GAP
        self._wide = self._tell(most - gap)
        others = [card.width for card in self._top] + [card.width + _ARM * bool(self._bottom[1:]) for card in self._bottom]
        self.least = max(sum(self._wide) + gap, *others, 0) if others else sum(self._wide) + gap
        self._indent = min(_MOST_INDENT * self._deepest, max(most - self.least, 0) // 2)
        self.width = min(max(most, self.least), self.least + 2 * self._indent + max(_GOOD_GAP - gap, 0))
        self._canvas = Canvas()

    def _tell(self, most: int) -> list[int]:
        """Write the summaries of all cards; returns how wide the columns are: at most this together, where that can be."""
        columns = self._left, self._right
        needs = [_widest(cards, self._glyphs) for cards in columns]
        wide = widths(columns, needs, most - sum(needs) - 2 * _LEAST_INDENT * self._deepest)
        self._left, self._right = (told(cards, width) for cards, width in zip(columns, wide, strict=True))
        least = max((card.width for card in self._bottom), default=0)
        self._bottom = told(self._bottom, *widths([self._bottom], [least], sum(wide) - least))
        return list(wide)

    def draw(self) -> Canvas:
        """Draw it all."""
        if self._branching:
            return self._draw_branches()
        arrow = self._glyphs.arrow
        down = left_column(self._left, next(iter(self._bottom + self._right), None), arrow)
        up = right_column(self._right, next(iter((self._left + self._bottom)[::-1]), None), arrow)
        drawn = [row.link.number for card in self._left for row in card.rows if row.link and row.link.number in self._deck.drawn]
        aside = [BLANK] * (sum(len(card.rows) + 2 for card in self._top) + len(self._top[:1]))
        start = 0
        left, right = level([*aside, *down], up, drawn)
        if not self._fits_aside(right, len(aside)):
            start = len(aside)
            left, right = level(down, up, drawn)
        self._draw_top()
        self._draw_columns(start, left, right)
        self._draw_bottom(start + len(left))
        return self._canvas

    def _draw_branches(self) -> Canvas:
        """Draw the way down, and beside each size what leaves it there."""
        down = left_column(self._left, None, self._glyphs.arrow)
        while down and down[-1].card is None:  # what leaves the last card leaves by a branch
            down.pop()
        self._draw_top()
        self._draw_columns(sum(len(card.rows) + 2 for card in self._top) + len(self._top[:1]), *beside(down, self._right[0]))
        return self._canvas

    def _draw_columns(self, start: int, left: list[Item], right: list[Item]) -> None:
        for place, (one, other) in enumerate(zip(left, right, strict=True), start):
            self._item(place, one, "left")
            self._item(place, other, "right")
            self._link(place, one, other)

    def _fits_aside(self, right: list[Item], height: int) -> bool:
        """Return whether the top cards can stand left of what the right column has there."""
        cards = [card for item in right[:height] for card in (item.card, *item.near) if card]
        return all(card.width + 1 < self._column(other) for card in self._top for other in cards)

    def _column(self, card: Card) -> int:
        """Return the column where a card begins: the smaller its map, the further in."""
        indent = self._indent * self._depths[card.boxes[0].name] // max(self._deepest, 1)
        return self.width - self._wide[1] - indent if card.side == "right" else indent

    def _draw_top(self) -> None:
        line = 0
        for card in self._top:
            self._card(line, 0, card.width, card)
            line += len(card.rows) + 2

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
            self._joint(line, item, side)

    def _arm(self, near: tuple[Card | None, Card | None], side: str) -> int:
        """Return the column of the line between two cards: within both."""
        columns = [self._column(card) for card in near if card]
        return max(columns) + 2 if side == "left" else min(columns) + self._wide[1] - 3

    def _joint(self, line: int, item: Item, side: str) -> None:
        column = self._arm(item.near, side)
        if item.kind == "arrow":
            self._canvas.write(line, column, self._glyphs.arrow_down if side == "left" else self._glyphs.arrow_up, side)
        elif item.kind == "line":
            self._canvas.write(line, column, self._glyphs.down, side)
        self._canvas.write(line, column + 2 if side == "left" else column - 1 - cells(item.text), item.text, "shape")

    def _link(self, line: int, left: Item, right: Item) -> None:
        """Draw the skip that goes across on this line."""
        ends = left.row.link if left.row else None, right.row.link if right.row else None
        if ends[0] is None or ends[1] is None or ends[0] is not ends[1] or not left.card or not right.card:
            return
        first, last = self._column(left.card) + self._wide[0], self._column(right.card) - 1
        self._canvas.write(line, first - 1, self._glyphs.leaves, "left")
        self._canvas.write(line, first, self._glyphs.across * (last - first) + self._glyphs.right, "skip")
        label = f" {ends[0].channels} "
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
        """Write what is between two cards of the bottom, or what the last gives out; returns the line below."""
        words = joint(cards[0], cards[1] if cards[1:] else None, self._glyphs.arrow)
        for is_arrow, text in words:
            self._canvas.write(line, column, self._glyphs.arrow_down if is_arrow else " ", "bottom")
            self._canvas.write(line, column + 2, text, "shape")
            line += 1
        self._passing(line - len(words), line, passing)
        return line

    def _passing(self, first: int, last: int, column: int) -> None:
        """Draw the line from the last card of the bottom up past the others, where it leads up to the right."""
        if self._right and joint(self._bottom[-1], self._right[0], "")[0][0]:
            for line in range(first, last):
                self._canvas.write(line, column, self._glyphs.down, "right")

    def _join(self, line: int, first: int, last: int) -> None:
        """Join the way down to the way up where nothing is between them."""
        if not self._left or not self._right or not joint(self._left[-1], self._right[0], "")[0][0]:
            return
        _, _, left, right = self._glyphs.corners
        column, end = first + 2, last - 3
        self._canvas.write(line, column, left + self._glyphs.across * (end - column - 1) + right, "bottom")


def _depths(outline: Outline) -> dict[str, int]:
    """Return for each box how many larger sizes there are: how far in it stands."""
    sizes = sorted({box.cells for box in outline.boxes if box.side in ("left", "right") and box.cells}, reverse=True)
    return {box.name: sizes.index(box.cells) if box.cells in sizes else 0 for box in outline.boxes}


def _widest(cards: list[Card], glyphs: Glyphs) -> int:
    """Return how wide a column is: its widest card, or the widest words between two cards."""
    pairs = [pair for pair in zip([None, *cards], [*cards, None], strict=True) if any(pair)]
    words = [text for before, after in pairs for _, text in joint(before, after, glyphs.arrow)]
    return max([card.width for card in cards] + [cells(text) + 6 for text in words], default=0)
