"""Config keys that a class does not have: what they are elsewhere, and which key of the class they may be meant for.

Sources: `UNetModel` and `Model` of CompVis's latent-diffusion and Stability's generative-models, `create_model` of OpenAI's
guided-diffusion, scripts/change_naming_configs_and_checkpoints.py, `StableCascadeUnet` of the first release of Stable Cascade and
`EMAModel.state_dict` of diffusers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from difflib import SequenceMatcher
from types import MappingProxyType
from typing import Any, NamedTuple

from unetinspect.errors import Problem
from unetinspect.unets.builder import is_list
from unetinspect.units import format_value, joined

_MOST_CLASSES = 3
_BLOCKS = "here down_block_types and up_block_types decide it"
_CONVOLUTIONS = "here down- and upsamplers always have convolutions"
# Whose keys they are; for each the key of the same meaning in diffusers, else what to use instead, "" where there is nothing.
_OWNERS: dict[str, dict[str, str]] = {
    "early diffusers": {
        "block_channels": "block_out_channels",
        "down_blocks": "down_block_types",
        "up_blocks": "up_block_types",
        "resnet_num_groups": "norm_num_groups",
        "resnet_act_fn": "act_fn",
        "resnet_eps": "norm_eps",
        "downscale_freq_shift": "freq_shift",
    },
    "the UNet of OpenAI and LDM": {
        "image_size": "sample_size",
        "num_res_blocks": "layers_per_block",
        "context_dim": "cross_attention_dim",
        "num_classes": "num_class_embeds",
        "adm_in_channels": "projection_class_embeddings_input_dim",
        "use_linear_in_transformer": "use_linear_projection",
        "transformer_depth": "transformer_layers_per_block",
        "use_new_attention_order": "",
        "legacy": "",
        "num_heads": "attention_head_dim in a UNet2DConditionModel",
        "num_head_channels": "attention_head_dim in a UNet2DModel; a UNet2DConditionModel has the number of heads there",
        "model_channels": "block_out_channels has multiples of it",
        "channel_mult": "channel_mult times model_channels is block_out_channels",
        "attention_resolutions": _BLOCKS,
        "use_spatial_transformer": _BLOCKS,
        "resblock_updown": "true is ResnetDownsampleBlock2D and ResnetUpsampleBlock2D as block types",
        "conv_resample": _CONVOLUTIONS,
        "dims": "here the class decides it",
        "num_heads_upsample": "here up blocks have the heads of the down blocks",
        "use_checkpoint": "here a method, enable_gradient_checkpointing()",
        "use_fp16": "here torch_dtype, when the model is loaded",
        "disable_self_attentions": "here only_cross_attention",
        "transformer_depth_middle": "here the last entry of transformer_layers_per_block",
        "spatial_transformer_attn_type": "here an attention processor",
        "hint_channels": "here conditioning_channels of ControlNetModel",
    },
    "the original DDPM code": {
        "resolution": "sample_size",
        "out_ch": "out_channels",
        "ch": "block_out_channels has multiples of it",
        "ch_mult": "ch_mult times ch is block_out_channels",
        "attn_resolutions": _BLOCKS,
        "resamp_with_conv": _CONVOLUTIONS,
    },
    "the VAE, which has a config of its own": dict.fromkeys(("latent_channels", "scaling_factor", "double_z", "z_channels"), ""),
    "the scheduler, which has a config of its own": dict.fromkeys(("beta_start", "beta_end", "beta_schedule", "prediction_type"), ""),
}
# Switches of others, and the value of a key here that is the same as true.
_SWITCHES = {
    "use_gated_attention": ("attention_type", "gated"),
    "use_scale_shift_norm": ("resnet_time_scale_shift", "scale_shift"),
}
_CASCADE = {
    "c_in": "in_channels",
    "c_out": "out_channels",
    "c_r": "timestep_ratio_embedding_dim",
    "c_cond": "conditioning_dim",
    "c_hidden": "block_out_channels",
    "nhead": "num_attention_heads",
    "level_config": "block_types_per_layer",
    "c_clip_text": "clip_text_in_channels",
    "c_clip_text_pooled": "clip_text_pooled_in_channels",
    "c_clip_img": "clip_image_in_channels",
    "c_clip_seq": "clip_seq",
    "c_effnet": "effnet_in_channels",
    "c_pixels": "pixel_mapper_in_channels",
    "t_conds": "timestep_conditioning_type",
}
# Lists of two, for the way down and the way up.
_CASCADE_PAIRS = {
    "blocks": ("down_num_layers_per_block", "up_num_layers_per_block"),
    "block_repeat": ("down_blocks_repeat_mappers", "up_blocks_repeat_mappers"),
}
_CASCADE_LAYERS = {"C": "SDCascadeResBlock", "T": "SDCascadeTimestepBlock", "A": "SDCascadeAttnBlock"}
_FIRST_CASCADE = "the first release of Stable Cascade"
# How much of two names, word for word, and how much of two words must be alike.
_LIKE_NAMES, _LIKE_WORDS = 0.35, 0.8
_FOREIGN = {key: (owner, instead) for owner, keys in _OWNERS.items() for key, instead in keys.items()}
_OF_EMA = ("decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power")
_HARMLESS = {
    "quantization_config": "how the weights were quantized; shapes here are those before quantization",
    "auto_map": "where AutoModel finds custom code; no UNet reads it",
    "torch_dtype": "dtype of the saved weights; no UNet reads it",
    "dtype": "dtype of the saved weights; no UNet reads it",
}


class UnknownKey(NamedTuple):
    """A config key that a class does not have.

    Attributes:
        key: The key.
        origin: What it is elsewhere: "a key of UNet2DModel"; "" where that is unknown.
        meant: The key of the class that it may be meant for.
        change: The keys to set instead, each with its value.
    """

    key: str
    origin: str = ""
    meant: str | None = None
    change: Mapping[str, Any] = MappingProxyType({})

    def sentence(self, class_name: str) -> str:
        """Say that the class does not have it, and what it is elsewhere, else what it may be meant for."""
        detail = self.origin or (f"did you mean {self.meant}?" if self.meant else "")
        return f"{self.key} is not a key of {class_name}" + (f": {detail}" if detail else "")

    def advice(self, given: Collection[str]) -> str:
        """Say what to do about it in a config with the `given` keys: what it was meant for is never just left out."""
        if self.meant is not None and self.meant in given:
            return f"remove it: {self.meant} is set too" if self.origin else f"{self.meant} is similar, and set too"
        if self.change:
            return Problem((self.key,), "", self.change).options
        return f"did you mean {self.meant}?" if self.meant else "remove it" if self.origin else "diffusers ignores it"


def explain_key(
    key: str, own: Mapping[str, Any], classes: Mapping[str, Collection[str]] | None = None, *, given: Mapping[str, Any]
) -> UnknownKey:
    """Explain a key that a class does not have: `own` has the keys of the class, each with its default or value.

    `classes` has the keys of all classes; `given` is the config as it was written.
    """
    value = given.get(key)
    if key in _SWITCHES and (switched := _SWITCHES[key])[0] in own:
        change = {switched[0]: switched[1]} if value is True else {}
        return UnknownKey(key, f"true is {switched[0]}: {format_value(switched[1])}", change=change)
    if "block_types_per_layer" in own and key in (*_CASCADE, *_CASCADE_PAIRS):
        change = _of_cascade(key, value)
        return UnknownKey(key, f"the name of {joined(change)} in {_FIRST_CASCADE}", next(iter(change)), change if key in given else {})
    if key in _FOREIGN:
        owner, instead = _FOREIGN[key]
        if instead in own:
            return UnknownKey(key, f"the name of {instead} in {owner}", instead)
        return UnknownKey(key, f"a key of {owner}" + (f"; {instead}" if " " in instead else ""))
    others = [name for name, keys in (classes or {}).items() if key in keys]
    if others:
        named = others[:_MOST_CLASSES] + (["others"] if len(others) > _MOST_CLASSES else [])
        return UnknownKey(key, f"a key of {joined(named)}")
    likeness = {name: _likeness(key, name, own) for name in own if key not in given or _same_type(value, own[name])}
    meant = max(likeness, key=likeness.__getitem__, default=None)
    return UnknownKey(key, meant=meant if meant is not None and likeness[meant] > (_LIKE_NAMES, 0) else None)


def _likeness(key: str, name: str, names: Collection[str]) -> tuple[float, float]:
    """Return which share of two names' words is shared, and how similar the two are letter for letter.

    A word that many names have counts the less; a shared one may be misspelt.

    >>> names = ["use_linear_projection", "upcast_attention", "attention_type", "attention_head_dim"]
    >>> [_likeness(key, name, names)[0] for key, name in (("linear_projecton", names[0]), ("gated_attention", names[1]))]
    [0.6666666666666666, 0.14285714285714285]
    """

    def ratio(one: str, other: str) -> float:
        return SequenceMatcher(None, one.lower(), other.lower()).ratio()

    def weight(word: str) -> float:
        return 1 / max(sum(word in each.split("_") for each in names), 1)

    words, others = key.split("_"), name.split("_")
    shared = {other for other in others if any(ratio(word, other) >= _LIKE_WORDS for word in words)}
    single = [word for word in words if not any(ratio(word, other) >= _LIKE_WORDS for other in others)]
    total = sum(map(weight, {*others, *single}))
    return sum(map(weight, shared)) / total, ratio(key, name)


def _same_type(value: Any, default: Any) -> bool:
    """Whether a value is of the type of a default: numbers are of one type, a list is of that of its entries, and null of any."""

    def types(of: Any) -> set[str]:
        if is_list(of):
            return {kind for item in of for kind in types(item)}
        return {"number" if isinstance(of, int | float) and not isinstance(of, bool) else type(of).__name__} - {"NoneType"}

    return not types(value) or not types(default) or types(value) <= types(default)


def _of_cascade(key: str, value: Any) -> dict[str, Any]:
    """Return the keys and values of today for one of the first release of Stable Cascade."""
    if key in _CASCADE_PAIRS:
        pair = value if is_list(value) and len(value) == 2 else (value, value)
        return dict(zip(_CASCADE_PAIRS[key], pair, strict=True))
    if key == "level_config" and is_list(value):
        value = [[_CASCADE_LAYERS.get(str(layer), layer) for layer in level] if isinstance(level, Sequence) else level for level in value]
    return {_CASCADE[key]: value}


def from_first_cascade(config: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Translate a config of the first release of Stable Cascade; returns it and what was renamed."""
    found, renamed = {**config, "_class_name": "StableCascadeUNet"}, []
    for key in config:
        if key in (*_CASCADE, *_CASCADE_PAIRS):
            change = _of_cascade(key, found.pop(key))
            found.update(change)
            renamed.append(f"{key} to {joined(change)}")
    return found, tuple(renamed)


def harmless_keys(unknown: Collection[str]) -> dict[str, str]:
    """Return those of the unknown keys that diffusers' own tools leave in a config and no UNet reads, with their meaning."""
    # Words as plain as "power" are EMAModel's only in its company.
    of_ema = _OF_EMA if {"decay", "optimization_step"} <= set(unknown) else ()
    meanings = {**_HARMLESS, **dict.fromkeys(of_ema, "left by EMAModel; no UNet reads it")}
    return {key: meanings[key] for key in unknown if key in meanings}
