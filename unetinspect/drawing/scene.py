"""What a picture consists of, with positions: rectangles, texts, rows, arrows, curves. Units are those of the SVG's `viewBox`."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from unetinspect.drawing.outline import Box, Layer
from unetinspect.drawing.text_width import text_width
from unetinspect.record import Skip

Anchor = Literal["start", "middle", "end"]
Point = tuple[float, float]
# How far glyphs reach above and below the baseline, per em: the height of a line of text.
ASCENT, DESCENT = 0.93, 0.24


class Rect(Struct, frozen=True):
    """A rectangle, from its upper left corner; y grows downwards."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Its right edge."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """Its lower edge."""
        return self.y + self.height

    @property
    def middle(self) -> Point:
        """Its center."""
        return self.x + self.width / 2, self.y + self.height / 2


class Text(Struct, frozen=True):
    """One line of text.

    Attributes:
        y: The baseline.
        style: Its class: "name", "note", ...
        size: The font size.
        anchor: Which part of it is at `x`.
    """

    x: float
    y: float
    content: str
    style: str
    size: float
    bold: bool = False
    anchor: Anchor = "start"

    @property
    def rect(self) -> Rect:
        """The room that it needs at most."""
        width = text_width(self.content, self.size, bold=self.bold)
        left = {"start": self.x, "middle": self.x - width / 2, "end": self.x - width}[self.anchor]
        return Rect(left, self.y - ASCENT * self.size, width, (ASCENT + DESCENT) * self.size)


class Badge(Struct, frozen=True):
    """A text with a border: attention layers of a kind, "2 self 4096x4096"; or an argument of the forward pass.

    The kind of an argument is "context" for `encoder_hidden_states`, "" for the others.
    """

    rect: Rect
    text: Text
    kind: str = ""


class Row(Struct, frozen=True):
    """A row of a box: a layer of it, several that are alike, or, without layers, a skip that leaves or enters the box."""

    rect: Rect
    layers: tuple[Layer, ...]
    texts: tuple[Text, ...]
    badges: tuple[Badge, ...]


class PlacedBox(Struct, frozen=True):
    """A box in its place.

    Attributes:
        rect: Its border.
        texts: Its texts, without those of its rows.
        badges: Its attention layers, without those of its rows.
        rows: From top to bottom.
        produced: The height at which each skip leaves it, by the skip's `index`.
        consumed: The height at which each skip enters it, by the skip's `order`.
    """

    box: Box
    rect: Rect
    texts: tuple[Text, ...]
    badges: tuple[Badge, ...]
    rows: tuple[Row, ...]
    produced: dict[int, float]
    consumed: dict[int, float]


class PlacedSkip(Struct, frozen=True):
    """A skip in its place: straight out of its source, bent between `bend_start` and `bend_end`, straight into its target.

    It starts and ends on the edge of a box; its arrowhead is at its end.

    Attributes:
        name: Its number: "2", and "2 (use 2)" where it is consumed again.
    """

    skip: Skip
    name: str
    start: Point
    bend_start: Point
    bend_end: Point
    end: Point
    label: Text

    @property
    def controls(self) -> tuple[Point, Point]:
        """The two control points of its bend, a cubic Bézier curve: level at both ends, so that skips do not cross."""
        between = (self.bend_start[0] + self.bend_end[0]) / 2
        return (between, self.bend_start[1]), (between, self.bend_end[1])


class Flow(Struct, frozen=True):
    """An arrow of the hidden states: its corners, of which the last has the arrowhead, and the shapes beside it."""

    points: tuple[Point, ...]
    texts: tuple[Text, ...]


class Scene(Struct, frozen=True):
    """A whole picture.

    Attributes:
        boxes: In execution order.
        given: The arguments of the forward pass, without the first, which enters the first box.
        flows: In execution order.
        skips: In the order in which they are consumed.
        contexts: The corners of the arrows from `encoder_hidden_states` to attention layers.
        texts: Title, headings, legend and caption.
        legend: Sample arrows of the legend, each with its kind: "flow", "skip", "context".
        legend_badges: Sample attention layers of the legend.
    """

    width: float
    height: float
    boxes: tuple[PlacedBox, ...]
    given: tuple[Badge, ...]
    flows: tuple[Flow, ...]
    skips: tuple[PlacedSkip, ...]
    contexts: tuple[tuple[Point, ...], ...]
    texts: tuple[Text, ...]
    legend: tuple[tuple[str, Point, Point], ...]
    legend_badges: tuple[Badge, ...]
