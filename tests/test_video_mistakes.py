"""What the video UNets refuse: mistakes in a config, each of which diffusers stumbles over too, and frames that do not fit."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch

from tests.kinds_video import I2VGEN, KINDS, MOTION, SPARSE, SVD, UNET_3D
from unetinspect import trace
from unetinspect.errors import ConfigError, UsageError
from unetinspect.run.build import make_inputs
from unetinspect.run.resolve import resolve_config
from unetinspect.unets import Plan, builder_for

NO_NUMBER = "and must be a whole number above 0"
MISTAKES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        UNET_3D,
        {"num_attention_heads": 8},
        "num_attention_heads is set, which diffusers refuses: attention_head_dim holds the channels of a head here",
    ),
    (UNET_3D, {"attention_head_dim": [8, 8]}, f"attention_head_dim is [8, 8], {NO_NUMBER}"),
    (UNET_3D, {"attention_head_dim": 24}, "attention_head_dim is 24, and must be at most the 16 channels of down_blocks.0"),
    (UNET_3D, {"cross_attention_dim": None}, f"cross_attention_dim is None, {NO_NUMBER}"),
    (UNET_3D, {"norm_num_groups": None}, f"norm_num_groups is None, {NO_NUMBER}"),
    (UNET_3D, {"norm_num_groups": 12}, "block_out_channels holds 16, 32, which norm_num_groups 12 does not divide"),
    (UNET_3D, {"layers_per_block": None}, "layers_per_block holds None, and must hold whole numbers from 0 on"),
    (UNET_3D, {"layers_per_block": 0}, "layers_per_block is 0 for down_blocks.1, which must turn 16 channels into 32"),
    (
        UNET_3D,
        {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock3D"]},
        "down_block_types holds 'CrossAttnDownBlock2D', which is no block for this class (did you mean CrossAttnDownBlock3D?)",
    ),
    (
        UNET_3D,
        {"up_block_types": ["UNetResUpBlock3D", "CrossAttnUpBlock3D"]},
        "up_block_types holds 'UNetResUpBlock3D', which is no block for this class (did you mean UpBlock3D?)",
    ),
    (UNET_3D, {"act_fn": "tanh"}, "act_fn is 'tanh', and must be one of: silu, swish, mish, gelu, relu"),
    (I2VGEN, {"cross_attention_dim": None}, f"cross_attention_dim is None, {NO_NUMBER}"),
    (I2VGEN, {"norm_num_groups": None}, f"norm_num_groups is None, {NO_NUMBER}"),
    (MOTION, {"cross_attention_dim": None}, f"cross_attention_dim is None, {NO_NUMBER}, or a list of them"),
    (MOTION, {"layers_per_block": [1, None]}, "layers_per_block holds None, and must hold whole numbers from 0 on"),
    (
        MOTION,
        {"encoder_hid_dim_type": "ip_image_proj"},
        "encoder_hid_dim_type is 'ip_image_proj', which IP-Adapter leaves in a saved config, and must be null",
    ),
    (
        MOTION,
        {"encoder_hid_dim_type": "text_proj", "encoder_hid_dim": 12},
        "encoder_hid_dim_type is 'text_proj', which the class has no projection for, and must be null",
    ),
    (
        MOTION,
        {"motion_num_attention_heads": [4]},
        "motion_num_attention_heads has 1 entries, and must have one for each of the 2 down_block_types",
    ),
    (
        MOTION,
        {"motion_num_attention_heads": 5},
        "motion_num_attention_heads is 5 for down_blocks.0, and must share out its 16 channels in an even number",
    ),
    (MOTION, {"motion_num_attention_heads": 17}, "motion_num_attention_heads is 17 for down_blocks.0, and must be at most its 16 channels"),
    (MOTION, {"num_attention_heads": [0, 2]}, "num_attention_heads holds 0 for down_blocks.0, and must hold a whole number above 0"),
    (MOTION, {"num_attention_heads": [2, 33]}, "num_attention_heads is 33 for mid_block, and must be at most its 32 channels"),
    (
        MOTION,
        {"transformer_layers_per_block": [[1], 1]},
        "transformer_layers_per_block is nested, which needs reverse_transformer_layers_per_block",
    ),
    (
        MOTION,
        {"transformer_layers_per_block": [[1, 2], 1], "reverse_transformer_layers_per_block": [1, [1, 2]]},
        "transformer_layers_per_block holds [1, 2] for down_blocks.0, and must hold a number, or one for each of its 1 layers",
    ),
    (
        MOTION,
        {"temporal_transformer_layers_per_block": [[1], [1]], "reverse_temporal_transformer_layers_per_block": [[1], [1]]},
        "reverse_temporal_transformer_layers_per_block holds [1] for up_blocks.0, and must hold a number, or one for each of its 2 layers",
    ),
    (
        MOTION,
        {"temporal_transformer_layers_per_mid_block": None},
        "temporal_transformer_layers_per_mid_block is None, and must be a whole number, or a list of them",
    ),
    (
        MOTION,
        {"mid_block_layers": 2, "transformer_layers_per_mid_block": [1]},
        "transformer_layers_per_mid_block holds [1] for mid_block, and must hold a number, or one for each of its 2 layers",
    ),
    (
        MOTION,
        {"transformer_layers_per_block": [1]},
        "transformer_layers_per_block has 1 entries, and must have one for each of the 2 down_block_types",
    ),
    (MOTION, {"transformer_layers_per_block": None}, "transformer_layers_per_block is None, and must be a whole number, or a list of them"),
    (
        MOTION,
        {"addition_embed_type": "text_time", "addition_time_embed_dim": 8},
        "addition_embed_type is 'text_time', which needs projection_class_embeddings_input_dim",
    ),
    (MOTION, {"motion_max_seq_length": 0}, f"motion_max_seq_length is 0, {NO_NUMBER}"),
    (
        SVD,
        {"projection_class_embeddings_input_dim": 20},
        "projection_class_embeddings_input_dim is 20, and must be a multiple of addition_time_embed_dim, 8",
    ),
    (SVD, {"block_out_channels": [32, 48]}, "block_out_channels holds 48, and must hold multiples of 32, the groups of every norm"),
    (SVD, {"num_attention_heads": 3}, "num_attention_heads is 3 for down_blocks.0, and must divide its 32 channels"),
    (SVD, {"cross_attention_dim": [None, 24]}, "cross_attention_dim holds null for down_blocks.0, which has cross-attention"),
    (
        SVD,
        {"transformer_layers_per_block": [[1], 1]},
        "transformer_layers_per_block holds [1] for up_blocks.1, and must hold a number, or one for each of its 2 layers",
    ),
    (SVD, {"layers_per_block": [1]}, "layers_per_block has 1 entries, and must have one for each of the 2 down_block_types"),
    (
        SPARSE,
        {"use_simplified_condition_embedding": False, "conditioning_embedding_out_channels": None},
        "conditioning_embedding_out_channels is None, and must be a list with at least one entry",
    ),
    (
        SPARSE,
        {"controlnet_conditioning_channel_order": "gbr"},
        "controlnet_conditioning_channel_order is 'gbr', and must be one of: rgb, bgr",
    ),
    (SPARSE, {"resnet_time_scale_shift": "ada_group"}, "resnet_time_scale_shift is 'ada_group', and must be one of: default, scale_shift"),
    (SPARSE, {"only_cross_attention": [True]}, "only_cross_attention has 1 entries, and must have one for each of the 2 down_block_types"),
    (
        SPARSE,
        {"num_attention_heads": None, "attention_head_dim": 20},
        "attention_head_dim is 20 for down_blocks.0, and must be at most its 16 channels",
    ),
    (
        SPARSE,
        {"transformer_layers_per_mid_block": []},
        "transformer_layers_per_mid_block holds [] for mid_block, and must hold a number, or one for each of its 1 layers",
    ),
]


def _ids(mistakes: list[tuple[dict[str, Any], dict[str, Any], str]]) -> list[str]:
    return [f"{config['_class_name']}-{'-'.join(keys)}" for config, keys, _ in mistakes]


@pytest.mark.parametrize(("config", "keys", "sentence"), MISTAKES, ids=_ids(MISTAKES))
def test_each_mistake_is_named_and_diffusers_stumbles_over_it(config: dict[str, Any], keys: dict[str, Any], sentence: str) -> None:
    """One sentence on each mistake; and the same config, built and run by diffusers itself, raises."""
    with pytest.raises(ConfigError) as refused:
        trace({**config, **keys}, device="meta")

    assert refused.value.problems == (sentence,)
    assert not _runs({**config, **keys}, config)


def test_all_mistakes_are_named_at_once() -> None:
    """Nobody mends a config one message at a time."""
    with pytest.raises(ConfigError) as refused:
        trace({**MOTION, "in_channels": 0, "num_attention_heads": 40, "encoder_hid_dim_type": "ip_image_proj"}, device="meta")

    assert len(refused.value.problems) == 3  # that there are more heads than channels is said of the first block alone


@pytest.mark.parametrize("kind", KINDS)
def test_no_config_that_runs_is_refused(kind: str) -> None:
    """None of the small configs has a problem; that diffusers builds and runs each is seen where they are traced."""
    config = resolve_config(KINDS[kind])

    assert builder_for(config.class_name).problems(config.values) == []


@pytest.mark.parametrize("key", ["motion", "sparse-controlnet"])
def test_more_frames_than_the_motion_modules_have_positions_for(key: str) -> None:
    """The most that there are positions for is what a pass has by default, and one more is refused by its number."""
    most = KINDS[key]["motion_max_seq_length"]
    record = trace(KINDS[key], device="meta", latent=4)

    assert (record.run.frames, record.run.frames_from) == (most, "motion_max_seq_length")
    with pytest.raises(UsageError) as refused:
        trace(KINDS[key], device="meta", latent=4, frames=most + 1)
    assert refused.value.message == f"--frames {most + 1}: the motion modules have positions for {most} frames (motion_max_seq_length)"
    assert refused.value.hint == f"--frames {most} is the most"


@pytest.mark.parametrize(
    ("config", "frames", "said_by"),
    [
        (UNET_3D, 16, "taken for granted: TextToVideoSDPipeline makes 16"),
        (I2VGEN, 16, "taken for granted: I2VGenXLPipeline makes 16"),
        ({**MOTION, "motion_max_seq_length": 24}, 16, "taken for granted: AnimateDiffPipeline makes 16"),
        ({**SPARSE, "motion_max_seq_length": 32}, 16, "taken for granted: AnimateDiffSparseControlNetPipeline makes 16"),
        (SVD, 3, "config"),
        ({**SVD, "num_frames": None}, 25, "taken for granted: the config has no num_frames"),
    ],
    ids=lambda value: value["_class_name"] if isinstance(value, dict) else "",
)
def test_frames_where_nobody_says(config: dict[str, Any], frames: int, said_by: str) -> None:
    """The number of diffusers' own pipelines, or of the config, and what said so."""
    run = trace(config, device="meta", latent=4, cfg=False).run

    assert (run.frames, run.frames_from, run.medium) == (frames, said_by, "video")
    assert frames in (run.inputs[0].shape or ())


def _runs(config: dict[str, Any], sizes_of: dict[str, Any]) -> bool:
    """Build a config with diffusers and run it with the inputs that its class takes, of the widths of a config that is right."""
    right = resolve_config(sizes_of)
    specs = builder_for(right.class_name).inputs(right.values, Plan(batch=2, size=(4, 4), tokens=5, frames=2))
    try:
        with torch.device("meta"), torch.no_grad():
            unet = getattr(diffusers, right.class_name).from_config(config).to("meta")
            unet(**make_inputs(specs, device=torch.device("meta"), dtype=torch.float32))
    except Exception:  # whatever it raises, it does not run
        return False
    return True
