"""`DreamLiteUNetModel`: a `UNet2DConditionModel` with lighter blocks, and two kinds of embeddings of its own.

What it inherits is asked of `unet_2d_condition.py` here; what it has beside that is in `unet_dreamlite.py` of diffusers.
"""

from __future__ import annotations

from collections.abc import Iterator

from unetinspect.unets.base import Builder, Config, Given, InputSpec, Plan, is_count
from unetinspect.unets.block_list import Block, entry
from unetinspect.unets.block_rules import check_plain_groups, check_widening, one_for_each_value, with_unsaid
from unetinspect.unets.condition_rules import (
    check_text_heads,
    check_time_values,
    check_transformers,
    find_contradictions,
    transformer_blocks,
)
from unetinspect.unets.config_rules import (
    check_activation,
    check_block_lists,
    check_block_names,
    check_choice,
    check_classes,
    check_counts,
    check_layers_per_block,
    check_per_block,
    check_sample_size,
    check_set,
)
from unetinspect.unets.request import Size
from unetinspect.unets.unet_2d_condition import UNet2DConditionInputs

_DOWN_BLOCKS = (
    *("DreamLiteDownBlock2D", "DreamLiteCrossAttnDownBlock2D", "DreamLiteCrossAttnNoSelfAttnDownBlock2D"),
    *("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownRemoveSelfAttnBlock2D"),
)
_UP_BLOCKS = (
    *("DreamLiteUpBlock2D", "DreamLiteCrossAttnUpBlock2D", "DreamLiteCrossAttnNoSelfAttnUpBlock2D"),
    *("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpRemoveSelfAttnBlock2D", "CrossAttnUpRemoveSelfAttnBlock2DV1"),
)
_MID_BLOCKS = ("DreamLiteUNetMidBlock2DCrossAttn", "UNetMidBlock2DCrossAttn", None)
_QK_NORMS = (None, "layer_norm", "fp32_layer_norm", "rms_norm", "l2")
_ACROSS_HEADS = ("layer_norm_across_heads", "rms_norm_across_heads")  # as wide as all heads, and applied to one
_INHERITED = UNet2DConditionInputs()


class DreamLiteInputs(Builder):
    """What `UNet2DConditionModel` is given, and added_cond_kwargs.time_ids alone for the addition "time"."""

    class_name = "DreamLiteUNetModel"
    what = "image from text, or from text and image: DreamLite"
    default_size = (128, 256)

    def condition(self, config: Config) -> str | None:
        return _INHERITED.condition(_as_inherited(config)) or ("added_cond_kwargs" if _time_ids(config, 1) else None)

    def inputs(self, config: Config, plan: Plan) -> list[InputSpec]:
        return [*_INHERITED.inputs(_as_inherited(config), plan), *_time_ids(config, plan.batch)]

    def problems(self, config: Config) -> list[str]:
        blocks = transformer_blocks(config)
        found = [
            *check_block_lists(config),
            *check_block_names(config, "down_block_types", _DOWN_BLOCKS, prefix=""),
            *check_block_names(config, "up_block_types", _UP_BLOCKS, prefix=""),
            *check_choice(config, "mid_block_type", _MID_BLOCKS),
            *check_counts(config, ["in_channels", "out_channels", "conv_in_kernel", "conv_out_kernel"]),
            *check_counts(config, ["time_cond_proj_dim", "encoder_hid_dim", "num_kv_heads"], optional=True),
            *check_per_block(config, ["cross_attention_dim"]),
            *check_classes(config),
            *check_layers_per_block(config),
            *check_set(config, ["norm_eps", "freq_shift", "mid_block_scale_factor", "downsample_padding", "num_mid_layers"]),
            *check_activation(config, "act_fn"),
            *check_time_values(config),
            *check_choice(config, "time_embedding_type", ("positional", "fourier")),
            *check_choice(config, "encoder_hid_dim_type", (None, "text_proj", "text_proj_rms", "text_image_proj", "image_proj")),
            *check_choice(config, "addition_embed_type", (None, "text", "text_image", "text_time", "time", "image", "image_hint")),
            *check_plain_groups(config),
            *check_sample_size(config),
            *find_contradictions(config),
            *_time_ids_fit(config),
            *check_text_heads(config),
            *(_attention_values(config) if blocks else []),
        ]
        by_block = one_for_each_value(problem for block in blocks for problem in _block_problems(config, block))
        return list(dict.fromkeys(with_unsaid(found, [*check_widening(config), *by_block])))

    def assumed_vae_scale(self, config: Config) -> int:
        return _INHERITED.assumed_vae_scale(config)

    def sample_size(self, config: Config) -> Given[Size]:
        """Return twice the width that the config says: the pipelines put the image and the one it is made of side by side."""
        own = super().sample_size(config)
        if config["sample_size"] is None:
            return own
        return Given((own.value[0], 2 * own.value[1]), f"{own.said_by}, twice as wide: the pipelines put two images side by side")


def _as_inherited(config: Config) -> Config:
    """Return the config in the words of `UNet2DConditionModel`: text_proj_rms is its text_proj, and it has no addition "time"."""
    projection, addition = config["encoder_hid_dim_type"], config["addition_embed_type"]
    return {
        **config,
        "encoder_hid_dim_type": "text_proj" if projection == "text_proj_rms" else projection,
        "addition_embed_type": None if addition == "time" else addition,
    }


def _time_ids(config: Config, batch: int) -> list[InputSpec]:
    """Return the width and height in pixels, as `get_aug_embed` reads them: as many ids as the projection has room for."""
    if config["addition_embed_type"] != "time":
        return []
    ids = config["projection_class_embeddings_input_dim"] // config["addition_time_embed_dim"]
    keys = "addition_embed_type, projection_class_embeddings_input_dim, addition_time_embed_dim"
    return [InputSpec("added_cond_kwargs.time_ids", (batch, ids), ("batch", "ids"), keys)]


def _time_ids_fit(config: Config) -> Iterator[str]:
    width, total = config["addition_time_embed_dim"], config["projection_class_embeddings_input_dim"]
    if config["addition_embed_type"] == "time" and is_count(width) and is_count(total) and total % width:
        yield f"projection_class_embeddings_input_dim is {total}, and must be a multiple of addition_time_embed_dim, {width}"


def _attention_values(config: Config) -> Iterator[str]:
    """Find values that all transformers read alike."""
    yield from check_counts(config, ["ff_mult"])
    if config["qk_norm"] not in _ACROSS_HEADS:
        yield from check_choice(config, "qk_norm", _QK_NORMS)


def _block_problems(config: Config, block: Block) -> Iterator[str]:
    """Find what the transformers of a block cannot use."""
    yield from check_transformers(config, block)
    heads, kv_heads = entry(config["attention_head_dim"], block.place), config["num_kv_heads"]
    if not is_count(heads) or heads > block.channels or block.layers <= 0:
        return
    if is_count(kv_heads) and heads % kv_heads:
        yield f"num_kv_heads is {kv_heads} for {block.path}, and must divide its {heads} heads (attention_head_dim)"
    elif config["qk_norm"] in _ACROSS_HEADS and heads > 1:
        yield f"qk_norm is {config['qk_norm']!r} for {block.path}, which normalises each of its {heads} heads alone"
