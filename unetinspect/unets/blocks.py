"""The text that the blocks of a UNet read, from its config: lists of one value per block."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from unetinspect.unets.builder import Arg, Config, is_list


def entry(value: Any, place: int) -> Any:
    """Return a block's value: that at its place in a list, or the single value. None: the list has no such place.

    >>> entry([5, 10, 20], -1), entry(8, -1), entry([5], 1)
    (20, 8, None)
    """
    if not is_list(value):
        return value
    return value[place] if -len(value) <= place < len(value) else None


def read_widths(config: Config) -> list[tuple[Any, int]]:
    """List (cross_attention_dim, channels) of each block whose attention in space may read text, in the order in which they run."""
    layers = config.get("layers_per_block", 2)
    # Each with its place in a list of one value per block, where up blocks and the mid block count from the end.
    blocks = [(kind, place, entry(layers, place)) for place, kind in enumerate(config["down_block_types"])]
    # A class without the key has attention in the mid block.
    blocks.append((config.get("mid_block_type", "CrossAttn"), -1, config.get("mid_block_layers", 1)))
    blocks += [(kind, -1 - place, entry(layers, -1 - place) + 1) for place, kind in enumerate(config.get("up_block_types", ()))]
    crossing = [place for kind, place, count in blocks if "CrossAttn" in (kind or "") and count > 0]
    return [(entry(config["cross_attention_dim"], place), config["block_out_channels"][place]) for place in crossing]


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
