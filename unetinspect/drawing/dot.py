"""Writes the U in Graphviz's language: `dot -Tsvg` draws it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape

from unetinspect.drawing.forms import Level
from unetinspect.drawing.outline import Box, Layer, Outline, Side, mark_text
from unetinspect.drawing.words import Link, below, links_of, words_of
from unetinspect.units import format_shape, visible
from unetinspect.views.words import step_text

_TITLES: dict[Side, str] = {"top": "embeddings", "left": "down", "bottom": "mid", "right": "up"}
_COLOURS: dict[Side, tuple[str, str]] = {
    "top": ("#eef2ff", "#6366f1"),
    "left": ("#e0f2fe", "#0284c7"),
    "bottom": ("#fae8ff", "#c026d3"),
    "right": ("#dcfce7", "#16a34a"),
}


def dot(outline: Outline, *, level: Level = "stage") -> str:
    """Write an outline as a digraph: a table for each box with a row for each skip, dashed edges from row to row.

    A skip's edge does not rank: boxes stand level with those on the other side that work at the same size.
    """
    names = {box.name: f"b{place}" for place, box in enumerate(outline.boxes)}
    links = links_of(outline)
    lines = ["digraph unet {", *_settings(outline)]
    for side in ("top", "left", "bottom", "right"):
        lines += _cluster(outline, side, names, links, level)
    lines += _chain(outline, names)
    lines += [_link(link, names) for link in links]
    lines += _level(outline, names)
    return "\n".join([*lines, "}"]) + "\n"


def _settings(outline: Outline) -> Iterator[str]:
    words = "".join(f'{_text(line)}<BR ALIGN="LEFT"/>' for line in (outline.title, *outline.caption))
    yield '  graph [charset="UTF-8", rankdir=TB, newrank=true, nodesep=1.2, ranksep=0.35, splines=line, labelloc=b, labeljust=l,'
    yield f'    fontname="Helvetica", fontsize=11, label=<{words}>];'
    yield '  node [shape=plain, fontname="Helvetica", fontsize=10];'
    yield '  edge [fontname="Helvetica", fontsize=9, arrowsize=0.7];'


def _cluster(outline: Outline, side: Side, names: dict[str, str], links: Sequence[Link], level: Level) -> Iterator[str]:
    boxes = outline.on(side)
    if not boxes:
        return
    yield f"  subgraph cluster_{side} {{"
    yield f'    label="{_TITLES[side]}"; color="#9ca3af"; style=rounded; labeljust=c; labelloc=t;'
    for box in boxes:
        rows = "".join(_rows(outline, box, links, level))
        fill, frame = _COLOURS[side]
        table = f'<TABLE BORDER="1" CELLBORDER="0" CELLSPACING="0" CELLPADDING="2" STYLE="ROUNDED" COLOR="{frame}" BGCOLOR="{fill}">'
        yield f"    {names[box.name]} [label=<{table}{rows}</TABLE>>];"
    yield "  }"


def _rows(outline: Outline, box: Box, links: Sequence[Link], level: Level) -> Iterator[str]:
    """Yield the rows of a box; those of the way up from the last to the first, as it is read upwards."""
    made = [link for link in links if link.source == box.name]
    taken = [link for link in links if link.target == box.name]
    told = level == "layer" and bool(box.layers)
    yield f"<TR><TD><B>{_text(box.name)}</B></TD></TR>"
    yield from (_row(text) for text in words_of(box, outline.trace.run, marks=not told))
    if box.after is None:
        yield _row(step_text(box.in_shape, box.out_shape, "→"))
    blocks = []
    for layer in box.layers if told else ():
        mine = [link for link in made if link.skip in layer.made], [link for link in taken if link.skip in layer.taken]
        made, taken = ([link for link in all_of if link not in some] for all_of, some in zip((made, taken), mine, strict=True))
        ends = [*(_end(link, "made") for link in mine[0]), *(_end(link, "taken") for link in mine[1])]
        blocks.append([*map(_row, _layer(layer)), *ends])
    rest = [_end(link, "made") for link in sorted(made, key=lambda link: (link.skip.index, -link.number))]
    for block in [*(blocks[::-1] if box.side == "right" else blocks), rest, [_end(link, "taken") for link in reversed(taken)]]:
        yield from block


def _layer(layer: Layer) -> Iterator[str]:
    yield f"{layer.name}  {step_text(layer.module.in_shape, layer.module.out_shape, '→')}"
    yield from (f"  {mark_text(mark, of_one=True)}" for mark in layer.marks)


def _end(link: Link, end: str) -> str:
    skip = link.skip
    if end == "made":
        return _row(f"{below(skip.source, skip.source_stage)}: skip {link.channels}", f"m{link.number}")
    return _row(f"{below(skip.target, skip.target_stage)}: {link.sum('→')}", f"t{link.number}")


def _row(text: str, port: str = "") -> str:
    return f'<TR><TD ALIGN="LEFT"{f" PORT={chr(34)}{port}{chr(34)}" if port else ""}>{_text(text)}</TD></TR>'


def _chain(outline: Outline, names: dict[str, str]) -> Iterator[str]:
    """Yield an edge for each box that takes the output of another; those of the way up are turned, to be drawn upwards."""
    boxes = {box.name: box for box in outline.boxes}
    for box in outline.boxes:
        if box.after is None:
            continue
        shapes = _quoted(f" {step_text(boxes[box.after].out_shape, box.in_shape, '→')} ")
        if box.side == "right":
            yield f"  {names[box.name]} -> {names[box.after]} [dir=back, label={shapes}];"
        else:
            yield f"  {names[box.after]} -> {names[box.name]} [label={shapes}];"
    last = [box for box in outline.boxes if box.side != "top"][-1]
    if last.side != "right" or last.after is not None:
        yield f"  output [label={_quoted(format_shape(last.out_shape))}];"
        yield f"  output -> {names[last.name]} [dir=back];" if last.side == "right" else f"  {names[last.name]} -> output;"


def _link(link: Link, names: dict[str, str]) -> str:
    ends = f"{names[link.source]}:m{link.number}:e -> {names[link.target]}:t{link.number}:w"
    return f'  {ends} [constraint=false, style=dashed, color="#b45309"];'


def _level(outline: Outline, names: dict[str, str]) -> Iterator[str]:
    """Yield for each target of skips the box that stands level with it: the one that made most of what it takes."""
    sides = {box.name: box.side for box in outline.boxes}
    ends = [(link.source, link.target) for link in links_of(outline)]
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
    return '"' + visible(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _text(text: str) -> str:
    return escape(visible(text), quote=True)
