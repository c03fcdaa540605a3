"""What to capture: `maps`, `features` and `skips`, each a frozen description that `capture` reads. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from unetinspect.errors import UsageError, nearest_names
from unetinspect.record.selection import Selection

if TYPE_CHECKING:
    from torch import Tensor

Heads: TypeAlias = Literal["mean", "max", "var"] | None
Steps: TypeAlias = Literal["mean", "sum", "last"] | None
Calls: TypeAlias = int | slice | Iterable[int] | None
Change: TypeAlias = "Callable[[Tensor, At], Tensor | None]"


@dataclass(frozen=True)
class At:
    """Where in a run a tensor was computed.

    Attributes:
        path: The attention layer, the module, or the target of the skip.
        kind: The kind of attention; of a feature "output" or "input"; of a skip "skip".
        stage: Its stage.
        call: The call of the UNet, from 0.
        timestep: What the UNet was given, on its device; None if it was given none.
        product: Which product of the layer: 0 is text, 1 and more are image adapters.
        grid: (height, width) of the queries, or None.
        heads: Heads; 0 of what is not attention.
    """

    path: str
    kind: str
    stage: str
    call: int
    timestep: Any = None
    product: int = 0
    grid: tuple[int, int] | None = None
    heads: int = 0


@dataclass(frozen=True)
class Tap:
    """What all taps have.

    Attributes:
        steps: How the calls of the UNet are joined; None: each is kept, in an axis of its own.
        calls: Which calls of the UNet are captured, counted from 0; None: all.
        change: Returns what takes the tensor's place, or None to leave it as it is.
        keep: Whether anything is captured; False: it is only changed.
    """

    steps: Steps
    calls: Calls
    change: Change | None
    keep: bool

    def __post_init__(self) -> None:
        """Check what all taps have.

        Raises:
            UsageError: `steps` or `calls` is invalid.
        """
        _one_of(self.steps, "steps", ("mean", "sum", "last"))
        object.__setattr__(self, "calls", _counted(self.calls))

    def takes_call(self, call: int) -> bool:
        """Return whether a call of the UNet is captured."""
        if isinstance(self.calls, slice):
            return call in range(*self.calls.indices(call + 1))
        return self.calls is None or call in ((self.calls,) if isinstance(self.calls, int) else self.calls)


@dataclass(frozen=True)
class MapTap(Tap):
    """Attention maps: see `maps`."""

    selection: Selection
    heads: Heads
    queries: Literal["mean"] | tuple[tuple[int, int], ...] | None
    tokens: slice | tuple[int, ...]
    grad: bool


@dataclass(frozen=True)
class FeatureTap(Tap):
    """Features: see `features`."""

    paths: tuple[str, ...]
    of: Literal["output", "input"]
    fold: Callable[[Tensor], Tensor] | None


@dataclass(frozen=True)
class SkipTap(Tap):
    """Skips: see `skips`."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    index: tuple[int, ...]
    scale: float | None


def maps(
    kind: str | Sequence[str] | None = None,
    stage: str | Sequence[str] | None = None,
    tokens_at: str | int | tuple[int, int] | None = None,
    paths: str | Sequence[str] | None = None,
    *,
    heads: Heads = "mean",
    queries: Literal["mean"] | Sequence[tuple[int, int]] | None = None,
    tokens: slice | Sequence[int] | int | None = None,
    steps: Steps = "mean",
    calls: Calls = None,
    change: Change | None = None,
    keep: bool = True,
    grad: bool = False,
) -> MapTap:
    """Capture attention maps: the probabilities softmax(Q Kᵀ), (image, head, query, token), in float32.

    `kind`, `stage` and `tokens_at` are those of `unetinspect attn`, one or several; `paths` are attention layers. Without
    any of them, all layers are captured. `tokens_at` is the grid of the queries in the pass that runs: at another
    image size, other layers have it.

    heads    "mean", "max" or "var" (the population variance) over the heads; None keeps them
    queries  (y, x) of those to keep; "mean" over all of them is the attention that each token received; None keeps all
    tokens   the keys to keep: a slice, or positions. Over all tokens, a row sums to 1
    steps    "mean" or "sum" over the calls of the UNet, or the "last" of them; None keeps each
    calls    which calls of the UNet to capture, counted from 0; None: all
    change   `change(probs, at)` returns the probabilities to use instead, (batch, heads, queries, keys), or None; the maps
             before the change are captured
    keep     False: nothing is captured, the maps are only changed
    grad     keep the graph, so that a loss of the maps can be differentiated

    Raises:
        UsageError: A value is not one of these.
    """
    if isinstance(queries, str) and queries != "mean":
        raise UsageError(f"unknown queries {queries!r}", hint='queries="mean", or a list of (y, x)')
    return MapTap(
        steps=steps,
        calls=calls,
        change=change,
        keep=keep,
        selection=Selection.of(kind=kind, stage=stage, tokens_at=tokens_at, paths=paths),
        heads=_one_of(heads, "heads", ("mean", "max", "var")),
        queries=queries if queries is None or queries == "mean" else tuple((int(y), int(x)) for y, x in queries),
        tokens=tokens if isinstance(tokens, slice) else slice(None) if tokens is None else _tuple(tokens),
        grad=grad,
    )


