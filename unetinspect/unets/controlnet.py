"""`ControlNetModel`: a copy of a UNet's way down, whose outputs are added to the UNet's skips."""

from __future__ import annotations

from unetinspect.unets import controlnet_rules as rules
from unetinspect.unets.base import Builder, Config, Given, InputSpec, Plan
from unetinspect.unets.config_rules import check_choice
from unetinspect.unets.request import Size


class ControlNetInputs(Builder):
    """sample, timestep, encoder_hidden_states, the image that conditions, and what the config adds to them."""

    class_name = "ControlNetModel"
    what = "an image that steers a UNet: its outputs are added to the skips of a UNet2DConditionModel"
    plugs_into = rules.RESIDUALS

    def condition(self, config: Config) -> str | None:
        return rules.condition(config, mid_crosses=_mid_crosses(config))

    def inputs(self, config: Config, plan: Plan) -> list[InputSpec]:
        tokens = plan.tokens or self.default_tokens
        return [
            *rules.first_inputs(config, plan, tokens=tokens, mid_crosses=_mid_crosses(config)),
            rules.conditioning_image(config, plan, "controlnet_cond"),
            *rules.last_inputs(config, plan.batch),
        ]

    def problems(self, config: Config) -> list[str]:
        return [
            *rules.find_problems(config, mid_crosses=_mid_crosses(config)),
            *check_choice(config, "mid_block_type", ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D")),
            *check_choice(config, "encoder_hid_dim_type", (None, "text_proj", "text_image_proj")),
            *check_choice(config, "controlnet_conditioning_channel_order", ("rgb", "bgr")),
        ]

    def assumed_vae_scale(self, config: Config) -> int | None:
        return rules.assumed_vae_scale(config, channels=config["in_channels"])

    def sample_size(self, config: Config) -> Given[Size]:
        return rules.sample_size(config)


def _mid_crosses(config: Config) -> bool:
    return str(config["mid_block_type"]) == "UNetMidBlock2DCrossAttn"
