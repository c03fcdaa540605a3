"""Counts multiply-accumulates (MACs), operation by operation, with torch's own formulas (`torch.utils.flop_counter`).

One multiply-accumulate is two of torch's FLOPs. Convolutions and matrix products have a formula; fused attention is
counted from its operands, since torch has no formula for its CPU kernel and decomposes it on meta. An operation without
a formula is listed by name, never counted as zero: only views, copies and the creation of tensors compute nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from typing import Any, Literal

import torch
from msgspec import Struct
from torch.utils.flop_counter import flop_registry

from unetinspect.observe.calls import CallStack, ModuleCall
from unetinspect.record import Shape

MacKind = Literal["conv", "linear", "attention"]

_aten = torch.ops.aten
_CONVOLUTIONS = {_aten.convolution, _aten._convolution, _aten.cudnn_convolution, _aten._slow_conv2d_forward}
_BATCHED_PRODUCTS = {_aten.bmm, _aten.baddbmm}
_PRODUCTS = {_aten.mm, _aten.addmm, _aten._scaled_mm} | _BATCHED_PRODUCTS
_FUSED_ATTENTION = _aten._scaled_dot_product_flash_attention
# torch has no formula for its fused attention on the CPU, and would silently leave it out.
_FORMULAS: dict[Any, Any] = {**flop_registry, _aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[_FUSED_ATTENTION]}

# Operations that are not views and still compute nothing: they create, copy or move tensors.
_MOVERS = {
    *("arange", "empty", "empty_like", "empty_strided", "fill", "fill_", "full", "full_like", "new_empty", "new_empty_strided"),
    *("new_full", "new_ones", "new_zeros", "ones", "ones_like", "scalar_tensor", "zero_", "zeros", "zeros_like"),
    *("alias_copy", "clone", "contiguous", "copy", "copy_", "expand_copy", "lift_fresh", "lift_fresh_copy", "permute_copy"),
    *("split_with_sizes_copy", "view_copy", "_local_scalar_dense", "_reshape_copy", "_to_copy", "_unsafe_view", "unsafe_split"),
    *("cat", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad2d", "repeat", "repeat_interleave", "stack"),
    *("embedding", "gather", "index", "index_select", "_unsafe_index", "select_scatter", "slice_scatter"),
    *("flip", "roll", "pixel_shuffle", "pixel_unshuffle"),
}


class Count(Struct, eq=False):
    """The multiply-accumulates of one operation.

    Attributes:
        call: The module call that ran it.
        macs: The number of multiply-accumulates.
        kind: A matrix product changes from "linear" to "attention" once a softmax is found between two of them.
        is_batched: Whether it is a product of two batches of matrices.
    """

    call: ModuleCall | None
    macs: int
    kind: MacKind
    is_batched: bool = False


class MacWatch:
    """Counts the operations of one pass.

    Attributes:
        counts: One for each operation that has a formula, in the order in which they ran.
        uncounted: How often each operation without a formula ran, by torch's name: "aten.silu".
    """

    def __init__(self, stack: CallStack) -> None:
        self.counts: list[Count] = []
        self.uncounted: Counter[str] = Counter()
        self._stack = stack
        self._known: dict[Any, int] = {}

    def on_operation(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, *, listed: bool = True) -> None:
        """Count an operation; if it has no formula, it is uncounted, unless it ran inside something observed as a whole."""
        kind = _kind(func)
        if kind == "free":
            return
        if kind == "unknown":
            self.uncounted[str(func.overloadpacket)] += listed
            return
        # The formula is applied once for equal shapes: torch takes longer to go through the arguments than to multiply.
        key = (func, *map(_shape, args), *map(_shape, kwargs.items()), _shape(output))
        if key not in self._known:
            self._known[key] = _FORMULAS[func.overloadpacket](*args, **kwargs, out_val=output)
        self.counts.append(Count(self._stack.current, self._known[key] // 2, kind, func.overloadpacket in _BATCHED_PRODUCTS))

    def on_fused_attention(self, query: Shape, key: Shape, value: Shape) -> None:
        """Count scaled-dot-product attention, whose kernel shows no other operation."""
        self.counts.append(Count(self._stack.current, attention_macs(query, key, value), "attention"))


def mark_attention(counts: Sequence[Count]) -> None:
    """Count these matrix products as attention."""
    for count in counts:
        count.kind = "attention"


def attention_macs(query: Shape, key: Shape, value: Shape) -> int:
    """Count the two products of softmax(Q Kᵀ) V, by torch's formula of a batched matrix product.

    query  (..., query_tokens, head_dim)
    key    (..., key_tokens, head_dim); its leading axes may be shorter than the query's: heads may share keys
    value  (..., key_tokens, value_dim)

    >>> attention_macs((2, 8, 4096, 40), (2, 8, 77, 40), (2, 8, 77, 40)) == 2 * 8 * 4096 * 77 * (40 + 40)
    True
    """
    *outer, queries, head_dim = query
    maps, keys, value_dim = prod(outer), key[-2], value[-1]
    product: Callable[..., int] = flop_registry[_aten.bmm]
    scores = product((maps, queries, head_dim), (maps, head_dim, keys))
    read = product((maps, queries, keys), (maps, keys, value_dim))
    return (scores + read) // 2


def _shape(value: Any) -> Any:
    """Return what a formula depends on: a tensor's shape, and everything else as it is, lists as tuples."""
    if isinstance(value, torch.Tensor):
        return value.shape
    return tuple(map(_shape, value)) if isinstance(value, tuple | list) else value


@cache
def _kind(func: Any) -> MacKind | Literal["free", "unknown"]:
    """Return how an operation is counted; cached, since it is asked thousands of times."""
    packet = func.overloadpacket
    if packet in _FORMULAS:
        return "conv" if packet in _CONVOLUTIONS else "linear" if packet in _PRODUCTS else "attention"
    is_mover = func.namespace == "aten" and packet.__name__ in _MOVERS
    return "free" if func.is_view or is_mover else "unknown"
