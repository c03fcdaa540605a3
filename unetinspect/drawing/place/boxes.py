"""What is written in a box of the picture, line by line, and its positions once the box is placed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from msgspec import Struct
from msgspec.structs import replace

from unetinspect.drawing.labels import below, costs_of, counts_of
from unetinspect.drawing.outline import Box, Layer, Level, Mark, mark_text, sum_text
from unetinspect.drawing.place.layouts import Plan
from unetinspect.drawing.scene import Badge, PlacedBox, Rect, Row, Text
from unetinspect.drawing.text_width import TIMES, shortened, text_width
from unetinspect.record import Run, Skip
from unetinspect.record.run import channels_of
from unetinspect.units import in_lines

PAD_X, GAP, ROW_INSET, ROW_GAP, BADGE_PAD = 12.0, 8.0, 6.0, 2.0, 6.0
NAME_SIZE, END_NAME_SIZE, TEXT_SIZE, NOTE_SIZE, BADGE_SIZE = 13.0, 12.0, 11.0, 10.0, 10.0
_NAME_LINE, _TEXT_LINE, _BADGE_LINE, _SKIP_LINE = 19.0, 15.5, 20.0, 18.0
_WIDEST_TEXT, _WIDEST_NAME, _BRIEF_NAME, _ROW_BESIDE_BADGES = 430.0, 300.0, 110.0, 102.0
_BADGE_HEIGHT, _BEFORE_ROWS = 15.0, 6.0
# The baseline of a text is below the middle of its line, per em.
_BASELINE = 0.36
# Layers share rows in boxes of this many.
_LONG = 11


class Part(Struct, frozen=True):
    """A piece of a line: a text, right-aligned if `right`; for a badge, `badge` is its kind of attention."""

    content: str
    style: str
    size: float
    bold: bool = False
    right: bool = False
    badge: str | None = None

    @property
    def width(self) -> float:
        """The room that it needs at most."""
        return text_width(self.content, self.size, bold=self.bold) + (2 * BADGE_PAD if self.badge else 0)


class Line(Struct, frozen=True):
    """A line in a box.

    Attributes:
        parts: From the left; right-aligned ones come last.
        produced: A skip that leaves here.
        consumed: A skip that enters here.
    """

    height: float
    parts: tuple[Part, ...]
    produced: Skip | None = None
    consumed: Skip | None = None

    @property
    def other_end(self) -> str | None:
        """The stage at the other end of the skip."""
        if self.produced is not None:
            return self.produced.target_stage
        return None if self.consumed is None else self.consumed.source_stage

    @property
    def width(self) -> float:
        """The room that it needs at most."""
        return sum(part.width for part in self.parts) + GAP * max(len(self.parts) - 1, 0)


class RowContent(Struct, frozen=True):
    """The lines of a layer, of equal layers, or, without layers, of a skip.

    Attributes:
        above: What is left free above them.
        is_plain: Whether they are what is left of the head, without a ground of their own.
    """

    layers: tuple[Layer, ...]
    lines: tuple[Line, ...]
    above: float = 0
    is_plain: bool = False

    @property
    def has_skip(self) -> bool:
        """Whether a skip leaves or enters here."""
        return any(line.other_end for line in self.lines)

    @property
    def height(self) -> float:
        """Its height, with what is free above it."""
        return self.above + sum(line.height for line in self.lines)


class Content(Struct, frozen=True):
    """All that is written in a box: what the box is, then its rows, top down.

    Attributes:
        pad: What is free above and below.
        beside: Whether the rows are beside the head.
    """

    head: tuple[Line, ...]
    rows: tuple[RowContent, ...]
    pad: float
    beside: bool = False

    @property
    def rows_width(self) -> float:
        """The least width of its rows."""
        widest = max((line.width for row in self.rows for line in row.lines), default=0)
        return widest + 4 * ROW_INSET if self.rows else 0

    @property
    def width(self) -> float:
        """The least width of a box that it fits into."""
        head = max((line.width + 2 * PAD_X for line in self.head), default=0)
        return head + self.rows_width if self.beside else max(head, self.rows_width)

    @property
    def height(self) -> float:
        """The least height of a box that it fits into."""
        head, rows = sum(line.height for line in self.head), sum(row.height + ROW_GAP for row in self.rows)
        return 2 * self.pad + (max(head, rows) if self.beside or not self.rows else head + _BEFORE_ROWS + rows)


def is_scaled(box: Box) -> bool:
    """Return whether a box's size depends on its resolution and channels, as a block's does: not for convolutions at an end."""
    return box.stages[0].role in ("down", "mid", "up")


def content_of(box: Box, level: Level, run: Run, plan: Plan, *, shapes: bool) -> Content:
    """Return what is written in a box; `shapes`: its shapes too, because no arrow shows them."""
    is_whole = level == "stage" or not box.layers
    head = list(_names(box, plan))
    if shapes:
        # SDXL embeds the six numbers of a sample as rows of one batch.
        before, after = (plan.shape(shape, batch=run.forward_batch) for shape in (box.in_shape, box.out_shape))
        shown = [f"{before} → {after}"]
        if plan.brief and text_width(shown[0], TEXT_SIZE) > plan.badges:
            shown = [before, f"→ {after}"]
        head += [Line(_TEXT_LINE, (Part(text, "shape", TEXT_SIZE),)) for text in shown]
    counts = counts_of(box)[: 1 if plan.brief else None] if is_whole else []
    facts = [Part(", ".join(counts), "text", TEXT_SIZE)] if counts else []
    costs = [] if plan.brief else [Part(" · ".join(costs_of(box)[: 1 if plan.beside else None]), "note", NOTE_SIZE)]
    if plan.beside and not is_scaled(box):
        head[0] = Line(head[0].height, (*head[0].parts, *costs))
    elif plan.beside:
        facts += costs
    rest = [Line(_TEXT_LINE, tuple(facts))] if facts else []
    if is_whole:
        rest += _badge_lines(map(_badge_part, box.marks), plan.badges)
        rows = _skip_rows(box.produced if is_scaled(box) else (), box.consumed, plan)
    else:
        held = [skip for layer in box.layers for skip in (*layer.produced, *layer.consumed)]
        produced, consumed = ([skip for skip in skips if skip not in held] for skips in (box.produced, box.consumed))
        layers = (_layer_row(layers, run, plan, upwards=box.side == "right") for layers in _folded(box.layers))
        rows = [*_skip_rows((), consumed, plan), *layers, *_skip_rows(produced, (), plan)]
    rest += [Line(_TEXT_LINE, tuple(costs))] if costs and not plan.beside else []
    rows = rows[::-1] if box.side == "right" else rows
    if plan.brief and is_whole and rows and rest:
        # Between skips to two boxes, which are apart: there is room.
        ends = [row.lines[0].other_end for row in rows]
        place = next((place for place, (one, other) in enumerate(pairwise(ends), 1) if one != other), 0)
        rows.insert(place, RowContent((), tuple(rest), is_plain=True))
    else:
        head += rest

    def led(lines: Iterable[Line]) -> tuple[Line, ...]:
        return tuple(replace(line, height=plan.leading * line.height) for line in lines)

    return Content(led(head), tuple(replace(row, lines=led(row.lines)) for row in rows), plan.pad, plan.beside)


def _names(box: Box, plan: Plan) -> Iterator[Line]:
    name_size = NAME_SIZE if is_scaled(box) else END_NAME_SIZE
    if plan.brief:  # rather than a wider column, in which all type would be smaller
        sizes = (name_size, TEXT_SIZE, NOTE_SIZE)
        name_size = next((size for size in sizes if text_width(box.name, size, bold=True) <= _BRIEF_NAME), NOTE_SIZE)
    if not is_scaled(box):
        short = shortened(box.name, _WIDEST_NAME, name_size, bold=True), shortened(box.class_name, _WIDEST_NAME, NOTE_SIZE)
        parts = Part(short[0], "name", name_size, bold=True), Part(short[1], "note", NOTE_SIZE)
        yield Line(17, parts[: 1 if plan.brief else 2])
    else:
        name = Part(shortened(box.name, _WIDEST_TEXT, name_size, bold=True), "name", name_size, bold=True)
        class_name = Part(shortened(box.class_name, _WIDEST_TEXT, TEXT_SIZE), "note", TEXT_SIZE)
        yield Line(_NAME_LINE, (name, class_name) if plan.beside else (name,))
        if not plan.beside and not plan.brief:
            yield Line(_TEXT_LINE, (class_name,))


def _badge_part(mark: Mark, *, of_one: bool = False) -> Part:
    return Part(mark_text(mark, times=TIMES, of_one=of_one), f"badge-{mark.kind}", BADGE_SIZE, badge=mark.kind)


def _badge_lines(badges: Iterable[Part], room: float) -> list[Line]:
    lines = in_lines(badges, lambda parts: Line(_BADGE_LINE, tuple(parts)).width <= room)
    return [Line(_BADGE_LINE, tuple(parts)) for parts in lines]


def _skip_rows(produced: Iterable[Skip], consumed: Iterable[Skip], plan: Plan) -> list[RowContent]:
    """Return a row for each skip that enters: hidden + skip → out, and in which module; and one for each that leaves.

    A brief one has the sum alone, or the module alone.
    """

    def row(text: Part, path: str, stage: str, **ends: Skip) -> RowContent:
        module = Part("" if path == stage else shortened(below(path, stage), 170, NOTE_SIZE), "note", NOTE_SIZE, right=True)
        return RowContent((), (Line(_SKIP_LINE, (text,) if plan.brief else (text, module), **ends),))

    def left(skip: Skip) -> str:
        return shortened(below(skip.source, skip.source_stage), plan.badges, NOTE_SIZE) if plan.brief else plan.shape(skip.shape)

    entering = [row(Part(sum_text(one, arrow="→"), "sum", TEXT_SIZE), one.target, one.target_stage, consumed=one) for one in consumed]
    leaving = [row(Part(left(one), "shape", NOTE_SIZE), one.source, one.source_stage, produced=one) for one in produced]
    return entering + leaving


def _layer_row(layers: tuple[Layer, ...], run: Run, plan: Plan, *, upwards: bool) -> RowContent:
    layer, class_name = layers[0], layers[0].module.class_name
    names = [layer.name for layer in layers]
    if len(layers) > 1:
        class_name = f"{len(layers)} {TIMES} {class_name}"
    if len(layers) > 3:
        names = [*names[:2], "…", names[-1]]
    name = Part(shortened(", ".join(names), 200, TEXT_SIZE), "text", TEXT_SIZE)
    class_part = () if plan.brief else (Part(shortened(class_name, 200, NOTE_SIZE), "note", NOTE_SIZE),)
    channels = channels_of(layer.module.out_shape, run.sample_size)
    takes = layer.consumed[::-1] if upwards else layer.consumed
    ends = [sum_text(skip, arrow="→") for skip in takes] or ([f"→ {channels}"] if channels is not None else [])
    right = [(Part(end, "sum" if takes else "note", NOTE_SIZE, right=True),) for end in ends]
    badges = [_badge_part(replace(mark, count=mark.count * len(layers)), of_one=True) for mark in layer.marks]
    start, more = _start(name, class_part, badges, right[0] if right else (), plan.badges + _ROW_BESIDE_BADGES)
    lines = []
    for place in range(max(1, len(ends), len(layer.produced))):
        produced = layer.produced[place] if place < len(layer.produced) else None
        consumed = takes[place] if place < len(takes) else None
        lines.append(Line(_SKIP_LINE, (*(start if place == 0 else ()), *(right[place] if place < len(right) else ())), produced, consumed))
    return RowContent(layers, (*lines, *more))


def _start(
    name: Part, class_name: tuple[Part, ...], badges: list[Part], end: tuple[Part, ...], room: float
) -> tuple[tuple[Part, ...], list[Line]]:
    """Return what a layer's first line has before its end, and the lines below.

    Name, class and attention if they fit into one line; else name and attention; else the attention has lines of its own.
    """
    for parts in ((name, *class_name, *badges), (name, *badges)):
        if Line(_SKIP_LINE, (*parts, *end)).width <= room:
            return parts, []
    return (name, *class_name), _badge_lines(badges, room)


def _folded(layers: Sequence[Layer]) -> list[tuple[Layer, ...]]:
    """Group the layers that share a row: in a long box, those that repeat at least three times and have no skips."""
    rows: list[tuple[Layer, ...]] = []
    place = 0
    while place < len(layers):
        period, times = max(((period, _times(layers[place:], period)) for period in range(1, 5)), key=lambda run: run[0] * (run[1] - 1))
        if times < 3 or len(layers) < _LONG:
            period, times = 1, 1
        rows += [tuple(layers[place + first : place + period * times : period]) for first in range(period)]
        place += period * times
    return rows


def _times(layers: Sequence[Layer], period: int) -> int:
    """Count how often the first `period` layers repeat, apart from their names."""
    alike = [(one.module.class_name, one.module.in_shape, one.module.out_shape, one.module.params, one.marks) for one in layers]
    times = 0
    for start in range(0, len(layers) - period + 1, period):
        busy = any(one.produced or one.consumed for one in layers[start : start + period])
        if busy or alike[start : start + period] != alike[:period]:
            break
        times += 1
    return times or 1


def fill(box: Box, content: Content, rect: Rect) -> PlacedBox:
    """Put a box's content into its rectangle: what the box is at the top, its rows at the bottom, or on the side of the skips."""
    free = rect.height - content.height
    y = rect.y + content.pad + (0 if content.rows or is_scaled(box) else free / 2)
    head = across = rect
    if content.beside and content.rows:
        wide = content.rows_width
        across = Rect(rect.x if box.side == "right" else rect.right - wide, rect.y, wide, rect.height)
        head = Rect(across.right if box.side == "right" else rect.x, rect.y, rect.width - wide, rect.height)
    texts, badges = _write(content.head, head.x + PAD_X, head.right - PAD_X, y)
    # Without rows, skips are spread over the height of the box.
    produced = {skip.index: rect.y + rect.height * at / (len(box.produced) + 1) for at, skip in enumerate(box.produced, 1)}
    consumed = {skip.order: rect.y + rect.height * at / (len(box.consumed) + 1) for at, skip in enumerate(box.consumed, 1)}
    rows = []
    y = rect.y + content.pad if content.beside else rect.bottom - content.pad + ROW_GAP - sum(row.height + ROW_GAP for row in content.rows)
    for row in content.rows:
        y += row.above
        placed = Rect(across.x + ROW_INSET, y, across.width - 2 * ROW_INSET, row.height - row.above)
        written = _write(row.lines, placed.x + ROW_INSET, placed.right - ROW_INSET, y)
        if row.is_plain:
            texts, badges = texts + written[0], badges + written[1]
        else:
            rows.append(Row(placed, row.layers, *written))
        for line in row.lines:
            if line.produced is not None:
                produced[line.produced.index] = y + line.height / 2
            if line.consumed is not None:
                consumed[line.consumed.order] = y + line.height / 2
            y += line.height
        y += ROW_GAP
    return PlacedBox(box, rect, texts, badges, tuple(rows), produced, consumed)


def badge(x: float, middle: float, part: Part) -> Badge:
    """Return a badge, from its left edge and the middle of its line."""
    border = Rect(x, middle - _BADGE_HEIGHT / 2, part.width, _BADGE_HEIGHT)
    text = Text(border.middle[0], middle + _BASELINE * part.size, part.content, part.style, part.size, part.bold, "middle")
    return Badge(border, text, part.badge or "")


def _write(lines: Iterable[Line], left: float, right: float, top: float) -> tuple[tuple[Text, ...], tuple[Badge, ...]]:
    """Write lines between two edges."""
    texts: list[Text] = []
    badges: list[Badge] = []
    for line in lines:
        middle, x = top + line.height / 2, left
        ends = right - sum(part.width + GAP for part in line.parts if part.right) + GAP
        for part in line.parts:
            baseline = middle + _BASELINE * part.size
            if part.right:
                texts.append(Text(ends + part.width, baseline, part.content, part.style, part.size, part.bold, "end"))
                ends += part.width + GAP
                continue
            if part.badge:
                badges.append(badge(x, middle, part))
            elif part.content:
                texts.append(Text(x, baseline, part.content, part.style, part.size, part.bold))
            x += part.width + GAP
        top += line.height
    return tuple(texts), tuple(badges)
