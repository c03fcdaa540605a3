"""`MotionAdapter`: the motion modules of AnimateDiff alone, which run in the UNet that they are put into.

Source: `UNetMotionModel.from_unet2d` of diffusers' `unet_motion_model.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from unetinspect.catalog import find_entry
from unetinspect.errors import ConfigError, Problem
from unetinspect.unets.base import Adapted, Config, is_list, per_block
from unetinspect.unets.video import VideoBuilder

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


class MotionAdapterInputs(VideoBuilder):
    """None of its own: `adapted` puts it into a UNet."""

    class_name = "MotionAdapter"
    what = "motion modules of AnimateDiff, in Stable Diffusion 1.5 or SDXL"
    pipeline = "AnimateDiffPipeline"

    def args(self, config: Config) -> NoReturn:
        raise ConfigError("a MotionAdapter has no forward of its own", hint=_IN_ITS_UNET)

    def adapted(self, config: Config) -> Adapted:
        """Return the `UNetMotionModel` that the adapter makes of the bundled UNet with its channels.

        Raises:
            ConfigError: No bundled UNet has its channels, or it does not fit the one that has.
        """
        adapter = {**_DEFAULTS, **config}
        hosts = {name: _unet_config(name) for name in _HOSTS}
        channels = adapter["block_out_channels"]
        host = next((name for name in hosts if is_list(channels) and list(channels) == hosts[name]["block_out_channels"]), None)
        problems = _misfits(adapter, host, hosts[host]) if host else [_no_host(channels, hosts)]
        if host is None or problems:
            raise ConfigError("a MotionAdapter has no forward of its own, and fits no bundled UNet:", problems=problems, hint=_IN_ITS_UNET)
        note = f"a MotionAdapter has no forward of its own: it was put into {host}, the bundled UNet with its block_out_channels"
        return Adapted(_in_unet(adapter, hosts[host]), (note,))


def _unet_config(name: str) -> Config:
    entry = find_entry(name)
    if entry is None:
        raise LookupError(f"{name} is not in the catalog that unetinspect comes with")
    return entry.config


def _no_host(channels: Any, hosts: Mapping[str, Config]) -> Problem:
    of_hosts = " or ".join(f"{unet['block_out_channels']} ({name})" for name, unet in hosts.items())
    return Problem(("block_out_channels",), f"block_out_channels is {channels!r}; the bundled UNets have {of_hosts}")


def _misfits(adapter: Config, host: str, unet: Config) -> list[Problem]:
    """Find what keeps the adapter's modules from being built, or its weights from being loaded into the UNet."""
    channels, layers, mid_layers = unet["block_out_channels"], unet["layers_per_block"], adapter["motion_mid_block_layers_per_block"]
    blocks = len(channels)
    depths, heads = (per_block(adapter[f"motion_{key}"], blocks) for key in ("transformer_layers_per_block", "num_attention_heads"))
    mid_depths, groups, picture = (
        adapter[key] for key in ("motion_transformer_layers_per_mid_block", "motion_norm_num_groups", "conv_in_channels")
    )
    one_each = "it takes a whole number, or a list with one for each {} ({})"
    fits = {
        "motion_layers_per_block": per_block(adapter["motion_layers_per_block"], blocks) == per_block(layers, blocks),
        # A list of depths for one block would have to be longer on the way up.
        "motion_transformer_layers_per_block": len(depths) >= blocks and all(isinstance(depth, int) for depth in depths),
        "motion_num_attention_heads": len(heads) == blocks,
        "motion_norm_num_groups": isinstance(groups, int) and groups > 0 and not any(width % groups for width in channels),
        "motion_mid_block_layers_per_block": mid_layers == 1 or not adapter["use_motion_mid_block"],
        "motion_transformer_layers_per_mid_block": all(isinstance(depth, int) for depth in per_block(mid_depths, 1))
        and (not is_list(mid_depths) or len(mid_depths) == mid_layers),
        "conv_in_channels": not picture or (isinstance(picture, int) and picture >= unet["in_channels"]),
    }
    wanted = {
        "motion_layers_per_block": f"{host} has {layers} layers in each block",
        "motion_transformer_layers_per_block": one_each.format("block", blocks),
        "motion_num_attention_heads": one_each.format("block", blocks),
        "motion_norm_num_groups": f"it must divide the block_out_channels {channels}",
        "motion_mid_block_layers_per_block": "the mid block of a UNetMotionModel has 1 layer",
        "motion_transformer_layers_per_mid_block": one_each.format("layer", mid_layers),
        "conv_in_channels": f"it must be at least {unet['in_channels']}, the in_channels of {host}",
    }
    return [Problem((key,), f"{key} is {adapter[key]!r}; {wanted[key]}", {key: _DEFAULTS[key]}) for key in fits if not fits[key]]


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
