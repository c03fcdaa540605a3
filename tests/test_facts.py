"""The facts that users know by heart, written out: tables of channels, shapes and counts of published models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import yaml
from torch import nn

from tests.tiny import KINDS, traced

PUBLISHED: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_has_the_numbers_that_are_published(name: str) -> None:
    """To the last parameter and channel; MACs of each kind to the known digit, and those that papers print within 2 %."""
    known = dict(PUBLISHED[name])
    record = traced(name, **known.pop("options", {}))
    samples = record.run.forward_batch  # each costs the same: see test_laws.py
    kinds = record.totals.macs_by_kind
    assert kinds is not None
    conv, linear, attention = (macs / samples / 1e9 for macs in (kinds.conv, kinds.linear, kinds.attention))
    found = {
        "params": record.totals.params,
        "attention_layers": record.totals.attention.total,
        "skips": len(record.skips),
        "gmacs": [round(macs, 1) for macs in (conv, linear, attention)],
        "printed": pytest.approx(conv + linear, rel=0.02),
        "concat": [skip.concat_channels for skip in record.skips],
        "out": [skip.out_channels for skip in record.skips],
    }

    assert known == {key: found[key] for key in known}


@pytest.mark.parametrize("name", ["controlnet-sd15-canny", "controlnet-canny-sdxl"])
def test_half_of_a_controlnets_attention_is_self_attention(name: str) -> None:
    """As in the way down and the middle of its UNet."""
    attention = traced(name).totals.attention

    assert attention.self_ == attention.cross == attention.total // 2


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("svd-xt", "conv_in"),
        ("animatediff-sd15-v3", "conv_in"),
        ("text-to-video-ms-1.7b", "transformer_in"),
        ("i2vgen-xl", "transformer_in"),
    ],
)
def test_the_first_skip_of_a_text_to_video_unet_is_behind_its_temporal_transformer(name: str, first: str) -> None:
    """Elsewhere conv_in pushes it; all 12 are consumed."""
    record = traced(name)

    assert record.skips[-1].source == first
    assert record.totals.skips.produced == record.totals.skips.consumed == 12


def test_sd15_skips_come_from_these_modules_and_go_to_those() -> None:
    """The last pushed is the first popped, and produced before it is consumed; a block with attention pushes after its attention."""
    skips = traced("sd15").skips
    down = [
        *("conv_in", "down_blocks.0.attentions.0", "down_blocks.0.attentions.1", "down_blocks.0.downsamplers.0"),
        *("down_blocks.1.attentions.0", "down_blocks.1.attentions.1", "down_blocks.1.downsamplers.0"),
        *("down_blocks.2.attentions.0", "down_blocks.2.attentions.1", "down_blocks.2.downsamplers.0"),
        *("down_blocks.3.resnets.0", "down_blocks.3.resnets.1"),
    ]

    assert [skip.source for skip in skips] == down[::-1]
    assert [skip.target for skip in skips] == [f"up_blocks.{block}.resnets.{place}" for block in range(4) for place in range(3)]
    assert [skip.index for skip in skips] == list(range(11, -1, -1))
    assert [skip.order for skip in skips] == list(range(12)) == sorted(range(12), key=lambda order: skips[order].target_step)
    assert sorted(skips, key=lambda skip: skip.index) == sorted(skips, key=lambda skip: skip.source_step)
    assert all(skip.source_step < skip.target_step for skip in skips)
    assert all(skip.shortcut == f"{skip.target}.conv_shortcut" for skip in skips)


def test_sd21_at_128_pixels_under_guidance() -> None:
    """Each stage's output at 128 px is the published one."""
    record = traced("sd21", res=128)
    out = {stage.name: stage.out_shape for stage in record.stages}

    assert record.run.inputs[0].shape == (2, 4, 16, 16)
    assert out["conv_in"] == (2, 320, 16, 16)
    assert [out[f"down_blocks.{i}"] for i in range(4)] == [(2, 320, 8, 8), (2, 640, 4, 4), (2, 1280, 2, 2), (2, 1280, 2, 2)]
    assert [out[f"up_blocks.{i}"] for i in range(4)] == [(2, 1280, 4, 4), (2, 1280, 8, 8), (2, 640, 16, 16), (2, 320, 16, 16)]
    first_self, first_cross = record.attentions[:2]
    assert (first_self.heads, first_self.head_dim) == (5, 64)
    assert first_self.query_shape == first_self.key_shape == first_self.value_shape == (2, 5, 256, 64)
    assert first_self.map_shape == (10, 256, 256)
    assert first_cross.map_shape == (10, 256, 77)
    assert first_cross.map_bytes == 10 * 256 * 77 * 4
    assert (first_self.kind, first_cross.kind) == ("self", "cross")


