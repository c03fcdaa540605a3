"""Draws the U in a terminal: two columns of boxes with the skips between them, or a list if that does not fit."""

from __future__ import annotations

from collections.abc import Iterator

from unetinspect.drawing.labels import box_lines, caption, entering, leaving
from unetinspect.drawing.outline import Box, Ends, Level, Outline, mark_text, outline_of
from unetinspect.drawing.text.canvas import ASCII, BOXES, fold
from unetinspect.drawing.text.picture import Picture
from unetinspect.terminal import paint
from unetinspect.views.words import step_text

_MOST = 120
_LEAST = 20


def text(outline: Outline, *, level: Level = "stage", width: int | None, unicode: bool, color: bool) -> str:
    """Draw an outline as text, with a newline at the end; no line is wider than `width` columns.

    Down on the left, up on the right, lower resolutions further in; each skip is a level line. If two columns do not fit, the
    boxes are listed one after another. Nothing is cut.

    Args:
        outline: What to draw.
        level: Boxes alone, or each of their layers.
        width: Columns, at least 20; None is as many as the drawing needs, at most 120.
        unicode: Whether more than ASCII can be shown.
        color: Whether to color, with ANSI sequences.
    """
    outline = outline if unicode else outline_of(outline.trace, title=outline.own_title, ascii_only=True)
    most = max(_MOST if width is None else width, _LEAST)
    heads = fold(outline.title, most)
    glyphs = BOXES if unicode else ASCII
    for classes, stacked in ((True, False), (False, False), (False, True)):  # the most detailed picture that fits
        picture = Picture(outline, level, glyphs, min(most, _MOST), classes=classes, stacked=stacked)
        if picture.least <= (min(most, _MOST) if classes else most):
            body = picture.draw().lines(color=color)
            break
    else:
        body = _list(outline, level, most, glyphs.arrow, color=color)
    foot = [line for text in caption(outline.trace) for line in fold(text, most, indent="  ")]
    bold = [paint(line, "name") for line in heads] if color else heads
    return "\n".join([*bold, "", *body, "", *foot]) + "\n"


def _list(outline: Outline, level: Level, width: int, arrow: str, *, color: bool) -> list[str]:
    """Write each box in execution order with its shapes, attention layers and skips; no line is wider than `width`."""
    lines: list[str] = []
    for box in outline.boxes:
        lines += [""] if lines else []
        lines += [paint(line, box.side) if color else line for line in fold(box.name, width)]
        for row in _rows(outline, box, level, arrow):
            indent = min(len(row) - len(row.lstrip()) + 2, width // 2)
            lines += [" " * indent + line for line in fold(row.lstrip(), width - indent, indent="  ")]
    return lines


def _rows(outline: Outline, box: Box, level: Level, arrow: str) -> Iterator[str]:
    yield step_text(box.in_shape, box.out_shape, arrow)
    yield from box_lines(box, outline.trace.run, marks=level == "stage" or not box.layers)
    layers, rest = outline.ends(box, level)
    for layer, ends in layers:
        yield layer.name
        yield f"  {step_text(layer.module.in_shape, layer.module.out_shape, arrow)}"
        yield from (f"  {mark_text(mark, of_one=True)}" for mark in layer.marks)
        yield from (f"  {line}" for line in _skips(ends, arrow))
    yield from _skips(rest, arrow)


def _skips(ends: Ends, arrow: str) -> Iterator[str]:
    for link in ends.consumed:
        yield f"{entering(link, arrow)}, skip from {link.skip.source}"
    for link in ends.produced:
        yield f"{leaving(link)} {arrow} {link.skip.target}"
