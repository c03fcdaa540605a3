"""What is above and below the U: title, inputs, embeddings; legend and caption."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import groupby

from msgspec import Struct

from unetinspect.drawing.labels import caption, typeset
from unetinspect.drawing.outline import Level, Outline
from unetinspect.drawing.place.boxes import BADGE_PAD, BADGE_SIZE, NAME_SIZE, NOTE_SIZE, PAD_X, Part, badge, content_of, fill, is_scaled
from unetinspect.drawing.place.layouts import Plan
from unetinspect.drawing.scene import Badge, PlacedBox, Point, Rect, Text
from unetinspect.drawing.text_width import TIMES, shortened, text_width, wrapped
from unetinspect.record import InputInfo
from unetinspect.views.words import place_text, skip_label

_TITLE_SIZE, _HEADING, _CHIP_GAP, _CHIP_HEIGHT, _LEGEND_GAP, _SAMPLE = 17.0, 84.0, 8.0, 22.0, 22.0, 30.0
_KINDS = ("self", "cross", "joint", "temporal", "pooling")


class Surroundings(Struct):
    """What is placed line by line.

    Attributes:
        y: The lower end of what is placed.
        right_y: Where the right column may begin: below the title, where that is above it.
        given: Inputs.
        boxes: Embeddings.
        samples: Sample arrows of the legend: kind, from, to.
        badges: Sample attention layers of the legend.
    """

    plan: Plan
    y: float
    right_y: float = 0
    texts: list[Text] = []
    given: list[Badge] = []
    boxes: list[PlacedBox] = []
    samples: list[tuple[str, Point, Point]] = []
    badges: list[Badge] = []

    def heading(self, text: str, height: float) -> float:
        """Write the heading of a line; return where what it heads begins."""
        if not self.plan.brief:
            self.texts.append(Text(self.plan.margin, self.y + height / 2 + 3.6, text, "note", NOTE_SIZE))
        return self.indent

    @property
    def indent(self) -> float:
        """Where a line begins that has a heading."""
        return self.plan.margin + (0 if self.plan.brief else _HEADING)

    def note(self, x: float, text: str) -> float:
        """Write a note; return its right end."""
        self.texts.append(Text(x, self.y + 9.6, text, "note", NOTE_SIZE))
        return x + text_width(text, NOTE_SIZE)


def above(outline: Outline, level: Level, plan: Plan, width: float, edge: float) -> Surroundings:
    """Place the title; left of `edge`, the inputs without the first, which enters the U, and the embeddings."""
    placed, title_end = Surroundings(plan, plan.margin), plan.margin
    text = outline.name if plan.brief and outline.own_title is None else outline.title
    if text:
        placed.y += 16
        room = width - 2 * plan.margin
        size = max(NAME_SIZE, min(_TITLE_SIZE, _TITLE_SIZE * room / text_width(typeset(text), _TITLE_SIZE, bold=True)))
        title = shortened(typeset(text), room, size, bold=True)
        placed.texts.append(Text(plan.margin, placed.y, title, "title", size, bold=True))
        placed.y += 20
        title_end += text_width(title, size, bold=True)
    placed.right_y = plan.margin if title_end <= edge else placed.y
    if plan.beside:
        below_title, placed.y = placed.y, plan.margin
        _caption(placed, outline, edge, title_end + 2 * plan.margin)
        placed.y = max(below_title, placed.y + 6)
    _inputs(placed, outline, edge)
    _embeddings(placed, outline, level, edge)
    return placed


def below(outline: Outline, plan: Plan, width: float, y: float, kinds: Collection[str]) -> Surroundings:
    """Place the legend, which explains these kinds of arrows, and the caption, from `y` down; a brief picture ends with the U."""
    placed = Surroundings(plan, y + (22 if plan.level else 30))
    if plan.brief:
        return placed
    if kinds:
        _legend(placed, outline, width, kinds)
        placed.y += 10
    if not plan.beside:
        _caption(placed, outline, width - plan.margin, plan.margin)
    placed.y += plan.margin - 8
    return placed


def _caption(placed: Surroundings, outline: Outline, edge: float, x: float) -> None:
    for line in caption(outline.trace):
        for part in wrapped(typeset(line), edge - x, 12):
            placed.texts.append(Text(x, placed.y + 12, part, "text", 12))
            placed.y += 18


def _inputs(placed: Surroundings, outline: Outline, edge: float) -> None:
    """Place the inputs in lines, in the order of `forward`."""
    inputs = outline.trace.run.inputs
    first = next((given for given in inputs if given.shape is not None), None)
    shown = list(_input_texts([given for given in inputs if given is not first], placed.plan))
    if not shown:
        return
    x = placed.heading("inputs", _CHIP_HEIGHT)
    for said in shown:
        text = shortened(said, edge - placed.indent - 2 * PAD_X, NOTE_SIZE)
        room = text_width(text, NOTE_SIZE) + 2 * PAD_X
        if x + room > edge:
            x, placed.y = placed.indent, placed.y + _CHIP_HEIGHT + _CHIP_GAP
        rect = Rect(x, placed.y, room, _CHIP_HEIGHT)
        kind = "context" if said.startswith("encoder_hidden_states") else ""
        placed.given.append(Badge(rect, Text(rect.middle[0], placed.y + 14.6, text, "text", NOTE_SIZE, anchor="middle"), kind))
        x += room + _CHIP_GAP
    placed.y += _CHIP_HEIGHT + _CHIP_GAP + 2


def _input_texts(inputs: Sequence[InputInfo], plan: Plan) -> Iterator[str]:
    """Write the arguments with their shapes or values; a long list as one: "residuals.0-11: 12 tensors"."""

    def list_of(given: InputInfo) -> str:
        listed, _, item = given.name.rpartition(".")
        return listed if item.isdigit() else ""

    for listed, group in groupby(inputs, key=list_of):
        given = list(group)
        if listed and len(given) > 3:
            yield f"{given[0].name}-{given[-1].name.rpartition('.')[2]}: {len(given)} tensors"
        else:
            names = [one.name.removeprefix("added_cond_kwargs.") if plan.brief else one.name for one in given]
            values = [f" = {one.value}" if one.shape is None else f" {plan.shape(one.shape)}" for one in given]
            yield from (name + value for name, value in zip(names, values, strict=True))


def _embeddings(placed: Surroundings, outline: Outline, level: Level, edge: float) -> None:
    """Place the embeddings in lines, in execution order."""
    x, tallest = placed.plan.margin, 0.0
    for box in outline.on("top"):
        content = content_of(box, level, outline.trace.run, placed.plan, shapes=True)
        if not placed.boxes:
            x = placed.heading("embeddings", _CHIP_HEIGHT + 6)
        if x + content.width > edge and tallest:
            x, placed.y, tallest = placed.indent, placed.y + tallest + _CHIP_GAP, 0.0
        placed.boxes.append(fill(box, content, Rect(x, placed.y, content.width, content.height)))
        x, tallest = placed.boxes[-1].rect.right + _CHIP_GAP, max(tallest, content.height)
    placed.y += tallest + 8


def _legend(placed: Surroundings, outline: Outline, width: float, kinds: Collection[str]) -> None:
    """Place samples with what they mean, and what the sizes of boxes mean."""
    changed = any("(" in skip_label(skip) for skip in outline.trace.skips)
    channels = "its channels and what changed it" if changed else "its channels"
    meanings = {
        "flow": "hidden states and their shape",
        "skip": f"a skip, {channels}; hidden + skip → out where it is concatenated",
        "context": "encoder_hidden_states",
    }
    x = placed.plan.margin
    for kind, meaning in ((kind, meaning) for kind, meaning in meanings.items() if kind in kinds):
        x = _from(placed, x, _SAMPLE + 8 + text_width(meaning, NOTE_SIZE), width)
        placed.samples.append((kind, (x, placed.y + 6), (x + _SAMPLE, placed.y + 6)))
        x = placed.note(x + _SAMPLE + 8, meaning) + _LEGEND_GAP
    marks = {mark.kind for box in outline.boxes for mark in box.marks}
    if marks:
        meaning = f"attention: layers, kind, queries {TIMES} keys"
        parts = [Part(kind, f"badge-{kind}", BADGE_SIZE, badge=kind) for kind in _KINDS if kind in marks]
        x = _from(placed, x, sum(part.width + BADGE_PAD for part in parts) + 2 + text_width(meaning, NOTE_SIZE), width)
        for part in parts:
            placed.badges.append(badge(x, placed.y + 6, part))
            x += part.width + BADGE_PAD
        x = placed.note(x + 2, meaning) + _LEGEND_GAP
    meaning, margin = _size_meaning(outline, placed.plan), placed.plan.margin
    if not meaning or x + text_width(meaning, NOTE_SIZE) > width - margin:
        x, placed.y = margin, placed.y + 22
    for line in wrapped(meaning, width - margin - x, NOTE_SIZE) if meaning else []:
        placed.note(x, line)
        placed.y += 16


def _from(placed: Surroundings, x: float, room: float, width: float) -> float:
    """Return where an item of a width begins: at `x`, or at the start of the next line."""
    margin = placed.plan.margin
    if x > margin and x + room > width - margin:
        placed.y += 22
        return margin
    return x


def _size_meaning(outline: Outline, plan: Plan) -> str:
    """Explain the sizes of the blocks, with the smallest and the largest numbers."""
    boxes = [box for box in outline.boxes if is_scaled(box)]
    if not boxes:
        return ""
    by_cells, by_channels = (sorted(boxes, key=key) for key in (lambda box: box.cells or 0, lambda box: box.channels or 0))
    ends = [typeset(place_text(box.size, outline.trace.run)) for box in (by_cells[0], by_cells[-1])]
    resolution = f"all {ends[0]}" if by_cells[0].cells == by_cells[-1].cells else " to ".join(ends).replace(" to length ", " to ")
    few, many = by_channels[0].channels, by_channels[-1].channels
    channels = f"all {few}" if few == many else f"{few} to {many}"
    if plan.level:
        return f"Box width grows with channels ({channels}), on a logarithmic scale."
    return f"Box height grows with resolution ({resolution}), box width with channels ({channels}), both on a logarithmic scale."
