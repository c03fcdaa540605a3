"""The UNets of CompVis's and Stability's code and of guided-diffusion, as configs of diffusers' classes.

Sources: `UNetModel` in ldm/ and sgm/modules/diffusionmodules/openaimodel.py, `VideoUNet` in sgm's video_model.py, `create_model` in
guided-diffusion's script_util.py; `create_unet_diffusers_config_from_ldm` in diffusers' loaders/single_file_utils.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from unetinspect.errors import ConfigError
from unetinspect.units import format_value, joined

Config = dict[str, Any]

_TARGETS = re.compile(r"(?:.*\.)?(?:openaimodel\.UNetModel|video_model\.VideoUNet|cldm\.ControlledUnetModel)")
# guided-diffusion's own defaults, and its multiples of the channels for each size of the image.
_FLAGS = {"num_channels", "num_res_blocks", "attention_resolutions"}
_DEFAULTS = {"image_size": 64, "num_heads": 4, "use_scale_shift_norm": True}
_MULTIPLES = {512: [0.5, 1, 1, 2, 2, 4, 4], 256: [1, 1, 2, 2, 4, 4], 128: [1, 1, 2, 3, 4], 64: [1, 2, 3, 4]}
_TEXT_TIME_WIDTHS = (2048, 1280)  # of SDXL's texts: diffusers' converter tells SDXL by them too
# What diffusers has in one form alone: the value of each that is that form.
_FIXED = {
    "dims": (2,),
    "conv_resample": (True,),
    "num_heads_upsample": (-1,),
    "n_embed": (None,),
    "num_attention_blocks": (None,),
    "disable_middle_transformer": (False,),
    "merge_strategy": ("learned_with_images",),
    "video_kernel_size": ([3, 1, 1], 3),
    "extra_ff_mix_layer": (True,),
    "use_spatial_context": (True,),
}
# What changes no layer: how it is computed and stored, and the sampler's and the loss's flags beside it.
_WITHOUT_EFFECT = ("use_checkpoint", "use_fp16", "use_bf16", "legacy", "spatial_transformer_attn_type", "use_new_attention_order")


def translated(node: Mapping[str, Any], where: str) -> tuple[str, Config, tuple[str, ...]] | None:
    """Translate a mapping with the `target` and `params` of a UNet, or with guided-diffusion's flags.

    Returns what it is, the config, and the keys that were not translated; None: it is neither.

    Raises:
        ConfigError: diffusers has no UNet like it.
    """
    target, params = str(node.get("target")), node.get("params")
    try:
        if node.keys() >= _FLAGS:
            return "guided-diffusion's flags", *_from_flags(node)
        if isinstance(params, dict) and _TARGETS.fullmatch(target):
            return target, *_from_ldm(params, target)
    except ConfigError:
        raise
    except Exception as error:  # the values may be anything
        raise ConfigError(f"{where}: not the arguments of a UNet: {error!r}", hint="give the config.json of a UNet") from None
    if isinstance(params, dict) and "model_channels" in params and "hint_channels" not in params:
        raise ConfigError(f"{where} is a {target}, which no class of diffusers can build", hint="see `unetinspect models --classes`")
    return None


def _from_flags(values: Mapping[str, Any]) -> tuple[Config, tuple[str, ...]]:
    if of_text := [key for key in ("xf_width", "text_ctx", "clip_dim") if key in values]:
        raise _no_equal(f"guided-diffusion's blocks and a text encoder of its own ({joined(of_text)})", "neither together")
    size, names = {**_DEFAULTS, **values}["image_size"], ("num_channels", "learn_sigma", "class_cond", "model_path")
    params = {**_DEFAULTS, **{key: value for key, value in values.items() if key not in names}}
    params["in_channels"] = values.get("in_channels", 3)
    params["out_channels"] = values.get("out_channels", 6 if values.get("learn_sigma") else 3)
    params["model_channels"] = values["num_channels"]
    params["channel_mult"] = _numbers(values.get("channel_mult") or "") or _MULTIPLES.get(size)
    params["attention_resolutions"] = [size // side for side in map(int, _numbers(values["attention_resolutions"]))]
    params["num_classes"] = 1000 if values.get("class_cond") else None
    return _from_ldm(params, "guided_diffusion.unet.UNetModel")[0], ()  # beside them are those of the sampler


def _numbers(value: Any) -> list[float]:
    """Read "32,16,8", 16 or a list."""
    return [float(each) if "." in each else int(each) for each in re.findall(r"\d+\.?\d*", str(value))]


def _from_ldm(params: Mapping[str, Any], target: str) -> tuple[Config, tuple[str, ...]]:
    """Translate the arguments of a `UNetModel` or `VideoUNet`; raises anything where they make no sense."""
    read = dict(params)
    take, is_video = read.pop, "VideoUNet" in target
    base, multiples, scales = take("model_channels"), take("channel_mult", None) or [1, 2, 4, 8], take("attention_resolutions")
    channels = [int(base * multiple) for multiple in multiples]
    crosses = [2**level in (scales if isinstance(scales, list) else [scales]) for level in range(len(channels))]
    config: Config = {key: take(key) for key in ("in_channels", "out_channels")}
    config |= {"block_out_channels": channels, "layers_per_block": take("num_res_blocks")}
    config |= {key: read.pop(name) for name, key in (("image_size", "sample_size"), ("dropout", "dropout")) if read.get(name)}
    heads, width = take("num_heads", -1), take("num_head_channels", -1)
    context, depth = take("context_dim", None), take("transformer_depth", None) or 1
    context = context[0] if isinstance(context, list) and context else context
    has_transformers = take("use_spatial_transformer", target.startswith("sgm.") or context is not None)
    scale_shift, resampling = take("use_scale_shift_norm", False), take("resblock_updown", False)
    config |= {"resnet_time_scale_shift": "scale_shift"} if scale_shift else {}
    if has_transformers:
        config |= _with_transformers(read, crosses, context, depth, is_video=is_video)
        per_level = [level // width for level in channels] if width not in (-1, None) else [heads]
        key = "num_attention_heads" if is_video else "attention_head_dim"
        config[key] = per_level[0] if len(set(per_level)) == 1 else per_level
    else:
        attended = {level for level, has_attention in zip(channels, crosses, strict=True) if has_attention} | {channels[-1]}
        widths = {width} if width not in (-1, None) else {level // heads for level in attended}
        if len(widths) > 1:
            raise _no_equal(f"{heads} attention heads at every level, {joined(sorted(widths))} channels wide", "one width for all heads")
        config |= _with_plain_attention(crosses, widths.pop(), scale_shift=scale_shift, resampling=resampling)
    if resampling and has_transformers:
        raise _no_equal("resblock_updown beside transformers", "convolutions there")
    config |= _labels(read, context, config["_class_name"])
    for key, forms in _FIXED.items():
        if (value := read.pop(key, forms[0])) not in forms:
            raise _no_equal(f"{key} {format_value(value)}", f"{format_value(forms[0])} alone")
    return config, tuple(key for key in read if key not in _WITHOUT_EFFECT)


def _with_transformers(read: Config, crosses: list[bool], context: Any, depth: Any, *, is_video: bool) -> Config:
    if context is None:
        raise _no_equal("transformers without a context_dim", "transformers that read a text")
    way = "BlockSpatioTemporal" if is_video else "Block2D"
    middle, last = read.pop("transformer_depth_middle", None), depth[-1] if isinstance(depth, list) else depth
    if middle not in (None, last):
        raise _no_equal(f"transformer_depth_middle {middle}", f"the depth of the last level, {last}")
    config: Config = {
        "_class_name": "UNetSpatioTemporalConditionModel" if is_video else "UNet2DConditionModel",
        "down_block_types": [f"{'CrossAttn' if crosses_here else ''}Down{way}" for crosses_here in crosses],
        "up_block_types": [f"{'CrossAttn' if crosses_here else ''}Up{way}" for crosses_here in reversed(crosses)],
        "cross_attention_dim": context,
        "transformer_layers_per_block": depth,
    }
    linear, own = read.pop("use_linear_in_transformer", False), read.pop("disable_self_attentions", None)
    config |= {} if is_video else {"use_linear_projection": linear, "only_cross_attention": own or False}
    config |= {"mid_block_only_cross_attention": True} if read.pop("disable_middle_self_attn", False) else {}
    return config


def _with_plain_attention(crosses: list[bool], width: int, *, scale_shift: bool, resampling: bool) -> Config:
    down, up = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if resampling else ("DownBlock2D", "UpBlock2D")
    sampler = "resnet" if resampling else "conv"
    return {
        "_class_name": "UNet2DModel",
        "down_block_types": ["AttnDownBlock2D" if attends else down for attends in crosses],
        "up_block_types": ["AttnUpBlock2D" if attends else up for attends in reversed(crosses)],
        "attention_head_dim": width,
        "downsample_type": sampler,
        "upsample_type": sampler,
        **({"attn_norm_num_groups": 32} if scale_shift else {}),  # else the attention of the mid block has no norm
    }


def _labels(read: Config, context: Any, class_name: str) -> Config:
    """Return what embeds class labels, or SDXL's pooled text and sizes."""
    classes, width = read.pop("num_classes", None), read.pop("adm_in_channels", None)
    if classes is None:
        return {}
    if isinstance(classes, int):
        return {"num_class_embeds": classes}
    if classes == "timestep":
        return {"class_embed_type": "timestep"}
    if classes != "sequential" or class_name == "UNet2DModel":
        raise _no_equal(f"num_classes {format_value(classes)}", "no such embedding")
    if class_name != "UNet2DConditionModel":
        return {"addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": width}
    if context in _TEXT_TIME_WIDTHS:
        added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
    else:
        added = {"class_embed_type": "projection"}
    return {**added, "projection_class_embeddings_input_dim": width}


def _no_equal(what: str, instead: str) -> ConfigError:
    return ConfigError(f"an LDM UNet that no class of diffusers can build: it has {what}; diffusers has {instead}")
