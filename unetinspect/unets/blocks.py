"""The blocks of a UNet from its config, their places in lists of one value per block, and the text that they read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from unetinspect.unets.builder import Arg, Config, is_list


class Block(NamedTuple):
    """One block of a UNet.

    Attributes:
        path: "down_blocks.0", "mid_block", "up_blocks.0".
        place: Its place in a list of one value per block: up blocks and the mid block count from the end.
        channels: The output channels of its resnets.
        layers: Its pairs of resnet and attention.
        crosses: Whether it has attention in space, which reads `encoder_hidden_states` where it has a width.
    """

    path: str
    place: int
    channels: int
    layers: int
    crosses: bool


def list_blocks(config: Config) -> list[Block]:
    """List the blocks in the order in which they run."""
    channels, layers = config["block_out_channels"], config.get("layers_per_block", 2)
    mid = config.get("mid_block_type", "CrossAttn")  # a class without the key has attention there

    def block(path: str, place: int, kind: str | None, extra: int = 0) -> Block:
        count = config.get("mid_block_layers", 1) if path == "mid_block" else entry(layers, place) + extra
        return Block(path, place, channels[place], count, "CrossAttn" in (kind or ""))

    down = [block(f"down_blocks.{place}", place, kind) for place, kind in enumerate(config["down_block_types"])]
    up = [block(f"up_blocks.{place}", -1 - place, kind, extra=1) for place, kind in enumerate(config.get("up_block_types", ()))]
    return [*down, block("mid_block", -1, mid), *up]


def entry(value: Any, place: int) -> Any:
    """Return a block's value: that at its place in a list, or the single value. None: the list has no such place.

    >>> entry([5, 10, 20], -1), entry(8, -1), entry([5], 1)
    (20, 8, None)
    """
    if not is_list(value):
        return value
    return value[place] if -len(value) <= place < len(value) else None


def read_widths(config: Config) -> list[tuple[Any, int]]:
    """List (cross_attention_dim, channels) of each block that reads text."""
    crossing = [block for block in list_blocks(config) if block.crosses and block.layers > 0]
    return [(entry(config["cross_attention_dim"], block.place), block.channels) for block in crossing]


def width_read(widths: Iterable[tuple[Any, int]]) -> Any:
    """Return the width of the text that blocks read, of their (cross_attention_dim, channels): the first, since all read one text.

    A cross_attention_dim of null leaves a block without text. None: no text is read, or each block attends to its own hidden
    states, in as many channels, as AudioLDM's blocks do where there is no text.
    """
    read = [(width, channels) for width, channels in widths if width is not None]
    if len({str(width) for width, _ in read}) > 1 and all(width == channels for width, channels in read):
        return None
    return read[0][0] if read else None


def text_width(config: Config) -> Any:
    """Return the width of `encoder_hidden_states` that the blocks read; None: none of them reads it."""
    return width_read(read_widths(config))


def text(width: Any, key: str = "cross_attention_dim", *, name: str = "encoder_hidden_states", rows: str = "batch", **lengths: Any) -> Arg:
    """Declare a text of some width, whose config key is `key`; a width of None: it is not read."""
    return Arg(name, None if width is None else f"{rows} tokens {key}", key, **{key: width}, **lengths)
