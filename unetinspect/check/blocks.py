"""Which block types read which config key. Source: `get_down_block`, `get_mid_block` and `get_up_block` of unet_2d_blocks.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from unetinspect.unets.base import Config, is_list

_PREFIX = "UNetRes"


class Kind(NamedTuple):
    """One block by its type alone.

    Attributes:
        name: Its type, without the prefix that old configs have; "" where it is none.
        way: "down", "mid" or "up".
        last: Whether it is the last on its way, and so neither down- nor upsamples.
    """

    name: str
    way: str
    last: bool


Reads = Callable[[Kind], bool]


def kinds_of(config: Config) -> list[Kind]:
    """List the blocks of a config, in the order in which they run; what is no list of blocks has none."""
    return [*_listed(config, "down"), *_mid(config), *_listed(config, "up")]


def _listed(config: Config, way: str) -> Iterator[Kind]:
    kinds = config.get(f"{way}_block_types")
    names = list(kinds) if is_list(kinds) else []
    for place, name in enumerate(names):
        yield Kind(str(name).removeprefix(_PREFIX), way, place == len(names) - 1)


def _mid(config: Config) -> Iterator[Kind]:
    # Classes without the key have one kind of mid block, which has cross-attention.
    name = config.get("mid_block_type", "UNetMidBlock2DCrossAttn")
    if name is not None:
        yield Kind(str(name), "mid", last=True)


def has_transformers(kind: Kind) -> bool:
    """Tell whether a block counts heads: those with transformers do, all others with attention count a head's channels."""
    return "CrossAttn" in kind.name and not is_simple(kind) and not is_k(kind)


def crosses(kind: Kind) -> bool:
    """Tell whether a block has cross-attention."""
    return "CrossAttn" in kind.name


def attends(kind: Kind) -> bool:
    """Tell whether a block has attention by its type."""
    return "Attn" in kind.name


def is_simple(kind: Kind) -> bool:
    """Tell whether it is one of DeepFloyd's blocks, whose attention is no transformer."""
    return "SimpleCrossAttn" in kind.name


def is_k(kind: Kind) -> bool:
    """Tell whether it is a block of K-diffusion, which has norms of its own."""
    return kind.name.startswith("K")


def samples_by_resnet(kind: Kind) -> bool:
    """Tell whether a block halves or doubles by a resnet, and hands resnets what others do not take."""
    return kind.name in ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") or is_simple(kind)


# Reads a key: the blocks that do, and how to call them. A `mid_block_scale_factor` is the mid block's alone.
READERS: dict[str, tuple[Reads, str]] = {
    "cross_attention_dim": (crosses, "blocks with cross-attention read it"),
    "attention_head_dim": (attends, "blocks with attention read it"),
    "num_attention_heads": (has_transformers, "blocks with transformers read it"),
    "transformer_layers_per_block": (has_transformers, "blocks with transformers read it"),
    "reverse_transformer_layers_per_block": (
        lambda kind: has_transformers(kind) and kind.way == "up",
        "up blocks with transformers read it",
    ),
    "use_linear_projection": (has_transformers, "blocks with transformers read it"),
    "upcast_attention": (has_transformers, "blocks with transformers read it"),
    "dual_cross_attention": (has_transformers, "blocks with transformers read it"),
    "only_cross_attention": (
        lambda kind: crosses(kind) and not is_k(kind) and (kind.way != "mid" or is_simple(kind)),
        "CrossAttn and SimpleCrossAttn blocks read it",
    ),
    "mid_block_only_cross_attention": (
        lambda kind: is_simple(kind) and kind.way == "mid",
        "a UNetMidBlock2DSimpleCrossAttn reads it",
    ),
    "cross_attention_norm": (is_simple, "SimpleCrossAttn blocks read it"),
    "resnet_skip_time_act": (samples_by_resnet, "ResnetDownsample, ResnetUpsample and SimpleCrossAttn blocks read it"),
    "resnet_out_scale_factor": (
        lambda kind: samples_by_resnet(kind) and kind.way != "mid",
        "ResnetDownsample, ResnetUpsample and SimpleCrossAttn blocks on the way down and up read it",
    ),
    "resnet_time_scale_shift": (lambda kind: not is_k(kind), "blocks other than K-blocks read it"),
    "downsample_padding": (
        lambda kind: kind.way == "down" and not kind.last and not samples_by_resnet(kind) and not is_k(kind) and "Skip" not in kind.name,
        "down blocks that halve by a convolution read it",
    ),
    "downsample_type": (
        lambda kind: kind.name == "AttnDownBlock2D" and not kind.last,
        "an AttnDownBlock2D that is not the last of them reads it",
    ),
    "upsample_type": (
        lambda kind: kind.name == "AttnUpBlock2D" and not kind.last,
        "an AttnUpBlock2D that is not the last of them reads it",
    ),
    "mid_block_scale_factor": (lambda kind: kind.way == "mid", "a mid block reads it"),
}
