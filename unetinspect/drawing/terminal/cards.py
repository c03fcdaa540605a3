"""The boxes of a U in a terminal as cards: a title and rows, before anything is placed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Literal

from msgspec import Struct

from unetinspect.drawing.forms import Level
from unetinspect.drawing.outline import Box, Layer, Outline, Side, mark_text
from unetinspect.drawing.words import Link, below, channels_text, links_of, mark_texts, shown, way_text
from unetinspect.terminal import cells
from unetinspect.units import format_shape
from unetinspect.views.words import place_text, step_text


class Row(Struct, frozen=True):
    """A line of a card.

    Attributes:
        text: What it says.
        style: One of the canvas's styles.
        link: The skip that leaves or enters here.
        pieces: Where its parts differ in style, (text, style) of each, with ", " between them.
    """

    text: str
    style: str = ""
    link: Link | None = None
    pieces: tuple[tuple[str, str], ...] = ()


class Card(Struct, frozen=True):
    """A box, or several that have little to say, in one frame.

    Attributes:
        boxes: The boxes, in execution order.
        title: Stands in the frame on the left.
        size: Stands in the frame on the right.
        rows: From top to bottom.
        side: Where it stands.
        channels: "320 channels", to be written into the frame or above the rows.
        marks: The attention layers, (text, style) of those that are alike, to be written above the rows.
    """

    boxes: tuple[Box, ...]
    title: str
    size: str
    rows: tuple[Row, ...]
    side: Side
    channels: str = ""
    marks: tuple[tuple[str, str], ...] = ()

    @property
    def width(self) -> int:
        """How many columns it needs with its frame."""
        head = cells(self.title) + cells(self.size) + (6 if self.title and self.size else 4)
        inside = [self.channels, *(text for text, _ in self.marks), *(row.text for row in self.rows)]
        return max(head, *(cells(text) + 4 for text in inside if text)) if any(inside) else head

    @property
    def branches(self) -> bool:
        """Whether its boxes each take a tensor from elsewhere, so that no line leads in or out."""
        return len(self.boxes) > 1 and all(box.after is None for box in self.boxes)


class Manner(Struct, frozen=True):
    """How much the cards say.

    Attributes:
        level: Boxes, or each of their layers.
        classes: Whether titles name classes.
        stacked: Whether long rows are broken in two.
        arrow: "becomes".
        unicode: Whether names may hold more than ASCII.
    """

    level: Level
    classes: bool
    stacked: bool
    arrow: str
    unicode: bool


class Deck:
    """The cards of an outline.

    Attributes:
        links: The skips.
        drawn: The numbers of those that are a line from the left to the right; the others are named at both ends.
    """

    def __init__(self, outline: Outline, manner: Manner) -> None:
        self.links = links_of(outline)
        self._outline = outline
        self._manner = manner
        self.drawn: frozenset[int] = frozenset()
        self.drawn = _uncrossed(_ends(self.on("left"), "source"), _ends(self.on("right")[::-1], "target"))

    def on(self, side: Side) -> list[Card]:
        """Return the cards of one side, in execution order."""
        groups = groupby(enumerate(self._outline.on(side)), key=lambda pair: -1 if side == "top" or _is_minor(pair[1]) else pair[0])
        return [self._card(tuple(box for _, box in group), side) for _, group in groups]

    def _card(self, boxes: tuple[Box, ...], side: Side) -> Card:
        upward = side == "right" and any(box.after is not None for box in boxes)
        if len(boxes) > 1 or side == "top":
            wide = max(cells(shown(name, unicode=self._manner.unicode)) for box in boxes for name in self._names(box))
            rows = [row for box in (reversed(boxes) if upward else boxes) for row in self._member(box, wide)]
            return Card(boxes, "", "", self._safe(rows), side)
        box = boxes[0]
        named = f"{box.name}  {box.class_name}" if self._manner.classes else box.name
        told = self._manner.level == "layer" and bool(box.layers)
        marks = [] if told else [(shown(text, unicode=self._manner.unicode), _mark_style(text)) for text in mark_texts(box)]
        title, size = (shown(text, unicode=self._manner.unicode) for text in (named, place_text(box.size, self._outline.trace.run)))
        return Card(boxes, title, size, self._safe(self._body(box)), side, channels_text(box), tuple(marks))

    def _safe(self, rows: Sequence[Row]) -> tuple[Row, ...]:
        return tuple(Row(shown(row.text, unicode=self._manner.unicode), row.style, row.link) for row in rows)

    def _member(self, box: Box, wide: int) -> Iterator[Row]:
        """Yield the rows of a box that shares its card: its name and shapes, its attention layers, its layers."""
        chained = box.side != "top" and box.after is not None
        shapes = format_shape(box.out_shape) if chained else way_text(box, self._manner.arrow)
        yield from self._pair(box.name, shapes, wide)
        told = self._manner.level == "layer" and bool(box.layers)
        yield from (Row(f"  {text}", _mark_style(text)) for text in mark_texts(box) if not told)
        for layer in box.layers if told else ():
            yield from self._pair(f"  {layer.name}", format_shape(layer.module.out_shape), wide)
            yield from (Row(f"    {text}", _mark_style(text)) for text in (mark_text(mark, of_one=True) for mark in layer.marks))

    def _names(self, box: Box) -> list[str]:
        return [box.name, *(f"  {layer.name}" for layer in box.layers if self._manner.level == "layer")]

    def _pair(self, name: str, shapes: str, wide: int) -> list[Row]:
        if self._manner.stacked:
            indent = " " * (len(name) - len(name.lstrip()) + 2)
            return [Row(name), Row(indent + shapes, "shape")]
        return [Row(f"{shown(name, unicode=self._manner.unicode):{wide}}  {shapes}")]

    def _body(self, box: Box) -> list[Row]:
        made = sorted((link for link in self.links if link.source == box.name), key=lambda link: (link.skip.index, -link.number))
        taken = [link for link in self.links if link.target == box.name]
        if self._manner.level == "layer" and box.layers:
            return self._layers(box, made, taken)
        return [*self._sources(made), *self._targets(taken)]

    def _layers(self, box: Box, made: list[Link], taken: list[Link]) -> list[Row]:
        """Write each layer; from the last to the first where the flow goes up."""
        blocks, shape = [], box.in_shape
        for layer in box.layers:
            changed = layer.module.out_shape != shape
            shape = layer.module.out_shape
            mine = [link for link in made if link.skip in layer.made], [link for link in taken if link.skip in layer.taken]
            blocks.append(self._layer(layer, *mine, changed=changed))
        placed = {id(row.link) for block in blocks for row in block if row.link}
        rows = [row for block in (reversed(blocks) if box.side == "right" else blocks) for row in block]
        beside = self._sources([link for link in made if id(link) not in placed])
        return [*self._targets([link for link in taken if id(link) not in placed]), *rows, *beside]

    def _layer(self, layer: Layer, made: list[Link], taken: list[Link], *, changed: bool) -> list[Row]:
        shape = f"{format_shape(layer.module.out_shape)}"
        inner = [*self._sources(made), *self._targets(taken)]
        whole = next((place for place, row in enumerate(inner) if row.text.partition("  ")[0].rstrip() == layer.name), None)
        head = [] if whole is not None else [Row(layer.name)]
        marks = [Row(f"  {text}", _mark_style(text)) for text in (mark_text(mark, of_one=True) for mark in layer.marks)]
        return [*head, *inner, *([Row(f"  {shape}", "shape")] if changed else []), *marks]

    def _sources(self, links: Sequence[Link]) -> Iterator[Row]:
        """Yield a row for each skip that leaves; where it goes, if no line shows that."""
        for link in links:
            yield Row(below(link.skip.source, link.skip.source_stage), link=link)
            if link.number not in self.drawn:
                yield Row(f"  {link.channels} {self._manner.arrow} {link.skip.target}", "skip")

    def _targets(self, links: Sequence[Link]) -> Iterator[Row]:
        """Yield a row for each skip that enters, the last first, as it is read upwards; where it is from, if no line shows that."""
        for link in reversed(links):
            yield Row(f"{below(link.skip.target, link.skip.target_stage)}  {link.sum(self._manner.arrow)}", link=link)
            if link.number not in self.drawn:
                yield Row(f"  skip of {link.skip.source}", "skip")


def joint(before: Card | None, after: Card | None, arrow: str) -> list[tuple[bool, str]]:
    """Say what stands on the way from a card to the next that runs: lines of (whether it is an arrow, text)."""
    if before is None or after is None:
        end = after.boxes[0].in_shape if after else before.boxes[-1].out_shape if before else None
        lone = after or before
        return [(lone is not None and not lone.branches, "" if lone is not None and lone.branches else format_shape(end))]
    made, taken = before.boxes[-1].out_shape, after.boxes[0].in_shape
    if after.boxes[0].after == before.boxes[-1].name:
        return [(True, step_text(made, taken, arrow))]
    ends = ((before, f"out {format_shape(made)}"), (after, f"in {format_shape(taken)}"))
    return [(False, "" if card.branches else text) for card, text in ends]


def _is_minor(box: Box) -> bool:
    return not (box.marks or box.made or box.taken or box.layers)


def _mark_style(text: str) -> str:
    return "cross" if "cross" in text else "self"


def _ends(cards: Sequence[Card], end: Literal["source", "target"]) -> list[int]:
    """Return the numbers of the links that leave, or enter, from top to bottom."""
    names = {box.name for card in cards for box in card.boxes}
    rows = [row.link for card in cards for row in card.rows if row.link is not None]
    return [link.number for link in rows if (link.source if end == "source" else link.target) in names]


def _uncrossed(left: Sequence[int], right: Sequence[int]) -> frozenset[int]:
    """Return the most links that can be drawn as level lines: in the same order from top to bottom on both sides."""
    height = {number: place for place, number in enumerate(right)}
    best: list[list[int]] = []
    for number in left:
        if number in height:
            best.append([*_longest([chain for chain in best if height[chain[-1]] < height[number]]), number])
    return frozenset(_longest(best))


def _longest(chains: list[list[int]]) -> list[int]:
    return max(chains, key=len, default=[])
