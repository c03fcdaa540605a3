"""`T2IAdapter`: a small network on an image, whose features are added inside a UNet's down blocks."""

from __future__ import annotations

from collections.abc import Iterator

from unetinspect.errors import UsageError
from unetinspect.unets.base import Builder, Config, Given, InputSpec, Plan, is_count, is_list
from unetinspect.unets.config_rules import check_choice, check_counts, check_set, check_widths
from unetinspect.unets.request import Size
from unetinspect.units import format_size

# The whole output, which is a list.
FEATURES = {"": "down_intrablock_additional_residuals"}
_TYPES = ("full_adapter", "full_adapter_xl", "light_adapter")


class T2IAdapterInputs(Builder):
    """x, the image: no timestep and no text, so that it runs once for a whole image."""

    class_name = "T2IAdapter"
    what = "an image that steers a UNet: its features are added inside the down blocks of a UNet2DConditionModel"
    default_size = (512, 512)
    plugs_into = FEATURES

    def condition(self, config: Config) -> str | None:
        return None

    def inputs(self, config: Config, plan: Plan) -> list[InputSpec]:
        _check_size(config["downscale_factor"], plan.size)
        shape = (plan.batch, config["in_channels"], *plan.size)
        return [InputSpec("x", shape, ("batch", "in_channels", "height", "width"), "in_channels, downscale_factor")]

    def problems(self, config: Config) -> list[str]:
        return [
            *check_choice(config, "adapter_type", _TYPES),
            *check_counts(config, ["in_channels", "downscale_factor"]),
            *check_set(config, ["num_res_blocks"]),
            *check_widths(config, "channels"),
            *_widths(config),
        ]

    def assumed_vae_scale(self, config: Config) -> int:
        return 1

    def sample_size(self, config: Config) -> Given[Size]:
        """Return SDXL's pixels for an adapter of its shape and Stable Diffusion's for others, as far as the adapter can divide them."""
        side = 1024 if config["adapter_type"] == "full_adapter_xl" else self.default_size[0]
        side = max(1, side // config["downscale_factor"]) * config["downscale_factor"]
        return Given((side, side), "taken for granted: an adapter has no sample_size")

    def halvings(self, config: Config) -> int:
        return len(config["channels"])


def _check_size(factor: int, size: Size) -> None:
    """Find sides that `PixelUnshuffle` cannot fold; what it leaves is halved with rounding up, whatever it is."""
    if not any(side % factor for side in size):
        return
    below = [max(1, side // factor) * factor for side in size]
    above = [-(-side // factor) * factor for side in size]
    sizes = dict.fromkeys(format_size(near) for near in (below, above))
    raise UsageError(
        f"an image of {format_size(size)} cannot be folded: each side must be a multiple of downscale_factor, {factor}",
        hint=f"the nearest sizes that are: {' or '.join(f'--res {near}' for near in sizes)}",
    )


def _widths(config: Config) -> Iterator[str]:
    channels, kind, resnets = config["channels"], config["adapter_type"], config["num_res_blocks"] or 0
    if not is_list(channels) or not all(is_count(width) for width in channels):
        return
    if kind == "full_adapter_xl" and resnets > 0 and len(set(channels[2:])) > 1:
        yield f"channels is {list(channels)!r}, and must have one width from the third on: there full_adapter_xl changes it no more"
    if kind == "light_adapter" and min(channels, default=4) < 4:
        yield f"channels holds {min(channels)}, and must hold numbers from 4 on: light_adapter works on a quarter of them"
