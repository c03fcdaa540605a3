"""The arrows along which the hidden states go, from the input down the left, across, and up the right to the output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from unetinspect.drawing.outline import Box, Outline
from unetinspect.drawing.place.columns import Columns
from unetinspect.drawing.place.contents import TEXT_SIZE
from unetinspect.drawing.scene import Anchor, Flow, Point, Rect, Text
from unetinspect.drawing.text_width import shortened
from unetinspect.record import Shape
from unetinspect.units import format_shape, plural, visible

_STUB, _BESIDE, _LINE, _ABOVE, _TURN = 26.0, 9.0, 14.0, 7.0, 28.0


def flows(outline: Outline, places: Columns) -> list[Flow]:
    """Return the arrows: into the first box, between boxes, out of the last."""
    chain = [box for box in outline.boxes if box.side != "top"]
    if not chain:
        return []
    named = {box.name: box for box in chain}
    between = [_between(named[box.after], box, places) for box in chain if box.after is not None]
    return [_input(outline, chain[0], places), *between, *_output(outline, chain[-1], places)]


def returned(outline: Outline, places: Columns) -> list[Text]:
    """Return the words that say that several tensors are returned, where they are."""
    count = len(outline.trace.outputs)
    if count <= 1:
        return []
    rights = outline.on("right")
    said = f"returns {plural(count, 'tensor')}"
    if rights:
        rect = min((places.rects[box.name] for box in rights), key=lambda one: one.y)
        return [_text(rect.middle[0], rect.y - 12, said, "middle")]
    last = places.rects[[box for box in outline.boxes if box.side != "top"][-1].name]
    return [_text(last.middle[0], last.bottom + 20, said, "middle")]


def _input(outline: Outline, box: Box, places: Columns) -> Flow:
    rect = places.rects[box.name]
    x, tail = rect.middle[0], rect.y - _STUB
    given = next((one for one in outline.trace.run.inputs if one.shape is not None), None)
    if given is None:
        return Flow(((x, tail), (x, rect.y)), (), None, box.name)
    words = [_text(x, tail - 5, f"{shortened(visible(given.name), 120, TEXT_SIZE)} {format_shape(given.shape)}", "middle")]
    if given.shape != box.in_shape:
        words.append(_text(x - _BESIDE, rect.y - _STUB / 2 + 4, f"→ {format_shape(box.in_shape)}", "end"))
    return Flow(((x, tail), (x, rect.y)), tuple(words), None, box.name)


def _output(outline: Outline, box: Box, places: Columns) -> Iterator[Flow]:
    """Yield the arrow out of the last box: up from the right, to the right from the bottom, down from the left."""
    if len(outline.trace.outputs) > 1:
        return
    rect, shape = places.rects[box.name], outline.trace.output.shape
    name = outline.trace.outputs[0].name if outline.trace.outputs else ""
    said = f"{shortened(visible(name), 120, TEXT_SIZE) or 'output'} {format_shape(shape)}"
    made = [] if shape == box.out_shape else [box.out_shape]
    x, y = rect.middle
    if box.side == "right":
        words = [_text(x, rect.y - _STUB - 5, said, "middle"), *_beside(x, rect.y - _STUB / 2, made, "start")]
        yield Flow(((x, rect.y), (x, rect.y - _STUB)), tuple(words), box.name, None)
    elif box.side == "bottom":
        words = [
            _text((rect.right + places.centre[1]) / 2, y - _ABOVE, said, "middle"),
            *_across(rect.right, places.centre[1], y + 22, made),
        ]
        yield Flow(((rect.right, y), (places.centre[1], y)), tuple(words), box.name, None)
    else:
        words = [_text(x, rect.bottom + _STUB + 14, said, "middle"), *_beside(x, rect.bottom + _STUB / 2, made, "end")]
        yield Flow(((x, rect.bottom), (x, rect.bottom + _STUB)), tuple(words), box.name, None)


def _between(before: Box, box: Box, places: Columns) -> Flow:
    """Return the arrow from a box to the next: its way, and the shape on it, or both shapes where they differ."""
    start, end = places.rects[before.name], places.rects[box.name]
    shapes = [before.out_shape] if before.out_shape == box.in_shape else [before.out_shape, box.in_shape]
    points, words = _way(before, box, start, end, shapes)
    return Flow(points, tuple(words), before.name, box.name)


def _way(before: Box, box: Box, start: Rect, end: Rect, shapes: Sequence[Shape | None]) -> tuple[tuple[Point, ...], list[Text]]:
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
    said = _said(shapes)[::-1] if up else _said(shapes)
    return [_text(x + away, first + place * _LINE, text, anchor) for place, text in enumerate(said)]


def _across(left: float, right: float, y: float, shapes: Sequence[Shape | None]) -> list[Text]:
    """Write shapes above a level arrow, the second below it."""
    heights = (y - _ABOVE, y + _ABOVE + 9)
    return [_text((left + right) / 2, height, text, "middle") for text, height in zip(_said(shapes), heights, strict=False)]


def _said(shapes: Sequence[Shape | None]) -> list[str]:
    """Write the shape that goes along an arrow; where what arrives has another, that one after a small arrow."""
    return [("→ " if place else "") + format_shape(shape) for place, shape in enumerate(shapes)]


def _text(x: float, y: float, content: str, anchor: Anchor) -> Text:
    return Text(x, y, content, "shape", TEXT_SIZE, anchor=anchor)
