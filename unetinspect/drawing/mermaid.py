"""Writes the U as a Mermaid flowchart, which GitHub and others draw where it stands in Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from unetinspect.drawing.forms import Level
from unetinspect.drawing.outline import Box, Layer, Outline, Side, mark_text
from unetinspect.drawing.words import Link, below, links_of, words_of
from unetinspect.units import format_shape, visible
from unetinspect.views.words import step_text

# In this order Mermaid draws down on the left.
_TITLES: dict[Side, str] = {"right": "up", "left": "down", "bottom": "mid", "top": "embeddings"}
_COLOURS: dict[Side, str] = {
    "top": "fill:#eef2ff,stroke:#6366f1,color:#1e1b4b",
    "left": "fill:#e0f2fe,stroke:#0284c7,color:#0c4a6e",
    "bottom": "fill:#fae8ff,stroke:#c026d3,color:#4a044e",
    "right": "fill:#dcfce7,stroke:#16a34a,color:#14532d",
}
# What could end a label, or what Markdown or HTML would read in it as theirs.
_SPECIAL = re.compile(r"""["#&<>`*~\\\[\]{}|;$@]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|--|^\s*\d+(?=[.)]\s)|^\s*[-+=]|://|www""")
_CONFIG = ("config:", "  flowchart:", "    wrappingWidth: 600")


def mermaid(outline: Outline, *, level: Level = "stage") -> str:
    """Write an outline as a flowchart: boxes down, mid and up, dotted edges for skips with their channels.

    The way up is drawn upwards: its edges lead from a box to the one that ran before it, without a head, and say so with
    an arrow in their label. At the level of layers each box is a subgraph of its layers.
    """
    lines = ["---", f"title: {json.dumps(visible(outline.title))}", *_CONFIG, "---", "flowchart TB"]
    lines += [f"  %% {re.sub('[{}]', ' ', visible(line))}" for line in outline.caption]
    names = {box.name: f"b{place}" for place, box in enumerate(outline.boxes)}
    links = links_of(outline)
    for side, title in _TITLES.items():
        boxes = outline.on(side)
        if boxes:
            lines += [f'  subgraph {side}["{title}"]', *(f"    {line}" for line in _door(outline, side, names, level))]
            lines += [f"    {line}" for box in boxes for line in _box(outline, box, names[box.name], links, level)]
            lines += ["  end"]
    lines += [f"  {line}" for line in _chain(outline, names, level)]
    lines += [f"  {line}" for line in _skips(outline, links, names, level)]
    lines += [f"  classDef {side} {style}" for side, style in _COLOURS.items()]
    lines += [f"  style {side} fill:none,stroke:#9ca3af" for side in _TITLES if outline.on(side)]
    lines += [f"  class {','.join(names[box.name] for box in outline.on(side))} {side}" for side in _TITLES if outline.on(side)]
    return "\n".join(lines) + "\n"


def _door(outline: Outline, side: Side, names: dict[str, str], level: Level) -> Iterator[str]:
    """Yield where the sample comes in, and where what is returned goes out."""
    boxes = outline.on(side)
    if side == "left":
        yield f'input(["{_label([format_shape(boxes[0].in_shape)])}"]) --> {_node(names[boxes[0].name], boxes[0], level, 0)}'
    if boxes[-1] is not [box for box in outline.boxes if box.side != "top"][-1]:
        return
    last, shape = _node(names[boxes[-1].name], boxes[-1], level, -1), format_shape(boxes[-1].out_shape)
    if side != "right":
        yield f'{last} --> output(["{_label([shape])}"])'
    elif boxes[-1].after is not None:
        yield f'output(["{_label(["↑ " + shape])}"]) --- {last}'


def _box(outline: Outline, box: Box, name: str, links: Sequence[Link], level: Level) -> Iterator[str]:
    taken = [link for link in links if link.target == box.name]
    if level == "layer" and box.layers:
        yield f'subgraph {name}["{_label([box.name, *words_of(box, outline.trace.run, marks=False)], joint=": ")}"]'
        for place, layer in enumerate(box.layers):
            mine = [link for link in taken if link.skip in layer.taken]
            yield f'  {name}l{place}["{_label(_layer(layer, mine))}"]'
        for place in range(len(box.layers) - 1):
            yield f"  {_step(name, place, box.side)}"
        yield "end"
        return
    sums = [f"{below(link.skip.target, link.skip.target_stage)}: {link.sum('→')}" for link in taken]
    words = [box.name, *words_of(box, outline.trace.run), *(sums if level == "layer" or box.taken else [])]
    if box.after is None:
        words.append(step_text(box.in_shape, box.out_shape, "→"))
    yield f'{name}["{_label(words)}"]'


def _step(name: str, place: int, side: Side) -> str:
    return f"{name}l{place + 1} --- {name}l{place}" if side == "right" else f"{name}l{place} --> {name}l{place + 1}"


def _layer(layer: Layer, taken: Sequence[Link]) -> list[str]:
    shapes = step_text(layer.module.in_shape, layer.module.out_shape, "→")
    marks = [mark_text(mark, of_one=True) for mark in layer.marks]
    return [layer.name, shapes, *marks, *(link.sum("→") for link in taken)]


def _chain(outline: Outline, names: dict[str, str], level: Level) -> Iterator[str]:
    """Yield an edge from each box to the one that takes its output, with the shape."""
    boxes = {box.name: box for box in outline.boxes}
    for box in outline.boxes:
        if box.after is None:
            continue
        before = boxes[box.after]
        shapes = step_text(before.out_shape, box.in_shape, "→")
        first, last = _node(names[before.name], before, level, -1), _node(names[box.name], box, level, 0)
        if box.side == "right":
            yield f'{last} ---|"{_label(["↑ " + shapes])}"| {first}'
        else:
            yield f'{first} -->|"{_label([shapes])}"| {last}'


def _node(name: str, box: Box, level: Level, place: int) -> str:
    return name if level == "stage" or not box.layers else f"{name}l{place % len(box.layers)}"


def _skips(outline: Outline, links: Sequence[Link], names: dict[str, str], level: Level) -> Iterator[str]:
    """Yield an edge for each skip; of those side by side the first has the label of all, as labels would cover each other."""
    ends = [_ends(outline, link, names, level) for link in links]
    for place, (first, last) in enumerate(ends):
        alike = [link.channels for link, both in zip(links, ends, strict=True) if both == (first, last)]
        label = f'|"{_label([", ".join(alike)])}"|' if (first, last) not in ends[:place] else ""
        yield f"{first} -.->{label} {last}"


def _ends(outline: Outline, link: Link, names: dict[str, str], level: Level) -> tuple[str, str]:
    source, target = outline.box_of(link.skip.source_stage), outline.box_of(link.skip.target_stage)
    first, last = names[source.name], names[target.name]
    if level == "layer":
        made = [place for place, layer in enumerate(source.layers) if link.skip in layer.made]
        took = [place for place, layer in enumerate(target.layers) if link.skip in layer.taken]
        first = _node(first, source, level, made[0] if made else -1)
        last = _node(last, target, level, took[0] if took else 0)
    return first, last


def _label(lines: Sequence[str], *, joint: str = "<br/>") -> str:
    """Write lines as a label in quotes: what Mermaid, Markdown or HTML would read as theirs is written as its number.

    >>> _label(['say "hi"', "a-->b"])
    'say #34;hi#34;<br/>a#45;#45;#62;b'
    """
    return joint.join(_SPECIAL.sub(_numbered, visible(line)) for line in lines)


def _numbered(found: re.Match[str]) -> str:
    return "".join(f"#{ord(char)};" for char in found[0])
