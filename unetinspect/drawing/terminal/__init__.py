"""Draws the U in a terminal: two columns of boxes with the skips between them, or a list where that does not fit."""

from __future__ import annotations

from unetinspect.drawing.forms import Level
from unetinspect.drawing.outline import Outline
from unetinspect.drawing.terminal.canvas import ASCII, BOXES, fold
from unetinspect.drawing.terminal.cards import Manner
from unetinspect.drawing.terminal.list import list_lines
from unetinspect.drawing.terminal.picture import Picture
from unetinspect.drawing.words import shown
from unetinspect.terminal import paint

_MOST = 120
_LEAST = 20


def terminal(outline: Outline, *, level: Level = "stage", width: int | None, unicode: bool, color: bool) -> str:
    """Draw an outline as text, with a newline at the end; no line is wider than `width` columns.

    Down on the left, up on the right, the smaller the map the further in; each skip is a level line. Where two columns do
    not fit, the boxes are listed one after another. Nothing is cut.

    Args:
        outline: What to draw.
        level: Boxes alone, or each of their layers.
        width: Columns, taken as 20 where fewer; None is as many as the drawing needs, at most 120.
        unicode: Whether more than ASCII can be shown.
        color: Whether to colour, with ANSI sequences.
    """
    most = max(_MOST if width is None else width, _LEAST)
    heads = fold(shown(outline.title, unicode=unicode), most)
    body = _body(outline, level, most, unicode=unicode, color=color)
    foot = [line for text in outline.caption for line in fold(shown(text, unicode=unicode), most, indent="  ")]
    bold = [paint(line, "name") for line in heads] if color else heads
    return "\n".join([*bold, "", *body, "", *foot]) + "\n"


def _body(outline: Outline, level: Level, most: int, *, unicode: bool, color: bool) -> list[str]:
    """Return the richest picture that fits, or the list."""
    glyphs = BOXES if unicode else ASCII
    for classes, stacked in ((True, False), (False, False), (False, True)):
        picture = Picture(outline, Manner(level, classes, stacked, glyphs.arrow, unicode), glyphs, min(most, _MOST))
        if picture.least <= (most if not classes else min(most, _MOST)):
            return picture.draw().lines(color=color)
    return list_lines(outline, level, most, unicode=unicode, color=color)
