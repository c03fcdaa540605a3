"""Where everything in a picture of the U stands: apart, inside, at the right rows, as large as resolution and channels say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import combinations, pairwise
from math import log2
from typing import get_args

import pytest
from msgspec.structs import replace

from tests import kinds_other, kinds_plugs, kinds_video
from tests.drawn import DRAWN, KNOWN
from tests.tiny import KINDS, Config, condition, traced_once
from unetinspect.drawing.forms import Level
from unetinspect.drawing.outline import Outline, outline_of
from unetinspect.drawing.place import place
from unetinspect.drawing.scene import PlacedBox, PlacedSkip, Point, Rect, Scene, Text
from unetinspect.drawing.text_width import shortened, text_width, wrapped

ALL: dict[str, str | Config] = {**KINDS, **kinds_video.KINDS, **kinds_plugs.KINDS, **kinds_other.KINDS, **DRAWN}
LEVELS: tuple[Level, ...] = get_args(Level)


@cache
def outlined(name: str) -> Outline:
    """Return the outline of one of `ALL`, or of a bundled model."""
    return outline_of(traced_once(ALL.get(name, name)))


@cache
def placed(name: str, level: Level) -> Scene:
    """Place the picture of one of `ALL` once."""
    return place(outlined(name), level=level)


def loose(scene: Scene) -> list[Text]:
    """Return the texts that stand in no box and in no border."""
    return [*scene.texts, *(text for flow in scene.flows for text in flow.texts), *(skip.label for skip in scene.skips)]


def lines(scene: Scene) -> Iterator[tuple[Point, Point]]:
    """Yield the pieces of the arrows of the hidden states."""
    for flow in scene.flows:
        yield from pairwise(flow.points)


def crosses(points: list[Point], rect: Rect) -> bool:
    """Tell whether a line through points passes through the inside of a rectangle; points that are close stand for what is between."""
    left, right, top, bottom = rect.x + 0.05, rect.right - 0.05, rect.y + 0.05, rect.bottom - 0.05
    return any(left < x < right and top < y < bottom for x, y in points)


def along(start: Point, end: Point) -> list[Point]:
    """Return points on a straight line, a unit apart at most."""
    steps = int(max(abs(end[0] - start[0]), abs(end[1] - start[1]))) + 1
    return [(start[0] + (end[0] - start[0]) * step / steps, start[1] + (end[1] - start[1]) * step / steps) for step in range(steps + 1)]


def way(skip: PlacedSkip) -> list[Point]:
    """Return points along a curve, a few units apart at most."""
    points = skip.points(64)
    return [*along(points[0], points[1]), *points[1:-1], *along(points[-2], points[-1])]


def overlapping(rects: list[tuple[str, Rect]]) -> Iterator[str]:
    """Say which of some rectangles overlap."""
    ordered = sorted(rects, key=lambda one: one[1].y)
    for place_in, (name, rect) in enumerate(ordered):
        for other_name, other in ordered[place_in + 1 :]:
            if other.y >= rect.bottom:
                break
            if rect.overlaps(other):
                yield f"{name} overlaps {other_name}"


def things_apart(scene: Scene) -> Iterator[str]:
    """Boxes, inputs, samples of the legend and loose texts share no place."""
    rects = [(one.box.name, one.rect) for one in scene.boxes]
    rects += [(given.text.content, given.rect) for given in scene.given]
    rects += [(f"legend {badge.kind}", badge.rect) for badge in scene.legend_badges]
    rects += [(f"legend {kind}", Rect(start[0], start[1] - 3, end[0] - start[0], 6)) for kind, start, end in scene.legend]
    yield from overlapping([*rects, *((text.content, text.rect) for text in loose(scene))])


def things_inside(scene: Scene) -> Iterator[str]:
    """Everything stands inside the page, and what belongs into a border inside it."""
    page = Rect(0, 0, scene.width, scene.height)
    rects = [*(one.rect for one in scene.boxes), *(text.rect for text in loose(scene)), *(given.rect for given in scene.given)]
    yield from (f"{rect} is outside" for rect in rects if not page.holds(rect))
    points = [point for skip in scene.skips for point in way(skip)] + [point for line in lines(scene) for point in line]
    yield from (f"{point} is outside" for point in points if not page.holds(Rect(*point, 0, 0)))
    bordered = [(given.rect, given.text.rect) for given in scene.given]
    badges = [badge for one in scene.boxes for badge in (*one.badges, *(badge for row in one.rows for badge in row.badges))]
    bordered += [(badge.rect, badge.text.rect) for badge in (*badges, *scene.legend_badges)]
    yield from (f"{text} leaves its border" for border, text in bordered if not border.holds(text))


def boxes_filled(scene: Scene) -> Iterator[str]:
    """In a box, texts, badges and rows stand inside and apart, and so do those of a row."""
    for one in scene.boxes:
        parts = [*((text.content, text.rect) for text in one.texts), *((badge.text.content, badge.rect) for badge in one.badges)]
        parts += [("row", row.rect) for row in one.rows]
        yield from (f"{name} leaves {one.box.name}" for name, rect in parts if not one.rect.holds(rect))
        yield from overlapping(parts)
        for row in one.rows:
            parts = [*((text.content, text.rect) for text in row.texts), *((badge.text.content, badge.rect) for badge in row.badges)]
            yield from (f"{name} leaves its row" for name, rect in parts if not row.rect.holds(rect))
            yield from overlapping(parts)


def curves_clear(scene: Scene) -> Iterator[str]:
    """Curves and arrows run through no box and over no text; no two curves cross, and none an arrow."""
    solid = [(one.box.name, one.rect) for one in scene.boxes] + [(text.content, text.rect) for text in loose(scene)]
    ways = [(f"skip {skip.skip.order}", way(skip)) for skip in scene.skips]
    ways += [(f"arrow {start}", along(start, end)) for start, end in lines(scene)]
    for name, points in ways:
        xs, ys = [point[0] for point in points], [point[1] for point in points]
        bounds = Rect(min(xs), min(ys), max(xs) - min(xs) + 0.1, max(ys) - min(ys) + 0.1)
        yield from (f"{name} runs through {other}" for other, rect in solid if rect.overlaps(bounds) and crosses(points, rect))
    for one, other in combinations(scene.skips, 2):
        if one.skip.index != other.skip.index and (one.start[1] - other.start[1]) * (one.end[1] - other.end[1]) <= 0:
            yield f"skip {one.skip.order} crosses skip {other.skip.order}"


def ends_right(scene: Scene) -> Iterator[str]:
    """Each skip leaves the right edge of its source's box and enters the left edge of its target's, at the rows that say so."""
    for skip in scene.skips:
        for module, end, right in ((skip.skip.source, skip.start, True), (skip.skip.target, skip.end, False)):
            stage = skip.skip.source_stage if right else skip.skip.target_stage
            one = next(one for one in scene.boxes if any(inner.name == stage for inner in one.box.stages))
            if abs(end[0] - (one.rect.right if right else one.rect.x)) > 0.01 or not one.rect.y < end[1] < one.rect.bottom:
                yield f"skip {skip.skip.order} ends at {end}, not at an edge of {one.box.name}"
            rows = [row for row in one.rows if row.rect.y < end[1] < row.rect.bottom]
            if one.rows and not rows:
                yield f"skip {skip.skip.order} ends at no row of {one.box.name}"
            yield from (f"skip {skip.skip.order} ends at another layer" for row in rows if row.layers and not holds(row, module))
            sums = f"{skip.skip.hidden_channels} + {skip.skip.skip_channels} → {skip.skip.out_channels}"
            near = [text for row in rows for text in row.texts if text.rect.y < end[1] < text.rect.bottom]
            if not right and sums not in [text.content for text in near]:
                yield f"skip {skip.skip.order} does not end at {sums}"


def holds(row: object, module: str) -> bool:
    """Tell whether a row shows the layer that a module is, or is in."""
    paths = [layer.module.path for layer in getattr(row, "layers", ())]
    return any(module == path or module.startswith(f"{path}.") for path in paths)


def sizes_follow(scene: Scene) -> Iterator[str]:
    """A block's height is a line in the logarithm of its resolution alone, its width one in that of its channels alone."""
    blocks = [one for one in scene.boxes if one.scaled]
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
    """In execution order, boxes go down on the left, stand below both columns at the bottom, and go up on the right."""
    rects = {side: [one.rect for one in scene.boxes if one.box.side == side] for side in ("left", "bottom", "right")}
    rising = [one.rect for one in scene.boxes if one.box.side == "right" and one.box.after is not None]
    for side, ways in (("left", rects["left"]), ("bottom", rects["bottom"]), ("right", rising[::-1])):
        yield from (f"{below} on the {side} is not below {above}" for above, below in pairwise(ways) if above.bottom >= below.y)
    for side in ("left", "right"):
        yield from (f"{one} reaches below the {side}" for one in rects[side] if any(one.bottom >= low.y for low in rects["bottom"]))
    yield from (f"{one} is not left of {other}" for one in rects["left"] for other in rects["right"] if one.right >= other.x)


