"""What stands above and below the U: title, inputs, embeddings; legend and caption."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from msgspec import Struct

from unetinspect.drawing.forms import Level
from unetinspect.drawing.outline import Box, Outline
from unetinspect.drawing.place.boxes import fill
from unetinspect.drawing.place.columns import MARGIN, spread_of
from unetinspect.drawing.place.contents import BADGE_SIZE, NOTE_SIZE, PAD_X, content_of, typeset
from unetinspect.drawing.scene import Badge, Given, PlacedBox, Point, Rect, Text
from unetinspect.drawing.text_width import TIMES, shortened, text_width, wrapped
from unetinspect.record import InputInfo
from unetinspect.units import format_shape, format_size, visible
from unetinspect.views.words import skip_label

_TITLE_SIZE, _HEADING, _CHIP_GAP, _CHIP_HEIGHT, _LEGEND_GAP, _SAMPLE = 17.0, 84.0, 8.0, 22.0, 22.0, 30.0
_KINDS = "self cross joint temporal pooling"


class Words(Struct):
    """What is placed line by line, and how far down it reaches.

    Attributes:
        y: Below which nothing stands yet.
        title_y: Below which there is no title.
        texts: Texts.
        given: Inputs.
        boxes: Embeddings.
        samples: Samples of arrows in the legend: what of, from, to.
        badges: Samples of attention layers in the legend.
    """

    y: float
    title_y: float = 0
    texts: list[Text] = []
    given: list[Given] = []
    boxes: list[PlacedBox] = []
    samples: list[tuple[str, Point, Point]] = []
    badges: list[Badge] = []


def above(outline: Outline, level: Level, width: float, edge: float) -> Words:
    """Place the title, the inputs but for the first, which enters the U, and the embeddings, these two left of `edge`."""
    words = Words(MARGIN + 16)
    title = shortened(typeset(outline.title), width - 2 * MARGIN, _TITLE_SIZE, bold=True)
    words.texts.append(Text(MARGIN, words.y, title, "title", _TITLE_SIZE, bold=True))
    words.y += 20
    words.title_y = words.y
    _inputs(words, outline, edge)
    _embeddings(words, outline, level, edge)
    return words


def below(outline: Outline, width: float, y: float, *, entered: bool) -> Words:
    """Place the legend and the caption, from `y` down."""
    words = Words(y + 30)
    _legend(words, outline, width, entered=entered)
    words.y += 10
    for line in outline.caption:
        for part in wrapped(typeset(line), width - 2 * MARGIN, 12):
            words.texts.append(Text(MARGIN, words.y + 12, part, "text", 12))
            words.y += 18
    words.y += MARGIN - 8
    return words


def given_texts(inputs: Sequence[InputInfo]) -> list[str]:
    """Write the arguments; those of one list, of which there are many, as one: "residuals.0-11: 12 tensors"."""
    texts = []
    for listed, group in groupby(inputs, key=_list_of):
        given = list(group)
        if listed and len(given) > 3:
            texts.append(f"{visible(given[0].name)}-{visible(given[-1].name.rpartition('.')[2])}: {len(given)} tensors")
        else:
            texts += [_given_text(one) for one in given]
    return texts


def _list_of(given: InputInfo) -> str:
    listed, _, item = given.name.rpartition(".")
    return listed if item.isdigit() else ""


def _given_text(given: InputInfo) -> str:
    """Write an argument with its shape, or with its value where it is no tensor."""
    return f"{visible(given.name)} {format_shape(given.shape)}" if given.shape is not None else f"{visible(given.name)} = {given.value}"


def _inputs(words: Words, outline: Outline, edge: float) -> None:
    """Place the inputs in lines, in the order of `forward`."""
    inputs = list(outline.trace.run.inputs)
    first = next((given for given in inputs if given.shape is not None), None)
    shown = given_texts([given for given in inputs if given is not first])
    if not shown:
        return
    x = _heading(words, "inputs", _CHIP_HEIGHT)
    for said in shown:
        text = shortened(said, edge - MARGIN - _HEADING - 2 * PAD_X, NOTE_SIZE)
        room = text_width(text, NOTE_SIZE) + 2 * PAD_X
        if x + room > edge:
            x, words.y = MARGIN + _HEADING, words.y + _CHIP_HEIGHT + _CHIP_GAP
        rect = Rect(x, words.y, room, _CHIP_HEIGHT)
        words.given.append(Given(rect, Text(rect.middle[0], words.y + 14.6, text, "text", NOTE_SIZE, anchor="middle")))
        x += room + _CHIP_GAP
    words.y += _CHIP_HEIGHT + _CHIP_GAP + 2


def _embeddings(words: Words, outline: Outline, level: Level, edge: float) -> None:
    """Place the embeddings in lines, in execution order."""
    x, tallest = MARGIN, 0.0
    for box in outline.on("top"):
        content = content_of(box, level, outline.trace.run, shapes=True, scaled=False)
        if box is outline.on("top")[0]:
            x = _heading(words, "embeddings", _CHIP_HEIGHT + 6)
        if x + content.width > edge and tallest:
            x, words.y, tallest = MARGIN + _HEADING, words.y + tallest + _CHIP_GAP, 0.0
        placed, _ = fill(box, content, Rect(x, words.y, content.width, content.height), scaled=False)
        words.boxes.append(placed)
        x, tallest = placed.rect.right + _CHIP_GAP, max(tallest, content.height)
    words.y += tallest + 8


def _heading(words: Words, said: str, height: float) -> float:
    words.texts.append(Text(MARGIN, words.y + height / 2 + 3.6, said, "note", NOTE_SIZE))
    return MARGIN + _HEADING


def _legend(words: Words, outline: Outline, width: float, *, entered: bool) -> None:
    """Place samples with what they mean, and what the sizes of boxes mean."""
    items: list[tuple[str, str]] = [("flow", "hidden states and their shape")] if entered else []
    if outline.trace.skips:
        changed = any("(" in skip_label(skip) for skip in outline.trace.skips)
        way = " and what changed it on its way" if changed else ""
        items.append(("skip", f"a skip, its channels{way}; hidden + skip → out where it is concatenated"))
    kinds = sorted({mark.kind for box in outline.boxes for mark in box.marks}, key=lambda kind: (_KINDS.find(kind), kind))
    x = MARGIN
    for kind, meaning in items:
        x = _room(words, x, _SAMPLE + 8 + text_width(meaning, NOTE_SIZE), width)
        words.samples.append((kind, (x, words.y + 6), (x + _SAMPLE, words.y + 6)))
        words.texts.append(Text(x + _SAMPLE + 8, words.y + 9.6, meaning, "note", NOTE_SIZE))
        x += _SAMPLE + 8 + text_width(meaning, NOTE_SIZE) + _LEGEND_GAP
    if kinds:
        _attention_legend(words, kinds, x, width)
    words.y += 22
    meaning = _size_meaning(outline)
    for line in wrapped(meaning, width - 2 * MARGIN, NOTE_SIZE) if meaning else []:
        words.texts.append(Text(MARGIN, words.y + 9.6, line, "note", NOTE_SIZE))
        words.y += 16


def _attention_legend(words: Words, kinds: list[str], x: float, width: float) -> None:
    meaning = f"attention: layers, kind, queries {TIMES} keys"
    widths = [text_width(kind, BADGE_SIZE) + 12 for kind in kinds]
    x = _room(words, x, sum(widths) + 6 * len(kinds) + 2 + text_width(meaning, NOTE_SIZE), width)
    for kind, room in zip(kinds, widths, strict=True):
        rect = Rect(x, words.y - 1.5, room, 15)
        words.badges.append(Badge(rect, Text(rect.middle[0], words.y + 9.4, kind, f"badge-{kind}", BADGE_SIZE, anchor="middle"), kind))
        x += room + 6
    words.texts.append(Text(x + 2, words.y + 9.6, meaning, "note", NOTE_SIZE))


def _room(words: Words, x: float, room: float, width: float) -> float:
    """Return where an item of a width begins: at `x`, or at the start of the next line."""
    if x > MARGIN and x + room > width - MARGIN:
        words.y += 22
        return MARGIN
    return x


def _size_meaning(outline: Outline) -> str:
    """Say what the sizes of the blocks mean, with the numbers at both ends."""
    spread = spread_of(outline)
    if spread is None:
        return ""
    (low, high), (few, many) = spread
    signal = outline.trace.run.medium == "signal"
    sizes = list(dict.fromkeys(_size_text(box, signal=signal) for box in (low, high)))
    height = f"all {sizes[0]}" if low.cells == high.cells else " to ".join(sizes)
    channels = f"all {few.channels}" if few.channels == many.channels else f"{few.channels} to {many.channels}"
    return f"Height of a block: its resolution ({height}), width: its channels ({channels}), both on a logarithmic scale."


def _size_text(box: Box, *, signal: bool) -> str:
    tokens = box.size is not None and len(box.size) == 1 and not signal
    return format_size(box.size).replace("x", TIMES) + (" tokens" if tokens else "")
