"""The numbers and choices that make the layouts of a picture differ; everything else is common to them."""

from __future__ import annotations

from msgspec import Struct

from unetinspect.drawing.outline import Layout
from unetinspect.record import Shape
from unetinspect.units import format_shape


class Plan(Struct, frozen=True):
    """One layout.

    Attributes:
        margin: What is free at each edge of the page.
        page: The least width of the page.
        column: The least width of a column.
        corridor: The least width between the columns, where the skips are.
        gap: The height between two boxes that an arrow joins.
        end_gap: The height above the first box of a column, for an arrow.
        drop: How far what is between the columns is below them.
        growth: How much wider the widest block is than the narrowest, at most.
        axis: Where the arrows of a column run, as a part of its width from the outer edge; their shapes are on the wider side.
        pad: The height that is free above and below what is in a box.
        leading: The height of a line, as a part of that of the tall layout.
        badges: The width of a line of attention layers, at most.
        ratio: Width / height of the page; None: as high as it needs.
        points: The width of the page in PDF; None: 0.75 points to a unit, as a browser prints it.
        level: Whether skips are level where they can be, instead of the heights of boxes showing their resolution.
        beside: Whether the rows of a box are beside its names, and the caption below the title, for a page of little height.
        brief: Whether it shows no batch, classes, costs, legend and caption; what is left of a box is where its skips leave room.
    """

    margin: float = 28
    page: float = 1000
    column: float = 190
    corridor: float = 300
    gap: float = 38
    end_gap: float = 46
    drop: float = 34
    growth: float = 88
    axis: float = 0.5
    pad: float = 9
    leading: float = 1
    badges: float = 250
    ratio: float | None = None
    points: float | None = None
    level: bool = False
    beside: bool = False
    brief: bool = False

    def shape(self, shape: Shape | None, *, batch: int = 0) -> str:
        """Write a shape; a brief picture has that of one sample. An axis of several rows per sample of the `batch`, if given, keeps those.

        >>> Plan(brief=True).shape((2, 320, 64, 64)), Plan(brief=True).shape((12, 256), batch=2)
        ('(320, 64, 64)', '(6, 256)')
        """
        if shape is None or not self.brief:
            return format_shape(shape)
        rows = shape[0] // batch if batch and shape[0] % batch == 0 else 1
        return format_shape((rows, *shape[1:]) if rows > 1 else shape[1:])


PLANS: dict[Layout, Plan] = {
    "tall": Plan(),
    # On a slide of 13.33 x 7.5 inches.
    "wide": Plan(
        margin=22,
        corridor=200,
        gap=16,
        end_gap=34,
        drop=14,
        growth=60,
        pad=4,
        leading=0.84,
        badges=430,
        ratio=16 / 9,
        points=960,
        level=True,
        beside=True,
    ),
    # In a column of 3.3 inches.
    "compact": Plan(
        margin=12,
        page=395,
        column=120,
        corridor=68,
        gap=16,
        end_gap=36,
        drop=24,
        growth=0,
        axis=0.2,
        pad=4,
        leading=0.84,
        badges=130,
        points=237.6,
        level=True,
        brief=True,
    ),
}
