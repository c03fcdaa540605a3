"""The arrows of the hidden states, from the input down the left, across, and up the right; and the curves of the skips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from unetinspect.drawing.outline import Box, Outline
from unetinspect.drawing.place.boxes import TEXT_SIZE
from unetinspect.drawing.place.columns import Measures
from unetinspect.drawing.scene import Anchor, Flow, PlacedBox, PlacedSkip, Point, Rect, Text
from unetinspect.drawing.text_width import shortened, text_width
from unetinspect.record import Shape, Skip
from unetinspect.units import format_shape, plural
from unetinspect.views.words import skip_label

_STUB, _BESIDE, _LINE, _TURN, _OVER = 26.0, 9.0, 14.0, 28.0, 7.0
_LABEL_SIZE, _BEFORE, _AFTER, _ABOVE, _HEAD = 10.0, 6.0, 8.0, 4.0, 14.0
_Corners = tuple[Point, ...]


def flows(outline: Outline, measured: Measures, rects: dict[str, Rect]) -> Iterator[Flow]:
    """Yield the arrows: into the first box, between boxes, out of the last."""
    if not outline.chain:
        return
    yield _input(outline, outline.chain[0], rects)
    for before, box in outline.steps:
        shapes = [before.out_shape] if before.out_shape == box.in_shape else [before.out_shape, box.in_shape]
        points, texts = _way(before, box, rects[before.name], rects[box.name], shapes)
        yield Flow(points, tuple(texts))
    if len(outline.trace.outputs) <= 1:
        yield _output(outline, outline.chain[-1], rects, measured.center[1])


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


def _input(outline: Outline, box: Box, rects: dict[str, Rect]) -> Flow:
    rect = rects[box.name]
    x, tail = rect.middle[0], rect.y - _STUB
    given = next((one for one in outline.trace.run.inputs if one.shape is not None), None)
    texts = []
    if given is not None:
        texts.append(_text(x, tail - 5, f"{shortened(given.name, 120, TEXT_SIZE)} {format_shape(given.shape)}", "middle"))
        if given.shape != box.in_shape:
            texts.append(_text(x - _BESIDE, rect.y - _STUB / 2 + 4, f"→ {format_shape(box.in_shape)}", "end"))
    return Flow(((x, tail), (x, rect.y)), tuple(texts))


def _output(outline: Outline, box: Box, rects: dict[str, Rect], right: float) -> Flow:
    """Return the arrow out of the last box: up from the right, to the right from the bottom, down from the left."""
    rect, shape = rects[box.name], outline.trace.output.shape
    name = outline.trace.outputs[0].name if outline.trace.outputs else ""
    output = f"{shortened(name, 120, TEXT_SIZE) or 'output'} {format_shape(shape)}"
    made = [] if shape == box.out_shape else [box.out_shape]
    x, y = rect.middle
    if box.side == "right":
        points: _Corners = ((x, rect.y), (x, rect.y - _STUB))
        texts = [_text(x, rect.y - _STUB - 5, output, "middle"), *_beside(x, rect.y - _STUB / 2, made, "start")]
    elif box.side == "bottom":
        points = ((rect.right, y), (right, y))
        texts = [_text((rect.right + right) / 2, y - _OVER, output, "middle"), *_across(rect.right, right, y + 22, made)]
    else:
        points = ((x, rect.bottom), (x, rect.bottom + _STUB))
        texts = [_text(x, rect.bottom + _STUB + 14, output, "middle"), *_beside(x, rect.bottom + _STUB / 2, made, "end")]
    return Flow(points, tuple(texts))


def _way(before: Box, box: Box, start: Rect, end: Rect, shapes: Sequence[Shape | None]) -> tuple[_Corners, list[Text]]:
    """Return the corners of the arrow between two boxes, and the shape on it, or both shapes where they differ."""
    (from_x, from_y), (to_x, to_y) = start.middle, end.middle
    match before.side, box.side:
        case "right", "right":
            return ((from_x, start.y), (to_x, end.bottom)), _beside(from_x, (start.y + end.bottom) / 2, shapes, "start", up=True)
        case "left", "bottom":
            return ((from_x, start.bottom), (from_x, to_y), (end.x, to_y)), _across(from_x, end.x, to_y, shapes)
        case "bottom", "right":
            return ((start.right, from_y), (to_x, from_y), (to_x, end.bottom)), _across(start.right, to_x, from_y, shapes)
        case "left", "right":
            low = max(start.bottom, end.bottom) + _TURN
            return ((from_x, start.bottom), (from_x, low), (to_x, low), (to_x, end.bottom)), _across(from_x, to_x, low, shapes)
        case _:
            anchor: Anchor = "end" if box.side == "left" else "start"
            return ((from_x, start.bottom), (to_x, end.y)), _beside(from_x, (start.bottom + end.y) / 2, shapes, anchor)


def _beside(x: float, middle: float, shapes: Sequence[Shape | None], anchor: Anchor, *, up: bool = False) -> list[Text]:
    """Write shapes beside an upright arrow, on the outer side, in the order in which it passes them."""
    away = -_BESIDE if anchor == "end" else _BESIDE
    first = middle + 4 - (len(shapes) - 1) * _LINE / 2
    texts = _passed(shapes)[::-1] if up else _passed(shapes)
    return [_text(x + away, first + place * _LINE, text, anchor) for place, text in enumerate(texts)]


def _across(left: float, right: float, y: float, shapes: Sequence[Shape | None]) -> list[Text]:
    """Write shapes at a level arrow, the first above it, the second below."""
    heights = (y - _OVER, y + _OVER + 9)
    return [_text((left + right) / 2, height, text, "middle") for text, height in zip(_passed(shapes), heights, strict=False)]


def _passed(shapes: Sequence[Shape | None]) -> list[str]:
    return [("→ " if place else "") + format_shape(shape) for place, shape in enumerate(shapes)]


def _text(x: float, y: float, content: str, anchor: Anchor) -> Text:
    return Text(x, y, content, "shape", TEXT_SIZE, anchor=anchor)


def place_skips(outline: Outline, measured: Measures, boxes: dict[str, PlacedBox]) -> Iterator[PlacedSkip]:
    """Yield the curves, in the order in which the skips are consumed.

    They do not cross: a level S between two upright lines keeps the order of its ends, and skips are a stack.
    """
    seen: set[int] = set()
    for skip in outline.trace.skips:
        source, target = (boxes[outline.box_of(stage).name] for stage in (skip.source_stage, skip.target_stage))
        if source.box.side == "top" or target.box.side == "top":
            continue
        start = (source.rect.x if source.box.side == "right" else source.rect.right), source.produced[skip.index]
        end = (target.rect.right if target.box.side == "left" else target.rect.x), target.consumed[skip.order]
        yield _curve(skip, start, end, measured.inner, again=skip.index in seen)
        seen.add(skip.index)


def _curve(skip: Skip, start: Point, end: Point, inner: tuple[float, float], *, again: bool) -> PlacedSkip:
    """Return the curve of a skip; if it leaves a second time, its label is at its other end."""
    room = text_width(skip_label(skip), _LABEL_SIZE) + _BEFORE + _AFTER
    out = 1 if start[0] < sum(inner) / 2 else -1
    into = 1 if end[0] < sum(inner) / 2 else -1
    near, far = inner if out == 1 else inner[::-1]
    last = near if into == out else far
    bend_start = near + out * room, start[1]
    bend_end = last + into * (room if again or into == out else _HEAD), end[1]
    x, y, away = (last + into * _HEAD, end[1], into) if again else (near + out * _BEFORE, start[1], out)
    label = Text(x, y - _ABOVE, skip_label(skip), "channels", _LABEL_SIZE, anchor="start" if away == 1 else "end")
    return PlacedSkip(skip, start, bend_start, bend_end, end, label)
