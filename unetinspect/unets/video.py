"""Video UNets: ModelScope's, I2VGen-XL's, AnimateDiff's and Stable Video Diffusion's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from unetinspect.unets.base import TIMESTEP, Arg, Builder, Config, Given, arg, is_count
from unetinspect.unets.block_list import text_width
from unetinspect.unets.conditional import text_time, time_ids, timestep_cond

_PIPELINES_MAKE = 16  # num_frames of all pipelines but Stable Video Diffusion's
_SVD_FRAMES = 25


class VideoBuilder(Builder):
    """What UNets with frames share.

    Attributes:
        pipeline: The pipeline of diffusers that decides how many frames there are.
    """

    medium = "video"
    pipeline: ClassVar[str]

    def frames(self, config: Config) -> Given[int]:
        """Return the frames that the pipeline makes, or fewer where the motion modules have positions for fewer."""
        most = config.get("motion_max_seq_length")  # a single position is every frame's
        if is_count(most) and 1 < most < _PIPELINES_MAKE:
            return Given(most, "motion_max_seq_length")
        return Given(_PIPELINES_MAKE, f"assumed: {self.pipeline} makes {_PIPELINES_MAKE}")


class UNet3DConditionInputs(VideoBuilder):
    """sample, timestep, encoder_hidden_states, timestep_cond where it is projected."""

    class_name = "UNet3DConditionModel"
    what = "video from text: ModelScope, Zeroscope"
    pipeline = "TextToVideoSDPipeline"

    def args(self, config: Config) -> Iterator[Arg]:
        yield arg("sample", "batch in_channels frames height width", "in_channels, sample_size")
        yield TIMESTEP
        yield _text(config)
        yield from timestep_cond(config)


class I2VGenXLInputs(VideoBuilder):
    """sample, timestep, fps, the image as latents and as an embedding, encoder_hidden_states."""

    class_name = "I2VGenXLUNet"
    what = "video from an image and a text: I2VGen-XL"
    pipeline = "I2VGenXLPipeline"

    def args(self, config: Config) -> Iterator[Arg]:
        yield arg("sample", "batch in_channels frames height width", "in_channels, sample_size")
        yield TIMESTEP
        yield arg("fps", "batch", dtype="int64")
        # image_latents_proj_in takes 4 channels, whatever in_channels is.
        yield arg("image_latents", "batch latent_channels frames height width", latent_channels=4)
        yield arg("image_embeddings", "batch cross_attention_dim", "cross_attention_dim")
        yield _text(config)


class UNetMotionInputs(VideoBuilder):
    """sample, timestep, encoder_hidden_states for every frame, which the pipelines repeat, and SDXL's additions."""

    class_name = "UNetMotionModel"
    what = "video from text: AnimateDiff"
    pipeline = "AnimateDiffPipeline"

    def args(self, config: Config) -> Iterator[Arg]:
        yield arg("sample", "batch in_channels frames height width", "in_channels, sample_size")
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
        yield arg("sample", "batch frames in_channels height width", "in_channels, num_frames, sample_size")
        yield TIMESTEP
        yield _text(config)
        keys = "projection_class_embeddings_input_dim, addition_time_embed_dim"
        yield arg("added_time_ids", "batch ids", keys, ids=time_ids(config))

    def frames(self, config: Config) -> Given[int]:
        frames = config["num_frames"]
        return Given(frames, "config") if is_count(frames) else Given(_SVD_FRAMES, "assumed: the config has no num_frames")


def _text(config: Config) -> Arg:
    """Return `encoder_hidden_states` of a class that hands it to every frame itself, and wants a tensor though nothing reads it."""
    width = text_width(config)
    if width is None:
        return arg("encoder_hidden_states", "batch tokens unread", unread=1)
    return arg("encoder_hidden_states", "batch tokens cross_attention_dim", "cross_attention_dim", cross_attention_dim=width)


def text_per_frame(config: Config) -> Arg:
    """Return `encoder_hidden_states` of a class that must be given it for every frame."""
    width = text_width(config)
    axes = None if width is None else "(batch * frames) tokens cross_attention_dim"
    return arg("encoder_hidden_states", axes, "cross_attention_dim", cross_attention_dim=width)
