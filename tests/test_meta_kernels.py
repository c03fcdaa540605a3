"""What is made at once on meta is what torch makes there, and computes on the CPU: shapes, dtypes, strides; the rest is left to torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kinds_other import KINDS as OTHER_KINDS
from tests.kinds_video import KINDS as VIDEO_KINDS
from tests.tiny import KINDS
from unetinspect import trace
from unetinspect.observe import meta_kernels
from unetinspect.observe.tensors import tensors_in

aten = torch.ops.aten
sides = st.integers(1, 5)
shapes = st.lists(sides, min_size=1, max_size=5)
dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])
UNARY = [func for func in meta_kernels._FLOATING if str(func).endswith(".default")]
IN_STEPS = meta_kernels._IN_STEPS
WITH_NUMBER = [func for func in meta_kernels._FLOATING if str(func).endswith("Scalar")]
WITH_TENSOR = [aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor]


def described(value: Any) -> list[tuple[Any, ...]]:
    """Return what a tensor on meta can be told by."""
    tensors = value if isinstance(value, tuple) else (value,)
    return [(tuple(tensor.shape), tensor.dtype, tensor.stride()) for tensor in tensors]


def on_meta(value: Any) -> Any:
    """Return tensors of the same layout on meta, alone or in a list."""
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return list(map(on_meta, value)) if isinstance(value, list) else value


def made(func: Any, *args: Any, may_leave_it: bool = False) -> Any:
    """Return what the kernel makes, and demand that torch would make the very same on meta."""
    args = tuple(map(on_meta, args))
    found = meta_kernels._KERNELS[func](*args)

    assert found is not None or may_leave_it
    assert found is None or described(found) == described(func(*args))
    return found


def held_against_the_cpu(func: Any, *args: Any) -> None:
    """Demand that torch makes the same on meta and on the CPU, where the stride of an axis of length 1 is anyone's guess."""
    for found, computed in zip(described(made(func, *args)), described(func(*args)), strict=True):
        assert found[:2] == computed[:2]
        assert all(one == other for one, other, length in zip(found[2], computed[2], found[0], strict=True) if length > 1)


