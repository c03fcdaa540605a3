"""Writes the U as a Mermaid flowchart, which GitHub and others draw in Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

from unetinspect.drawing.labels import below, box_lines, caption
from unetinspect.drawing.outline import Box, Layer, Level, Link, Outline, Side, mark_text
from unetinspect.units import format_shape
from unetinspect.views.words import skip_label, step_text

# What is written at each side, and the colors of its boxes. In this order Mermaid draws down on the left.
_SIDES: dict[Side, tuple[str, str]] = {
    "right": ("up", "fill:#dcfce7,stroke:#16a34a,color:#14532d"),
    "left": ("down", "fill:#e0f2fe,stroke:#0284c7,color:#0c4a6e"),
    "bottom": ("mid", "fill:#fae8ff,stroke:#c026d3,color:#4a044e"),
    "top": ("embeddings", "fill:#eef2ff,stroke:#6366f1,color:#1e1b4b"),
}
# What could end a label, or what Markdown or HTML would read in it as theirs.
_SPECIAL = re.compile(r"""["#&<>`*~\\\[\]{}|;$@]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|--|^\s*\d+(?=[.)]\s)|^\s*[-+=]|://|www""")
_CONFIG = ("config:", "  flowchart:", "    wrappingWidth: 600")


def mermaid(outline: Outline, *, level: Level = "stage") -> str:
    """Write an outline as a flowchart: boxes down, mid and up, dotted edges for skips with their channels.

    The up path is drawn upwards: its edges lead from a box to the one that ran before it, without a head, and have an arrow
    in their label instead. At the level of layers each box is a subgraph of its layers.
    """
    lines = ["---", f"title: {json.dumps(outline.title)}", *_CONFIG, "---", "flowchart TB"]
    lines += [f"  %% {re.sub('[{}]', ' ', line)}" for line in caption(outline.trace)]
    names = {box.name: f"b{place}" for place, box in enumerate(outline.boxes)}
    sides = [side for side in _SIDES if outline.on(side)]
    for side in sides:
        lines += [f'  subgraph {side}["{_SIDES[side][0]}"]', *(f"    {line}" for line in _input_and_output(outline, side, names, level))]
        lines += [f"    {line}" for box in outline.on(side) for line in _box(outline, box, names[box.name], level)]
        lines += ["  end"]
    lines += [f"  {line}" for line in _chain(outline, names, level)]
    lines += [f"  {line}" for line in _skips(outline, names, level)]
    lines += [f"  classDef {side} {_SIDES[side][1]}" for side in ("top", "left", "bottom", "right")]
    lines += [f"  style {side} fill:none,stroke:#9ca3af" for side in sides]
    lines += [f"  class {','.join(names[box.name] for box in outline.on(side))} {side}" for side in sides]
    return "\n".join(lines) + "\n"


def _input_and_output(outline: Outline, side: Side, names: dict[str, str], level: Level) -> Iterator[str]:
    """Yield where the sample comes in, and where what is returned goes out."""
    boxes = outline.on(side)
    if side == "left":
        yield f'input(["{_label([format_shape(boxes[0].in_shape)])}"]) --> {_node(names[boxes[0].name], boxes[0], level, 0)}'
    if boxes[-1] is not outline.chain[-1]:
        return
    last, shape = _node(names[boxes[-1].name], boxes[-1], level, -1), format_shape(boxes[-1].out_shape)
    if side != "right":
        yield f'{last} --> output(["{_label([shape])}"])'
    elif boxes[-1].after is not None:
        yield f'output(["{_label(["↑ " + shape])}"]) --- {last}'


def _box(outline: Outline, box: Box, name: str, level: Level) -> Iterator[str]:
    layers, rest = outline.ends(box, level)
    words = [box.name, *box_lines(box, outline.trace.run, marks=not layers)]
    if not layers:
        words += [f"{below(link.skip.target, link.skip.target_stage)}: {link.sum('→')}" for link in rest.consumed]
        words += [step_text(box.in_shape, box.out_shape, "→")] if box.after is None else []
        yield f'{name}["{_label(words)}"]'
        return
    yield f'subgraph {name}["{_label(words, joint=": ")}"]'
    for place, (layer, ends) in enumerate(layers):
        yield f'  {name}l{place}["{_label(_layer(layer, ends.consumed))}"]'
    for place in range(len(layers) - 1):
        yield f"  {name}l{place + 1} --- {name}l{place}" if box.side == "right" else f"  {name}l{place} --> {name}l{place + 1}"
    yield "end"


def _layer(layer: Layer, consumed: Iterable[Link]) -> list[str]:
    shapes = step_text(layer.module.in_shape, layer.module.out_shape, "→")
    return [layer.name, shapes, *(mark_text(mark, of_one=True) for mark in layer.marks), *(link.sum("→") for link in consumed)]


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


def _skips(outline: Outline, names: dict[str, str], level: Level) -> Iterator[str]:
    """Yield an edge for each skip; of those side by side the first has the label of all, as labels would cover each other."""
    labels: dict[tuple[str, str], list[str]] = {}
    for link in outline.links:
        labels.setdefault(_ends(outline, link, names, level), []).append(skip_label(link.skip))
    for link in outline.links:
        ends = _ends(outline, link, names, level)
        channels = labels.pop(ends, [])
        label = f'|"{_label([", ".join(channels)])}"|' if channels else ""
        yield f"{ends[0]} -.->{label} {ends[1]}"


def _ends(outline: Outline, link: Link, names: dict[str, str], level: Level) -> tuple[str, str]:
    source, target = outline.box_of(link.skip.source_stage), outline.box_of(link.skip.target_stage)
    left = [place for place, layer in enumerate(source.layers) if link.skip in layer.produced]
    entered = [place for place, layer in enumerate(target.layers) if link.skip in layer.consumed]
    first = _node(names[source.name], source, level, left[0] if left else -1)
    return first, _node(names[target.name], target, level, entered[0] if entered else 0)


def _label(lines: Iterable[str], *, joint: str = "<br/>") -> str:
    """Write lines as a label in quotes: what Mermaid, Markdown or HTML would read as theirs is written as its number.

    >>> _label(['say "hi"', "a-->b"])
    'say #34;hi#34;<br/>a#45;#45;#62;b'
    """
    return joint.join(_SPECIAL.sub(lambda found: "".join(f"#{ord(char)};" for char in found[0]), line) for line in lines)
