"""`UNet2DConditionModel`: Stable Diffusion's UNet and its many relatives.

Widths are read from the config as `unet_2d_condition.py` of diffusers reads them: `_set_encoder_hid_proj`,
`_set_class_embedding`, `_set_add_embedding`, `_set_pos_net_if_use_gligen` and `forward`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unetinspect.errors import ConfigError
from unetinspect.unets.base import Builder, Config, InputSpec, Plan, is_count, is_list, per_block
from unetinspect.unets.block_rules import check_widening, with_unsaid
from unetinspect.unets.blocks_2d import CROSS_DOWN_BLOCKS_2D, CROSS_UP_BLOCKS_2D, DOWN_BLOCKS_2D, MID_BLOCKS_2D, UP_BLOCKS_2D
from unetinspect.unets.condition_rules import check_attention, check_text_heads, check_time_values, find_contradictions
from unetinspect.unets.config_rules import (
    check_activation,
    check_block_lists,
    check_block_names,
    check_choice,
    check_classes,
    check_counts,
    check_groups,
    check_layers_per_block,
    check_per_block,
    check_sample_size,
    check_set,
)

# Text encoders that published UNets pool their `text_embeds` from: CLIP bigG, CLIP L, unCLIP, ChatGLM.
_POOLED_WIDTHS = (1280, 768, 2048, 4096)
_TIME_IDS = 6
_GLIGEN_OBJECTS = 30
_SAME_WIDTH = "give every such block the same width"


class UNet2DConditionInputs(Builder):
    """sample, timestep, encoder_hidden_states, and what the config adds to them."""

    class_name = "UNet2DConditionModel"
    what = "image from text or image: Stable Diffusion and its relatives"

    def condition(self, config: Config) -> str | None:
        if encoder_width(config) is not None:
            return "encoder_hidden_states"
        if _added_cond(config, 1):
            return "added_cond_kwargs"
        return "class_labels" if class_labels(config, 1) else None

    def inputs(self, config: Config, plan: Plan) -> list[InputSpec]:
        tokens = plan.tokens or self.default_tokens
        return [
            _sample(config, plan),
            InputSpec("timestep", (), (), None, "int64"),
            _encoder_hidden_states(config, plan.batch, tokens),
            *class_labels(config, plan.batch),
            *timestep_cond(config, plan.batch),
            *_gligen(config, plan.batch),
            *_added_cond(config, plan.batch),
            *_hint(config, plan),
        ]

    def problems(self, config: Config) -> list[str]:
        found = [
            *check_block_lists(config),
            *check_block_names(config, "down_block_types", (*DOWN_BLOCKS_2D, *CROSS_DOWN_BLOCKS_2D)),
            *check_block_names(config, "up_block_types", (*UP_BLOCKS_2D, *CROSS_UP_BLOCKS_2D)),
            *check_choice(config, "mid_block_type", MID_BLOCKS_2D),
            *check_counts(config, ["in_channels", "out_channels", "conv_in_kernel", "conv_out_kernel"]),
            *check_counts(config, ["norm_num_groups", "time_cond_proj_dim", "encoder_hid_dim"], optional=True),
            *check_per_block(config, ["attention_head_dim", "cross_attention_dim"]),
            *check_classes(config),
            *check_layers_per_block(config),
            *check_set(config, ["norm_eps", "freq_shift", "mid_block_scale_factor", "downsample_padding"]),
            *check_activation(config, "act_fn"),
            *check_time_values(config),
            *check_choice(config, "time_embedding_type", ("positional", "fourier")),
            *check_choice(config, "encoder_hid_dim_type", (None, "text_proj", "text_image_proj", "image_proj")),
            *check_choice(config, "addition_embed_type", (None, "text", "text_image", "text_time", "image", "image_hint")),
            *check_groups(config),
            *check_sample_size(config),
            *find_contradictions(config),
            *check_text_heads(config),
        ]
        return with_unsaid(found, [*check_widening(config), *check_attention(config)])

    def assumed_vae_scale(self, config: Config) -> int:
        return 1 if config["in_channels"] == 3 else 8


def encoder_width(config: Config) -> int | None:
    """Return the width of `encoder_hidden_states`; None: nothing reads them, and they are passed as None.

    Raises:
        ConfigError: The blocks with cross-attention do not agree on one width.
    """
    projection, projected = config["encoder_hid_dim_type"], config["encoder_hid_dim"]
    # `add_embedding` of "text" reads them before any projection does; without a type diffusers takes text_proj. A loaded
    # IP-Adapter (ip_image_proj, in a live UNet alone) keeps the text's projection beside its own.
    if projected is not None and (
        projection in (None, "text_proj", "text_image_proj", "ip_image_proj") or config["addition_embed_type"] == "text"
    ):
        return int(projected)
    if projection == "image_proj":
        return None
    if config["addition_embed_type"] == "text" and is_count(config["cross_attention_dim"]):
        return int(config["cross_attention_dim"])
    return _cross_attention_width(config)


def _cross_attention_width(config: Config) -> int | None:
    return common_width(_crossing_blocks(config), config["cross_attention_dim"])


def common_width(crossing: Sequence[tuple[int, int]], wanted: Any, *, hint: str = _SAME_WIDTH) -> int | None:
    """Return the one width of `encoder_hidden_states` that all blocks with cross-attention read; None: they read none.

    `crossing` holds (cross_attention_dim, channels) of each of them, `wanted` is what the config says.

    Raises:
        ConfigError: They do not agree on one width.
    """
    distinct = {width for width, _ in crossing}
    if len(distinct) == 1:
        return distinct.pop()
    if all(width == out for width, out in crossing):
        return None  # none crosses; or, in AudioLDM, attn2 attends to the block's own hidden states
    raise ConfigError(
        f"cross_attention_dim is {wanted}: the blocks with cross-attention want different encoder_hidden_states",
        hint=hint,
    )


def _crossing_blocks(config: Config) -> list[tuple[int, int]]:
    """List (cross_attention_dim, channels) of each block with cross-attention; up blocks read the lists from the end.

    A mid block of which the list says null attends to itself alone.
    """
    channels = list(config["block_out_channels"])
    widths = per_block(config["cross_attention_dim"], len(channels))
    down = zip(config["down_block_types"], widths, channels, strict=True)
    up = zip(config["up_block_types"], reversed(widths), reversed(channels), strict=True)
    mid = (config["mid_block_type"] or "", widths[-1], channels[-1])
    return [(width, out) for kind, width, out in (*down, mid, *up) if "CrossAttn" in kind and width is not None]


def _sample(config: Config, plan: Plan) -> InputSpec:
    # With image_hint, forward concatenates 4 channels that add_embedding makes from the hint.
    made = 4 if config["addition_embed_type"] == "image_hint" else 0
    shape = (plan.batch, config["in_channels"] - made, *plan.size)
    key = "in_channels, addition_embed_type, sample_size" if made else "in_channels, sample_size"
    return InputSpec("sample", shape, ("batch", "in_channels", "height", "width"), key)


def _encoder_hidden_states(config: Config, batch: int, tokens: int) -> InputSpec:
    width = encoder_width(config)
    key = "encoder_hid_dim" if config["encoder_hid_dim"] is not None else "cross_attention_dim"
    if width is None:
        return InputSpec("encoder_hidden_states", None, (), "encoder_hid_dim_type" if key == "encoder_hid_dim" else key)
    return InputSpec("encoder_hidden_states", (batch, tokens, width), ("batch", "tokens", key), key)


def class_labels(config: Config, batch: int) -> list[InputSpec]:
    """Return class_labels as `get_class_embed` reads them, or nothing where there are no classes."""
    kind = config["class_embed_type"]
    if kind is None and config["num_class_embeds"] is not None:
        return [InputSpec("class_labels", (batch,), ("batch",), "num_class_embeds", "int64")]
    if kind == "timestep":
        return [InputSpec("class_labels", (batch,), ("batch",), "class_embed_type", "int64")]
    if kind == "identity":
        return [InputSpec("class_labels", (batch, time_embed_width(config)), ("batch", "time_embed_dim"), "class_embed_type")]
    if kind in ("projection", "simple_projection"):
        key = "projection_class_embeddings_input_dim"
        return [InputSpec("class_labels", (batch, config[key]), ("batch", key), f"class_embed_type, {key}")]
    return []


def time_embed_width(config: Config) -> int:
    """Return the width of the time embedding: 4 x the first block's channels, 2 x with Fourier features."""
    factor = 2 if config.get("time_embedding_type") == "fourier" else 4
    return int(config.get("time_embedding_dim") or factor * config["block_out_channels"][0])


