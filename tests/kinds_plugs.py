"""Small configs of what is plugged into a UNet, and of the UNet that has a ControlNet in it: one for each thing that they can ask for."""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]

CONTROLNET: Config = {
    "_class_name": "ControlNetModel",
    "in_channels": 4,
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
    "conditioning_embedding_out_channels": [8, 16],
}
UNION: Config = {
    **CONTROLNET,
    "_class_name": "ControlNetUnionModel",
    "addition_time_embed_dim": 8,
    "num_trans_channel": 32,
    "num_proj_channel": 32,
    "num_trans_head": 4,
    "num_control_type": 3,
}
XS: Config = {
    "_class_name": "UNetControlNetXSModel",
    "sample_size": 16,
    "block_out_channels": [32, 64],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 24,
    "num_attention_heads": 4,
    "norm_num_groups": 8,
    "ctrl_block_out_channels": [6, 10],
    "ctrl_num_attention_heads": 2,
    "ctrl_max_norm_num_groups": 4,
    "ctrl_conditioning_embedding_out_channels": [8, 16],
}
ADAPTER: Config = {"_class_name": "T2IAdapter", "channels": [8, 16, 32], "num_res_blocks": 1, "downscale_factor": 4}
_TEXT_TIME: Config = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 80,
}


def controlnet(**keys: Any) -> Config:
    """Return the small ControlNet with some keys replaced."""
    return {**CONTROLNET, **keys}


def union(**keys: Any) -> Config:
    """Return the small ControlNet-Union with some keys replaced."""
    return {**UNION, **keys}


def xs(**keys: Any) -> Config:
    """Return the small UNet with a ControlNet in it with some keys replaced."""
    return {**XS, **keys}


def adapter(**keys: Any) -> Config:
    """Return the small T2I-Adapter with some keys replaced."""
    return {**ADAPTER, **keys}


KINDS: dict[str, Config] = {
    "controlnet": CONTROLNET,
    "controlnet-text-time": controlnet(**_TEXT_TIME),
    "controlnet-text": controlnet(addition_embed_type="text", addition_embed_type_num_heads=2),
    "controlnet-text-image": controlnet(addition_embed_type="text_image"),
    "controlnet-text-proj": controlnet(encoder_hid_dim=12),
    "controlnet-text-alone": controlnet(
        down_block_types=["DownBlock2D", "DownBlock2D"],
        mid_block_type="UNetMidBlock2D",
        encoder_hid_dim=12,
        addition_embed_type="text",
        addition_embed_type_num_heads=3,
    ),
    "controlnet-without-text": controlnet(
        down_block_types=["DownBlock2D", "DownBlock2D"], mid_block_type="UNetMidBlock2D", cross_attention_dim=None
    ),
    "controlnet-self-attention-alone": controlnet(down_block_types=["DownBlock2D", "AttnDownBlock2D"], cross_attention_dim=None),
    "controlnet-mid-without-attention": controlnet(mid_block_type="UNetMidBlock2D"),
    "controlnet-simple-cross-attention": controlnet(
        down_block_types=["SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"], resnet_time_scale_shift="scale_shift"
    ),
    "controlnet-k-block": controlnet(down_block_types=["KCrossAttnDownBlock2D", "KDownBlock2D"], block_out_channels=[64, 64]),
    "controlnet-heads": controlnet(num_attention_heads=[2, 8], attention_head_dim=4),
    "controlnet-nested-depths": controlnet(layers_per_block=2, transformer_layers_per_block=[[1, 2], 3]),
    "controlnet-only-cross-attention": controlnet(only_cross_attention=[True, False], use_linear_projection=True),
    "controlnet-classes": controlnet(num_class_embeds=10),
    "controlnet-class-timestep": controlnet(class_embed_type="timestep"),
    "controlnet-class-identity": controlnet(class_embed_type="identity"),
    "controlnet-class-projection": controlnet(class_embed_type="projection", projection_class_embeddings_input_dim=12),
    "controlnet-class-ignored": controlnet(class_embed_type="simple_projection", num_class_embeds=10),
    "controlnet-pooled": controlnet(global_pool_conditions=True),
    "controlnet-small-image": controlnet(conditioning_embedding_out_channels=[8], conditioning_channels=1),
    "controlnet-large-image": controlnet(conditioning_embedding_out_channels=[4, 4, 8, 8], controlnet_conditioning_channel_order="bgr"),
    "controlnet-union": UNION,
    "controlnet-union-text-time": union(**_TEXT_TIME),
    "controlnet-union-text": union(addition_embed_type="text", addition_embed_type_num_heads=2, encoder_hid_dim=24),
    "controlnet-union-one-projection": union(num_proj_channel=1, num_trans_layer=2),
    "controlnet-union-without-transformer": union(num_trans_layer=0, num_trans_head=5),
    "controlnet-union-classes": union(num_class_embeds=10),
    "controlnet-xs": XS,
    "controlnet-xs-text-time": xs(**_TEXT_TIME),
    "controlnet-xs-own-time": xs(ctrl_learn_time_embedding=True, time_embedding_mix=0.5, time_cond_proj_dim=12),
    "controlnet-xs-lists": xs(
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        transformer_layers_per_block=[2, [1, 2, 1]],
        cross_attention_dim=[24, 24],
        num_attention_heads=[2, 4],
        ctrl_num_attention_heads=[1, 2],
        ctrl_conditioning_channel_order="bgr",
    ),
    "controlnet-xs-without-text": xs(cross_attention_dim=None),
    "controlnet-xs-three-blocks": xs(
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        block_out_channels=[16, 32, 32],
        ctrl_block_out_channels=[2, 7, 9],
        ctrl_num_attention_heads=1,
    ),
    "t2i-adapter": ADAPTER,
    "t2i-adapter-xl": adapter(adapter_type="full_adapter_xl", channels=[8, 16, 32, 32]),
    "t2i-adapter-light": adapter(adapter_type="light_adapter"),
    "t2i-adapter-grey": adapter(in_channels=1, downscale_factor=3, num_res_blocks=0),
}
