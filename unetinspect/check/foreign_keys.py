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
        meaning: What it stands for where no key does.
    """

    owner: str
    here: str = ""
    meaning: str = ""


_OLD = "an early diffusers"
_LDM = "the UNet of OpenAI and of latent-diffusion"
_DDPM = "the first DDPM code"


def _of(owner: str, **keys: str) -> dict[str, ForeignKey]:
    return {key: ForeignKey(owner, here) for key, here in keys.items()}


def _without(owner: str, **keys: str) -> dict[str, ForeignKey]:
    return {key: ForeignKey(owner, meaning=meaning) for key, meaning in keys.items()}


FOREIGN_KEYS: dict[str, ForeignKey] = {
    **_of(
        _OLD,
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
        num_heads="and in a UNet2DConditionModel it is attention_head_dim",
        num_head_channels="and in a UNet2DModel it is attention_head_dim; a UNet2DConditionModel has the number of heads there",
        model_channels="where it holds the channels that block_out_channels are multiples of",
        channel_mult="and times model_channels it is block_out_channels",
        attention_resolutions="which down_block_types and up_block_types say here",
        use_spatial_transformer="which down_block_types and up_block_types say here",
        use_scale_shift_norm="and true is resnet_time_scale_shift 'scale_shift'",
        resblock_updown="and true is ResnetDownsampleBlock2D and ResnetUpsampleBlock2D in the block types",
        conv_resample="and no key here: the blocks' samplers have convolutions",
        dims="and here the class says how many dimensions there are",
        num_heads_upsample="and no key here: up blocks have the heads of the down blocks",
        use_new_attention_order="and no key here",
        use_checkpoint="and here a method, enable_gradient_checkpointing",
        use_fp16="and here torch_dtype, as the model is loaded",
        legacy="and no key here",
        disable_self_attentions="and here only_cross_attention",
        transformer_depth_middle="and here the last of transformer_layers_per_block",
        spatial_transformer_attn_type="and here an attention processor",
        hint_channels="and here conditioning_channels, of ControlNetModel",
    ),
    **_without(
        _DDPM,
        ch="where it holds the channels that block_out_channels are multiples of",
        ch_mult="and times ch it is block_out_channels",
        attn_resolutions="which down_block_types and up_block_types say here",
        resamp_with_conv="and no key here: the blocks' samplers have convolutions",
    ),
    **_without(
        "the VAE",
        latent_channels="whose config stands beside the UNet's",
        scaling_factor="whose config stands beside the UNet's",
        double_z="whose config stands beside the UNet's",
        z_channels="whose config stands beside the UNet's",
    ),
    **_without(
        "the scheduler",
        beta_start="whose config stands beside the UNet's",
        beta_end="whose config stands beside the UNet's",
        beta_schedule="whose config stands beside the UNet's",
        prediction_type="whose config stands beside the UNet's",
    ),
}

_BY_EMA = "EMAModel keeps it in the config of the averaged weights; no UNet reads it"
EMA_KEYS: dict[str, str] = dict.fromkeys(
    ("decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power"), _BY_EMA
)
UNREAD_KEYS: dict[str, str] = {
    "quantization_config": "how the weights were packed into fewer bits; shapes here are those of the UNet before",
    "auto_map": "where AutoModel finds code of its own; no UNet reads it",
    "torch_dtype": "the dtype of the weights as they were saved; no UNet reads it",
    "dtype": "the dtype of the weights as they were saved; no UNet reads it",
}
