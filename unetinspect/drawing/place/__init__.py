"""Places everything that a picture of the U shows. `svg` writes it; tests check that nothing overlaps."""

from __future__ import annotations

from unetinspect.drawing.outline import Level, Outline
from unetinspect.drawing.place.arrows import flows, place_skips, returned
from unetinspect.drawing.place.boxes import fill
from unetinspect.drawing.place.columns import MARGIN, columns, measures
from unetinspect.drawing.place.surroundings import above, below
from unetinspect.drawing.scene import Scene


def place(outline: Outline, *, level: Level) -> Scene:
    """Place every box, layer, label and curve of a picture.

    The up path may begin beside the inputs and embeddings, which then have less room and take more lines: the picture of less
    height is used.
    """
    measured = measures(outline, level)
    drafts = []
    for edge, is_beside in ((measured.inner[1], True), (measured.width, False)):
        head = above(outline, level, measured.width, edge - MARGIN)
        drafts.append((head, *columns(outline, measured, (head.y, head.title_y if is_beside else head.y))))
    head, rects, bottom = min(drafts, key=lambda draft: draft[2])
    boxes = {placed.box.name: placed for placed in head.boxes}
    boxes |= {box.name: fill(box, measured.contents[box.name], rects[box.name]) for box in outline.chain}
    arrows = tuple(flows(outline, measured, rects))
    foot = below(outline, measured.width, bottom, entered=bool(arrows))
    return Scene(
        width=measured.width,
        height=foot.y,
        boxes=tuple(boxes[box.name] for box in outline.boxes),
        given=tuple(head.given),
        flows=arrows,
        skips=tuple(place_skips(outline, measured, boxes)),
        texts=(*head.texts, *returned(outline, rects), *foot.texts),
        legend=tuple(foot.samples),
        legend_badges=tuple(foot.badges),
    )
