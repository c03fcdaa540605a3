"""Nets that condition a UNet on an image: ControlNets, which copy its down path, and T2I-Adapters.

Source: `controlnet.py`, `controlnet_union.py`, `controlnet_xs.py`, `controlnet_sparsectrl.py` and `adapter.py` of diffusers.
"""

from __future__ import annotations

from collections.abc import Iterator

from unetinspect.unets.blocks import read_widths, text, width_read
from unetinspect.unets.builder import TIMESTEP, Arg, Builder, Config, Given
from unetinspect.unets.conditional import class_labels, text_time
from unetinspect.unets.request import Size
from unetinspect.unets.video import VideoBuilder, text_per_frame

# The residuals, as `ControlNetOutput` calls them and as the UNet's forward does.
_RESIDUALS = {
    "down_block_res_samples": "down_block_additional_residuals",
    "mid_block_res_sample": "mid_block_additional_residual",
}
_XS_CHANNELS = 4  # in_channels of a UNetControlNetXSModel, fixed in the class


class ControlNetInputs(Builder):
    """sample, timestep, encoder_hidden_states, the conditioning image, and what the config adds."""

    class_name = "ControlNetModel"
    what = "conditions a UNet2DConditionModel on an image; its outputs are added to the skips"
    plugs_into = _RESIDUALS

    def args(self, config: Config) -> Iterator[Arg]:
        yield Arg("sample", "batch in_channels height width", "in_channels")
        yield TIMESTEP
        yield _text(config)
        yield from self._images(config)
        yield from class_labels(config, ("projection",))
        yield from text_time(config)

    def assumed_vae_scale(self, config: Config) -> int | None:
        return _scale_of_image(config["conditioning_embedding_out_channels"], config["in_channels"])

    def sample_size(self, config: Config) -> Given[Size]:
        if config["addition_embed_type"] == "text_time":
            return Given((128, 128), "assumed: a ControlNet has no sample_size, and with text_time it is for SDXL")
        return Given((64, 64), "assumed: a ControlNet has no sample_size")

    def _images(self, config: Config) -> Iterator[Arg]:
        yield _image("controlnet_cond", config)


class ControlNetUnionInputs(ControlNetInputs):
    """As for a ControlNetModel, with a list of images and their kinds (pose, depth, ...): here one, of the first kind."""

    class_name = "ControlNetUnionModel"
    what = "a ControlNet for several kinds of images"

    def _images(self, config: Config) -> Iterator[Arg]:
        yield _image("controlnet_cond.0", config)
        yield Arg("control_type", "batch num_control_type", "num_control_type")
        yield Arg("control_type_idx", None, value=(0,))


class UNetControlNetXSInputs(Builder):
    """sample, timestep, encoder_hidden_states, the conditioning image, and SDXL's text_time.

    time_cond_proj_dim requires nothing: forward passes timestep_cond to the control's time embedding alone, which ignores it.
    """

    class_name = "UNetControlNetXSModel"
    what = "image from text and image: a UNet2DConditionModel with a slim ControlNet in it"

    def args(self, config: Config) -> Iterator[Arg]:
        control = {**config, "block_out_channels": config["ctrl_block_out_channels"], "up_block_types": []}
        yield Arg("sample", "batch in_channels height width", "sample_size", in_channels=_XS_CHANNELS)
        yield TIMESTEP
        yield text(width_read([*read_widths(config), *read_widths(control)]))
        yield _image("controlnet_cond", config, prefix="ctrl_")
        yield from text_time(config)

    def assumed_vae_scale(self, config: Config) -> int | None:
        return _scale_of_image(config["ctrl_conditioning_embedding_out_channels"], _XS_CHANNELS)


class SparseControlNetInputs(VideoBuilder):
    """sample, timestep, encoder_hidden_states for every frame, controlnet_cond, and the mask of the frames that it has."""

    class_name = "SparseControlNetModel"
    what = "ControlNet of AnimateDiff for a few of the frames: SparseCtrl"
    pipeline = "AnimateDiffSparseControlNetPipeline"
    plugs_into = _RESIDUALS

    def args(self, config: Config) -> Iterator[Arg]:
        sides, keys = "height width", "conditioning_channels"
        if not config["use_simplified_condition_embedding"]:  # then the image is in pixels, not latents
            sides = _sides(_halved(config["conditioning_embedding_out_channels"]))
            keys = "conditioning_channels, conditioning_embedding_out_channels"
        yield Arg("sample", "batch in_channels frames height width", "in_channels")
        yield TIMESTEP
        yield text_per_frame(config)
        yield Arg("controlnet_cond", f"batch conditioning_channels frames {sides}", keys)
        if config["concat_conditioning_mask"]:
            yield Arg("conditioning_mask", f"batch mask frames {sides}", "concat_conditioning_mask", mask=1)


class T2IAdapterInputs(Builder):
    """x, the image: without timestep and text, so that it runs once for all steps."""

    class_name = "T2IAdapter"
    what = "conditions a UNet2DConditionModel on an image; its features are added in the down blocks"
    default_size = (512, 512)
    vae_scale = 1
    plugs_into = {"": "down_intrablock_additional_residuals"}  # noqa: RUF012  declared as a ClassVar by Builder

    def args(self, config: Config) -> Iterator[Arg]:
        yield Arg("x", "batch in_channels height width", "in_channels, downscale_factor")

    def sample_size(self, config: Config) -> Given[Size]:
        """Return SDXL's size in pixels for an adapter of its type, else Stable Diffusion's, as a multiple of its downscale_factor."""
        side = 1024 if config["adapter_type"] == "full_adapter_xl" else self.default_size[0]
        side = max(1, side // config["downscale_factor"]) * config["downscale_factor"]
        return Given((side, side), "assumed: an adapter has no sample_size")

    def halvings(self, config: Config) -> int:
        return len(config["channels"])


def _text(config: Config) -> Arg:
    """Return `encoder_hidden_states`. Unlike the UNet's, forward never calls `encoder_hid_proj`: pipelines do so before."""
    width, key = config["cross_attention_dim"], "cross_attention_dim"
    if config["addition_embed_type"] == "text" and config["encoder_hid_dim"] not in (None, width):
        width, key = config["encoder_hid_dim"], "encoder_hid_dim"
    read = config["addition_embed_type"] == "text" or read_widths(config)
    return text(width if read else None, key)


def _image(name: str, config: Config, *, prefix: str = "") -> Arg:
    """Return the conditioning image, which its embedding downsamples to the size of the sample."""
    channels, widths = f"{prefix}conditioning_channels", f"{prefix}conditioning_embedding_out_channels"
    return Arg(name, f"batch {channels} {_sides(_halved(config[widths]))}", f"{channels}, {widths}")


def _halved(widths: list[int]) -> int:
    """Return the downscaling factor of `ControlNetConditioningEmbedding`: each block but the first halves the image."""
    return int(2 ** (len(widths) - 1))


def _sides(factor: int) -> str:
    return "height width" if factor == 1 else f"({factor} * height) ({factor} * width)"


def _scale_of_image(widths: list[int], channels: int) -> int | None:
    """Return pixels per cell of the sample: the conditioning image is as large as the result."""
    return _halved(widths) if len(widths) > 1 or channels == 3 else None
