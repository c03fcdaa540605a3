"""`Kandinsky3UNet`: Kandinsky 3's, from text alone. Source: `unet_kandinsky3.py` of diffusers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from unetinspect.unets.base import Builder, Config, InputSpec, Plan
from unetinspect.unets.config_rules import check_counts, check_widths

_ATTENDS = (False, True, True, True)  # add_self_attention and add_cross_attention of the constructor
_COUNTS = (
    "in_channels",
    "time_embedding_dim",
    "groups",
    "attention_head_dim",
    "layers_per_block",
    "cross_attention_dim",
    "encoder_hid_dim",
)


class Kandinsky3Inputs(Builder):
    """sample, timestep, encoder_hidden_states, encoder_attention_mask; forward cannot do without any of them."""

    class_name = "Kandinsky3UNet"
    what = "image from text: Kandinsky 3"
    default_tokens = 128  # max_length of its pipelines
    default_size = (128, 128)

    def condition(self, config: Config) -> str:
        return "encoder_hidden_states"

    def inputs(self, config: Config, plan: Plan) -> list[InputSpec]:
        tokens, width = plan.tokens or self.default_tokens, config["encoder_hid_dim"]
        return [
            InputSpec(
                "sample", (plan.batch, config["in_channels"], *plan.size), ("batch", "in_channels", "height", "width"), "in_channels"
            ),
            InputSpec("timestep", (), (), None, "int64"),
            InputSpec("encoder_hidden_states", (plan.batch, tokens, width), ("batch", "tokens", "encoder_hid_dim"), "encoder_hid_dim"),
            InputSpec("encoder_attention_mask", (plan.batch, tokens), ("batch", "tokens"), None, "int64"),
        ]

    def problems(self, config: Config) -> list[str]:
        found = [*check_counts(config, _COUNTS), *check_widths(config, "block_out_channels")]
        if found:
            return found
        levels, layers = len(config["block_out_channels"]), config["layers_per_block"]
        if levels > len(_ATTENDS):
            found.append(f"block_out_channels has {levels} entries, and must have {len(_ATTENDS)} at most: diffusers builds no more levels")
        if layers < 2:
            found.append(f"layers_per_block is {layers}, and must be at least 2: the last layer of an up block changes its channels")
        return found or [*_channels_fit(config)]

    def assumed_vae_scale(self, config: Config) -> int:
        return 8


class _Widths(NamedTuple):
    """The channels that each group norm, and each attention layer, of a UNet has."""

    normed: set[int]
    attended: set[int]


def _channels_fit(config: Config) -> Iterator[str]:
    """Find channels that the group norms, or the heads, do not divide."""
    widths, groups, head_dim = _list_widths(config), config["groups"], config["attention_head_dim"]
    uneven = sorted(width for width in widths.normed if width % groups)
    if uneven:
        yield f"groups is {groups}, and must divide {', '.join(map(str, uneven))}, which group norms have by block_out_channels"
    uneven = sorted(width for width in widths.attended if width < head_dim or width % (width // head_dim))
    if uneven:
        yield f"attention_head_dim is {head_dim}, and {', '.join(map(str, uneven))} channels do not make whole heads of about that"


def _list_widths(config: Config) -> _Widths:
    """Follow the constructor, level by level: down from half the first width, and up again beside the skips."""
    dims = [config["block_out_channels"][0] // 2, *config["block_out_channels"]]
    widths = _Widths({dims[0]}, {config["time_embedding_dim"]})
    for level, (narrow, wide) in enumerate(pairwise(dims)):
        _add_resnets(widths, (narrow, wide), (wide, wide))
        if _ATTENDS[level]:
            _add_attention(widths, narrow, wide)
    for level, (wide, narrow) in enumerate(pairwise(reversed(dims))):
        joined = 2 * wide if level else wide  # the skip is as wide as what comes up
        _add_resnets(widths, (joined, joined), (joined, wide), (wide, wide), (wide, narrow))
        if _ATTENDS[::-1][level]:
            _add_attention(widths, joined, wide, narrow)
    return widths


def _add_resnets(widths: _Widths, *ends: tuple[int, int]) -> None:
    """Note the group norms of resnets: one on what comes in, three on the half of the wider end."""
    for start, end in ends:
        widths.normed.update((start, max(start, end) // 2))


def _add_attention(widths: _Widths, *channels: int) -> None:
    widths.normed.update(channels)
    widths.attended.update(channels)
