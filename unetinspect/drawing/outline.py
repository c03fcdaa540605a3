"""What a drawing shows of a trace: the boxes of the U, their layers, and which skip leaves and enters where. Places nothing.

Every form of `draw` (SVG, HTML, terminal, Mermaid, DOT) is a function of an `Outline`, so that all tell the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from math import prod
from typing import Literal

from msgspec import Struct

from unetinspect.drawing.caption import caption
from unetinspect.record import Attention, Module, Run, Shape, Skip, Stage, Trace
from unetinspect.units import format_count
from unetinspect.views.words import skip_sum

Side = Literal["top", "left", "bottom", "right"]
LayerKind = Literal["resnet", "attention", "downsample", "upsample", "other"]
_SIDES: dict[str, Side] = {"embed": "top", "in": "left", "down": "left", "mid": "bottom", "up": "right", "out": "right"}


class Mark(Struct, frozen=True):
    """Attention layers that are alike: of one kind, on maps of one size.

    Attributes:
        kind: "self", "cross", ...
        count: How many layers.
        heads: The numbers of heads that they have.
        query_tokens: Rows of a map.
        key_tokens: Columns of a map.
    """

    kind: str
    count: int
    heads: tuple[int, ...]
    query_tokens: int
    key_tokens: int


class Layer(Struct, frozen=True):
    """An outermost module of a stage that ran: a resnet, a transformer, a downsampler.

    Attributes:
        module: Its record.
        name: Its path below the stage: "resnets.0".
        kind: What it does.
        marks: Its attention layers.
        made: Skips that it, or a module in it, produced.
        taken: Skips that are concatenated to its input, or to that of a module in it.
    """

    module: Module
    name: str
    kind: LayerKind
    marks: tuple[Mark, ...]
    made: tuple[Skip, ...]
    taken: tuple[Skip, ...]


class Box(Struct, frozen=True):
    """A stage, or a run of stages in one list that are alike ("transformer_layers.0-21").

    Attributes:
        stages: The stages, in execution order.
        name: What to write on it.
        side: Where it stands: embeddings at the top, down the left, across the bottom, up the right.
        layers: In execution order; none in a box of several stages.
        marks: Its attention layers.
        made: Skips that it produced, in that order.
        taken: Skips that are consumed in it, in that order.
        channels: Channels that it works at: those of its output.
        size: (height, width), (length,) of a signal, or (tokens,), that it works at: that of its input; None: no such axes.
        after: The box whose output it takes, by name, as far as their shapes show; None: it takes another tensor.
    """

    stages: tuple[Stage, ...]
    name: str
    side: Side
    layers: tuple[Layer, ...]
    marks: tuple[Mark, ...]
    made: tuple[Skip, ...]
    taken: tuple[Skip, ...]
    channels: int | None
    size: Shape | None
    after: str | None

    @property
    def cells(self) -> int | None:
        """How many places of the sample it works at: height x width, the length, or the tokens."""
        return None if self.size is None else prod(self.size)

    @property
    def in_shape(self) -> Shape | None:
        """What goes into its first stage."""
        return self.stages[0].in_shape

    @property
    def out_shape(self) -> Shape | None:
        """What comes out of its last stage."""
        return self.stages[-1].out_shape

    @property
    def class_name(self) -> str:
        """The class of each of its stages."""
        return self.stages[0].class_name

    @property
    def params(self) -> int:
        """The parameters of its stages."""
        return sum(stage.params for stage in self.stages)

    @property
    def macs(self) -> int | None:
        """The multiply-accumulates of its stages; None where they were not counted."""
        return None if self.stages[0].macs is None else sum(stage.macs or 0 for stage in self.stages)


class Outline(Struct, frozen=True):
    """A whole U.

    Attributes:
        trace: The record.
        boxes: In execution order.
        title: One line: model, class, parameters.
        caption: Lines of totals: sizes, skips and attention, costs.
    """

    trace: Trace
    boxes: tuple[Box, ...]
    title: str
    caption: tuple[str, ...]

    def on(self, side: Side) -> tuple[Box, ...]:
        """Return the boxes of one side, in execution order."""
        return tuple(box for box in self.boxes if box.side == side)

    def box_of(self, stage: str) -> Box:
        """Return the box that a stage stands in."""
        return next(box for box in self.boxes if any(one.name == stage for one in box.stages))


def outline_of(trace: Trace) -> Outline:
    """Return what a drawing of a trace shows."""
    boxes: list[Box] = []
    for stages in _runs(trace):
        boxes.append(_box(trace, stages, boxes))
    title = f"{trace.model.name}: {trace.model.class_name}, {format_count(trace.totals.params)} params"
    return Outline(trace, tuple(boxes), title, tuple(caption(trace)))


def mark_text(mark: Mark, *, times: str = "x", of_one: bool = False) -> str:
    """Write "2 self 4096x4096": how many layers of which kind on maps of which size, (query_tokens) x (key_tokens).

    >>> mark_text(Mark("cross", 2, (8,), 4096, 77))
    '2 cross 4096x77'
    """
    count = "" if of_one and mark.count == 1 else f"{mark.count} "
    return f"{count}{mark.kind} {mark.query_tokens}{times}{mark.key_tokens}"


def sum_text(skip: Skip, *, arrow: str = "->") -> str:
    """Write "1280 + 640 -> 1280": hidden + skip and what the resnet makes of them."""
    return skip_sum(skip, arrow=arrow, with_concat=False)


def _runs(trace: Trace) -> Iterator[tuple[Stage, ...]]:
    """Yield the stages, those that follow each other in one list and differ in nothing but their place together."""
    busy = {name for skip in trace.skips for name in (skip.source_stage, skip.target_stage)}

    def alike(stage: Stage) -> tuple[object, ...]:
        listed, _, item = stage.name.rpartition(".")
        alone = stage.name if stage.name in busy or not item.isdigit() else listed
        same = (stage.class_name, stage.in_shape, stage.out_shape, stage.role, stage.params, stage.transformer_blocks)
        return alone, same, (stage.resnets, tuple(_marks(_in_stage(trace.attentions, stage.name))))

    for _, run in groupby(trace.stages, key=alike):
        yield tuple(run)


def _box(trace: Trace, stages: tuple[Stage, ...], before: Sequence[Box]) -> Box:
    names = {stage.name for stage in stages}
    first, last = stages[0], stages[-1]
    made = sorted((skip for skip in trace.skips if skip.source_stage in names), key=lambda skip: skip.index)
    side = _SIDES[first.role]
    return Box(
        stages=stages,
        name=first.name if first is last else f"{first.name}-{last.name.rpartition('.')[2]}",
        side=side,
        layers=_layers(trace, first) if first is last else (),
        marks=tuple(_marks(layer for layer in trace.attentions if layer.stage in names)),
        # A skip that is read in every execution of a block is made once.
        made=tuple({skip.index: skip for skip in made}.values()),
        taken=tuple(skip for skip in trace.skips if skip.target_stage in names),
        channels=channels_of(last.out_shape, trace.run),
        size=_size(first.in_shape, trace.run),
        after=_before(trace, first, before) if side != "top" else None,
    )


def _before(trace: Trace, stage: Stage, before: Sequence[Box]) -> str | None:
    """Return the box that came right before, where what it made is what this one took, as far as shapes tell.

    Between the two, a skip may have been concatenated (Kandinsky 3), or tokens become an image. Several tensors that are
    returned (a ControlNet's) leave from the way down: what follows it are branches, no chain.
    """
    chain = [box for box in before if box.side != "top"]
    if not chain or (stage.role == "out" and len(trace.outputs) > 1):
        return None
    made, took = chain[-1].out_shape, stage.in_shape
    if made is None or took is None:
        return None
    wider = [skip.concat_channels for skip in trace.skips if skip.target_stage == stage.name and skip.hidden_channels == made[1]]
    joined = [(made[0], channels, *made[2:]) for channels in wider]
    return chain[-1].name if prod(made) == prod(took) or took in joined else None


def _layers(trace: Trace, stage: Stage) -> tuple[Layer, ...]:
    inside = [module for module in trace.modules if module.path.startswith(f"{stage.name}.") and module.calls]
    outermost: list[Module] = []
    for module in inside:
        if not any(module.path.startswith(f"{found.path}.") for found in outermost):
            outermost.append(module)
    outermost.sort(key=lambda module: -1 if module.step is None else module.step)
    return tuple(_layer(trace, stage, module) for module in outermost)


def _layer(trace: Trace, stage: Stage, module: Module) -> Layer:
    def holds(path: str) -> bool:
        return path == module.path or path.startswith(f"{module.path}.")

    marks = tuple(_marks(layer for layer in trace.attentions if holds(layer.path)))
    made = {skip.index: skip for skip in sorted(trace.skips, key=lambda skip: skip.index) if holds(skip.source)}
    taken = tuple(skip for skip in trace.skips if holds(skip.target))
    name = module.path.removeprefix(f"{stage.name}.")
    return Layer(module, name, _kind(module, name, marks, trace.run), marks, tuple(made.values()), taken)


def _kind(module: Module, name: str, marks: tuple[Mark, ...], run: Run) -> LayerKind:
    if marks:
        return "attention"
    if "res" in name.partition(".")[0] or "ResBlock" in module.class_name or "Resnet" in module.class_name:
        return "resnet"
    before, after = _size(module.in_shape, run), _size(module.out_shape, run)
    if before is None or after is None or before == after or len(before) != len(after):
        return "other"
    return "downsample" if after < before else "upsample"


def _marks(layers: Iterable[Attention]) -> list[Mark]:
    """Count the attention layers that are alike, in the order in which the first of each ran; one that ran twice is one."""
    alike: dict[tuple[str, int, int], dict[str, int]] = {}
    for layer in layers:
        _, queries, keys = layer.map_shape
        alike.setdefault((layer.kind, queries, keys), {})[layer.path] = layer.heads
    return [Mark(kind, len(heads), tuple(sorted(set(heads.values()))), queries, keys) for (kind, queries, keys), heads in alike.items()]


def _in_stage(layers: Iterable[Attention], stage: str) -> list[Attention]:
    return [layer for layer in layers if layer.stage == stage]


def _size(shape: Shape | None, run: Run) -> Shape | None:
    """Return the axes of a tensor's places.

    (height, width) of (batch, channels, height, width) and of a video's frames, (length,) of a signal (batch, channels,
    length), (tokens,) of (batch, tokens, channels).
    """
    if shape is None or len(shape) < 3:
        return None
    if len(shape) > 3 or tuple(shape[1:]) == run.sample_size:  # the latter are ids, one for each place of an image
        return tuple(shape[-2:])
    return (shape[2] if run.medium == "signal" else shape[1],)


def channels_of(shape: Shape | None, run: Run) -> int | None:
    """Return the channels of a tensor: its second axis; of (batch, tokens, channels), its last."""
    if shape is None or len(shape) < 2:
        return None
    return shape[-1] if len(shape) == 3 and run.medium != "signal" else shape[1]
