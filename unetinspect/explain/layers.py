"""The linear layers of the catalog's models that take what a user gives: how wide, in which block."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, Literal, NamedTuple

from unetinspect.catalog import Entry, load_catalog
from unetinspect.unets.blocks import Block, list_blocks
from unetinspect.unets.blocks import entry as entry_of
from unetinspect.unets.builder import is_count, is_list

Role = Literal["cross_attention", "added_cond", "class_labels", "encoder_hid", "image_embeds", "time"]
_OTHER_TIME_EMBEDDING = "UNet1DModel"  # its time embedding has another width


class Layer(NamedTuple):
    """A linear layer of one catalog model.

    Attributes:
        model: The catalog name.
        role: What it takes.
        takes: How many features.
        gives: How many features.
        key: The config key that says how many it takes.
        path: Its module path, repeats as *.
    """

    model: str
    role: Role
    takes: int
    gives: int
    key: str
    path: str


@cache
def catalog_layers() -> tuple[Layer, ...]:
    """List such layers of every model of the catalog."""
    return tuple(layer for entry in load_catalog().values() for layer in model_layers(entry))


def model_layers(entry: Entry) -> Iterator[Layer]:
    """Yield such layers of one model, as far as its config tells them."""
    yield from _cross_attention(entry)
    yield from _embeddings(entry)


def crossing_blocks(entry: Entry) -> list[tuple[Block, int]]:
    """List the blocks that read `encoder_hidden_states`, each with the width that it takes."""
    config = entry.config
    widths, channels = config.get("cross_attention_dim"), config.get("block_out_channels")
    if "down_block_types" not in config or "layers_per_block" not in config or widths is None or widths == channels:
        return []  # where each block has its own channels as a width, attention reads the hidden states
    found = []
    for block in list_blocks(config):
        width = entry_of(widths, block.place)
        if block.crosses and is_count(width) and not (block.path == "mid_block" and _has_no_mid_block(config)):
            found.append((block, width))
    return found


def time_width(entry: Entry) -> int | None:
    """Return how wide the time embedding is, or None where the config does not tell."""
    channels = entry.config.get("block_out_channels")
    if not is_list(channels) or not channels or not is_count(channels[0]):
        return None
    if entry.class_name == _OTHER_TIME_EMBEDDING or "down_block_types" not in entry.config:
        return None
    if entry.config.get("time_embedding_type") == "fourier" or entry.config.get("time_embedding_dim") is not None:
        return None
    return 4 * channels[0]


def _cross_attention(entry: Entry) -> Iterator[Layer]:
    for block, width in crossing_blocks(entry):
        yield Layer(entry.name, "cross_attention", width, block.channels, "cross_attention_dim", f"{block.path}.{_key_layer(entry, block)}")


def _key_layer(entry: Entry, block: Block) -> str:
    kinds = {"mid_block": str(entry.config.get("mid_block_type"))}
    for way in ("down", "up"):
        kinds |= {f"{way}_blocks.{place}": str(kind) for place, kind in enumerate(entry.config.get(f"{way}_block_types", ()))}
    return "attentions.*.add_k_proj" if "SimpleCross" in kinds[block.path] else "attentions.*.transformer_blocks.*.attn2.to_k"


def _embeddings(entry: Entry) -> Iterator[Layer]:
    config, time = entry.config, time_width(entry)
    if time is None:
        return
    yield Layer(entry.name, "time", time // 4, time, "block_out_channels", "time_embedding.linear_1")
    total = config.get("projection_class_embeddings_input_dim")
    if is_count(total):
        if config.get("addition_embed_type") == "text_time" or entry.class_name == "UNetSpatioTemporalConditionModel":
            yield Layer(entry.name, "added_cond", total, time, "projection_class_embeddings_input_dim", "add_embedding.linear_1")
        if config.get("class_embed_type") in ("projection", "simple_projection"):
            path = "class_embedding.linear_1" if config["class_embed_type"] == "projection" else "class_embedding"
            yield Layer(entry.name, "class_labels", total, time, "projection_class_embeddings_input_dim", path)
    yield from _projections(entry, time)


def _projections(entry: Entry, time: int) -> Iterator[Layer]:
    config = entry.config
    hidden, width = config.get("encoder_hid_dim"), config.get("cross_attention_dim")
    if not is_count(hidden) or not is_count(width) or entry.class_name != "UNet2DConditionModel":
        return
    if config.get("encoder_hid_dim_type") in (None, "text_proj"):
        yield Layer(entry.name, "encoder_hid", hidden, width, "encoder_hid_dim", "encoder_hid_proj")
    if config.get("addition_embed_type") == "image":
        yield Layer(entry.name, "image_embeds", hidden, time, "encoder_hid_dim", "add_embedding.image_proj")


def _has_no_mid_block(config: dict[str, Any]) -> bool:
    return "mid_block_type" in config and config["mid_block_type"] in (None, "UNetMidBlock2D")