def arrows_join(scene: Scene) -> Iterator[str]:
    """Each box has one arrow from the box before it, where there is one, and the first from the input; arrows end on edges."""
    chain = [one.box for one in scene.boxes if one.box.side != "top"]
    expected = [(None, chain[0].name), *((box.after, box.name) for box in chain if box.after is not None)]
    inside = [flow for flow in scene.flows if flow.target is not None]
    if [(flow.source, flow.target) for flow in inside] != expected or len(scene.flows) > len(inside) + 1:
        yield f"arrows are {[(flow.source, flow.target) for flow in scene.flows]}"
    yield from (
        f"an arrow leaves {flow.source}, not the last box" for flow in scene.flows if not flow.target and flow.source != chain[-1].name
    )
    for flow in scene.flows:
        ends = ((flow.source, flow.points[0]), (flow.target, flow.points[-1]))
        yield from (f"an arrow misses {box}" for box, point in ends if box is not None and not on_edge(scene.placed(box).rect, point))


def on_edge(rect: Rect, point: Point) -> bool:
    """Tell whether a point lies on a rectangle's border."""
    x, y = point
    inside = rect.x - 0.01 <= x <= rect.right + 0.01 and rect.y - 0.01 <= y <= rect.bottom + 0.01
    return inside and min(abs(x - rect.x), abs(x - rect.right), abs(y - rect.y), abs(y - rect.bottom)) < 0.01


