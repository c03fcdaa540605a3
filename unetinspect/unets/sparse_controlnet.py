"""`SparseControlNetModel`: SparseCtrl, which steers AnimateDiff by a few frames of a video.

Source: `controlnet_sparsectrl.py` of diffusers. What it returns has one tensor for each skip of a `UNetMotionModel`.
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
from unetinspect.unets.blocks_video import DOWN_BLOCKS_MOTION
from unetinspect.unets.config_rules import (
    check_activation,
    check_block_lists,
    check_block_names,
    check_choice,
    check_counts,
    check_set,
)
from unetinspect.unets.video_inputs import check_frames, frames_of, motion_frames, reads_text, text_per_frame, video_sample


class SparseControlNetInputs(Builder):
    """sample, timestep, encoder_hidden_states for every frame, controlnet_cond, and the mask of the frames that it gives."""

    class_name = "SparseControlNetModel"
    what = "ControlNet of AnimateDiff for a few of the frames: SparseCtrl"
    medium = "video"
    plugs_into = {  # noqa: RUF012  declared as a ClassVar by Builder
        "down_block_res_samples": "down_block_additional_residuals",
        "mid_block_res_sample": "mid_block_additional_residual",
    }

    def condition(self, config: Config) -> str | None:
        return "encoder_hidden_states" if reads_text(config) else None

    def inputs(self, config: Config, plan: Plan) -> list[InputSpec]:
        check_frames(config, plan)
        return [
            video_sample(config, plan),
            InputSpec("timestep", (), (), None, "int64"),
            text_per_frame(config, plan, plan.tokens or self.default_tokens),
            *_conditioning(config, plan),
        ]

    def problems(self, config: Config) -> list[str]:
        heads = _heads_key(config)
        found = [
            *check_block_lists(config, ["down_block_types", "block_out_channels"]),
            *check_block_names(config, "down_block_types", DOWN_BLOCKS_MOTION, prefix=""),
            *check_counts(config, ["in_channels", "conditioning_channels", "motion_max_seq_length"]),
            *check_lengths(config, [heads]),
            *check_set(config, ["freq_shift", "mid_block_scale_factor", "norm_eps"]),
            *check_activation(config, "act_fn"),
            *check_choice(config, "resnet_time_scale_shift", ("default", "scale_shift")),
            *check_choice(config, "controlnet_conditioning_channel_order", ("rgb", "bgr")),
            *check_layers(config),
            *check_plain_groups(config),
            *_conditioning_embedding(config),
            *_only_cross_attention(config),
            *one_for_each_value(problem for block in list_blocks(config) for problem in _block_problems(config, block, heads)),
        ]
        return list(dict.fromkeys(found))  # a short list is found by its length and by the blocks that miss an entry

    def assumed_vae_scale(self, config: Config) -> int:
        return 8

    def frames(self, config: Config) -> Given[int]:
        return motion_frames(config, "AnimateDiffSparseControlNetPipeline")


def _heads_key(config: Config) -> str:
    """Return the key that holds the heads: the older name, unless the newer one is set."""
    return "num_attention_heads" if config["num_attention_heads"] else "attention_head_dim"


def _conditioning(config: Config, plan: Plan) -> list[InputSpec]:
    """Return the picture for every frame, as latents or in pixels, and the mask of those frames that there is one for."""
    scale, key = 1, "conditioning_channels"
    if not config["use_simplified_condition_embedding"]:  # every convolution of the embedding but the first halves the picture
        scale, key = 2 ** (len(config["conditioning_embedding_out_channels"]) - 1), f"{key}, conditioning_embedding_out_channels"
    frames, (height, width) = frames_of(plan), plan.size
    sides = ("height", "width") if scale == 1 else (f"{scale} * height", f"{scale} * width")
    size = (frames, scale * height, scale * width)
    picture = (plan.batch, config["conditioning_channels"], *size)
    specs = [InputSpec("controlnet_cond", picture, ("batch", "conditioning_channels", "frames", *sides), key)]
    if config["concat_conditioning_mask"]:
        specs.append(
            InputSpec("conditioning_mask", (plan.batch, 1, *size), ("batch", "mask", "frames", *sides), "concat_conditioning_mask")
        )
    return specs


def _conditioning_embedding(config: Config) -> list[str]:
    channels = config["conditioning_embedding_out_channels"]
    if config["use_simplified_condition_embedding"]:
        return []
    if not is_list(channels) or not channels:
        return [f"conditioning_embedding_out_channels is {channels!r}, and must be a list with at least one entry"]
    return []


def _only_cross_attention(config: Config) -> list[str]:
    only, kinds = config["only_cross_attention"], config["down_block_types"]
    if only is None:
        return ["only_cross_attention is null, and must have a value"]
    if is_list(only) and is_list(kinds) and len(only) != len(kinds):
        return [f"only_cross_attention has {len(only)} entries, and must have one for each of the {len(kinds)} down_block_types"]
    return []


def _block_problems(config: Config, block: Block, heads: str) -> Iterator[str]:
    """Find the depths and heads that a block cannot be built of. The mid block has no motion module."""
    if block.crosses:
        yield from check_block_heads(config, heads, block)
        yield from check_width(config, block)
    if block.path == "mid_block":
        if config["transformer_layers_per_mid_block"] is not None:
            yield from check_depth(config, "transformer_layers_per_mid_block", block, None, longer=True)
        return
    if block.crosses:
        yield from check_depth(config, "transformer_layers_per_block", block, block.place)
    yield from check_depth(config, "temporal_transformer_layers_per_block", block, block.place)
    yield from check_motion_heads(config, block)
