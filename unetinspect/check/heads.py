"""What the keys of attention heads mean, block by block: some count heads, some a head's channels, under one name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from unetinspect.check.words import count_of, joined
from unetinspect.unets.base import Config, is_count
from unetinspect.unets.block_list import Block, entry, list_blocks

Meanings = Iterator[tuple[str, str]]
"""Keys, each with what it means."""

# attention_head_dim is passed on as the number of heads: diffusers issue 2011.
_COUNT_HEADS = (
    "AudioLDM2UNet2DConditionModel",
    "ControlNetModel",
    "ControlNetUnionModel",
    "DreamLiteUNetModel",
    "SparseControlNetModel",
    "UNet2DConditionModel",
)
_HEAD_CHANNELS = ("I2VGenXLUNet", "UNet3DConditionModel")


class _Heads(NamedTuple):
    """The attention heads of one block."""

    path: str
    number: int
    channels: int


def say_heads(class_name: str, values: Config) -> Meanings:
    """Say what `attention_head_dim` is in each block of this UNet, with its numbers."""
    if values.get("num_attention_heads") is not None and class_name not in _HEAD_CHANNELS:
        return
    key, blocks = "attention_head_dim", _blocks(values)
    counted = [heads for block, kind in blocks for heads in _counted(class_name, values, block, kind)]
    measured = [heads for block, kind in blocks for heads in _measured(class_name, values, block, kind)]
    if counted:
        yield key, f"the number of heads here, whatever its name: {_listed(counted)}"
    if measured:
        also = "and in these blocks the channels of one head" if counted else "the channels of one head, not the number of heads"
        yield key, f"{also}: {_listed(measured)}"


def _blocks(values: Config) -> list[tuple[Block, str]]:
    """List the blocks with their types; none where the config's lists of them do not fit together."""
    if "layers_per_block" not in values or "block_out_channels" not in values or "down_block_types" not in values:
        return []
    kinds = {"mid_block": str(values.get("mid_block_type", "UNetMidBlock2DCrossAttn"))}
    blocks = list_blocks(values)
    for way in ("down", "up") if blocks else ():
        kinds |= {f"{way}_blocks.{place}": str(kind) for place, kind in enumerate(values.get(f"{way}_block_types") or ())}
    return [(block, kinds[block.path].removeprefix("UNetRes")) for block in blocks if block.layers > 0]


def _counted(class_name: str, values: Config, block: Block, kind: str) -> Iterator[_Heads]:
    heads = entry(values.get("attention_head_dim"), block.place)
    if class_name in _COUNT_HEADS and _has_transformers(kind) and is_count(heads) and heads <= block.channels:
        yield _Heads(block.path, heads, block.channels // heads)


def _measured(class_name: str, values: Config, block: Block, kind: str) -> Iterator[_Heads]:
    """Find a block that shares out its channels into heads of so many. On the way up the list is not turned round."""
    value = values.get("attention_head_dim")
    width = entry(value, int(block.path.rpartition(".")[2]) if block.goes_up else block.place)
    fits = is_count(width) and width <= block.channels
    if class_name in _HEAD_CHANNELS:
        attends = "CrossAttn" in kind
    elif class_name == "UNet2DModel":
        attends = "Attn" in kind or (
            block.path == "mid_block" and values.get("mid_block_type") is not None and values.get("add_attention") is True
        )
    else:
        attends = class_name in _COUNT_HEADS and "Attn" in kind and not _has_transformers(kind)
    if attends and fits:
        yield _Heads(block.path, block.channels // width, width)


def _has_transformers(kind: str) -> bool:
    return "CrossAttn" in kind and "SimpleCrossAttn" not in kind and not kind.startswith("K")


def _listed(found: Iterable[_Heads]) -> str:
    """List heads by their number and channels, with the blocks that have them.

    >>> _listed([_Heads("down_blocks.0", 8, 40), _Heads("mid_block", 8, 160), _Heads("up_blocks.1", 8, 160)])
    '8 heads of 40 channels in down_blocks.0, 8 heads of 160 channels in mid_block and up_blocks.1'
    """
    groups: dict[tuple[int, int], list[str]] = {}
    for heads in found:
        groups.setdefault((heads.number, heads.channels), []).append(heads.path)
    return ", ".join(
        f"{count_of(number, 'head')} of {count_of(channels, 'channel')} in {joined(paths)}" for (number, channels), paths in groups.items()
    )