LAWS = (things_apart, things_inside, boxes_filled, curves_clear, ends_right, sizes_follow, a_u, arrows_join)


@pytest.mark.parametrize("name", DRAWN)
def test_everything_has_its_place(name: str) -> None:
    """At both levels, every law holds: nothing overlaps, nothing leaves its border, skips end where they belong, sizes mean something."""
    for level in LEVELS:
        assert [(law.__name__, said) for law in LAWS for said in law(placed(name, level))] == []


def broken(scene: Scene, change: Callable[[PlacedBox], PlacedBox], name: str) -> Scene:
    """Return a scene with one box changed."""
    return replace(scene, boxes=tuple(change(one) if one.box.name == name else one for one in scene.boxes))


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
    ],
)
def test_each_law_can_be_broken(law: Callable[[Scene], Iterator[str]], move: Rect) -> None:
    """A box that is moved or resized breaks the law: each of them sees something."""

    def change(one: PlacedBox) -> PlacedBox:
        rect = one.rect
        return replace(one, rect=Rect(rect.x + move.x, rect.y + move.y, rect.width + move.width, rect.height + move.height))

    scene = placed("sd15", "stage")
    assert not list(law(scene))
    assert list(law(broken(scene, change, "down_blocks.1")))


@pytest.mark.parametrize("name", ["sd15", "controlnet", "t2i-adapter"])
def test_the_output_leaves_the_last_box_or_is_said(name: str) -> None:
    """One tensor that is returned has an arrow out of the last box; several are counted in words."""
    scene, outputs = placed(name, "stage"), len(outlined(name).trace.outputs)
    assert sum(flow.target is None for flow in scene.flows) == (outputs == 1)
    assert (f"returns {outputs} tensors" in [text.content for text in scene.texts]) == (outputs > 1)


@pytest.mark.parametrize("name", ["sd15", "sdxl", "svd-xt", "kandinsky-3", "plain-one-block"])
def test_a_page_is_no_wider_than_a_page(name: str) -> None:
    """Whatever the names, a picture of stages fits a page: 1000 to 1100 units; with layers, to 1300."""
    assert 1000 <= placed(name, "stage").width <= 1100
    assert 1000 <= placed(name, "layer").width <= 1300


