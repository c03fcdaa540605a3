"""What a drawing shows of a trace: the boxes of the U, their layers, and where skips leave and enter. Nothing is placed here.

Every form of `draw` (SVG, HTML, terminal, Mermaid, DOT) is a function of an `Outline`: all show the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from math import prod
from typing import Literal

import msgspec
from msgspec import Struct

from unetinspect.record import Attention, Module, Run, Shape, Skip, Stage, Trace
from unetinspect.record.run import channels_of
from unetinspect.record.stages import paths_above
from unetinspect.units import format_count, map_texts, visible
from unetinspect.views.words import skip_sum

Level = Literal["stage", "layer"]
Layout = Literal["tall", "wide", "compact"]
Side = Literal["top", "left", "bottom", "right"]
_SIDES: dict[str, Side] = {"embed": "top", "in": "left", "down": "left", "mid": "bottom", "up": "right", "out": "right"}


class Mark(Struct, frozen=True):
    """Attention layers of the same kind and map size, query_tokens x key_tokens."""

    kind: str
    count: int
    heads: tuple[int, ...]
    query_tokens: int
    key_tokens: int


class Layer(Struct, frozen=True):
    """An outermost module of a stage that ran: a resnet, a transformer, a downsampler.

    Attributes:
        name: Its path below the stage: "resnets.0".
        produced: Skips produced by it, or by a module in it.
        consumed: Skips that are concatenated to its input, or to that of a module in it.
    """

    module: Module
    name: str
    marks: tuple[Mark, ...]
    produced: tuple[Skip, ...]
    consumed: tuple[Skip, ...]


class Box(Struct, frozen=True, eq=False):
    """A stage, or equal consecutive stages of one list ("transformer_layers.0-21").

    Attributes:
        key: Its name in a language of graphs: "b0" is the first in execution order.
        stages: The stages, in execution order.
        name: What to write on it.
        side: Embeddings are at the top; the U goes down the left, across the bottom, up the right.
        layers: In execution order; none in a box of several stages.
        produced: Skips that it produces, in that order.
        consumed: Skips that it consumes, in that order.
        size: Its resolution, that of its input: (height, width), (length,) of a signal, (tokens,); None: no such axes.
        after: The box whose output it takes, as far as the shapes show; None: it takes another tensor.
    """

    key: str
    stages: tuple[Stage, ...]
    name: str
    side: Side
    layers: tuple[Layer, ...]
    marks: tuple[Mark, ...]
    produced: tuple[Skip, ...]
    consumed: tuple[Skip, ...]
    channels: int | None
    size: Shape | None
    after: Box | None

    @property
    def cells(self) -> int | None:
        """The resolution as one number: height x width, the length, or the tokens."""
        return None if self.size is None else prod(self.size)

    @property
    def in_shape(self) -> Shape | None:
        """The input of its first stage."""
        return self.stages[0].in_shape

    @property
    def out_shape(self) -> Shape | None:
        """The output of its last stage."""
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


class Link(Struct, frozen=True):
    """A skip, from the module that produced it to one that consumes it.

    Attributes:
        number: Its place among the links, from 0.
        skip: The first time that it is consumed there.
        times: How often its target ran and consumed it.
    """

    number: int
    skip: Skip
    source: Box
    target: Box
    times: int

    def sum(self, arrow: str) -> str:
        """Write "640 + 320 -> 320", and how often."""
        return sum_text(self.skip, arrow=arrow) + ("" if self.times == 1 else f", {self.times} times")


class Ends(Struct, frozen=True):
    """The links that leave and enter a box, or a layer of it, each in their order from top to bottom."""

    produced: tuple[Link, ...]
    consumed: tuple[Link, ...]


class Outline(Struct, frozen=True):
    """A whole U.

    Attributes:
        boxes: In execution order.
        links: In the order in which their skips are first consumed.
        own_title: A title instead of the model's; None: there is none.
    """

    trace: Trace
    boxes: tuple[Box, ...]
    links: tuple[Link, ...]
    own_title: str | None = None

    @property
    def name(self) -> str:
        """Model and class."""
        return f"{self.trace.model.name}: {self.trace.model.class_name}"

    @property
    def title(self) -> str:
        """One line: the own title, or model, class, parameters."""
        own = self.own_title
        return f"{self.name}, {format_count(self.trace.totals.params)} params" if own is None else own

    @property
    def chain(self) -> tuple[Box, ...]:
        """The boxes of the U itself, without the embeddings, in execution order."""
        return tuple(box for box in self.boxes if box.side != "top")

    @property
    def steps(self) -> list[tuple[Box, Box]]:
        """Each box that takes the output of another, with that one before it."""
        return [(box.after, box) for box in self.boxes if box.after is not None]

    def on(self, side: Side) -> tuple[Box, ...]:
        """Return the boxes of one side, in execution order."""
        return tuple(box for box in self.boxes if box.side == side)

    def box_of(self, stage: str) -> Box:
        """Return the box of a stage."""
        return next(box for box in self.boxes if any(one.name == stage for one in box.stages))

    def ends(self, box: Box, level: Level) -> tuple[list[tuple[Layer, Ends]], Ends]:
        """Return the layers of a box that a level shows, in execution order, each with its links; and the other links of the box."""
        produced = sorted((link for link in self.links if link.source is box), key=lambda link: (link.skip.index, -link.number))
        consumed = [link for link in self.links if link.target is box]
        layers = []
        for layer in box.layers if level == "layer" else ():
            leaving = tuple(link for link in produced if link.skip in layer.produced)
            entering = tuple(link for link in consumed if link.skip in layer.consumed)
            layers.append((layer, Ends(leaving, entering)))
            produced = [link for link in produced if link not in leaving]
            consumed = [link for link in consumed if link not in entering]
        return layers, Ends(tuple(produced), tuple(consumed))


def outline_of(trace: Trace, *, title: str | None = None, ascii_only: bool = False) -> Outline:
    """Return what a drawing of a trace shows; characters in its texts that cannot be printed are escaped."""
    trace = _printable(trace, ascii_only=ascii_only)
    title = None if title is None else _escaped(title, ascii_only=ascii_only)
    boxes: list[Box] = []
    for stages in _alike(trace):
        boxes.append(_box(trace, stages, boxes))
    box_of = {stage.name: box for box in boxes for stage in box.stages}
    alike: dict[tuple[object, ...], list[Skip]] = {}
    for skip in trace.skips:  # one that is consumed again in the same way is the same link
        alike.setdefault((skip.index, skip.source, skip.target, sum_text(skip)), []).append(skip)
    links = (
        Link(number, skips[0], box_of[skips[0].source_stage], box_of[skips[0].target_stage], len(skips))
        for number, skips in enumerate(alike.values())
    )
    return Outline(trace, tuple(boxes), tuple(links), title)


def uncrossed(left: Sequence[int], right: Sequence[int]) -> frozenset[int]:
    """Return the most links that can be drawn as level lines: in the same order from top to bottom on both sides."""
    height = {number: place for place, number in enumerate(right)}
    best: list[list[int]] = []
    for number in left:
        if number in height:
            best.append([*_longest([chain for chain in best if height[chain[-1]] < height[number]]), number])
    return frozenset(_longest(best))


def _longest(chains: list[list[int]]) -> list[int]:
    return max(chains, key=len, default=[])


def mark_text(mark: Mark, *, times: str = "x", of_one: bool = False) -> str:
    """Write "2 self 4096x4096": how many layers, which kind, query_tokens x key_tokens; `of_one` omits a count of 1.

    >>> mark_text(Mark("cross", 2, (8,), 4096, 77))
    '2 cross 4096x77'
    """
    count = "" if of_one and mark.count == 1 else f"{mark.count} "
    return f"{count}{mark.kind} {mark.query_tokens}{times}{mark.key_tokens}"


def sum_text(skip: Skip, *, arrow: str = "->") -> str:
    """Write "1280 + 640 -> 1280": hidden + skip and what the resnet makes of them."""
    return skip_sum(skip, arrow=arrow, with_concat=False)


def _printable(trace: Trace, *, ascii_only: bool) -> Trace:
    """Escape what could move a cursor or end a line: names come from others."""
    plain = msgspec.to_builtins(trace, enc_hook=str)  # a live module may have anything in its config
    written = str(plain)  # Python escapes what cannot be printed
    if "\\" not in written and (written.isascii() or not ascii_only):
        return trace
    return msgspec.convert(map_texts(plain, lambda text: _escaped(text, ascii_only=ascii_only)), Trace)


def _escaped(text: str, *, ascii_only: bool) -> str:
    return visible(text).encode("ascii", "backslashreplace").decode() if ascii_only else visible(text)


def _alike(trace: Trace) -> Iterator[tuple[Stage, ...]]:
    """Yield the stages; consecutive ones in one list that differ only in their number come together."""
    busy = {name for skip in trace.skips for name in (skip.source_stage, skip.target_stage)}

    def alike(stage: Stage) -> tuple[object, ...]:
        listed, _, item = stage.name.rpartition(".")
        alone = stage.name if stage.name in busy or not item.isdigit() else listed
        same = (stage.class_name, stage.in_shape, stage.out_shape, stage.role, stage.params, stage.transformer_blocks, stage.resnets)
        return alone, same, _marks(layer for layer in trace.attentions if layer.stage == stage.name)

    for _, run in groupby(trace.stages, key=alike):
        yield tuple(run)


def _box(trace: Trace, stages: tuple[Stage, ...], before: Sequence[Box]) -> Box:
    names = {stage.name for stage in stages}
    first, last = stages[0], stages[-1]
    side = _SIDES[first.role]
    return Box(
        key=f"b{len(before)}",
        stages=stages,
        name=first.name if first is last else f"{first.name}-{last.name.rpartition('.')[2]}",
        side=side,
        layers=_layers(trace, first) if first is last else (),
        marks=_marks(layer for layer in trace.attentions if layer.stage in names),
        produced=_produced(skip for skip in trace.skips if skip.source_stage in names),
        consumed=tuple(skip for skip in trace.skips if skip.target_stage in names),
        channels=channels_of(last.out_shape, trace.run.sample_size),
        size=_size(first.in_shape, trace.run),
        after=_before(trace, first, before) if side != "top" else None,
    )


def _produced(skips: Iterable[Skip]) -> tuple[Skip, ...]:
    """Return skips in the order in which they were produced; one that is consumed several times is produced once."""
    return tuple({skip.index: skip for skip in sorted(skips, key=lambda skip: skip.index)}.values())


def _before(trace: Trace, stage: Stage, before: Sequence[Box]) -> Box | None:
    """Return the box that ran right before, if its output is the input of this stage, as far as shapes show.

    Between the two, a skip may be concatenated (Kandinsky 3), or tokens may become an image. If several tensors are returned
    (by a ControlNet), they leave from the down path: what follows it are branches, not a chain.
    """
    chain = [box for box in before if box.side != "top"]
    if not chain or (stage.role == "out" and len(trace.outputs) > 1):
        return None
    made, took = chain[-1].out_shape, stage.in_shape
    if made is None or took is None:
        return None
    wider = [skip.concat_channels for skip in trace.skips if skip.target_stage == stage.name and skip.hidden_channels == made[1]]
    joined = [(made[0], channels, *made[2:]) for channels in wider]
    return chain[-1] if prod(made) == prod(took) or took in joined else None


def _layers(trace: Trace, stage: Stage) -> tuple[Layer, ...]:
    ran = {module.path: module for module in trace.modules if module.path.startswith(f"{stage.name}.") and module.calls}
    outermost = [module for path, module in ran.items() if ran.keys().isdisjoint(paths_above(path))]
    outermost.sort(key=lambda module: -1 if module.step is None else module.step)
    return tuple(
        Layer(
            module=module,
            name=module.path.removeprefix(f"{stage.name}."),
            marks=_marks(layer for layer in trace.attentions if _holds(module.path, layer.path)),
            produced=_produced(skip for skip in trace.skips if _holds(module.path, skip.source)),
            consumed=tuple(skip for skip in trace.skips if _holds(module.path, skip.target)),
        )
        for module in outermost
    )


def _holds(path: str, other: str) -> bool:
    return other == path or other.startswith(f"{path}.")


def _marks(layers: Iterable[Attention]) -> tuple[Mark, ...]:
    """Count equal attention layers, in the order in which the first of each ran; one that ran twice counts once."""
    alike: dict[tuple[str, int, int], dict[str, int]] = {}
    for layer in layers:
        _, queries, keys = layer.map_shape
        alike.setdefault((layer.kind, queries, keys), {})[layer.path] = layer.heads
    return tuple(
        Mark(kind, len(heads), tuple(sorted(set(heads.values()))), queries, keys) for (kind, queries, keys), heads in alike.items()
    )


def _size(shape: Shape | None, run: Run) -> Shape | None:
    """Return the spatial axes of a tensor.

    (height, width) of (batch, channels, height, width) and of a video's frames, (length,) of a signal (batch, channels,
    length), (tokens,) of (batch, tokens, channels).
    """
    if shape is None or len(shape) < 3:
        return None
    if len(shape) > 3 or tuple(shape[1:]) == run.sample_size:  # the latter are ids, one for each cell of an image
        return tuple(shape[-2:])
    return (shape[2] if run.medium == "signal" else shape[1],)
