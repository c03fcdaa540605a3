"""The picture of a U: everything apart, inside, at the right rows; all of the record's numbers as text; readable by everybody."""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import combinations, pairwise
from math import dist, log2
from xml.etree import ElementTree as ET

import pytest
import resvg_py
from msgspec.structs import replace

from tests.drawn import DRAWN, EVIL, KNOWN, LAID_OUT, LEVELS, outlined
from tests.tiny import condition, traced, traced_once
from unetinspect import Trace
from unetinspect.drawing.outline import Layout, Level, outline_of
from unetinspect.drawing.place import place
from unetinspect.drawing.place.boxes import is_scaled
from unetinspect.drawing.png import png
from unetinspect.drawing.scene import PlacedBox, PlacedSkip, Point, Rect, Row, Scene, Text
from unetinspect.drawing.svg import COLORS, style_sheet, svg
from unetinspect.drawing.text_width import TIMES, shortened, text_width, wrapped

NS = "{http://www.w3.org/2000/svg}"


@cache
def placed(name: str, level: Level, layout: Layout = "tall") -> Scene:
    """Place the picture of a record once."""
    return place(outlined(name), level=level, layout=layout)


def loose(scene: Scene) -> list[Text]:
    """Return the texts outside boxes and borders."""
    return [*scene.texts, *(text for flow in scene.flows for text in flow.texts), *(skip.label for skip in scene.skips)]


def texts_of(scene: Scene) -> list[Text]:
    """Return every text of a picture, in no order."""
    within: list[PlacedBox | Row] = [*scene.boxes, *(row for one in scene.boxes for row in one.rows)]
    badges = [*scene.legend_badges, *scene.given, *(badge for one in within for badge in one.badges)]
    return [*loose(scene), *(text for one in within for text in one.texts), *(badge.text for badge in badges)]


def overlaps(one: Rect, other: Rect) -> bool:
    """Return whether two rectangles share more than an edge."""
    apart = one.right <= other.x + 0.01 or other.right <= one.x + 0.01
    return not (apart or one.bottom <= other.y + 0.01 or other.bottom <= one.y + 0.01)


def holds(outer: Rect, inner: Rect) -> bool:
    """Return whether a rectangle is inside another."""
    across = outer.x - 0.01 <= inner.x and inner.right <= outer.right + 0.01
    return across and outer.y - 0.01 <= inner.y and inner.bottom <= outer.bottom + 0.01


def along(start: Point, end: Point) -> list[Point]:
    """Return points on a straight line, a unit apart at most."""
    steps = int(max(abs(end[0] - start[0]), abs(end[1] - start[1]))) + 1
    return [(start[0] + (end[0] - start[0]) * step / steps, start[1] + (end[1] - start[1]) * step / steps) for step in range(steps + 1)]


def way(skip: PlacedSkip) -> list[Point]:
    """Return points along a curve, a few units apart at most; those of the bend by Bernstein's polynomials."""
    knots = (skip.bend_start, *skip.controls, skip.bend_end)
    bend = []
    for at in (step / 63 for step in range(64)):
        weights = ((1 - at) ** 3, 3 * at * (1 - at) ** 2, 3 * at**2 * (1 - at), at**3)
        x, y = (sum(weight * knot[axis] for weight, knot in zip(weights, knots, strict=True)) for axis in (0, 1))
        bend.append((x, y))
    return [*along(skip.start, skip.bend_start), *bend, *along(skip.bend_end, skip.end)]


def overlapping(rects: list[tuple[str, Rect]]) -> Iterator[str]:
    """Name the rectangles that overlap."""
    ordered = sorted(rects, key=lambda one: one[1].y)
    for place_in, (name, rect) in enumerate(ordered):
        for other_name, other in ordered[place_in + 1 :]:
            if other.y >= rect.bottom:
                break
            if overlaps(rect, other):
                yield f"{name} overlaps {other_name}"


def things_apart(scene: Scene) -> Iterator[str]:
    """Boxes, inputs, samples of the legend and loose texts share no place."""
    rects = [(one.box.name, one.rect) for one in scene.boxes]
    rects += [(badge.text.content, badge.rect) for badge in (*scene.given, *scene.legend_badges)]
    rects += [(f"legend {kind}", Rect(start[0], start[1] - 3, end[0] - start[0], 6)) for kind, start, end in scene.legend]
    yield from overlapping([*rects, *((text.content, text.rect) for text in loose(scene))])


