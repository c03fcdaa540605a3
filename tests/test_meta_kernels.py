"""An operation on meta gives what torch gives there and on the CPU: shape, dtype, strides and errors, by a kernel or by asking torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from tests.tiny import ALL
from unetinspect import trace
from unetinspect.observe import meta_kernels
from unetinspect.observe.tensors import tensors_in

aten = torch.ops.aten
sides = st.integers(1, 5)
shapes = st.lists(sides, min_size=1, max_size=5)
dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])
# What torch computes in single precision where it is asked for half of it: there the CPU alone is right.
NORMS = (aten.native_group_norm.default, aten.native_layer_norm.default)
Arguments = tuple[Any, ...]


def described(value: Any) -> list[tuple[Any, ...]]:
    """Return shape, dtype and strides of a tensor, or of several."""
    return [(tuple(tensor.shape), tensor.dtype, tensor.stride()) for tensor in tensors_in(value)]


def outcome(call: Callable[..., Any], args: Arguments) -> Any:
    """Return what a call makes, or the words with which it fails."""
    try:
        return described(call(*args))
    except (RuntimeError, IndexError) as error:
        return str(error)


def outcome_or_cpus_error(func: Any, args: Arguments) -> Any:
    """Return what an operation makes on meta, or the words with which it fails on the CPU: meta's are not what people look for."""

    def on_cpu(value: Any) -> Any:
        if isinstance(value, list):
            return list(map(on_cpu, value))
        return torch.zeros(value.shape) if isinstance(value, Tensor) else value

    made = outcome(func, args)
    return outcome(func, tuple(map(on_cpu, args))) if isinstance(made, str) else made


def on_meta(value: Any) -> Any:
    """Return tensors of the same layout on meta, alone or in a list."""
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return list(map(on_meta, value)) if isinstance(value, list) else value


def run(func: Any, *args: Any) -> Any:
    """Run an operation as the watched pass does."""
    return meta_kernels.run(func, args, {}, tensors_in(args))


@st.composite
def laid_out(draw: st.DrawFn, shape: Sequence[int], dtype: torch.dtype = torch.float32, *, overlapping: bool = True) -> Tensor:
    """Make a tensor whose axes are in any order, with gaps, expanded (stride 0), and with any stride where the length is 1."""
    if draw(st.booleans()):
        return torch.ones(*shape, dtype=dtype)
    strides, step = [0] * len(shape), 1
    for axis in draw(st.permutations(range(len(shape)))):
        step *= draw(st.sampled_from([1, 1, 1, 2]))
        strides[axis] = step
        step *= shape[axis]
        if shape[axis] == 1 and draw(st.booleans()):
            strides[axis] = draw(st.sampled_from([1, 3, 7, step]))
        if overlapping and draw(st.integers(0, 9)) == 0:
            strides[axis] = 0
    size = 1 + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    return torch.ones(size, dtype=dtype).as_strided(shape, strides)


@st.composite
def one(draw: st.DrawFn, *more: Any) -> Arguments:
    """A tensor in any layout, and numbers."""
    return (draw(laid_out(draw(shapes), draw(dtypes))), *more)


@st.composite
def two(draw: st.DrawFn, *, integers: bool = True, before: bool = False) -> Arguments:
    """Two tensors; in one of them axes may be missing or have length 1. `before` them a condition."""
    shape, dtype = draw(shapes), draw(dtypes | st.just(torch.int64) if integers else dtypes)
    shorter = [draw(st.sampled_from([side, side, 1])) for side in shape][draw(st.integers(0, len(shape) - 1)) :]
    pair = draw(laid_out(shape, dtype)), draw(laid_out(shorter, dtype))
    pair = pair if draw(st.booleans()) else pair[::-1]
    return (pair[0] > 0, *pair) if before else pair


@st.composite
def group_norm(draw: st.DrawFn) -> Arguments:
    """A mean for each group of channels."""
    groups, per_group, inner, dtype = draw(sides), draw(sides), draw(st.lists(sides, min_size=1, max_size=2)), draw(dtypes)
    weight = draw(st.sampled_from([None, torch.ones(groups * per_group, dtype=dtype)]))
    hidden_states = torch.ones(2, groups * per_group, *inner, dtype=dtype)
    return hidden_states, weight, weight, 2, groups * per_group, torch.Size(inner).numel(), groups, 1e-5


