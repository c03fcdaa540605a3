"""Attention found by its products: fused, in three steps or in torch's own module, with shapes known by arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.test_observe import TinyU, pairs, seen
from unetinspect.observe.assemble import make_attentions, make_modules, make_totals


class Attention(nn.Module):
    """Attention in three steps or fused, with `heads` heads, over its own input or another."""

    def __init__(self, heads: int, *, fused: bool, joint: bool = False) -> None:
        super().__init__()
        self.heads, self.fused, self.joint = heads, fused, joint
        self.to_q, self.to_k, self.to_v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None) -> Tensor:
        others = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if self.joint:
            others = torch.cat([others, hidden_states], dim=1)
        query, key, value = (self._split(to(x)) for to, x in ((self.to_q, hidden_states), (self.to_k, others), (self.to_v, others)))
        if self.fused:
            return functional.scaled_dot_product_attention(query, key, value)
        scores = query @ key.transpose(-1, -2) * 0.5 + torch.zeros(())
        return scores.float().softmax(dim=-1).to(value.dtype) @ value

    def _split(self, tensor: Tensor) -> Tensor:
        return tensor.unflatten(-1, (self.heads, -1)).transpose(1, 2)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "three-steps"])
@pytest.mark.parametrize(
    ("arguments", "joint", "kind", "keys"),
    [
        ([torch.zeros(2, 5, 8)], False, "self", 5),
        ([torch.zeros(2, 5, 8), torch.zeros(2, 3, 8)], False, "cross", 3),
        ([torch.zeros(2, 5, 8), torch.zeros(2, 3, 8)], True, "joint", 8),
    ],
    ids=["self", "cross", "joint"],
)
def test_attention_is_found_by_its_products(fused: bool, arguments: list[Tensor], joint: bool, kind: str, keys: int) -> None:
    """Kind and shapes follow from the data, fused or in three steps with a scale, a mask and casts in between."""
    attention = Attention(2, fused=fused, joint=joint)
    (layer,) = make_attentions(attention, seen(attention, *arguments), lambda path: path)

    assert layer.kind == kind
    assert layer.query_shape == (2, 2, 5, 4)
    assert layer.key_shape == layer.value_shape == (2, 2, keys, 4)
    assert layer.map_shape == (4, 5, keys)
    assert layer.map_bytes == 4 * 5 * keys * 4
    assert layer.materialised is not fused


class MultiHead(nn.Module):
    """torch's own attention module over (batch, tokens, 8) or (tokens, batch, 8), in a module that is given one or two tensors."""

    def __init__(self, *, need_weights: bool = False, **options: Any) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, **options)
        self.need_weights = need_weights

    def forward(self, hidden_states: Tensor, others: Tensor | None = None) -> Tensor:
        others = hidden_states if others is None else others
        return self.attn(hidden_states, others, others, need_weights=self.need_weights)[0]


