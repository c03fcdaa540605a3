"""What is said of a box, a layer and a skip in one sentence: tooltips, and what a screen reader says."""

from __future__ import annotations

from collections.abc import Sequence

from unetinspect.drawing.outline import Box, Layer, Outline, sum_text
from unetinspect.drawing.place.contents import arrow_text, badge_part, typeset
from unetinspect.record import Skip
from unetinspect.units import format_count, format_shape, format_si, plural, visible


def box_words(box: Box) -> str:
    """Say what a box is, its shapes, its attention layers and its costs."""
    resnets, blocks = (sum(getattr(stage, name) for stage in box.stages) for name in ("resnets", "transformer_blocks"))
    counts = [plural(count, noun) for count, noun in ((resnets, "resnet"), (blocks, "transformer block")) if count]
    costs = [f"{format_count(box.params)} params", *([format_si(box.macs, "MACs")] if box.macs else [])]
    attention = [badge_part(mark).content for mark in box.marks]
    said = [f"{visible(box.name)}, {visible(box.class_name)}", arrow_text(box.in_shape, box.out_shape), *counts, *attention, *costs]
    return "; ".join(said)


def layer_words(layers: Sequence[Layer]) -> str:
    """Say what a layer is, its shapes, its attention layers and its costs; of several that are alike, those of the first."""
    module = layers[0].module
    costs = [f"{format_count(module.params)} params", *([format_si(module.macs, "MACs")] if module.macs else [])]
    attention = [badge_part(mark).content for mark in layers[0].marks]
    name = f"{visible(module.path)}, {visible(module.class_name)}"
    others = [f"the same in {', '.join(visible(layer.module.path) for layer in layers[1:])}"] if len(layers) > 1 else []
    return "; ".join([name, arrow_text(module.in_shape, module.out_shape), *attention, *costs, *others])


def skip_words(skip: Skip) -> str:
    """Say where a skip comes from, what happens to it, where it goes, and what it is added to."""
    changes = [f"changed on its way: {change.kind} {format_shape(change.shape)}" for change in skip.changes]
    way = f"skip {skip.order}: {visible(skip.source)} {format_shape(skip.shape)} → {visible(skip.target)}"
    return "; ".join([way, f"hidden + skip → out: {sum_text(skip, arrow='→')}", *changes])


def picture_words(outline: Outline) -> str:
    """Say the whole picture in a few sentences."""
    blocks = len([box for box in outline.boxes if box.side != "top"])
    boxes = f"{blocks} boxes of the U in execution order: down the left, across the bottom, up the right."
    return " ".join([boxes, *(f"{typeset(line)}." for line in outline.caption)])
