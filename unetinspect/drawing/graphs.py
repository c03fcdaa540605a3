"""Writes the U in two languages of graphs: Graphviz's (`dot -Tsvg` draws it), and Mermaid's, which GitHub draws in Markdown."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from html import escape

from unetinspect.drawing.labels import box_lines, caption, entering, leaving
from unetinspect.drawing.outline import Box, Level, Link, Outline, Side, mark_text
from unetinspect.units import format_shape
from unetinspect.views.words import skip_label, step_text

# What is written at each side, and the colors of its boxes: of the ground, the frame and the text.
_SIDES: dict[Side, tuple[str, str, str, str]] = {
    "top": ("embeddings", "#eef2ff", "#6366f1", "#1e1b4b"),
    "left": ("down", "#e0f2fe", "#0284c7", "#0c4a6e"),
    "bottom": ("mid", "#fae8ff", "#c026d3", "#4a044e"),
    "right": ("up", "#dcfce7", "#16a34a", "#14532d"),
}
# In this order Mermaid draws down on the left.
_ORDER: tuple[Side, ...] = ("right", "left", "bottom", "top")
# What could end a label, or what Markdown or HTML would read in it as theirs.
_SPECIAL = re.compile(r"""["#&<>`*~\\\[\]{}|;$@]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|--|^\s*\d+(?=[.)]\s)|^\s*[-+=]|://|www""")
_CONFIG = ("config:", "  flowchart:", "    wrappingWidth: 600")


def dot(outline: Outline, *, level: Level = "stage") -> str:
    """Write an outline as a digraph: a table for each box with a row for each skip, dashed edges from row to row.

    A skip's edge does not rank: boxes are level with those on the other side that have the same resolution.
    """
    words = "".join(f'{escape(line)}<BR ALIGN="LEFT"/>' for line in (outline.title, *caption(outline.trace)))
    lines = [
        "digraph unet {",
        '  graph [charset="UTF-8", rankdir=TB, newrank=true, nodesep=1.2, ranksep=0.35, splines=line, labelloc=b, labeljust=l,',
        f'    fontname="Helvetica", fontsize=11, label=<{words}>];',
        '  node [shape=plain, fontname="Helvetica", fontsize=10];',
        '  edge [fontname="Helvetica", fontsize=9, arrowsize=0.7];',
    ]
    for side, (title, fill, frame, _) in _SIDES.items():
        table = f'<TABLE BORDER="1" CELLBORDER="0" CELLSPACING="0" CELLPADDING="2" STYLE="ROUNDED" COLOR="{frame}" BGCOLOR="{fill}">'
        tables = [f"    {box.key} [label=<{table}{''.join(_rows(outline, box, level))}</TABLE>>];" for box in outline.on(side)]
        label = f'    label="{title}"; color="#9ca3af"; style=rounded; labeljust=c; labelloc=t;'
        lines += [f"  subgraph cluster_{side} {{", label, *tables, "  }"] if tables else []
    for before, box in outline.steps:
        shapes = _quoted(f" {step_text(before.out_shape, box.in_shape, '→')} ")
        # The edges of the up path are turned, to be drawn upwards.
        edge = f"{box.key} -> {before.key} [dir=back, " if box.side == "right" else f"{before.key} -> {box.key} ["
        lines.append(f"  {edge}label={shapes}];")
    last = outline.chain[-1]
    if last.side != "right" or last.after is not None:
        lines.append(f"  output [label={_quoted(format_shape(last.out_shape))}];")
        lines.append(f"  output -> {last.key} [dir=back];" if last.side == "right" else f"  {last.key} -> output;")
    for link in outline.links:
        ends = f"{link.source.key}:m{link.number}:e -> {link.target.key}:t{link.number}:w"
        lines.append(f'  {ends} [constraint=false, style=dashed, color="#b45309"];')
    # Each target of skips is level with the box that produced most of what it consumes.
    pairs = [(link.source, link.target) for link in outline.links]
    placed: set[Box] = set()
    for pair, _ in Counter(pair for pair in pairs if (pair[0].side, pair[1].side) == ("left", "right")).most_common():
        if placed.isdisjoint(pair):
            placed |= {*pair}
            lines.append(f"  {{ rank=same; {pair[0].key}; {pair[1].key}; }}")
    return "\n".join([*lines, "}"]) + "\n"


def _rows(outline: Outline, box: Box, level: Level) -> Iterator[str]:
    """Yield the rows of a box; those of the up path from the last to the first, as it is read upwards."""
    layers, rest = outline.ends(box, level)
    yield f"<TR><TD><B>{escape(box.name)}</B></TD></TR>"
    yield from map(_row, box_lines(box, outline.trace.run, marks=not layers))
    if box.after is None:
        yield _row(step_text(box.in_shape, box.out_shape, "→"))
    blocks = []
    for layer, ends in layers:
        name = _row(f"{layer.name}  {step_text(layer.module.in_shape, layer.module.out_shape, '→')}")
        marks = (_row(f"  {mark_text(mark, of_one=True)}") for mark in layer.marks)
        blocks.append([name, *marks, *map(_source, ends.produced), *map(_target, ends.consumed)])
    for block in reversed(blocks) if box.side == "right" else blocks:
        yield from block
    yield from map(_source, rest.produced)
    yield from map(_target, reversed(rest.consumed))


def _source(link: Link) -> str:
    return _row(leaving(link), f' PORT="m{link.number}"')


