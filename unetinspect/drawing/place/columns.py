"""How large each box is, and where it stands: down the left, across the bottom, up the right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import log2

from msgspec import Struct

from unetinspect.drawing.forms import Level
from unetinspect.drawing.outline import Box, Outline
from unetinspect.drawing.place.contents import TEXT_SIZE, Content, content_of
from unetinspect.drawing.scene import Rect
from unetinspect.drawing.text_width import text_width
from unetinspect.units import format_shape

MARGIN, FLOW_GAP, END_GAP, _APART = 28.0, 38.0, 46.0, 14.0
_STEP, _MOST_HEIGHT, _MOST_WIDTH, _LEAST_WIDTH = 22.0, 72.0, 88.0, 190.0
_CORRIDOR, _LEAST_PAGE, _BOTTOM_DROP = 300.0, 1000.0, 34.0
_SCALED = {"down", "mid", "up"}


class Columns(Struct, frozen=True):
    """Where the boxes of the U stand, and what is written in them.

    Attributes:
        width: Of the picture.
        bottom: Below which nothing of the U stands.
        inner: The x of the left edge and of the right edge of the corridor that the skips cross.
        rects: By the name of the box.
        contents: By the name of the box.
        centre: The x along which the hidden states go down the left, and up the right.
    """

    width: float
    bottom: float
    inner: tuple[float, float]
    rects: dict[str, Rect]
    contents: dict[str, Content]
    centre: tuple[float, float]


def is_scaled(box: Box) -> bool:
    """Tell whether a box's size follows its resolution and its channels: a block of the U, no single convolution at an end."""
    return box.stages[0].role in _SCALED


class Measures(Struct, frozen=True):
    """How large the boxes of the U are, and how wide the picture is, before it is known where they stand.

    Attributes:
        contents: What is written in each box, by its name.
        sizes: (width, height) of each box, by its name.
        column: The width of the way down, and of the way up.
        width: Of the picture.
    """

    contents: dict[str, Content]
    sizes: dict[str, tuple[float, float]]
    column: float
    width: float

    @property
    def inner(self) -> tuple[float, float]:
        """The x of the left edge and of the right edge of the corridor."""
        return MARGIN + self.column, self.width - MARGIN - self.column


def measures(outline: Outline, level: Level) -> Measures:
    """Measure the boxes of the U."""
    boxes = [box for box in outline.boxes if box.side != "top"]
    contents = {box.name: _content(outline, box, level) for box in boxes}
    sizes = _sizes(outline, boxes, contents)
    column = max([sizes[box.name][0] for box in boxes if box.side != "bottom"], default=_LEAST_WIDTH)
    width = max(_LEAST_PAGE, 2 * (MARGIN + column) + _CORRIDOR, *(sizes[box.name][0] + 2 * MARGIN for box in boxes))
    return Measures(contents, sizes, column, width)


def columns(outline: Outline, measured: Measures, tops: tuple[float, float]) -> Columns:
    """Place the boxes of the U: the way down below the first of `tops`, the way up below the second.

    Both ways stand on one floor, so that blocks of one resolution face each other.
    """
    sizes, column, width = measured.sizes, measured.column, measured.width
    centre = MARGIN + column / 2, width - MARGIN - column / 2
    lefts, rights = outline.on("left"), outline.on("right")[::-1]
    heights = [_stacked(boxes, sizes) for boxes in (lefts, rights)]
    floor = END_GAP + max(top + height for top, height in zip(tops, heights, strict=True))
    rects = _stack(lefts, sizes, centre[0], floor - heights[0])
    if any(box.after is not None for box in rights):
        rects |= _stack(rights, sizes, centre[1], floor - heights[1])
    else:  # branches, no way up: they are read as the way down is
        rects |= _stack(rights[::-1], sizes, centre[1], floor - max(heights))
    rects |= _stack(outline.on("bottom"), sizes, width / 2, floor + _BOTTOM_DROP)
    bottom = max([floor + FLOW_GAP, *(rect.bottom for rect in rects.values())])
    return Columns(width, bottom, measured.inner, rects, measured.contents, centre)


