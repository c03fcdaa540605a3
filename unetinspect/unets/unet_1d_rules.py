"""How channels and lengths run through a `UNet1DModel`: what its blocks take, and which lengths come out even.

Source: `unet_1d.py` and `unet_1d_blocks.py` of diffusers; the arithmetic is that of its convolutions' strides and pads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from unetinspect.unets.base import Config, is_count, is_list

DOWN_BLOCKS_1D = ("DownResnetBlock1D", "DownBlock1D", "AttnDownBlock1D", "DownBlock1DNoSkip")
MID_BLOCKS_1D = ("MidResTemporalBlock1D", "ValueFunctionMidBlock1D", "UNetMidBlock1D")
UP_BLOCKS_1D = ("UpResnetBlock1D", "UpBlock1D", "AttnUpBlock1D", "UpBlock1DNoSkip")
# They add the time embedding inside, and want it without a length: that of use_timestep_embedding.
TEMPORAL_BLOCKS_1D = ("DownResnetBlock1D", "UpResnetBlock1D", "MidResTemporalBlock1D", "ValueFunctionMidBlock1D")
NO_SKIP = "DownBlock1DNoSkip"  # it appends the time embedding to the sample, as channels
VALUE_FUNCTION = "ValueFunction"
_CUBIC_DOWN = ("DownBlock1D", "AttnDownBlock1D")  # they halve with a kernel of 8 and reflected edges
_CUBIC_UP = ("UpBlock1D", "AttnUpBlock1D")
_NORM_GROUPS = 8  # of ResidualTemporalBlock1D, whatever norm_num_groups says
_HEAD_CHANNELS = 32  # of SelfAttention1d


def time_channels(config: Config) -> int:
    """Return the channels of the time embedding that is appended to the sample, without use_timestep_embedding."""
    first = int(config["block_out_channels"][0])
    return int(config["time_embedding_dim"] or 2 * first) if config["time_embedding_type"] == "fourier" else first


def appends_time(config: Config) -> bool:
    """Tell whether the first block appends the time embedding to the sample."""
    kinds = config["down_block_types"]
    return is_list(kinds) and bool(kinds) and kinds[0] == NO_SKIP


def halvings_1d(config: Config) -> int:
    """Return how often the sample is halved on its way down."""
    downs = sum(_halves(config, place) for place in range(len(config["down_block_types"])))
    mid = {"ValueFunctionMidBlock1D": 2, "UNetMidBlock1D": 1, "MidResTemporalBlock1D": int(bool(config["downsample_each_block"]))}
    return downs + mid[config["mid_block_type"]]


def runs_at(config: Config, length: int, batch: int = 1) -> bool:
    """Tell whether a sample of this length comes through."""
    left = _length_left(config, length, batch)
    if left is None or config["out_block_type"] != VALUE_FUNCTION:
        return left is not None
    # OutValueFunctionBlock makes one row of channels and length, and its linear layer takes block_out_channels[-1] // 4.
    return bool(_last_channels(config) * left == config["block_out_channels"][-1] // 4)


def lengths_near(config: Config, length: int, batch: int = 1) -> list[int]:
    """Return the nearest length up to this one that runs, and the nearest above it, of each what there is.

    A U wants a multiple of a power of 2, a value function a length that shrinks to almost nothing: both are among these.
    """
    powers = [2**power for power in range(halvings_1d(config) + 1)]
    tried = {place for power in powers for place in (length // power * power, -(-length // power) * power, *_multiples(power))}
    runs = sorted(candidate for candidate in tried if candidate > 0 and runs_at(config, candidate, batch))
    below, above = [found for found in runs if found <= length], [found for found in runs if found > length]
    return [*below[-1:], *above[:1]]


def check_channels(config: Config) -> Iterator[str]:
    """Find blocks that are handed other channels than they take. The lists and their names hold what they must."""
    channels, downs, ups = config["block_out_channels"], config["down_block_types"], config["up_block_types"]
    if len(downs) > len(channels):
        yield f"down_block_types has {len(downs)} entries, and must have one for each of the {len(channels)} block_out_channels"
    elif len(ups) > len(downs):
        yield f"up_block_types has {len(ups)} entries, more than the {len(downs)} down_block_types that make a skip for each of them"
    elif not _meets_its_skips(config):
        yield f"down_block_types has {len(downs)} entries, and must have one for each of the {len(channels)} block_out_channels"
    elif ups and config["mid_block_type"] == "ValueFunctionMidBlock1D":
        yield "mid_block_type is 'ValueFunctionMidBlock1D', which leaves a quarter of the channels and fits no up_block_types"
    elif config["out_block_type"] == "OutConv1DBlock" and not ups and _last_channels(config) != channels[0]:
        yield f"out_block_type is 'OutConv1DBlock', which takes {channels[0]} channels, and is given {_last_channels(config)}"


def check_time(config: Config) -> Iterator[str]:
    """Find a time embedding that the blocks cannot take. The lists and their names hold what they must."""
    kinds = [*config["down_block_types"], config["mid_block_type"], *config["up_block_types"]]
    if NO_SKIP in config["down_block_types"][1:]:
        yield f"down_block_types holds {NO_SKIP} behind the first place, where its time embedding has no room"
    temporal = [kind for kind in dict.fromkeys(kinds) if kind in TEMPORAL_BLOCKS_1D]
    if config["use_timestep_embedding"]:
        if appends_time(config):
            yield f"use_timestep_embedding is true, and {NO_SKIP} must have a time embedding that is as long as the sample"
        return
    if config["out_block_type"] == VALUE_FUNCTION:
        temporal.append(VALUE_FUNCTION)
    if temporal:
        yield f"use_timestep_embedding is false, and must be true for {', '.join(temporal)}"
    made, room = time_channels(config), config["extra_in_channels"]
    if appends_time(config) and room != made:
        is_said = config["time_embedding_dim"] and config["time_embedding_type"] == "fourier"
        key = "time_embedding_dim" if is_said else "block_out_channels"
        yield f"extra_in_channels is {room}, and must be {made}, the channels of the time embedding ({key}) that {NO_SKIP} appends"


def check_norms(config: Config) -> Iterator[str]:
    """Find channels that a group norm or the heads of an attention layer do not divide."""
    normed, attended = _normed_channels(config), _attended_channels(config)
    uneven = sorted({channels for channels in normed if channels % _NORM_GROUPS})
    if uneven:
        yield f"the temporal blocks leave {_listed(uneven)} channels, which their {_NORM_GROUPS} norm groups do not divide"
    uneven = sorted({channels for channels in attended if channels < _HEAD_CHANNELS or channels % (channels // _HEAD_CHANNELS)})
    if uneven:
        yield f"attention runs on {_listed(uneven)} channels, which do not make heads of {_HEAD_CHANNELS} channels or a little more"
    first, groups = config["block_out_channels"][0], config["norm_num_groups"]
    groups = min(first // 4, 32) if groups is None else groups
    if config["out_block_type"] == "OutConv1DBlock" and (not is_count(groups) or first % groups):
        yield f"block_out_channels begins with {first}, which norm_num_groups {groups} does not divide"


def _multiples(power: int) -> Iterable[int]:
    return range(power, 9 * power, power)


def _halves(config: Config, place: int) -> bool:
    kind = config["down_block_types"][place]
    last = len(config["block_out_channels"]) - 1
    return kind in _CUBIC_DOWN or (kind == "DownResnetBlock1D" and (place != last or bool(config["downsample_each_block"])))


def _length_left(config: Config, length: int, batch: int) -> int | None:
    """Return the length behind the last block, None: a block cannot take its input, or two lengths do not meet."""
    skips = []
    now: int | None = length
    for place, kind in enumerate(config["down_block_types"]):
        if kind in _CUBIC_DOWN:
            now = _cubic_half(now)
        if kind == "DownResnetBlock1D":
            now = _normed(now, config["block_out_channels"][place], batch)
        skips.append(now)  # the temporal blocks hand it out before they halve it
        if kind == "DownResnetBlock1D" and _halves(config, place):
            now = _half(now)
    now = _length_behind_mid(config, now, batch)
    for place, (kind, channels) in enumerate(zip(config["up_block_types"], _up_channels(config), strict=True)):
        if now is None or now != skips.pop():
            return None
        if kind in _CUBIC_UP:
            now = _cubic_double(now)
        elif kind == "UpResnetBlock1D":
            now = _normed(now, channels, batch)
            now = 2 * now if now is not None and place != len(config["block_out_channels"]) - 1 else now
    return now


def _length_behind_mid(config: Config, length: int | None, batch: int) -> int | None:
    channels = config["block_out_channels"][-1]
    if config["mid_block_type"] == "UNetMidBlock1D":
        return _cubic_double(_cubic_half(length))
    if config["mid_block_type"] == "ValueFunctionMidBlock1D":
        return _half(_normed(_half(_normed(length, channels // 2, batch)), channels // 4, batch))
    length = _normed(length, channels, batch)
    return _half(length) if config["downsample_each_block"] else length


def _normed(length: int | None, channels: int, batch: int) -> int | None:
    """Pass the group norms of a temporal block: torch refuses one that sees a single value in each group of the batch."""
    return length if length is not None and batch * channels // _NORM_GROUPS * length > 1 else None


def _half(length: int | None) -> int | None:
    return None if length is None else (length + 1) // 2


def _cubic_half(length: int | None) -> int | None:
    """Halve as Downsample1d does: 3 values are reflected at each end, so that there must be more than 3."""
    return length // 2 if length is not None and length > 3 else None


def _cubic_double(length: int | None) -> int | None:
    """Double as Upsample1d does: 2 values are reflected at each end."""
    return 2 * length if length is not None and length > 2 else None


def _meets_its_skips(config: Config) -> bool:
    """Tell whether the mid block and each up block find the channels of their own level."""
    channels, downs, ups = list(config["block_out_channels"]), len(config["down_block_types"]), len(config["up_block_types"])
    made = channels[:downs]
    reached = made[-1] if made else config["in_channels"]
    return bool(reached == channels[-1]) and made[::-1][:ups] == channels[::-1][:ups]


def _last_channels(config: Config) -> int:
    """Return the channels behind the last block, before the out block."""
    channels = config["block_out_channels"]
    if config["up_block_types"]:
        return int(config["out_channels"] if config["out_block_type"] is None else channels[0])
    return int(channels[-1] // 4 if config["mid_block_type"] == "ValueFunctionMidBlock1D" else channels[-1])


def _up_channels(config: Config) -> list[int]:
    """List what each up block leaves."""
    channels, ups = list(config["block_out_channels"]), len(config["up_block_types"])
    return [*channels[::-1][1:ups], _last_channels(config)] if ups else []


def _normed_channels(config: Config) -> list[int]:
    """List the channels that the residual blocks of temporal blocks leave."""
    channels = config["block_out_channels"]
    found = [width for width, kind in zip(channels, config["down_block_types"], strict=False) if kind == "DownResnetBlock1D"]
    found += [width for width, kind in zip(_up_channels(config), config["up_block_types"], strict=False) if kind == "UpResnetBlock1D"]
    mid = {"MidResTemporalBlock1D": [channels[-1]], "ValueFunctionMidBlock1D": [channels[-1] // 2, channels[-1] // 4]}
    return found + mid.get(config["mid_block_type"], [])


def _attended_channels(config: Config) -> list[int]:
    """List the channels of the attention layers."""
    channels = config["block_out_channels"]
    found = [width for width, kind in zip(channels, config["down_block_types"], strict=False) if kind == "AttnDownBlock1D"]
    found += [width for width, kind in zip(_up_channels(config), config["up_block_types"], strict=False) if kind == "AttnUpBlock1D"]
    return found + ([channels[-1]] if config["mid_block_type"] == "UNetMidBlock1D" else [])


def _listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))
