"""The U as one self-contained SVG document, light and dark, with the same bytes each time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from xml.sax.saxutils import escape, quoteattr

from unetinspect.drawing.labels import box_description, layer_description, picture_description, skip_description, typeset
from unetinspect.drawing.outline import Layout, Level, Outline
from unetinspect.drawing.place import place
from unetinspect.drawing.place.boxes import is_scaled
from unetinspect.drawing.scene import Badge, PlacedBox, PlacedSkip, Point, Rect, Row, Scene, Text

# What is colored, which property of it, its color in light and in dark.
COLORS: tuple[tuple[str, str, str, str], ...] = (
    (".ui-paper", "fill", "#ffffff", "#12171d"),
    ("text", "fill", "#1b2530", "#e7ecf1"),
    (".ui-note", "fill", "#51606f", "#a9b6c3"),
    (".ui-shape", "fill", "#33414f", "#c9d3dc"),
    (".ui-channels", "fill", "#1f4f86", "#9cc7f2"),
    (".ui-frame", "fill", "#f3f5f7", "#1d242c"),
    (".ui-frame", "stroke", "#7f8c99", "#75818e"),
    (".ui-embed .ui-frame", "fill", "#edf6f0", "#172a20"),
    (".ui-embed .ui-frame", "stroke", "#6c9c80", "#5b9474"),
    (".ui-down .ui-frame", "fill", "#e6eff9", "#18293c"),
    (".ui-down .ui-frame", "stroke", "#4f7fb5", "#5a8cc2"),
    (".ui-mid .ui-frame", "fill", "#eeeaf8", "#282240"),
    (".ui-mid .ui-frame", "stroke", "#7a62b3", "#927ecb"),
    (".ui-up .ui-frame", "fill", "#fdf2e2", "#35291a"),
    (".ui-up .ui-frame", "stroke", "#b8842f", "#c2924c"),
    (".ui-given-frame", "fill", "#ffffff", "#12171d"),
    (".ui-given-frame", "stroke", "#7f8c99", "#75818e"),
    (".ui-row", "fill", "#ffffff", "#12171d"),
    (".ui-flow-line", "stroke", "#33414f", "#c9d3dc"),
    (".ui-flow-head", "fill", "#33414f", "#c9d3dc"),
    (".ui-skip-line", "stroke", "#4f7fb5", "#6fa5dd"),
    (".ui-skip-head", "fill", "#4f7fb5", "#6fa5dd"),
    (".ui-context-line", "stroke", "#7a62b3", "#927ecb"),
    (".ui-context-head", "fill", "#7a62b3", "#927ecb"),
    (".ui-badge", "fill", "#ffffff", "#12171d"),
    (".ui-badge", "stroke", "#33414f", "#c9d3dc"),
    (".ui-badge-self .ui-badge", "fill", "#33414f", "#c9d3dc"),
    (".ui-badge-self text", "fill", "#ffffff", "#12171d"),
)
FONTS = 'system-ui, "Segoe UI", Helvetica, Arial, "DejaVu Sans", sans-serif'
# The same in light and dark. Kinds also differ in their lines, for prints in black and white.
_SHAPES = """\
.ui-svg text { font-family: FONTS; \
font-variant-numeric: tabular-nums; text-rendering: geometricPrecision }
.ui-svg .ui-bold { font-weight: 700 }
.ui-svg .ui-middle { text-anchor: middle }
.ui-svg .ui-end { text-anchor: end }
.ui-svg .ui-frame { stroke-width: 1.2 }
.ui-svg .ui-mid .ui-frame { stroke-width: 2 }
.ui-svg .ui-given-frame { stroke-dasharray: 3 2 }
.ui-svg .ui-row { fill-opacity: 0.75 }
.ui-svg .ui-flow-line { fill: none; stroke-width: 2.2; stroke-linejoin: round }
.ui-svg .ui-skip-line { fill: none; stroke-width: 1.2 }
.ui-svg .ui-context-line { fill: none; stroke-width: 1.2; stroke-dasharray: 4 3; stroke-linejoin: round }
.ui-svg .ui-badge { stroke-width: 1 }
.ui-svg .ui-badge-temporal .ui-badge { stroke-dasharray: 4 2 }
.ui-svg .ui-badge-joint .ui-badge { stroke-width: 2 }
.ui-svg .ui-badge-pooling .ui-badge { stroke-dasharray: 1.5 2 }""".replace("FONTS", FONTS)
_INTERACTIVE = """\
.ui-svg .ui-hit { fill: none; stroke: transparent; stroke-width: 11; pointer-events: stroke }
.ui-svg [tabindex] { cursor: pointer }"""


def svg(outline: Outline, *, level: Level = "stage", layout: Layout = "tall", legend: bool = True, interactive: bool = False) -> str:
    """Draw the U.

    Args:
        outline: What is shown.
        level: "stage": blocks; "layer": the layers in them too.
        layout: "tall": as high as it needs; "wide": for a slide; "compact": for a column of a paper.
        legend: Whether it explains its arrows and sizes.
        interactive: Whether it is for a page that reacts to boxes, layers and skips: each can be focused and has a name for a
            screen reader; else each has a tooltip. The page's `color-scheme` is the picture's.
    """
    scene = place(outline, level=level, layout=layout, legend=legend)
    body = "\n".join(_body(scene, interactive=interactive))
    key = sha256(f"{level}{interactive}{body}".encode()).hexdigest()[:10]
    width, height = _number(scene.width), _number(scene.height)
    named = f'role="{"group" if interactive else "img"}" aria-labelledby="ui-title-{key} ui-desc-{key}"'
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" class="ui-svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" {named}>
<title id="ui-title-{key}">{escape(typeset(outline.title or outline.name))}</title>
<desc id="ui-desc-{key}">{escape(picture_description(outline))}</desc>
<style>
{style_sheet(interactive=interactive)}
</style>
<rect class="ui-paper" width="{width}" height="{height}"/>
{body}
</svg>
"""