def things_inside(scene: Scene) -> Iterator[str]:
    """Everything is inside the page, and what belongs into a border inside it."""
    page = Rect(0, 0, scene.width, scene.height)
    rects = [*(one.rect for one in scene.boxes), *(text.rect for text in loose(scene)), *(given.rect for given in scene.given)]
    points = [point for skip in scene.skips for point in way(skip)] + [point for flow in scene.flows for point in flow.points]
    points += [point for corners in scene.contexts for point in corners]
    yield from (f"{rect} is outside" for rect in (*rects, *(Rect(*point, 0, 0) for point in points)) if not holds(page, rect))
    badges = [badge for one in scene.boxes for badge in (*one.badges, *(badge for row in one.rows for badge in row.badges))]
    bordered = (*badges, *scene.legend_badges, *scene.given)
    yield from (f"{badge.text} leaves its border" for badge in bordered if not holds(badge.rect, badge.text.rect))


def boxes_filled(scene: Scene) -> Iterator[str]:
    """In a box, texts, badges and rows are inside and apart, and so are those of a row."""
    for one in scene.boxes:
        places: list[PlacedBox | Row] = [one, *one.rows]
        for within in places:
            parts = [(text.content, text.rect) for text in within.texts] + [(badge.text.content, badge.rect) for badge in within.badges]
            parts += [("row", row.rect) for row in one.rows] if within is one else []
            yield from (f"{name} leaves {one.box.name} or its row" for name, rect in parts if not holds(within.rect, rect))
            yield from overlapping(parts)


def curves_clear(scene: Scene) -> Iterator[str]:
    """Curves and arrows run through no box and over no text; no two curves cross; a curve bends on its way across."""
    solid = [(one.box.name, one.rect) for one in scene.boxes] + [(text.content, text.rect) for text in loose(scene)]
    ways = [(f"skip {skip.skip.order}", way(skip)) for skip in scene.skips]
    ways += [(f"arrow {start}", along(start, end)) for flow in scene.flows for start, end in pairwise(flow.points)]
    ways += [(f"context {start}", along(start, end)) for corners in scene.contexts for start, end in pairwise(corners)]
    for name, points in ways:
        xs, ys = [point[0] for point in points], [point[1] for point in points]
        bounds = Rect(min(xs), min(ys), max(xs) - min(xs) + 0.1, max(ys) - min(ys) + 0.1)
        for other, rect in solid:
            inside = Rect(rect.x + 0.05, rect.y + 0.05, rect.width - 0.1, rect.height - 0.1)
            if overlaps(rect, bounds) and any(inside.x < x < inside.right and inside.y < y < inside.bottom for x, y in points):
                yield f"{name} runs through {other}"
    for one, other_skip in combinations(scene.skips, 2):
        if one.skip.index != other_skip.skip.index and (one.start[1] - other_skip.start[1]) * (one.end[1] - other_skip.end[1]) <= 0:
            yield f"skip {one.skip.order} crosses skip {other_skip.skip.order}"
    for skip in scene.skips:
        if not skip.start[0] < skip.bend_start[0] < skip.bend_end[0] < skip.end[0]:
            yield f"skip {skip.skip.order} does not bend on its way across"


def ends_right(scene: Scene) -> Iterator[str]:
    """Skips leave the right edge of their source's box and enter the left edge of their target's, at the rows that say so.

    The later a skip is consumed, the higher it enters: an up path is read upwards.
    """
    for one, other in pairwise(scene.skips):
        if one.skip.target_stage == other.skip.target_stage and one.end[1] <= other.end[1]:
            yield f"skip {other.skip.order} enters below skip {one.skip.order}"
    for skip in scene.skips:
        for module, end, right in ((skip.skip.source, skip.start, True), (skip.skip.target, skip.end, False)):
            stage = skip.skip.source_stage if right else skip.skip.target_stage
            box = next(one for one in scene.boxes if any(inner.name == stage for inner in one.box.stages))
            if abs(end[0] - (box.rect.right if right else box.rect.x)) > 0.01 or not box.rect.y < end[1] < box.rect.bottom:
                yield f"skip {skip.skip.order} ends at {end}, not at an edge of {box.box.name}"
            rows = [row for row in box.rows if row.rect.y < end[1] < row.rect.bottom]
            if box.rows and not rows:
                yield f"skip {skip.skip.order} ends at no row of {box.box.name}"
            yield from (f"skip {skip.skip.order} ends at another layer" for row in rows if row.layers and not shows(row, module))
            sums = f"{skip.skip.hidden_channels} + {skip.skip.skip_channels} → {skip.skip.out_channels}"
            near = [text for row in rows for text in row.texts if text.rect.y < end[1] < text.rect.bottom]
            if not right and sums not in [text.content for text in near]:
                yield f"skip {skip.skip.order} does not end at {sums}"


