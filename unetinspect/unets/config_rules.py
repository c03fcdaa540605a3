"""Checks of config values that several UNet classes share; each returns every mistake that it finds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from unetinspect.errors import nearest_names
from unetinspect.unets.base import Config, is_count, is_list
from unetinspect.unets.blocks_2d import ACTIVATIONS


def check_counts(config: Config, keys: Iterable[str], *, optional: bool = False) -> Iterator[str]:
    """Find keys that hold no whole number above 0 (nor, where `optional`, null)."""
    for key in keys:
        value = config.get(key)
        if not is_count(value) and not (optional and value is None):
            yield f"{key} is {value!r}, and must be a whole number above 0"


def check_classes(config: Config) -> Iterator[str]:
    """Find a number of classes that is none; a `class_embed_type` leaves it unread."""
    if config["class_embed_type"] is None:
        yield from check_counts(config, ["num_class_embeds"], optional=True)


def check_from_zero(config: Config, keys: Iterable[str]) -> Iterator[str]:
    """Find keys that hold neither null nor a whole number from 0 on; diffusers takes 0 for null."""
    for key in keys:
        value = config.get(key)
        if value is not None and (not isinstance(value, int) or value < 0):
            yield f"{key} is {value!r}, and must be a whole number from 0 on"


def check_per_block(config: Config, keys: Iterable[str], *, least: int = 1, nulls: bool = True) -> Iterator[str]:
    """Find keys that hold neither a whole number from `least` on nor a list of one for each down block.

    With `nulls`, null in a list stands for a block that does not read the key.
    """
    kinds = config.get("down_block_types")
    for key in keys:
        value = config.get(key)
        if is_list(value) and is_list(kinds) and len(value) != len(kinds):
            yield f"{key} has {len(value)} entries, and must have one for each of the {len(kinds)} down_block_types"
        for entry in value if is_list(value) else [value]:
            if not (isinstance(entry, int) and entry >= least) and not (nulls and is_list(value) and entry is None):
                yield f"{key} holds {entry!r}, and must hold whole numbers from {least} on"
                break


def check_set(config: Config, keys: Iterable[str]) -> Iterator[str]:
    """Find keys that are null and must not be."""
    yield from (f"{key} is null, and must have a value" for key in keys if config.get(key) is None)


def check_layers_per_block(config: Config) -> Iterator[str]:
    """Find numbers of layers that are none; each block reads its own."""
    return check_per_block(config, ["layers_per_block"], least=0, nulls=False)


def check_dropout(config: Config, key: str) -> Iterator[str]:
    """Find a probability, or one in a list of them, that is null or not between 0 and 1."""
    value = config.get(key)
    for entry in value if is_list(value) else [value]:
        if not isinstance(entry, int | float) or not 0 <= entry <= 1:
            yield f"{key} holds {entry!r}, and must be between 0 and 1"
            break


def check_block_lists(config: Config, keys: Iterable[str] = ("down_block_types", "up_block_types", "block_out_channels")) -> Iterator[str]:
    """Find block lists that are no lists, are empty, or differ in length; and channels that are no counts."""
    lengths = {}
    for key in keys:
        value = config.get(key)
        if not is_list(value) or not value:
            yield f"{key} is {value!r}, and must be a list with at least one entry"
        else:
            lengths[key] = len(value)
    if len(set(lengths.values())) > 1:
        yield "must be of one length: " + ", ".join(f"{key} has {length}" for key, length in lengths.items())
    channels = config.get("block_out_channels")
    if is_list(channels) and not all(is_count(channel) for channel in channels):
        yield f"block_out_channels is {list(channels)!r}, and must hold whole numbers above 0"


def check_heads(key: str, blocks: Iterable[tuple[str, Any, Any]]) -> Iterator[str]:
    """Find a block with attention that has no heads, or more heads than channels, which leaves each with none.

    `blocks` holds (its name, its heads, its channels).
    """
    for block, heads, channels in blocks:
        if not is_count(heads):
            yield f"{key} holds {heads!r} for the {block}, which has attention, and must be a whole number above 0"
        elif is_count(channels) and heads > channels:
            yield f"{key} holds {heads} for the {block}, and must be at most its {channels} channels"


def check_widths(config: Config, key: str) -> Iterator[str]:
    """Find a key that holds no list of whole numbers above 0, with at least one entry."""
    value = config.get(key)
    if not is_list(value) or not value or not all(is_count(width) for width in value):
        yield f"{key} is {value!r}, and must be a list of whole numbers above 0 with at least one entry"


def check_block_names(config: Config, key: str, known: Sequence[str], *, prefix: str = "UNetRes") -> Iterator[str]:
    """Find names in a list of block types that the class does not know or cannot run, with the nearest that it can.

    Most classes take the names with the `prefix` that they once had, too.
    """
    value = config.get(key)
    for name in {str(name): name for name in value}.values() if is_list(value) else []:
        if not isinstance(name, str) or name.removeprefix(prefix) not in known:
            yield f"{key} holds {name!r}, which is no block for this class{_meant(name, known)}"


def check_choice(config: Config, key: str, known: Sequence[str | None]) -> Iterator[str]:
    """Find a value that is none of the `known` ones."""
    value = config.get(key)
    if value not in known:
        names = ", ".join("null" if name is None else name for name in known)
        yield f"{key} is {value!r}, and must be one of: {names}"


def check_activation(config: Config, key: str, *, optional: bool = False) -> Iterator[str]:
    """Find a value that names no activation, in whatever case. Source: `get_activation`."""
    value = config.get(key)
    if not (optional and value is None) and (not isinstance(value, str) or value.lower() not in ACTIVATIONS):
        yield f"{key} is {value!r}, and must be one of: {', '.join(ACTIVATIONS)}"


def check_time_norm(config: Config) -> Iterator[str]:
    """Find a way to add the time embedding that the resnets do not know; K-blocks have their own. Source: `ResnetBlock2D`."""
    if config.get("mid_block_type") is not None or not all(kind.startswith("K") for kind in _block_kinds(config)):
        yield from check_choice(config, "resnet_time_scale_shift", ("default", "scale_shift"))


def check_groups(config: Config) -> Iterator[str]:
    """Find channels that the group norms cannot divide. Source: torch's GroupNorm.

    K-blocks and skip blocks choose their own groups, so the channels of a UNet that has any are left to diffusers.
    """
    groups, kinds = config.get("norm_num_groups"), _block_kinds(config)
    choosing = [kind for kind in kinds if kind.startswith("K") or "Skip" in kind]
    # A down block without layers has no group norm; where there are such, a mixed UNet is left to diffusers.
    if groups is None and (not choosing or (len(choosing) < len(kinds) and is_count(config.get("layers_per_block")))):
        yield "norm_num_groups is null, which only K-blocks and skip blocks can do without"
    if not choosing and is_count(groups):
        yield from check_divided(config, groups)


def check_divided(config: Config, groups: int) -> Iterator[str]:
    """Find channels that the number of groups does not divide."""
    uneven = uneven_channels(config, groups)
    if uneven:
        yield f"block_out_channels holds {uneven}, which norm_num_groups {groups} does not divide"


def uneven_channels(config: Config, groups: int) -> str:
    """Name the channels that so many groups do not divide; "" where they divide all."""
    channels = config.get("block_out_channels")
    counts = {*filter(is_count, channels)} if is_list(channels) else set()
    return ", ".join(str(channel) for channel in sorted(counts) if channel % groups)


def check_sample_size(config: Config) -> Iterator[str]:
    """Find a `sample_size` that is neither null, a count nor (height, width)."""
    value = config.get("sample_size")
    sides = list(value) if is_list(value) else [value]
    if value is not None and (len(sides) > 2 or not sides or not all(is_count(side) for side in sides)):
        yield f"sample_size is {value!r}, and must be a whole number above 0, [height, width] or null"


def _meant(name: Any, known: Sequence[str]) -> str:
    close = nearest_names(str(name), known, count=1)
    return f" (did you mean {close[0]}?)" if close else f" (it has {', '.join(known)})"


def _block_kinds(config: Config) -> list[str]:
    """List the types of the blocks on the way down and up, without the prefix that old configs have."""
    lists = [config.get(key) for key in ("down_block_types", "up_block_types")]
    return [str(kind).removeprefix("UNetRes") for blocks in lists if is_list(blocks) for kind in blocks]