@st.composite
def layer_norm(draw: st.DrawFn) -> Arguments:
    """A mean for each position."""
    outer, inner, dtype = draw(shapes), draw(st.lists(sides, min_size=1, max_size=2)), draw(dtypes)
    weight = draw(st.sampled_from([None, torch.ones(inner, dtype=dtype)]))
    return torch.ones(*outer, *inner, dtype=dtype), inner, weight, weight, 1e-5


@st.composite
def product(draw: st.DrawFn, *, bias: bool = False, maps: int = 0) -> Arguments:
    """A linear layer passes its transposed weight, with a bias or without; attention multiplies batches."""
    rows, features, out, dtype = draw(sides), draw(sides), draw(sides), draw(dtypes)
    right = draw(st.sampled_from([torch.ones(out, features, dtype=dtype).t(), torch.ones(features, out, dtype=dtype)]))
    operands = (torch.ones(rows, features, dtype=dtype), right)
    batches = tuple(operand.expand(maps, -1, -1) for operand in operands) if maps else operands
    return (torch.ones(out, dtype=dtype), *batches) if bias else batches


@st.composite
def convolution(draw: st.DrawFn) -> Arguments:
    """Over 1, 2 and 3 axes, strided, padded, dilated, in groups."""
    axes, groups, dtype = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.sampled_from([torch.float32, torch.float64]))

    def each(least: int, most: int) -> list[int]:
        return draw(st.lists(st.integers(least, most), min_size=axes, max_size=axes))

    channels = groups * draw(sides)
    weight = torch.ones(groups * draw(sides), channels // groups, *each(1, 3), dtype=dtype)
    bias = draw(st.sampled_from([None, torch.ones(weight.shape[0], dtype=dtype)]))
    hidden_states = draw(laid_out([draw(sides), channels, *each(6, 9)], dtype))
    return hidden_states, weight, bias, each(1, 3), each(0, 2), each(1, 2), False, [0] * axes, groups


@st.composite
def cat(draw: st.DrawFn) -> Arguments:
    """Tensors that differ in one axis, some of them all channels-last."""
    shape, dtype = draw(st.lists(sides, min_size=2, max_size=5)), draw(dtypes)
    axis = draw(st.integers(0, len(shape) - 1))
    every = [shape, *([*shape[:axis], draw(sides), *shape[axis + 1 :]] for _ in range(draw(st.integers(1, 2))))]
    tensors = [draw(laid_out(own, dtype)) for own in every]
    if len(shape) == 4 and draw(st.booleans()):
        tensors = [tensor.contiguous(memory_format=torch.channels_last) for tensor in tensors]
    return tensors, draw(st.sampled_from([axis, axis - len(shape)]))


@st.composite
def upsampled(draw: st.DrawFn) -> Arguments:
    """To any size, channels-last or not."""
    shape, scale = draw(st.tuples(sides, sides, sides, sides)), draw(st.sampled_from([1.0, 2.0, None]))
    hidden_states = draw(laid_out(shape, overlapping=False))
    if draw(st.booleans()):
        hidden_states = hidden_states.contiguous(memory_format=torch.channels_last)
    return hidden_states, [draw(sides), draw(sides)], scale, scale


@st.composite
def repeated(draw: st.DrawFn) -> Arguments:
    """Along each axis, and along new ones."""
    shape = draw(shapes)
    return draw(laid_out(shape, torch.int64)), draw(st.lists(sides, min_size=len(shape), max_size=len(shape) + 2))


axes_of_any = st.integers(-5, 4)
ELEMENTWISE = {
    **{getattr(aten, name).default: one() for name in ("cos", "exp", "gelu", "sigmoid", "silu", "sin")},
    **dict.fromkeys((aten.mul.Scalar, aten.rsub.Scalar), one(0.5)),
    **dict.fromkeys((aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor), two()),
    aten.div.Tensor: two(integers=False),
    aten.where.self: two(integers=False, before=True),
}
CALLS = {
    **ELEMENTWISE,
    aten._safe_softmax.default: st.builds(lambda scores, axis: (*scores, axis), one(), axes_of_any),
    aten._softmax.default: st.builds(lambda scores, axis: (*scores, axis, False), one(), axes_of_any),
    aten.addmm.default: product(bias=True),
    aten.bmm.default: product(maps=3),
    aten.cat.default: cat(),
    aten.convolution.default: convolution(),
    aten.mm.default: product(),
    aten.native_group_norm.default: group_norm(),
    aten.native_layer_norm.default: layer_norm(),
    aten.repeat.default: repeated(),
    aten.upsample_nearest2d.default: upsampled(),
}


@pytest.mark.parametrize("func", [func for func in meta_kernels._KERNELS if "arange" not in str(func)], ids=str)
@settings(max_examples=40)
@given(data=st.data())
def test_a_kernel_makes_what_torch_makes(func: Any, data: st.DataObject) -> None:
    """Strides included, whatever the layout; on the CPU the same, but for the strides of axes of length 1. Most calls need no torch."""
    args = data.draw(CALLS[func])
    there = tuple(map(on_meta, args))
    expected, tensors = outcome_or_cpus_error(func, there), tensors_in(args)
    is_row_major = all(tensor.stride() == torch.ones(tensor.shape).stride() for tensor in tensors)
    # Left to torch: what it computes in steps, an axis that has the length 1 or gets it, a softmax of what has gaps.
    in_steps = func in ELEMENTWISE and (tensors[-1].dtype.itemsize == 2 or func is aten.gelu.default or tensors[0].ndim != tensors[-1].ndim)
    is_simple = is_row_major or not (in_steps or "softmax" in str(func))
    has_axis = "softmax" not in str(func) or -tensors[0].ndim <= args[1] < tensors[0].ndim

    assert func in NORMS or outcome(partial(run, func), there) == expected
    assert (meta_kernels._KERNELS[func](*there) is not None) >= (is_simple and has_axis)
    if is_row_major and has_axis:
        for found, computed in zip(described(run(func, *there)), described(func(*args)), strict=True):
            assert found[:2] == computed[:2]
            assert all(ours == theirs for ours, theirs, length in zip(found[2], computed[2], found[0], strict=True) if length > 1)


@given(bounds=st.lists(st.integers(0, 9), min_size=1, max_size=2).map(sorted), dtype=st.sampled_from([None, torch.float32, torch.float16]))
def test_ranges(bounds: list[int], dtype: torch.dtype | None) -> None:
    """Whole numbers on meta; on another device torch makes them."""
    func = (aten.arange.default, aten.arange.start)[len(bounds) - 1]
    found = meta_kernels._KERNELS[func](*bounds, dtype=dtype, device=torch.device("meta"), pin_memory=False)

    assert found is not None
    assert described(found) == described(func(*bounds, dtype=dtype, device="meta")) == described(func(*bounds, dtype=dtype))
    assert meta_kernels._KERNELS[func](*bounds, dtype=dtype, device="cpu") is None


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a tensor without memory."""
    return torch.empty(shape, device="meta", dtype=dtype)


@pytest.mark.parametrize(
    ("func", "args"),
    [
        # Promotion and other layouts.
        (aten.mul.Tensor, (meta(2, 3), meta(2, 3, dtype=torch.float16))),
        (aten.div.Tensor, (meta(2, 3, dtype=torch.int64), meta(2, 3, dtype=torch.int64))),
        (aten.add.Tensor, (meta(2, 3, dtype=torch.int64), 1.5)),
        (aten.addmm.default, (meta(1), meta(2, 3), meta(3, 4))),
        (aten.add.Tensor, (meta(2, 3), torch.ones(()))),
        (aten.cat.default, ([meta(2, 3), meta(2, 3, dtype=torch.float16)], 0)),
        (aten._softmax.default, (meta(2, 3).t(), 0, False)),
        (aten.convolution.default, (meta(1, 2, 5, 5), meta(2, 3, 3, 3), None, [1, 1], [1, 1], [1, 1], True, [0, 0], 1)),
        # What does not match fails in the CPU's words.
        (aten.addmm.default, (meta(4), meta(2, 5), meta(3, 4))),
        (aten.mm.default, (meta(2, 5), meta(3, 4))),
        (aten.bmm.default, (meta(2, 2, 5), meta(3, 5, 4))),
        (aten.add.Tensor, (meta(2, 3), meta(2, 4))),
        (aten.native_layer_norm.default, (meta(2, 3), [4], None, None, 1e-5)),
        (aten.cat.default, ([meta(2, 3), meta(3, 4)], 0)),
        (aten.convolution.default, (meta(1, 3, 5, 5), meta(2, 4, 3, 3), None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)),
        (aten.convolution.default, (meta(1, 3, 2, 2), meta(2, 3, 5, 5), None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)),
        (aten.repeat.default, (meta(2, 3), [2])),
    ],
    ids=str,
)
def test_what_has_no_kernel_is_left_to_torch(func: Any, args: Arguments) -> None:
    """Its answer, or the error that it raises on the CPU, to the word."""
    assert meta_kernels._KERNELS[func](*args) is None
    assert outcome(partial(run, func), args) == outcome_or_cpus_error(func, args)


def test_torch_is_asked_once_for_what_has_no_kernel() -> None:
    """For operands of the same layout and numbers of the same type; the answer is a new tensor each time."""
    asked = []

    class Asked(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            asked.append(func)
            return func(*args, **(kwargs or {}))

    hidden_states = meta(2, 3, 4)
    with Asked():
        first, again = (run(aten.mean.dim, hidden_states, [1], True) for _ in range(2))
        other = run(aten.mean.dim, hidden_states, [1], False)

    assert described(first) == described(again) == [((2, 1, 4), torch.float32, (4, 4, 1))]
    assert first is not again
    assert described(other) == [((2, 4), torch.float32, (4, 1))]
    assert asked.count(aten.mean.dim) == 2


def test_views_and_in_place_operations_always_run_in_torch() -> None:
    """Their results share memory with an operand."""
    tensor = meta(2, 3)

    for func, args in ((aten.view.default, ([3, 2],)), (aten._unsafe_view.default, ([6],)), (aten.add_.Tensor, (tensor,))):
        for _ in range(2):
            found = run(func, tensor, *args)
            assert found.untyped_storage()._cdata == tensor.untyped_storage()._cdata


@pytest.mark.parametrize("kind", ["gligen", "k-blocks", "skip-blocks", "cascade-decoder", "svd", "motion"])
def test_a_record_is_the_same_where_torch_makes_every_result(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last byte, for blocks of every sort and for video."""
    ours = trace(ALL[kind], device="meta", cache=False)
    asked: list[Any] = []

    def ask_torch(func: Any, args: Any, kwargs: Any, inputs: Any) -> Any:
        asked.append(func)
        return func(*args, **kwargs)

    monkeypatch.setattr(meta_kernels, "run", ask_torch)

    assert trace(ALL[kind], device="meta", cache=False).to_json() == ours.to_json()
    assert aten.convolution.default in asked


@given(
    axes=st.tuples(sides, sides, sides, sides, sides, sides),
    mask=st.sampled_from([None, "bool", "float", "row"]),
    split=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_fused_attention(axes: tuple[int, ...], mask: str | None, split: bool, dtype: torch.dtype) -> None:
    """The CPU's kernel returns the same, masked or not; `split` as in diffusers: heads from the channels of each token."""
    batch, heads, queries, keys, dim, value_dim = axes
    query = torch.ones(batch, heads, queries, dim, dtype=dtype)
    query = query.transpose(1, 2).contiguous().transpose(1, 2) if split else query
    key, value = (torch.ones(batch, heads, keys, width, dtype=dtype) for width in (dim, value_dim if dtype.itemsize == 4 else dim))
    shape = (batch, 1, 1, keys) if mask == "row" else (queries, keys)
    added = None if mask is None else torch.ones(shape, dtype=torch.bool if mask == "bool" else dtype)
    on_cpu = functional.scaled_dot_product_attention(query, key, value, attn_mask=added)
    made = meta_kernels.fused_attention(*map(on_meta, (query, key, value, added)))

    assert made is not None
    assert (made.shape, made.dtype) == (on_cpu.shape, on_cpu.dtype)
    assert value.shape[-1] != dim or made.transpose(1, 2).is_contiguous() == on_cpu.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize(
    ("key", "value", "mask"),
    [
        ((2, 4, 5, 6), (2, 4, 7, 6), None),  # more values than keys
        ((2, 4, 5, 3), (2, 4, 5, 3), None),  # keys of another width
        ((2, 4, 5, 6), (2, 4, 5, 6), (4, 5)),  # a mask of another size
        ((2, 2, 5, 6), (2, 2, 5, 6), None),  # heads that share keys
    ],
)
def test_attention_that_needs_broadcasting_is_left_to_torch(key: Any, value: Any, mask: Any) -> None:
    """torch then computes it, or raises its own error."""
    assert meta_kernels.fused_attention(meta(2, 4, 3, 6), meta(*key), meta(*value), meta(*mask) if mask else None) is None
