"""`UNet1DModel`: signals, not images. Dance Diffusion's sound, and the plans and value functions of reinforcement learning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from unetinspect.errors import UsageError
from unetinspect.unets.base import Adapted, Builder, Config, Given, InputSpec, Plan, is_count, is_list
from unetinspect.unets.config_rules import check_activation, check_block_names, check_choice, check_counts, check_set, check_widths
from unetinspect.unets.request import Size
from unetinspect.unets.unet_1d_rules import (
    DOWN_BLOCKS_1D,
    MID_BLOCKS_1D,
    NO_SKIP,
    TEMPORAL_BLOCKS_1D,
    UP_BLOCKS_1D,
    VALUE_FUNCTION,
    appends_time,
    check_channels,
    check_norms,
    check_time,
    halvings_1d,
    lengths_near,
    runs_at,
    time_channels,
)

_LARGE_BATCH = 1024  # a length at which no batch of this size runs never does
_KEYS = {  # those that decide the time embedding, with the defaults of the class
    "extra_in_channels": 0,
    "time_embedding_type": "fourier",
    "time_embedding_dim": None,
    "use_timestep_embedding": False,
    "down_block_types": (NO_SKIP,),
    "block_out_channels": (32, 32, 64),
}


class UNet1DInputs(Builder):
    """sample (batch, in_channels, length), timestep."""

    class_name = "UNet1DModel"
    what = "signal: sound (Dance Diffusion), plans and their values (reinforcement learning)"
    size_axes = ("length",)
    default_size = (65536,)
    medium = "signal"

    def adapted(self, config: Config) -> Adapted:
        """Set `time_embedding_dim` for a Dance Diffusion, whose first block has room for 16 channels of it.

        Up to 0.35, diffusers made 16 channels whatever the config said; now it makes 2 x block_out_channels[0].
        """
        known = {key: config.get(key, default) for key, default in _KEYS.items()}
        room, channels = known["extra_in_channels"], known["block_out_channels"]
        applies = (
            appends_time(known)
            and known["time_embedding_type"] == "fourier"
            and not known["use_timestep_embedding"]
            and not known["time_embedding_dim"]
            and is_count(room)
            and room % 2 == 0
            and is_list(channels)
            and bool(channels)
            and is_count(channels[0])
        )
        if not applies or time_channels(known) == room:
            return Adapted(dict(config))
        note = (
            f"time_embedding_dim is set to {room}, its extra_in_channels, for which {NO_SKIP} has room:"
            f" without it, this diffusers makes a time embedding of {time_channels(known)} channels and cannot run the UNet"
        )
        return Adapted({**config, "time_embedding_dim": room}, (note,))

    def condition(self, config: Config) -> None:
        return None

    def inputs(self, config: Config, plan: Plan) -> list[InputSpec]:
        _check_length(config, plan.size[0], plan.batch)
        extra = 0 if appends_time(config) else config["extra_in_channels"]
        keys = ("in_channels", *(["extra_in_channels"] if extra else []), "sample_size")
        sample = (plan.batch, config["in_channels"] + extra, *plan.size)
        # A value function has one time embedding per sample; the blocks of sound would repeat it anyway.
        per_sample = config["use_timestep_embedding"]
        return [
            InputSpec("sample", sample, ("batch", " + ".join(keys[:-1]), "length"), ", ".join(keys)),
            InputSpec("timestep", (plan.batch,) if per_sample else (), ("batch",) if per_sample else (), None, "int64"),
        ]

    def problems(self, config: Config) -> list[str]:
        found = [*_lists(config), *_values(config)]
        if found:
            return found
        found = [*check_time(config), *check_channels(config)]
        found = found or [*check_norms(config)]
        if not found and not lengths_near(config, _wanted(config), _LARGE_BATCH):
            found = [f"out_block_type is {config['out_block_type']!r}, and no length of the sample fits it and all blocks"]
        return found

    def assumed_vae_scale(self, config: Config) -> None:
        return None

    def sample_size(self, config: Config) -> Given[Size]:
        """Return the config's own length if it runs, else the nearest that does: in value functions it means nothing."""
        wanted = _wanted(config)
        own = config["sample_size"] is not None
        if runs_at(config, wanted):
            return Given((wanted,), "config" if own else "taken for granted: the config has no sample_size")
        lengths = lengths_near(config, wanted) or lengths_near(config, wanted, _LARGE_BATCH)
        near = min(lengths, key=lambda length: abs(length - wanted), default=wanted)
        why = "the longest that runs" if near < wanted else "the shortest that runs"
        return Given((near,), f"{why}; the config's sample_size, {wanted}, does not")

    def halvings(self, config: Config) -> int:
        return halvings_1d(config)


def _wanted(config: Config) -> int:
    size = config["sample_size"]
    return int(size) if is_count(size) else UNet1DInputs.default_size[0]


def _check_length(config: Config, length: int, batch: int) -> None:
    if runs_at(config, length, batch):
        return
    near = lengths_near(config, length, batch)
    shown = " or ".join(f"--latent {found}" for found in near)
    raise UsageError(
        f"a sample of {length} does not come through this {UNet1DInputs.class_name}, which halves it {halvings_1d(config)} times",
        hint=f"the nearest lengths that run: {shown}" if near else None,
    )


def _lists(config: Config) -> Iterator[str]:
    yield from check_widths(config, "block_out_channels")
    for key, known in (("down_block_types", DOWN_BLOCKS_1D), ("up_block_types", UP_BLOCKS_1D)):
        if not is_list(config[key]):
            yield f"{key} is {config[key]!r}, and must be a list"
        yield from check_block_names(config, key, known, prefix="")
    yield from check_choice(config, "mid_block_type", MID_BLOCKS_1D)


def _values(config: Config) -> Iterator[str]:
    yield from check_counts(config, ["in_channels"])
    yield from check_counts(config, ["sample_size", "norm_num_groups"], optional=True)
    yield from check_choice(config, "time_embedding_type", ("fourier", "positional"))
    if config["time_embedding_type"] == "positional":
        yield from check_set(config, ["freq_shift"])
    if _writes_out_channels(config):
        yield from check_counts(config, ["out_channels"])
    if config["use_timestep_embedding"] or config["out_block_type"] in ("OutConv1DBlock", VALUE_FUNCTION):
        yield from check_activation(config, "act_fn")
    if any(kind in TEMPORAL_BLOCKS_1D for kind in _kinds(config)):
        yield from check_set(config, ["layers_per_block"])
    for key, is_odd in (("extra_in_channels", False), ("time_embedding_dim", config["time_embedding_type"] == "fourier")):
        value: Any = config[key]
        if value is not None and (not isinstance(value, int) or value < 0):
            yield f"{key} is {value!r}, and must be a whole number from 0 on"
        elif value is not None and is_odd and value % 2:
            yield f"{key} is {value}, and must be even: sines and cosines share it"
    if config["extra_in_channels"] is None:
        yield "extra_in_channels is null, and must have a value"


def _kinds(config: Config) -> list[Any]:
    lists = [config[key] for key in ("down_block_types", "up_block_types") if is_list(config[key])]
    return [*(kind for kinds in lists for kind in kinds), config["mid_block_type"]]


def _writes_out_channels(config: Config) -> bool:
    return config["out_block_type"] == "OutConv1DBlock" or (config["out_block_type"] is None and bool(config["up_block_types"]))
