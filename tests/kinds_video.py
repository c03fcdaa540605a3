"""Small configs of the video UNets, one for each thing that a config of these classes can ask for.

A `MotionAdapter` is not among them: it runs in a UNet of published size alone (tests/test_motion_adapter.py).
"""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]

UNET_3D: Config = {
    "_class_name": "UNet3DConditionModel",
    "sample_size": 8,
    "block_out_channels": [16, 32],
    "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"],
    "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"],
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
}
I2VGEN: Config = {**UNET_3D, "_class_name": "I2VGenXLUNet"}
MOTION: Config = {
    "_class_name": "UNetMotionModel",
    "sample_size": 8,
    "block_out_channels": [16, 32],
    "down_block_types": ["CrossAttnDownBlockMotion", "DownBlockMotion"],
    "up_block_types": ["UpBlockMotion", "CrossAttnUpBlockMotion"],
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "num_attention_heads": 2,
    "motion_num_attention_heads": 4,
    "motion_max_seq_length": 8,
    "norm_num_groups": 8,
}
SVD: Config = {
    "_class_name": "UNetSpatioTemporalConditionModel",
    "sample_size": 8,
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"],
    "up_block_types": ["UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"],
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "num_attention_heads": [2, 4],
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 24,
    "num_frames": 3,
}
SPARSE: Config = {
    "_class_name": "SparseControlNetModel",
    "block_out_channels": [16, 32],
    "down_block_types": ["CrossAttnDownBlockMotion", "DownBlockMotion"],
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "num_attention_heads": 2,
    "motion_num_attention_heads": 4,
    "motion_max_seq_length": 2,
    "norm_num_groups": 8,
}


def unet_3d(**keys: Any) -> Config:
    """Return the small text-to-video config with some keys replaced."""
    return {**UNET_3D, **keys}


def i2vgen(**keys: Any) -> Config:
    """Return the small image-to-video config with some keys replaced."""
    return {**I2VGEN, **keys}


def motion(**keys: Any) -> Config:
    """Return the small AnimateDiff config with some keys replaced."""
    return {**MOTION, **keys}


def svd(**keys: Any) -> Config:
    """Return the small Stable Video Diffusion config with some keys replaced."""
    return {**SVD, **keys}


def sparse(**keys: Any) -> Config:
    """Return the small SparseCtrl config with some keys replaced."""
    return {**SPARSE, **keys}