def timestep_cond(config: Config, batch: int) -> list[InputSpec]:
    """Return timestep_cond, where the time embedding has a layer for it."""
    width = config["time_cond_proj_dim"]
    if width is None:
        return []
    return [InputSpec("timestep_cond", (batch, width), ("batch", "time_cond_proj_dim"), "time_cond_proj_dim")]


def _gligen(config: Config, batch: int) -> list[InputSpec]:
    kind, width = config["attention_type"], config["cross_attention_dim"]
    if kind not in ("gated", "gated-text-image"):
        return []
    width = width[0] if is_list(width) else width
    embeddings = ["positive_embeddings"] if kind == "gated" else ["phrases_embeddings", "image_embeddings"]
    masks = ["masks"] if kind == "gated" else ["masks", "phrases_masks", "image_masks"]
    shapes: list[tuple[str, tuple[int, ...], tuple[str, ...]]] = [("boxes", (4,), ("corners",))]
    shapes += [(name, (), ()) for name in masks]
    shapes += [(name, (width,), ("cross_attention_dim",)) for name in embeddings]
    return [
        InputSpec(f"cross_attention_kwargs.gligen.{name}", (batch, _GLIGEN_OBJECTS, *tail), ("batch", "objects", *axes), "attention_type")
        for name, tail, axes in shapes
    ]


