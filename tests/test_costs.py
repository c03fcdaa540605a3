"""What a pass costs, on modules made for it: attention, operations without a formula, live bytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import sdpa_flop_count

from tests.test_observe import seen
from tests.tiny import traced
from tests.witness import LiveBytes, by_hand
from unetinspect.observe.assemble import make_modules
from unetinspect.observe.macs import attention_macs

COUNTED = {"aten.convolution", "aten.addmm", "aten.mm", "aten._scaled_dot_product_flash_attention_for_cpu"}
MOVES = {
    *("aten.arange", "aten.cat", "aten.clone", "aten._to_copy", "aten._unsafe_view", "aten.view", "aten.expand", "aten.unsqueeze"),
    *("aten.t", "aten.transpose", "aten.slice", "aten.permute", "aten.split", "aten.alias", "aten.detach"),
}


class Calling(nn.Module):
    """Runs one function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, sample: Tensor) -> Any:
        return self.function(sample)


@given(axes=st.tuples(*[st.integers(1, 5)] * 6))
def test_attention_macs_are_torchs_formula(axes: tuple[int, ...]) -> None:
    """Q Kᵀ and the product with V, as torch counts its fused kernels, and as a loop over every scalar product would."""
    batch, heads, queries, keys, head_dim, value_dim = axes
    shapes = [(batch, heads, queries, head_dim), (batch, heads, keys, head_dim), (batch, heads, keys, value_dim)]

    assert 2 * attention_macs(*shapes) == sdpa_flop_count(*shapes)
    assert attention_macs(*shapes) == sum(head_dim + value_dim for _ in range(batch * heads * queries * keys))


def test_what_has_no_formula_is_listed_with_its_calls() -> None:
    """Every operation that computes something is counted or listed: a log of a CPU pass has no third kind."""
    record = traced("conditioned")
    _, run = by_hand(record)
    with LiveBytes() as log:
        run()
    listed = {operation.op: operation.calls for operation in record.totals.uncounted}

    assert listed == {op: calls for op, calls in log.operations.items() if op not in COUNTED and op not in MOVES}
    resnets, transformers = 8, 4  # 1 + 1 on the way down, 2 in the mid block, 2 + 2 on the way up; 1, 1 and 2 of them with a transformer
    assert listed["aten.silu"] == 3 * resnets + 2  # two of features, one of the embedding; time_embedding and conv_act
    assert listed["aten.native_group_norm"] == 2 * resnets + transformers + 1


def test_a_masked_attention_costs_what_an_unmasked_one_does() -> None:
    """A mask is added to the scores: on meta its attention is fused too, and its map stays out of the peak."""
    query = torch.empty(2, 4, 32, 8, device="meta")
    for mask in (None, torch.empty(2, 1, 1, 32, device="meta"), torch.empty(32, 32, device="meta", dtype=torch.bool)):
        attend = Calling(lambda x, mask=mask: functional.scaled_dot_product_attention(x, x, x, attn_mask=mask))
        found = seen(attend, query)

        assert [count.macs for count in found.macs] == [2 * 4 * 32 * 32 * 16]
        assert found.peak.size == 2 * 4 * 32 * (8 + 1) * 4


def test_an_unknown_operation_is_never_counted_as_nothing() -> None:
    """An operation of another library has no formula here: its full name is listed."""
    with torch.library._scoped_library("unetinspect_test", "FRAGMENT") as library:
        library.define("double(Tensor x) -> Tensor")
        library.impl("double", lambda x: x * 2, "Meta")
        found = seen(Calling(torch.ops.unetinspect_test.double.default), torch.empty(3, device="meta"))

    assert found.uncounted == {"unetinspect_test.double": 1}
    assert found.macs == []


def test_a_tensor_without_a_storage_does_not_stop_the_pass() -> None:
    """A sparse tensor has its values in others, which no operation shows: it counts for nothing, and the pass goes on."""
    found = seen(Calling(lambda sample: sample.to_sparse().to_dense() + 1), torch.ones(4, 4))

    assert found.returned.shape == (4, 4)
    assert found.peak.size >= 2 * 4 * 4 * 4  # the dense tensor, and the sum


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_is_freed_no_longer_counts(device: str) -> None:
    """Of a chain of four tensors of 32 bytes, two are alive at once."""
    assert seen(Calling(lambda sample: sample.exp().exp().exp().exp()), torch.zeros(8, device=device)).peak.size == 2 * 32


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_peak_of_a_call_includes_those_of_modules_from_elsewhere(device: str) -> None:
    """A module may call another that is not inside it, as the blocks of ControlNet-XS do."""
    large = Calling(lambda sample: sample.repeat(1, 8).sum(1))
    small = Calling(large.__call__)  # a bound method: `large` is not a child of it
    root = nn.ModuleDict({"caller": small, "elsewhere": large})
    root.forward = small.__call__
    peaks = {module.path: module.activation_bytes for module in make_modules(root, seen(root, torch.zeros(2, 4, device=device)))}

    assert peaks == dict.fromkeys(("", "caller", "elsewhere"), 4 * (2 * 32 + 2))
