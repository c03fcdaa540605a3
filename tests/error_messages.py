"""Lines of error messages as they stand in public threads, of several versions of torch and diffusers."""

from __future__ import annotations

MISMATCH = "copying a param with shape torch.Size({}) from checkpoint, the shape in current model is torch.Size({})"
IN_LOADING = "Error(s) in loading state_dict for "
MUST_MATCH = "Sizes of tensors must match except in dimension 1. "
NINE_TO_FOUR = "weight of size [320, 4, 3, 3], expected input[2, 9, 64, 64] to have 4 channels, but got 9 channels instead"
# The lines of messages as they stand in public threads, each with its kind and a model or a word that must be named.
MESSAGES: list[tuple[str, str, str]] = [
    ("mat1 and mat2 shapes cannot be multiplied (154x2048 and 768x320)", "cross_attention_width", "sd15"),
    ("[Bug]: mat1 and mat2 shapes cannot be multiplied (77x2048 and 768x320)", "cross_attention_width", "sdxl"),
    ("RuntimeError: mat1 and mat2 shapes cannot be multiplied (154x768 and 1024x320)", "cross_attention_width", "sd21"),
    ("RuntimeError: mat1 and mat2 shapes cannot be multiplied (4x1024 and 768x320)", "cross_attention_width", "sd15"),
    ("K采样器 mat1 and mat2 shapes cannot be multiplied (32x2048 and 768x320)", "cross_attention_width", "sd15"),
    ("RuntimeError: mat1 and mat2 shapes cannot be multiplied (154x2048 and 1280x768)", "cross_attention_width", "sdxl-refiner"),
    ("linear(): input and weight.T shapes cannot be multiplied (231x2048 and 1024x320)", "cross_attention_width", "sd21"),
    ("Error on MacOS - input and weight.T shapes cannot be multiplied (231x2048 and 1024x320)", "cross_attention_width", "sd21"),
    (
        "RuntimeError: size mismatch, m1: [154 x 1024], m2: [768 x 320] at /pytorch/aten/src/TH/generic/THBlas.cu:290",
        "cross_attention_width",
        "sd15",
    ),
    ("RuntimeError: mat1 and mat2 shapes cannot be multiplied (4096x320 and 768x320)", "encoder_hidden_states", "sd15"),
    ("RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x2560 and 2816x1280\uff09", "added_cond_width", "sdxl"),
    ("RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x2816 and 2560x1280)", "added_cond_width", "sdxl-refiner"),
    ("FaceDetailer mat1 and mat2 shapes cannot be multiplied (1x3584 and 5632x1280)", "added_cond_width", "kolors"),
    ("mat1 and mat2 shapes cannot be multiplied (512x2048 and 4096x2048)", "encoder_hid_width", "kolors"),
    ("mat1 and mat2 shapes cannot be multiplied (2x768 and 512x512)", "class_labels_width", "audioldm-s-full-v2"),
    ("RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x1536 and 2048x1280)", "control_types", "ControlNet Union"),
    ("mat1 and mat2 shapes cannot be multiplied (1x1280 and 768x16384)", "image_projection_width", "image encoder"),
    ("mat1 and mat2 shapes cannot be multiplied (1x768 and 4096x3072)", "linear_width", "no UNet"),
    ("ValueError: shapes (2,768) and (1024,320) not aligned: 768 (dim 1) != 1024 (dim 0)", "cross_attention_width", "sd21"),
    (MUST_MATCH + "Expected size 24 but got size 25 for tensor number 1 in the list.", "skip_size", "ddpm-cat-256"),
    (MUST_MATCH + "Expected size 8 but got size 7 for tensor number 1\nin the list.", "skip_size", "ldm-celebahq-256"),
    (MUST_MATCH + "Got 8 and 7 in dimension 2 (The offending index is 1)", "skip_size", "multiple"),
    (MUST_MATCH + "Expected size 64 but got size 128 for tensor number 1 in the list.", "concat_size", "two images"),
    (MUST_MATCH + "Expected size 2 but got size 1 for tensor number 1 in the list.", "skip_size", "multiple"),
    (MUST_MATCH + "Expected size 1 but got size 2 for tensor number 1 in the list.", "batch_size", "CFG"),
    (
        "Sizes of tensors must match except in dimension 0. Expected size 77 but got size 154 for tensor number 1 in the list.",
        "token_count",
        "77",
    ),
    ("The size of tensor a (64) must match the size of tensor b (96) at non-singleton dimension 3", "residual_size", "ports MODEL --with"),
    ("The size of tensor a (208) must match the size of tensor b (104) at non-singleton dimension 3", "residual_size", "twice"),
    ("The size of tensor a (64) must match the size of tensor b (512) at non-singleton dimension 3", "residual_size", "pixels"),
    (
        "RuntimeError: The size of tensor a (22) must match the size of tensor b (23) at non-singleton dimension 3",
        "residual_size",
        "by one",
    ),
    ("The size of tensor a (8) must match the size of tensor b (16) at non-singleton dimension 0", "batch_size", "CFG"),
    ("RuntimeError: The size of tensor a (113) must match the size of tensor b (77) at non-singleton dimension 1", "token_count", "77"),
    (
        "RuntimeError: The size of tensor a (320) must match the size of tensor b (640) at non-singleton dimension 1",
        "residual_channels",
        "sd15",
    ),
    (
        "RuntimeError: The size of tensor a (5876) must match the size of tensor b (7232) at non-singleton dimension 1",
        "token_count",
        "attention",
    ),
    ("The expanded size of the tensor (4) must match the existing size (8) at non-singleton dimension 1", "token_count", "multiple"),
    (f"RuntimeError: Given groups=1, {NINE_TO_FOUR}", "in_channels", "sd15-inpaint"),
    (
        "Given groups=1, weight of size [320, 9, 3, 3], expected input[1, 8, 126, 94] to have 9 channels, but got 8 channels instead",
        "in_channels",
        "instruct-pix2pix",
    ),
    (
        "Given groups=1, weight[320, 4, 3, 3], so expected input[2, 3, 64, 64] to have 4 channels, but got 3 channels instead",
        "in_channels",
        "vae.encode",
    ),
    (
        "Given groups=1, weight of size [16, 3, 3, 3], expected input[2, 4, 512, 512] to have 3 channels, but got 4 channels instead",
        "control_channels",
        "RGB",
    ),
    (
        "Given groups=1, weight of size [320, 192, 3, 3], expected input[2, 64, 64, 64] to have 192 channels, but got 64 channels instead",
        "control_channels",
        "Adapter",
    ),
    (
        (
            "ValueError: Incorrect configuration settings! The config of `pipeline.unet`: FrozenDict([('sample_size', 64)]) expects 4 but "
            "received "
            "`num_channels_latents`: 4 + `num_channels_image`: 4  = 8. Please verify the config"
        ),
        "in_channels",
        "instruct-pix2pix",
    ),
    (
        "Calculated padded input size per channel: (2 x 2). Kernel size: (3 x 3). Kernel size can't be greater than actual input size",
        "sample_too_small",
        "check",
    ),
    ("TypeError: argument of type 'NoneType' is not iterable", "added_cond_kwargs", "sdxl"),
    ("TypeError: argument of type 'NoneType' is not a container or iterable", "added_cond_kwargs", "sdxl"),
    (
        (
            "<class 'diffusers.models.unets.unet_2d_condition.UNet2DConditionModel'> has the config param `addition_embed_type` set to "
            "'text_time' "
            "which requires the keyword argument `time_ids` to be passed in `added_cond_kwargs`"
        ),
        "added_cond_kwargs",
        "sdxl",
    ),
    (
        (
            "has the config param `encoder_hid_dim_type` set to 'ip_image_proj' which requires the keyword argument `image_embeds` to be "
            "passed in  "
            "`added_conditions`"
        ),
        "added_cond_kwargs",
        "ip_adapter_image",
    ),
    ("Error:class_labels should be provided when num_class_embeds > 0", "class_labels", "sd-x4-upscaler"),
    ("class_labels should be provided when doing class conditioning", "class_labels", "cd-imagenet64"),
    (
        "UNet2DConditionModel.forward() missing 1 required positional argument: 'encoder_hidden_states'",
        "encoder_hidden_states",
        "UNet2DModel",
    ),
    (
        "TypeError: UNet2DModel.forward() missing 2 required positional arguments: 'sample' and 'timestep'",
        "missing_argument",
        "sample, timestep",
    ),
    ("TypeError: forward() got an unexpected keyword argument 'encoder_hidden_states'", "unexpected_argument", "CrossAttn"),
    ("AttnDownBlock2D.forward() got an unexpected keyword argument 'scale'", "unexpected_argument", "AttnDownBlock2D"),
    (
        (
            "ValueError: A dict of processors was passed, but the number of processors 0 does not match the number of attention layers: "
            "32. Please make sure to pass 32 processor classes."
        ),
        "processor_count",
        "sd15",
    ),
    ("The number of processors 1 does not match the number of attention layers: 32", "processor_count", "sd15"),
    ("RuntimeError: shape '[462, 8, 40]' is invalid for input of size 73920", "batch_size", "CFG"),
    ("shape '[2, 4096, 8, 40]' is invalid for input of size 1966080", "head_count", "sd15"),
    ("RuntimeError: shape '[2, 8, -1, 4096]' is invalid for input of size 20480", "head_count", "attention"),
    (
        "At the moment it is not possible to define the number of attention heads via `num_attention_heads` because of a naming issue",
        "head_count",
        "attention_head_dim",
    ),
    ("ValueError: num_channels (320) must be divisible by num_groups (24)", "norm_groups", "8"),
    ("ValueError: num_channels must be divisible by num_groups", "norm_groups", "norm_num_groups"),
    (
        (
            "RuntimeError: Expected number of channels in input to be divisible by num_groups, but got input of shape [2, 100, 8, 8] and "
            "num_groups=32"
        ),
        "norm_groups",
        "4",
    ),
    (
        "Given normalized_shape=[4096], expected input with shape [*, 4096], but got input of size[2, 77, 768]",
        "normalized_width",
        "if-i-xl",
    ),
    ("Must provide the same number of `down_block_types` as `up_block_types`. `down_block_types`: ['A'].", "config", "down_block_types"),
    ("ValueError: CrossAttnDownBlok2D does not exist. CrossAtnDownBlock2D does not exist.", "config", "CrossAttnDownBlock2D"),
    (
        f"{IN_LOADING}UNet2DConditionModel:\n\tsize mismatch for conv_in.weight: {MISMATCH.format([320, 9, 3, 3], [320, 4, 3, 3])}.",
        "checkpoint",
        "sd15-inpaint",
    ),
    (
        (
            f"trainer  | [rank0]: RuntimeError: {IN_LOADING}UNet2DConditionModel:\ntrainer  | [rank0]:     size mismatch for "
            f"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight: {MISMATCH.format([320, 1024], [320, 768])}."
        ),
        "checkpoint",
        "sd21",
    ),
    (
        f"size mismatch for down_blocks.1.attentions.0.proj_in.weight: {MISMATCH.format([640, 640], [640, 640, 1, 1])}.",
        "checkpoint",
        "sdxl",
    ),
    (
        (
            "Cannot load ./test_model/unet because conv_in.weight expected shape tensor(..., device='meta', size=(320, 4, 3, 3)), but got "
            "torch.Size([320, 9, 3, 3])."
        ),
        "checkpoint",
        "sd15-inpaint",
    ),
    (
        (
            "ValueError: Cannot load <class 'diffusers.models.unets.unet_2d_condition.UNet2DConditionModel'> from D:\\Kolors because the "
            "following "
            "keys are missing:\n encoder_hid_proj.weight, encoder_hid_proj.bias.\n Please make sure to pass `low_cpu_mem_usage=False`"
        ),
        "checkpoint",
        "encoder_hid_dim",
    ),
    (
        (
            "size mismatch for down_blocks.2.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.default_0.weight: "
            f"{MISMATCH.format([64, 2048], [64, 768])}."
        ),
        "lora_checkpoint",
        "sdxl",
    ),
    (
        f'RuntimeError: {IN_LOADING}ModuleList:\n        Unexpected key(s) in state_dict: "45.to_k_ip.weight", "139.to_k_ip.weight".',
        "ip_adapter_checkpoint",
        "sdxl",
    ),
    (
        f"{IN_LOADING}ImageProjModel:\nsize mismatch for proj.weight: {MISMATCH.format([8192, 1280], [8192, 1024])}.",
        "ip_adapter_checkpoint",
        "ViT-H",
    ),
    ("RuntimeError: Input type (float) and bias type (c10::Half) should be the same", "dtype", "unet.dtype"),
    ("Input type (struct c10::Half) and bias type (float) should be the same", "dtype", "unet.dtype"),
    ("Input type (torch.cuda.FloatTensor) and weight type (torch.cuda.HalfTensor) should be the same", "dtype", "unet.dtype"),
    ("mat1 and mat2 must have the same dtype", "dtype", "unet.dtype"),
    ("expected scalar type Half but found Float", "dtype", "unet.dtype"),
    ("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!", "device", "unet.device"),
    ("NotImplementedError: Cannot copy out of meta tensor; no data!", "device", "meta"),
]
