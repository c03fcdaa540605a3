"""Runs operations on meta fast: a result on meta is only a shape, strides and a dtype.

torch computes most of them in Python, which takes up to milliseconds a call and imports sympy at the first. So the operations
that published UNets run have a kernel here, for operands of one floating-point dtype in any layout; it returns None where torch
has more to decide. For all other operations torch's answer is remembered for operands of the same layout. Errors are those of the CPU,
which people know: meta has other words for some.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from itertools import zip_longest
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from unetinspect.observe.tensors import tensors_in

_aten = torch.ops.aten
_Layout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
# If the CPU runs it after all, this does not take long.
_MOST_ELEMENTS = 2**26
_remembered: dict[Any, _Layout | tuple[_Layout, ...]] = {}


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: Sequence[Tensor]) -> Any:
    """Run an operation, on meta by its kernel if it has one. `inputs` are the tensors among its arguments."""
    if inputs and not inputs[0].is_meta:
        return func(*args, **kwargs)
    kernel = _KERNELS.get(func)
    result = None if kernel is None else kernel(*args, **kwargs)
    if result is not None:
        return result
    try:
        return _recall(func, args, kwargs) if inputs else func(*args, **kwargs)
    except Exception as error:
        raise _error_on_cpu(func, args, kwargs, inputs) or error from None


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs each operation by `run`, and counts them.

    Attributes:
        count: How many there were.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        self.count += 1
        kwargs = kwargs or {}
        # A subclass of torch.Tensor has its own results.
        return func(*args, **kwargs) if types else run(func, args, kwargs, tensors_in([*args, *kwargs.values()]))


def _error_on_cpu(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: Sequence[Tensor]) -> Exception | None:
    """Return what the CPU raises for operands that meta refuses; None: it may run there. They take no memory: one element, repeated."""

    def on_cpu(value: Any) -> Any:
        if isinstance(value, Tensor):
            return torch.zeros((), dtype=value.dtype, device="cpu").expand(value.shape)
        if isinstance(value, list | tuple):
            return type(value)(map(on_cpu, value))
        return {name: on_cpu(item) for name, item in value.items()} if isinstance(value, dict) else value

    if "device" in kwargs or sum(tensor.numel() for tensor in inputs) > _MOST_ELEMENTS:
        return None
    try:
        func(*on_cpu(args), **on_cpu(kwargs))
    except Exception as error:  # as on meta, anything
        return None if "not implemented" in str(error) else error.with_traceback(None)
    return None


def fused_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor | None:
    """Return the result of fused attention on meta, which torch would decompose into steps that make the map.

    query  (batch, heads, query_tokens, head_dim)
    key    (batch, heads, key_tokens, head_dim)
    value  (batch, heads, key_tokens, value_dim)

    None if the tensors are not on meta, or need broadcasting or promotion: torch then computes, or raises its error. As from
    torch's kernels, the output has the layout of the query: in diffusers the heads of a token side by side, so that joining
    them afterwards copies nothing.
    """
    if not is_fused(query, key, value, mask):
        return None
    if value.shape[-1] == query.shape[-1]:
        return _laid_out(query.shape, query.dtype, (query,))
    batch, heads, tokens, _ = query.shape
    return _row_major((batch, tokens, heads, value.shape[-1]), query.dtype).transpose(1, 2)


def is_fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    """Return whether attention of these operands on meta is a single operation: none needs broadcasting or promotion."""
    fits = query.shape[:-2] == key.shape[:-2] == value.shape[:-2] and query.shape[-1] == key.shape[-1] and key.shape[-2] == value.shape[-2]
    is_plain = fits and query.dtype == key.dtype == value.dtype and _is_plain_mask(mask, query, key)
    return query.is_meta and query.ndim == 4 and is_plain


def _is_plain_mask(mask: Tensor | None, query: Tensor, key: Tensor) -> bool:
    """Return whether a mask is broadcast over the map: each axis, counted from the last, has the map's length or 1."""
    if mask is None:
        return True
    axes = zip(reversed(mask.shape), reversed((*query.shape[:-1], key.shape[-2])), strict=False)
    return mask.ndim <= query.ndim and mask.dtype in (torch.bool, query.dtype) and all(own in (1, of_map) for own, of_map in axes)


