"""`StableCascadeUNet`: both UNets of Stable Cascade, the prior (stage C) and the decoder (stage B).

Sizes and the tokens of each input are those of `pipeline_stable_cascade.py` and `pipeline_stable_cascade_prior.py`.
"""

from __future__ import annotations

from math import ceil, log2

from unetinspect.errors import UsageError
from unetinspect.unets.base import Builder, Config, Given, InputSpec, Plan
from unetinspect.unets.request import Size
from unetinspect.unets.stable_cascade_rules import check_blocks, check_levels, check_values
from unetinspect.units import format_size

_PRIOR_SIDE, _DECODER_SIDE = 24, 256  # of an image of 1024 px
_EFFNET_SCALE = 10.67  # latent_dim_scale: cells of the decoder's sample along one cell of effnet
_PIXELS = 8  # `forward` makes 8 x 8 pixels where it is given none


class StableCascadeInputs(Builder):
    """sample, timestep_ratio, clip_text_pooled, and what the `*_in_channels` keys add to them.

    `sca` and `crp` are left out: forward reads them by `sca or zeros`, which no tensor of a batch can answer.
    """

    class_name = "StableCascadeUNet"
    what = "image from text: Stable Cascade, prior and decoder"

    def condition(self, config: Config) -> str:
        return "clip_text_pooled"

    def inputs(self, config: Config, plan: Plan) -> list[InputSpec]:
        _check_size(config, plan.size)
        sample = (plan.batch, config["in_channels"], *plan.size)
        return [
            InputSpec("sample", sample, ("batch", "in_channels", "height", "width"), "in_channels"),
            InputSpec("timestep_ratio", (plan.batch,), ("batch",)),
            _embeds("clip_text_pooled", "clip_text_pooled_in_channels", config, plan, 1, "pooled"),
            *_clip(config, plan, plan.tokens or self.default_tokens),
            *_effnet(config, plan),
            *_pixels(config, plan),
        ]

    def problems(self, config: Config) -> list[str]:
        return check_values(config) + check_levels(config) or check_blocks(config)

    def assumed_vae_scale(self, config: Config) -> int | None:
        return None if config["effnet_in_channels"] is None else 4

    def sample_size(self, config: Config) -> Given[Size]:
        """Return the size at which its pipeline runs: a UNet that is given effnet is a decoder."""
        side = _PRIOR_SIDE if config["effnet_in_channels"] is None else _DECODER_SIDE
        side = max(ceil(side / config["patch_size"]) * config["patch_size"], _least_side(config))
        return Given((side, side), "taken for granted: Stable Cascade's size for 1024 px")

    def halvings(self, config: Config) -> int:
        return len(config["block_out_channels"]) - 1 + ceil(log2(config["patch_size"]))


def _embeds(name: str, key: str, config: Config, plan: Plan, count: int, axis: str) -> InputSpec:
    return InputSpec(name, (plan.batch, count, config[key]), ("batch", axis, key), key)


def _clip(config: Config, plan: Plan, tokens: int) -> list[InputSpec]:
    """Return the tokens of text and image: `get_clip_embeddings` reads neither without the other."""
    if config["clip_text_in_channels"] is None or config["clip_image_in_channels"] is None:
        return []
    return [
        _embeds("clip_text", "clip_text_in_channels", config, plan, tokens, "tokens"),
        _embeds("clip_img", "clip_image_in_channels", config, plan, 1, "images"),
    ]


def _effnet(config: Config, plan: Plan) -> list[InputSpec]:
    """Return the prior's result, of the size from which the decoder's pipeline makes this sample: int(10.67 * side)."""
    key = "effnet_in_channels"
    if config[key] is None:
        return []
    shape = (plan.batch, config[key], *(ceil(side / _EFFNET_SCALE) for side in plan.size))
    return [InputSpec("effnet", shape, ("batch", key, f"height / {_EFFNET_SCALE}", f"width / {_EFFNET_SCALE}"), key)]


def _pixels(config: Config, plan: Plan) -> list[InputSpec]:
    key = "pixel_mapper_in_channels"
    if config[key] is None:
        return []
    return [InputSpec("pixels", (plan.batch, config[key], _PIXELS, _PIXELS), ("batch", key, "rows", "columns"), key)]


def _least_side(config: Config) -> int:
    """Return the side that leaves one cell on the lowest level: each level below the first halves it, rounding down.

    A `switch_level` of false leaves a level as large as the one above it.
    """
    below = len(config["block_out_channels"]) - 1
    switches = config["switch_level"]
    halvings = below if switches is None else sum(map(bool, switches[:below]))
    return int(config["patch_size"] * 2**halvings)


def _check_size(config: Config, size: Size) -> None:
    patch, least = config["patch_size"], _least_side(config)
    if any(side % patch for side in size):
        wrong = f"is not made up of patches of {patch} x {patch} (patch_size)"
    elif any(side < least for side in size):
        wrong = f"is too small: the lowest level would be left with nothing of a side below {least}"
    else:
        return
    near = [tuple(max(rounded(side / patch) * patch, least) for side in size) for rounded in (int, ceil)]
    shown = " or ".join(dict.fromkeys(f"--latent {format_size(found)}" for found in near))
    raise UsageError(f"a sample of {format_size(size)} {wrong}", hint=f"the nearest that run: {shown}")
