"""Config keys that a class does not have: what they are elsewhere, and which key of the class they may be meant for.

Sources: `UNetModel` and `Model` of CompVis's latent-diffusion and Stability's generative-models, `create_model` of OpenAI's
guided-diffusion, scripts/change_naming_configs_and_checkpoints.py and `EMAModel.state_dict` of diffusers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from unetinspect.errors import nearest_names
from unetinspect.units import joined

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
        "use_scale_shift_norm": "true is resnet_time_scale_shift=scale_shift",
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
    """

    key: str
    origin: str = ""
    meant: str | None = None

    def sentence(self, class_name: str) -> str:
        """Say that the class does not have it, and what it is elsewhere, else what it may be meant for."""
        detail = self.origin or (f"did you mean {self.meant}?" if self.meant else "")
        return f"{self.key} is not a key of {class_name}" + (f": {detail}" if detail else "")


def explain_key(key: str, own: Collection[str], classes: Mapping[str, Collection[str]] | None = None) -> UnknownKey:
    """Explain a key that a class, whose `own` keys are these, does not have; `classes` has the keys of all classes."""
    if key in _FOREIGN:
        owner, instead = _FOREIGN[key]
        if instead in own:
            return UnknownKey(key, f"the name of {instead} in {owner}", instead)
        return UnknownKey(key, f"a key of {owner}" + (f"; {instead}" if " " in instead else ""))
    others = [name for name, keys in (classes or {}).items() if key in keys]
    if others:
        named = others[:_MOST_CLASSES] + (["others"] if len(others) > _MOST_CLASSES else [])
        return UnknownKey(key, f"a key of {joined(named)}")
    return UnknownKey(key, meant=next(iter(nearest_names(key, own, count=1)), None))


def harmless_keys(unknown: Collection[str]) -> dict[str, str]:
    """Return those of the unknown keys that diffusers' own tools leave in a config and no UNet reads, with their meaning."""
    # Words as plain as "power" are EMAModel's only in its company.
    of_ema = _OF_EMA if {"decay", "optimization_step"} <= set(unknown) else ()
    meanings = {**_HARMLESS, **dict.fromkeys(of_ema, "left by EMAModel; no UNet reads it")}
    return {key: meanings[key] for key in unknown if key in meanings}
