"""The curves of the skips: level out of their sources, bent across the corridor, level into their targets."""

from __future__ import annotations

from unetinspect.drawing.outline import Outline
from unetinspect.drawing.place.boxes import Ports
from unetinspect.drawing.place.columns import Columns
from unetinspect.drawing.scene import PlacedSkip, Point, Rect, Text
from unetinspect.drawing.text_width import text_width
from unetinspect.record import Skip
from unetinspect.views.words import skip_label

LABEL_SIZE = 10.0
_BEFORE, _AFTER, _ABOVE, _HEAD = 6.0, 8.0, 4.0, 14.0


def place_skips(outline: Outline, places: Columns, ports: dict[str, Ports]) -> list[PlacedSkip]:
    """Return the curves, in the order in which the skips are consumed.

    They do not cross: a level S between two upright lines keeps the order of its ends, and skips are a stack.
    """
    seen: set[int] = set()
    placed = []
    for skip in outline.trace.skips:
        source, target = outline.box_of(skip.source_stage), outline.box_of(skip.target_stage)
        if source.side == "top" or target.side == "top":
            continue
        start = _edge(places.rects[source.name], ports[source.name].made[skip.index], right=source.side != "right")
        end = _edge(places.rects[target.name], ports[target.name].taken[skip.order], right=target.side == "left")
        placed.append(_curve(skip, start, end, places, again=skip.index in seen))
        seen.add(skip.index)
    return placed


def _edge(rect: Rect, y: float, *, right: bool) -> Point:
    return (rect.right if right else rect.x), y


def _curve(skip: Skip, start: Point, end: Point, places: Columns, *, again: bool) -> PlacedSkip:
    """Return the curve of a skip; one that leaves a second time carries its label at its other end, as the first holds its place."""
    room = text_width(skip_label(skip), LABEL_SIZE) + _BEFORE + _AFTER
    out = 1 if start[0] < sum(places.inner) / 2 else -1
    into = 1 if end[0] < sum(places.inner) / 2 else -1
    near, far = places.inner if out == 1 else places.inner[::-1]
    last = near if into == out else far
    bend_start = near + out * room, start[1]
    bend_end = last + into * (room if again or into == out else _HEAD), end[1]
    if again:
        label = Text(last + into * _HEAD, end[1] - _ABOVE, skip_label(skip), "channels", LABEL_SIZE, anchor="start" if into == 1 else "end")
    else:
        label = Text(
            near + out * _BEFORE, start[1] - _ABOVE, skip_label(skip), "channels", LABEL_SIZE, anchor="start" if out == 1 else "end"
        )
    return PlacedSkip(skip, start, bend_start, bend_end, end, label)
