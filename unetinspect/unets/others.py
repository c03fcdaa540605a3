"""UNets without text (`UNet2DModel`, `UNet1DModel`), and those made for one pipeline each: Kandinsky 3, aMUSEd, Stable Cascade."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, log2

from unetinspect.unets.builder import TIMESTEP, Adapted, Arg, Builder, Config, Given, is_count, is_list
from unetinspect.unets.conditional import class_labels
from unetinspect.unets.request import Size

_NO_SKIP = "DownBlock1DNoSkip"  # it appends the time embedding to the sample, as channels
_PRIOR_SIDE, _DECODER_SIDE = 24, 256  # of Stable Cascade's samples, for an image of 1024 px


class UNet2DInputs(Builder):
    """sample, timestep, class_labels where there are classes."""

    class_name = "UNet2DModel"
    what = "image, unconditional or by class"
    vae_scale = 1

    def args(self, config: Config) -> Iterator[Arg]:
        yield Arg("sample", "batch in_channels height width", "in_channels, sample_size")
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
        yield Arg("sample", axes, keys)
        # A value function has one time embedding per sample; blocks for sound would repeat it anyway.
        yield Arg("timestep", "batch", dtype="int64") if config["use_timestep_embedding"] else TIMESTEP

    def adapted(self, config: Config) -> Adapted:
        """Set `time_embedding_dim` for a Dance Diffusion, whose first block has room for 16 channels of it.

        Up to 0.35, diffusers made 16 channels regardless of the config; now it makes 2 x block_out_channels[0].
        """
        room, kinds, channels = (config[key] for key in ("extra_in_channels", "down_block_types", "block_out_channels"))
        makes_its_own = config["time_embedding_dim"] or config["use_timestep_embedding"] or config["time_embedding_type"] != "fourier"
        if makes_its_own or not is_list(kinds) or kinds[:1] != [_NO_SKIP] or not (is_count(room) and room % 2 == 0):
            return Adapted()
        if not is_list(channels) or not channels or not is_count(channels[0]) or room == 2 * channels[0]:
            return Adapted()
        note = (
            f"time_embedding_dim is set to {room}, its extra_in_channels, for which {_NO_SKIP} has room:"
            f" without it, this diffusers makes a time embedding of {2 * channels[0]} channels and cannot run the UNet"
        )
        return Adapted({"time_embedding_dim": room}, (note,))

    def sizes_to_try(self, config: Config) -> Iterator[Given[Size]]:
        """Yield the config's own length, then the nearest: value functions run at few lengths, and rarely at the config's.

        A U runs at a multiple of a power of 2, a value function at a length that its halvings shrink to almost nothing.
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


class Kandinsky3Inputs(Builder):
    """sample, timestep, encoder_hidden_states, encoder_attention_mask; forward needs all of them."""

    class_name = "Kandinsky3UNet"
    what = "image from text: Kandinsky 3"
    default_tokens = 128  # max_length of its pipelines
    default_size = (128, 128)

    def args(self, config: Config) -> Iterator[Arg]:
        yield Arg("sample", "batch in_channels height width", "in_channels")
        yield TIMESTEP
        yield Arg("encoder_hidden_states", "batch tokens encoder_hid_dim", "encoder_hid_dim")
        yield Arg("encoder_attention_mask", "batch tokens", dtype="int64")


class UVit2DInputs(Builder):
    """input_ids, which entry of a codebook is in each cell of a grid, encoder_hidden_states, pooled_text_emb, micro_conds."""

    class_name = "UVit2DModel"
    what = "image tokens from text: aMUSEd"
    vae_scale = 16  # the VQ models of aMUSEd halve the image four times

    def args(self, config: Config) -> Iterator[Arg]:
        ids = config["micro_cond_embed_dim"] // config["micro_cond_encode_dim"]
        yield Arg("input_ids", "batch height width", "sample_size", dtype="int64")
        yield Arg("encoder_hidden_states", "batch tokens encoder_hidden_size", "encoder_hidden_size")
        yield Arg("pooled_text_emb", "batch cond_embed_dim", "cond_embed_dim")
        yield Arg("micro_conds", "batch ids", "micro_cond_embed_dim, micro_cond_encode_dim", ids=ids)

    def halvings(self, config: Config) -> int:
        return 1 if config["downsample"] else 0


class StableCascadeInputs(Builder):
    """sample, timestep_ratio, clip_text_pooled, and what the `*_in_channels` keys add to them: of the prior and the decoder.

    `sca` and `crp` are left out: forward reads them as `sca or zeros`, which fails for a tensor of a batch.
    Sizes and the tokens of each input are those of `pipeline_stable_cascade.py` and `pipeline_stable_cascade_prior.py`.
    """

    class_name = "StableCascadeUNet"
    what = "image from text: Stable Cascade, prior and decoder"

    def args(self, config: Config) -> Iterator[Arg]:
        text, image, effnet, pixels = (f"{key}_in_channels" for key in ("clip_text", "clip_image", "effnet", "pixel_mapper"))
        yield Arg("sample", "batch in_channels height width", "in_channels")
        yield Arg("timestep_ratio", "batch")
        yield Arg("clip_text_pooled", "batch pooled clip_text_pooled_in_channels", "clip_text_pooled_in_channels", pooled=1)
        if config[text] is not None and config[image] is not None:  # get_clip_embeddings reads both or neither
            yield Arg("clip_text", f"batch tokens {text}", text)
            yield Arg("clip_img", f"batch images {image}", image, images=1)
        if config[effnet]:  # the prior's result: the pipeline makes the sample int(10.67 * side) wide
            yield Arg("effnet", f"batch {effnet} (height / 10.67) (width / 10.67)", effnet)
        if config[pixels]:  # forward makes 8 x 8 without them
            yield Arg("pixels", f"batch {pixels} rows columns", pixels, rows=8, columns=8)

    def assumed_vae_scale(self, config: Config) -> int | None:
        return 4 if config["effnet_in_channels"] else None

    def sample_size(self, config: Config) -> Given[Size]:
        """Return the size at which its pipeline runs, in whole patches: a UNet with effnet is a decoder."""
        side = _DECODER_SIDE if config["effnet_in_channels"] else _PRIOR_SIDE
        patch, levels = int(config["patch_size"]), len(config["block_out_channels"])
        side = max(ceil(side / patch) * patch, patch * 2 ** (levels - 1))
        return Given((side, side), "assumed: Stable Cascade's size for 1024 px")

    def halvings(self, config: Config) -> int:
        return len(config["block_out_channels"]) - 1 + ceil(log2(config["patch_size"]))