KINDS: dict[str, Config] = {
    "unet3d": UNET_3D,
    "unet3d-time-cond": unet_3d(time_cond_proj_dim=12),
    "unet3d-two-layers": unet_3d(layers_per_block=2),
    "unet3d-no-layers": unet_3d(layers_per_block=0, block_out_channels=[16, 16]),
    "unet3d-uneven-heads": unet_3d(attention_head_dim=6),
    "unet3d-mid-attention-alone": unet_3d(down_block_types=["DownBlock3D"] * 2, up_block_types=["UpBlock3D"] * 2),
    "unet3d-reads-no-text": unet_3d(down_block_types=["DownBlock3D"] * 2, up_block_types=["UpBlock3D"] * 2, cross_attention_dim=None),
    "unet3d-one-block": unet_3d(block_out_channels=[16], down_block_types=["CrossAttnDownBlock3D"], up_block_types=["CrossAttnUpBlock3D"]),
    "i2vgen": I2VGEN,
    "i2vgen-three-channels": i2vgen(in_channels=3, out_channels=5),
    "i2vgen-ignores-heads": i2vgen(num_attention_heads=[1, 2, 3]),
    "i2vgen-mid-attention-alone": i2vgen(down_block_types=["DownBlock3D"] * 2, up_block_types=["UpBlock3D"] * 2),
    "motion": MOTION,
    "motion-plain-mid-block": motion(use_motion_mid_block=False),
    "motion-time-cond": motion(time_cond_proj_dim=12),
    "motion-sdxl": motion(
        down_block_types=["DownBlockMotion", "CrossAttnDownBlockMotion"],
        up_block_types=["CrossAttnUpBlockMotion", "UpBlockMotion"],
        transformer_layers_per_block=[1, 2],
        num_attention_heads=[2, 4],
        use_linear_projection=True,
        use_motion_mid_block=False,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
    ),
    "motion-other-addition": motion(addition_embed_type="image"),
    "motion-per-block-lists": motion(layers_per_block=[1, 2], num_attention_heads=[2, 4], motion_num_attention_heads=[2, 8]),
    "motion-depths": motion(transformer_layers_per_block=[2, 1], temporal_transformer_layers_per_block=[1, 2]),
    "motion-nested-depths": motion(
        layers_per_block=2,
        transformer_layers_per_block=[[2, 1], 1],
        reverse_transformer_layers_per_block=[1, [3, 2, 1]],
        temporal_transformer_layers_per_block=[[1, 2], [2, 1]],
        reverse_temporal_transformer_layers_per_block=[[1, 2, 1], 2],
    ),
    "motion-reversed-number": motion(reverse_transformer_layers_per_block=2, reverse_temporal_transformer_layers_per_block=2),
    "motion-depths-beyond-the-blocks": motion(transformer_layers_per_block=[1, 1, 2], motion_num_attention_heads=[2, 4, 8]),
    "motion-mid-block-layers": motion(
        mid_block_layers=2, transformer_layers_per_mid_block=[2, 1], temporal_transformer_layers_per_mid_block=[1, 2]
    ),
    "motion-plain-mid-block-layers": motion(mid_block_layers=2, transformer_layers_per_mid_block=[2, 1, 5], use_motion_mid_block=False),
    "motion-bare-mid-block": motion(mid_block_layers=0),
    "motion-no-layers": motion(layers_per_block=0, block_out_channels=[16, 16]),
    "motion-one-position": motion(motion_max_seq_length=1),
    "motion-uneven-heads": motion(num_attention_heads=3, motion_num_attention_heads=6),
    "motion-two-sides": motion(sample_size=16),
    "svd": SVD,
    "svd-one-frame": svd(num_frames=1),
    "svd-no-frames": svd(num_frames=None),
    "svd-per-block-lists": svd(layers_per_block=[1, 2], cross_attention_dim=[24, 24], num_attention_heads=4),
    "svd-widths-of-some": svd(
        down_block_types=["DownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal"],
        up_block_types=["CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"],
        cross_attention_dim=[None, 24],
        num_attention_heads=[None, 4],
    ),
    "svd-reads-no-text": svd(
        down_block_types=["DownBlockSpatioTemporal"] * 2, up_block_types=["UpBlockSpatioTemporal"] * 2, cross_attention_dim=[None, None]
    ),
    "svd-depths": svd(transformer_layers_per_block=[2, 1]),
    "svd-nested-depths": svd(transformer_layers_per_block=[[1, 2], [2]], layers_per_block=1),
    "svd-five-ids": svd(projection_class_embeddings_input_dim=40),
    "sparse-controlnet": SPARSE,
    "sparse-controlnet-pixels": sparse(
        use_simplified_condition_embedding=False, conditioning_channels=3, conditioning_embedding_out_channels=[4, 8, 12]
    ),
    "sparse-controlnet-no-mask": sparse(concat_conditioning_mask=False, conditioning_channels=3),
    "sparse-controlnet-pixels-no-mask": sparse(
        use_simplified_condition_embedding=False, concat_conditioning_mask=False, conditioning_embedding_out_channels=[4]
    ),
    "sparse-controlnet-pooled": sparse(global_pool_conditions=True),
    "sparse-controlnet-bgr": sparse(controlnet_conditioning_channel_order="bgr"),
    "sparse-controlnet-old-heads": sparse(num_attention_heads=None, attention_head_dim=[2, 4]),
    "sparse-controlnet-depths": sparse(
        layers_per_block=2,
        transformer_layers_per_block=[[1, 2], 1],
        temporal_transformer_layers_per_block=[1, [2, 1]],
        transformer_layers_per_mid_block=[2],
    ),
    "sparse-controlnet-scale-shift": sparse(resnet_time_scale_shift="scale_shift", act_fn="gelu", use_linear_projection=True),
    "sparse-controlnet-only-cross": sparse(only_cross_attention=[True, False]),
}
