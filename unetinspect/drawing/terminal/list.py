"""The U as a list, one box after another, for terminals too narrow for its picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from unetinspect.drawing.forms import Level
from unetinspect.drawing.outline import Box, Layer, Outline, mark_text
from unetinspect.drawing.terminal.canvas import fold
from unetinspect.drawing.words import Link, below, links_of, shown, way_text, words_of
from unetinspect.terminal import paint
from unetinspect.views.words import step_text


def list_lines(outline: Outline, level: Level, width: int, *, unicode: bool, color: bool) -> list[str]:
    """Write each box in execution order with its shapes, attention layers and skips; no line is wider than `width`."""
    arrow = "→" if unicode else "->"
    links = links_of(outline)
    lines: list[str] = []
    for box in outline.boxes:
        lines += [""] if lines else []
        lines += [paint(line, box.side) if color else line for line in fold(shown(box.name, unicode=unicode), width)]
        for text in _body(outline, box, links, level, arrow):
            indent = min(len(text) - len(text.lstrip()) + 2, width // 2)
            lines += [" " * indent + line for line in fold(shown(text.lstrip(), unicode=unicode), width - indent, indent="  ")]
    return lines


def _body(outline: Outline, box: Box, links: Sequence[Link], level: Level, arrow: str) -> Iterator[str]:
    yield way_text(box, arrow)
    yield from words_of(box, outline.trace.run, marks=level == "stage" or not box.layers)
    made = [link for link in links if link.source == box.name]
    taken = [link for link in links if link.target == box.name]
    if level == "layer":
        for layer in box.layers:
            mine = [link for link in taken if link.skip in layer.taken], [link for link in made if link.skip in layer.made]
            taken = [link for link in taken if link not in mine[0]]
            made = [link for link in made if link not in mine[1]]
            yield layer.name
            yield from (f"  {text}" for text in _layer(layer, *mine, arrow))
    yield from _skips(taken, made, arrow)


def _layer(layer: Layer, taken: list[Link], made: list[Link], arrow: str) -> Iterator[str]:
    yield step_text(layer.module.in_shape, layer.module.out_shape, arrow)
    yield from (mark_text(mark, of_one=True) for mark in layer.marks)
    yield from _skips(taken, made, arrow)


def _skips(taken: Sequence[Link], made: Sequence[Link], arrow: str) -> Iterator[str]:
    for link in taken:
        yield f"{below(link.skip.target, link.skip.target_stage)}: {link.sum(arrow)}, skip of {link.skip.source}"
    for link in sorted(made, key=lambda link: (link.skip.index, link.number)):
        yield f"{below(link.skip.source, link.skip.source_stage)}: skip {link.channels} {arrow} {link.skip.target}"
