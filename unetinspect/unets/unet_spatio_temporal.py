"""`UNetSpatioTemporalConditionModel`: Stable Video Diffusion."""

from __future__ import annotations

from collections.abc import Iterator

from unetinspect.unets.base import Builder, Config, Given, InputSpec, Plan, is_count
from unetinspect.unets.block_list import Block, entry, list_blocks
from unetinspect.unets.block_rules import (
    check_block_heads,
    check_depth,
    check_layers,
    check_lengths,
    check_width,
    one_for_each_value,
)
from unetinspect.unets.blocks_video import DOWN_BLOCKS_SPATIO_TEMPORAL, UP_BLOCKS_SPATIO_TEMPORAL
from unetinspect.unets.config_rules import (
    check_block_lists,
    check_block_names,
    check_counts,
    check_sample_size,
    uneven_channels,
)
from unetinspect.unets.video_inputs import frames_of, reads_text, text

_GROUPS = 32  # of every group norm: the config has no say in it
_FRAMES = 25  # of the class


class UNetSpatioTemporalInputs(Builder):
    """sample (batch, frames, in_channels, height, width), timestep, encoder_hidden_states, added_time_ids."""

    class_name = "UNetSpatioTemporalConditionModel"
    what = "video from an image: Stable Video Diffusion"
    default_tokens = 1  # the embedding of one image
    medium = "video"

    def condition(self, config: Config) -> str | None:
        return "encoder_hidden_states" if reads_text(config) else None

    def inputs(self, config: Config, plan: Plan) -> list[InputSpec]:
        sample = (plan.batch, frames_of(plan), config["in_channels"], *plan.size)
        ids = config["projection_class_embeddings_input_dim"] // config["addition_time_embed_dim"]
        return [
            InputSpec("sample", sample, ("batch", "frames", "in_channels", "height", "width"), "in_channels, num_frames, sample_size"),
            InputSpec("timestep", (), (), None, "int64"),
            text(config, plan, plan.tokens or self.default_tokens),
            InputSpec(
                "added_time_ids", (plan.batch, ids), ("batch", "ids"), "projection_class_embeddings_input_dim, addition_time_embed_dim"
            ),
        ]

    def problems(self, config: Config) -> list[str]:
        found = [
            *check_block_lists(config),
            *check_block_names(config, "down_block_types", DOWN_BLOCKS_SPATIO_TEMPORAL, prefix=""),
            *check_block_names(config, "up_block_types", UP_BLOCKS_SPATIO_TEMPORAL, prefix=""),
            *check_counts(config, ["in_channels", "out_channels"]),
            *check_counts(config, ["num_frames"], optional=True),
            *check_lengths(config, ["num_attention_heads", "cross_attention_dim"]),
            *check_lengths(config, ["transformer_layers_per_block"], longer=True),
            *check_layers(config),
            *_groups(config),
            *check_sample_size(config),
            *_time_ids(config),
            *one_for_each_value(problem for block in list_blocks(config) if block.crosses for problem in _attention(config, block)),
        ]
        return list(dict.fromkeys(found))  # a short list is found by its length and by the blocks that miss an entry

    def assumed_vae_scale(self, config: Config) -> int:
        return 8

    def frames(self, config: Config) -> Given[int]:
        frames = config["num_frames"]
        return Given(frames, "config") if is_count(frames) else Given(_FRAMES, "taken for granted: the config has no num_frames")


def _groups(config: Config) -> list[str]:
    uneven = uneven_channels(config, _GROUPS)
    return [f"block_out_channels holds {uneven}, and must hold multiples of {_GROUPS}, the groups of every norm"] if uneven else []


def _time_ids(config: Config) -> list[str]:
    """Find a projection whose input is not made of whole embeddings of numbers (frame rate, motion, noise)."""
    total, width = config["projection_class_embeddings_input_dim"], config["addition_time_embed_dim"]
    wrong = list(check_counts(config, ["addition_time_embed_dim", "projection_class_embeddings_input_dim"]))
    if wrong or total % width == 0:
        return wrong
    return [f"projection_class_embeddings_input_dim is {total}, and must be a multiple of addition_time_embed_dim, {width}"]


def _attention(config: Config, block: Block) -> Iterator[str]:
    """Find what a block with attention cannot be built of: its depth, its heads, the width of what it attends to."""
    yield from check_depth(config, "transformer_layers_per_block", block, block.place, longer=True)
    wrong = list(check_block_heads(config, "num_attention_heads", block))
    heads = entry(config["num_attention_heads"], block.place)
    if not wrong and block.layers > 0 and block.channels % heads:
        wrong = [f"num_attention_heads is {heads} for {block.path}, and must divide its {block.channels} channels"]
    yield from wrong
    wrong = list(check_width(config, block))
    if not wrong and block.path != "mid_block" and entry(config["cross_attention_dim"], block.place) is None:
        wrong = [f"cross_attention_dim holds null for {block.path}, which has cross-attention"]
    yield from wrong
