"""What a checkpoint holds, by the names of its tensors: which models, under which prefixes, in which layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from unetinspect.checkpoint.header import TensorSpec
from unetinspect.record.checkpoint import Content, Layout

# A prefix, and the part that lies behind it; None: whatever its names say. Longer prefixes stand before those that they start with.
_PREFIXES: tuple[tuple[str, str | None], ...] = (
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
_KNOWN = tuple(prefix for prefix, _ in _PREFIXES)


class Kind(Struct, frozen=True):
    """What a group of names is.

    Attributes:
        content: What it holds.
        layout: How its tensors are named, None: neither as diffusers nor as the original code does.
        class_name: The diffusers class, None where names do not tell it.
        because: The tensor that says so, or None.
    """

    content: Content
    layout: Layout | None = None
    class_name: str | None = None
    because: str | None = None


class Part(Struct, frozen=True, kw_only=True):
    """One of the models in a checkpoint.

    Attributes:
        name: What it is called in the record.
        prefix: What the names of its tensors start with.
        tensors: Its tensors, the prefix taken off.
        kind: What it is.
    """

    name: str
    prefix: str
    tensors: dict[str, TensorSpec]
    kind: Kind


def find_parts(tensors: Mapping[str, TensorSpec]) -> list[Part]:
    """Sort tensors by prefix into the models that they belong to; what stands without a prefix is one model, or none."""
    groups: dict[str, dict[str, TensorSpec]] = {}
    for name, tensor in tensors.items():
        prefix = next(filter(name.startswith, _KNOWN), "") if name.startswith(_KNOWN) else ""
        groups.setdefault(prefix, {})[name[len(prefix) :]] = tensor
    fixed = dict(_PREFIXES)
    return [_part(prefix, group, fixed.get(prefix)) for prefix, group in groups.items()]


def _part(prefix: str, tensors: dict[str, TensorSpec], fixed: str | None) -> Part:
    kind = kind_of(tensors)
    if fixed == "controlnet" and kind.content != "controlnet":
        kind = Kind("controlnet", "original")
    if fixed is None:
        fixed = kind.content if kind.content != "unknown" else "other"
    return Part(name=fixed, prefix=prefix, tensors=tensors, kind=kind)


def kind_of(names: Iterable[str]) -> Kind:
    """Tell what model has tensors of these names, any prefix taken off."""
    listed = list(names)
    tops: dict[str, str] = {}
    words: dict[str, str] = {}
    for name in listed:
        tops.setdefault(name.partition(".")[0], name)
        for word in name.split(".", 12):
            words.setdefault(word, name)
    return (
        _controlnet(tops, words)
        or _adapter(tops, words)
        or _transformer(tops, words)
        or _original_unet(tops, words)
        or _diffusers_unet(tops, words, listed)
        or _rare_unet(tops, words)
        or _autoencoder(tops, words)
        or _text_encoder(tops, words)
        or Kind("unknown")
    )


_Names = dict[str, str]


def _controlnet(tops: _Names, words: _Names) -> Kind | None:
    if {"input_hint_block", "zero_convs"} <= tops.keys():
        return Kind("controlnet", "original", "ControlNetModel", tops["input_hint_block"])
    if "base_conv_in" in tops and "control_to_base_for_conv_in" in tops:
        return Kind("unet", "diffusers", "UNetControlNetXSModel", tops["control_to_base_for_conv_in"])
    if "up_connections" in tops and "control_to_base_for_conv_in" in tops:
        return Kind("controlnet", "diffusers", "ControlNetXSAdapter", tops["up_connections"])
    if "controlnet_blocks" in tops or "controlnet_single_blocks" in tops:
        return Kind("controlnet", "diffusers", None, tops.get("controlnet_blocks") or tops["controlnet_single_blocks"])
    if "controlnet_down_blocks" in tops or "controlnet_cond_embedding" in tops:
        union = "control_type_proj" in tops or "control_add_embedding" in tops or "task_embedding" in tops
        name = "ControlNetUnionModel" if union else "SparseControlNetModel" if "motion_modules" in words else "ControlNetModel"
        return Kind("controlnet", "diffusers", name, tops.get("controlnet_down_blocks") or tops["controlnet_cond_embedding"])
    return None


def _adapter(tops: _Names, words: _Names) -> Kind | None:
    if "motion_modules" in words and "conv_in" not in tops:
        original = "temporal_transformer" in words
        return Kind("motion_adapter", "original" if original else "diffusers", "MotionAdapter", words["motion_modules"])
    if "adapter" in tops and "body" in words:
        return Kind("t2i_adapter", "diffusers", "T2IAdapter", words["body"])
    if tops.keys() == {"conv_in", "body"}:
        return Kind("t2i_adapter", "original", "T2IAdapter", tops["body"])
    return None


# A part that only such a transformer has, the layout in which it is called so, the class of diffusers, and what people call it.
_TRANSFORMERS: tuple[tuple[str, Layout, str | None], ...] = (
    ("double_blocks", "original", None),
    ("joint_blocks", "original", "SD3Transformer2DModel"),
    ("double_layers", "original", "AuraFlowTransformer2DModel"),
    ("patchify_proj", "original", "LTXVideoTransformer3DModel"),
    ("single_transformer_blocks", "diffusers", None),
    ("joint_transformer_blocks", "diffusers", "AuraFlowTransformer2DModel"),
    ("caption_projection", "diffusers", None),
    ("adaln_single", "diffusers", None),
    ("context_embedder", "diffusers", None),
    ("cap_embedder", "original", None),
    ("y_embedder", "original", None),
    ("x_embedder", "original", None),
    ("patch_embedding", "original", None),
    ("patch_embed", "diffusers", None),
)


def _transformer(tops: _Names, words: _Names) -> Kind | None:
    if {"down_blocks", "input_blocks", "encoder"} & tops.keys():
        return None
    found = next((row for row in _TRANSFORMERS if row[0] in tops), None)
    if found is None:
        plain = "transformer_blocks" in tops
        return Kind("transformer", "diffusers", None, tops["transformer_blocks"]) if plain else None
    top, layout, class_name = found
    if layout == "diffusers" or "transformer_blocks" in tops:
        class_name = class_name or _diffusers_transformer(tops, words)
        layout = "diffusers"
    elif top == "double_blocks":
        class_name = "FluxTransformer2DModel" if "single_blocks" in tops and "img_in" in tops and "vector_in" in tops else None
    return Kind("transformer", layout, class_name, tops[top])


def _diffusers_transformer(tops: _Names, words: _Names) -> str | None:
    if "single_transformer_blocks" in tops and "x_embedder" in tops:
        return "FluxTransformer2DModel"
    if "context_embedder" in tops and "pos_embed" in tops:
        return "SD3Transformer2DModel"
    if "adaln_single" in tops and "pos_embed" in tops and "caption_projection" in tops:
        return "PixArtTransformer2DModel"
    return None


def _original_unet(tops: _Names, words: _Names) -> Kind | None:
    if not {"input_blocks", "output_blocks"} <= tops.keys():
        return None
    video = "time_stack" in words or "time_mixer" in words
    class_name = "UNetSpatioTemporalConditionModel" if video else "UNet3DConditionModel" if "temopral_conv" in words else None
    return Kind("unet", "original", class_name, tops["input_blocks"])


# The classes that have what UNet2DConditionModel has and more: a word in their names, in the order in which to look.
_MORE: tuple[tuple[str, str], ...] = (
    ("motion_modules", "UNetMotionModel"),
    ("image_latents_proj_in", "I2VGenXLUNet"),
    ("temporal_transformer_blocks", "UNetSpatioTemporalConditionModel"),
    ("temporal_res_block", "UNetSpatioTemporalConditionModel"),
    ("temp_convs", "UNet3DConditionModel"),
    ("resnets_in", "Kandinsky3UNet"),
    ("pointwise", "DreamLiteUNetModel"),
)


def _diffusers_unet(tops: _Names, words: _Names, names: list[str]) -> Kind | None:
    if not {"conv_in", "conv_out", "down_blocks", "up_blocks"} <= tops.keys() or "time_embedding" not in tops:
        return None
    more = next((row for row in _MORE if row[0] in words), None)
    if more:
        return Kind("unet", "diffusers", more[1], words[more[0]])
    crowded = _crowded(names)
    if crowded:
        return Kind("unet", "diffusers", "AudioLDM2UNet2DConditionModel", crowded)
    return Kind("unet", "diffusers", None, tops["down_blocks"])


def _crowded(names: list[str]) -> str | None:
    """Return an attention module beyond the two resnets of a mid block: AudioLDM 2 has several for each resnet."""
    return next((name for name in names if name.startswith("mid_block.attentions.1.")), None)


def _rare_unet(tops: _Names, words: _Names) -> Kind | None:
    if "down_blocks" in tops and "up_blocks" in tops and "channelwise" in words:
        return Kind("unet", "diffusers", "StableCascadeUNet", words["channelwise"])
    if {"down_block", "up_block", "transformer_layers", "mlm_layer"} <= tops.keys():
        return Kind("unet", "diffusers", "UVit2DModel", tops["transformer_layers"])
    if {"down_blocks", "mid_block"} <= tops.keys() and ("time_mlp" in tops or ("time_proj" in tops and "conv_in" not in tops)):
        return Kind("unet", "diffusers", "UNet1DModel", tops["down_blocks"])
    return None


def _autoencoder(tops: _Names, words: _Names) -> Kind | None:
    if not {"encoder", "decoder"} & tops.keys() or not {"down", "up", "down_blocks", "up_blocks", "layers"} & words.keys():
        return None
    top = tops.get("decoder") or tops["encoder"]
    if "conv_in" not in words and "quant_conv" not in tops:
        return None
    diffusers = "down_blocks" in words or "up_blocks" in words
    return Kind("vae", "diffusers" if diffusers else "original", "AutoencoderKL" if diffusers else None, top)


def _text_encoder(tops: _Names, words: _Names) -> Kind | None:
    for top in ("text_model", "token_embedding", "text_projection", "shared", "embed_tokens"):
        if top in tops or (top in ("token_embedding", "embed_tokens") and top in words):
            return Kind("text_encoder", None, None, tops.get(top) or words[top])
    return None
