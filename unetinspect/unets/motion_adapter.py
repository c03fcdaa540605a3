"""`MotionAdapter`: the motion modules of AnimateDiff alone, which run in the UNet that they are put into.

Source: `UNetMotionModel.from_unet2d` of diffusers' `unet_motion_model.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

from unetinspect.catalog import find_entry
from unetinspect.errors import ConfigError
from unetinspect.unets.base import Adapted, Builder, Config, Given, Plan, is_count, is_list, per_block
from unetinspect.unets.video_inputs import motion_frames

# The bundled UNets that an adapter may be for, told apart by their channels.
_HOSTS = ("sd15", "sdxl")
_IN_ITS_UNET = "trace it in its UNet, in Python: unetinspect.trace(UNetMotionModel.from_unet2d(unet, adapter))"
# Defaults of the class: an adapter's config may leave any of them out.
_DEFAULTS: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280),
    "motion_layers_per_block": 2,
    "motion_transformer_layers_per_block": 1,
    "motion_mid_block_layers_per_block": 1,
    "motion_transformer_layers_per_mid_block": 1,
    "motion_num_attention_heads": 8,
    "motion_norm_num_groups": 32,
    "motion_max_seq_length": 32,
    "use_motion_mid_block": True,
    "conv_in_channels": None,
}
# What `UNetMotionModel` takes over from the UNet, and under which name from the adapter.
_FROM_UNET = (
    *("sample_size", "in_channels", "out_channels", "block_out_channels", "downsample_padding", "mid_block_scale_factor", "act_fn"),
    *("norm_num_groups", "norm_eps", "cross_attention_dim", "transformer_layers_per_block", "reverse_transformer_layers_per_block"),
    *("use_linear_projection", "num_attention_heads", "encoder_hid_dim", "encoder_hid_dim_type", "addition_embed_type"),
    *("addition_time_embed_dim", "projection_class_embeddings_input_dim", "time_cond_proj_dim"),
)
_FROM_ADAPTER = {
    "layers_per_block": "motion_layers_per_block",
    "motion_num_attention_heads": "motion_num_attention_heads",
    "motion_max_seq_length": "motion_max_seq_length",
    "use_motion_mid_block": "use_motion_mid_block",
    "temporal_transformer_layers_per_mid_block": "motion_transformer_layers_per_mid_block",
    "temporal_transformer_layers_per_block": "motion_transformer_layers_per_block",
}


class MotionAdapterInputs(Builder):
    """None of its own: `adapted` puts it into a UNet."""

    class_name = "MotionAdapter"
    what = "motion modules of AnimateDiff, in Stable Diffusion 1.5 or SDXL"
    medium = "video"

    def adapted(self, config: Config) -> Adapted:
        """Return the `UNetMotionModel` that the adapter makes of the bundled UNet with its channels.

        Raises:
            ConfigError: No bundled UNet has its channels, or it does not fit the one that has.
        """
        adapter = {**_DEFAULTS, **config}
        problems = self.problems(adapter)
        host = _host(adapter)
        if host is None or problems:
            raise ConfigError(
                "the MotionAdapter has no forward of its own, and fits no bundled UNet:", problems=problems, hint=_IN_ITS_UNET
            )
        note = f"a MotionAdapter has no forward of its own: it was put into {host}, the bundled UNet with its block_out_channels"
        return Adapted(_in_unet(adapter, _unet_config(host)), (note,))

    def condition(self, config: Config) -> None:
        return None

    def inputs(self, config: Config, plan: Plan) -> NoReturn:
        raise ConfigError("a MotionAdapter has no forward of its own", hint=_IN_ITS_UNET)

    def problems(self, config: Config) -> list[str]:
        host = _host(config)
        return [_no_host(config)] if host is None else list(_misfits(config, host))

    def assumed_vae_scale(self, config: Config) -> int:
        return 8

    def frames(self, config: Config) -> Given[int]:
        return motion_frames(config, "AnimateDiffPipeline")


def _unet_config(name: str) -> Config:
    entry = find_entry(name)
    if entry is None:
        raise LookupError(f"{name} is not in the catalog that unetinspect comes with")
    return entry.config


def _host(adapter: Config) -> str | None:
    """Return the name of the bundled UNet with the adapter's channels."""
    channels = adapter["block_out_channels"]
    return next((name for name in _HOSTS if is_list(channels) and list(channels) == _unet_config(name)["block_out_channels"]), None)


