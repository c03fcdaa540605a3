"""The size and place of each box: down the left, across the bottom, up the right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import log2

from msgspec import Struct
from msgspec.structs import replace

from unetinspect.drawing.outline import Box, Level, Link, Outline, Side, uncrossed
from unetinspect.drawing.place.boxes import TEXT_SIZE, Content, RowContent, content_of, fill, is_scaled
from unetinspect.drawing.place.layouts import Plan
from unetinspect.drawing.scene import Rect
from unetinspect.drawing.text_width import text_width
from unetinspect.views.words import skip_label

_APART, _TWO_SHAPES, _STEP, _MOST_HEIGHT = 14.0, 36.0, 22.0, 72.0
# The label of a skip: its size, and what is free before and after it; and the length of a skip's straight end.
LABEL_SIZE, BEFORE, AFTER, HEAD = 10.0, 6.0, 8.0, 14.0
_COLUMNS: tuple[Side, Side] = ("left", "right")
_Sizes = dict[str, tuple[float, float]]


class Measures(Struct, frozen=True):
    """How large the boxes of the U are, and how wide the picture is.

    Attributes:
        contents: What is written in each box, by name.
        sizes: (width, height) of each box, by name.
        columns: The widths of the left and of the right column.
    """

    plan: Plan
    contents: dict[str, Content]
    sizes: _Sizes
    columns: tuple[float, float]
    width: float

    @property
    def inner(self) -> tuple[float, float]:
        """The x of the left edge and of the right edge of the corridor that the skips cross."""
        return self.plan.margin + self.columns[0], self.width - self.plan.margin - self.columns[1]

    @property
    def center(self) -> tuple[float, float]:
        """The x of the middle of each column."""
        return self.plan.margin + self.columns[0] / 2, self.width - self.plan.margin - self.columns[1] / 2

    @property
    def axes(self) -> tuple[float, float]:
        """The x along which the hidden states go down the left, and up the right."""
        left, right = (self.plan.margin + self.plan.axis * column for column in self.columns)
        return left, self.width - right


def measures(outline: Outline, level: Level, plan: Plan) -> Measures:
    """Measure the boxes of the U."""
    contents = {}
    for box in outline.chain:
        entered = box.after is not None or box is outline.chain[0]
        is_last = box is outline.chain[-1] and len(outline.trace.outputs) <= 1
        left = is_last or any(one.after is box for one in outline.chain)
        contents[box.name] = content_of(box, level, outline.trace.run, plan, shapes=not (entered and left))
    sizes = _sizes(outline.chain, contents, plan)
    left_column, right_column = (max([sizes[box.name][0] for box in outline.on(side)], default=plan.column) for side in _COLUMNS)
    if not plan.brief:  # a picture with room is symmetric
        left_column = right_column = max(left_column, right_column)
    skips = outline.trace.skips
    labels = BEFORE + AFTER + max([text_width(skip_label(skip), LABEL_SIZE) for skip in skips], default=0)
    is_forked = len({skip.index for skip in skips}) < len(skips)  # such a skip has its second label at its end
    corridor = plan.margin if plan.brief and not skips else max(plan.corridor, labels * (2 if is_forked else 1) + HEAD + 1)
    width = max(
        plan.page, 2 * plan.margin + left_column + corridor + right_column, *(sizes[box.name][0] + 2 * plan.margin for box in outline.chain)
    )
    if plan.axis >= 0.5:  # shapes are at the level arrows on both sides of what is at the bottom
        shapes = [f"{'→ ' * (one.out_shape != two.in_shape)}{plan.shape(two.in_shape)}" for one, two in _turns(outline)]
        beside = plan.margin + left_column / 2 + max([text_width(shape, TEXT_SIZE) + 10 for shape in shapes], default=0)
        width = max([width, *(sizes[box.name][0] + 2 * beside for box in outline.on("bottom"))])
    return Measures(plan, contents, sizes, (left_column, right_column), width)


def columns(outline: Outline, measured: Measures, tops: tuple[float, float]) -> tuple[Measures, dict[str, Rect], float]:
    """Place the boxes of the U: the down path below the first of `tops`, the up path below the second; return the lower end too.

    Both columns end on one floor, so that blocks of one resolution face each other; or they begin where they can, and boxes and
    rows are moved down until skips are level.
    """
    plan, center = measured.plan, measured.center
    lefts, rights = outline.on("left"), outline.on("right")
    is_rising = any(box.after is not None for box in rights)  # else it is branches instead of an up path, read downwards
    rights = rights[::-1] if is_rising else rights
    if plan.level:
        starts = [top + plan.end_gap for top in tops]
        measured, leads = _leveled(outline, measured, (lefts, rights), starts)
    else:
        leads = {}
        heights = [sum(measured.sizes[box.name][1] for box in boxes) + sum(_gaps(boxes, plan)) for boxes in (lefts, rights)]
        floor = plan.end_gap + max(top + height for top, height in zip(tops, heights, strict=True))
        starts = [floor - heights[0], floor - (heights[1] if is_rising else max(heights))]
    rects = _stack(lefts, measured, center[0], starts[0], leads) | _stack(rights, measured, center[1], starts[1], leads)
    floor = max([*starts, *(rect.bottom for rect in rects.values())])
    rects |= _stack(outline.on("bottom"), measured, measured.width / 2, floor + drop_of(outline, plan), {})
    return measured, rects, max([floor + plan.gap, *(rect.bottom for rect in rects.values())])


def _leveled(
    outline: Outline, measured: Measures, sides: tuple[Sequence[Box], Sequence[Box]], starts: Sequence[float]
) -> tuple[Measures, dict[str, float]]:
    """Make both ends of each skip level, as far as skips do not cross: from the top down, what is higher is moved down.

    Returns the boxes, with free room above rows, and how far below its place each box begins.
    """
    leads = {box.name: 0.0 for boxes in sides for box in boxes}

    def ends(link: Link) -> tuple[float, float]:
        source, target = (
            fill(box, measured.contents[box.name], _stack(boxes, measured, 0, start, leads)[box.name])
            for box, boxes, start in zip((link.source, link.target), sides, starts, strict=True)
        )
        return source.produced[link.skip.index], target.consumed[link.skip.order]

    links = {link.number: (link, ends(link)) for link in outline.links if link.source in sides[0] and link.target in sides[1]}
    orders = []
    for side in (0, 1):
        one_each = {at[side]: number for number, (_, at) in links.items()}
        orders.append([one_each[y] for y in sorted(one_each)])
    drawn = uncrossed(*orders)
    for link in (links[number][0] for number in orders[0] if number in drawn):
        at = ends(link)
        side = 0 if at[0] < at[1] else 1
        box, by = (link.source, link.target)[side], abs(at[0] - at[1])
        content = measured.contents[box.name]
        row = next((place for place, row in enumerate(content.rows) if _is_end(row, link, side)), 0)
        if any(above.has_skip for above in content.rows[:row]):
            rows = (*content.rows[:row], replace(content.rows[row], above=content.rows[row].above + by), *content.rows[row + 1 :])
            content = replace(content, rows=rows)
            sizes = {**measured.sizes, box.name: (measured.sizes[box.name][0], content.height)}
            measured = replace(measured, contents={**measured.contents, box.name: content}, sizes=sizes)
        else:
            leads[box.name] += by
    return measured, leads


def _is_end(row: RowContent, link: Link, side: int) -> bool:
    """Return whether a skip leaves, or enters, at this row."""
    if side == 0:
        return any(line.produced is not None and line.produced.index == link.skip.index for line in row.lines)
    return any(line.consumed is not None and line.consumed.order == link.skip.order for line in row.lines)


def _sizes(boxes: Sequence[Box], contents: dict[str, Content], plan: Plan) -> _Sizes:
    """Return the (width, height) of each box.

    A block's height is a base and a step for each doubling of its resolution, its width a base and a step for each doubling of
    its channels; the bases are the smallest with which all texts fit, in the blocks and beside the arrows. With level skips, its
    height is that of its content; where arrows do not run in the middle, all boxes of a side have one width.
    """

    def least(among: Sequence[Box]) -> float:
        shapes = [plan.shape(shape) for box in among for shape in (box.in_shape, box.out_shape)]
        return max(plan.column, *((text_width(f"→ {shape}", TEXT_SIZE) + 10) / max(plan.axis, 1 - plan.axis) for shape in shapes))

    if plan.axis < 0.5:
        sides = [[box for box in boxes if box.side == side] for side in (*_COLUMNS, "bottom")]
        widths = [max([least(side), *(contents[box.name].width for box in side)]) for side in sides if side]
        return {
            box.name: (width, contents[box.name].height) for side, width in zip(filter(None, sides), widths, strict=True) for box in side
        }
    scaled = [box for box in boxes if is_scaled(box)]
    tall = _grown(scaled, lambda box: 0.5 * log2(box.cells or 1), lambda box: contents[box.name].height, _MOST_HEIGHT)
    wide = _grown(scaled, lambda box: log2(box.channels or 1), lambda box: contents[box.name].width, plan.growth, least=least(boxes))
    narrow = max([contents[box.name].width for box in boxes if not is_scaled(box)], default=0)
    if plan.level:
        tall = {box.name: contents[box.name].height for box in scaled}
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


def _gaps(boxes: Sequence[Box], plan: Plan) -> list[float]:
    """Return the gaps between the boxes of a column: room for an arrow where there is one, and for the shapes beside it."""

    def gap(box: Box, before: Box) -> float:
        return plan.gap if box.in_shape == before.out_shape else max(plan.gap, _TWO_SHAPES)

    pairs = pairwise(boxes)
    return [gap(one, two) if one.after is two else gap(two, one) if two.after is one else _APART for one, two in pairs]


def drop_of(outline: Outline, plan: Plan) -> float:
    """Return how far what is between the columns is below them: as the plan says, or room for two shapes if they are written there."""
    two = plan.axis < 0.5 and any(before.out_shape != box.in_shape for before, box in _turns(outline))
    return max(plan.drop, _TWO_SHAPES) if two else plan.drop


def _turns(outline: Outline) -> list[tuple[Box, Box]]:
    """Return the steps into and out of what is between the columns."""
    return [(before, box) for before, box in outline.steps if (before.side == "bottom") != (box.side == "bottom")]


def _stack(boxes: Sequence[Box], measured: Measures, center: float, top: float, leads: dict[str, float]) -> dict[str, Rect]:
    rects = {}
    for box, gap in zip(boxes, [*_gaps(boxes, measured.plan), 0], strict=False):
        width, height = measured.sizes[box.name]
        top += leads.get(box.name, 0)
        rects[box.name] = Rect(center - width / 2, top, width, height)
        top += height + gap
    return rects
