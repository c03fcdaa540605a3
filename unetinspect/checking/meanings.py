"""What config keys with misleading names do in this UNet, with the numbers of its pass if it has run.

A value of an unexpected type gets no meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from unetinspect.record import Trace
from unetinspect.record.check import KeyMeaning
from unetinspect.unets.builder import Config, is_count, is_list
from unetinspect.units import format_size, joined, plural

Meanings = Iterator[tuple[str, str]]
"""Keys, each with what it means."""

_LATENT_FACTOR = 8
_FEW = 8
# What torch's memory-efficient attention needs the channels of a head to be a multiple of in float16 and bfloat16; flash attention pads
# to it. Source: `check_head_dim_size_mem_efficient` in aten/src/ATen/native/transformers/cuda/sdp_utils.cpp.
_ALIGNED = 8
_PROJECTION = "projection_class_embeddings_input_dim"
# Whether attention_head_dim is the number of heads in a block, and whether it is the channels of one.
_HEADS = {(True, False): "the number of heads here", (False, True): "the channels of one head", (True, True): "heads and channels of each"}


def say_meanings(class_name: str, values: Mapping[str, Any], record: Trace | None) -> Iterator[KeyMeaning]:
    """Say what keys do in this UNet; each key once, in the order of the config. `record` is a pass of it, where it runs."""
    said: dict[str, list[str]] = {}
    rules = [rule(class_name, values) for rule in _BY_CONFIG] + ([] if record is None else [rule(values, record) for rule in _BY_RECORD])
    for rule in rules:
        for key, meaning in rule:
            if key in values:
                said.setdefault(key, []).append(meaning)
    for key, value in values.items():
        if key in said:
            yield KeyMeaning(key=key, value=value, meaning="; ".join(said[key]))


def _sample_size(class_name: str, values: Config) -> Meanings:
    size, channels = values.get("sample_size"), values.get("in_channels")
    sides = [side for side in (size if is_list(size) else [size, size]) if is_count(side)]
    # Of fewer channels than 4, images are the rule, and latents of old VAEs the exception: nothing is sure.
    if sides and is_count(channels) and channels > 3 and class_name not in ("UNet1DModel", "UVit2DModel"):
        pixels = format_size([side * _LATENT_FACTOR for side in sides])
        yield "sample_size", f"latent size, not pixels: {format_size(sides)} is {pixels} px with a VAE scale factor of {_LATENT_FACTOR}"


def _switches(class_name: str, values: Config) -> Meanings:
    only = values.get("only_cross_attention")
    if only is True or (is_list(only) and any(only)):
        yield "only_cross_attention", "the first attention of each transformer block cross-attends too: there is no self-attention"
    if values.get("upcast_attention") is True:
        yield "upcast_attention", "attention scores are computed in float32, whatever the dtype of the weights"
    if values.get("use_linear_projection") is True:
        yield "use_linear_projection", "proj_in and proj_out of the transformers are Linear layers: 2D weights, not 4D as of a 1x1 Conv2d"
    if values.get("dual_cross_attention") is True:
        yield "dual_cross_attention", "two transformers per attention, one for each text, as in Versatile Diffusion"
    if values.get("mid_block_type", "") is None:
        yield "mid_block_type", "no mid block: the last down block feeds the first up block"
    if values.get("center_input_sample") is True:
        yield "center_input_sample", "forward computes 2 * sample - 1 first"
    if values.get("global_pool_conditions") is True and class_name.startswith(("ControlNet", "Sparse")):
        yield "global_pool_conditions", "each output is averaged over height and width, to 1x1"
    if values.get("norm_num_groups", "") is None and class_name in ("UNet2DConditionModel", "DreamLiteUNetModel"):
        yield "norm_num_groups", "no norm or activation before conv_out; K-blocks choose their own groups, at most 32"
    if values.get("norm_num_groups", "") is None and class_name == "UNet2DModel":
        yield "norm_num_groups", "each norm chooses its own groups: a quarter of its channels, at most 32"


def _channels(class_name: str, values: Config) -> Meanings:
    channels = values.get("in_channels")
    if class_name == "UNet2DConditionModel" and channels == 9 and values.get("out_channels") == 4:
        yield "in_channels", "an inpainting model: 4 latent channels, 1 mask and 4 of the masked image, concatenated by the pipeline"
    if class_name == "I2VGenXLUNet" and is_count(channels):
        yield "in_channels", f"channels of sample; conv_in has {2 * channels}: forward concatenates the first image's latents"


def _by_pipelines(class_name: str, values: Config) -> Meanings:
    """Say which keys no forward reads, and pipelines do."""
    if class_name == "UNet1DModel" and values.get("sample_rate") is not None:
        yield "sample_rate", "in Hz; only the pipeline reads it"
    if class_name == "UNetSpatioTemporalConditionModel" and values.get("num_frames") is not None:
        yield "num_frames", "default of the pipeline; the UNet takes any number of frames"


def _embeddings(class_name: str, values: Config) -> Meanings:
    """Say what is embedded along with the timestep."""
    kind, classes, total = values.get("class_embed_type"), values.get("num_class_embeds"), values.get(_PROJECTION)
    if kind is None and is_count(classes):
        yield "num_class_embeds", f"class_labels are required: (batch,) integers below {classes}"
    if kind == "projection" and is_count(total):
        yield _PROJECTION, f"the width of class_labels: (batch, {total})"
    if kind == "timestep":
        yield "class_embed_type", "class_labels are embedded like timesteps: one number per image"
    if kind == "identity":
        yield "class_embed_type", "class_labels are added to the time embedding unchanged, so they must have its width"
    width, channels = values.get("time_cond_proj_dim"), values.get("block_out_channels")
    if is_count(width):
        yield "time_cond_proj_dim", f"a distilled model (LCM): timestep_cond, (batch, {width}), is the embedded guidance scale"
    known = class_name in ("UNet2DConditionModel", "UNet2DModel") and is_list(channels) and channels and is_count(channels[0])
    if known and is_list(channels) and is_count(values.get("time_embedding_dim")):
        yield "time_embedding_dim", f"the width of the time embedding; null is 4 x block_out_channels[0] = {4 * channels[0]}"


def _added(values: Config, record: Trace) -> Meanings:
    """Take the projection's input apart: SDXL's pooled text and size ids, Stable Video Diffusion's ids."""
    total, width = values.get(_PROJECTION), values.get("addition_time_embed_dim")
    shapes = {given.name.rpartition(".")[2]: given.shape for given in record.run.inputs if given.shape}
    if "added_time_ids" in shapes:
        yield _PROJECTION, f"{shapes['added_time_ids'][1]} x {width} of added_time_ids: fps, motion bucket, noise level"
    elif "text_embeds" in shapes and "time_ids" in shapes:
        parts = f"{shapes['text_embeds'][1]} of text_embeds (pooled text) + {shapes['time_ids'][1]} x {width} of time_ids"
        yield _PROJECTION, f"{total} = {parts}"


