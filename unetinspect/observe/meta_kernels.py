"""Operations that torch decomposes in Python to find out their result on meta, where that is known at once: shapes alone.

A pass on meta spends most of its time in a few such decompositions (a layer norm takes milliseconds), and nothing in
them is data flow of the UNet. Each kernel here answers for the plain case, and returns None for every other, which torch
then computes, or refuses with its own error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation; on meta, where its result is known at once, make that."""
    kernel = _KERNELS.get(func)
    if kernel is not None and not kwargs and args[0].is_meta:
        result = kernel(*args)
        if result is not None:
            return result
    return func(*args, **kwargs)


def fused_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor | None:
    """Return what fused attention returns on meta, where torch would decompose it and make the map after all.

    query  (batch, heads, query_tokens, head_dim)
    key    (batch, heads, key_tokens, head_dim)
    value  (batch, heads, key_tokens, value_dim)

    None where the tensors are not on meta, or do not fit plainly: torch then computes, or raises its error. As the kernels
    have it, the output lies in memory as the query does: in diffusers the heads of a token side by side, so that joining
    them again afterwards copies nothing.
    """
    fits = query.shape[:-2] == key.shape[:-2] == value.shape[:-2] and query.shape[-1] == key.shape[-1] and key.shape[-2] == value.shape[-2]
    if not (query.is_meta and query.ndim == 4 and fits and query.dtype == key.dtype == value.dtype and _is_plain_mask(mask, query, key)):
        return None
    if value.shape[-1] == query.shape[-1]:
        return torch.empty_like(query)
    batch, heads, tokens, _ = query.shape
    return query.new_empty((batch, tokens, heads, value.shape[-1])).transpose(1, 2)


def _is_plain_mask(mask: Tensor | None, query: Tensor, key: Tensor) -> bool:
    """Tell whether a mask spreads over the map as it is: each axis, counted from behind, has its length or 1."""
    if mask is None:
        return True
    axes = zip(reversed(mask.shape), reversed((*query.shape[:-1], key.shape[-2])), strict=False)
    return mask.ndim <= query.ndim and mask.dtype in (torch.bool, query.dtype) and all(own in (1, of_map) for own, of_map in axes)


def _native_group_norm(
    hidden_states: Tensor, weight: Tensor | None, bias: Tensor | None, batch: int, channels: int, places: int, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return the normalised tensor, and the mean and the inverse deviation of each group.

    hidden_states    (batch, channels, ...)
    mean, deviation  (batch, groups)
    """
    if hidden_states.numel() != batch * channels * places or channels % groups:
        return None
    result = torch.empty_like(hidden_states, memory_format=torch.contiguous_format)
    return result, hidden_states.new_empty((batch, groups)), hidden_states.new_empty((batch, groups))


def _native_layer_norm(
    hidden_states: Tensor, normalized_shape: list[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return the normalised tensor, and the mean and the inverse deviation of each place.

    hidden_states    (..., *normalized_shape)
    mean, deviation  (..., 1, ...)
    """
    inner, outer = len(normalized_shape), hidden_states.shape[: -len(normalized_shape)]
    if tuple(hidden_states.shape[-inner:]) != tuple(normalized_shape) or not _are_alike(normalized_shape, weight, bias):
        return None
    result = torch.empty_like(hidden_states, memory_format=torch.contiguous_format)
    return result, hidden_states.new_empty((*outer, *[1] * inner)), hidden_states.new_empty((*outer, *[1] * inner))


def _addmm(bias: Tensor, left: Tensor, right: Tensor) -> Tensor | None:
    """Return bias + left @ right: a linear layer.

    bias   (out_features,)
    left   (rows, in_features)
    right  (in_features, out_features)
    """
    fits = tuple(bias.shape) == tuple(right.shape[1:]) and bias.dtype == left.dtype and bias.is_meta
    return _mm(left, right) if fits else None


def _mm(left: Tensor, right: Tensor) -> Tensor | None:
    """Return left @ right: a linear layer without a bias.

    left   (rows, in_features)
    right  (in_features, out_features)
    """
    fits = left.ndim == right.ndim == 2 and left.shape[1] == right.shape[0]
    if not (fits and left.dtype == right.dtype and right.is_meta):
        return None
    return left.new_empty((left.shape[0], right.shape[1]))


def _elementwise(left: Any, right: Any) -> Tensor | None:
    """Return the sum, product or quotient of two dense tensors of one shape and one floating-point dtype."""
    if not (isinstance(left, Tensor) and isinstance(right, Tensor) and left.shape == right.shape and left.dtype == right.dtype):
        return None
    plain = left.is_floating_point() and right.is_meta and left.is_contiguous() and right.is_contiguous()
    return torch.empty_like(left) if plain else None


def _are_alike(shape: list[int], *tensors: Tensor | None) -> bool:
    return all(tensor is None or tuple(tensor.shape) == tuple(shape) for tensor in tensors)


_KERNELS: dict[Any, Callable[..., Any]] = {
    _aten.native_group_norm.default: _native_group_norm,
    _aten.native_layer_norm.default: _native_layer_norm,
    _aten.addmm.default: _addmm,
    _aten.mm.default: _mm,
    _aten.add.Tensor: _elementwise,
    _aten.mul.Tensor: _elementwise,
    _aten.div.Tensor: _elementwise,
}
