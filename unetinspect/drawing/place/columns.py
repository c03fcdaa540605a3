"""The size and place of each box: down the left, across the bottom, up the right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import log2

from msgspec import Struct

from unetinspect.drawing.outline import Box, Level, Outline
from unetinspect.drawing.place.boxes import TEXT_SIZE, Content, content_of, is_scaled
from unetinspect.drawing.scene import Rect
from unetinspect.drawing.text_width import text_width
from unetinspect.units import format_shape

MARGIN, FLOW_GAP, END_GAP, _APART = 28.0, 38.0, 46.0, 14.0
_STEP, _MOST_HEIGHT, _MOST_WIDTH, _LEAST_WIDTH = 22.0, 72.0, 88.0, 190.0
_CORRIDOR, _LEAST_PAGE, _BOTTOM_DROP = 300.0, 1000.0, 34.0
_Sizes = dict[str, tuple[float, float]]


class Measures(Struct, frozen=True):
    """How large the boxes of the U are, and how wide the picture is.

    Attributes:
        contents: What is written in each box, by name.
        sizes: (width, height) of each box, by name.
        column: The width of each of the two columns.
    """

    contents: dict[str, Content]
    sizes: _Sizes
    column: float
    width: float

    @property
    def inner(self) -> tuple[float, float]:
        """The x of the left edge and of the right edge of the corridor that the skips cross."""
        return MARGIN + self.column, self.width - MARGIN - self.column

    @property
    def center(self) -> tuple[float, float]:
        """The x along which the hidden states go down the left, and up the right."""
        return MARGIN + self.column / 2, self.width - MARGIN - self.column / 2


def measures(outline: Outline, level: Level) -> Measures:
    """Measure the boxes of the U."""
    contents = {}
    for box in outline.chain:
        entered = box.after is not None or box is outline.chain[0]
        is_last = box is outline.chain[-1] and len(outline.trace.outputs) <= 1
        left = is_last or any(one.after is box for one in outline.chain)
        contents[box.name] = content_of(box, level, outline.trace.run, shapes=not (entered and left))
    sizes = _sizes(outline.chain, contents)
    column = max([sizes[box.name][0] for box in outline.chain if box.side != "bottom"], default=_LEAST_WIDTH)
    width = max(_LEAST_PAGE, 2 * (MARGIN + column) + _CORRIDOR, *(sizes[box.name][0] + 2 * MARGIN for box in outline.chain))
    return Measures(contents, sizes, column, width)


def columns(outline: Outline, measured: Measures, tops: tuple[float, float]) -> tuple[dict[str, Rect], float]:
    """Place the boxes of the U: the down path below the first of `tops`, the up path below the second; return the lower end too.

    Both columns end on one floor, so that blocks of one resolution face each other.
    """
    sizes, center = measured.sizes, measured.center
    lefts, rights = outline.on("left"), outline.on("right")[::-1]
    heights = [sum(sizes[box.name][1] for box in boxes) + sum(_gaps(boxes)) for boxes in (lefts, rights)]
    floor = END_GAP + max(top + height for top, height in zip(tops, heights, strict=True))
    rects = _stack(lefts, sizes, center[0], floor - heights[0])
    if any(box.after is not None for box in rights):
        rects |= _stack(rights, sizes, center[1], floor - heights[1])
    else:  # branches instead of an up path, read downwards
        rects |= _stack(rights[::-1], sizes, center[1], floor - max(heights))
    rects |= _stack(outline.on("bottom"), sizes, measured.width / 2, floor + _BOTTOM_DROP)
    return rects, max([floor + FLOW_GAP, *(rect.bottom for rect in rects.values())])


def _sizes(boxes: Sequence[Box], contents: dict[str, Content]) -> _Sizes:
    """Return the (width, height) of each box.

    A block's height is a base and a step for each doubling of its resolution, its width a base and a step for each doubling of
    its channels; the bases are the smallest with which all texts fit, in the blocks and beside the arrows.
    """
    shapes = [format_shape(shape) for box in boxes for shape in (box.in_shape, box.out_shape)]
    least = max(_LEAST_WIDTH, *(2 * (text_width(f"→ {shape}", TEXT_SIZE) + 10) for shape in shapes))
    scaled = [box for box in boxes if is_scaled(box)]
    tall = _grown(scaled, lambda box: 0.5 * log2(box.cells or 1), lambda box: contents[box.name].height, _MOST_HEIGHT)
    wide = _grown(scaled, lambda box: log2(box.channels or 1), lambda box: contents[box.name].width, _MOST_WIDTH, least=least)
    narrow = max([contents[box.name].width for box in boxes if not is_scaled(box)], default=0)
    return {box.name: (wide[box.name], tall[box.name]) if is_scaled(box) else (narrow, contents[box.name].height) for box in boxes}


def _grown(
    boxes: Sequence[Box], scale: Callable[[Box], float], need: Callable[[Box], float], most: float, *, least: float = 0
) -> dict[str, float]:
    """Return base + step * (scale - lowest scale) for each box, with steps that add up to `most` at most."""
    if not boxes:
        return {}
    lowest, highest = min(map(scale, boxes)), max(map(scale, boxes))
    step = min(_STEP, most / (highest - lowest)) if highest > lowest else 0
    base = max(least, *(need(box) - step * (scale(box) - lowest) for box in boxes))
    return {box.name: base + step * (scale(box) - lowest) for box in boxes}


def _gaps(boxes: Sequence[Box]) -> list[float]:
    """Return the gaps between the boxes of a column: room for an arrow where there is one."""
    joined = (upper.after is lower or lower.after is upper for upper, lower in pairwise(boxes))
    return [FLOW_GAP if arrow else _APART for arrow in joined]


def _stack(boxes: Sequence[Box], sizes: _Sizes, center: float, top: float) -> dict[str, Rect]:
    rects = {}
    for box, gap in zip(boxes, [*_gaps(boxes), 0], strict=False):
        width, height = sizes[box.name]
        rects[box.name] = Rect(center - width / 2, top, width, height)
        top += height + gap
    return rects
