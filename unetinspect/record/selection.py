"""Which attention layers are meant, by kind, stage, path and resolution: decided here for every command and function. Without torch."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, get_args

from msgspec import Struct

from unetinspect.errors import UsageError, nearest_names
from unetinspect.record.sections import Attention, AttentionKind
from unetinspect.record.stages import paths_above
from unetinspect.record.trace import Trace
from unetinspect.units import parse_size, split_commas

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
            UsageError: A kind does not exist, `tokens_at` is not a size, or a value is no word and no list of words.

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
        name = record.model.name
        stages = [stage.name for stage in record.stages]
        known = list(dict.fromkeys(part for stage in stages for part in (stage.partition(".")[0], stage)))
        layers = list(dict.fromkeys(layer.path for layer in record.attentions))
        for stage in self.stages:
            _check_name(stage, known, f"{name} has no stage '{stage}'", otherwise=f"use one of {', '.join(known)}")
        for path in self.paths:
            _check_name(path, layers, f"{name} has no attention layer '{path}'", otherwise="`unetinspect attn` lists them")

    def takes(self, layer: Attention) -> bool:
        """Return whether a layer has one of the kinds, is in one of the stages, and is one of the paths."""
        return (
            (not self.kinds or layer.kind in self.kinds) and self.takes_stage(layer.stage) and (not self.paths or layer.path in self.paths)
        )

    def takes_stage(self, path: str) -> bool:
        """Return whether a module is one of the stages, or in one."""
        return not self.stages or any(path == stage or path.startswith(f"{stage}.") for stage in self.stages)

    def takes_size(self, queries: int, grid: tuple[int, int] | None = None) -> bool:
        """Return whether there are as many query tokens as `tokens_at` has places, and their grid, if known, is that one."""
        return self.tokens_at is None or (queries == prod(self.tokens_at) and grid in (None, self.tokens_at))

    def pick(self, record: Trace) -> tuple[Attention, ...]:
        """Return the layers of a record that match.

        Raises:
            UsageError: The record does not have one of the stages or paths.
        """
        self.check(record)
        shapes = {module.path: module.in_shape for module in record.modules}

        def grid(layer: Attention) -> tuple[int, int] | None:
            around = (shapes.get(path) for path in paths_above(layer.path))
            sizes = [(shape[2], shape[3]) for shape in around if shape is not None and len(shape) == 4]
            return next((size for size in sizes if prod(size) == layer.query_shape[2]), None)

        return tuple(layer for layer in record.attentions if self.takes(layer) and self.takes_size(layer.query_shape[2], grid(layer)))


def no_match(layers: Sequence[Attention]) -> str:
    """Say that no layer matches a selection, and what a UNet with these layers has."""
    if not layers:
        return "no layer matches; this UNet has no attention layers"
    kinds = dict.fromkeys(layer.kind for layer in layers)
    stages = dict.fromkeys(layer.stage for layer in layers)
    tokens = sorted({layer.query_shape[2] for layer in layers})
    has = f"{', '.join(kinds)} attention with {', '.join(map(str, tokens))} query tokens in {', '.join(stages)}"
    return f"no layer matches; this UNet has {has}"


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


def _check_name(name: str, known: Sequence[str], message: str, *, otherwise: str) -> None:
    if name not in known:
        close = sorted(nearest_names(name, known, count=5), key=known.index)
        raise UsageError(message, hint=f"did you mean {'one of ' * (len(close) > 1)}{', '.join(close)}?" if close else otherwise)
