"""The arrows of the hidden states, from the input down the left, across, and up the right; and the curves of the skips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from unetinspect.drawing.labels import skip_names
from unetinspect.drawing.outline import Box, Outline
from unetinspect.drawing.place.boxes import TEXT_SIZE
from unetinspect.drawing.place.columns import AFTER, BEFORE, HEAD, LABEL_SIZE, Measures, drop_of
from unetinspect.drawing.place.layouts import Plan
from unetinspect.drawing.scene import Anchor, Badge, Flow, PlacedBox, PlacedSkip, Point, Rect, Text
from unetinspect.drawing.text_width import shortened, text_width
from unetinspect.record import Skip
from unetinspect.units import plural
from unetinspect.views.words import skip_label

_STUB, _BESIDE, _LINE, _TURN, _OVER = 26.0, 9.0, 14.0, 28.0, 7.0
_ABOVE, _BUS_ABOVE, _BUS_BELOW, _INTO_BOTTOM = 4.0, 5.0, 14.0, 24.0
_Corners = tuple[Point, ...]


def flows(outline: Outline, measured: Measures, rects: dict[str, Rect]) -> Iterator[Flow]:
    """Yield the arrows: into the first box, between boxes, out of the last."""
    if not outline.chain:
        return
    yield _input(outline, outline.chain[0], rects, measured)
    for before, box in outline.steps:
        points, texts = _way(outline, before, box, rects, measured)
        yield Flow(points, tuple(texts))
    if len(outline.trace.outputs) <= 1:
        yield _output(outline, outline.chain[-1], rects, measured)


def returned(outline: Outline, rects: dict[str, Rect]) -> Iterator[Text]:
    """Yield the text for several returned tensors."""
    count, rights = len(outline.trace.outputs), outline.on("right")
    if count <= 1:
        return
    if rights:
        first = min((rects[box.name] for box in rights), key=lambda one: one.y)
        yield _text(first.middle[0], first.y - 12, f"returns {plural(count, 'tensor')}", "middle")
    else:
        last = rects[outline.chain[-1].name]
        yield _text(last.middle[0], last.bottom + 20, f"returns {plural(count, 'tensor')}", "middle")


def _axis(box: Box, rect: Rect, measured: Measures) -> float:
    """Return the x of the arrows into and out of a box."""
    return {"left": measured.axes[0], "right": measured.axes[1]}.get(box.side, rect.middle[0])


def _anchor(box: Box, plan: Plan) -> Anchor:
    """Return on which side of an arrow its shapes are: the outer one, or the inner one where that is wider."""
    return "end" if (box.side == "left") == (plan.axis >= 0.5) else "start"


def _at_end(box: Box, rect: Rect, y: float, text: str, plan: Plan) -> Text:
    """Write at the outer end of an arrow: above its middle, or from the edge of the page where its middle is close to it."""
    if plan.axis >= 0.5 or box.side == "bottom":
        return _text(rect.middle[0], y, text, "middle")
    return _text(rect.x, y, text, "start") if box.side == "left" else _text(rect.right, y, text, "end")


def _input(outline: Outline, box: Box, rects: dict[str, Rect], measured: Measures) -> Flow:
    rect, plan = rects[box.name], measured.plan
    x, tail = _axis(box, rect, measured), rect.y - _STUB
    given = next((one for one in outline.trace.run.inputs if one.shape is not None), None)
    texts = []
    if given is not None:
        texts.append(_at_end(box, rect, tail - 5, f"{shortened(given.name, 120, TEXT_SIZE)} {plan.shape(given.shape)}", plan))
        if given.shape != box.in_shape:
            anchor = _anchor(box, plan) if box.side == "left" else "end"
            texts += _beside(x, rect.y - _STUB / 2, [f"→ {plan.shape(box.in_shape)}"], anchor)
    return Flow(((x, tail), (x, rect.y)), tuple(texts))


def _output(outline: Outline, box: Box, rects: dict[str, Rect], measured: Measures) -> Flow:
    """Return the arrow out of the last box: up from the right, to the right from the bottom, down from the left."""
    rect, shape, plan = rects[box.name], outline.trace.output.shape, measured.plan
    name = outline.trace.outputs[0].name if outline.trace.outputs else ""
    output = f"{shortened(name, 120, TEXT_SIZE) or 'output'} {plan.shape(shape)}"
    made = [] if shape == box.out_shape else [plan.shape(box.out_shape)]
    x, y, right = _axis(box, rect, measured), rect.middle[1], measured.axes[1]
    if box.side == "right":
        points: _Corners = ((x, rect.y), (x, rect.y - _STUB))
        texts = [_at_end(box, rect, rect.y - _STUB - 5, output, plan), *_beside(x, rect.y - _STUB / 2, made, _anchor(box, plan))]
    elif box.side == "bottom" and plan.axis >= 0.5:
        points = ((rect.right, y), (right, y))
        texts = [_text((rect.right + right) / 2, y - _OVER, output, "middle"), *_across(rect.right, right, y + 22, made)]
    else:
        points = ((x, rect.bottom), (x, rect.bottom + _STUB))
        texts = [_at_end(box, rect, rect.bottom + _STUB + 14, output, plan)]
        texts += _beside(x, rect.bottom + _STUB / 2, made, _anchor(box, plan))
    return Flow(points, tuple(texts))


def _way(outline: Outline, before: Box, box: Box, rects: dict[str, Rect], measured: Measures) -> tuple[_Corners, list[Text]]:
    """Return the corners of the arrow between two boxes, and the shape on it, or both shapes where they differ."""
    passed = [before.out_shape] if before.out_shape == box.in_shape else [before.out_shape, box.in_shape]
    start, end, plan = rects[before.name], rects[box.name], measured.plan
    from_x, to_x = _axis(before, start, measured), _axis(box, end, measured)
    from_y, to_y = start.middle[1], end.middle[1]
    shapes = [("→ " if place else "") + plan.shape(shape) for place, shape in enumerate(passed)]
    is_narrow = plan.axis < 0.5  # too narrow to write at a level arrow: it is written below the columns
    below = min([rects[one.name].y for one in outline.on("bottom")], default=0) - drop_of(outline, plan) / 2
    match before.side, box.side:
        case "right", "right":
            middle = (start.y + end.bottom) / 2
            return ((from_x, start.y), (to_x, end.bottom)), _beside(from_x, middle, shapes[::-1], _anchor(box, plan))
        case "left", "bottom":
            texts = _beside(from_x, below, shapes, "start") if is_narrow else _across(from_x, end.x, to_y, shapes)
            return ((from_x, start.bottom), (from_x, to_y), (end.x, to_y)), texts
        case "bottom", "right":
            texts = _beside(to_x, below, shapes[::-1], "end") if is_narrow else _across(start.right, to_x, from_y, shapes)
            return ((start.right, from_y), (to_x, from_y), (to_x, end.bottom)), texts
        case "left", "right":
            low = max(start.bottom, end.bottom) + _TURN
            return ((from_x, start.bottom), (from_x, low), (to_x, low), (to_x, end.bottom)), _across(from_x, to_x, low, shapes)
        case _:
            texts = _beside(from_x, (start.bottom + end.y) / 2, shapes, _anchor(box, plan))
            return ((from_x, start.bottom), (to_x, end.y)), texts


def _beside(x: float, middle: float, shapes: Sequence[str], anchor: Anchor) -> list[Text]:
    """Write shapes beside an upright arrow, from the top down."""
    away = -_BESIDE if anchor == "end" else _BESIDE
    first = middle + 4 - (len(shapes) - 1) * _LINE / 2
    return [_text(x + away, first + place * _LINE, text, anchor) for place, text in enumerate(shapes)]


def _across(left: float, right: float, y: float, shapes: Sequence[str]) -> list[Text]:
    """Write shapes at a level arrow, the first above it, the second below."""
    heights = (y - _OVER, y + _OVER + 9)
    return [_text((left + right) / 2, height, text, "middle") for text, height in zip(shapes, heights, strict=False)]


def _text(x: float, y: float, content: str, anchor: Anchor) -> Text:
    return Text(x, y, content, "shape", TEXT_SIZE, anchor=anchor)


def contexts(given: Sequence[Badge], boxes: Sequence[PlacedBox], measured: Measures, bottom: float) -> Iterator[_Corners]:
    """Yield the arrows from `encoder_hidden_states` to the attention layers that take it, down the left edge, and up the right one.

    One arrow goes the whole way, the others leave it.
    """
    left, low = measured.plan.margin / 2, bottom + _BUS_BELOW
    right = measured.width - left
    ends: list[_Corners] = []
    boxes_below = [None, *(box for box in boxes if box.box.side == "bottom")]
    for box in boxes:
        rect, within = box.rect, (*box.badges, *(badge for row in box.rows for badge in row.badges))
        heights = sorted({badge.rect.middle[1] for badge in within if badge.kind in ("cross", "joint")})
        if box is boxes_below[-1] and heights:
            ends.append(((left, low), (rect.x + _INTO_BOTTOM, low), (rect.x + _INTO_BOTTOM, rect.bottom)))
        elif box.box.side in ("left", "bottom"):
            ends += [((left, height), (rect.x, height)) for height in heights]
        elif box.box.side == "right":
            ends += [((left, low), (right, low), (right, height), (rect.right, height)) for height in reversed(heights)]
    chips = [one.rect for one in given if one.kind == "context"]
    if not ends or not chips:
        return
    # The longest passes where the others leave it.
    trunk = max(ends, key=lambda end: sum(abs(x - to_x) + abs(y - to_y) for (x, y), (to_x, to_y) in pairwise([(left, 0), *end])))
    for chip in chips:
        x, above = chip.middle[0], chip.y - _BUS_ABOVE
        yield ((x, chip.y), (x, above), (left, above), *(trunk if chip is chips[0] else ()))
    yield from (end[-2:] for end in ends if end is not trunk)


def place_skips(outline: Outline, measured: Measures, boxes: dict[str, PlacedBox]) -> Iterator[PlacedSkip]:
    """Yield the curves, in the order in which the skips are consumed.

    They do not cross: a level S between two upright lines keeps the order of its ends, and skips are a stack.
    """
    seen: set[int] = set()
    skips = outline.trace.skips
    for skip, name in zip(skips, skip_names(skips), strict=True):
        source, target = (boxes[outline.box_of(stage).name] for stage in (skip.source_stage, skip.target_stage))
        if source.box.side == "top" or target.box.side == "top":
            continue
        start = (source.rect.x if source.box.side == "right" else source.rect.right), source.produced[skip.index]
        end = (target.rect.right if target.box.side == "left" else target.rect.x), target.consumed[skip.order]
        yield _curve(skip, name, start, end, measured.inner, again=skip.index in seen)
        seen.add(skip.index)


def _curve(skip: Skip, name: str, start: Point, end: Point, inner: tuple[float, float], *, again: bool) -> PlacedSkip:
    """Return the curve of a skip; if it leaves a second time, its label is at its other end."""
    room = text_width(skip_label(skip), LABEL_SIZE) + BEFORE + AFTER
    out = 1 if start[0] < sum(inner) / 2 else -1
    into = 1 if end[0] < sum(inner) / 2 else -1
    near, far = inner if out == 1 else inner[::-1]
    last = near if into == out else far
    bend_start = near + out * room, start[1]
    bend_end = last + into * (room if again or into == out else HEAD), end[1]
    x, y, away = (last + into * HEAD, end[1], into) if again else (near + out * BEFORE, start[1], out)
    label = Text(x, y - _ABOVE, skip_label(skip), "channels", LABEL_SIZE, anchor="start" if away == 1 else "end")
    return PlacedSkip(skip, name, start, bend_start, bend_end, end, label)