@st.composite
def laid_out(draw: st.DrawFn, shape: Sequence[int], dtype: torch.dtype = torch.float32, *, overlapping: bool = True) -> Tensor:
    """Make a tensor whose axes lie in any order, with gaps, spread (stride 0), and with any stride where the length is 1."""
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
def spread_over_each_other(draw: st.DrawFn, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Make two tensors, of which the one or the other may lack axes, or have them once."""
    shape = draw(shapes)
    shorter = [draw(st.sampled_from([side, side, 1])) for side in shape][draw(st.integers(0, len(shape) - 1)) :]
    pair = draw(laid_out(shape, dtype)), draw(laid_out(shorter, dtype))
    return pair if draw(st.booleans()) else pair[::-1]


@given(batch=sides, groups=sides, per_group=sides, height=sides, width=sides, weighted=st.booleans(), dtype=dtypes)
def test_group_norm(*, batch: int, groups: int, per_group: int, height: int, width: int, weighted: bool, dtype: torch.dtype) -> None:
    """A mean and a deviation for each group; half precision keeps them in its own dtype, as it does on the CPU."""
    channels = groups * per_group
    weight = torch.ones(channels, dtype=dtype) if weighted else None
    args = (torch.ones(batch, channels, height, width, dtype=dtype), weight, weight, batch, channels, height * width, groups, 1e-5)
    found = meta_kernels._KERNELS[aten.native_group_norm.default](*map(on_meta, args))

    # Torch's own meta takes the mean of half precision in float32, which no kernel does.
    assert described(found) == described(aten.native_group_norm.default(*args))


@given(outer=st.lists(sides, min_size=1, max_size=3), inner=st.lists(sides, min_size=1, max_size=2), weighted=st.booleans(), dtype=dtypes)
def test_layer_norm(outer: list[int], inner: list[int], weighted: bool, dtype: torch.dtype) -> None:
    """A mean and a deviation for each place."""
    weight = torch.ones(inner, dtype=dtype) if weighted else None
    args = (torch.ones(*outer, *inner, dtype=dtype), inner, weight, weight, 1e-5)
    found = meta_kernels._KERNELS[aten.native_layer_norm.default](*map(on_meta, args))

    assert described(found) == described(aten.native_layer_norm.default(*args))


@given(rows=sides, features=sides, out=sides, maps=sides, transposed=st.booleans(), dtype=dtypes)
def test_products_of_matrices(*, rows: int, features: int, out: int, maps: int, transposed: bool, dtype: torch.dtype) -> None:
    """A linear layer gives its transposed weight, and has a bias or none; attention multiplies maps."""
    right = torch.ones(out, features, dtype=dtype).t() if transposed else torch.ones(features, out, dtype=dtype)
    left = torch.ones(rows, features, dtype=dtype)

    held_against_the_cpu(aten.addmm.default, torch.ones(out, dtype=dtype), left, right)
    held_against_the_cpu(aten.mm.default, left, right)
    held_against_the_cpu(aten.bmm.default, left.expand(maps, -1, -1), right.expand(maps, -1, -1))


@pytest.mark.parametrize("func", [*UNARY, *IN_STEPS, *WITH_NUMBER, *WITH_TENSOR, aten.empty_like.default, aten.where.self], ids=str)
@given(data=st.data(), dtype=dtypes)
def test_elementwise(func: Any, data: st.DataObject, dtype: torch.dtype) -> None:
    """Any layout: what the operands lie like, the result does, axes of length 1 included."""
    one, other = data.draw(spread_over_each_other(dtype))
    given_to = {
        aten.where.self: (one > 0, one, other),
        **dict.fromkeys(WITH_TENSOR, (one, other)),
        **dict.fromkeys(WITH_NUMBER, (one, 0.5)),
    }
    args = given_to.get(func, (one,))
    # What torch computes in steps it is asked for where operands lie differently, or an axis has the length 1 or gets it.
    made(func, *args, may_leave_it=dtype.itemsize == 2 or func in IN_STEPS or one.ndim != other.ndim)
    row_major = (torch.ones(one.shape, dtype=dtype), torch.ones(other.shape, dtype=dtype))
    if func in WITH_TENSOR:
        held_against_the_cpu(func, *row_major)
    elif func in (*UNARY, *IN_STEPS):
        held_against_the_cpu(func, row_major[0])


@given(pair=spread_over_each_other(torch.int64))
def test_integers_stay_integers_where_they_are_added_or_multiplied(pair: tuple[Tensor, Tensor]) -> None:
    """A quotient is left to torch."""
    for func in (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor):
        made(func, *pair, may_leave_it=pair[0].ndim != pair[1].ndim)

    assert meta_kernels._KERNELS[aten.div.Tensor](*map(on_meta, pair)) is None


@given(data=st.data(), axes=st.integers(1, 3), groups=st.integers(1, 2), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_convolution(data: st.DataObject, axes: int, groups: int, dtype: torch.dtype) -> None:
    """Over 1, 2 and 3 axes, strided, padded, dilated, in groups; row-major on meta whatever the operands' layout."""

    def each(least: int, most: int) -> list[int]:
        return data.draw(st.lists(st.integers(least, most), min_size=axes, max_size=axes))

    channels, kernel, batch = groups * data.draw(sides), each(1, 3), data.draw(sides)
    weight = torch.ones(groups * data.draw(sides), channels // groups, *kernel, dtype=dtype)
    bias = torch.ones(weight.shape[0], dtype=dtype) if data.draw(st.booleans()) else None
    options = (each(1, 3), each(0, 2), each(1, 2), False, [0] * axes, groups)
    shape = [batch, channels, *each(6, 9)]

    made(aten.convolution.default, data.draw(laid_out(shape, dtype)), weight, bias, *options)
    held_against_the_cpu(aten.convolution.default, torch.ones(shape, dtype=dtype), weight, bias, *options)


@given(data=st.data(), shape=st.lists(sides, min_size=2, max_size=5), dtype=dtypes)
def test_cat(data: st.DataObject, shape: list[int], dtype: torch.dtype) -> None:
    """Tensors that differ in one axis; where the channels of all lie innermost, so they do in the result."""
    axis = data.draw(st.integers(0, len(shape) - 1))
    others = [[*shape[:axis], data.draw(sides), *shape[axis + 1 :]] for _ in range(data.draw(st.integers(1, 2)))]
    tensors = [data.draw(laid_out(own, dtype)) for own in (shape, *others)]
    channels_last = [tensor.contiguous(memory_format=torch.channels_last) for tensor in tensors if tensor.ndim == 4]

    made(aten.cat.default, tensors, data.draw(st.sampled_from([axis, axis - len(shape)])))
    if channels_last:
        made(aten.cat.default, channels_last, axis)
    held_against_the_cpu(aten.cat.default, [torch.ones(tensor.shape, dtype=dtype) for tensor in tensors], axis)


@given(data=st.data(), shape=st.tuples(sides, sides, sides, sides), scale=st.sampled_from([1.0, 2.0, None]))
def test_upsampling(data: st.DataObject, shape: tuple[int, ...], scale: float | None) -> None:
    """To a size that is given."""
    size = [data.draw(sides), data.draw(sides)]
    for hidden_states in (data.draw(laid_out(shape, overlapping=False)), torch.ones(shape).contiguous(memory_format=torch.channels_last)):
        made(aten.upsample_nearest2d.default, hidden_states, size, scale, scale)


@given(shape=shapes, axis=st.integers(-5, 4), dtype=dtypes)
def test_softmax(shape: list[int], axis: int, dtype: torch.dtype) -> None:
    """Along any axis that there is; along another torch raises its error."""
    scores = torch.ones(shape, dtype=dtype)
    if -len(shape) <= axis < len(shape):
        held_against_the_cpu(aten._softmax.default, scores, axis, False)
        held_against_the_cpu(aten._safe_softmax.default, scores, axis)
    else:
        assert meta_kernels._KERNELS[aten._softmax.default](on_meta(scores), axis, False) is None


@given(data=st.data(), shape=shapes)
def test_repeat(data: st.DataObject, shape: list[int]) -> None:
    """As often along each axis as is asked for, along new ones too."""
    repeats = data.draw(st.lists(sides, min_size=len(shape), max_size=len(shape) + 2))

    made(aten.repeat.default, data.draw(laid_out(shape, torch.int64)), repeats)


@given(bounds=st.lists(st.integers(0, 9), min_size=1, max_size=2).map(sorted), dtype=st.sampled_from([None, torch.float32, torch.float16]))
def test_ranges(bounds: list[int], dtype: torch.dtype | None) -> None:
    """Whole numbers on meta; in another place, or with a step, torch makes them."""
    func = meta_kernels._RANGES[len(bounds) - 1]
    found = meta_kernels._arange(*bounds, dtype=dtype, device=torch.device("meta"), pin_memory=False)

    assert found is not None
    assert described(found) == described(func(*bounds, dtype=dtype, device="meta")) == described(func(*bounds, dtype=dtype))
    assert meta_kernels._arange(*bounds, dtype=dtype, device="cpu") is None


def test_what_no_kernel_answers_torch_is_asked_once() -> None:
    """Alike are operands of one layout and numbers of one type; the answer is a new tensor each time."""
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


def test_views_and_what_changes_its_operand_are_always_torchs() -> None:
    """Their results share memory, which is followed."""
    tensor = meta(2, 3)

    for func, args in ((aten.view.default, ([3, 2],)), (aten._unsafe_view.default, ([6],)), (aten.add_.Tensor, (tensor,))):
        for _ in range(2):
            found = run(func, tensor, *args)
            assert found.untyped_storage()._cdata == tensor.untyped_storage()._cdata


@pytest.mark.parametrize("kind", ["conditioned", "gligen", "k-blocks", "skip-blocks", "cascade-decoder", "kandinsky3", "svd", "motion"])
def test_a_record_is_the_same_where_torch_makes_every_result(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last byte, for blocks of every sort and for video."""
    config = {**KINDS, **OTHER_KINDS, **VIDEO_KINDS}[kind]
    ours = trace(config, device="meta", cache=False)
    asked: list[Any] = []

    def ask_torch(func: Any, args: Any, kwargs: Any, inputs: Any) -> Any:
        asked.append(func)
        return func(*args, **kwargs)

    monkeypatch.setattr(meta_kernels, "run", ask_torch)

    assert trace(config, device="meta", cache=False).to_json() == ours.to_json()
    assert aten.convolution.default in asked


def run(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Run an operation as the watched pass does."""
    return meta_kernels.run(func, args, kwargs, tensors_in(args))


@given(
    axes=st.tuples(sides, sides, sides, sides, sides),
    mask=st.sampled_from([None, "bool", "float", "row"]),
    split=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_fused_attention(axes: tuple[int, ...], mask: str | None, split: bool, dtype: torch.dtype) -> None:
    """What the CPU's kernel returns, masked or not; `split` as diffusers does it: heads out of the channels of each token."""
    batch, heads, queries, keys, dim = axes
    query = (
        torch.ones(batch, queries, heads, dim, dtype=dtype).transpose(1, 2)
        if split
        else torch.ones(batch, heads, queries, dim, dtype=dtype)
    )
    key = torch.ones(batch, heads, keys, dim, dtype=dtype)
    shape = (batch, 1, 1, keys) if mask == "row" else (queries, keys)
    added = None if mask is None else torch.ones(shape, dtype=torch.bool if mask == "bool" else dtype)
    on_cpu = functional.scaled_dot_product_attention(query, key, key, attn_mask=added)
    made = meta_kernels.fused_attention(query.to("meta"), key.to("meta"), key.to("meta"), None if added is None else added.to("meta"))

    assert made is not None
    assert (made.shape, made.dtype) == (on_cpu.shape, on_cpu.dtype)
    assert made.transpose(1, 2).is_contiguous() == on_cpu.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize(
    ("key", "value", "mask"),
    [
        ((2, 4, 5, 6), (2, 4, 7, 6), None),  # more values than keys
        ((2, 4, 5, 3), (2, 4, 5, 3), None),  # keys of another width
        ((2, 4, 5, 6), (2, 4, 5, 6), (4, 5)),  # a mask of another size
        ((2, 2, 5, 6), (2, 2, 5, 6), None),  # heads that share keys
    ],
)
def test_attention_that_does_not_fit_plainly_is_left_to_torch(key: Any, value: Any, mask: Any) -> None:
    """torch then computes it, or raises its own error."""
    assert meta_kernels.fused_attention(meta(2, 4, 3, 6), meta(*key), meta(*value), meta(*mask) if mask else None) is None


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a tensor without memory."""
    return torch.empty(shape, device="meta", dtype=dtype)


@pytest.mark.parametrize(
    ("func", "args"),
    [
        (aten.mul.Tensor, (meta(2, 3), meta(2, 3, dtype=torch.float16))),
        (aten.div.Tensor, (meta(2, 3, dtype=torch.int64), meta(2, 3, dtype=torch.int64))),
        (aten.add.Tensor, (meta(2, 3, dtype=torch.int64), 1.5)),
        (aten.addmm.default, (meta(1), meta(2, 3), meta(3, 4))),
        (aten.add.Tensor, (meta(2, 3), torch.ones(()))),
        (aten.cat.default, ([meta(2, 3), meta(2, 3, dtype=torch.float16)], 0)),
        (aten._softmax.default, (meta(2, 3).t(), 0, False)),
        (aten.convolution.default, (meta(1, 2, 5, 5), meta(2, 3, 3, 3), None, [1, 1], [1, 1], [1, 1], True, [0, 0], 1)),
    ],
    ids=str,
)
def test_what_is_not_plain_is_left_to_torch(func: Any, args: tuple[Any, ...]) -> None:
    """Promotion, other layouts, transposed convolutions: torch's own answer."""
    assert meta_kernels._KERNELS[func](*args) is None
    assert described(run(func, *args)) == described(func(*args))


@pytest.mark.parametrize(
    ("func", "args"),
    [
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
def test_what_does_not_fit_fails_as_torch_fails(func: Any, args: tuple[Any, ...]) -> None:
    """The error is torch's, to the word."""
    with pytest.raises(RuntimeError) as ours:
        run(func, *args)
    with pytest.raises(RuntimeError) as theirs:
        func(*args)

    assert str(ours.value) == str(theirs.value)
