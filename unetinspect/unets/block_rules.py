"""Checks of the values that each block of a UNet looks up for itself: heads, depths, widths; and of what all blocks share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from unetinspect.unets.base import Config, is_count, is_list
from unetinspect.unets.block_list import Block, entry, list_blocks
from unetinspect.unets.config_rules import check_block_lists, check_block_names, check_counts, check_divided, check_layers_per_block


def check_plain_groups(config: Config) -> Iterator[str]:
    """Find channels that the group norms cannot divide, or a number of groups that is none: nothing here does without."""
    groups = config["norm_num_groups"]
    if not is_count(groups):
        yield f"norm_num_groups is {groups!r}, and must be a whole number above 0"
    else:
        yield from check_divided(config, groups)


def check_3d_blocks(config: Config, down: Sequence[str], up: Sequence[str]) -> list[str]:
    """Find mistakes in what `UNet3DConditionModel` and `I2VGenXLUNet` build their blocks of: one number for all blocks."""
    head_dim = config["attention_head_dim"]
    narrow = [block for block in list_blocks(config) if block.crosses and is_count(head_dim) and block.channels < head_dim]
    return [
        *check_block_lists(config),
        *check_block_names(config, "down_block_types", down, prefix=""),
        *check_block_names(config, "up_block_types", up, prefix=""),
        *check_counts(config, ["in_channels", "out_channels", "attention_head_dim"]),
        *check_layers(config),
        *check_plain_groups(config),
        *(f"attention_head_dim is {head_dim}, and must be at most the {block.channels} channels of {block.path}" for block in narrow[:1]),
    ]


def check_layers(config: Config) -> Iterator[str]:
    """Find blocks with no number of layers, and those that would need some."""
    yield from check_layers_per_block(config)
    yield from check_widening(config)


def check_widening(config: Config) -> Iterator[str]:
    """Find down blocks without layers that would have to change the number of channels all the same."""
    down = [block for block in list_blocks(config) if block.path.startswith("down")]
    for before, block in pairwise(down):
        if block.layers <= 0 and block.channels != before.channels:
            yield f"layers_per_block is {block.layers} for {block.path}, which must turn {before.channels} channels into {block.channels}"


def check_lengths(config: Config, keys: Iterable[str], *, longer: bool = False) -> Iterator[str]:
    """Find lists of one value per block that are not as long as the block lists; with `longer`, only those that are shorter."""
    kinds = config["down_block_types"]
    for key in keys:
        missing = len(kinds) - len(config[key]) if is_list(config[key]) and is_list(kinds) else 0
        if missing > 0 or (missing < 0 and not longer):
            yield f"{key} has {len(config[key])} entries, and must have one for each of the {len(kinds)} down_block_types"


def check_block_heads(config: Config, key: str, block: Block) -> Iterator[str]:
    """Find a block whose attention has no number of heads, or more heads than channels."""
    heads = entry(config[key], block.place)
    if block.layers <= 0:
        return
    if not is_count(heads):
        yield _wrong_entry(config, key, block, block.place, "a whole number above 0")
    elif heads > block.channels:
        yield f"{key} is {heads} for {block.path}, and must be at most its {block.channels} channels"


def check_motion_heads(config: Config, block: Block) -> Iterator[str]:
    """Find a block whose motion modules would attend with an odd number of channels, which have no sines and cosines in pairs."""
    key = "motion_num_attention_heads"
    wrong = list(check_block_heads(config, key, block))
    heads = entry(config[key], block.place)
    if not wrong and block.layers > 0 and block.channels // heads * heads % 2:
        wrong = [f"{key} is {heads} for {block.path}, and must share out its {block.channels} channels in an even number"]
    yield from wrong


def check_text_width(config: Config, block: Block) -> Iterator[str]:
    """Find a block with cross-attention whose width is no number, in a class that cannot leave it without."""
    if not is_count(entry(config["cross_attention_dim"], block.place)):
        yield _wrong_entry(config, "cross_attention_dim", block, block.place, "a whole number above 0")


def check_width(config: Config, block: Block) -> Iterator[str]:
    """Find a block with cross-attention whose width is no number; null in a list leaves the block without."""
    widths = config["cross_attention_dim"]
    width = entry(widths, block.place)
    left_out = width is None and is_list(widths) and -len(widths) <= block.place < len(widths)
    if not is_count(width) and not left_out:
        yield _wrong_entry(config, "cross_attention_dim", block, block.place, "a whole number above 0")


def check_depth(config: Config, key: str, block: Block, place: int | None, *, longer: bool = False) -> Iterator[str]:
    """Find a block whose number of transformer layers is neither a whole number nor a list of one for each of its layers.

    `place` is where the block looks in a list of one value per block, None: the value is for this block alone.
    With `longer`, its own list may be longer than it needs.
    """
    depth = config[key] if place is None else entry(config[key], place)
    if is_list(depth):
        fits = len(depth) >= block.layers if longer else len(depth) == block.layers
        if not fits or not all(isinstance(layers, int) for layers in depth[: block.layers]):
            yield f"{key} holds {list(depth)!r} for {block.path}, and must hold a number, or one for each of its {block.layers} layers"
    elif not isinstance(depth, int):
        yield _wrong_entry(config, key, block, place, "a whole number")


def one_for_each_value(problems: Iterable[str]) -> list[str]:
    """Keep the first sentence on each value, and each sentence once: blocks that look up the same value stumble over it alike."""
    found: dict[str, str] = {}
    for problem in problems:
        found.setdefault(problem.partition(" for ")[0], problem)
    return list(found.values())


def with_unsaid(found: list[str], by_block: Iterable[str]) -> list[str]:
    """Add what blocks stumble over to what was found before, where that says nothing of the same key: its first word."""
    keys = {problem.partition(" ")[0] for problem in found}
    return [*found, *(problem for problem in by_block if problem.partition(" ")[0] not in keys)]


def _wrong_entry(config: Config, key: str, block: Block, place: int | None, wanted: str) -> str:
    value = config[key]
    if place is None or not is_list(value):
        return f"{key} is {value!r}, and must be {wanted}, or a list of them"
    if not -len(value) <= place < len(value):
        return f"{key} has {len(value)} entries, and must have one for each of the {len(config['block_out_channels'])} down_block_types"
    return f"{key} holds {value[place]!r} for {block.path}, and must hold {wanted}"