def test_sd15_attention_in_the_fields_words() -> None:
    """16 transformer blocks, 32 attention layers, 16 self + 16 cross, 4, 4, 4, 0 | 2 | 0, 6, 6, 6; the first map is 1 GiB in float32."""
    record = traced("sd15")
    counts = record.totals.attention

    assert [stage.attention.total for stage in record.stages if stage.role in ("down", "mid", "up")] == [4, 4, 4, 0, 2, 0, 6, 6, 6]
    assert sum(stage.transformer_blocks for stage in record.stages) == 16
    assert (counts.self_, counts.cross, counts.total) == (16, 16, 32)
    assert {(layer.heads, layer.head_dim) for layer in record.attentions} == {(8, 40), (8, 80), (8, 160)}
    assert record.attentions[0].map_bytes == 2 * 8 * 4096 * 4096 * 4 == 2**30
    assert traced("sd15", dtype="float16").attentions[0].map_bytes == 2**29


def test_the_index_of_an_attention_layer_is_that_of_ip_adapter_keys() -> None:
    """diffusers registers up_blocks before mid_block, and IP-Adapter's keys count along: odd ones are cross-attention."""
    record = traced("sd15")
    index = {layer.path: -1 if layer.index is None else layer.index for layer in record.attentions}

    assert sorted(index.values()) == list(range(32))
    assert index["down_blocks.0.attentions.0.transformer_blocks.0.attn2"] == 1
    assert index["up_blocks.1.attentions.0.transformer_blocks.0.attn1"] == 12
    assert index["mid_block.attentions.0.transformer_blocks.0.attn2"] == 31
    assert all((layer.index or 0) % 2 == (layer.kind == "cross") for layer in record.attentions)


def test_sdxl_stages_are_in_execution_order_with_their_embeddings() -> None:
    """Embeddings come first, as they run: time_proj 320 -> time_embedding 1280, add_embedding 2816 -> 1280."""
    stages = traced("sdxl").stages

    assert [stage.name for stage in stages] == [
        *("time_proj", "time_embedding", "add_time_proj", "add_embedding", "conv_in"),
        *("down_blocks.0", "down_blocks.1", "down_blocks.2", "mid_block", "up_blocks.0", "up_blocks.1", "up_blocks.2"),
        *("conv_norm_out", "conv_act", "conv_out"),
    ]
    assert [(stage.in_shape, stage.out_shape) for stage in stages[:4]] == [
        ((2,), (2, 320)),
        ((2, 320), (2, 1280)),
        ((12,), (12, 256)),
        ((2, 2816), (2, 1280)),
    ]
    assert [stage.role for stage in stages] == ["embed"] * 4 + ["in"] + ["down"] * 3 + ["mid"] + ["up"] * 3 + ["out"] * 3


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("sdxl", {"self": 70, "cross": 70}),
        ("ddpm-cat-256", {"self": 6}),
        ("if-i-xl", {"joint": 22, "pooling": 1}),
        ("kandinsky-2-2", {"joint": 22}),
        ("sd-x4-upscaler", {"self": 6, "cross": 26}),
    ],
)
def test_kinds_of_attention(name: str, kinds: dict[str, int]) -> None:
    """Added keys are text and self together, pooling is not a layer of the U, `only_cross_attention` has no self-attention."""
    record = traced(name)

    assert {kind: sum(layer.kind == kind for layer in record.attentions) for kind in kinds} == kinds
    assert len(record.attentions) == sum(kinds.values()) == record.totals.attention.total + kinds.get("pooling", 0)
    # The keys of Kandinsky are the 32 image tokens that encoder_hid_proj makes, beside the queries' own tokens.
    added = {layer.key_shape[2] - layer.query_shape[2] for layer in record.attentions}
    assert name != "kandinsky-2-2" or added == {32}
    assert name != "ddpm-cat-256" or (record.run.cfg, record.run.forward_batch, record.run.cfg_reason) == (False, 1, "unconditional model")


def test_modules_hold_the_tensors_of_the_state_dict() -> None:
    """The tensors of the modules, with their paths in front, are `state_dict()` to the last name and shape."""
    found = {
        f"{module.path}.{name}".lstrip("."): shape for module in traced("conditioned").modules for name, shape in module.tensors.items()
    }

    assert found == {name: tuple(tensor.shape) for name, tensor in _built("conditioned").state_dict().items()}


def test_steps_are_the_order_of_first_calls() -> None:
    """Modules that ran, sorted by step, are in the order in which PyTorch calls them; the UNet itself is the first."""
    unet, order = _built("plain"), []
    for path, module in unet.named_modules():
        module.register_forward_pre_hook(lambda *_, path=path: order.append(path))
    with torch.device("meta"):
        unet(torch.zeros(1, 3, 16, 16), torch.tensor(1))
    ran = [module for module in traced("plain").modules if module.step is not None]

    assert [module.path for module in sorted(ran, key=lambda module: module.step or 0)] == list(dict.fromkeys(order))
    assert all((module.step is None) == (module.calls == 0) for module in traced("plain").modules)


def _built(kind: str) -> nn.Module:
    with torch.device("meta"):
        return getattr(diffusers, KINDS[kind]["_class_name"]).from_config(KINDS[kind])
