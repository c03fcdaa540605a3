"""`UNetMotionModel`: AnimateDiff, a 2-D UNet with a motion module behind every resnet or attention.

Source: `UNetMotionModel` of diffusers' `unet_motion_model.py`. The pipelines repeat the text for every frame, the class does not.
"""

from __future__ import annotations

from collections.abc import Iterator

from unetinspect.unets.base import Builder, Config, Given, InputSpec, Plan, is_list
from unetinspect.unets.block_list import Block, list_blocks
from unetinspect.unets.block_rules import (
    check_block_heads,
    check_depth,
    check_layers,
    check_lengths,
    check_motion_heads,
    check_plain_groups,
    check_width,
    one_for_each_value,
)
from unetinspect.unets.blocks_video import DOWN_BLOCKS_MOTION, UP_BLOCKS_MOTION
from unetinspect.unets.condition_rules import missing_partners
from unetinspect.unets.config_rules import (
    check_activation,
    check_block_lists,
    check_block_names,
    check_counts,
    check_sample_size,
    check_set,
)
from unetinspect.unets.unet_2d_condition import text_time, timestep_cond
from unetinspect.unets.video_inputs import check_frames, motion_frames, reads_text, text_per_frame, video_sample


class UNetMotionInputs(Builder):
    """sample (batch, in_channels, frames, height, width), timestep, encoder_hidden_states for every frame, SDXL's additions."""

    class_name = "UNetMotionModel"
    what = "video from text: AnimateDiff"
    medium = "video"

    def condition(self, config: Config) -> str | None:
        if reads_text(config):
            return "encoder_hidden_states"
        return "added_cond_kwargs" if config["addition_embed_type"] == "text_time" else None

    def inputs(self, config: Config, plan: Plan) -> list[InputSpec]:
        check_frames(config, plan)
        return [
            video_sample(config, plan),
            InputSpec("timestep", (), (), None, "int64"),
            text_per_frame(config, plan, plan.tokens or self.default_tokens),
            *timestep_cond(config, plan.batch),
            *(text_time(config, plan.batch) if config["addition_embed_type"] == "text_time" else []),
        ]

    def problems(self, config: Config) -> list[str]:
        found = [
            *check_block_lists(config),
            *check_block_names(config, "down_block_types", DOWN_BLOCKS_MOTION, prefix=""),
            *check_block_names(config, "up_block_types", UP_BLOCKS_MOTION, prefix=""),
            *check_counts(config, ["in_channels", "out_channels", "motion_max_seq_length"]),
            *check_counts(config, ["time_cond_proj_dim"], optional=True),
            *check_lengths(config, ["num_attention_heads", "cross_attention_dim"]),
            *check_set(config, ["downsample_padding", "mid_block_scale_factor", "norm_eps", "mid_block_layers"]),
            *check_activation(config, "act_fn"),
            *check_layers(config),
            *check_plain_groups(config),
            *check_sample_size(config),
            *_text_time_partners(config),
            *_image_projection(config),
            *_not_reversed(config),
            *one_for_each_value(problem for block in list_blocks(config) for problem in _block_problems(config, block)),
        ]
        return list(dict.fromkeys(found))  # a short list is found by its length and by the blocks that miss an entry

    def assumed_vae_scale(self, config: Config) -> int:
        return 8

    def frames(self, config: Config) -> Given[int]:
        return motion_frames(config, "AnimateDiffPipeline")


def _text_time_partners(config: Config) -> list[str]:
    """Find what SDXL's pooled text and size ids lack. Other kinds of `addition_embed_type` pass by unread."""
    if config["addition_embed_type"] != "text_time":
        return []
    return missing_partners({**config, "encoder_hid_dim_type": None})


def _image_projection(config: Config) -> list[str]:
    kind = config["encoder_hid_dim_type"]
    if kind is None:
        return []
    # The class makes encoder_hid_proj where there is no type alone, and reads it in every forward.
    found = "which IP-Adapter leaves in a saved config" if kind == "ip_image_proj" else "which the class has no projection for"
    return [f"encoder_hid_dim_type is {kind!r}, {found}, and must be null"]


def _not_reversed(config: Config) -> Iterator[str]:
    """Find depths that the way up cannot read from the end: they are nested, or there are none."""
    for key in ("transformer_layers_per_block", "temporal_transformer_layers_per_block"):
        if _lacks_reverse(config, key):
            yield f"{key} is nested, which needs reverse_{key}"
    key = "transformer_layers_per_block"
    if config[key] in (None, []) and None in (config[f"reverse_{key}"], config["transformer_layers_per_mid_block"]):
        yield f"{key} is {config[key]!r}, and must be a whole number, or a list of them"


def _block_problems(config: Config, block: Block) -> Iterator[str]:
    """Find the depths and heads that a block cannot be built of, in space and along the frames."""
    if block.path == "mid_block":
        yield from _mid_block_depths(config, block)
    else:
        if block.crosses:
            yield from _depth("transformer_layers_per_block", config, block)
        yield from _depth("temporal_transformer_layers_per_block", config, block)
    if block.crosses:
        yield from check_block_heads(config, "num_attention_heads", block)
        yield from check_width(config, block)
    if block.path != "mid_block" or config["use_motion_mid_block"]:
        yield from check_motion_heads(config, block)


def _depth(key: str, config: Config, block: Block) -> Iterator[str]:
    """Hold a block to its list: an up block reads a reversed list of its own, where there is one, from the front."""
    if block.goes_up and config[f"reverse_{key}"] is not None:
        return check_depth(config, f"reverse_{key}", block, -1 - block.place)
    if block.goes_up and _lacks_reverse(config, key):
        return iter(())
    return check_depth(config, key, block, block.place)


def _lacks_reverse(config: Config, key: str) -> bool:
    """Tell whether depths are nested, and an up block, which has one layer more than its down block, has none of its own."""
    value = config[key]
    return is_list(value) and any(is_list(depth) for depth in value) and config[f"reverse_{key}"] is None


def _mid_block_depths(config: Config, block: Block) -> Iterator[str]:
    motion = bool(config["use_motion_mid_block"])
    if config["transformer_layers_per_mid_block"] is not None:  # else that of the last block, or 1 where that is a list
        yield from check_depth(config, "transformer_layers_per_mid_block", block, None, longer=not motion)
    if motion:
        yield from check_depth(config, "temporal_transformer_layers_per_mid_block", block, None)