def spread_of(outline: Outline) -> tuple[tuple[Box, Box], tuple[Box, Box]] | None:
    """Return the boxes of the lowest and highest resolution, and those of the fewest and most channels; None: no box is scaled."""
    boxes = [box for box in outline.boxes if is_scaled(box)]
    if not boxes:
        return None
    by_cells = sorted(boxes, key=lambda box: box.cells or 0)
    by_channels = sorted(boxes, key=lambda box: box.channels or 0)
    return (by_cells[0], by_cells[-1]), (by_channels[0], by_channels[-1])


def entered(outline: Outline, box: Box) -> bool:
    """Tell whether an arrow goes into a box: from the one before, or from the input."""
    chain = [one for one in outline.boxes if one.side != "top"]
    return box.after is not None or box is chain[0]


def left_by(outline: Outline, box: Box) -> bool:
    """Tell whether an arrow leaves a box: into the next, or to the output."""
    chain = [one for one in outline.boxes if one.side != "top"]
    return any(one.after == box.name for one in chain) or (box is chain[-1] and len(outline.trace.outputs) <= 1)


def _content(outline: Outline, box: Box, level: Level) -> Content:
    shapes = not (entered(outline, box) and left_by(outline, box))
    return content_of(box, level, outline.trace.run, shapes=shapes, scaled=is_scaled(box))


def _sizes(outline: Outline, boxes: Sequence[Box], contents: dict[str, Content]) -> dict[str, tuple[float, float]]:
    """Return the (width, height) of each box.

    A block's height is a base and a step for each doubling of its resolution, its width a base and a step for each doubling of
    its channels; the bases are the least with which every block holds its text.
    """
    scaled = [box for box in boxes if is_scaled(box)]
    small = [box for box in boxes if not is_scaled(box)]
    tall = _law(scaled, lambda box: 0.5 * log2(box.cells or 1), lambda box: contents[box.name].height, _MOST_HEIGHT)
    wide = _law(scaled, lambda box: log2(box.channels or 1), lambda box: contents[box.name].width, _MOST_WIDTH, least=_shape_room(outline))
    narrow = max([contents[box.name].width for box in small], default=0)
    return {box.name: (wide[box.name], tall[box.name]) if is_scaled(box) else (narrow, contents[box.name].height) for box in boxes}


def _law(
    boxes: Sequence[Box], scale: Callable[[Box], float], need: Callable[[Box], float], most: float, *, least: float = 0
) -> dict[str, float]:
    """Return base + step * (scale - lowest scale) for each box, with steps that add up to `most` at most."""
    if not boxes:
        return {}
    lowest, highest = min(map(scale, boxes)), max(map(scale, boxes))
    step = min(_STEP, most / (highest - lowest)) if highest > lowest else 0
    base = max(least, *(need(box) - step * (scale(box) - lowest) for box in boxes))
    return {box.name: base + step * (scale(box) - lowest) for box in boxes}


def _shape_room(outline: Outline) -> float:
    """Return the width with which the shapes beside the arrows stay within their column."""
    shapes = [format_shape(shape) for box in outline.boxes if box.side != "top" for shape in (box.in_shape, box.out_shape)]
    return max(_LEAST_WIDTH, *(2 * (text_width(f"→ {shape}", TEXT_SIZE) + 10) for shape in shapes))


def _stacked(boxes: Sequence[Box], sizes: dict[str, tuple[float, float]]) -> float:
    return sum(sizes[box.name][1] for box in boxes) + sum(_gap(boxes))


def _gap(boxes: Sequence[Box]) -> list[float]:
    """Return the gaps below all boxes of a stack but its last: room for an arrow where there is one."""
    joined = (upper.after == lower.name or lower.after == upper.name for upper, lower in pairwise(boxes))
    return [FLOW_GAP if arrow else _APART for arrow in joined]


def _stack(boxes: Sequence[Box], sizes: dict[str, tuple[float, float]], centre: float, top: float) -> dict[str, Rect]:
    rects = {}
    for box, gap in zip(boxes, [*_gap(boxes), 0], strict=False):
        width, height = sizes[box.name]
        rects[box.name] = Rect(centre - width / 2, top, width, height)
        top += height + gap
    return rects
