"""Texts that several forms of a drawing share, and those for screen readers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from unetinspect.drawing.outline import Box, Layer, Link, Outline, mark_text, sum_text
from unetinspect.drawing.text_width import TIMES
from unetinspect.record import Module, Run, Skip, Trace
from unetinspect.units import format_bytes, format_count, format_shape, format_si, format_size, plural
from unetinspect.views.attention import attention_lines
from unetinspect.views.header import added_lines
from unetinspect.views.skips import returned_text
from unetinspect.views.words import inside, place_text, skip_label


def caption(trace: Trace) -> Iterator[str]:
    """Yield the lines below a drawing: sizes, skips and attention layers, costs."""
    run, totals = trace.run, trace.totals
    image = f"{run.medium} {format_size(run.image_size)}, " if run.image_size is not None and run.vae_scale_factor != 1 else ""
    frames = f", {run.frames} frames" if run.frames is not None else ""
    batch = f"batch {run.forward_batch} = 2 x {run.batch} for CFG" if run.cfg else f"batch {run.forward_batch}"
    sample = next((given.shape for given in run.inputs if given.shape is not None), None)
    returned = returned_text(trace) if len(trace.outputs) > 1 else format_shape(trace.output.shape)
    yield f"{image}sample {format_shape(sample)} -> {returned}, {batch}{frames}"
    yield from (" ".join(line.split()) for line in added_lines(run))
    skips = plural(totals.skips.consumed, "skip") if trace.skips else "no skips"
    yield f"{skips}; {_attention_text(trace)}"
    if totals.macs is not None:
        peak = f"; peak activations {format_bytes(totals.peak_activation_bytes)}" if totals.peak_activation_bytes else ""
        yield f"{format_si(totals.macs, 'MACs')}{peak} in {run.dtype}"


def _attention_text(trace: Trace) -> str:
    counts = trace.totals.attention
    if counts.total or not counts.without_processor:
        return attention_lines(trace)[0]
    kinds = Counter(kind for _, kind in {(layer.path, layer.kind) for layer in trace.attentions if layer.processor is None})
    layers = plural(counts.without_processor, "attention layer")
    return f"{layers}: {' + '.join(f'{count} {kind}' for kind, count in kinds.items())}, without attention processors"


def below(path: str, stage: str) -> str:
    """Write where a module is in its stage; "output" for the stage itself.

    >>> below("down_blocks.0.attentions.1", "down_blocks.0"), below("conv_in", "conv_in")
    ('attentions.1', 'output')
    """
    return "output" if path == stage else inside(path, stage)


def leaving(link: Link) -> str:
    """Write which module a skip leaves, and what it carries: "resnets.0: skip 320"."""
    return f"{below(link.skip.source, link.skip.source_stage)}: skip {skip_label(link.skip)}"


def entering(link: Link, arrow: str) -> str:
    """Write which module a skip enters, and what is made of it: "resnets.1: 640 + 320 -> 320"."""
    return f"{below(link.skip.target, link.skip.target_stage)}: {link.sum(arrow)}"


def channels_text(box: Box) -> str:
    """Write "320 channels"; "" if they are unknown."""
    return "" if box.channels is None else plural(box.channels, "channel")


def box_lines(box: Box, run: Run, *, marks: bool) -> Iterator[str]:
    """Yield the size and channels of a box in one line, and its attention layers."""
    sizes = ", ".join(filter(None, (place_text(box.size, run), channels_text(box))))
    if sizes:
        yield sizes
    yield from map(mark_text, box.marks if marks else ())


def typeset(text: str) -> str:
    """Write "->" as an arrow, and the x between numbers as a multiplication sign.

    >>> typeset("(2, 4) -> (2, 4), 2 = 2 x 1").replace(TIMES, "*")
    '(2, 4) → (2, 4), 2 = 2 * 1'
    """
    return re.sub(r"(?<=\d)( ?)x\1(?=\d)", rf"\1{TIMES}\1", text.replace("->", "→"))


def arrow_text(of: Box | Module) -> str:
    """Write "(2, 320, 64, 64) → (2, 320, 32, 32)"."""
    return f"{format_shape(of.in_shape)} → {format_shape(of.out_shape)}"


def counts_of(box: Box) -> list[str]:
    """Write "2 resnets" and "2 transformer blocks", if there are any."""
    resnets = sum(stage.resnets for stage in box.stages)
    blocks = sum(stage.transformer_blocks for stage in box.stages)
    return [plural(count, noun) for count, noun in ((resnets, "resnet"), (blocks, "transformer block")) if count]


def costs_of(of: Box | Module) -> list[str]:
    """Write "10.5 M params" and, if there are any, "98.2 GMACs"."""
    params = f"{format_count(of.params)} params" if of.params else "no params"
    return [params, *([format_si(of.macs, "MACs")] if of.macs else [])]


def box_description(box: Box) -> str:
    """Describe a box: shapes, attention layers and costs."""
    marks = [mark_text(mark, times=TIMES) for mark in box.marks]
    return "; ".join([f"{box.name}, {box.class_name}", arrow_text(box), *counts_of(box), *marks, *costs_of(box)])


def layer_description(layers: Sequence[Layer]) -> str:
    """Describe a layer: shapes, attention layers and costs; of several equal ones, those of the first."""
    module = layers[0].module
    marks = [mark_text(mark, times=TIMES) for mark in layers[0].marks]
    others = [f"the same in {', '.join(layer.module.path for layer in layers[1:])}"] if len(layers) > 1 else []
    return "; ".join([f"{module.path}, {module.class_name}", arrow_text(module), *marks, *costs_of(module), *others])


def skip_names(skips: Sequence[Skip]) -> list[str]:
    """Return the number of each skip, its `index`, as `skips(index=)` takes it; later uses of one differ: "2", "2 (use 2)"."""
    uses: Counter[int] = Counter()
    names = []
    for skip in skips:
        uses[skip.index] += 1
        names.append(f"{skip.index} (use {uses[skip.index]})" if uses[skip.index] > 1 else f"{skip.index}")
    return names


def skip_description(skip: Skip, name: str) -> str:
    """Describe a skip: its two ends, the sum of channels, and its changes on the way."""
    way = f"skip {name}: {skip.source} {format_shape(skip.shape)} → {skip.target}"
    changes = [f"changed by: {change.kind} {format_shape(change.shape)}" for change in skip.changes]
    return "; ".join([way, f"hidden + skip → out: {sum_text(skip, arrow='→')}", *changes])


def picture_description(outline: Outline) -> str:
    """Describe the whole picture in a few sentences."""
    boxes = f"{len(outline.chain)} boxes of the U in execution order: down the left, across the bottom, up the right."
    return " ".join([boxes, *(f"{typeset(line)}." for line in caption(outline.trace))])