def shows(row: Row, module: str) -> bool:
    """Return whether a row shows the layer that a module is, or is in."""
    return any(module == layer.module.path or module.startswith(f"{layer.module.path}.") for layer in row.layers)


def sizes_follow(scene: Scene) -> Iterator[str]:
    """A block's height is a line in the logarithm of its resolution alone, its width one in that of its channels alone."""
    blocks = [one for one in scene.boxes if is_scaled(one.box)]
    assert {one.box.stages[0].role for one in blocks} <= {"down", "mid", "up"}
    measures: list[tuple[str, Callable[[PlacedBox], float], Callable[[PlacedBox], float]]] = [
        ("height", lambda one: one.rect.height, lambda one: log2(one.box.cells or 1) / 2),
        ("width", lambda one: one.rect.width, lambda one: log2(one.box.channels or 1)),
    ]
    for name, length, scale in measures:
        points = sorted({(round(scale(one), 6), round(length(one), 3)) for one in blocks})
        if len({at for at, _ in points}) < len(points):
            yield f"{name} depends on something else: {points}"
        slopes = [(second[1] - first[1]) / (second[0] - first[0]) for first, second in pairwise(points) if second[0] > first[0]]
        yield from (f"{name} does not grow evenly: {points}" for slope in slopes if slope <= 0 or abs(slope - slopes[0]) > 0.01)
        if points and points[-1][1] - points[0][1] > 90:
            yield f"{name} is spread too far: {points}"


def a_u(scene: Scene) -> Iterator[str]:
    """In execution order, boxes go down on the left, are below both columns at the bottom, and go up on the right."""
    rects = {side: [one.rect for one in scene.boxes if one.box.side == side] for side in ("left", "bottom", "right")}
    rising = [one.rect for one in scene.boxes if one.box.side == "right" and one.box.after is not None]
    for side, ways in (("left", rects["left"]), ("bottom", rects["bottom"]), ("right", rising[::-1])):
        yield from (f"{below} on the {side} is not below {above}" for above, below in pairwise(ways) if above.bottom >= below.y)
    for side in ("left", "right"):
        yield from (f"{one} reaches below the {side}" for one in rects[side] if any(one.bottom >= low.y for low in rects["bottom"]))
    yield from (f"{one} is not left of {other}" for one in rects["left"] for other in rects["right"] if one.right >= other.x)


def joined(scene: Scene) -> list[tuple[str | None, ...]]:
    """Return the boxes on whose edges each arrow of the hidden states begins and ends."""

    def at(point: Point) -> str | None:
        return next((one.box.name for one in scene.boxes if on_edge(one.rect, point)), None)

    return [(at(flow.points[0]), at(flow.points[-1])) for flow in scene.flows]


def arrows_join(scene: Scene) -> Iterator[str]:
    """Each box has one arrow from the box before it, where there is one, and the first from the input; the output may have one."""
    chain = [one.box for one in scene.boxes if one.box.side != "top"]
    expected = [(None, chain[0].name), *((box.after.name, box.name) for box in chain if box.after is not None)]
    if joined(scene) not in (expected, [*expected, (chain[-1].name, None)]):
        yield f"arrows are {joined(scene)}"


def on_edge(rect: Rect, point: Point) -> bool:
    """Return whether a point is on a rectangle's border."""
    x, y = point
    inside = rect.x - 0.01 <= x <= rect.right + 0.01 and rect.y - 0.01 <= y <= rect.bottom + 0.01
    return inside and min(abs(x - rect.x), abs(x - rect.right), abs(y - rect.y), abs(y - rect.bottom)) < 0.01