def features(
    *paths: str,
    of: Literal["output", "input"] = "output",
    steps: Steps = None,
    calls: Calls = None,
    fold: Callable[[Tensor], Tensor] | None = None,
    change: Change | None = None,
    keep: bool = True,
) -> FeatureTap:
    """Capture the first tensor that modules return, or receive.

    `paths` are those of `unetinspect tree`. `steps` and `calls` are those of `maps`. `fold(tensor)` makes it smaller before
    it is kept. `change(tensor, at)` returns the tensor to use instead, or None; with `keep=False` nothing is captured.

    Raises:
        UsageError: No path is given, or a value is not one of these.
    """
    if not paths:
        raise UsageError("features() needs the path of a module", hint='features("mid_block"); `unetinspect tree` lists them')
    return FeatureTap(
        steps=steps,
        calls=calls,
        change=change,
        keep=keep,
        paths=paths,
        of=_one_of(of, "of", ("output", "input"), or_none=False),
        fold=fold,
    )


def skips(
    source: str | Sequence[str] | None = None,
    target: str | Sequence[str] | None = None,
    index: int | Sequence[int] | None = None,
    *,
    steps: Steps = None,
    calls: Calls = None,
    scale: float | None = None,
    change: Change | None = None,
    keep: bool = True,
) -> SkipTap:
    """Capture skips as they enter the concatenation: what FreeU and a ControlNet did to them is in them.

    `source`, `target` and `index` are columns of `unetinspect skips`, one or several; without any of them, all skips are
    captured. `scale` multiplies the skip; `change(skip, at)` returns the tensor to use instead, or None. `steps` and `calls`
    are those of `maps`. The skip before the change is captured; with `keep=False` nothing is.

    Raises:
        UsageError: A value is not one of these.
    """
    if scale is not None and change is not None:
        raise UsageError("scale and change cannot be used together", hint="multiply in change")
    return SkipTap(
        steps=steps,
        calls=calls,
        change=change,
        keep=keep,
        source=_tuple(source),
        target=_tuple(target),
        index=_tuple(index),
        scale=scale,
    )


def _tuple(values: Any) -> tuple[Any, ...]:
    if values is None:
        return ()
    return (values,) if isinstance(values, str | int) else tuple(values)


def _one_of(value: Any, name: str, known: tuple[str, ...], *, or_none: bool = True) -> Any:
    if value in known or (or_none and value is None):
        return value
    close = nearest_names(str(value), known, count=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    raise UsageError(f"unknown {name} {value!r}", hint=f"{meant}use {', '.join(map(repr, known))}{' or None' if or_none else ''}")


def _counted(calls: Calls) -> Calls:
    """Return which calls are captured, a list or a range as a tuple.

    Raises:
        UsageError: One is counted from the end: how many there will be is not known.
    """
    if calls is None or isinstance(calls, int):
        numbers: tuple[Any, ...] = () if calls is None else (calls,)
    elif isinstance(calls, slice):
        numbers = (calls.start, calls.stop, calls.step)
    else:
        numbers = calls = tuple(calls)
    if any(number is not None and number < 0 for number in numbers):
        raise UsageError("calls are counted from 0: how many there will be is not known", hint='steps="last" keeps the last one')
    return calls
