"""The U as one SVG document: text is text, nothing comes from elsewhere, light and dark, the same bytes each time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from xml.sax.saxutils import escape, quoteattr

from unetinspect.drawing.forms import Level
from unetinspect.drawing.outline import Outline
from unetinspect.drawing.place import place
from unetinspect.drawing.place.contents import typeset
from unetinspect.drawing.scene import Badge, Flow, Given, PlacedBox, PlacedSkip, Point, Row, Scene, Text
from unetinspect.drawing.svg.style import style_sheet
from unetinspect.drawing.svg.words import box_words, layer_words, picture_words, skip_words
from unetinspect.units import visible


def svg(outline: Outline, *, level: Level = "stage", interactive: bool = False) -> str:
    """Draw the U.

    Args:
        outline: What is shown.
        level: "stage": blocks; "layer": the layers in them too.
        interactive: Whether boxes, layers and skips are for a page that reacts to them: then each can be focused and has a name
            for a screen reader; else each has a tooltip.
    """
    scene = place(outline, level=level)
    body = "\n".join(_body(scene, interactive=interactive))
    head, tail = _document(outline, scene, sha256(f"{level}{interactive}{body}".encode()).hexdigest()[:10], interactive=interactive)
    return f"{head}\n{body}\n{tail}\n"


def _document(outline: Outline, scene: Scene, key: str, *, interactive: bool) -> tuple[str, str]:
    width, height = _number(scene.width), _number(scene.height)
    named = f'role="{"group" if interactive else "img"}" aria-labelledby="ui-title-{key} ui-desc-{key}"'
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="ui-svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" {named}>',
        f'<title id="ui-title-{key}">{escape(typeset(outline.title))}</title>',
        f'<desc id="ui-desc-{key}">{escape(picture_words(outline))}</desc>',
        f"<style>\n{style_sheet(interactive=interactive)}\n</style>",
        f'<rect class="ui-paper" width="{width}" height="{height}"/>',
    ]
    return "\n".join(head), "</svg>"


def _body(scene: Scene, *, interactive: bool) -> Iterator[str]:
    """Yield what is drawn: arrows first, curves over them, boxes on top."""
    yield from (_text(text) for text in scene.texts)
    yield from (_sample(kind, start, end) for kind, start, end in scene.legend)
    yield from (_badge(badge) for badge in scene.legend_badges)
    yield from (_given(given) for given in scene.given)
    yield from (_flow(flow) for flow in scene.flows)
    yield from (_skip(skip, interactive=interactive) for skip in scene.skips)
    for placed in scene.boxes:
        yield from _box(placed, interactive=interactive)


def _box(placed: PlacedBox, *, interactive: bool) -> Iterator[str]:
    box, rect = placed.box, placed.rect
    stages = ",".join(stage.name for stage in box.stages)
    data = f"data-box={_quoted(box.name)} data-stages={_quoted(stages)}"
    yield _group(f"ui-stage ui-{box.stages[0].role}", data, box_words(box), interactive=interactive)
    yield f'<rect class="ui-frame" {_place(rect.x, rect.y, rect.width, rect.height)} rx="{6 if placed.scaled else 4}"/>'
    yield from (_text(text) for text in placed.texts)
    yield from (_badge(badge) for badge in placed.badges)
    for row in placed.rows:
        yield from _row(row, interactive=interactive)
    yield "</g>"


def _row(row: Row, *, interactive: bool) -> Iterator[str]:
    """Yield a row: a group of its own where it shows a layer, or several that are alike."""
    if row.layers:
        first = row.layers[0]
        data = f"data-path={_quoted(first.module.path)}"
        if len(row.layers) > 1:
            data += f" data-paths={_quoted(','.join(layer.module.path for layer in row.layers))}"
        yield _group(f"ui-layer ui-{first.kind}", data, layer_words(row.layers), interactive=interactive)
    yield f'<rect class="ui-row" {_place(row.rect.x, row.rect.y, row.rect.width, row.rect.height)} rx="3"/>'
    yield from (_text(text) for text in row.texts)
    yield from (_badge(badge) for badge in row.badges)
    if row.layers:
        yield "</g>"


def _skip(placed: PlacedSkip, *, interactive: bool) -> str:
    skip, (first, second) = placed.skip, placed.controls
    data = f'data-skip="{skip.order}" data-source={_quoted(skip.source)} data-target={_quoted(skip.target)}'
    into = 1 if placed.end[0] >= placed.bend_end[0] else -1
    tip = placed.end[0] - 3 * into, placed.end[1]
    way = f"M{_at(placed.start)}H{_number(placed.bend_start[0])}C{_at(first)} {_at(second)} {_at(placed.bend_end)}H{_number(tip[0])}"
    return "".join(
        [
            _group("ui-skip", data, skip_words(skip), interactive=interactive),
            f'<path class="ui-hit" d="{way}"/>' if interactive else "",
            f'<path class="ui-skip-line" d="{way}"/>',
            _head("ui-skip-head", placed.end, (into, 0), 7),
            _text(placed.label),
            "</g>",
        ]
    )


def _flow(flow: Flow) -> str:
    texts = "".join(_text(text) for text in flow.texts)
    return f'<g class="ui-flow">{_arrow("flow", flow.points)}{texts}</g>'


def _sample(kind: str, start: Point, end: Point) -> str:
    return _arrow(kind, (start, end))


def _arrow(kind: str, points: Iterable[Point]) -> str:
    """Return an arrow through points: its line ends inside its head."""
    *way, before, end = points
    length = abs(end[0] - before[0]) + abs(end[1] - before[1])
    unit = (end[0] - before[0]) / length, (end[1] - before[1]) / length
    size = 9 if kind == "flow" else 7
    inside = end[0] - unit[0] * size / 2, end[1] - unit[1] * size / 2
    line = "L".join(_at(point) for point in (*way, before, inside))
    return f'<path class="ui-{kind}-line" d="M{line}"/>{_head(f"ui-{kind}-head", end, unit, size)}'


def _head(style: str, tip: Point, unit: Point, size: float) -> str:
    """Return an arrowhead that points along `unit`, a vector of length 1."""
    back = tip[0] - unit[0] * size, tip[1] - unit[1] * size
    half = size * 0.42
    corners = [tip, (back[0] - unit[1] * half, back[1] + unit[0] * half), (back[0] + unit[1] * half, back[1] - unit[0] * half)]
    return f'<path class="{style}" d="M{"L".join(_at(corner) for corner in corners)}Z"/>'


def _given(given: Given) -> str:
    rect = given.rect
    frame = f'<rect class="ui-given-frame" {_place(rect.x, rect.y, rect.width, rect.height)} rx="11"/>'
    return f'<g class="ui-given">{frame}{_text(given.text)}</g>'


def _badge(badge: Badge) -> str:
    rect = badge.rect
    frame = f'<rect class="ui-badge" {_place(rect.x, rect.y, rect.width, rect.height)} rx="7.5"/>'
    return f'<g class="ui-badge-{badge.kind}">{frame}{_text(badge.text)}</g>'


def _group(classes: str, data: str, said: str, *, interactive: bool) -> str:
    """Open a group that can be focused and has a name, or one that has a tooltip."""
    if interactive:
        return f'<g class="{classes}" {data} tabindex="0" role="button" aria-label={_quoted(said)}>'
    return f'<g class="{classes}" {data}><title>{escape(said)}</title>'


def _text(text: Text) -> str:
    classes = [f"ui-{text.style}", *(["ui-bold"] if text.bold else []), *([f"ui-{text.anchor}"] if text.anchor != "start" else [])]
    at = f'x="{_number(text.x)}" y="{_number(text.y)}" font-size="{_number(text.size)}"'
    return f'<text class="{" ".join(classes)}" {at}>{escape(text.content)}</text>'


def _quoted(value: str) -> str:
    return quoteattr(visible(value))


def _place(x: float, y: float, width: float, height: float) -> str:
    return f'x="{_number(x)}" y="{_number(y)}" width="{_number(width)}" height="{_number(height)}"'


def _at(point: Point) -> str:
    return f"{_number(point[0])} {_number(point[1])}"


def _number(value: float) -> str:
    """Write a coordinate to a hundredth, the same on every machine; never "-0".

    >>> _number(12.0), _number(0.125), _number(-0.001)
    ('12', '0.12', '0')
    """
    return f"{round(value, 2) + 0:.2f}".rstrip("0").rstrip(".")