def conditions_join(scene: Scene) -> Iterator[str]:
    """From `encoder_hidden_states` an arrow leads into every attention layer of the U that takes it, and nowhere else."""
    chips = [given.rect for given in scene.given if given.text.content.startswith("encoder_hid")]
    boxes = [one for one in scene.boxes if one.box.side != "top"]
    marked = {one.box.name for one in boxes if chips and any(mark.kind in ("cross", "joint") for mark in one.box.marks)}
    into = [[one.box.name for one in boxes if on_edge(one.rect, corners[-1])] for corners in scene.contexts]
    if {name for names in into for name in names} != marked:
        yield f"arrows lead into {into}, not {marked}"
    trunk = [point for corners in scene.contexts[:1] for start, end in pairwise(corners) for point in along(start, end)]
    for corners in scene.contexts:
        if not any(on_edge(chip, corners[0]) for chip in chips) and not any(dist(corners[0], point) < 1 for point in trunk):
            yield f"{corners} begins nowhere"


LAWS = (things_apart, things_inside, boxes_filled, curves_clear, ends_right, sizes_follow, a_u, arrows_join, conditions_join)


def broken_laws(scene: Scene, layout: Layout = "tall") -> list[tuple[str, str]]:
    """Return what breaks a law; only in a tall picture do sizes follow from the resolution."""
    return [(law.__name__, found) for law in LAWS if layout == "tall" or law is not sizes_follow for found in law(scene)]


# The width of the page, in points: a slide of 13.33 inches, a column of 3.3.
POINTS: dict[Layout, float] = {"wide": 960, "compact": 237.6}
_KNOWN_LAID_OUT = [(name, "stage", layout) for name in (*KNOWN, "controlnet-sd15-canny") for layout in POINTS]


@pytest.mark.parametrize(("name", "level", "layout"), dict.fromkeys([*LAID_OUT, *_KNOWN_LAID_OUT]))
def test_everything_has_its_place(name: str, level: Level, layout: Layout) -> None:
    """Every law holds: nothing overlaps, nothing leaves its border, skips end where they belong, sizes mean something.

    The output has an arrow, or several are counted in words. A known picture fits a page. On a slide and in a column, skips are
    level, the type of all but two is 6 points or more by stage, and a column of one with four levels is 8 inches high at most.
    """
    scene, outputs = placed(name, level, layout), len(outlined(name).trace.outputs)
    assert broken_laws(scene, layout) == []
    assert sum(target is None for _, target in joined(scene)) == (outputs == 1)
    assert (f"returns {outputs} tensors" in [text.content for text in scene.texts]) == (outputs > 1)
    if layout == "tall":
        assert 1000 <= scene.width <= {"stage": 1100, "layer": 1300}[level] or name not in KNOWN
        return
    assert [skip.skip.order for skip in scene.skips if abs(skip.start[1] - skip.end[1]) > 0.01] == []
    assert layout == "compact" or scene.width / scene.height == pytest.approx(16 / 9)
    smallest = min(text.size for text in texts_of(scene)) * POINTS[layout] / scene.width
    assert smallest >= 6 or level == "layer" or (name, layout) in (("maestro-150k", "wide"), ("UNetControlNetXSModel", "compact"))
    if (level, layout) == ("stage", "compact") and name in ("sd15", "sdxl", "kandinsky-3", "controlnet-sd15-canny"):
        assert scene.height * POINTS[layout] / scene.width <= 8 * 72


@pytest.mark.parametrize(
    ("law", "move"),
    [
        (things_apart, Rect(0, 40, 0, 0)),
        (things_inside, Rect(-90, 0, 0, 0)),
        (boxes_filled, Rect(0, 0, 0, -40)),
        (curves_clear, Rect(60, 0, 0, 0)),
        (ends_right, Rect(0, 0, 1, 0)),
        (sizes_follow, Rect(0, 0, 1, 0)),
        (a_u, Rect(600, 0, 0, 0)),
        (arrows_join, Rect(0, 5, 0, 0)),
        (conditions_join, Rect(5, 0, 0, 0)),
    ],
)
def test_each_law_can_be_broken(law: Callable[[Scene], Iterator[str]], move: Rect) -> None:
    """A box that is moved or resized breaks the law."""

    def moved(one: PlacedBox) -> PlacedBox:
        rect = Rect(one.rect.x + move.x, one.rect.y + move.y, one.rect.width + move.width, one.rect.height + move.height)
        return replace(one, rect=rect) if one.box.name == "down_blocks.1" else one

    scene = placed("sd15", "stage")
    assert list(law(replace(scene, boxes=tuple(map(moved, scene.boxes)))))


