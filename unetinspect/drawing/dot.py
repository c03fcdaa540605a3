"""Writes the U in Graphviz's language: `dot -Tsvg` draws it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from html import escape

from unetinspect.drawing.labels import below, box_lines, caption
from unetinspect.drawing.outline import Box, Layer, Level, Link, Outline, Side, mark_text
from unetinspect.units import format_shape
from unetinspect.views.words import skip_label, step_text

# What is written at each side, and the colors of its boxes: of the ground and of the frame.
_SIDES: dict[Side, tuple[str, str, str]] = {
    "top": ("embeddings", "#eef2ff", "#6366f1"),
    "left": ("down", "#e0f2fe", "#0284c7"),
    "bottom": ("mid", "#fae8ff", "#c026d3"),
    "right": ("up", "#dcfce7", "#16a34a"),
}


def dot(outline: Outline, *, level: Level = "stage") -> str:
    """Write an outline as a digraph: a table for each box with a row for each skip, dashed edges from row to row.

    A skip's edge does not rank: boxes are level with those on the other side that have the same resolution.
    """
    names = {box.name: f"b{place}" for place, box in enumerate(outline.boxes)}
    words = "".join(f'{_text(line)}<BR ALIGN="LEFT"/>' for line in (outline.title, *caption(outline.trace)))
    lines = [
        "digraph unet {",
        '  graph [charset="UTF-8", rankdir=TB, newrank=true, nodesep=1.2, ranksep=0.35, splines=line, labelloc=b, labeljust=l,',
        f'    fontname="Helvetica", fontsize=11, label=<{words}>];',
        '  node [shape=plain, fontname="Helvetica", fontsize=10];',
        '  edge [fontname="Helvetica", fontsize=9, arrowsize=0.7];',
    ]
    for side in _SIDES:
        lines += _cluster(outline, side, names, level)
    lines += _chain(outline, names)
    for link in outline.links:
        ends = f"{names[link.source]}:m{link.number}:e -> {names[link.target]}:t{link.number}:w"
        lines.append(f'  {ends} [constraint=false, style=dashed, color="#b45309"];')
    lines += _ranks(outline, names)
    return "\n".join([*lines, "}"]) + "\n"


def _cluster(outline: Outline, side: Side, names: dict[str, str], level: Level) -> Iterator[str]:
    title, fill, frame = _SIDES[side]
    if not outline.on(side):
        return
    yield f"  subgraph cluster_{side} {{"
    yield f'    label="{title}"; color="#9ca3af"; style=rounded; labeljust=c; labelloc=t;'
    for box in outline.on(side):
        rows = "".join(_rows(outline, box, level))
        table = f'<TABLE BORDER="1" CELLBORDER="0" CELLSPACING="0" CELLPADDING="2" STYLE="ROUNDED" COLOR="{frame}" BGCOLOR="{fill}">'
        yield f"    {names[box.name]} [label=<{table}{rows}</TABLE>>];"
    yield "  }"


def _rows(outline: Outline, box: Box, level: Level) -> Iterator[str]:
    """Yield the rows of a box; those of the up path from the last to the first, as it is read upwards."""
    layers, rest = outline.ends(box, level)
    yield f"<TR><TD><B>{_text(box.name)}</B></TD></TR>"
    yield from map(_row, box_lines(box, outline.trace.run, marks=not layers))
    if box.after is None:
        yield _row(step_text(box.in_shape, box.out_shape, "→"))
    blocks = [[*_layer(layer), *map(_source, ends.produced), *map(_target, ends.consumed)] for layer, ends in layers]
    for block in reversed(blocks) if box.side == "right" else blocks:
        yield from block
    yield from map(_source, rest.produced)
    yield from map(_target, reversed(rest.consumed))


def _layer(layer: Layer) -> Iterator[str]:
    yield _row(f"{layer.name}  {step_text(layer.module.in_shape, layer.module.out_shape, '→')}")
    yield from (_row(f"  {mark_text(mark, of_one=True)}") for mark in layer.marks)


def _source(link: Link) -> str:
    return _row(f"{below(link.skip.source, link.skip.source_stage)}: skip {skip_label(link.skip)}", f' PORT="m{link.number}"')


def _target(link: Link) -> str:
    return _row(f"{below(link.skip.target, link.skip.target_stage)}: {link.sum('→')}", f' PORT="t{link.number}"')


def _row(text: str, port: str = "") -> str:
    return f'<TR><TD ALIGN="LEFT"{port}>{_text(text)}</TD></TR>'


def _chain(outline: Outline, names: dict[str, str]) -> Iterator[str]:
    """Yield an edge for each box that takes the output of another; those of the up path are turned, to be drawn upwards."""
    boxes = {box.name: box for box in outline.boxes}
    for box in outline.boxes:
        if box.after is None:
            continue
        shapes = _quoted(f" {step_text(boxes[box.after].out_shape, box.in_shape, '→')} ")
        if box.side == "right":
            yield f"  {names[box.name]} -> {names[box.after]} [dir=back, label={shapes}];"
        else:
            yield f"  {names[box.after]} -> {names[box.name]} [label={shapes}];"
    last = outline.chain[-1]
    if last.side != "right" or last.after is not None:
        yield f"  output [label={_quoted(format_shape(last.out_shape))}];"
        yield f"  output -> {names[last.name]} [dir=back];" if last.side == "right" else f"  {names[last.name]} -> output;"


def _ranks(outline: Outline, names: dict[str, str]) -> Iterator[str]:
    """Yield for each target of skips the box that is level with it: the one that produced most of what it consumes."""
    sides = {box.name: box.side for box in outline.boxes}
    ends = [(link.source, link.target) for link in outline.links]
    pairs = Counter(pair for pair in ends if (sides[pair[0]], sides[pair[1]]) == ("left", "right"))
    placed: set[str] = set()
    for (source, target), _ in pairs.most_common():
        if source not in placed and target not in placed:
            placed |= {source, target}
            yield f"  {{ rank=same; {names[source]}; {names[target]}; }}"


def _quoted(text: str) -> str:
    r"""Write a string of DOT.

    >>> print(_quoted('a "b"'))
    "a \"b\""
    """
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _text(text: str) -> str:
    return escape(text, quote=True)
