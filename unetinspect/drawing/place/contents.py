"""What is written in a box of the picture, line by line, before it is known how large the box will be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from unetinspect.drawing.forms import Level
from unetinspect.drawing.outline import Box, Layer, Mark, channels_of, mark_text, sum_text
from unetinspect.drawing.text_width import TIMES, shortened, text_width
from unetinspect.record import Run, Shape, Skip
from unetinspect.units import format_count, format_shape, format_si, plural, visible

PAD_X, PAD_Y, GAP, ROW_INSET, ROW_GAP = 12.0, 9.0, 8.0, 6.0, 2.0
_BADGE_PAD, _WIDEST_TEXT, _WIDEST_BADGES, _WIDEST_ROW, _LONG, _BEFORE_ROWS = 6.0, 430.0, 250.0, 352.0, 11, 6.0
_WIDEST_NAME = 300.0
NAME_SIZE, TEXT_SIZE, NOTE_SIZE, BADGE_SIZE = 13.0, 11.0, 10.0, 9.5
NAME_LINE, TEXT_LINE, BADGE_LINE, PORT_LINE = 19.0, 15.5, 20.0, 18.0


class Part(Struct, frozen=True):
    """A piece of a line.

    Attributes:
        content: What it says.
        style: Its class.
        size: Its font size.
        bold: Whether it is bold.
        right: Whether it stands at the right end of its line.
        badge: The kind of attention, where it is a badge.
    """

    content: str
    style: str
    size: float
    bold: bool = False
    right: bool = False
    badge: str | None = None

    @property
    def width(self) -> float:
        """The most room that it takes."""
        return text_width(self.content, self.size, bold=self.bold) + (2 * _BADGE_PAD if self.badge else 0)


class Line(Struct, frozen=True):
    """A line in a box.

    Attributes:
        height: Its height.
        parts: What stands in it, from the left; those on the right after those on the left.
        made: A skip that leaves at its height.
        taken: A skip that enters at its height.
    """

    height: float
    parts: tuple[Part, ...]
    made: Skip | None = None
    taken: Skip | None = None

    @property
    def width(self) -> float:
        """The most room that it takes."""
        return sum(part.width for part in self.parts) + GAP * max(len(self.parts) - 1, 0)


class RowContent(Struct, frozen=True):
    """Lines that belong together: those of a layer, of layers that are alike, or of a skip where no layers are shown.

    Attributes:
        layers: The layers.
        lines: Its lines.
    """

    layers: tuple[Layer, ...]
    lines: tuple[Line, ...]

    @property
    def height(self) -> float:
        """Its height."""
        return sum(line.height for line in self.lines)


class Content(Struct, frozen=True):
    """All that is written in a box.

    Attributes:
        head: What says what the box is.
        rows: Its rows, top down.
    """

    head: tuple[Line, ...]
    rows: tuple[RowContent, ...]

    @property
    def width(self) -> float:
        """The least width of a box that holds it."""
        in_rows = (line.width + 2 * ROW_INSET for row in self.rows for line in row.lines)
        return max((*(line.width + 2 * PAD_X for line in self.head), *in_rows), default=0) + (2 * ROW_INSET if self.rows else 0)

    @property
    def height(self) -> float:
        """The least height of a box that holds it."""
        return sum(line.height for line in self.head) + 2 * PAD_Y + self.rows_height

    @property
    def rows_height(self) -> float:
        """The height of its rows, with what parts them."""
        return sum(row.height + ROW_GAP for row in self.rows) + (_BEFORE_ROWS if self.rows else 0)


def content_of(box: Box, level: Level, run: Run, *, shapes: bool, scaled: bool) -> Content:
    """Return what is written in a box.

    Args:
        box: The box.
        level: Whether its layers are shown.
        run: What was run.
        shapes: Whether its shapes are written in it: where no arrow says them.
        scaled: Whether it is a large box: a block of the U.
    """
    head = list(_names(box, one_line=not scaled))
    if shapes:
        head.append(Line(TEXT_LINE, (Part(arrow_text(box.in_shape, box.out_shape), "shape", TEXT_SIZE),)))
    resnets = sum(stage.resnets for stage in box.stages)
    blocks = sum(stage.transformer_blocks for stage in box.stages)
    counts = [plural(count, noun) for count, noun in ((resnets, "resnet"), (blocks, "transformer block")) if count]
    shown = box.layers if level == "layer" else ()
    if not shown:
        head += [Line(TEXT_LINE, (Part(", ".join(counts), "text", TEXT_SIZE),))] if counts else []
        head += _badge_lines(map(badge_part, box.marks), _WIDEST_BADGES)
    head.append(Line(TEXT_LINE, (Part(_costs(box), "note", NOTE_SIZE),)))
    rows = _layer_rows(box, run) if shown else _skip_rows(box, box.made if scaled else (), box.taken)
    return Content(tuple(head), tuple(reversed(rows)) if box.side == "right" else tuple(rows))


def arrow_text(before: Shape | None, after: Shape | None) -> str:
    """Write "(2, 320, 64, 64) → (2, 320, 32, 32)"."""
    return f"{format_shape(before)} → {format_shape(after)}"


def typeset(text: str) -> str:
    """Write a text's arrows and multiplication signs as a book does; what could move a cursor is made visible.

    >>> typeset("(2, 4) -> (2, 4), 2 = 2 x 1").replace(TIMES, "*")
    '(2, 4) → (2, 4), 2 = 2 * 1'
    """
    return re.sub(r"(?<=\d)( ?)x\1(?=\d)", rf"\1{TIMES}\1", visible(text).replace("->", "→"))


def badge_part(mark: Mark, *, of_one: bool = False) -> Part:
    """Return the badge of attention layers that are alike."""
    return Part(mark_text(mark, times=TIMES, of_one=of_one), f"badge-{mark.kind}", BADGE_SIZE, badge=mark.kind)


def _names(box: Box, *, one_line: bool) -> Iterator[Line]:
    name, class_name = visible(box.name), visible(box.class_name)
    if one_line:
        short = shortened(name, _WIDEST_NAME, 12, bold=True), shortened(class_name, _WIDEST_NAME, NOTE_SIZE)
        yield Line(17, (Part(short[0], "name", 12, bold=True), Part(short[1], "note", NOTE_SIZE)))
    else:
        yield Line(NAME_LINE, (Part(shortened(name, _WIDEST_TEXT, NAME_SIZE, bold=True), "name", NAME_SIZE, bold=True),))
        yield Line(TEXT_LINE, (Part(shortened(class_name, _WIDEST_TEXT, TEXT_SIZE), "note", TEXT_SIZE),))


def _costs(box: Box) -> str:
    costs = [f"{format_count(box.params)} params" if box.params else "no params"]
    return " · ".join([*costs, format_si(box.macs, "MACs")] if box.macs else costs)


def _badge_lines(badges: Iterable[Part], room: float) -> list[Line]:
    lines: list[list[Part]] = []
    for part in badges:
        if lines and sum(one.width + GAP for one in lines[-1]) + part.width <= room:
            lines[-1].append(part)
        else:
            lines.append([part])
    return [Line(BADGE_LINE, tuple(parts)) for parts in lines]


def _skip_rows(box: Box, made: Iterable[Skip], taken: Iterable[Skip]) -> list[RowContent]:
    """Return a row for each skip that leaves, and one for each that enters: hidden + skip → out, and in which module."""
    names = {stage.name for stage in box.stages}
    rows = []
    for skip in taken:
        said = Part(sum_text(skip, arrow="→"), "sum", TEXT_SIZE), Part(_inside(skip.target, names), "note", NOTE_SIZE, right=True)
        rows.append(RowContent((), (Line(PORT_LINE, said, taken=skip),)))
    for skip in made:
        said = Part(format_shape(skip.shape), "shape", NOTE_SIZE), Part(_inside(skip.source, names), "note", NOTE_SIZE, right=True)
        rows.append(RowContent((), (Line(PORT_LINE, said, made=skip),)))
    return rows


def _layer_rows(box: Box, run: Run) -> list[RowContent]:
    """Return a row for each layer, in execution order, and one for each skip that none of them made or took."""
    held = [skip for layer in box.layers for skip in (*layer.made, *layer.taken)]
    made, taken = ([skip for skip in skips if skip not in held] for skips in (box.made, box.taken))
    return [
        *_skip_rows(box, (), taken),
        *(_layer_row(layers, run, upwards=box.side == "right") for layers in folded(box.layers)),
        *_skip_rows(box, made, ()),
    ]


def _layer_row(layers: tuple[Layer, ...], run: Run, *, upwards: bool) -> RowContent:
    layer, class_name = layers[0], visible(layers[0].module.class_name)
    if len(layers) > 1:
        class_name = f"{len(layers)} {TIMES} {class_name}"
    name = Part(shortened(visible(", ".join(_few([layer.name for layer in layers]))), 200, TEXT_SIZE), "text", TEXT_SIZE)
    class_part = Part(shortened(class_name, 200, NOTE_SIZE), "note", NOTE_SIZE)
    channels = channels_of(layer.module.out_shape, run)
    takes = layer.taken[::-1] if upwards else layer.taken
    ends = [sum_text(skip, arrow="→") for skip in takes] or ([f"→ {channels}"] if channels is not None else [])
    said = [(Part(end, "sum" if takes else "note", NOTE_SIZE, right=True),) for end in ends]
    badges = [badge_part(replace(mark, count=mark.count * len(layers)), of_one=True) for mark in layer.marks]
    start, more = _start(name, class_part, badges, said[0] if said else ())
    lines = []
    for place in range(max(1, len(ends), len(layer.made))):
        made = layer.made[place] if place < len(layer.made) else None
        taken = takes[place] if place < len(takes) else None
        lines.append(Line(PORT_LINE, (*(start if place == 0 else ()), *(said[place] if place < len(said) else ())), made, taken))
    return RowContent(layers, (*lines, *more))


def _few(names: list[str]) -> list[str]:
    return names if len(names) < 4 else [*names[:2], "…", names[-1]]


def folded(layers: Sequence[Layer]) -> list[tuple[Layer, ...]]:
    """Return the layers that share a row: of a long box, those that repeat three times or more and have no part in a skip."""
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
    """Count how often the first `period` layers follow each other, alike but for their names."""
    alike = [(one.module.class_name, one.module.in_shape, one.module.out_shape, one.module.params, one.marks) for one in layers]
    times = 0
    for start in range(0, len(layers) - period + 1, period):
        busy = any(one.made or one.taken for one in layers[start : start + period])
        if busy or alike[start : start + period] != alike[:period]:
            break
        times += 1
    return times or 1


def _start(name: Part, class_name: Part, badges: list[Part], end: tuple[Part, ...]) -> tuple[tuple[Part, ...], list[Line]]:
    """Return what a layer's first line says before its end, and the lines below.

    Name, class and attention where they fit into one line; else name and attention; else the attention has lines of its own.
    """
    for parts in ((name, class_name, *badges), (name, *badges)):
        if Line(PORT_LINE, (*parts, *end)).width <= _WIDEST_ROW:
            return parts, []
    return (name, class_name), _badge_lines(badges, _WIDEST_ROW)


def _inside(path: str, stages: set[str]) -> str:
    """Return a module's path below its stage; "" for the stage itself."""
    stage = next((name for name in stages if path.startswith(f"{name}.")), None)
    name = visible(path) if stage is None else visible(path.removeprefix(f"{stage}."))
    named = any(char.isalpha() for char in name)
    return "" if path in stages else shortened(name if named else visible(path), 170, NOTE_SIZE)
