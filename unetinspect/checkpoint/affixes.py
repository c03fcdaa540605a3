"""What files put before and after the names of a UNet's tensors. Another kind of file is another row here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection

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
    ("_orig_mod.", None),
)
# Who puts such a part before or into every name.
WRAPPERS = {
    "module.": "DataParallel",
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
    "base_model.model.": "PEFT",
    "base_layer.": "a LoRA in the model",
    "model.diffusion_model.": "a whole checkpoint",
    "diffusion_model.": "ComfyUI",
    "control_model.": "ControlNet's own code",
    "unet.": "a pipeline or trainer",
    "model.": "a wrapper such as Lightning's",
}
# Those of them that no model has in a name of its own: wherever they are, they can be taken out.
WRAPPED = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|base_layer)\.")
# What LoRA files put before the name of a UNet's layer, besides.
_LORA_PREFIXES = ("base_model.model.", "lora_prior_unet_", "lora_unet_", "oft_unet_", "lora_transformer_", "lycoris_")
# All that tools put before the name of a layer of a UNet or ControlNet.
LAYER_PREFIXES = (*(prefix for prefix, part in PREFIXES if part in (None, "controlnet")), *_LORA_PREFIXES)
# How the names of a text encoder's layers start, in checkpoints and in LoRAs.
TEXT_ENCODER = re.compile(
    r"(?:base_model\.model\.|lycoris_)?"
    r"(?:(?:lora|oft)_(?:prior_)?te([123])?_|text_encoders?(?:_([23]))?(?:[._]|$)|cond_stage_model\.|conditioner\.|clip_[lg]\.|text_model[._])"
)

# What tools add is in the last characters of a name; no more of it is searched.
LONGEST_ENDING = 160
# What a LoRA has after the name of a layer: the matrix, then anything.
LORA_MATRIX = re.compile(
    r"[._](lora_(?:linear_layer\.)?(?:down|up|mid|A|B|E|magnitude_vector|embedding_A|embedding_B)|lora\.(?:down|up)|(?<=_lora[12]\.)(?:down|up)"
    r"|hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t2|oft_blocks|oft_diag|oft_R|boft_[Rs]|dora_scale|ia3_l"
    r"|vera_lambda_[bd]|glora_[A-E]|(?<=\.)(?:[ab][12]|bm)(?=\.weight$))(?:\.[A-Za-z0-9_]+)*$"
)
# Endings of the other tensors of a layer in a LoRA.
LORA_EXTRAS = (".alpha", ".scale", ".diff", ".diff_b", ".bias", ".w_norm", ".b_norm", ".rescale", ".lora_magnitude_vector")
# Tensors without a use but their names, which say what a UNet predicts. Source: ComfyUI's supported_models.py, `SDXL.model_type`.
PREDICTION_MARKERS = {
    "v_pred": "v-prediction",
    "ztsnr": "zero terminal SNR",
    "edm_mean": "EDM, as Playground v2.5",
    "edm_vpred.sigma_max": "v-prediction with EDM's sigmas, as CosXL",
}
# Tensors that are not parameters: positions, and the filters of 1D UNets.
NOT_PARAMETERS = (*PREDICTION_MARKERS, ".pe", "down.kernel", "up.kernel", "position_ids")


def constant_part(longer: Collection[str], shorter: Collection[str]) -> str:
    """Return the part that the longer names have too much, with a dot behind it; "" where there is none.

    Of parts that no tool is known to add, all names must have it, and several. Without shorter names, only a known prefix is found.

    >>> constant_part(["a.base_layer.weight", "b.0.base_layer.bias"], {"a.weight", "b.0.bias"})
    'base_layer.'
    """
    if longer and not shorter:
        return next((part for part in WRAPPERS if all(name.startswith(part) for name in longer)), "")
    votes: Counter[str] = Counter()
    for parts in (name.split(".") for name in longer):
        for start in range(len(parts) - 1):
            for end in range(start + 1, min(start + 5, len(parts))):
                if ".".join((*parts[:start], *parts[end:])) in shorter:
                    votes[".".join(parts[start:end]) + "."] += 1
    part, count = max(votes.items(), key=lambda vote: (vote[1], vote[0] in WRAPPERS), default=("", 0))
    return part if count == len(longer) > 2 or (part in WRAPPERS and 2 * count > min(len(longer), len(shorter))) else ""
