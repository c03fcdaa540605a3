"""Which attention layers, skips and modules are meant: decided here for every command and function. Without torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any, get_args

from msgspec import Struct

from unetinspect.errors import UsageError, nearest_names
from unetinspect.record.run import Shape
from unetinspect.record.sections import Attention, AttentionKind, Module, Skip
from unetinspect.record.stages import paths_above
from unetinspect.record.trace import Trace
from unetinspect.units import format_size, parse_size, split_commas

KINDS: tuple[AttentionKind, ...] = get_args(AttentionKind)


class Selection(Struct, frozen=True, kw_only=True):
    """The layers that match every field; an empty field matches all.

    Attributes:
        kinds: Kinds of attention.
        stages: Stages ("up_blocks.1"), or lists of stages ("up_blocks").
        paths: Paths of layers.
        tokens_at: (height, width) of the query tokens.
    """

    kinds: tuple[AttentionKind, ...] = ()
    stages: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    tokens_at: tuple[int, int] | None = None

    @classmethod
    def of(cls, kind: Any = None, stage: Any = None, tokens_at: Any = None, paths: Any = None) -> Selection:
        """Read what was typed: each a word, a comma-separated list, or a list; `tokens_at` is a size. None matches all.

        Raises:
            UsageError: A kind does not exist, `tokens_at` is not a size, or a value is neither a word nor a list of words.

        >>> Selection.of(kind="cross,self", tokens_at="16x16")
        Selection(kinds=('cross', 'self'), stages=(), paths=(), tokens_at=(16, 16))
        """
        kinds = read_words(kind, what="kind")
        for word in kinds:
            check_word(word, KINDS, what="attention kind")
        return cls(
            kinds=kinds,  # type: ignore[arg-type]  # checked above
            stages=read_words(stage, what="stage"),
            paths=read_words(paths, what="paths"),
            tokens_at=parse_size(tokens_at, option="--tokens-at"),
        )

    def check(self, record: Trace) -> None:
        """Check that the stages and paths are those of a record.

        Raises:
            UsageError: One of them is not; the hint has similar names.
        """
        _check_stages(self.stages, record)
        _check_names(self.paths, [layer.path for layer in record.attentions], record, what="attention layer", listed_by="attn")

    def takes(self, layer: Attention) -> bool:
        """Return whether a layer has one of the kinds, is in one of the stages, and is one of the paths."""
        return (
            (not self.kinds or layer.kind in self.kinds)
            and in_stages(layer.stage, self.stages)
            and (not self.paths or layer.path in self.paths)
        )

    def takes_size(self, queries: int, grid: tuple[int, int] | None = None) -> bool:
        """Return whether there are as many query tokens as `tokens_at` has places, and their grid, if known, is that one."""
        return self.tokens_at is None or (queries == prod(self.tokens_at) and grid in (None, self.tokens_at))

    def pick(self, record: Trace) -> tuple[Attention, ...]:
        """Return the layers of a record that match.

        Raises:
            UsageError: The record does not have one of the stages or paths.
        """
        self.check(record)
        return tuple(layer for layer, grid in with_grids(record) if self.takes(layer) and self.takes_size(layer.query_shape[2], grid))


def pick_skips(record: Trace, *, stages: Sequence[str] = (), sources: Sequence[str] = (), targets: Sequence[str] = ()) -> tuple[Skip, ...]:
    """Return the skips from or to one of the stages, from one of the sources and to one of the targets; empty matches all.

    Raises:
        UsageError: The record does not have one of them.
    """
    _check_stages(stages, record)
    for names, what, ends in (
        (sources, "skip from", [source for skip in record.skips for source in skip.sources]),
        (targets, "skip to", [skip.target for skip in record.skips]),
    ):
        _check_names(names, ends, record, what=what, listed_by="skips")
    return tuple(
        skip
        for skip in record.skips
        if (in_stages(skip.source_stage, stages) or in_stages(skip.target_stage, stages))
        and (not sources or {*sources} & {*skip.sources})
        and (not targets or skip.target in targets)
    )


def pick_modules(record: Trace, *, stages: Sequence[str] = (), path: str | None = None) -> list[Module]:
    """Return the modules of a record that are one of the stages or `path`, or in one of them; empty matches all.

    Raises:
        UsageError: The record does not have one of them.
    """
    _check_stages(stages, record)
    picked = () if path is None else (path,)
    _check_names(picked, [module.path for module in record.modules], record, what="module", listed_by="tree")
    return [module for module in record.modules if in_stages(module.path, stages) and in_stages(module.path, picked)]


EVERY_LAYER = Selection()


def with_grids(record: Trace) -> list[tuple[Attention, tuple[int, int] | None]]:
    """Return the attention layers of a record, each with the grid of its queries."""
    sizes = {module.path: module.in_shape[2:] for module in record.modules if module.in_shape is not None and len(module.in_shape) == 4}
    return [(layer, grid_of(layer, layer.query_shape[2], sizes)) for layer in record.attentions]


def grid_of(layer: Attention, queries: int, sizes: Mapping[str, Shape]) -> tuple[int, int] | None:
    """Return the grid that the queries of a layer are: the (height, width) of the innermost module around it with as many places.

    `sizes` are those of the images that modules were given, by path. Frames and a single query are not a grid.
    """
    if layer.kind in ("temporal", "pooling"):
        return None
    around = (sizes[path] for path in (layer.path, *paths_above(layer.path)) if path in sizes)
    return next(((height, width) for height, width in around if height * width == queries), None)


def in_stages(path: str, stages: Sequence[str]) -> bool:
    """Return whether a module is one of the stages, or in one; empty matches all."""
    return not stages or any(path == stage or path.startswith(f"{stage}.") for stage in stages)


def no_match(layers: Sequence[tuple[Attention, tuple[int, int] | None]], selection: Selection = EVERY_LAYER) -> tuple[str, str | None]:
    """Say that no layer matches, and which kinds, grids and stages there are among those that match all but `tokens_at`, or among all.

    `layers` are those of the UNet, each with the grid of its queries. Returns that sentence, and what to type if `tokens_at` was
    meant as a number of query tokens: who types a number gets a square with that side.
    """
    if not layers:
        return "no layer matches; this UNet has no attention layers", None
    layers = [(layer, grid) for layer, grid in layers if selection.takes(layer)] or layers
    kinds = dict.fromkeys(layer.kind for layer, _ in layers)
    stages = dict.fromkeys(layer.stage for layer, _ in layers)
    # Of layers without a grid (frames, signals) a row, which has as many places.
    grids = {layer.query_shape[2]: grid or (1, layer.query_shape[2]) for layer, grid in layers}
    places = sorted(
        {(layer.query_shape[2], format_size(grid) if grid else f"{layer.query_shape[2]} query tokens") for layer, grid in layers}
    )
    said = (
        f"no layer matches; this UNet has {', '.join(kinds)} attention at {', '.join(place for _, place in places)} in {', '.join(stages)}"
    )
    height, width = selection.tokens_at or (0, 0)
    if height != width or height not in grids:
        return said, None
    return said, f"for {height} query tokens, use --tokens-at {format_size(grids[height])} ({height} is {height}x{width})"


def no_skip_matches(skips: Sequence[Skip]) -> str:
    """Say that no skip matches, and from which stages to which the skips of a UNet go."""
    if not skips:
        return "no skip matches; this UNet has no skips"
    sources, targets = dict.fromkeys(skip.source_stage for skip in reversed(skips)), dict.fromkeys(skip.target_stage for skip in skips)
    return f"no skip matches; this UNet has skips from {', '.join(sources)} to {', '.join(targets)}"


def read_words(value: Any, *, what: str) -> tuple[str, ...]:
    """Read a word, a comma-separated list, or a list of them, each word once; None is none.

    Raises:
        UsageError: It is something else, or an empty list.
    """
    texts = () if value is None else (value,) if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts) or (value is not None and not texts):
        raise UsageError(f"{what}: {value!r} is not a word or a list of words", hint=f"leave {what} out to match all")
    return tuple(dict.fromkeys(split_commas(texts)))


def check_word(word: str, known: Sequence[str], *, what: str) -> None:
    """Check that a word is one of a few.

    Raises:
        UsageError: It is not; the hint has the nearest, and all of them.
    """
    if word not in known:
        close = nearest_names(word, known, count=1)
        meant = f"did you mean {close[0]}? " if close else ""
        raise UsageError(f"unknown {what} '{word}'", hint=f"{meant}use {', '.join(known[:-1])} or {known[-1]}")


def _check_stages(stages: Sequence[str], record: Trace) -> None:
    names = [part for stage in record.stages for part in (stage.name.partition(".")[0], stage.name)]
    _check_names(stages, names, record, what="stage", listed_by="trace")


def _check_names(names: Sequence[str], known: Iterable[str], record: Trace, *, what: str, listed_by: str) -> None:
    known = list(dict.fromkeys(known))
    for name in names:
        if name not in known:
            close = sorted(nearest_names(name, known, count=5), key=known.index)
            hint = f"did you mean {'one of ' * (len(close) > 1)}{', '.join(close)}?" if close else f"`unetinspect {listed_by}` lists them"
            raise UsageError(f"{record.model.name} has no {what} '{name}'", hint=hint)
