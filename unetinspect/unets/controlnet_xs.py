"""`UNetControlNetXSModel`: a UNet and a slim ControlNet beside it, which talk to each other on the way down."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from unetinspect.unets import controlnet_rules as rules
from unetinspect.unets.base import Builder, Config, InputSpec, Plan, is_count, is_list, per_block
from unetinspect.unets.condition_rules import missing_partners
from unetinspect.unets.config_rules import (
    check_block_lists,
    check_choice,
    check_counts,
    check_groups,
    check_heads,
    check_sample_size,
    check_set,
    check_widths,
)
from unetinspect.unets.unet_2d_condition import common_width, text_time

_IN_CHANNELS = 4  # fixed in the class, as are two resnets a block on the way down and three on the way up
_LISTS = ("down_block_types", "up_block_types", "block_out_channels")
_BY_BLOCK = ("cross_attention_dim", "transformer_layers_per_block", "num_attention_heads", "ctrl_num_attention_heads")


class UNetControlNetXSInputs(Builder):
    """sample, timestep, encoder_hidden_states, the image that conditions, and SDXL's text_time.

    time_cond_proj_dim asks for nothing: forward gives timestep_cond to the control's time embedding alone, which takes none.
    """

    class_name = "UNetControlNetXSModel"
    what = "image from text and image: a UNet2DConditionModel with a slim ControlNet in it"

    def condition(self, config: Config) -> str | None:
        if _encoder_width(config) is not None:
            return "encoder_hidden_states"
        return "added_cond_kwargs" if config["addition_embed_type"] == "text_time" else None

    def inputs(self, config: Config, plan: Plan) -> list[InputSpec]:
        width, key = _encoder_width(config), "cross_attention_dim"
        text = InputSpec("encoder_hidden_states", None, (), key)
        if width is not None:
            shape = (plan.batch, plan.tokens or self.default_tokens, width)
            text = InputSpec("encoder_hidden_states", shape, ("batch", "tokens", key), key)
        sample = (plan.batch, _IN_CHANNELS, *plan.size)
        return [
            InputSpec("sample", sample, ("batch", "in_channels", "height", "width"), "sample_size"),
            InputSpec("timestep", (), (), None, "int64"),
            text,
            rules.conditioning_image(config, plan, "controlnet_cond", prefix="ctrl_"),
            *(text_time(config, plan.batch) if config["addition_embed_type"] == "text_time" else []),
        ]

    def problems(self, config: Config) -> list[str]:
        return [
            *(problem for key in _LISTS for problem in check_block_lists(config, [key])),
            *check_counts(config, ["ctrl_conditioning_channels", "ctrl_max_norm_num_groups"]),
            *check_counts(config, ["norm_num_groups", "time_cond_proj_dim"], optional=True),
            *check_widths(config, "ctrl_block_out_channels"),
            *check_widths(config, "ctrl_conditioning_embedding_out_channels"),
            *check_set(config, ["time_embedding_mix"]),
            *check_choice(config, "addition_embed_type", (None, "text_time")),
            *check_groups({**config, "down_block_types": [], "up_block_types": []}),  # whatever they are called, all blocks have norms
            *check_sample_size(config),
            *(missing_partners(config) if config["addition_embed_type"] == "text_time" else []),
            *_by_block(config),
            *_time_embedding(config),
        ]

    def assumed_vae_scale(self, config: Config) -> int | None:
        return rules.assumed_vae_scale(config, channels=_IN_CHANNELS, prefix="ctrl_")


def _encoder_width(config: Config) -> int | None:
    """Return the width of `encoder_hidden_states`; None: no block reads them.

    Raises:
        ConfigError: The blocks do not agree on one width.
    """
    widths = per_block(config["cross_attention_dim"], len(config["down_block_types"]))
    both = [*_attending(config), *_attending(config, "ctrl_")]
    # where the width is null there is no attn2
    crossing = [(widths[block.place], block.channels) for block in both if widths[block.place] is not None]
    return common_width(crossing, config["cross_attention_dim"])


class _Block(NamedTuple):
    """A block with attention: its name, its place in the lists by block, its channels and its layers."""

    name: str
    place: int
    channels: int
    layers: int


def _attending(config: Config, prefix: str = "") -> Iterator[_Block]:
    """Yield the blocks that have attention, of the UNet or of the control stream, which has no up blocks."""
    channels = config[f"{prefix}block_out_channels"]
    for place, kind in enumerate(config["down_block_types"]):
        if "CrossAttn" in str(kind):
            yield _Block(f"down block {place}", place, channels[place], layers=2)
    yield _Block("mid block", -1, channels[-1], layers=1)  # whatever the config says
    for place, kind in enumerate(config["up_block_types"] if not prefix else ()):
        if "CrossAttn" in str(kind):
            yield _Block(f"up block {place}", -1 - place, channels[-1 - place], layers=3)


def _by_block(config: Config) -> Iterator[str]:
    """Find what does not fit the blocks, in lists by block."""
    lengths = [*_lengths(config)]
    if lengths or not all(is_list(config[key]) and config[key] for key in (*_LISTS, "ctrl_block_out_channels")):
        yield from lengths
        return
    values = {key: per_block(config[key], len(config["down_block_types"])) for key in _BY_BLOCK}
    for prefix in ("", "ctrl_"):
        key = f"{prefix}num_attention_heads"
        yield from check_heads(key, [(block.name, values[key][block.place], block.channels) for block in _attending(config, prefix)])
    for width in {str(width): width for width in values["cross_attention_dim"]}.values():
        if width is not None and not is_count(width):
            yield f"cross_attention_dim holds {width!r}, and must hold whole numbers above 0"
    depths = values["transformer_layers_per_block"]
    yield from rules.check_depths([(block.name, depths[block.place], block.layers) for block in _attending(config)])


def _lengths(config: Config) -> Iterator[str]:
    """Find lists whose lengths do not go together. The class compares none, and runs with some that differ."""
    keys = ("down_block_types", "up_block_types", "block_out_channels", "ctrl_block_out_channels")
    lists = [config[key] for key in keys]
    if not all(is_list(value) and value for value in lists) or not all(map(is_count, [*lists[2], *lists[3]])):
        return
    down, up, channels, control = lists
    enough = len(up) <= len(down) <= min(len(channels), len(control))
    same = all(len(widths) == len(down) or len(set(widths)) == 1 for widths in (channels, control))
    if not enough or not same or channels[len(channels) - len(up)] != channels[0]:
        yield "must be of one length: " + ", ".join(f"{key} has {len(config[key])}" for key in keys)
    for key in _BY_BLOCK:
        value = config[key]
        if is_list(value) and len(value) < len(down):
            yield f"{key} has {len(value)} entries, and must have one for each of the {len(down)} down_block_types"


def _time_embedding(config: Config) -> Iterator[str]:
    mix = config["time_embedding_mix"]
    if mix is not None and not 0 <= mix <= 1:
        yield f"time_embedding_mix is {mix}, and must be from 0 to 1"
    elif mix is not None and mix < 1 and not config["ctrl_learn_time_embedding"]:
        yield f"time_embedding_mix is {mix}, which below 1 needs ctrl_learn_time_embedding"