def _added_cond(config: Config, batch: int) -> list[InputSpec]:
    """List added_cond_kwargs as `get_aug_embed` and `process_encoder_hidden_states` read them."""
    kind, projection = config["addition_embed_type"], config["encoder_hid_dim_type"]
    specs = text_time(config, batch) if kind == "text_time" else []
    if kind == "text_image":
        specs.append(_embeds("text_embeds", config, batch, "cross_attention_dim", "addition_embed_type"))
    if kind == "text_image" or projection == "text_image_proj":
        key = "addition_embed_type" if kind == "text_image" else "encoder_hid_dim_type"
        specs.append(_embeds("image_embeds", config, batch, "cross_attention_dim", key))
    elif kind in ("image", "image_hint") or projection == "image_proj":
        key = "addition_embed_type" if kind in ("image", "image_hint") else "encoder_hid_dim_type"
        specs.append(_embeds("image_embeds", config, batch, "encoder_hid_dim", key))
    return specs


def _embeds(name: str, config: Config, batch: int, width_key: str, asked_by: str) -> InputSpec:
    return InputSpec(f"added_cond_kwargs.{name}", (batch, config[width_key]), ("batch", width_key), f"{asked_by}, {width_key}")


def text_time(config: Config, batch: int) -> list[InputSpec]:
    """Return SDXL's pooled text and size ids: pooled width + ids * addition_time_embed_dim is the projection's input width."""
    total, width = config["projection_class_embeddings_input_dim"], config["addition_time_embed_dim"]
    published = [ids for ids in range(_TIME_IDS, 0, -1) if total - ids * width in _POOLED_WIDTHS]
    ids = published[0] if published else max(1, min(_TIME_IDS, total // width))
    pooled = total - ids * width
    keys = "addition_embed_type, projection_class_embeddings_input_dim, addition_time_embed_dim"
    return [
        InputSpec("added_cond_kwargs.text_embeds", (batch, pooled), ("batch", "pooled_dim"), keys),
        InputSpec("added_cond_kwargs.time_ids", (batch, ids), ("batch", "ids"), keys),
    ]


def _hint(config: Config, plan: Plan) -> list[InputSpec]:
    if config["addition_embed_type"] != "image_hint":
        return []
    height, width = plan.size  # ImageHintTimeEmbedding halves the hint three times
    shape = (plan.batch, 3, 8 * height, 8 * width)
    return [InputSpec("added_cond_kwargs.hint", shape, ("batch", "rgb", "8 * height", "8 * width"), "addition_embed_type")]