def style_sheet(*, interactive: bool) -> str:
    """Return the style sheet of a picture. Every rule is below `.ui-svg`, so that it does not affect the page around it."""
    rules = [(f".ui-svg {selector}", prop, light, dark) for selector, prop, light, dark in COLORS]
    if interactive:
        both = [f"{selector} {{ {prop}: light-dark({light}, {dark}) }}" for selector, prop, light, dark in rules]
        return "\n".join([_SHAPES, _INTERACTIVE, *both])
    # Programs that are not browsers know no light-dark().
    by_day = [f"{selector} {{ {prop}: {light} }}" for selector, prop, light, _ in rules]
    by_night = [f"{selector} {{ {prop}: {dark} }}" for selector, prop, _, dark in rules]
    return "\n".join([_SHAPES, *by_day, "@media (prefers-color-scheme: dark) {", *by_night, "}"])


def _body(scene: Scene, *, interactive: bool) -> Iterator[str]:
    """Yield what is drawn: arrows first, curves over them, boxes on top."""
    yield from map(_text, scene.texts)
    yield from (_arrow(kind, (start, end)) for kind, start, end in scene.legend)
    yield from map(_badge, scene.legend_badges)
    yield from (f'<g class="ui-context">{_arrow("context", points)}</g>' for points in scene.contexts)
    for given in scene.given:
        yield f'<g class="ui-given"><rect class="ui-given-frame" {_place(given.rect)} rx="11"/>{_text(given.text)}</g>'
    for flow in scene.flows:
        yield f'<g class="ui-flow">{_arrow("flow", flow.points)}{"".join(map(_text, flow.texts))}</g>'
    yield from (_skip(skip, interactive=interactive) for skip in scene.skips)
    for placed in scene.boxes:
        yield from _box(placed, interactive=interactive)


def _box(placed: PlacedBox, *, interactive: bool) -> Iterator[str]:
    box, stages = placed.box, ",".join(stage.name for stage in placed.box.stages)
    data = f"data-box={quoteattr(box.name)} data-stages={quoteattr(stages)}"
    yield _group(f"ui-stage ui-{box.stages[0].role}", data, box_description(box), interactive=interactive)
    yield f'<rect class="ui-frame" {_place(placed.rect)} rx="{6 if is_scaled(box) else 4}"/>'
    yield from map(_text, placed.texts)
    yield from map(_badge, placed.badges)
    for row in placed.rows:
        yield from _row(row, interactive=interactive)
    yield "</g>"


