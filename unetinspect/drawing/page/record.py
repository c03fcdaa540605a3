"""The data of the page's script beside the rows of the tables: the boxes, and the ends of each skip."""

from __future__ import annotations

from typing import Any

from unetinspect.drawing.labels import skip_names, typeset
from unetinspect.drawing.outline import Box, Outline, mark_text
from unetinspect.drawing.text_width import TIMES
from unetinspect.record import Skip
from unetinspect.units import format_bytes, format_count, format_shape, format_si, format_size
from unetinspect.views.words import ROLES, skip_sum, skip_way


def page_record(outline: Outline) -> dict[str, Any]:
    """Return what goes into the page as JSON.

    boxes    in execution order: names, shapes, costs; skips by their place in `skips`, attention layers by their row
    skips    in the order in which they are consumed: their numbers, both ends, channels, changes
    tensors  texts, and of each module the number of its text: the shapes of its own parameters and buffers
    """
    trace = outline.trace
    modules = [module for module in trace.modules if module.path]
    classes = {module.path: module.class_name for module in modules}
    tensors = [", ".join(f"{name} {format_shape(shape)}" for name, shape in module.tensors.items()) for module in modules]
    texts = list(dict.fromkeys(tensors))
    numbers = {text: number for number, text in enumerate(texts)}
    return {
        "boxes": [_box(outline, box) for box in outline.boxes],
        "skips": [{"name": name, **_skip(outline, skip, classes)} for skip, name in zip(trace.skips, skip_names(trace.skips), strict=True)],
        "tensors": {"texts": texts, "of": [numbers[text] for text in tensors]},
    }


def _box(outline: Outline, box: Box) -> dict[str, Any]:
    trace = outline.trace
    names = [stage.name for stage in box.stages]
    peaks = [stage.activation_bytes for stage in box.stages if stage.activation_bytes is not None]
    kinds = [stage.macs_by_kind for stage in box.stages if stage.macs_by_kind is not None]
    by_kind = [(name, sum(getattr(kind, name) for kind in kinds)) for name in ("conv", "linear", "attention")]
    places = {skip.index: place for place, skip in reversed(list(enumerate(trace.skips)))}
    return {
        "name": box.name,
        "stages": names,
        "class": box.class_name,
        "role": ROLES[box.stages[0].role],
        "in": format_shape(box.in_shape),
        "out": format_shape(box.out_shape),
        "channels": box.channels,
        "size": typeset(format_size(box.size)),
        "params": [box.params, format_count(box.params), share(box.params, trace.totals.params)],
        "macs": None if box.macs is None else [box.macs, format_si(box.macs, "MACs"), share(box.macs, trace.totals.macs)],
        "macs_by_kind": [(name, macs, format_si(macs)) for name, macs in by_kind if macs],
        "peak": format_bytes(max(peaks)) if peaks else None,
        "resnets": sum(stage.resnets for stage in box.stages),
        "transformer_blocks": sum(stage.transformer_blocks for stage in box.stages),
        "marks": [mark_text(mark, times=TIMES) for mark in box.marks],
        "attentions": [row for row, layer in enumerate(trace.attentions) if layer.stage in names],
        "made": [places[skip.index] for skip in box.produced],
        "taken": [place for place, skip in enumerate(trace.skips) if skip.target_stage in names],
    }


def _skip(outline: Outline, skip: Skip, classes: dict[str, str]) -> dict[str, Any]:
    return {
        "sources": list(skip.sources),
        "target": skip.target,
        "call": skip.call,
        "from": outline.box_of(skip.source_stage).name,
        "to": outline.box_of(skip.target_stage).name,
        "shape": format_shape(skip.shape),
        "way": skip_way(skip),
        "hidden": skip.hidden_channels,
        "skip": skip.skip_channels,
        "out": skip.out_channels,
        "sum": typeset(skip_sum(skip)),
        "adds_up": skip.adds_up,
        "shortcut": skip.shortcut,
        "concat_in": skip.concat_in,
        "source_class": classes.get(skip.source, ""),
        "target_class": classes.get(skip.target, ""),
    }


def share(part: int, whole: int | None) -> str:
    """Write a part of a whole in percent; "" of nothing.

    >>> share(1, 3), share(0, 3), share(3, 0), share(1, 10_000)
    ('33.3 %', '0 %', '', '< 0.1 %')
    """
    if not whole:
        return ""
    percent = 100 * part / whole
    return f"{percent:.1f} %" if percent >= 0.05 else "< 0.1 %" if part else "0 %"