def test_what_a_compact_picture_leaves_out_and_what_is_asked_for() -> None:
    """It has no batch, costs, legend and caption; a title replaces that of any picture, and an empty one leaves no room."""
    outline = outlined("sd15")
    written = [text.content for text in texts_of(placed("sd15", "stage", "compact"))]
    shapes = {shape for box in outline.chain for shape in (box.in_shape, box.out_shape) if shape is not None}
    assert all(str(shape[1:]) in " ".join(written) and str(shape) not in " ".join(written) for shape in shapes)
    assert not [text for text in written if re.search("params|MACs|batch|Block2D|hidden states", text)]
    assert {"attentions.0", "1280 + 640 → 1280", f"3 cross 256{TIMES}77", "encoder_hidden_states (77, 768)"} <= {*written}
    assert "(6,) → (6, 256)" in [text.content for text in texts_of(placed("sdxl", "stage", "compact"))]  # 6 numbers a sample, of 12

    named, bare = (place(outline_of(outline.trace, title=title), level="stage", legend=False) for title in ("Figure 1", ""))
    whole = placed("sd15", "stage")
    assert [text.content for text in named.texts if text.style == "title"] == ["Figure 1"]
    assert bare.given[0].rect.y < named.given[0].rect.y
    assert bare.height <= named.height < whole.height
    assert [len(scene.legend) for scene in (bare, named, whole)] == [0, 0, 3]


def test_many_layers_that_are_alike_share_a_row_and_blocks_that_do_not_vary_a_size() -> None:
    """Stable Cascade's 24 times three layers are three rows of 24; of one resolution, all its blocks have one size."""
    boxes = {one.box.name: one for one in placed("stable-cascade-prior", "layer").boxes}
    assert [len(row.layers) for row in boxes["down_blocks.1"].rows] == [24, 24, 24]
    assert len({(one.rect.width, one.rect.height) for one in placed("stable-cascade-prior", "stage").boxes if is_scaled(one.box)}) == 1


@pytest.mark.parametrize("level", LEVELS)
def test_six_levels_that_are_deep_and_what_changes_a_skip(level: Level) -> None:
    """Long lists of layers keep every law; FreeU's filter, and what a ControlNet adds, are beside the channels of a skip."""
    config = condition(
        block_out_channels=[8, 16, 16, 24, 32, 40],
        layers_per_block=4,
        sample_size=64,
        down_block_types=["CrossAttnDownBlock2D"] * 5 + ["DownBlock2D"],
        up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 5,
    )
    deep = place(outline_of(traced_once(config)), level=level)
    assert len(deep.skips) == 6 * 5
    assert broken_laws(deep) == []

    record = traced_once(condition(), freeu=(1.1, 1.2, 0.9, 0.2))
    scene = place(outline_of(record), level=level)
    filtered = {skip.order for skip in record.skips if any(change.kind == "filter" for change in skip.changes)}
    assert {skip.skip.order for skip in scene.skips if skip.label.content.endswith(" (filter)")} == filtered
    assert broken_laws(scene) == []

    record = traced_once(condition(), plug_in=DRAWN["ControlNetModel"])
    scene = place(outline_of(record), level=level)
    assert [skip.label.content for skip in scene.skips] == [f"{skip.skip_channels} (sum)" for skip in record.skips]
    residuals = [given for given in record.run.inputs if given.name.startswith("down_block_additional_residuals.")]
    assert f"down_block_additional_residuals.0-{len(residuals) - 1}: {len(residuals)} tensors" in [one.text.content for one in scene.given]
    assert broken_laws(scene) == []


def test_skips_that_no_class_has_today_have_curves() -> None:
    """One that is consumed on the down path leaves and enters by the corridor's side; two of one layer enter it one above the other."""
    trace = traced("sd15")
    odd = replace(trace.skips[-1], target_stage="down_blocks.2", target="down_blocks.2.resnets.1")
    scene = place(outline_of(replace(trace, skips=(*trace.skips[:-1], odd))), level="stage")
    box = next(one for one in scene.boxes if one.box.name == "down_blocks.2").rect
    assert scene.skips[-1].end[0] == box.right
    assert box.y < scene.skips[-1].end[1] < box.bottom

    both = replace(trace.skips[1], target=trace.skips[0].target)
    assert broken_laws(place(outline_of(replace(trace, skips=(trace.skips[0], both, *trace.skips[2:]))), level="layer")) == []