def _no_host(adapter: Config) -> str:
    hosts = " or ".join(f"{_unet_config(name)['block_out_channels']} ({name})" for name in _HOSTS)
    channels = adapter["block_out_channels"]
    return f"block_out_channels is {list(channels) if is_list(channels) else channels!r}, and must be {hosts}"


def _misfits(adapter: Config, host: str) -> Iterator[str]:
    """Find what keeps the adapter's weights from being built, or from being loaded into the UNet."""
    unet = _unet_config(host)
    channels, layers = list(adapter["block_out_channels"]), unet["layers_per_block"]
    given = adapter["motion_layers_per_block"]
    if per_block(given, len(channels)) != per_block(layers, len(channels)):
        yield f"motion_layers_per_block is {given!r}, and must be the layers_per_block of {host}, {layers}"
    yield from _depths(adapter, len(channels))
    heads = adapter["motion_num_attention_heads"]
    if is_list(heads) and len(heads) != len(channels):
        yield f"motion_num_attention_heads has {len(heads)} entries, and must have one for each of the {len(channels)} block_out_channels"
    groups = adapter["motion_norm_num_groups"]
    if not is_count(groups) or any(channel % groups for channel in channels):
        yield f"motion_norm_num_groups is {groups!r}, and must divide the block_out_channels {channels}"
    picture = adapter["conv_in_channels"]
    if picture and not (is_count(picture) and picture >= unet["in_channels"]):
        yield f"conv_in_channels is {picture!r}, and must be a whole number from the {unet['in_channels']} in_channels of {host} on"


def _depths(adapter: Config, blocks: int) -> Iterator[str]:
    key = "motion_transformer_layers_per_block"
    depths = adapter[key]
    if is_list(depths) and len(depths) < blocks:
        yield f"{key} has {len(depths)} entries, and must have one for each of the {blocks} block_out_channels"
    elif not all(_is_depth(depth) for depth in per_block(depths, blocks)):
        # A list for a block would have to be as long as its layers, and one longer on the way up.
        yield f"{key} is {depths!r}, and must be a whole number or a list of one for each block"
    mid, layers = adapter["motion_transformer_layers_per_mid_block"], adapter["motion_mid_block_layers_per_block"]
    if adapter["use_motion_mid_block"] and layers != 1:
        yield f"motion_mid_block_layers_per_block is {layers!r}, and must be 1: the mid block of a UNetMotionModel has one layer"
    if not all(_is_depth(depth) for depth in per_block(mid, 1)) or (is_list(mid) and len(mid) != layers):
        yield f"motion_transformer_layers_per_mid_block is {mid!r}, and must be a whole number, or one for each of its {layers} layers"


def _is_depth(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _in_unet(adapter: Config, unet: Config) -> dict[str, Any]:
    """Return the config that `from_unet2d` would build of a UNet and the adapter."""
    kinds = {
        key: [f"CrossAttn{way}BlockMotion" if "CrossAttn" in kind else f"{way}BlockMotion" for kind in unet[key]]
        for key, way in (("down_block_types", "Down"), ("up_block_types", "Up"))
    }
    return {
        "_class_name": "UNetMotionModel",
        **{key: unet[key] for key in _FROM_UNET if key in unet},
        **kinds,
        **{key: adapter[name] for key, name in _FROM_ADAPTER.items()},
        "num_attention_heads": unet.get("num_attention_heads") or unet["attention_head_dim"],
        "in_channels": adapter["conv_in_channels"] or unet["in_channels"],
    }
