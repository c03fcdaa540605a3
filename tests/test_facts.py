"""The facts that users know by heart, written out: tables of channels, shapes and counts of published models."""

from __future__ import annotations

import pytest

from tests.tiny import traced

CONCAT_CHANNELS = {
    "sd15": [2560] * 5 + [1920, 1920, 1280, 960, 960, 640, 640],
    "sd21": [2560] * 5 + [1920, 1920, 1280, 960, 960, 640, 640],
    "sdxl": [2560, 2560, 1920, 1920, 1280, 960, 960, 640, 640],
    "ddpm-cat-256": [1024] * 5 + [768, 768] + [512] * 4 + [384, 384] + [256] * 5,
    "sdxl-refiner": [3072] * 5 + [2304, 2304, 1536, 1152, 1152, 768, 768],
    "bk-sdm-tiny": [2560, 1920, 1920, 960, 960, 640],
    "koala-700m": [2560, 1920, 1920, 960, 960, 640],
}
OUT_CHANNELS = {
    "sd15": [1280] * 6 + [640] * 3 + [320] * 3,
    "sdxl": [1280] * 3 + [640] * 3 + [320] * 3,
    "ddpm-cat-256": [512] * 6 + [256] * 6 + [128] * 6,
}


@pytest.mark.parametrize("name", CONCAT_CHANNELS)
def test_concatenated_channels_in_order_of_use(name: str) -> None:
    """Each up resnet takes the published number of channels."""
    assert [skip.concat_channels for skip in traced(name).skips] == CONCAT_CHANNELS[name]


def test_ddpm_cat_out_channels_follow_the_reversed_block_channels() -> None:
    """An up block's resnets leave its own width: block_out_channels from the inside out, three resnets each."""
    widths = [512, 512, 256, 256, 128, 128]

    assert [skip.out_channels for skip in traced("ddpm-cat-256").skips] == [width for width in widths for _ in range(3)]


def test_sd15_out_channels() -> None:
    """Likewise for Stable Diffusion 1.5."""
    assert [skip.out_channels for skip in traced("sd15").skips] == OUT_CHANNELS["sd15"]


def test_sd15_skips_come_from_these_modules_and_go_to_those() -> None:
    """The last pushed is the first popped; a block with attention pushes behind its attention."""
    pairs = [(skip.source, skip.target) for skip in traced("sd15").skips]

    assert pairs == [
        ("down_blocks.3.resnets.1", "up_blocks.0.resnets.0"),
        ("down_blocks.3.resnets.0", "up_blocks.0.resnets.1"),
        ("down_blocks.2.downsamplers.0", "up_blocks.0.resnets.2"),
        ("down_blocks.2.attentions.1", "up_blocks.1.resnets.0"),
        ("down_blocks.2.attentions.0", "up_blocks.1.resnets.1"),
        ("down_blocks.1.downsamplers.0", "up_blocks.1.resnets.2"),
        ("down_blocks.1.attentions.1", "up_blocks.2.resnets.0"),
        ("down_blocks.1.attentions.0", "up_blocks.2.resnets.1"),
        ("down_blocks.0.downsamplers.0", "up_blocks.2.resnets.2"),
        ("down_blocks.0.attentions.1", "up_blocks.3.resnets.0"),
        ("down_blocks.0.attentions.0", "up_blocks.3.resnets.1"),
        ("conv_in", "up_blocks.3.resnets.2"),
    ]
    assert [skip.index for skip in traced("sd15").skips] == list(range(11, -1, -1))
    assert all(skip.shortcut == f"{skip.target}.conv_shortcut" for skip in traced("sd15").skips)


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
    """16 transformer blocks, 32 attention layers, 16 self + 16 cross, 4, 4, 4, 0 | 2 | 0, 6, 6, 6."""
    record = traced("sd15")
    per_block = [stage.attention.total for stage in record.stages if stage.role in ("down", "mid", "up")]

    assert per_block == [4, 4, 4, 0, 2, 0, 6, 6, 6]
    assert sum(stage.transformer_blocks for stage in record.stages) == 16
    counts = record.totals.attention
    assert (counts.self_, counts.cross, counts.total) == (16, 16, 32)
    assert {(layer.heads, layer.head_dim) for layer in record.attentions} == {(8, 40), (8, 80), (8, 160)}


def test_the_index_of_an_attention_layer_is_that_of_ip_adapter_keys() -> None:
    """diffusers registers up_blocks before mid_block, and IP-Adapter's keys count along: odd ones are cross-attention."""
    record = traced("sd15")
    index = {layer.path: -1 if layer.index is None else layer.index for layer in record.attentions}

    assert sorted(index.values()) == list(range(32))
    assert index["down_blocks.0.attentions.0.transformer_blocks.0.attn2"] == 1
    assert index["up_blocks.1.attentions.0.transformer_blocks.0.attn1"] == 12
    assert index["mid_block.attentions.0.transformer_blocks.0.attn2"] == 31
    assert all((layer.index or 0) % 2 == (layer.kind == "cross") for layer in record.attentions)


def test_sdxl_stages_stand_in_execution_order_with_their_embeddings() -> None:
    """Embeddings come first, as they run: time_proj 320 -> time_embedding 1280, add_embedding 2816 -> 1280."""
    stages = traced("sdxl").stages

    assert [stage.name for stage in stages] == [
        *("time_proj", "time_embedding", "add_time_proj", "add_embedding", "conv_in"),
        *("down_blocks.0", "down_blocks.1", "down_blocks.2", "mid_block", "up_blocks.0", "up_blocks.1", "up_blocks.2"),
        *("conv_norm_out", "conv_act", "conv_out"),
    ]
    shapes = {stage.name: (stage.in_shape, stage.out_shape) for stage in stages}
    assert shapes["time_proj"] == ((2,), (2, 320))
    assert shapes["time_embedding"] == ((2, 320), (2, 1280))
    assert shapes["add_time_proj"] == ((12,), (12, 256))
    assert shapes["add_embedding"] == ((2, 2816), (2, 1280))
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
    """Added keys are text and self together, pooling is no layer of the U, `only_cross_attention` has no self-attention."""
    layers = traced(name).attentions

    assert {kind: sum(layer.kind == kind for layer in layers) for kind in {layer.kind for layer in layers}} == kinds
    assert traced(name).totals.attention.total == sum(count for kind, count in kinds.items() if kind != "pooling")


def test_added_keys_are_text_and_image_together() -> None:
    """Kandinsky's keys are the 32 image tokens that encoder_hid_proj makes, beside the queries' own tokens."""
    for layer in traced("kandinsky-2-2").attentions:
        assert layer.key_shape[2] - layer.query_shape[2] == 32


def test_an_unconditional_unet_runs_a_single_batch() -> None:
    """DDPM has nothing to guide: the batch is not doubled, and the record says why."""
    run = traced("ddpm-cat-256").run

    assert (run.cfg, run.forward_batch) == (False, 1)
    assert run.cfg_reason == "unconditional model"


def test_map_bytes_of_sd15_at_512_pixels() -> None:
    """The first self-attention map of SD 1.5 would take 2 * 8 * 4096 * 4096 elements: 1 GiB in float32, half in float16."""
    assert traced("sd15").attentions[0].map_bytes == 2**30
    assert traced("sd15", dtype="float16").attentions[0].map_bytes == 2**29
