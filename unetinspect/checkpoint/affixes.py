"""What files put before and after the names of a UNet's tensors. Another kind of file is another row here."""

from __future__ import annotations

import re

# A prefix, and the part that it marks; None: the names after it decide. Longer prefixes come before those that they start with.
PREFIXES: tuple[tuple[str, str | None], ...] = (
    ("model.diffusion_model.", None),
    ("model_ema.", "ema"),
    ("diffusion_model.", None),
    ("control_model.", "controlnet"),
    ("first_stage_model.", "vae"),
    ("cond_stage_model.", "text_encoder"),
    ("conditioner.embedders.", "text_encoder"),
    ("text_encoders.", "text_encoder"),
    ("text_encoder.", "text_encoder"),
    ("text_encoder_2.", "text_encoder"),
    ("text_encoder_3.", "text_encoder"),
    ("vae.", "vae"),
    ("unet.", None),
    ("transformer.", None),
    ("controlnet.", None),
    ("model.", None),
    ("module.", None),
)
# What LoRA files put before the name of a UNet's layer, besides.
LORA_PREFIXES = ("base_model.model.", "lora_unet_", "lycoris_")
# How the names of a text encoder's layers start, in checkpoints and in LoRAs.
TEXT_ENCODER = re.compile(r"lora_te[123]?_|text_encoders?(?:_[23])?(?:[._]|$)|cond_stage_model\.|conditioner\.|clip_[lg]\.|text_model\.")

# What a LoRA has after the name of a layer: the matrix, then anything.
LORA_MATRIX = re.compile(
    r"[._](lora_(?:linear_layer\.)?(?:down|up|mid|A|B|magnitude_vector|embedding_A|embedding_B)|lora\.(?:down|up)"
    r"|hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t2|oft_blocks|oft_diag|dora_scale|ia3_l)(?:\.[A-Za-z0-9_]+)*$"
)
# Endings of the other tensors of a layer in a LoRA.
LORA_EXTRAS = (".alpha", ".scale", ".diff", ".diff_b", ".bias", ".lora_magnitude_vector")
# Tensors that are not parameters: positions, the filters of 1D UNets, the scales of weights in 8 bits.
NOT_PARAMETERS = (
    *(".pe", "down.kernel", "up.kernel", "position_ids"),
    *(".scale_weight", ".scale_input", ".weight_scale", ".input_scale", "scaled_fp8"),
)