@pytest.mark.parametrize("text", ["", "down_blocks.0", "WWWW", "日本語のモデル", "🙂" * 9, "é" * 40])
def test_a_shortened_text_fits(text: str) -> None:
    """A text that fits stays whole; one that does not is cut in the middle, and then it fits or is an ellipsis alone."""
    for room in (5.0, 40.0, 400.0):
        short = shortened(text, room, 10)
        assert (short == text) == (text_width(text, 10) <= room)
        assert text_width(short, 10) <= room or short == "…"
        assert all(text_width(line, 10) <= room or line == "…" for line in wrapped(f"{text} {text}", room, 10))


def groups(root: ET.Element, style: str) -> list[ET.Element]:
    """Return the groups of a class."""
    return [one for one in root.iter(f"{NS}g") if style in one.get("class", "").split()]


def texts(element: ET.Element) -> list[str]:
    """Return what is written in an element, without tooltips."""
    return ["".join(one.itertext()) for one in element.iter(f"{NS}text")]


@pytest.mark.parametrize(("name", "level"), [(name, LEVELS[place % 2]) for place, name in enumerate(DRAWN)] + [("sd15", "layer")])
def test_every_number_of_the_record_is_written(name: str, level: Level) -> None:
    """Boxes with name, class and shapes; sums and curves of skips; attention layers with their maps; with layers, a group for each."""
    outline, root = outlined(name), ET.fromstring(svg(outlined(name), level=level))
    trace, boxes, everything = outline.trace, groups(root, "ui-stage"), "\n".join(texts(root))
    sums: Counter[tuple[object, ...]] = Counter()
    marks: Counter[tuple[object, ...]] = Counter()

    assert [one.get("data-box") for one in boxes] == [box.name for box in outline.boxes]
    assert [stage for one in boxes for stage in one.get("data-stages", "").split(",")] == [stage.name for stage in trace.stages]
    for group, box in zip(boxes, outline.boxes, strict=True):
        assert f"ui-{box.stages[0].role}" in group.get("class", "").split()
        assert [box.name, box.class_name] == texts(group)[:2]
        assert all(shape is None or str(shape) in everything for shape in (box.in_shape, box.out_shape))
        for text in texts(group):
            if re.fullmatch(r"\d+ \+ \d+ → \d+", text):
                sums[(box.name, *map(int, re.findall(r"\d+", text)))] += 1
            if found := re.fullmatch(rf"(?:(\d+) )?(self|cross|joint|temporal|pooling) (\d+){TIMES}(\d+)", text):
                marks[box.name, found[2], int(found[3]), int(found[4])] += int(found[1] or 1)
        layers = groups(group, "ui-layer")
        paths = [path for one in layers for path in (one.get("data-paths") or one.get("data-path") or "").split(",")]
        assert sorted(paths) == (sorted(layer.module.path for layer in box.layers) if level == "layer" else [])
    assert sums == Counter(
        (outline.box_of(skip.target_stage).name, skip.hidden_channels, skip.concat_channels - skip.hidden_channels, skip.out_channels)
        for skip in trace.skips
    )
    # An attention layer that ran twice is one.
    ran = {(outline.box_of(one.stage).name, one.kind, *one.map_shape[1:], one.path) for one in trace.attentions}
    assert marks == Counter(layer[:4] for layer in ran)
    curves = [(one.get("data-skip"), one.get("data-source"), one.get("data-target"), texts(one)[0]) for one in groups(root, "ui-skip")]
    assert curves == [(name, skip.source, skip.target, str(skip.shape[1])) for name, skip in zip(numbered(trace), trace.skips, strict=True)]
    assert str(trace.output.shape) in everything or len(trace.outputs) > 1


def numbered(trace: Trace) -> list[str]:
    """Return the number of each skip, its `index`, and which use of it this is from the second on."""
    uses = [[one.index for one in trace.skips[:place]].count(skip.index) for place, skip in enumerate(trace.skips)]
    return [f"{skip.index} (use {use + 1})" if use else str(skip.index) for skip, use in zip(trace.skips, uses, strict=True)]


