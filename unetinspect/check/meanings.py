"""What config keys do in this UNet, where their names say something else or nothing. Values of other types are passed over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from unetinspect.check.blocks import crosses, has_transformers, kinds_of
from unetinspect.check.embedding_meanings import EMBEDDINGS
from unetinspect.check.heads import Meanings, say_heads
from unetinspect.check.words import count_of, joined
from unetinspect.record.check import KeyMeaning
from unetinspect.unets.base import Config, is_count, is_list
from unetinspect.unets.block_list import list_blocks

_LATENT_FACTOR = 8
_FEW = 8


def say_meanings(class_name: str, values: Mapping[str, Any]) -> Iterator[KeyMeaning]:
    """Say what keys do in this UNet, with its numbers; each key once, in the order of the config."""
    said: dict[str, list[str]] = {}
    for rule in _RULES:
        for key, meaning in rule(class_name, values):
            said.setdefault(key, []).append(meaning)
    for key, value in values.items():
        if key in said:
            yield KeyMeaning(key=key, value=value, meaning="; ".join(said[key]))


def _sample_size(class_name: str, values: Config) -> Meanings:
    size, channels = values.get("sample_size"), values.get("in_channels")
    sides = [side for side in (size if is_list(size) else [size]) if is_count(side)]
    # Of fewer channels than 4, images are the rule, and latents of old VAEs the exception: nothing is sure.
    if sides and is_count(channels) and channels > 3 and class_name not in ("UNet1DModel", "UVit2DModel"):
        cells, pixels = (" x ".join(str(side * factor) for side in sides) for factor in (1, _LATENT_FACTOR))
        yield "sample_size", f"in cells of the latent, not in pixels: {cells} is {pixels} px with a VAE of factor {_LATENT_FACTOR}"


def _layers(class_name: str, values: Config) -> Meanings:
    """Count the resnets of blocks on the way down and up. K-blocks and skip blocks have others, and `UNet1DModel` too."""
    kinds = kinds_of(values)
    plain = not any(kind.name.startswith("K") or "Skip" in kind.name for kind in kinds)
    if class_name == "UNet1DModel" or "up_block_types" not in values or not plain or "layers_per_block" not in values:
        return
    blocks = list_blocks(values)
    down = [block.layers for block in blocks if block.path.startswith("down")]
    up = [block.layers for block in blocks if block.goes_up]
    if blocks and len(down) <= _FEW:
        skips = sum(up)
        more = f"one more, for they take {count_of(skips, 'skip')} in all: those, the samplers' and conv_in's"
        yield "layers_per_block", f"{_numbers(down)} in each down block, and {_numbers(up)} in each up block: {more}"


def _numbers(counts: list[int]) -> str:
    """Say how many resnets blocks have.

    >>> _numbers([2, 2]), _numbers([1, 2])
    ('2 resnets', '1 and 2 resnets')
    """
    return count_of(counts[0], "resnet") if len(set(counts)) == 1 else f"{joined([str(count) for count in counts])} resnets"


def _text_width(class_name: str, values: Config) -> Meanings:
    width, projected = values.get("cross_attention_dim"), values.get("encoder_hid_dim")
    if class_name == "AudioLDM2UNet2DConditionModel" or not is_count(width) or not _reads_text(class_name, values):
        return
    if class_name in ("UNet2DConditionModel", "DreamLiteUNetModel", "Kandinsky3UNet") and is_count(projected):
        yield (
            "cross_attention_dim",
            f"the width that attention sees, after encoder_hid_proj: encoder_hidden_states come in with {projected}",
        )
        yield "encoder_hid_dim", f"the width of encoder_hidden_states as they are passed, projected to cross_attention_dim {width}"
    else:
        yield (
            "cross_attention_dim",
            f"the width of encoder_hidden_states: (batch, tokens, {width}); text of another width fits another model",
        )


def _reads_text(class_name: str, values: Config) -> bool:
    if class_name == "Kandinsky3UNet":
        return True
    return "down_block_types" in values and any(crosses(kind) for kind in kinds_of(values))


def _depths(class_name: str, values: Config) -> Meanings:
    """Say where a list of transformer depths is looked up, and which of its entries nobody reads."""
    key, kinds = "transformer_layers_per_block", kinds_of(values)
    depths = values.get(key)
    down = [kind for kind in kinds if kind.way == "down"]
    if not is_list(depths) or not down or len(depths) != len(down) or "up_block_types" not in values:
        return
    own = values.get(f"reverse_{key}") is not None
    up = f"up blocks have reverse_{key}" if own else "up blocks look it up from the end"
    unread = [str(place) for place, kind in enumerate(down) if not has_transformers(kind)]
    also = (
        f"; entry {joined(unread)} says nothing of the way down, whose block has no transformers" if unread and len(unread) <= _FEW else ""
    )
    mid = ", and the mid block has the last" if any(kind.way == "mid" and has_transformers(kind) for kind in kinds) else ""
    yield key, f"the transformer blocks in each attention, a number for each down block; {up}{mid}{also}"


def _norms(class_name: str, values: Config) -> Meanings:
    if "norm_num_groups" not in values or values["norm_num_groups"] is not None:
        return
    if class_name in ("UNet2DConditionModel", "DreamLiteUNetModel"):
        yield "norm_num_groups", "no group norm and no activation before conv_out; K-blocks have groups of their own, at most 32"
    elif class_name == "UNet2DModel":
        yield "norm_num_groups", "each norm chooses its groups: a quarter of its channels, at most 32"


def _attention(class_name: str, values: Config) -> Meanings:
    """Say what switches of attention switch."""
    only = values.get("only_cross_attention")
    if only is True or (is_list(only) and any(only)):
        yield (
            "only_cross_attention",
            "where true, the first attention of each transformer block reads encoder_hidden_states too: none attends to the image",
        )
    if values.get("upcast_attention") is True:
        yield "upcast_attention", "attention scores are computed in float32, whatever the dtype of the weights"
    if values.get("use_linear_projection") is True:
        yield (
            "use_linear_projection",
            "proj_in and proj_out of the transformers are linear layers: their weights have 2 axes, not a convolution's 4",
        )
    if values.get("dual_cross_attention") is True:
        yield "dual_cross_attention", "two transformers for two texts in each attention, as in Versatile Diffusion"
    if "mid_block_type" in values and values["mid_block_type"] is None:
        yield "mid_block_type", "no mid block: the last down block hands over to the first up block"


def _channels(class_name: str, values: Config) -> Meanings:
    if class_name == "UNet2DConditionModel" and values.get("in_channels") == 9 and values.get("out_channels") == 4:
        yield "in_channels", "of an inpainting model: 4 of the latent, 1 of the mask and 4 of the masked image, joined by the pipeline"
    if class_name == "I2VGenXLUNet" and is_count(values.get("in_channels")):
        count = values["in_channels"]
        yield "in_channels", f"of the sample; conv_in takes {2 * count}: as many again of the first image, which forward adds"
    if values.get("center_input_sample") is True:
        yield "center_input_sample", "forward makes 2 * sample - 1 of the sample first"


def _by_pipelines(class_name: str, values: Config) -> Meanings:
    """Say which keys no forward reads, and pipelines do."""
    if class_name == "UNet1DModel" and values.get("sample_rate") is not None:
        yield "sample_rate", "of the sound, in Hz: the pipeline reads it, the UNet does not"
    if class_name == "UNetSpatioTemporalConditionModel" and values.get("num_frames") is not None:
        yield "num_frames", "how many frames the pipeline asks for; the UNet takes as many as it is given"
    if values.get("global_pool_conditions") is True and class_name.startswith(("ControlNet", "Sparse")):
        yield "global_pool_conditions", "each output is averaged over height and width, to one cell"


_RULES: tuple[Callable[[str, Config], Meanings], ...] = (
    _sample_size,
    _layers,
    say_heads,
    _text_width,
    _depths,
    _norms,
    _attention,
    _channels,
    _by_pipelines,
    *EMBEDDINGS,
)