def _target(link: Link) -> str:
    return _row(entering(link, "→"), f' PORT="t{link.number}"')


def _row(text: str, port: str = "") -> str:
    return f'<TR><TD ALIGN="LEFT"{port}>{escape(text)}</TD></TR>'


def _quoted(text: str) -> str:
    r"""Write a string of DOT.

    >>> print(_quoted('a "b"'))
    "a \"b\""
    """
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def mermaid(outline: Outline, *, level: Level = "stage") -> str:
    """Write an outline as a flowchart: boxes down, mid and up, dotted edges for skips with their channels.

    The up path is drawn upwards: its edges lead from a box to the one that ran before it, without a head, and have an arrow
    in their label instead. At the level of layers each box is a subgraph of its layers.
    """
    lines = ["---", f"title: {json.dumps(outline.title)}", *_CONFIG, "---", "flowchart TB"]
    lines += [f"  %% {re.sub('[{}]', ' ', line)}" for line in caption(outline.trace)]
    sides = [side for side in _ORDER if outline.on(side)]
    for side in sides:
        lines += [f'  subgraph {side}["{_SIDES[side][0]}"]', *(f"    {line}" for line in _input_and_output(outline, side, level))]
        lines += [f"    {line}" for box in outline.on(side) for line in _subgraph(outline, box, level)]
        lines += ["  end"]
    for before, box in outline.steps:
        shapes = step_text(before.out_shape, box.in_shape, "→")
        first, last = _node(before, level, -1), _node(box, level, 0)
        up = f'{last} ---|"{_label(["↑ " + shapes])}"| {first}'
        lines.append("  " + (up if box.side == "right" else f'{first} -->|"{_label([shapes])}"| {last}'))
    # Of skips side by side the first has the label of all, as labels would cover each other.
    ends = [_ends(link, level) for link in outline.links]
    labels: dict[tuple[str, str], list[str]] = {}
    for pair, link in zip(ends, outline.links, strict=True):
        labels.setdefault(pair, []).append(skip_label(link.skip))
    for source, target in ends:
        channels = labels.pop((source, target), [])
        label = f'|"{_label([", ".join(channels)])}"|' if channels else ""
        lines.append(f"  {source} -.->{label} {target}")
    lines += [f"  classDef {side} fill:{fill},stroke:{frame},color:{text}" for side, (_, fill, frame, text) in _SIDES.items()]
    lines += [f"  style {side} fill:none,stroke:#9ca3af" for side in sides]
    lines += [f"  class {','.join(box.key for box in outline.on(side))} {side}" for side in sides]
    return "\n".join(lines) + "\n"


def _input_and_output(outline: Outline, side: Side, level: Level) -> Iterator[str]:
    """Yield where the sample comes in, and where what is returned goes out."""
    boxes = outline.on(side)
    if side == "left":
        yield f'input(["{_label([format_shape(boxes[0].in_shape)])}"]) --> {_node(boxes[0], level, 0)}'
    if boxes[-1] is not outline.chain[-1]:
        return
    last, shape = _node(boxes[-1], level, -1), format_shape(boxes[-1].out_shape)
    if side != "right":
        yield f'{last} --> output(["{_label([shape])}"])'
    elif boxes[-1].after is not None:
        yield f'output(["{_label(["↑ " + shape])}"]) --- {last}'


def _subgraph(outline: Outline, box: Box, level: Level) -> Iterator[str]:
    layers, rest = outline.ends(box, level)
    words = [box.name, *box_lines(box, outline.trace.run, marks=not layers)]
    if not layers:
        words += [entering(link, "→") for link in rest.consumed]
        words += [step_text(box.in_shape, box.out_shape, "→")] if box.after is None else []
        yield f'{box.key}["{_label(words)}"]'
        return
    yield f'subgraph {box.key}["{_label(words, joint=": ")}"]'
    for place, (layer, ends) in enumerate(layers):
        shapes = step_text(layer.module.in_shape, layer.module.out_shape, "→")
        marks = (mark_text(mark, of_one=True) for mark in layer.marks)
        yield f'  {_node(box, level, place)}["{_label([layer.name, shapes, *marks, *(link.sum("→") for link in ends.consumed)])}"]'
    for place in range(len(layers) - 1):
        first, then = _node(box, level, place), _node(box, level, place + 1)
        yield f"  {then} --- {first}" if box.side == "right" else f"  {first} --> {then}"
    yield "end"


def _node(box: Box, level: Level, place: int) -> str:
    return box.key if level == "stage" or not box.layers else f"{box.key}l{place % len(box.layers)}"


def _ends(link: Link, level: Level) -> tuple[str, str]:
    left = [place for place, layer in enumerate(link.source.layers) if link.skip in layer.produced]
    entered = [place for place, layer in enumerate(link.target.layers) if link.skip in layer.consumed]
    return _node(link.source, level, left[0] if left else -1), _node(link.target, level, entered[0] if entered else 0)


def _label(lines: Iterable[str], *, joint: str = "<br/>") -> str:
    """Write lines as a label in quotes: what Mermaid, Markdown or HTML would read as theirs is written as its number.

    >>> _label(['say "hi"', "a-->b"])
    'say #34;hi#34;<br/>a#45;#45;#62;b'
    """
    return joint.join(_SPECIAL.sub(lambda found: "".join(f"#{ord(char)};" for char in found[0]), line) for line in lines)
