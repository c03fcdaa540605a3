"""What ControlNetModel, ControlNetUnionModel and UNetControlNetXSModel share: an image that conditions, and a copied way down.

Source: `controlnet.py`, `controlnet_union.py` and `controlnet_xs.py` of diffusers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from unetinspect.unets.base import Config, Given, InputSpec, Plan, is_count, is_list, per_block
from unetinspect.unets.blocks_2d import CROSS_DOWN_BLOCKS_2D, DOWN_BLOCKS_2D
from unetinspect.unets.condition_rules import check_text_heads, missing_partners, uneven_depths
from unetinspect.unets.config_rules import (
    check_activation,
    check_block_lists,
    check_block_names,
    check_choice,
    check_classes,
    check_counts,
    check_groups,
    check_heads,
    check_layers_per_block,
    check_per_block,
    check_set,
    check_widths,
)
from unetinspect.unets.request import Size
from unetinspect.unets.unet_2d_condition import class_labels, text_time

# The residuals, as `ControlNetOutput` calls them and as the UNet's forward does.
RESIDUALS = {
    "down_block_res_samples": "down_block_additional_residuals",
    "mid_block_res_sample": "mid_block_additional_residual",
}
_CLASS_EMBEDS = (None, "timestep", "identity", "projection")
_ADDITIONS = (None, "text", "text_image", "text_time")


def encoder_width(config: Config, *, mid_crosses: bool) -> int | None:
    """Return the width of `encoder_hidden_states`; None: nothing reads them.

    Unlike the UNet's, forward never calls `encoder_hid_proj`: pipelines project the text before they pass it.
    """
    if config["addition_embed_type"] == "text" and config["encoder_hid_dim"] is not None:
        return int(config["encoder_hid_dim"])
    width = config["cross_attention_dim"]
    return int(width) if width is not None and (_text_is_read(config) or mid_crosses) else None


def condition(config: Config, *, mid_crosses: bool) -> str | None:
    """Return what guidance would swap."""
    if encoder_width(config, mid_crosses=mid_crosses) is not None:
        return "encoder_hidden_states"
    if config["addition_embed_type"] == "text_time":
        return "added_cond_kwargs"
    return "class_labels" if class_labels(_as_read(config), 1) else None


def first_inputs(config: Config, plan: Plan, *, tokens: int, mid_crosses: bool) -> list[InputSpec]:
    """List sample, timestep and encoder_hidden_states."""
    width = encoder_width(config, mid_crosses=mid_crosses)
    key = "encoder_hid_dim" if width is not None and width != config["cross_attention_dim"] else "cross_attention_dim"
    text = InputSpec("encoder_hidden_states", None, (), key)
    if width is not None:
        text = InputSpec("encoder_hidden_states", (plan.batch, tokens, width), ("batch", "tokens", key), key)
    sample = (plan.batch, config["in_channels"], *plan.size)
    return [
        InputSpec("sample", sample, ("batch", "in_channels", "height", "width"), "in_channels"),
        InputSpec("timestep", (), (), None, "int64"),
        text,
    ]


def last_inputs(config: Config, batch: int) -> list[InputSpec]:
    """List class_labels and added_cond_kwargs, where the config asks for them. "text_image" is built, and read by no forward."""
    added = text_time(config, batch) if config["addition_embed_type"] == "text_time" else []
    return [*class_labels(_as_read(config), batch), *added]


def conditioning_image(config: Config, plan: Plan, name: str, *, prefix: str = "") -> InputSpec:
    """Return the image that conditions: as large as the sample that its embedding halves it to."""
    channels, widths = f"{prefix}conditioning_channels", f"{prefix}conditioning_embedding_out_channels"
    factor = shrinks_by(config[widths])
    height, width = plan.size
    scaled = "" if factor == 1 else f"{factor} * "
    axes = ("batch", channels, f"{scaled}height", f"{scaled}width")
    return InputSpec(name, (plan.batch, config[channels], factor * height, factor * width), axes, f"{channels}, {widths}")


def shrinks_by(widths: Any) -> int:
    """Return by how much `ControlNetConditioningEmbedding` shrinks a side of its image: each block but the first halves it.

    >>> shrinks_by([16, 32, 96, 256])
    8
    """
    return int(2 ** (len(widths) - 1))


def assumed_vae_scale(config: Config, *, channels: int, prefix: str = "") -> int | None:
    """Return pixels per cell of the sample: the conditioning image, which has the pixels of the result, is so much larger."""
    factor = shrinks_by(config[f"{prefix}conditioning_embedding_out_channels"])
    return factor if factor > 1 or channels == 3 else None


def sample_size(config: Config) -> Given[Size]:
    """Return a size for a ControlNet, whose config has none."""
    if config["addition_embed_type"] == "text_time":
        return Given((128, 128), "taken for granted: a ControlNet has no sample_size, and with text_time it is for SDXL")
    return Given((64, 64), "taken for granted: a ControlNet has no sample_size")


def find_problems(config: Config, *, mid_crosses: bool) -> list[str]:
    """List the mistakes that neither ControlNetModel nor ControlNetUnionModel can be built or run with."""
    heads = "num_attention_heads" if config["num_attention_heads"] else "attention_head_dim"
    return [
        *check_block_lists(config, ["down_block_types", "block_out_channels"]),
        *check_block_names(config, "down_block_types", (*DOWN_BLOCKS_2D, *CROSS_DOWN_BLOCKS_2D)),
        *check_counts(config, ["in_channels", "conditioning_channels"]),
        *check_counts(config, ["norm_num_groups", "encoder_hid_dim"], optional=True),
        *check_per_block(config, ["attention_head_dim", *([heads] if heads == "num_attention_heads" else [])]),
        *check_classes(config),
        *check_layers_per_block(config),
        *check_set(config, ["freq_shift", "norm_eps", "mid_block_scale_factor", "downsample_padding"]),
        *check_set(config, ["transformer_layers_per_block", "only_cross_attention"]),
        *check_activation(config, "act_fn"),
        *check_choice(config, "resnet_time_scale_shift", ("default", "scale_shift")),
        *check_choice(config, "addition_embed_type", _ADDITIONS),
        *check_widths(config, "conditioning_embedding_out_channels"),
        *check_groups(config),
        *missing_partners(_as_read(config)),
        *uneven_depths(config),
        *_attention(config, heads, mid_crosses=mid_crosses),
        *_text(config, mid_crosses=mid_crosses),
        *_blocks(config),
    ]


def _as_read(config: Config) -> Config:
    """Return the config without what a ControlNet does not know: a class_embed_type of that kind stands for no classes."""
    read = dict(config)
    if config["class_embed_type"] not in _CLASS_EMBEDS:
        read |= {"class_embed_type": None, "num_class_embeds": None}
    if config["addition_embed_type"] not in _ADDITIONS:
        read["addition_embed_type"] = None
    return read


def _text_is_read(config: Config) -> bool:
    return config["addition_embed_type"] == "text" or any("CrossAttn" in str(kind) for kind in config["down_block_types"] or ())


def check_depths(blocks: Iterable[tuple[str, Any, int]]) -> Iterator[str]:
    """Find transformer depths, listed layer by layer, that are fewer than the layers. `blocks` holds (its name, its depth, its layers)."""
    for block, depth, layers in blocks:
        if is_list(depth) and len(depth) < layers:
            yield f"transformer_layers_per_block holds {list(depth)} for the {block}, and must have an entry for each of {layers} layers"
        elif depth is None:
            yield f"transformer_layers_per_block holds None for the {block}, which has attention"


def _attention(config: Config, heads_key: str, *, mid_crosses: bool) -> Iterator[str]:
    """Find heads and depths that do not fit, in blocks that count heads: other blocks with attention count a head's channels."""
    kinds, channels, layers = config["down_block_types"], config["block_out_channels"], config["layers_per_block"]
    if not is_list(kinds) or not is_list(channels) or not channels or len(kinds) != len(channels):
        return
    heads, depths = (per_block(config[key], len(kinds)) for key in (heads_key, "transformer_layers_per_block"))
    places = [place for place, kind in enumerate(kinds) if str(kind).removeprefix("UNetRes") == "CrossAttnDownBlock2D"]
    named = [(f"down block {place}", place, layers) for place in places] + ([("mid block", -1, 1)] if mid_crosses else [])
    if config[heads_key] is not None and len(heads) == len(kinds):
        yield from check_heads(heads_key, [(name, heads[place], channels[place]) for name, place, _ in named])
    if config["transformer_layers_per_block"] is not None and len(depths) >= len(kinds) and is_count(layers):
        yield from check_depths([(name, depths[place], count) for name, place, count in named])


