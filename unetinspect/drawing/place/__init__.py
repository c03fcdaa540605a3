"""Places everything that a picture of the U shows. `svg` writes what is placed here; tests prove from it that nothing overlaps."""

from __future__ import annotations

from unetinspect.drawing.forms import Level
from unetinspect.drawing.outline import Outline
from unetinspect.drawing.place.boxes import Ports, fill
from unetinspect.drawing.place.columns import MARGIN, Columns, columns, is_scaled, measures
from unetinspect.drawing.place.flows import flows, returned
from unetinspect.drawing.place.skips import place_skips
from unetinspect.drawing.place.words import Words, above, below
from unetinspect.drawing.scene import PlacedBox, Scene


def place(outline: Outline, *, level: Level) -> Scene:
    """Place every box, layer, label and curve of a picture.

    Args:
        outline: What is shown.
        level: "stage": blocks; "layer": the layers in them too.
    """
    head, places = _least(outline, level)
    boxes: list[PlacedBox] = []
    ports: dict[str, Ports] = {}
    for box in outline.boxes:
        if box.side != "top":
            placed, ports[box.name] = fill(box, places.contents[box.name], places.rects[box.name], scaled=is_scaled(box))
            boxes.append(placed)
    embeddings = {placed.box.name: placed for placed in head.boxes}
    chain = {placed.box.name: placed for placed in boxes}
    arrows = flows(outline, places)
    foot = below(outline, places.width, places.bottom, entered=bool(arrows))
    return Scene(
        width=places.width,
        height=foot.y,
        boxes=tuple((embeddings | chain)[box.name] for box in outline.boxes),
        given=tuple(head.given),
        flows=tuple(arrows),
        skips=tuple(place_skips(outline, places, ports)),
        texts=(*head.texts, *returned(outline, places), *foot.texts),
        legend=tuple(foot.samples),
        legend_badges=tuple(foot.badges),
    )


def _least(outline: Outline, level: Level) -> tuple[Words, Columns]:
    """Place what stands above, and the columns: where a way up that is higher than the way down stands beside the inputs, if that is less.

    Embeddings that have less room take more lines.
    """
    measured = measures(outline, level)
    beside = above(outline, level, measured.width, measured.inner[1] - MARGIN)
    over = above(outline, level, measured.width, measured.width - MARGIN)
    tops = (beside.y, beside.title_y), (over.y, over.y)
    drafts = [(head, columns(outline, measured, top)) for head, top in zip((beside, over), tops, strict=True)]
    return min(drafts, key=lambda one: one[1].bottom)