@pytest.mark.parametrize("device", ["cpu", "meta", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize(
    ("training", "batch_first", "need_weights", "width"),  # every pair of values occurs together
    [
        *((False, True, True, None), (False, False, False, None), (True, True, False, None), (True, True, False, 8)),
        *((True, False, True, 8), (False, False, True, 8), (False, True, False, 6), (True, False, True, 6)),
    ],
)
def test_multihead_attention_of_torch_is_seen(
    device: str, training: bool, batch_first: bool, need_weights: bool, width: int | None
) -> None:
    """Its heads and shapes are those of its arguments, however it computes, and it has no processor; `width` is that of other keys."""
    module = MultiHead(batch_first=batch_first, need_weights=need_weights, kdim=width, vdim=width).train(training).to(device)
    shapes = [(2, 5, 8)] if width is None else [(2, 5, 8), (2, 3, width)]
    given = [torch.zeros(shape if batch_first else (shape[1], shape[0], shape[2]), device=device) for shape in shapes]
    found = seen(module, *given)
    (layer,) = layers = make_attentions(module, found, lambda path: path)
    keys = 5 if width is None else 3

    assert (layer.path, layer.kind, layer.processor) == ("attn", "self" if width is None else "cross", None)
    assert (layer.query_shape, layer.key_shape, layer.value_shape) == ((2, 2, 5, 4), (2, 2, keys, 4), (2, 2, keys, 4))
    assert layer.materialised is need_weights
    assert tuple(found.returned.shape) == tuple(given[0].shape)
    counts = make_totals(module, found, layers, make_modules(module, found)[0]).attention
    assert (counts.without_processor, counts.total) == (1, 0)


@pytest.mark.parametrize(("options", "more"), [({}, 0), ({"add_bias_kv": True}, 1), ({"add_bias_kv": True, "add_zero_attn": True}, 2)])
def test_multihead_attention_counts_the_keys_that_it_adds(options: dict[str, Any], more: int) -> None:
    """A learned key and one of zeros come after those that were given; without an axis for the batch, that is 1."""
    (product,) = seen(MultiHead(**options), torch.zeros(5, 8)).attentions

    assert (product.query_shape, product.key_shape) == ((1, 2, 5, 4), (1, 2, 5 + more, 4))


def test_the_fast_path_of_a_transformer_layer_is_seen_too() -> None:
    """In eval mode torch runs a whole encoder layer as one kernel, unless it is observed: each layer's attention is listed."""
    module = nn.Sequential(nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)).eval()
    found = seen(module, torch.zeros(2, 5, 8))

    assert [(product.owner.path, product.kind, product.query_shape) for product in found.attentions] == [
        (f"0.layers.{layer}.self_attn", "self", (2, 2, 5, 4)) for layer in range(2)
    ]


def test_a_skip_is_followed_through_multihead_attention() -> None:
    """The output of torch's attention still descends from what was pushed before it."""

    class Attending(TinyU):
        def __init__(self) -> None:
            super().__init__(depth=1)
            self.attn = nn.MultiheadAttention(8, 2)
            self.mid_block = None

        def forward(self, sample: Tensor) -> Tensor:
            sample = self.conv_in(sample)
            tokens = sample.flatten(2).permute(2, 0, 1)
            hidden, _ = self.attn(tokens, tokens, tokens)
            return self.up_blocks[0](hidden.permute(1, 2, 0).unflatten(2, sample.shape[2:]), (sample, sample))

    assert pairs(Attending()) == [(("conv_in",), "up_blocks.0.resnets.0"), (("conv_in",), "up_blocks.0.resnets.1")]


def test_one_tensor_given_twice_is_self_attention() -> None:
    """Passing the hidden states as the encoder's too does not make it cross-attention."""
    hidden_states = torch.zeros(2, 5, 8)
    attention = Attention(2, fused=True)
    (layer,) = make_attentions(attention, seen(attention, hidden_states, hidden_states), lambda path: path)

    assert layer.kind == "self"


def test_a_softmax_without_products_around_it_is_not_attention() -> None:
    """A softmax over logits, as in a classifier, is not an attention map."""
    module = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Softmax(dim=-1))

    assert not seen(module, torch.zeros(1, 4, 2, 2)).attentions


@pytest.mark.parametrize("processor", [None, object()], ids=["itself", "by-a-processor"])
def test_a_module_that_runs_twice_is_two_calls_of_one_layer(processor: Any) -> None:
    """Calls are numbered; counts are of layers, and a layer without an attention processor is counted apart from the total."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = Attention(2, fused=True)
            self.attn.processor = processor

        def forward(self, hidden_states: Tensor) -> Tensor:
            self.attn(hidden_states)
            return self.attn(hidden_states)

    module = Twice()
    found = seen(module, torch.zeros(2, 5, 8))
    layers = make_attentions(module, found, lambda path: path)
    counts = make_totals(module, found, layers, make_modules(module, found)[0]).attention

    assert [layer.call for layer in layers] == [0, 1]
    assert (counts.total, counts.without_processor) == ((0, 1) if processor is None else (1, 0))
    assert [entry.calls for entry in make_modules(module, found) if entry.path == "attn"] == [2]