def _row(row: Row, *, interactive: bool) -> Iterator[str]:
    """Yield a row: a group of its own where it shows a layer, or several that are alike."""
    if row.layers:
        paths = [layer.module.path for layer in row.layers]
        data = f"data-path={quoteattr(paths[0])}" + (f" data-paths={quoteattr(','.join(paths))}" if len(paths) > 1 else "")
        yield _group("ui-layer", data, layer_description(row.layers), interactive=interactive)
    yield f'<rect class="ui-row" {_place(row.rect)} rx="3"/>'
    yield from map(_text, row.texts)
    yield from map(_badge, row.badges)
    if row.layers:
        yield "</g>"


def _skip(placed: PlacedSkip, *, interactive: bool) -> str:
    skip, (first, second) = placed.skip, placed.controls
    data = f'data-skip="{placed.name}" data-source={quoteattr(skip.source)} data-target={quoteattr(skip.target)}'
    into = 1 if placed.end[0] >= placed.bend_end[0] else -1
    bend = f"H{_number(placed.bend_start[0])}C{_at(first)} {_at(second)} {_at(placed.bend_end)}"
    way = f"M{_at(placed.start)}{bend}H{_number(placed.end[0] - 3 * into)}"
    group = _group("ui-skip", data, skip_description(skip, placed.name), interactive=interactive)
    hit = f'<path class="ui-hit" d="{way}"/>' if interactive else ""
    head = _head("ui-skip-head", placed.end, (into, 0), 7)
    return f'{group}{hit}<path class="ui-skip-line" d="{way}"/>{head}{_text(placed.label)}</g>'


def _arrow(kind: str, points: Iterable[Point]) -> str:
    """Return an arrow through points: its line ends inside its head."""
    *way, before, end = points
    length = abs(end[0] - before[0]) + abs(end[1] - before[1])
    unit = (end[0] - before[0]) / length, (end[1] - before[1]) / length
    size = 9 if kind == "flow" else 7
    inside = end[0] - unit[0] * size / 2, end[1] - unit[1] * size / 2
    line = "L".join(map(_at, (*way, before, inside)))
    return f'<path class="ui-{kind}-line" d="M{line}"/>{_head(f"ui-{kind}-head", end, unit, size)}'


def _head(style: str, tip: Point, unit: Point, size: float) -> str:
    """Return an arrowhead that points along `unit`, a vector of length 1."""
    back = tip[0] - unit[0] * size, tip[1] - unit[1] * size
    half = size * 0.42
    corners = [tip, (back[0] - unit[1] * half, back[1] + unit[0] * half), (back[0] + unit[1] * half, back[1] - unit[0] * half)]
    return f'<path class="{style}" d="M{"L".join(map(_at, corners))}Z"/>'


def _badge(badge: Badge) -> str:
    return f'<g class="ui-badge-{badge.kind}"><rect class="ui-badge" {_place(badge.rect)} rx="7.5"/>{_text(badge.text)}</g>'


def _group(classes: str, data: str, label: str, *, interactive: bool) -> str:
    """Open a group that can be focused and has a name, or one that has a tooltip."""
    if interactive:
        return f'<g class="{classes}" {data} tabindex="0" role="button" aria-label={quoteattr(label)}>'
    return f'<g class="{classes}" {data}><title>{escape(label)}</title>'


def _text(text: Text) -> str:
    classes = [f"ui-{text.style}", *(["ui-bold"] if text.bold else []), *([f"ui-{text.anchor}"] if text.anchor != "start" else [])]
    at = f'x="{_number(text.x)}" y="{_number(text.y)}" font-size="{_number(text.size)}"'
    return f'<text class="{" ".join(classes)}" {at}>{escape(text.content)}</text>'


def _place(rect: Rect) -> str:
    return f'x="{_number(rect.x)}" y="{_number(rect.y)}" width="{_number(rect.width)}" height="{_number(rect.height)}"'


def _at(point: Point) -> str:
    return f"{_number(point[0])} {_number(point[1])}"


def _number(value: float) -> str:
    """Write a coordinate to a hundredth, the same on every machine; never "-0".

    >>> _number(12.0), _number(0.125), _number(-0.001)
    ('12', '0.12', '0')
    """
    return f"{round(value, 2) + 0:.2f}".rstrip("0").rstrip(".")