def test_blocks_that_do_not_vary_are_alike() -> None:
    """Of one resolution and one number of channels, all blocks have one size: Stable Cascade's prior."""
    scene = placed("stable-cascade-prior", "stage")
    assert len({(one.rect.width, one.rect.height) for one in scene.boxes if one.scaled}) == 1
    assert not [said for law in LAWS for said in law(scene)]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["maestro-150k", "amused-512", "controlnet-sd15-canny", "stable-cascade-prior"])
def test_unusual_models_have_their_place(name: str, level: Level) -> None:
    """A signal of 65536 values, tokens, a model without a way up, blocks of 72 layers: the same laws hold."""
    assert [said for law in LAWS for said in law(placed(name, level))] == []


def test_many_layers_that_are_alike_share_a_row() -> None:
    """Stable Cascade's 24 times three layers are three rows of 24; every layer of every box stands in one row."""
    scene = placed("stable-cascade-prior", "layer")
    assert [len(row.layers) for row in scene.placed("down_blocks.1").rows] == [24, 24, 24]
    for name in (*KNOWN, "stable-cascade-prior", "maestro-150k"):
        for one in placed(name, "layer").boxes:
            shown = [layer.module.path for row in one.rows for layer in row.layers]
            assert sorted(shown) == sorted(layer.module.path for layer in one.box.layers)


@pytest.mark.parametrize("level", LEVELS)
def test_six_levels_that_are_deep(level: Level) -> None:
    """Six levels with long lists of layers keep every law."""
    config = condition(
        block_out_channels=[8, 16, 16, 24, 32, 40],
        layers_per_block=4,
        sample_size=64,
        down_block_types=["CrossAttnDownBlock2D"] * 5 + ["DownBlock2D"],
        up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 5,
    )
    scene = place(outline_of(traced_once(config)), level=level)
    assert len(scene.skips) == 6 * 5
    assert [said for law in LAWS for said in law(scene)] == []


@pytest.mark.parametrize("level", LEVELS)
def test_a_filter_on_the_way_is_said_at_its_skip(level: Level) -> None:
    """FreeU's filter stands beside the channels of those skips that it changes, and every law holds."""
    record = traced_once(condition(), freeu=(1.1, 1.2, 0.9, 0.2))
    scene = place(outline_of(record), level=level)
    labels = {skip.skip.order: skip.label.content for skip in scene.skips}
    filtered = {skip.order for skip in record.skips if any(change.kind == "filter" for change in skip.changes)}
    assert {order for order, label in labels.items() if "(filter)" in label} == filtered
    assert [said for law in LAWS for said in law(scene)] == []


def test_a_skip_between_boxes_of_one_side_has_a_curve() -> None:
    """A skip that is taken on the way down, which no class does today, leaves and enters by the corridor's side."""
    outline = outlined("sd15")
    first = outline.trace.skips[-1]
    odd = replace_skip(outline, first.order, "down_blocks.2")
    skip = place(odd, level="stage").skips[-1]
    box = place(odd, level="stage").placed("down_blocks.2").rect
    assert skip.end[0] == box.right
    assert box.y < skip.end[1] < box.bottom


def replace_skip(outline: Outline, order: int, stage: str) -> Outline:
    """Return an outline in which one skip is taken in another stage."""
    import msgspec

    skips = [
        msgspec.structs.replace(skip, target_stage=stage, target=f"{stage}.resnets.1") if skip.order == order else skip
        for skip in outline.trace.skips
    ]
    return outline_of(msgspec.structs.replace(outline.trace, skips=tuple(skips)))


@pytest.mark.parametrize("text", ["", "down_blocks.0", "WWWW", "日本語のモデル", "🙂" * 9, "é" * 40])
@pytest.mark.parametrize("room", [5.0, 40.0, 400.0])
def test_a_shortened_text_fits(text: str, room: float) -> None:
    """A text that fits stays whole; one that does not is cut in the middle, and then it fits or is an ellipsis alone."""
    short = shortened(text, room, 10)
    assert (short == text) == (text_width(text, 10) <= room)
    assert text_width(short, 10) <= room or short == "…"
    assert all(text_width(line, 10) <= room or line == "…" for line in wrapped(f"{text} {text}", room, 10))
