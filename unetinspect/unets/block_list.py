"""The blocks of a UNet by its config, where each looks in the lists of one value per block, and the text that they read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from unetinspect.unets.base import Config, is_list, per_block


class Block(NamedTuple):
    """One block of a UNet.

    Attributes:
        path: "down_blocks.0", "mid_block", "up_blocks.0".
        place: Its place in a list of one value per block: up blocks and the mid block count from the end.
        channels: What its resnets leave.
        layers: Its pairs of resnet and attention.
        crosses: Whether it has attention in space, which reads `encoder_hidden_states` where it has a width.
    """

    path: str
    place: int
    channels: int
    layers: int
    crosses: bool


def list_blocks(config: Config) -> list[Block]:
    """List the blocks in the order in which they run; none where the config's own lists of them do not fit together."""
    down, channels = config["down_block_types"], config["block_out_channels"]
    if not is_list(down) or not is_list(channels) or not down or not is_list(up := config.get("up_block_types", down)):
        return []
    layers = [*per_block(config["layers_per_block"], len(down)), config.get("mid_block_layers", 1)]
    mid = config.get("mid_block_type", "CrossAttn")  # a class without the key has attention there
    if not len(down) == len(up) == len(channels) == len(layers) - 1:
        return []
    if not all(isinstance(kind, str) for kind in (*down, mid or "", *up)) or not all(
        isinstance(count, int) for count in (*channels, *layers)
    ):
        return []
    blocks = [Block(f"down_blocks.{place}", place, channels[place], layers[place], "CrossAttn" in kind) for place, kind in enumerate(down)]
    blocks.append(Block("mid_block", -1, channels[-1], layers[-1], "CrossAttn" in (mid or "")))
    for place, kind in enumerate(up if "up_block_types" in config else ()):
        blocks.append(Block(f"up_blocks.{place}", -1 - place, channels[-1 - place], layers[-2 - place] + 1, "CrossAttn" in kind))
    return blocks


def entry(value: Any, place: int) -> Any:
    """Return a block's own value: that at its place in a list, or the single value. None: the list has no such place.

    >>> entry([5, 10, 20], -1), entry(8, -1), entry([5], 1)
    (20, 8, None)
    """
    if not is_list(value):
        return value
    return value[place] if -len(value) <= place < len(value) else None


def text_width(config: Config) -> Any:
    """Return the width of `encoder_hidden_states` that the blocks read; None: none of them reads any."""
    crossing = [block for block in list_blocks(config) if block.crosses and block.layers > 0]
    return width_read((entry(config["cross_attention_dim"], block.place), block.channels) for block in crossing)


def width_read(crossing: Iterable[tuple[Any, int]]) -> Any:
    """Return the width of the text that blocks with cross-attention read: the first, since all are given one text.

    `crossing` holds (cross_attention_dim, channels) of each; a width of null leaves a block without. None: no text is read, or
    each block attends to its own hidden states, in as many channels, as AudioLDM's do where they are given no text.
    """
    read = [(width, channels) for width, channels in crossing if width is not None]
    if len({str(width) for width, _ in read}) > 1 and all(width == channels for width, channels in read):
        return None
    return read[0][0] if read else None
