"""What a picture consists of, each thing in its place: rectangles, texts, rows, arrows, curves. Units are those of the SVG's `viewBox`."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from unetinspect.drawing.outline import Box, Layer
from unetinspect.drawing.text_width import text_width
from unetinspect.record import Skip

Anchor = Literal["start", "middle", "end"]
Point = tuple[float, float]
# How far glyphs reach above and below the baseline, per em: a line of text stands in a band of this height.
ASCENT, DESCENT = 0.93, 0.24


class Rect(Struct, frozen=True):
    """A rectangle; y grows downwards.

    Attributes:
        x: Its left edge.
        y: Its upper edge.
        width: Its width.
        height: Its height.
    """

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
        """Its centre."""
        return self.x + self.width / 2, self.y + self.height / 2

    def overlaps(self, other: Rect, *, slack: float = 0.01) -> bool:
        """Tell whether the two share more than an edge."""
        apart = self.right <= other.x + slack or other.right <= self.x + slack
        return not (apart or self.bottom <= other.y + slack or other.bottom <= self.y + slack)

    def holds(self, other: Rect, *, slack: float = 0.01) -> bool:
        """Tell whether the other lies inside."""
        across = self.x - slack <= other.x and other.right <= self.right + slack
        return across and self.y - slack <= other.y and other.bottom <= self.bottom + slack


class Text(Struct, frozen=True):
    """One line of text.

    Attributes:
        x: Where its anchor stands.
        y: Its baseline.
        content: What it says.
        style: Its class: "name", "note", ...
        size: Its font size.
        bold: Whether it is bold.
        anchor: Which end of it stands at `x`.
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
        """The place that it takes at most."""
        width = text_width(self.content, self.size, bold=self.bold)
        left = {"start": self.x, "middle": self.x - width / 2, "end": self.x - width}[self.anchor]
        return Rect(left, self.y - ASCENT * self.size, width, (ASCENT + DESCENT) * self.size)


class Badge(Struct, frozen=True):
    """A small label with a border that says a kind of attention: "2 self 4096x4096".

    Attributes:
        rect: Its border.
        text: What stands in it.
        kind: The kind of attention, which decides the border.
    """

    rect: Rect
    text: Text
    kind: str


class Row(Struct, frozen=True):
    """A row of a box: a layer of it, several that are alike, or a skip that leaves or enters it.

    Attributes:
        rect: The whole row.
        layers: The layers that it shows; none: it shows a skip alone.
        texts: Its texts.
        badges: Its attention layers.
    """

    rect: Rect
    layers: tuple[Layer, ...]
    texts: tuple[Text, ...]
    badges: tuple[Badge, ...]


class PlacedBox(Struct, frozen=True):
    """A box in its place.

    Attributes:
        box: What it shows.
        rect: Its border.
        texts: Its texts, but for those of its rows.
        badges: Its attention layers, but for those of its rows.
        rows: Its rows, top down.
        scaled: Whether its size follows resolution and channels.
    """

    box: Box
    rect: Rect
    texts: tuple[Text, ...]
    badges: tuple[Badge, ...]
    rows: tuple[Row, ...]
    scaled: bool


class PlacedSkip(Struct, frozen=True):
    """A skip in its place: straight out of its source, bent between `bend_start` and `bend_end`, straight into its target.

    Attributes:
        skip: What it shows.
        start: Where it leaves its source, on the edge of a box.
        bend_start: Where it begins to bend.
        bend_end: Where it ends to bend.
        end: Where it enters its target, on the edge of a box; an arrowhead stands there.
        label: Its channels.
    """

    skip: Skip
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

    def points(self, count: int = 32) -> list[Point]:
        """Return points along it, `count` of them on the bend."""
        first, second = self.controls
        knots = (self.bend_start, first, second, self.bend_end)
        bend = [_bezier(knots, step / (count - 1)) for step in range(count)]
        return [self.start, *bend, self.end]


class Flow(Struct, frozen=True):
    """An arrow along which the hidden states go.

    Attributes:
        points: Its corners; the arrowhead stands at the last.
        texts: The shapes that go along it.
        source: The box that it leaves; None: the model's input.
        target: The box that it enters; None: the model's output.
    """

    points: tuple[Point, ...]
    texts: tuple[Text, ...]
    source: str | None
    target: str | None


class Given(Struct, frozen=True):
    """An argument of the forward pass, as a small label.

    Attributes:
        rect: Its border.
        text: Its name and its shape, or its value.
    """

    rect: Rect
    text: Text


class Scene(Struct, frozen=True):
    """A whole picture.

    Attributes:
        width: Its width.
        height: Its height.
        boxes: In execution order.
        given: The arguments of the forward pass, but for the first, which enters the first box.
        flows: In execution order.
        skips: In the order in which they are consumed.
        texts: Title, headings, legend and caption.
        legend: The samples of the legend, each with its kind: "flow", "skip".
        legend_badges: The samples of attention layers in the legend.
    """

    width: float
    height: float
    boxes: tuple[PlacedBox, ...]
    given: tuple[Given, ...]
    flows: tuple[Flow, ...]
    skips: tuple[PlacedSkip, ...]
    texts: tuple[Text, ...]
    legend: tuple[tuple[str, Point, Point], ...]
    legend_badges: tuple[Badge, ...]

    def placed(self, name: str) -> PlacedBox:
        """Return a box by its name."""
        return next(placed for placed in self.boxes if placed.box.name == name)


def _bezier(knots: tuple[Point, Point, Point, Point], at: float) -> Point:
    weights = ((1 - at) ** 3, 3 * at * (1 - at) ** 2, 3 * at**2 * (1 - at), at**3)
    x = sum(weight * knot[0] for weight, knot in zip(weights, knots, strict=True))
    return x, sum(weight * knot[1] for weight, knot in zip(weights, knots, strict=True))
