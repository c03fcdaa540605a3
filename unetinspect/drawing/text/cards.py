"""The boxes of a U in a terminal as cards: a title and rows, before anything is placed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, product
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from unetinspect.drawing.labels import below, channels_text
from unetinspect.drawing.outline import Box, Ends, Layer, Level, Link, Mark, Outline, Side, mark_text, uncrossed
from unetinspect.terminal import cells
from unetinspect.units import format_shape, in_lines
from unetinspect.views.words import place_text, skip_label, step_text

_Piece = tuple[str, str]  # a text and its style


class Row(Struct, frozen=True):
    """A line of a card, and the skip that leaves or enters there.

    If its parts differ in style, they are `pieces`, which `text` joins with ", ".
    """

    text: str
    style: str = ""
    link: Link | None = None
    pieces: tuple[_Piece, ...] = ()


class Card(Struct, frozen=True):
    """A box, or several small ones, in one frame.

    Attributes:
        boxes: In execution order.
        title: In the frame on the left.
        size: In the frame on the right.
        rows: From top to bottom.
        channels: "320 channels", for the frame or above the rows: see `with_summaries`.
        marks: The attention layers, for above the rows.
    """

    boxes: tuple[Box, ...]
    title: str
    size: str
    rows: tuple[Row, ...]
    side: Side
    channels: str = ""
    marks: tuple[_Piece, ...] = ()

    @property
    def width(self) -> int:
        """How many columns it needs with its frame."""
        head = cells(self.title) + cells(self.size) + (6 if self.title and self.size else 4)
        inside = [self.channels, *(text for text, _ in self.marks), *(row.text for row in self.rows)]
        return max(head, *(cells(text) + 4 for text in inside if text)) if any(inside) else head

    @property
    def branches(self) -> bool:
        """Whether each of its boxes takes a tensor from elsewhere, so that no line leads in or out."""
        return len(self.boxes) > 1 and all(box.after is None for box in self.boxes)


class Cards:
    """The cards of an outline.

    Attributes:
        drawn: The numbers of the links that are a line from the left to the right; the others are named at both ends.
    """

    def __init__(self, outline: Outline, level: Level, arrow: str, *, classes: bool, stacked: bool) -> None:
        """Prepare an outline; `classes` adds classes to titles, `stacked` breaks long rows in two, `arrow` is between two shapes."""
        self._outline, self._level, self._arrow = outline, level, arrow
        self._classes, self._stacked = classes, stacked
        self.drawn: frozenset[int] = frozenset()
        self.drawn = uncrossed(_ends(self.on("left"), "source"), _ends(self.on("right")[::-1], "target"))

    def on(self, side: Side) -> list[Card]:
        """Return the cards of one side, in execution order; small boxes that follow each other share one."""

        def group(box: Box) -> str:
            return box.name if side != "top" and (box.marks or box.produced or box.consumed or box.layers) else ""

        return [self._card(tuple(boxes), side) for _, boxes in groupby(self._outline.on(side), key=group)]

    def _card(self, boxes: tuple[Box, ...], side: Side) -> Card:
        if len(boxes) > 1 or side == "top":
            upward = side == "right" and any(box.after is not None for box in boxes)
            names = [box.name for box in boxes] + [f"  {layer.name}" for box in boxes for layer in self._layers(box)]
            rows = [row for box in (reversed(boxes) if upward else boxes) for row in self._member(box, max(map(cells, names)))]
            return Card(boxes, "", "", tuple(rows), side)
        box = boxes[0]
        title = f"{box.name}  {box.class_name}" if self._classes else box.name
        marks = () if self._layers(box) else tuple((mark_text(mark), _style(mark)) for mark in box.marks)
        size = place_text(box.size, self._outline.trace.run)
        return Card(boxes, title, size, tuple(self._body(box)), side, channels_text(box), marks)

    def _layers(self, box: Box) -> tuple[Layer, ...]:
        return box.layers if self._level == "layer" else ()

    def _member(self, box: Box, wide: int) -> Iterator[Row]:
        """Yield the rows of a box that shares its card: its name and shapes, its attention layers, its layers."""
        chained = box.side != "top" and box.after is not None
        yield from self._pair(
            box.name, format_shape(box.out_shape) if chained else step_text(box.in_shape, box.out_shape, self._arrow), wide
        )
        layers = self._layers(box)
        yield from (Row(f"  {mark_text(mark)}", _style(mark)) for mark in box.marks if not layers)
        for layer in layers:
            yield from self._pair(f"  {layer.name}", format_shape(layer.module.out_shape), wide)
            yield from (Row(f"    {mark_text(mark, of_one=True)}", _style(mark)) for mark in layer.marks)

    def _pair(self, name: str, shapes: str, wide: int) -> list[Row]:
        if self._stacked:
            indent = " " * (len(name) - len(name.lstrip()) + 2)
            return [Row(name), Row(indent + shapes, "shape")]
        return [Row(f"{name:{wide}}  {shapes}")]

    def _body(self, box: Box) -> list[Row]:
        """Return the rows of a box: its layers, the last first if the path leads up, and skips of no layer."""
        layers, rest = self._outline.ends(box, self._level)
        blocks, shape = [], box.in_shape
        for layer, ends in layers:
            blocks.append(list(self._layer(layer, ends, changed=layer.module.out_shape != shape)))
            shape = layer.module.out_shape
        rows = [row for block in (reversed(blocks) if box.side == "right" else blocks) for row in block]
        return [*self._targets(rest.consumed), *rows, *self._sources(rest.produced)]

    def _layer(self, layer: Layer, ends: Ends, *, changed: bool) -> Iterator[Row]:
        """Yield the rows of a layer: its skips, its output's shape if that changed, its attention layers."""
        rows = [*self._sources(ends.produced), *self._targets(ends.consumed)]
        if not any(row.text.partition("  ")[0].rstrip() == layer.name for row in rows):
            yield Row(layer.name)
        yield from rows
        if changed:
            yield Row(f"  {format_shape(layer.module.out_shape)}", "shape")
        yield from (Row(f"  {mark_text(mark, of_one=True)}", _style(mark)) for mark in layer.marks)

    def _sources(self, links: Sequence[Link]) -> Iterator[Row]:
        """Yield a row for each skip that leaves, and its target if no line shows it."""
        for link in links:
            yield Row(below(link.skip.source, link.skip.source_stage), link=link)
            if link.number not in self.drawn:
                yield Row(f"  {skip_label(link.skip)} {self._arrow} {link.skip.target}", "skip")

    def _targets(self, links: Sequence[Link]) -> Iterator[Row]:
        """Yield a row for each skip that enters, the last first (it is read upwards), and its source if no line shows it."""
        for link in reversed(links):
            yield Row(f"{below(link.skip.target, link.skip.target_stage)}  {link.sum(self._arrow)}", link=link)
            if link.number not in self.drawn:
                yield Row(f"  skip from {link.skip.source}", "skip")


