"""Video UNets: ModelScope's, I2VGen-XL's, Stable Video Diffusion's, AnimateDiff's and its `MotionAdapter`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, NoReturn

from unetinspect.catalog import find_entry
from unetinspect.errors import ConfigError, Problem
from unetinspect.unets.blocks import text, text_width
from unetinspect.unets.builder import TIMESTEP, Adapted, Arg, Builder, Config, Given, is_count, is_list
from unetinspect.unets.conditional import text_time, time_ids, timestep_cond

_PIPELINES_MAKE = 16  # num_frames of all pipelines but Stable Video Diffusion's
_SVD_FRAMES = 25
# The bundled UNets that a motion adapter may be for, distinguished by their channels.
_HOSTS = ("sd15", "sdxl")
_NO_FORWARD = "a MotionAdapter has no forward of its own"
_IN_ITS_UNET = "trace it in its UNet, in Python: unetinspect.trace(UNetMotionModel.from_unet2d(unet, adapter))"
# The keys of `UNetMotionModel` that come from the adapter, each with its name there.
_FROM_ADAPTER = {
    "layers_per_block": "motion_layers_per_block",
    "motion_num_attention_heads": "motion_num_attention_heads",
    "motion_max_seq_length": "motion_max_seq_length",
    "use_motion_mid_block": "use_motion_mid_block",
    "temporal_transformer_layers_per_mid_block": "motion_transformer_layers_per_mid_block",
    "temporal_transformer_layers_per_block": "motion_transformer_layers_per_block",
}


class VideoBuilder(Builder):
    """What UNets with frames share.

    Attributes:
        pipeline: The pipeline of diffusers that decides the number of frames.
    """

    medium = "video"
    pipeline: ClassVar[str]

    def frames(self, config: Config) -> Given[int]:
        """Return the frames that the pipeline makes, or fewer where the motion modules have fewer positions."""
        most = config.get("motion_max_seq_length")  # a single position serves every frame
        if is_count(most) and 1 < most < _PIPELINES_MAKE:
            return Given(most, "motion_max_seq_length")
        return Given(_PIPELINES_MAKE, f"assumed: {self.pipeline} makes {_PIPELINES_MAKE}")


class UNet3DConditionInputs(VideoBuilder):
    """sample, timestep, encoder_hidden_states, timestep_cond where it is projected."""

    class_name = "UNet3DConditionModel"
    what = "video from text: ModelScope, Zeroscope"
    pipeline = "TextToVideoSDPipeline"

    def args(self, config: Config) -> Iterator[Arg]:
        yield Arg("sample", "batch in_channels frames height width", "in_channels, sample_size")
        yield TIMESTEP
        yield _text(config)
        yield from timestep_cond(config)


class I2VGenXLInputs(VideoBuilder):
    """sample, timestep, fps, the image as latents and as an embedding, encoder_hidden_states."""

    class_name = "I2VGenXLUNet"
    what = "video from an image and a text: I2VGen-XL"
    pipeline = "I2VGenXLPipeline"

    def args(self, config: Config) -> Iterator[Arg]:
        yield Arg("sample", "batch in_channels frames height width", "in_channels, sample_size")
        yield TIMESTEP
        yield Arg("fps", "batch", dtype="int64")
        # image_latents_proj_in takes 4 channels, whatever in_channels is.
        yield Arg("image_latents", "batch latent_channels frames height width", latent_channels=4)
        yield Arg("image_embeddings", "batch cross_attention_dim", "cross_attention_dim")
        yield _text(config)


class UNetMotionInputs(VideoBuilder):
    """sample, timestep, encoder_hidden_states for every frame, which the pipelines repeat, and SDXL's additions."""

    class_name = "UNetMotionModel"
    what = "video from text: AnimateDiff"
    pipeline = "AnimateDiffPipeline"

    def args(self, config: Config) -> Iterator[Arg]:
        yield Arg("sample", "batch in_channels frames height width", "in_channels, sample_size")
        yield TIMESTEP
        yield text_per_frame(config)
        yield from timestep_cond(config)
        yield from text_time(config)


class UNetSpatioTemporalInputs(VideoBuilder):
    """sample, timestep, encoder_hidden_states, added_time_ids."""

    class_name = "UNetSpatioTemporalConditionModel"
    what = "video from an image: Stable Video Diffusion"
    default_tokens = 1  # the embedding of one image

    def args(self, config: Config) -> Iterator[Arg]:
        yield Arg("sample", "batch frames in_channels height width", "in_channels, num_frames, sample_size")
        yield TIMESTEP
        yield _text(config)
        keys = "projection_class_embeddings_input_dim, addition_time_embed_dim"
        yield Arg("added_time_ids", "batch ids", keys, ids=time_ids(config))

    def frames(self, config: Config) -> Given[int]:
        frames = config["num_frames"]
        return Given(frames, "config") if is_count(frames) else Given(_SVD_FRAMES, "assumed: the config has no num_frames")


