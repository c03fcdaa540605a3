"""Keys of other libraries' UNets, of older diffusers and of other kinds of models, as they turn up in configs.

Sources: `UNetModel` and `Model` of CompVis's latent-diffusion and Stability's generative-models, `create_model` of OpenAI's
guided-diffusion, scripts/change_naming_configs_and_checkpoints.py and `EMAModel.state_dict` of diffusers.
"""

from __future__ import annotations

from typing import NamedTuple


class ForeignKey(NamedTuple):
    """A key that another library, or an older diffusers, has.

    Attributes:
        owner: Whose it is.
        here: The key that holds the same today, "": none does.
        meaning: What to use instead where no key holds the same.
    """

    owner: str
    here: str = ""
    meaning: str = ""


def _of(owner: str, **keys: str) -> dict[str, ForeignKey]:
    return {key: ForeignKey(owner, here) for key, here in keys.items()}


def _without(owner: str, *names: str, **keys: str) -> dict[str, ForeignKey]:
    return {**{key: ForeignKey(owner) for key in names}, **{key: ForeignKey(owner, meaning=meaning) for key, meaning in keys.items()}}


_LDM = "the UNet of OpenAI and LDM"
_DDPM = "the original DDPM code"
_BLOCKS = "here down_block_types and up_block_types decide it"
_CONVOLUTIONS = "here down- and upsamplers always have convolutions"

FOREIGN_KEYS: dict[str, ForeignKey] = {
    **_of(
        "early diffusers",
        block_channels="block_out_channels",
        down_blocks="down_block_types",
        up_blocks="up_block_types",
        resnet_num_groups="norm_num_groups",
        resnet_act_fn="act_fn",
        resnet_eps="norm_eps",
        downscale_freq_shift="freq_shift",
    ),
    **_of(
        _LDM,
        image_size="sample_size",
        num_res_blocks="layers_per_block",
        context_dim="cross_attention_dim",
        num_classes="num_class_embeds",
        adm_in_channels="projection_class_embeddings_input_dim",
        use_linear_in_transformer="use_linear_projection",
        transformer_depth="transformer_layers_per_block",
    ),
    **_of(_DDPM, resolution="sample_size", out_ch="out_channels"),
    **_without(
        _LDM,
        *("use_new_attention_order", "legacy"),
        num_heads="attention_head_dim in a UNet2DConditionModel",
        num_head_channels="attention_head_dim in a UNet2DModel; a UNet2DConditionModel has the number of heads there",
        model_channels="block_out_channels has multiples of it",
        channel_mult="channel_mult times model_channels is block_out_channels",
        attention_resolutions=_BLOCKS,
        use_spatial_transformer=_BLOCKS,
        use_scale_shift_norm="true is resnet_time_scale_shift=scale_shift",
        resblock_updown="true is ResnetDownsampleBlock2D and ResnetUpsampleBlock2D as block types",
        conv_resample=_CONVOLUTIONS,
        dims="here the class decides it",
        num_heads_upsample="here up blocks have the heads of the down blocks",
        use_checkpoint="here a method, enable_gradient_checkpointing()",
        use_fp16="here torch_dtype, when the model is loaded",
        disable_self_attentions="here only_cross_attention",
        transformer_depth_middle="here the last entry of transformer_layers_per_block",
        spatial_transformer_attn_type="here an attention processor",
        hint_channels="here conditioning_channels of ControlNetModel",
    ),
    **_without(
        _DDPM,
        ch="block_out_channels has multiples of it",
        ch_mult="ch_mult times ch is block_out_channels",
        attn_resolutions=_BLOCKS,
        resamp_with_conv=_CONVOLUTIONS,
    ),
    **_without("the VAE, which has a config of its own", "latent_channels", "scaling_factor", "double_z", "z_channels"),
    **_without("the scheduler, which has a config of its own", "beta_start", "beta_end", "beta_schedule", "prediction_type"),
}

_BY_EMA = "left by EMAModel; no UNet reads it"
EMA_KEYS: dict[str, str] = dict.fromkeys(
    ("decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power"), _BY_EMA
)
UNREAD_KEYS: dict[str, str] = {
    "quantization_config": "how the weights were quantized; shapes here are those before quantization",
    "auto_map": "where AutoModel finds custom code; no UNet reads it",
    "torch_dtype": "dtype of the saved weights; no UNet reads it",
    "dtype": "dtype of the saved weights; no UNet reads it",
}
