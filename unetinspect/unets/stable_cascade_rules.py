"""What a `StableCascadeUNet` config must hold, level by level. Source: the constructor in `unet_stable_cascade.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from unetinspect.unets.base import Config, is_count, is_list
from unetinspect.unets.config_rules import check_counts, check_dropout, check_widths

_BLOCKS = ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock")
_COUNTS = (
    *("in_channels", "out_channels", "timestep_ratio_embedding_dim", "patch_size", "conditioning_dim"),
    *("clip_text_pooled_in_channels", "clip_seq", "kernel_size"),
)
_OPTIONAL_COUNTS = ("clip_text_in_channels", "clip_image_in_channels", "effnet_in_channels", "pixel_mapper_in_channels")
_LAYERS = ("down_num_layers_per_block", "up_num_layers_per_block")
_REPEATS = ("down_blocks_repeat_mappers", "up_blocks_repeat_mappers")
_ONE_PER_LEVEL = (*_LAYERS, *_REPEATS, "block_types_per_layer")


class Level(NamedTuple):
    """One level of the UNet, with what is built there.

    Attributes:
        place: Its place in the lists.
        channels: Its channels.
        kinds: The block types of one of its layers.
    """

    place: int
    channels: int
    kinds: tuple[Any, ...]


def check_values(config: Config) -> list[str]:
    """List keys whose value no level can use."""
    found = [*check_counts(config, _COUNTS), *check_counts(config, _OPTIONAL_COUNTS, optional=True)]
    found += check_widths(config, "block_out_channels")
    if not is_list(config["timestep_conditioning_type"]):
        found.append(f"timestep_conditioning_type is {config['timestep_conditioning_type']!r}, and must be a list")
    if config["timestep_ratio_embedding_dim"] in (2, 3):
        found.append(f"timestep_ratio_embedding_dim is {config['timestep_ratio_embedding_dim']}, and must be at least 4, or 1")
    return found


def check_levels(config: Config) -> list[str]:
    """List the lists that do not have one entry for each level, or hold what no level can use."""
    levels = len(config["block_out_channels"]) if is_list(config["block_out_channels"]) else 0
    found = []
    for key in _ONE_PER_LEVEL:
        value = config[key]
        if not is_list(value):
            found.append(f"{key} is {value!r}, and must be a list")
        elif levels and len(value) != levels:
            found.append(f"{key} has {len(value)} entries, and must have one for each of the {levels} block_out_channels")
        elif key != "block_types_per_layer" and not all(isinstance(entry, int) for entry in value):
            found.append(f"{key} is {list(value)!r}, and must hold whole numbers")
    kinds = config["block_types_per_layer"]
    odd = [layer for layer in kinds if not is_list(layer)] if is_list(kinds) else []
    return found + [f"block_types_per_layer holds {layer!r}, and must hold one list of block types for each level" for layer in odd]


def check_blocks(config: Config) -> list[str]:
    """List what the blocks that are built cannot use. The lists hold what they must."""
    levels = _built(config)
    found = [*_names(levels), *_per_level(config, levels), *_dropouts(config, levels), *_heads(config, levels), *_kernel(config, levels)]
    return list(dict.fromkeys(found))


def _built(config: Config) -> list[Level]:
    """List the levels where blocks are built; up blocks read their number of layers from the end."""
    layers = [max(down, up) for down, up in zip(config[_LAYERS[0]], reversed(config[_LAYERS[1]]), strict=True)]
    each = zip(config["block_out_channels"], config["block_types_per_layer"], layers, strict=True)
    return [Level(place, channels, tuple(kinds)) for place, (channels, kinds, count) in enumerate(each) if count > 0 and kinds]


def _names(levels: list[Level]) -> Iterator[str]:
    for level in levels:
        for kind in level.kinds:
            if kind not in _BLOCKS:
                yield f"block_types_per_layer holds {kind!r}, which is no block for this class (it has {', '.join(_BLOCKS)})"


def _per_level(config: Config, levels: list[Level]) -> Iterator[str]:
    """Find lists that end before a level that reads them; a single value must be of the very type that is spread out."""
    reach = 1 + max((level.place for level in levels), default=-1)
    count = len(config["block_out_channels"])
    for key, spread, example in (("dropout", float, "0.1"), ("self_attn", bool, "true"), ("num_attention_heads", None, None)):
        value = config[key]
        if is_list(value):
            if len(value) < reach:
                yield f"{key} has {len(value)} entries, and must have one for each of the {count} block_out_channels"
        elif reach and (spread is None or not isinstance(value, spread)):
            yield f"{key} is {value!r}, and must be a list" + (f" or a value like {example}" if example else "")
    switches = config["switch_level"]
    if is_list(switches) and len(switches) < count - 1:
        yield f"switch_level has {len(switches)} entries, and must have {count - 1}: one between each two levels"


def _dropouts(config: Config, levels: list[Level]) -> Iterator[str]:
    """Find values of a level that are no probability; SDCascadeTimestepBlock reads none."""
    value = config["dropout"]
    reading = [level.place for level in levels if {*level.kinds} != {"SDCascadeTimestepBlock"}]
    if is_list(value):
        yield from check_dropout({"dropout": [value[place] for place in reading if place < len(value)]}, "dropout")
    elif reading and isinstance(value, float):
        yield from check_dropout(config, "dropout")


def _heads(config: Config, levels: list[Level]) -> Iterator[str]:
    heads = config["num_attention_heads"]
    for level in levels:
        if "SDCascadeAttnBlock" not in level.kinds or not is_list(heads) or level.place >= len(heads):
            continue
        count = heads[level.place]
        if not is_count(count) or count > level.channels:
            yield (
                f"num_attention_heads holds {count!r} for level {level.place}, and must be a whole number above 0"
                f" and at most its {level.channels} channels: it has SDCascadeAttnBlock"
            )


def _kernel(config: Config, levels: list[Level]) -> Iterator[str]:
    if config["kernel_size"] % 2 == 0 and any("SDCascadeResBlock" in level.kinds for level in levels):
        yield f"kernel_size is {config['kernel_size']}, and must be odd: an even one changes the size of the sample"
