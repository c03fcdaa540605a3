"""`ControlNetUnionModel`: one ControlNet for several kinds of images (pose, depth, edges, ...), each with a number."""

from __future__ import annotations

from collections.abc import Iterator

from unetinspect.unets import controlnet_rules as rules
from unetinspect.unets.base import Builder, Config, Given, InputSpec, Plan, is_count, is_list
from unetinspect.unets.config_rules import check_choice, check_counts, check_set
from unetinspect.unets.request import Size


class ControlNetUnionInputs(Builder):
    """As for a ControlNetModel, with a list of images and which kind each is: here one, of the first kind."""

    class_name = "ControlNetUnionModel"
    what = "a ControlNet for several kinds of images"
    plugs_into = rules.RESIDUALS

    def condition(self, config: Config) -> str | None:
        return rules.condition(config, mid_crosses=True)

    def inputs(self, config: Config, plan: Plan) -> list[InputSpec]:
        tokens = plan.tokens or self.default_tokens
        kinds = (plan.batch, config["num_control_type"])
        return [
            *rules.first_inputs(config, plan, tokens=tokens, mid_crosses=True),
            rules.conditioning_image(config, plan, "controlnet_cond.0"),
            InputSpec("control_type", kinds, ("batch", "num_control_type"), "num_control_type"),
            InputSpec("control_type_idx", None, (), None, value=(0,)),
            *rules.last_inputs(config, plan.batch),
        ]

    def problems(self, config: Config) -> list[str]:
        return [
            *rules.find_problems(config, mid_crosses=True),
            *check_choice(config, "encoder_hid_dim_type", (None,)),
            *check_choice(config, "controlnet_conditioning_channel_order", ("rgb",)),
            *check_counts(config, ["addition_time_embed_dim", "num_control_type", "num_trans_head"]),
            *check_set(config, ["num_trans_layer"]),
            *_kinds_transformer(config),
        ]

    def assumed_vae_scale(self, config: Config) -> int | None:
        return rules.assumed_vae_scale(config, channels=config["in_channels"])

    def sample_size(self, config: Config) -> Given[Size]:
        return rules.sample_size(config)


def _kinds_transformer(config: Config) -> Iterator[str]:
    """Find widths of the transformer that mixes the kinds of images: it reads the first block's channels, and gives them back."""
    channels, heads = config["block_out_channels"], config["num_trans_head"]
    first = channels[0] if is_list(channels) and channels else None
    width, given = config["num_trans_channel"], config["num_proj_channel"]
    if width != first:
        yield f"num_trans_channel is {width!r}, and must be the first of block_out_channels, {first}"
    elif is_count(width) and is_count(heads) and width % heads and config["num_trans_layer"] != 0:
        yield f"num_trans_head is {heads}, and must divide num_trans_channel, {width}"
    if given not in (1, first):
        yield f"num_proj_channel is {given!r}, and must be the first of block_out_channels, {first}"