def joint(before: Card | None, after: Card | None, arrow: str) -> list[tuple[bool, str]]:
    """Return what is between a card and the next that runs: lines of (whether it is an arrow, text)."""
    if before is None or after is None:
        end = after.boxes[0].in_shape if after else before.boxes[-1].out_shape if before else None
        lone = after or before
        return [(lone is not None and not lone.branches, "" if lone is not None and lone.branches else format_shape(end))]
    made, taken = before.boxes[-1].out_shape, after.boxes[0].in_shape
    if after.boxes[0].after is before.boxes[-1]:
        return [(True, step_text(made, taken, arrow))]
    ends = ((before, f"out {format_shape(made)}"), (after, f"in {format_shape(taken)}"))
    return [(False, "" if card.branches else text) for card, text in ends]


def with_summaries(cards: Sequence[Card], width: int) -> list[Card]:
    """Return the cards of a column with their channels and attention layers, in as few lines as its width allows.

    The channels are in the frames if those of all cards fit there, else in the first rows.
    """
    places = [", ".join(filter(None, (card.size, card.channels))) for card in cards]
    titled = all(cells(card.title) + cells(place) + 6 <= width for card, place in zip(cards, places, strict=True) if card.channels)
    found = []

    def folded(pieces: Iterable[_Piece]) -> list[list[_Piece]]:
        return in_lines(pieces, lambda line: cells(", ".join(text for text, _ in line)) <= width - 4)

    for card, place in zip(cards, places, strict=True):
        channels = [(card.channels, "")] if card.channels and not titled else []
        # The channels have a line of their own if that takes no more lines.
        lines = min([*folded(channels), *folded(card.marks)], folded([*channels, *card.marks]), key=len)
        rows = [Row(", ".join(text for text, _ in line), pieces=tuple(line)) for line in lines]
        found.append(replace(card, size=place if titled else card.size, rows=(*rows, *card.rows), channels="", marks=()))
    return found


def widths(columns: Sequence[Sequence[Card]], least: Sequence[int], room: int) -> tuple[int, ...]:
    """Return the widths of columns that may grow by `room` in total: those with the fewest lines, then the narrowest.

    The cards have no summaries yet; `least` is the least width of each column.
    """
    growths = range(max(room, 0) + 1)
    lines = [
        [sum(len(card.rows) for card in with_summaries(cards, width + by)) for by in growths]
        for cards, width in zip(columns, least, strict=True)
    ]
    ways = [way for way in product(growths, repeat=len(columns)) if sum(way) <= max(room, 0)]
    best = min(ways, key=lambda way: (sum(column[by] for column, by in zip(lines, way, strict=True)), sum(way)))
    return tuple(width + by for width, by in zip(least, best, strict=True))


def _style(mark: Mark) -> str:
    return "cross" if mark.kind == "cross" else "self"


def _ends(cards: Sequence[Card], end: Literal["source", "target"]) -> list[int]:
    """Return the numbers of the links that leave, or enter, from top to bottom."""
    boxes = {box for card in cards for box in card.boxes}
    links = [row.link for card in cards for row in card.rows if row.link is not None]
    return [link.number for link in links if (link.source if end == "source" else link.target) in boxes]