def _layers(values: Config, record: Trace) -> Meanings:
    """Count the resnets of each block."""
    down, up = ([stage.resnets for stage in record.stages if stage.role == role] for role in ("down", "up"))
    skips = record.totals.skips.consumed
    if down and up == [count + 1 for count in reversed(down)] and len(up) <= _FEW and sum(up) == skips:
        counts = [joined(dict.fromkeys(each)) for each in (down, up)]
        resnets = "resnet" if set(down) == {1} else "resnets"
        why = f"{plural(skips, 'skip')} (resnets, downsamplers, conv_in)"
        yield "layers_per_block", f"{counts[0]} {resnets} per down block, {counts[1]} per up block to consume {why}"


def _heads(values: Config, record: Trace) -> Meanings:
    """Say what `attention_head_dim` counts in each block: heads, the channels of one head, or both where these are equal."""
    key = "attention_head_dim"
    given = values.get(key)
    numbers = [number for number in (given if is_list(given) else [given]) if is_count(number)]
    blocks = {stage.name for stage in record.stages if stage.role in ("down", "mid", "up")}
    layers = [layer for layer in record.attentions if layer.kind in ("self", "cross", "joint") and layer.stage in blocks]
    if values.get("num_attention_heads") is not None:
        return
    what = {layer.path: (layer.heads in numbers, layer.head_dim in numbers) for layer in layers}
    sure = {each for each in what.values() if each[0] != each[1]}
    for counts, sentence in _HEADS.items():
        found: dict[tuple[int, int], dict[str, None]] = {}
        for layer in layers:
            is_this = what[layer.path] == counts or (what[layer.path] == (True, True) and sure == {counts})
            if is_this and not (counts == (True, True) and len(sure) == 1):
                found.setdefault((layer.heads, layer.head_dim), {})[layer.stage] = None
        if found:
            each = (f"{plural(heads, 'head')} of {plural(width, 'channel')} in {joined(paths)}" for (heads, width), paths in found.items())
            yield key, f"{sentence}: {', '.join(each)}"
    if odd := sorted({layer.head_dim for layer in layers if layer.head_dim % _ALIGNED}):
        yield key, f"{joined(odd)} channels per head: not multiples of {_ALIGNED}, which memory-efficient attention needs in half precision"


def _text_width(values: Config, record: Trace) -> Meanings:
    width, projected = values.get("cross_attention_dim"), values.get("encoder_hid_dim")
    passed = [given.shape[-1] for given in record.run.inputs if given.name == "encoder_hidden_states" and given.shape]
    if not is_count(width) or not passed or not any(layer.kind == "cross" for layer in record.attentions):
        return
    if passed == [projected] != [width]:
        yield "cross_attention_dim", f"width inside attention, after encoder_hid_proj: encoder_hidden_states have {projected}"
        yield "encoder_hid_dim", f"width of encoder_hidden_states, projected to cross_attention_dim ({width})"
    elif passed == [width]:
        yield "cross_attention_dim", f"width of encoder_hidden_states: (batch, tokens, {width}); text of another width fits another model"


def _depths(values: Config, record: Trace) -> Meanings:
    """Say how a list of transformer depths is read, and which of its entries are unused."""
    key = "transformer_layers_per_block"
    depths, down = values.get(key), [stage for stage in record.stages if stage.role == "down"]
    if not is_list(depths) or not down or len(depths) != len(down) or "up_block_types" not in values:
        return
    up = f"up blocks have reverse_{key}" if values.get(f"reverse_{key}") is not None else "up blocks read the list backwards"
    mid = ", the mid block has the last" if any(stage.role == "mid" and stage.transformer_blocks for stage in record.stages) else ""
    unread = [place for place, stage in enumerate(down) if not stage.transformer_blocks]
    also = f"; unused on the way down: entry {joined(unread)}" if unread and len(unread) <= _FEW else ""
    yield key, f"transformer blocks per attention, one number per down block; {up}{mid}{also}"


_BY_CONFIG: tuple[Callable[[str, Config], Meanings], ...] = (_sample_size, _switches, _channels, _by_pipelines, _embeddings)
_BY_RECORD: tuple[Callable[[Config, Trace], Meanings], ...] = (_layers, _heads, _text_width, _depths, _added)
