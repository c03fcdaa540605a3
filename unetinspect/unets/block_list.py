"""The blocks of a UNet by its config, and where each looks in the lists of one value per block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from unetinspect.unets.base import Config, is_count, is_list, per_block


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

    @property
    def goes_up(self) -> bool:
        """Whether it is an up block."""
        return self.path.startswith("up")


def list_blocks(config: Config) -> list[Block]:
    """List the blocks in the order in which they run; none where the config's own lists of them do not fit together."""
    return list(_blocks(config)) if _fits(config) else []


def entry(value: Any, place: int) -> Any:
    """Return a block's own value: that at its place in a list, or the single value. None: the list has no such place.

    >>> entry([5, 10, 20], -1), entry(8, -1), entry([5], 1)
    (20, 8, None)
    """
    if not is_list(value):
        return value
    return value[place] if -len(value) <= place < len(value) else None


def _blocks(config: Config) -> Iterator[Block]:
    kinds, channels = config["down_block_types"], config["block_out_channels"]
    layers = per_block(config["layers_per_block"], len(kinds))
    for place, kind in enumerate(kinds):
        yield Block(f"down_blocks.{place}", place, channels[place], layers[place], "CrossAttn" in kind)
    yield Block("mid_block", -1, channels[-1], config.get("mid_block_layers", 1), crosses=True)
    for place, kind in enumerate(config.get("up_block_types", ())):
        yield Block(f"up_blocks.{place}", -1 - place, channels[-1 - place], layers[-1 - place] + 1, "CrossAttn" in kind)


def _fits(config: Config) -> bool:
    lists = [config.get(key, ()) for key in ("down_block_types", "block_out_channels", "up_block_types")]
    if not all(is_list(value) for value in lists):
        return False
    kinds, channels, up = lists
    layers = config["layers_per_block"]
    counts = [*(layers if is_list(layers) else [layers] * len(kinds)), config.get("mid_block_layers", 1)]
    return (
        0 < len(kinds) == len(channels) == len(counts) - 1
        and len(up) in ([len(kinds)] if "up_block_types" in config else [0])
        and all(isinstance(kind, str) for kind in (*kinds, *up))
        and all(is_count(channel) for channel in channels)
        and all(isinstance(count, int) for count in counts)
    )