class MotionAdapterInputs(VideoBuilder):
    """None of its own: the motion modules of AnimateDiff run in a UNet, and `adapted` puts them into one.

    Source: `UNetMotionModel.from_unet2d` of diffusers' `unet_motion_model.py`.
    """

    class_name = "MotionAdapter"
    what = "motion modules of AnimateDiff, in Stable Diffusion 1.5 or SDXL"
    pipeline = "AnimateDiffPipeline"

    def args(self, config: Config) -> NoReturn:
        raise ConfigError(_NO_FORWARD, hint=_IN_ITS_UNET)

    def adapted(self, config: Config) -> Adapted:
        """Return the `UNetMotionModel` that the adapter makes of the bundled UNet with its channels.

        Raises:
            ConfigError: No bundled UNet has its channels, or the adapter's weights do not fit the one that has.
        """
        hosts = {name: host.config for name in _HOSTS if (host := find_entry(name)) is not None}
        channels = config["block_out_channels"]
        name = next((name for name, unet in hosts.items() if channels == unet["block_out_channels"]), None)
        if name is None:
            known = " or ".join(f"{unet['block_out_channels']} ({name})" for name, unet in hosts.items())
            what = f"block_out_channels is {channels!r}; the bundled UNets have {known}"
            problems = [Problem(("block_out_channels",), what)]
        else:
            problems = list(_misfits(config, name, hosts[name]))
        if name is None or problems:
            raise ConfigError(f"{_NO_FORWARD}, and fits no bundled UNet:", problems=problems, hint=_IN_ITS_UNET)
        unet, kinds = hosts[name], {}
        for way in ("Down", "Up"):
            key = f"{way.lower()}_block_types"
            kinds[key] = [f"CrossAttn{way}BlockMotion" if "CrossAttn" in kind else f"{way}BlockMotion" for kind in unet[key]]
        changes = {
            **unet,
            "_class_name": "UNetMotionModel",
            **kinds,
            **{key: config[name] for key, name in _FROM_ADAPTER.items()},
            "num_attention_heads": unet.get("num_attention_heads") or unet["attention_head_dim"],
            "in_channels": config["conv_in_channels"] or unet["in_channels"],
        }
        return Adapted(changes, (f"{_NO_FORWARD}: it was put into {name}, the bundled UNet with its block_out_channels",))


def _misfits(adapter: Config, host: str, unet: Config) -> Iterator[Problem]:
    """Find what the adapter's own class or the host's weights rule out; what `UNetMotionModel` refuses shows when it is built."""
    channels, layers, groups, image = unet["block_out_channels"], unet["layers_per_block"], "motion_norm_num_groups", "conv_in_channels"
    per_block, mid, heads = "motion_layers_per_block", "motion_mid_block_layers_per_block", "motion_num_attention_heads"
    divides = is_count(adapter[groups]) and not any(width % adapter[groups] for width in channels)
    wide_enough = not adapter[image] or (is_count(adapter[image]) and adapter[image] >= unet["in_channels"])
    rules = (
        (per_block, adapter[per_block] in (layers, [layers] * len(channels)), f"{host} has {layers} layers in each block", layers),
        (heads, not is_list(adapter[heads]) or len(adapter[heads]) == len(channels), f"a list has one for each block ({len(channels)})", 8),
        (groups, divides, f"it must divide the block_out_channels {channels}", 32),
        (mid, adapter[mid] == 1 or not adapter["use_motion_mid_block"], "the mid block of a UNetMotionModel has 1 layer", 1),
        (image, wide_enough, f"it must be at least {unet['in_channels']}, the in_channels of {host}", None),
    )
    for key, fits, must, works in rules:
        if not fits:
            yield Problem((key,), f"{key} is {adapter[key]!r}; {must}", {key: works})


def _text(config: Config) -> Arg:
    """Return `encoder_hidden_states` of a class that repeats it for every frame itself, and needs a tensor even where nothing reads it."""
    width = text_width(config)
    return Arg("encoder_hidden_states", "batch tokens unread", unread=1) if width is None else text(width)


def text_per_frame(config: Config) -> Arg:
    """Return `encoder_hidden_states` of a class whose forward needs it for every frame."""
    return text(text_width(config), rows="(batch * frames)")
