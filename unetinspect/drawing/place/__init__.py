"""Places everything that a picture of the U shows. `svg` writes it; tests check that nothing overlaps."""

from __future__ import annotations

from msgspec.structs import replace

from unetinspect.drawing.outline import Layout, Level, Outline
from unetinspect.drawing.place.arrows import contexts, flows, place_skips, returned
from unetinspect.drawing.place.boxes import fill
from unetinspect.drawing.place.columns import columns, measures
from unetinspect.drawing.place.layouts import PLANS, Plan
from unetinspect.drawing.place.surroundings import above, below
from unetinspect.drawing.scene import Scene


def place(outline: Outline, *, level: Level, layout: Layout = "tall", legend: bool = True) -> Scene:
    """Place every box, layer, label and curve of a picture."""
    plan = PLANS[layout]
    scene = _place(outline, level, plan, legend=legend)
    if plan.ratio is None:
        return scene
    if scene.height * plan.ratio > scene.width:
        scene = _place(outline, level, replace(plan, page=scene.height * plan.ratio), legend=legend)
        # In a wider page, texts take fewer lines: the page may be smaller, and all type on the slide larger.
        smaller = _place(outline, level, replace(plan, page=scene.height * plan.ratio), legend=legend)
        if smaller.height * plan.ratio <= smaller.width + 0.01:
            scene = smaller
    return replace(scene, height=scene.width / plan.ratio)


def _place(outline: Outline, level: Level, plan: Plan, *, legend: bool) -> Scene:
    """Place everything on a page that is as high as it needs.

    The up path may begin beside the inputs and embeddings, which then have less room and take more lines: the picture of less
    height is used.
    """
    measured = measures(outline, level, plan)
    drafts = []
    for edge, is_beside in ((measured.inner[1], True), (measured.width, False)):
        head = above(outline, level, plan, measured.width, edge - plan.margin)
        if not is_beside or all(one.rect.right <= edge for one in head.boxes):
            drafts.append((head, *columns(outline, measured, (head.y, head.right_y if is_beside else head.y))))
    head, measured, rects, bottom = min(drafts, key=lambda draft: draft[3])
    boxes = {placed.box.name: placed for placed in head.boxes}
    boxes |= {box.name: fill(box, measured.contents[box.name], rects[box.name]) for box in outline.chain}
    hidden_states, skips = tuple(flows(outline, measured, rects)), tuple(place_skips(outline, measured, boxes))
    conditions = tuple(contexts(head.given, [boxes[box.name] for box in outline.chain], measured, bottom))
    kinds = {"flow": hidden_states, "skip": skips, "context": conditions}
    foot = below(outline, plan, measured.width, bottom, [kind for kind, drawn in kinds.items() if drawn and legend])
    return Scene(
        width=measured.width,
        height=foot.y,
        boxes=tuple(boxes[box.name] for box in outline.boxes),
        given=tuple(head.given),
        flows=hidden_states,
        skips=skips,
        contexts=conditions,
        texts=(*head.texts, *returned(outline, rects), *foot.texts),
        legend=tuple(foot.samples),
        legend_badges=tuple(foot.badges),
    )
