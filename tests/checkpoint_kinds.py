"""A handful of names of each kind of file that people have beside a UNet, and what they are."""

from __future__ import annotations

from tests.checkpoints import Shapes

VAE: Shapes = {
    "encoder.conv_in.weight": (128, 3, 3, 3),
    "decoder.up.0.block.0.conv1.weight": (128, 256, 3, 3),
    "quant_conv.weight": (8, 8, 1, 1),
}
CLIP = "transformer.text_model.encoder.layers.0.self_attn.k_proj.weight"
KOHYA = "lora_unet_{0}_attentions_0_transformer_blocks_0_attn2_to_k.{1}"
PEFT = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.{0}.weight"

Said = tuple[str, str | None, str | None, str | None]

# What they hold, in which layout, the class, the family.
FILES: dict[str, tuple[Shapes, Said]] = {
    "kohya, SD 1": (
        {KOHYA.format("down_blocks_0", "lora_down.weight"): (16, 768), KOHYA.format("down_blocks_0", "lora_up.weight"): (320, 16)},
        ("lora", None, None, "Stable Diffusion 1"),
    ),
    "kohya, SDXL, with its text encoders": (
        {
            "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (8, 768),
            "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (8, 1280),
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.alpha": (),
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight": (8, 2048),
        },
        ("lora", None, None, "Stable Diffusion XL"),
    ),
    "peft, SD 2": ({PEFT.format("lora_A"): (4, 1024), PEFT.format("lora_B"): (640, 4)}, ("lora", None, None, "Stable Diffusion 2")),
    "diffusers of 2023": (
        {"down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight": (4, 768)},
        ("lora", None, None, "Stable Diffusion 1"),
    ),
    "LoHa": (
        {KOHYA.format("up_blocks_1", f"hada_w{i}_{s}"): (8, 768) for i in (1, 2) for s in "ab"},
        ("lora", None, None, "Stable Diffusion 1"),
    ),
    "LoKr": (
        {KOHYA.format("up_blocks_1", "lokr_w1"): (8, 16), KOHYA.format("up_blocks_1", "lokr_w2"): (80, 128)},
        ("lora", None, None, "Stable Diffusion XL"),  # a Kronecker product: 16 x 128 = 2048 values come in
    ),
    "LoRA of FLUX": (
        {"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": (16, 3072)},
        ("lora", None, None, "FLUX.1"),
    ),
    "LoRA of self-attention only": (
        {"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.lora_A.weight": (4, 320)},
        ("lora", None, None, None),
    ),
    "IP-Adapter, SDXL": (
        {"image_proj.proj.weight": (8192, 1280), "ip_adapter.1.to_k_ip.weight": (640, 2048), "ip_adapter.1.to_v_ip.weight": (640, 2048)},
        ("ip_adapter", None, None, "Stable Diffusion XL"),
    ),
    "IP-Adapter with a LoRA (FaceID)": (
        {
            "image_proj.proj.0.weight": (1024, 512),
            "ip_adapter.0.to_q_lora.down.weight": (128, 320),
            "ip_adapter.1.to_k_ip.weight": (320, 768),
        },
        ("ip_adapter", None, None, "Stable Diffusion 1"),
    ),
    "textual inversion": ({"emb_params": (4, 768)}, ("textual_inversion", None, None, "Stable Diffusion 1")),
    "textual inversion of diffusers": ({"<cat-toy>": (1024,)}, ("textual_inversion", None, None, "Stable Diffusion 2")),
    "textual inversion, SDXL": ({"clip_g": (2, 1280), "clip_l": (2, 768)}, ("textual_inversion", None, None, "Stable Diffusion XL")),
    "VAE, original": (VAE, ("vae", "original", None, None)),
    "VAE, diffusers": (
        {"encoder.conv_in.weight": (128, 3, 3, 3), "decoder.up_blocks.0.resnets.0.conv1.weight": (512, 512, 3, 3)},
        ("vae", "diffusers", None, None),
    ),
    "CLIP": ({"text_model.embeddings.token_embedding.weight": (49408, 768)}, ("text_encoder", None, None, None)),
    "T5": (
        {"shared.weight": (32128, 4096), "encoder.block.0.layer.0.SelfAttention.q.weight": (4096, 4096)},
        ("text_encoder", None, None, None),
    ),
    "ControlNet, original": (
        {"control_model.input_hint_block.0.weight": (16, 3, 3, 3), "control_model.zero_convs.0.0.weight": (320, 320, 1, 1)},
        ("controlnet", "original", "ControlNetModel", None),
    ),
    "ControlNet, diffusers": (
        {"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3), "controlnet_down_blocks.0.weight": (320, 320, 1, 1)},
        ("controlnet", "diffusers", "ControlNetModel", None),
    ),
    "T2I-Adapter, original": (
        {"conv_in.weight": (320, 64, 3, 3), "body.0.block1.weight": (320, 320, 3, 3)},
        ("t2i_adapter", "original", "T2IAdapter", None),
    ),
    "T2I-Adapter, diffusers": (
        {"adapter.conv_in.weight": (320, 64, 3, 3), "adapter.body.0.resnets.0.block1.weight": (320, 320, 3, 3)},
        ("t2i_adapter", "diffusers", "T2IAdapter", None),
    ),
    "AnimateDiff, original": (
        {"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": (320,)},
        ("motion_adapter", "original", "MotionAdapter", None),
    ),
    "AnimateDiff, diffusers": (
        {"down_blocks.0.motion_modules.0.norm.weight": (320,), "mid_block.motion_modules.0.norm.weight": (1280,)},
        ("motion_adapter", "diffusers", "MotionAdapter", None),
    ),
    "FLUX, original": (
        {
            "double_blocks.0.img_attn.qkv.weight": (9216, 3072),
            "single_blocks.0.linear1.weight": (21504, 3072),
            "img_in.weight": (3072, 64),
            "vector_in.in_layer.weight": (3072, 768),
        },
        ("transformer", "original", "FluxTransformer2DModel", "FLUX.1"),
    ),
    "FLUX, diffusers": (
        {
            "transformer_blocks.0.attn.to_q.weight": (3072, 3072),
            "single_transformer_blocks.0.attn.to_q.weight": (3072, 3072),
            "x_embedder.weight": (3072, 64),
            "context_embedder.weight": (3072, 4096),
        },
        ("transformer", "diffusers", "FluxTransformer2DModel", "FLUX.1"),
    ),
    "SD 3, with all its parts": (
        {
            "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (4608, 1536),
            "model.diffusion_model.context_embedder.weight": (1536, 4096),
            "first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3),
            "text_encoders.clip_l.transformer.text_model.embeddings.token_embedding.weight": (49408, 768),
        },
        ("transformer", "original", "SD3Transformer2DModel", "Stable Diffusion 3"),
    ),
    "PixArt": (
        {
            "transformer_blocks.0.attn1.to_q.weight": (1152, 1152),
            "adaln_single.linear.weight": (6912, 1152),
            "caption_projection.linear_1.weight": (1152, 4096),
            "pos_embed.proj.weight": (1152, 4, 2, 2),
        },
        ("transformer", "diffusers", "PixArtTransformer2DModel", "PixArt"),
    ),
    "LTX-Video, original": (
        {"patchify_proj.weight": (2048, 128), "transformer_blocks.0.attn1.to_q.weight": (2048, 2048)},
        ("transformer", "original", "LTXVideoTransformer3DModel", "LTX-Video"),
    ),
    "Stable Cascade": (
        {"down_blocks.0.0.channelwise.0.weight": (8192, 2048), "up_blocks.0.0.channelwise.0.weight": (8192, 2048)},
        ("unet", "diffusers", "StableCascadeUNet", None),
    ),
    "SVD, original": (
        {
            "model.diffusion_model.input_blocks.0.0.weight": (320, 8, 3, 3),
            "model.diffusion_model.input_blocks.1.0.time_stack.in_layers.0.weight": (320,),
            "model.diffusion_model.output_blocks.0.0.in_layers.0.weight": (2560,),
        },
        ("unet", "original", "UNetSpatioTemporalConditionModel", None),
    ),
    "an image classifier": ({"features.0.weight": (64, 3, 7, 7), "classifier.weight": (1000, 512)}, ("unknown", None, None, None)),
    "nothing": ({}, ("unknown", None, None, None)),
}
