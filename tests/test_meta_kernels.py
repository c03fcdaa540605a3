"""What is made at once on meta is what torch computes on the CPU: shapes, dtypes, strides; the rest is left to torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from unetinspect.observe import meta_kernels

aten = torch.ops.aten
sides = st.integers(1, 5)
dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])


def described(value: Any) -> list[tuple[Any, ...]]:
    """Return what a tensor on meta can be told by."""
    tensors = value if isinstance(value, tuple) else (value,)
    return [(tuple(tensor.shape), tensor.dtype, tensor.stride()) for tensor in tensors]


def held_against_the_cpu(func: Any, *args: Any) -> None:
    """Run on both devices, and demand that the kernel answered and not torch."""
    on_meta = tuple(arg.to("meta") if isinstance(arg, Tensor) else arg for arg in args)
    kernel = meta_kernels._KERNELS[func]

    assert kernel(*on_meta) is not None
    assert described(meta_kernels.run(func, on_meta, {})) == described(func(*args))


@given(batch=sides, groups=sides, per_group=sides, height=sides, width=sides, weighted=st.booleans(), dtype=dtypes)
def test_group_norm(*, batch: int, groups: int, per_group: int, height: int, width: int, weighted: bool, dtype: torch.dtype) -> None:
    """A mean and a deviation for each group; half precision keeps them in its own dtype, as it does on the CPU."""
    channels = groups * per_group
    weight = torch.ones(channels, dtype=dtype) if weighted else None
    hidden_states = torch.ones(batch, channels, height, width, dtype=dtype)

    held_against_the_cpu(aten.native_group_norm.default, hidden_states, weight, weight, batch, channels, height * width, groups, 1e-5)


@given(outer=st.lists(sides, min_size=1, max_size=3), inner=st.lists(sides, min_size=1, max_size=2), weighted=st.booleans(), dtype=dtypes)
def test_layer_norm(outer: list[int], inner: list[int], weighted: bool, dtype: torch.dtype) -> None:
    """A mean and a deviation for each place."""
    weight = torch.ones(inner, dtype=dtype) if weighted else None

    held_against_the_cpu(aten.native_layer_norm.default, torch.ones(*outer, *inner, dtype=dtype), inner, weight, weight, 1e-5)


@given(rows=sides, features=sides, out=sides, transposed=st.booleans(), dtype=dtypes)
def test_linear(rows: int, features: int, out: int, transposed: bool, dtype: torch.dtype) -> None:
    """A linear layer gives its transposed weight, and has a bias or none."""
    right = torch.ones(out, features, dtype=dtype).t() if transposed else torch.ones(features, out, dtype=dtype)

    held_against_the_cpu(aten.addmm.default, torch.ones(out, dtype=dtype), torch.ones(rows, features, dtype=dtype), right)
    held_against_the_cpu(aten.mm.default, torch.ones(rows, features, dtype=dtype), right)


@pytest.mark.parametrize("func", [aten.add.Tensor, aten.mul.Tensor, aten.div.Tensor], ids=str)
@given(shape=st.lists(sides, max_size=4), dtype=dtypes)
def test_elementwise(func: Any, shape: list[int], dtype: torch.dtype) -> None:
    """Two tensors of one shape."""
    held_against_the_cpu(func, torch.ones(shape, dtype=dtype), torch.ones(shape, dtype=dtype))


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
        (aten.add.Tensor, (meta(2, 3), meta(3))),
        (aten.add.Tensor, (meta(2, 3), 1.0)),
        (aten.mul.Tensor, (meta(2, 3), meta(2, 3, dtype=torch.float16))),
        (aten.div.Tensor, (meta(2, 3, dtype=torch.int64), meta(2, 3, dtype=torch.int64))),
        (aten.mul.Tensor, (meta(2, 3).t(), meta(3, 2))),
        (aten.addmm.default, (meta(1), meta(2, 3), meta(3, 4))),
        (aten.mm.default, (meta(2, 3), meta(3, 4, dtype=torch.float16))),
        (aten.add.Tensor, (meta(2, 3), torch.ones(()))),
    ],
    ids=str,
)
def test_what_is_not_plain_is_left_to_torch(func: Any, args: tuple[Any, ...]) -> None:
    """Broadcasting, promotion, other layouts: torch's own answer."""
    assert meta_kernels._KERNELS[func](*args) is None
    assert described(meta_kernels.run(func, args, {})) == described(func(*args))


@pytest.mark.parametrize(
    ("func", "args"),
    [
        (aten.addmm.default, (meta(4), meta(2, 5), meta(3, 4))),
        (aten.mm.default, (meta(2, 5), meta(3, 4))),
        (aten.add.Tensor, (meta(2, 3), meta(2, 4))),
        (aten.native_layer_norm.default, (meta(2, 3), [4], None, None, 1e-5)),
    ],
    ids=str,
)
def test_what_does_not_fit_fails_as_torch_fails(func: Any, args: tuple[Any, ...]) -> None:
    """The error is torch's, to the word."""
    with pytest.raises(RuntimeError) as ours:
        meta_kernels.run(func, args, {})
    with pytest.raises(RuntimeError) as theirs:
        func(*args)

    assert str(ours.value) == str(theirs.value)