def test_title_caption_inputs_and_labels_are_written() -> None:
    """The title, the totals and each input with its shape; as an image it has a name, and each box, layer and skip one tooltip."""
    outline = outlined("sdxl")
    root = ET.fromstring(svg(outline, level="layer"))
    written = "\n".join(texts(root))
    macs, params = outline.trace.totals.macs, outline.trace.totals.params
    labels = [one.findtext(f"{NS}title", "") for style in ("ui-stage", "ui-layer", "ui-skip") for one in groups(root, style)]
    skip = outline.trace.skips[0]

    assert outline.title in written
    assert f"{(macs or 0) / 1e12:.3f} TMACs; peak activations" in written
    assert f"{params / 1e9:.3f} B params" in written
    assert all(f"{given.name} {given.shape}" in written for given in outline.trace.run.inputs if given.shape is not None)
    assert (root.get("role"), root.findtext(f"{NS}title")) == ("img", outline.title)
    assert f"{len(outline.trace.skips)} skips" in root.findtext(f"{NS}desc", "")
    assert all(labels)
    assert any(f"skip {skip.index}: {skip.source} {skip.shape} → {skip.target}" in one for one in labels)
    assert not [one for one in root.iter() if one.get("tabindex")]


@pytest.mark.parametrize("interactive", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_a_picture_is_one_document_of_the_same_bytes(level: Level, interactive: bool) -> None:
    """Drawn again from a saved record it is the same; nothing comes from elsewhere; colors and ids clash with no page around it."""
    record = traced("conditioned")
    text = svg(outline_of(record), level=level, interactive=interactive)
    head, body = text.split("</style>")
    root = ET.fromstring(text)
    ids = [one.get("id", "") for one in root.iter() if one.get("id")]

    assert text == svg(outline_of(Trace.from_json(record.to_json())), level=level, interactive=interactive)
    assert re.findall(r"https?://[^\"]*", text) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"<(script|image|foreignObject|use|a)\b|@import|@font-face|url\(|javascript:|\son\w+=", text)
    assert not re.search(r"#[0-9a-f]{3,6}\b|rgb\(|style=|fill=|stroke=", body)
    assert root.get("aria-labelledby", "").split() == ids
    assert all(one.startswith("ui-") for one in (*ids, *re.findall(r"[\w-]+", " ".join(re.findall(r'class="([^"]*)"', text)))))
    assert not set(ids) & set(re.findall(r'id="([^"]*)"', svg(outline_of(record), level=level, interactive=not interactive)))
    rules = re.findall(r"^([^{}@\n]+)\{", head.split("<style>")[1], flags=re.MULTILINE)
    assert rules
    assert all(rule.startswith(".ui-svg ") for rule in rules)


def test_for_a_page_each_thing_can_be_focused() -> None:
    """Interactive, each box, layer and skip is a button with a name and without a tooltip, and skips are wide to hit."""
    root = ET.fromstring(svg(outlined("sd15"), level="layer", interactive=True))
    things = [one for style in ("ui-stage", "ui-layer", "ui-skip") for one in groups(root, style)]
    assert things
    assert all(one.get("tabindex") == "0" and one.get("role") == "button" and one.get("aria-label") for one in things)
    assert len(list(root.iter(f"{NS}title"))) == 1
    assert all(next(one.iter(f"{NS}path")).get("class") == "ui-hit" for one in groups(root, "ui-skip"))


def evil(record: Trace) -> Trace:
    """Return a record with a model, classes and inputs of the worst name, half a surrogate pair included."""
    name = EVIL + "\ud800"
    stages = tuple(replace(stage, class_name=name) if stage.role != "in" else stage for stage in record.stages)
    modules = tuple(replace(module, class_name=name) for module in record.modules)
    run = replace(record.run, inputs=tuple(replace(given, name=name) for given in record.run.inputs))
    return replace(record, model=replace(record.model, name=name), stages=stages, modules=modules, run=run, outputs=())


def old(record: Trace) -> Trace:
    """Return a record as an earlier version made it: without steps, tensors and costs."""
    modules = tuple(replace(one, step=None, tensors={}, macs=None, macs_by_kind=None) for one in record.modules)
    stages = tuple(replace(one, macs=None, macs_by_kind=None, flops=None, activation_bytes=None) for one in record.stages)
    totals = replace(record.totals, macs=None, macs_by_kind=None, flops=None, peak_activation_bytes=None)
    return replace(record, modules=modules, stages=stages, totals=totals, outputs=(), ports=())