def _text(config: Config, *, mid_crosses: bool) -> Iterator[str]:
    """Find widths of the text that are missing, cannot be shared out among the heads, or contradict each other."""
    width, projected, added = config["cross_attention_dim"], config["encoder_hid_dim"], config["addition_embed_type"]
    kinds = [str(kind).removeprefix("UNetRes") for kind in config["down_block_types"] or ()]
    reads = [kind for kind in kinds if kind in ("CrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D")]
    reads += [f"addition_embed_type {added!r}"] if added == "text_image" or (added == "text" and projected is None) else []
    reads += [f"encoder_hid_dim_type {config['encoder_hid_dim_type']!r}"] if config["encoder_hid_dim_type"] is not None else []
    if width is not None or reads:
        yield from (f"{problem}{f': {reads[0]} reads it' if reads else ''}" for problem in check_counts(config, ["cross_attention_dim"]))
    crosses = any("CrossAttn" in kind for kind in kinds) or mid_crosses
    if added == "text" and projected is not None and crosses and width is not None and projected != width:
        yield f"encoder_hid_dim is {projected}, and must be cross_attention_dim, {width}: addition_embed_type 'text' reads the same text"
    yield from check_text_heads(config)


def _blocks(config: Config) -> Iterator[str]:
    """Find blocks that change no channels where they must, and K-blocks whose skips a ControlNet cannot take.

    It makes a convolution for each skip that another block would push. A K-block pushes one fewer, so that later ones meet the
    wrong convolution; and one with cross-attention and no block below it pushes None.
    """
    kinds, channels = config["down_block_types"], config["block_out_channels"]
    if not is_list(kinds) or not is_list(channels) or len(kinds) != len(channels):
        return
    if config["layers_per_block"] == 0 and any(width != channels[0] for width in channels):
        yield "layers_per_block is 0, and must be at least 1 where block_out_channels change: a resnet changes them"
    names = [str(kind).removeprefix("UNetRes") for kind in kinds]
    if names and names[-1] == "KCrossAttnDownBlock2D" and config["layers_per_block"]:
        yield "down_block_types ends with KCrossAttnDownBlock2D, which pushes no skips there that a ControlNet could take"
    for place, name in enumerate(names):
        if name.startswith("K") and any(width != channels[place] for width in channels[place:]):
            yield f"down_block_types holds {name}, whose skips fit a ControlNet only where all further block_out_channels are the same"
            return
