"""`UNet2DModel` and `UNet1DModel`, which are given no text: images by noise alone or by class, and signals."""

from __future__ import annotations

from collections.abc import Iterator

from unetinspect.unets.base import TIMESTEP, Adapted, Arg, Builder, Config, Given, arg, is_count, is_list
from unetinspect.unets.conditional import class_labels
from unetinspect.unets.request import Size

_NO_SKIP = "DownBlock1DNoSkip"  # it appends the time embedding to the sample, as channels


class UNet2DInputs(Builder):
    """sample, timestep, class_labels where there are classes."""

    class_name = "UNet2DModel"
    what = "image, unconditional or by class"
    vae_scale = 1

    def args(self, config: Config) -> Iterator[Arg]:
        yield arg("sample", "batch in_channels height width", "in_channels, sample_size")
        yield TIMESTEP
        yield from class_labels(config, ())


class UNet1DInputs(Builder):
    """sample and timestep: Dance Diffusion's sound, and the plans and value functions of reinforcement learning."""

    class_name = "UNet1DModel"
    what = "signal: sound (Dance Diffusion), plans and their values (reinforcement learning)"
    size_axes = ("length",)
    default_size = (65536,)
    vae_scale = None
    medium = "signal"

    def args(self, config: Config) -> Iterator[Arg]:
        first = [*config["down_block_types"][:1]]
        if first and first != [_NO_SKIP] and config["extra_in_channels"]:
            axes, keys = "batch (in_channels + extra_in_channels) length", "in_channels, extra_in_channels, sample_size"
        else:
            axes, keys = "batch in_channels length", "in_channels, sample_size"
        yield arg("sample", axes, keys)
        # A value function has one time embedding per sample; the blocks of sound would repeat it anyway.
        yield arg("timestep", "batch", dtype="int64") if config["use_timestep_embedding"] else TIMESTEP

    def adapted(self, config: Config) -> Adapted:
        """Set `time_embedding_dim` for a Dance Diffusion, whose first block has room for 16 channels of it.

        Up to 0.35, diffusers made 16 channels whatever the config said; now it makes 2 x block_out_channels[0].
        """
        kinds, channels = config.get("down_block_types", [_NO_SKIP]), config.get("block_out_channels", [32])
        room = config.get("extra_in_channels")
        makes_its_own = config.get("time_embedding_dim") or config.get("use_timestep_embedding")
        if makes_its_own or config.get("time_embedding_type", "fourier") != "fourier" or not (is_count(room) and room % 2 == 0):
            return Adapted(dict(config))
        if not is_list(kinds) or not is_list(channels) or list(kinds[:1]) != [_NO_SKIP] or not all(map(is_count, channels[:1] or [0])):
            return Adapted(dict(config))
        made = 2 * channels[0]
        note = (
            f"time_embedding_dim is set to {room}, its extra_in_channels, for which {_NO_SKIP} has room:"
            f" without it, this diffusers makes a time embedding of {made} channels and cannot run the UNet"
        )
        return Adapted(dict(config)) if made == room else Adapted({**config, "time_embedding_dim": room}, (note,))

    def sizes_to_try(self, config: Config) -> Iterator[Given[Size]]:
        """Yield the config's own length, then the nearest: in value functions, which run at few lengths, it means nothing.

        A U runs at a multiple of a power of 2, a value function at one that its halvings shrink to almost nothing.
        """
        own = self.sample_size(config)
        yield own
        (wanted,) = own.value
        powers = [2**power for power in range(self.halvings(config) + 1)]
        likely = {*powers, *(length for power in powers for length in (wanted // power * power, -(-wanted // power) * power))}
        other = {times * power for power in powers for times in range(1, 9)}

        def preference(length: int) -> tuple[bool, int, int]:
            return length < wanted and length not in likely, abs(length - wanted), length

        for length in sorted((likely | other) - {0, wanted}, key=preference):
            which = "longest" if length < wanted else "shortest"
            yield Given((length,), f"the {which} that runs; the config's sample_size, {wanted}, does not")

    def halvings(self, config: Config) -> int:
        return len(config["down_block_types"]) + 2  # ValueFunctionMidBlock1D halves twice