def _recall(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Ask torch once for the results of an operation that makes new tensors, and repeat the answer for operands of the same layout."""
    if not _makes_new(func):
        return func(*args, **kwargs)
    key = (func, torch.get_default_dtype(), _signature(args), _signature(kwargs))
    known = _remembered.get(key)
    if known is not None:
        return _made(known) if isinstance(known[-1], torch.dtype) else tuple(map(_made, known))
    result = func(*args, **kwargs)
    outputs = tensors_in(result)
    is_whole = len(outputs) == len(func._schema.returns)  # an operation of a backward pass returns None for what is not needed
    if is_whole and all(output.is_meta and output.untyped_storage().nbytes() == _extent(output) for output in outputs):
        layouts = tuple((tuple(output.shape), output.stride(), output.dtype) for output in outputs)
        _remembered[key] = layouts[0] if isinstance(result, Tensor) else layouts
    return result


@cache
def _makes_new(func: Any) -> bool:
    """Return whether the results of an operation share no memory with its inputs, and it changes none of them."""
    schema = func._schema
    returned = all(str(value.type) == "Tensor" and value.alias_info is None for value in schema.returns)
    # `_unsafe_view` is a view that its schema does not declare.
    return returned and not func.is_view and not schema.is_mutable and func is not _aten._unsafe_view.default


def _signature(value: Any) -> Any:
    """Return what a result's layout depends on: the layout of tensors, and other values with their type (1, 1.0 and True differ)."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.is_meta
    if isinstance(value, tuple | list):
        return tuple(map(_signature, value))
    if isinstance(value, dict):
        return tuple((name, _signature(item)) for name, item in value.items())
    return type(value), value


def _made(layout: _Layout) -> Tensor:
    shape, strides, dtype = layout
    return torch.empty_strided(shape, strides, dtype=dtype, device="meta")


def _extent(tensor: Tensor) -> int:
    """Return how many bytes a tensor spans from its first element to its last."""
    last = sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size() if tensor.numel() else 0


def _row_major(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Make a contiguous tensor."""
    return _permuted(shape, dtype, range(len(shape) - 1, -1, -1))


def _permuted(shape: Sequence[int], dtype: torch.dtype, innermost_first: Iterable[int]) -> Tensor:
    return torch.empty_strided(shape, _strides(shape, innermost_first), dtype=dtype, device="meta")


def _strides(shape: Sequence[int], innermost_first: Iterable[int]) -> list[int]:
    strides, step = [1] * len(shape), 1
    for axis in innermost_first:
        strides[axis] = step
        step *= shape[axis] or 1
    return strides


def _is_row_major(tensor: Tensor) -> bool:
    """Return whether every stride is that of `_row_major`, even of axes of length 1, which `is_contiguous` ignores."""
    return list(tensor.stride()) == _strides(tensor.shape, range(tensor.ndim - 1, -1, -1))


def _laid_out(shape: Sequence[int], dtype: torch.dtype, tensors: Sequence[Tensor]) -> Tensor:
    """Make the result of an elementwise operation on operands that are broadcast to this shape: it has their order of axes.

    Source: `compute_elementwise_output_logical_to_physical_perm` in torch/_prims_common, after TensorIterator's reorder_dimensions.
    """
    axes = len(shape)
    if all(map(_is_row_major, tensors)):
        return _row_major(shape, dtype)
    whole = all(tensor.shape == shape for tensor in tensors)
    contiguous = whole and all(tensor.is_contiguous() for tensor in tensors)
    channels_last = whole and axes == 4 and all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in tensors)
    if contiguous != channels_last:
        return _row_major(shape, dtype) if contiguous else _permuted(shape, dtype, (1, 3, 2, 0))
    strides = [_broadcast_strides(tensor, shape) for tensor in tensors]
    order = list(range(axes - 1, -1, -1))
    for place in range(1, axes):
        moving = place
        for other in range(place - 1, -1, -1):
            comparison = _compared(order[other], order[moving], shape, strides)
            if comparison > 0:
                order[other], order[moving] = order[moving], order[other]
                moving = other
            elif comparison < 0:
                break
    return _permuted(shape, dtype, order)


def _broadcast_strides(tensor: Tensor, shape: Sequence[int]) -> list[int]:
    """Return the strides of a tensor that is broadcast to a shape: 0 along an axis that is missing or has length 1."""
    missing = len(shape) - tensor.ndim
    own = zip(tensor.shape, tensor.stride(), shape[missing:], strict=True)
    return [0] * missing + [stride if length == wanted else 0 for length, stride, wanted in own]


def _compared(inner: int, outer: int, shape: Sequence[int], strides: Sequence[Sequence[int]]) -> int:
    """Return whether two axes are swapped (1) or not (-1), or 0 if no operand decides."""
    for own in strides:
        if own[inner] and own[outer]:
            if own[inner] != own[outer]:
                return -1 if own[inner] < own[outer] else 1
            if shape[inner] > shape[outer]:
                return 1
    return 0


def _is_channels_last(tensor: Tensor) -> bool:
    """Return whether torch's `suggest_memory_format` would be channels-last."""
    least = 0
    for axis in (1, *range(tensor.ndim - 1, 1, -1), 0):
        length, stride = tensor.shape[axis], tensor.stride()[axis]
        if not length or stride < least or (axis == 0 and least == tensor.stride()[1]):
            return False
        least = stride * length
    return tensor.ndim in (4, 5) and tensor.stride()[1] != 0


def _are_alike(dtype: torch.dtype, *tensors: Tensor) -> bool:
    """Return whether operands are on meta and of one floating-point dtype, so that torch promotes nothing."""
    return dtype.is_floating_point and all(tensor.is_meta and tensor.dtype == dtype for tensor in tensors)


def _elementwise(*operands: Any, of_integers: bool = False, in_steps: bool = False, **options: Any) -> Tensor | None:
    """Return a sum, a product, an activation, ... of tensors, which are broadcast, and numbers.

    of_integers  whether operands may be integers, and the result is then too
    in_steps     whether torch computes it in several steps, as it does everything in half precision, with casts: after the
                 first step no operand has gaps, and the strides of axes of length 1 may differ
    """
    tensors = [operand for operand in operands if isinstance(operand, Tensor)]
    dtype = tensors[0].dtype
    if of_integers and dtype == torch.int64 and len(tensors) == len(operands):
        promotes = any(not tensor.is_meta or tensor.dtype != dtype for tensor in tensors)
    else:
        promotes = not (_are_alike(dtype, *tensors) and all(isinstance(operand, Tensor | int | float) for operand in operands))
    if promotes:
        return None
    shape = _broadcast_shape(tensors)
    if (in_steps or dtype.itemsize < 4) and not all(map(_is_row_major, tensors)):
        if any(1 in tensor.shape for tensor in tensors):
            return None
        tensors = [_laid_out(tensor.shape, dtype, (tensor,)) for tensor in tensors]
    return None if shape is None else _laid_out(shape, dtype, tensors)


def _broadcast_shape(tensors: Sequence[Tensor]) -> Sequence[int] | None:
    """Return the shape to which tensors are broadcast.

    None if that fails, or if one gets an axis of length 1, which may have any stride, and not all are contiguous.
    """
    shape: Sequence[int] = tensors[0].shape
    for tensor in tensors[1:]:
        if tensor.shape != shape:
            sides = [*zip_longest(reversed(shape), reversed(tensor.shape), fillvalue=1)]
            if not all(one == other or 1 in (one, other) for one, other in sides):
                return None
            shape = tuple(other if one == 1 else one for one, other in reversed(sides))
    unclear = 1 in shape and any(tensor.ndim < len(shape) for tensor in tensors) and not all(map(_is_row_major, tensors))
    return None if unclear else shape


def _where(condition: Tensor, *choices: Tensor) -> Tensor | None:
    if not (condition.is_meta and condition.dtype == torch.bool and _are_alike(choices[0].dtype, *choices)):
        return None
    shape = _broadcast_shape((condition, *choices))
    return None if shape is None else _laid_out(shape, choices[0].dtype, (condition, *choices))


def _softmax(scores: Tensor, dim: int, *options: Any, **more: Any) -> Tensor | None:
    changes_dtype = any(options) or any(value is not None for value in more.values())
    if changes_dtype or not -scores.ndim <= dim < scores.ndim or not scores.is_contiguous() or not _are_alike(scores.dtype, scores):
        return None
    return _row_major(scores.shape, scores.dtype)


def _native_group_norm(
    hidden_states: Tensor, weight: Tensor | None, bias: Tensor | None, batch: int, channels: int, places: int, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return the normalized tensor, and the mean and the inverse deviation of each group.

    hidden_states    (batch, channels, ...)
    mean, deviation  (batch, groups)
    """
    if hidden_states.numel() != batch * channels * places or channels % groups:
        return None
    dtype = hidden_states.dtype
    return _row_major(hidden_states.shape, dtype), _row_major((batch, groups), dtype), _row_major((batch, groups), dtype)


def _native_layer_norm(
    hidden_states: Tensor, normalized_shape: list[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return the normalized tensor, and the mean and the inverse deviation at each position.

    hidden_states    (..., *normalized_shape)
    mean, deviation  (..., 1, ...)
    """
    inner = tuple(normalized_shape)
    fits = all(tensor is None or tensor.shape == inner for tensor in (weight, bias))
    if not fits or hidden_states.shape[-len(inner) :] != inner:
        return None
    places, dtype = (*hidden_states.shape[: -len(inner)], *[1] * len(inner)), hidden_states.dtype
    return _row_major(hidden_states.shape, dtype), _row_major(places, dtype), _row_major(places, dtype)


def _addmm(bias: Tensor, left: Tensor, right: Tensor) -> Tensor | None:
    """Return bias + left @ right: a linear layer.

    bias   (out_features,)
    left   (rows, in_features)
    right  (in_features, out_features)
    """
    fits = bias.shape == right.shape[1:] and bias.dtype == left.dtype and bias.is_meta
    return _mm(left, right) if fits else None


def _mm(left: Tensor, right: Tensor) -> Tensor | None:
    """Return left @ right: a linear layer without a bias, or a batch of products.

    left   (..., rows, in_features)
    right  (..., in_features, out_features)
    """
    fits = left.shape[:-2] == right.shape[:-2] and left.shape[-1] == right.shape[-2]
    if not (fits and left.dtype == right.dtype and right.is_meta):
        return None
    return _row_major((*left.shape[:-1], right.shape[-1]), left.dtype)


def _convolution(
    hidden_states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    *others: Any,
) -> Tensor | None:
    """Return a convolution over 1, 2 or 3 axes; a side is (side + 2 padding - dilation (kernel - 1) - 1) / stride + 1, rounded down.

    hidden_states  (batch, in_channels, ...)
    weight         (out_channels, in_channels / groups, ...)
    bias           (out_channels,)
    others         transposed, output_padding, groups
    """
    transposed, _, groups = others
    kernel = weight.shape[2:]
    batch, channels, *sides = hidden_states.shape
    fits = len(sides) == len(kernel) and channels == weight.shape[1] * groups and weight.shape[0] % groups == 0
    fits = fits and (bias is None or bias.shape == weight.shape[:1])
    if transposed or not fits or not _are_alike(hidden_states.dtype, hidden_states, *(t for t in (weight, bias) if t is not None)):
        return None
    if not len(sides) == len(stride) == len(padding) == len(dilation):
        return None
    room = [side + 2 * pad - step * (width - 1) - 1 for side, pad, step, width in zip(sides, padding, dilation, kernel, strict=True)]
    if min(room) < 0 or prod(hidden_states.shape) == 0:
        return None
    return _row_major((batch, weight.shape[0], *(left // step + 1 for left, step in zip(room, stride, strict=True))), weight.dtype)


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first = tensors[0]
    if not -first.ndim <= dim < first.ndim or not _are_alike(first.dtype, *tensors):
        return None
    axis = dim % first.ndim
    around = (first.shape[:axis], first.shape[axis + 1 :])
    if any((tensor.shape[:axis], tensor.shape[axis + 1 :]) != around for tensor in tensors):
        return None
    shape = (*around[0], sum(tensor.shape[axis] for tensor in tensors), *around[1])
    return _formatted(shape, first.dtype, tensors)


def _formatted(shape: Sequence[int], dtype: torch.dtype, tensors: Sequence[Tensor]) -> Tensor:
    """Make a tensor that is channels-last if all of the given ones are."""
    if all(map(_is_channels_last, tensors)):
        return _permuted(shape, dtype, (1, *range(len(shape) - 1, 1, -1), 0))
    return _row_major(shape, dtype)


def _upsample_nearest2d(hidden_states: Tensor, output_size: list[int], *scales: float | None) -> Tensor | None:
    if hidden_states.ndim != 4 or min(*output_size, hidden_states.numel()) <= 0:
        return None
    shape = (*hidden_states.shape[:2], *output_size)
    # With one channel or one pixel, the two layouts are the same.
    either = 1 in (shape[1], shape[2] * shape[3])
    return _row_major(shape, hidden_states.dtype) if either else _formatted(shape, hidden_states.dtype, (hidden_states,))


def _repeat(tensor: Tensor, repeats: list[int]) -> Tensor | None:
    missing = len(repeats) - tensor.ndim
    if missing < 0 or min(repeats) < 1:
        return None
    return _row_major([times * length for times, length in zip(repeats, (*[1] * missing, *tensor.shape), strict=True)], tensor.dtype)


def _arange(*bounds: Any, dtype: torch.dtype | None = None, device: Any = None, **options: Any) -> Tensor | None:
    first, last = bounds if len(bounds) == 2 else (0, *bounds)
    if str(device) != "meta" or not isinstance(first, int) or not isinstance(last, int) or last < first:
        return None
    return _row_major((last - first,), dtype or torch.int64)


_FLOATING = (
    *(getattr(_aten, name).default for name in ("cos", "exp", "sigmoid", "silu", "sin")),
    *(_aten.div.Tensor, _aten.mul.Scalar, _aten.rsub.Scalar),
)
_KERNELS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(_FLOATING, _elementwise),
    **dict.fromkeys((_aten.arange.default, _aten.arange.start), _arange),
    _aten.gelu.default: partial(_elementwise, in_steps=True),
    **dict.fromkeys((_aten.add.Tensor, _aten.mul.Tensor, _aten.sub.Tensor), partial(_elementwise, of_integers=True)),
    _aten._safe_softmax.default: _softmax,
    _aten._softmax.default: _softmax,
    _aten.addmm.default: _addmm,
    _aten.bmm.default: _mm,
    _aten.cat.default: _cat,
    _aten.convolution.default: _convolution,
    _aten.mm.default: _mm,
    _aten.native_group_norm.default: _native_group_norm,
    _aten.native_layer_norm.default: _native_layer_norm,
    _aten.repeat.default: _repeat,
    _aten.upsample_nearest2d.default: _upsample_nearest2d,
    _aten.where.self: _where,
}
