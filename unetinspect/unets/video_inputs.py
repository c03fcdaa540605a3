"""The inputs that video UNets share: the sample with its frames, and the text that is given once or for every frame."""

from __future__ import annotations

from unetinspect.errors import UsageError
from unetinspect.unets.base import Config, Given, InputSpec, Plan, is_count
from unetinspect.unets.block_list import entry, list_blocks
from unetinspect.unets.unet_2d_condition import common_width

# `num_frames` of TextToVideoSDPipeline, I2VGenXLPipeline, AnimateDiffPipeline and its relatives.
_PIPELINES_MAKE = 16


def frames_of(plan: Plan) -> int:
    """Return the frames of the pass."""
    return plan.frames or 1


def pipeline_frames(pipeline: str) -> Given[int]:
    """Return how many frames a pipeline of diffusers makes where nobody says."""
    return Given(_PIPELINES_MAKE, f"taken for granted: {pipeline} makes {_PIPELINES_MAKE}")


def motion_frames(config: Config, pipeline: str) -> Given[int]:
    """Return the frames of a UNet with motion modules: the pipeline's, or fewer where the modules have fewer positions."""
    usual, most = pipeline_frames(pipeline), most_frames(config)
    return Given(most, "motion_max_seq_length") if most is not None and most < usual.value else usual


def most_frames(config: Config) -> int | None:
    """Return how many frames the motion modules have positions for; None: any number, a single position is every frame's."""
    most = config["motion_max_seq_length"]
    return most if is_count(most) and most > 1 else None


def check_frames(config: Config, plan: Plan) -> None:
    """Hold the frames asked for against the positions that the motion modules have.

    Raises:
        UsageError: There are more frames.
    """
    most = most_frames(config)
    if most is not None and frames_of(plan) > most:
        raise UsageError(
            f"--frames {plan.frames}: the motion modules have positions for {most} frames (motion_max_seq_length)",
            hint=f"--frames {most} is the most",
        )


def video_sample(config: Config, plan: Plan) -> InputSpec:
    """Return `sample`, (batch, in_channels, frames, height, width)."""
    shape = (plan.batch, config["in_channels"], frames_of(plan), *plan.size)
    key = "in_channels, sample_size" if "sample_size" in config else "in_channels"
    return InputSpec("sample", shape, ("batch", "in_channels", "frames", "height", "width"), key)


def text(config: Config, plan: Plan, tokens: int) -> InputSpec:
    """Return `encoder_hidden_states`, (batch, tokens, cross_attention_dim), for a class that hands it to every frame itself.

    Raises:
        ConfigError: The blocks do not agree on one width.
    """
    # A channel count of 0 is no width: this class has no way to leave the text out, so that blocks attend to themselves.
    width = common_width([(width, 0) for width, _ in _wanted_widths(config)], config["cross_attention_dim"])
    if width is None:  # forward wants a tensor, though no block reads it
        return InputSpec("encoder_hidden_states", (plan.batch, tokens, 1), ("batch", "tokens", "unread"))
    shape = (plan.batch, tokens, width)
    return InputSpec("encoder_hidden_states", shape, ("batch", "tokens", "cross_attention_dim"), "cross_attention_dim")


def text_per_frame(config: Config, plan: Plan, tokens: int) -> InputSpec:
    """Return `encoder_hidden_states`, (batch * frames, tokens, cross_attention_dim), for a class whose pipeline repeats it.

    Raises:
        ConfigError: The blocks do not agree on one width.
    """
    width = common_width(_wanted_widths(config), config["cross_attention_dim"])
    if width is None:
        return InputSpec("encoder_hidden_states", None, (), "cross_attention_dim")
    shape = (plan.batch * frames_of(plan), tokens, width)
    return InputSpec("encoder_hidden_states", shape, ("batch * frames", "tokens", "cross_attention_dim"), "cross_attention_dim")


def reads_text(config: Config) -> bool:
    """Tell whether the blocks with cross-attention read `encoder_hidden_states`: all of one width, since they are given one tensor."""
    return len({width for width, _ in _wanted_widths(config)}) == 1


def _wanted_widths(config: Config) -> list[tuple[int, int]]:
    """List (cross_attention_dim, channels) of each block with cross-attention; without a width a block has none."""
    crossing = [block for block in list_blocks(config) if block.crosses and block.layers > 0]
    wanted = [(entry(config["cross_attention_dim"], block.place), block.channels) for block in crossing]
    return [(width, channels) for width, channels in wanted if width is not None]
