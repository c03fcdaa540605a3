"""Counts multiply-accumulates (MACs), operation by operation, with torch's own formulas (`torch.utils.flop_counter`).

One multiply-accumulate is two of torch's FLOPs. Convolutions and matrix products have a formula; fused attention is
counted from its operands, since torch has no formula for its CPU kernel and decomposes it on meta. What has none is
written down by name, never taken for nothing: only views, copies and what makes an empty tensor compute nothing.
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
# Torch has no formula for its fused attention on the CPU, and would leave it out without a word.
_FORMULAS: dict[Any, Any] = {**flop_registry, _aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[_FUSED_ATTENTION]}

# Operations that are no views and compute nothing all the same: they make, copy or move tensors.
_MOVERS = {
    *(
        "alias_copy",
        "arange",
        "cat",
        "clone",
        "constant_pad_nd",
        "contiguous",
        "copy",
        "copy_",
        "_to_copy",
        "lift_fresh",
        "lift_fresh_copy",
    ),
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "fill", "fill_", "full", "full_like", "new_full"),
    *("ones", "ones_like", "new_ones", "zeros", "zeros_like", "new_zeros", "zero_", "scalar_tensor", "_local_scalar_dense"),
    *("embedding", "flip", "gather", "index", "index_select", "reflection_pad1d", "reflection_pad2d", "replication_pad2d", "repeat"),
    *("repeat_interleave", "roll", "select_scatter", "slice_scatter", "stack", "_unsafe_view", "_reshape_copy", "expand_copy", "view_copy"),
    *("permute_copy", "pixel_shuffle", "pixel_unshuffle", "split_with_sizes_copy", "unsafe_split", "_unsafe_index"),
}


class Count(Struct, eq=False):
    """The multiply-accumulates of one operation.

    Attributes:
        call: The module call that ran it.
        macs: How many.
        kind: What it is; a matrix product turns from "linear" to "attention" once a softmax has stood between two of them.
        is_batched: Whether it is a product of two batches of matrices.
    """

    call: ModuleCall | None
    macs: int
    kind: MacKind
    is_batched: bool = False


class MacWatch:
    """Counts the operations of one pass.

    Attributes:
        counts: Those that have a formula, in the order in which they ran.
        uncounted: How often each operation ran that has none, by torch's name of it: "aten.silu".
    """

    def __init__(self, stack: CallStack) -> None:
        self.counts: list[Count] = []
        self.uncounted: Counter[str] = Counter()
        self._stack = stack
        self._known: dict[Any, int] = {}

    def on_operation(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, *, listed: bool = True) -> None:
        """Count an operation that ran; one without a formula is listed, but for those inside what is looked at as a whole."""
        kind = _kind(func)
        if kind == "free":
            return
        if kind == "unknown":
            self.uncounted[str(func.overloadpacket)] += listed
            return
        flops = self._flops(func, args, kwargs, output)
        self.counts.append(Count(self._stack.current, flops // 2, kind, func.overloadpacket in _BATCHED_PRODUCTS))

    def _flops(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> int:
        """Ask the formula, once for arguments alike: going through them costs torch more than the multiplication."""
        key = (func, *map(_shape, args), *map(_shape, kwargs.items()), _shape(output))
        if key not in self._known:
            self._known[key] = _FORMULAS[func.overloadpacket](*args, **kwargs, out_val=output)
        return self._known[key]

    def on_fused_attention(self, query: Shape, key: Shape, value: Shape) -> None:
        """Count scaled-dot-product attention, of whose kernel nothing else is seen."""
        self.counts.append(Count(self._stack.current, attention_macs(query, key, value), "attention"))


def mark_attention(counts: Sequence[Count]) -> None:
    """Turn matrix products that were found to be those of an attention into that."""
    for count in counts:
        count.kind = "attention"


def attention_macs(query: Shape, key: Shape, value: Shape) -> int:
    """Count the two products of softmax(Q Kᵀ) V, by torch's formula of a batched matrix product.

    query  (..., query_tokens, head_dim)
    key    (..., key_tokens, head_dim), over whose leading axes the queries' count: keys may be shared by heads
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
    """Return what a formula looks at: a tensor's shape, and everything else as it is, lists as tuples."""
    if isinstance(value, torch.Tensor):
        return value.shape
    return tuple(map(_shape, value)) if isinstance(value, tuple | list) else value


@cache
def _kind(func: Any) -> MacKind | Literal["free", "unknown"]:
    """Say what counts an operation; asked for each of thousands, and hence remembered."""
    packet = func.overloadpacket
    if packet in _FORMULAS:
        return "conv" if packet in _CONVOLUTIONS else "linear" if packet in _PRODUCTS else "attention"
    is_mover = func.namespace == "aten" and packet.__name__ in _MOVERS
    return "free" if func.is_view or is_mover else "unknown"