@pytest.mark.parametrize("level", LEVELS)
def test_evil_names_and_old_records_are_drawn(level: Level) -> None:
    """The XML of evil names is valid, and their whole is in it; an old record has the same skips and layers and no costs; all laws hold."""
    record = traced("conditioned")
    outline = outline_of(evil(record))
    for interactive in (False, True):
        text = svg(outline, level=level, interactive=interactive)
        root = ET.fromstring(text.encode().decode())
        assert not list(root.iter("script"))
        assert "\x1b" not in text
        assert "long-" * 60 in root.findtext(f"{NS}title", "")
    assert broken_laws(place(outline, level=level)) == []

    outline = outline_of(old(record))
    root, full = (ET.fromstring(svg(one, level=level)) for one in (outline, outline_of(record)))
    assert "MACs" not in "".join(texts(root))
    assert [len(groups(root, style)) for style in ("ui-skip", "ui-layer")] == [
        len(groups(full, style)) for style in ("ui-skip", "ui-layer")
    ]
    assert broken_laws(place(outline, level=level)) == []


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colors, from 1 to 21, as the WCAG defines it."""

    def luminance(color: str) -> float:
        parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_in_light_and_in_dark(dark: bool) -> None:
    """Every color of text has 4.5:1 on every ground that it is on; every line and border 3:1 on the paper."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21 * contrast("#123456", "#123456"))
    of = {(selector, prop): night if dark else day for selector, prop, day, night in COLORS}
    paper = of[".ui-paper", "fill"]
    grounds = [paper, of[".ui-row", "fill"], *(color for (name, what), color in of.items() if "frame" in name and what == "fill")]
    inks = [of[name, "fill"] for name in ("text", ".ui-note", ".ui-shape")]
    assert all(contrast(ink, ground) >= 4.5 for ink in inks for ground in grounds)
    assert contrast(of[".ui-channels", "fill"], paper) >= 4.5
    assert contrast(of[".ui-badge-self text", "fill"], of[".ui-badge-self .ui-badge", "fill"]) >= 4.5
    assert contrast(of["text", "fill"], of[".ui-badge", "fill"]) >= 4.5
    marks = [color for (name, what), color in of.items() if what == "stroke" or name.endswith("-head")]
    assert len(marks) >= 10
    assert all(contrast(mark, paper) >= 3 for mark in marks)


def test_kinds_differ_without_colors() -> None:
    """Each kind of attention has a border or a fill of its own, and its name as text; skips are thinner than the hidden states."""
    sheet = style_sheet(interactive=False)
    kinds = ("self", "joint", "temporal", "pooling")
    lines = {tuple(re.findall(rf"\.ui-badge-{kind} \.ui-badge \{{ ([^}}]*) \}}", sheet)) for kind in kinds}
    assert all(lines)
    assert len(lines) == 4
    widths = {kind: float(re.findall(rf"\.ui-{kind}-line \{{[^}}]*stroke-width: ([\d.]+)", sheet)[0]) for kind in ("flow", "skip")}
    assert widths["flow"] > 1.5 * widths["skip"]


def test_a_png_has_the_size_that_was_asked_for() -> None:
    """One pixel to a unit, or two; the same picture each time."""
    scene, text = placed("conditioned", "stage"), svg(outlined("conditioned"))
    for scale in (1, 2):
        image = png(text, scale=scale)
        width, height = struct.unpack(">II", image[16:24])
        assert image.startswith(b"\x89PNG\r\n\x1a\n")
        assert abs(width - scale * scene.width) <= 1
        assert abs(height - scale * scene.height) <= 1
    assert png(text, scale=1) == png(text, scale=1)


def test_a_png_has_its_text_without_any_font(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without fonts, text is drawn all the same, and what the last font lacks in ASCII."""
    page = '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="20"><text y="15" font-size="12">{}</text></svg>'
    monkeypatch.setattr(resvg_py, "svg_to_bytes", partial(resvg_py.svg_to_bytes, skip_system_fonts=True))
    drawn = {text: png(page.format(text), scale=1) for text in ("", "1 → 2", "1 -&gt; 2", f"3{TIMES}4", "3x4")}
    assert drawn["1 → 2"] == drawn["1 -&gt; 2"] != drawn[""]
    assert drawn[f"3{TIMES}4"] == drawn["3x4"] != drawn[""]
