"""Finds attention by the products that are computed: softmax(Q Kᵀ) V, fused or in three steps.

Fused, it is one call of `scaled_dot_product_attention`, or of what `nn.MultiheadAttention` calls. In three steps (legacy
and sliced processors, attention pooling) it is a batched product, a softmax over it, and a product of that with the
values; the marks that `Provenance` passes on through scaling, masks and casts connect the three. Names of modules and
processors do not matter.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from unetinspect.observe import meta_kernels
from unetinspect.observe.calls import CallStack, ModuleCall
from unetinspect.observe.frames import FrameAxis
from unetinspect.observe.macs import Count, MacWatch, mark_attention
from unetinspect.observe.memory import MemoryWatch
from unetinspect.observe.provenance import Origin, Provenance
from unetinspect.observe.tensors import tensors_in
from unetinspect.record import AttentionKind, Shape

if TYPE_CHECKING:
    from collections.abc import Iterator

_PRODUCTS = {
    *(torch.bmm, torch.baddbmm, torch.matmul, torch.einsum),
    *(torch.Tensor.bmm, torch.Tensor.baddbmm, torch.Tensor.matmul, torch.Tensor.__matmul__),
}
_SOFTMAXES = {torch.softmax, torch.Tensor.softmax, functional.softmax}
_SCORES = "scores"
_WEIGHTS = "attention_weights"


class Scores(NamedTuple):
    """A product Q Kᵀ: the size of its operands, the origin of the keys, whether the queries are frames, and its MACs."""

    query_numel: int
    key_numel: int
    key_origin: Origin
    is_temporal: bool
    counts: Sequence[Count]


@dataclass(slots=True, eq=False)
class AttentionProduct:
    """One attention, as it was computed.

    Attributes:
        owner: The call of the module that has the projections.
        query_shape: (batch, heads, query_tokens, head_dim).
        key_shape: (batch, heads, key_tokens, head_dim).
        value_shape: (batch, heads, key_tokens, value_dim).
        kind: Where the keys come from.
        processor: The class that computed it, None if the owner itself did.
        itemsize: Bytes of one element of the map.
        materialised: Whether the map was in memory.
    """

    owner: ModuleCall
    query_shape: tuple[int, int, int, int]
    key_shape: tuple[int, int, int, int]
    value_shape: tuple[int, int, int, int]
    kind: AttentionKind
    processor: str | None
    itemsize: int
    materialised: bool


class AttentionWatch(TorchFunctionMode):
    """Collects the attention products of one pass, in the order in which they were computed.

    Attributes:
        products: What was seen.
        inside: What is running whose operations are not followed: a fused kernel (on meta it decomposes, on a GPU it does
            not), or a whole `nn.MultiheadAttention` layer, whose projections still count as costs.
    """

    def __init__(self, provenance: Provenance, stack: CallStack, frames: FrameAxis, macs: MacWatch, memory: MemoryWatch) -> None:
        super().__init__()
        self.products: list[AttentionProduct] = []
        self.inside: Literal["kernel", "layer"] | None = None
        self._macs = macs
        self._memory = memory
        self._provenance = provenance
        self._stack = stack
        self._frames = frames

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            return self._fused_attention(func, args, kwargs)
        if func is functional.multi_head_attention_forward:
            return self._multi_head_attention(func, args, kwargs)
        counted = len(self._macs.counts)
        output = func(*args, **kwargs)
        if func in _PRODUCTS:
            self._on_product(args, kwargs, output, self._macs.counts[counted:])
        elif func in _SOFTMAXES:
            scores = self._provenance.of(args[0] if args else kwargs["input"]).marks.get(_SCORES)
            self._provenance.mark(output, **{_SCORES: None, _WEIGHTS: scores})
        return output

    def _fused_attention(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = {**dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)), **kwargs}
        query, key, value = named["query"], named["key"], named["value"]
        with self._looking_away("kernel"):
            output = meta_kernels.fused_attention(query, key, value, named.get("attn_mask"))
            output = func(*args, **kwargs) if output is None else output
            self._memory.on_fused_attention(func, args, kwargs, output)
        self._macs.on_fused_attention(tuple(query.shape), tuple(key.shape), tuple(value.shape))
        self._provenance.apply("scaled_dot_product_attention", tensors_in([args, kwargs]), [output])
        self._frames.same_axes(query, output)
        self._add(
            shapes=(tuple(query.shape), tuple(key.shape), tuple(value.shape)),
            key_origin=self._provenance.of(key),
            is_temporal=self._frames.is_along_frames(query),
            itemsize=query.element_size(),
            materialised=False,
        )
        return output

    def _multi_head_attention(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Observe `nn.MultiheadAttention` as a whole: torch shows function modes nothing that is computed inside.

        query  (query_tokens, batch, channels)
        key    (key_tokens, batch, key_channels)

        The axis of the batch may be missing. torch does not take its fast path of eval mode while a mode is active.
        """
        named = inspect.signature(func).bind(*args, **kwargs).arguments
        query, key, heads = named["query"], named["key"], named["num_heads"]
        counted = len(self._macs.counts)
        with self._looking_away("layer"):
            output = func(*args, **kwargs)
        mark_attention([count for count in self._macs.counts[counted:] if count.is_batched])
        self._provenance.apply("multi_head_attention_forward", tensors_in([args, kwargs]), tensors_in(output))
        self._frames.same_axes(query, output[0])
        batch = query.shape[1] if query.ndim == 3 else 1
        keys = key.shape[0] + (named["bias_k"] is not None) + named["add_zero_attn"]
        query_shape, key_shape = ((batch, heads, tokens, query.shape[-1] // heads) for tokens in (query.shape[0], keys))
        self._add(
            shapes=(query_shape, key_shape, key_shape),
            key_origin=self._provenance.of(key),
            is_temporal=self._frames.is_along_frames(query, axis=0),
            itemsize=query.element_size(),
            materialised=named.get("need_weights", True),
        )
        return output

    @contextmanager
    def _looking_away(self, inside: Literal["kernel", "layer"]) -> Iterator[None]:
        self.inside = inside
        try:
            yield
        finally:
            self.inside = None

    def _on_product(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor, counts: Sequence[Count]) -> None:
        operands = tensors_in([args, kwargs])[-2:]  # the first tensor of baddbmm is added to the product
        if len(operands) < 2 or output.ndim < 3:
            return
        left, right = operands
        scores = self._provenance.of(left).marks.get(_WEIGHTS)
        if scores is None:
            found = Scores(left.numel(), right.numel(), self._provenance.of(right), self._frames.is_along_frames(left), counts)
            self._provenance.mark(output, **{_SCORES: found, _WEIGHTS: None})
            return
        mark_attention([*scores.counts, *counts])
        *outer, queries, keys = left.shape
        maps = prod(outer)
        head_dim, value_dim = scores.query_numel // (maps * queries), right.numel() // (maps * keys)
        self._add(
            shapes=((*outer, queries, head_dim), (*outer, keys, head_dim), (*outer, keys, value_dim)),
            key_origin=scores.key_origin,
            is_temporal=scores.is_temporal,
            itemsize=left.element_size(),
            materialised=True,
        )

    def _add(self, *, shapes: tuple[Shape, Shape, Shape], key_origin: Origin, is_temporal: bool, itemsize: int, materialised: bool) -> None:
        executing = self._stack.current
        if executing is None:
            return
        owner, processor = _owner(executing)
        query, key, value = (_four_axes(shape, owner.module) for shape in shapes)
        kind = _kind(owner, key_origin, queries=query[2], keys=key[2])
        kind = "temporal" if kind == "self" and is_temporal else kind
        product = AttentionProduct(owner, query, key, value, kind, processor, itemsize, materialised)
        previous = self.products[-1] if self.products else None
        if previous is not None and _is_slice(previous, product):
            self.products[-1] = _joined(previous, product)
        else:
            self.products.append(product)


def _owner(executing: ModuleCall) -> tuple[ModuleCall, str | None]:
    """Return the call whose module has the projections, and the class of its processor.

    A processor that is a module itself (IP-Adapter's) runs as a call of its own, inside that of its attention module.
    """
    parent = executing.parent
    if parent is not None and getattr(parent.module, "processor", None) is executing.module:
        executing = parent
    processor = getattr(executing.module, "processor", None)
    return executing, None if processor is None else type(processor).__name__


def _four_axes(shape: Shape, module: nn.Module) -> tuple[int, int, int, int]:
    """Return (batch, heads, tokens, dim); if the heads are folded into the batch, by the module's own number of heads."""
    *outer, tokens, dim = shape
    if len(outer) == 2:
        return outer[0], outer[1], tokens, dim
    maps = prod(outer)
    heads = next((heads for name in ("heads", "num_heads") if isinstance(heads := getattr(module, name, None), int)), 1)
    return (maps // heads, heads, tokens, dim) if heads and maps % heads == 0 else (maps, 1, tokens, dim)


def _kind(owner: ModuleCall, key_origin: Origin, *, queries: int, keys: int) -> AttentionKind:
    """Return the kind of an attention, by the arguments of the owner from which the keys descend; a single query is pooling.

    The owner's caller may already have put the hidden states into another argument, as Stable Cascade's block does: then
    the keys descend from the module that made the hidden states, but not from the owner's own argument.
    """
    if not owner.arguments:
        return "cross"
    hidden, *others = owner.arguments
    from_hidden = key_origin.descends_from(hidden.bit)
    from_others = any(key_origin.descends_from(other.bit) for other in others)
    made_by = hidden.made_by.bit if hidden.made_by else None
    if from_others and (from_hidden or key_origin.descends_from(made_by)):
        return "joint"
    if not from_hidden:
        return "cross"
    return "pooling" if queries == 1 < keys else "self"


def _is_slice(first: AttentionProduct, second: AttentionProduct) -> bool:
    """Return whether two products are slices of one attention, computed in parts to save memory."""
    if first.owner is not second.owner or not (first.materialised and second.materialised) or not first.owner.in_shape:
        return False
    whole = first.owner.in_shape[0] * getattr(first.owner.module, "heads", 1)
    return first.key_shape[2:] == second.key_shape[2:] and first.query_shape[0] * first.query_shape[1] < whole


def _joined(first: AttentionProduct, second: AttentionProduct) -> AttentionProduct:
    maps = [product.query_shape[0] * product.query_shape[1] for product in (first, second)]

    def joined(shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        return _four_axes((sum(maps), *shape[2:]), first.owner.module)

    return replace(first, query_shape=joined(first.query_shape), key_shape=joined(first.key_shape), value_shape=joined(first.value_shape))
