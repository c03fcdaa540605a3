"""Small files that go with a UNet: LoRAs, IP-Adapters, embeddings of textual inversion; and the family that they were trained for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from msgspec import Struct

from unetinspect.checkpoint.affixes import LONGEST_ENDING, LORA_EXTRAS, LORA_MATRIX, TEXT_ENCODER
from unetinspect.checkpoint.safetensors_header import TensorSpec
from unetinspect.record.checkpoint import Content
from unetinspect.units import format_shape, plural

# The width of the text embeddings of each family.
FAMILIES = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
_LYCORIS = {"hada": "LyCORIS LoHa", "lokr": "LyCORIS LoKr", "oft": "OFT", "ia3": "LyCORIS IA3"}
# How the names of matrices end that a layer's input goes through first: (rank, channels in).
_FIRST = ("down", "_A")
_FAMILY_WORDS = {
    "double_blocks": "FLUX.1",
    "single_transformer_blocks": "FLUX.1",
    "joint_blocks": "Stable Diffusion 3",
    "add_k_proj": "Stable Diffusion 3",
    "lora_te2_": "Stable Diffusion XL",
    "text_encoder_2": "Stable Diffusion XL",
}
_EMBEDDINGS = ("emb_params", "string_to_param", "clip_l", "clip_g", "t5xxl")
_IP_ADAPTER = {"image_proj", "ip_adapter", "image_proj_model", "adapter_modules", "unet", "proj_model"}


class Adapter(Struct, frozen=True, kw_only=True):
    """A small file that goes with a UNet.

    Attributes:
        content: What it is.
        variant: "LyCORIS LoHa" and the like; "" for the usual one.
        family: What it was trained for, as the catalog calls it; None where widths do not show it.
        parts: The part of each tensor, by its name.
        evidence: What shows it, a sentence each.
        untold: What no name shows, a sentence each.
    """

    content: Content
    variant: str = ""
    family: str | None
    parts: dict[str, str]
    evidence: tuple[str, ...]
    untold: tuple[str, ...] = ()


def find_adapter(tensors: Mapping[str, TensorSpec]) -> Adapter | None:
    """Say whether a file is an adapter, and for what."""
    return _textual_inversion(tensors) or _ip_adapter(tensors) or _lora(tensors)


def quoted(name: str, tensor: TensorSpec) -> str:
    """Write a tensor as evidence does: its name and its shape."""
    return f"{name!r} is {format_shape(tensor.shape)}"


def _textual_inversion(tensors: Mapping[str, TensorSpec]) -> Adapter | None:
    if not tensors or len(tensors) > 8:
        return None
    named = all(name.partition(".")[0] in _EMBEDDINGS for name in tensors)
    tokens = all(name.startswith("<") and name.endswith(">") for name in tensors)
    if not (named or tokens) or any(len(tensor.shape) not in (1, 2) for tensor in tensors.values()):
        return None
    widths = {tensor.shape[-1] for tensor in tensors.values()}
    name, tensor = next(iter(tensors.items()))
    return Adapter(
        content="textual_inversion",
        family="Stable Diffusion XL" if {"clip_l", "clip_g"} <= tensors.keys() or 1280 in widths else _family_of(widths),
        parts=dict.fromkeys(tensors, "text_encoder"),
        evidence=(f"{quoted(name, tensor)}: {tensor.shape[-1]}-dim token embeddings",),
    )


def _ip_adapter(tensors: Mapping[str, TensorSpec]) -> Adapter | None:
    tops = {name.partition(".")[0] for name in tensors}
    if not tops or not tops <= _IP_ADAPTER:
        return None
    keys = {name: tensor for name, tensor in tensors.items() if name.endswith(".to_k_ip.weight") and len(tensor.shape) == 2}
    if not keys and not tops & {"image_proj", "ip_adapter"}:
        return None
    evidence = f"{next(iter(tensors))!r} is an IP-Adapter tensor"
    if keys:
        name, tensor = next(iter(keys.items()))
        evidence = f"{quoted(name, tensor)}: {tensor.shape[1]}-dim image tokens for {plural(len(keys), 'cross-attention layer')}"
    return Adapter(
        content="ip_adapter",
        family=_family_of({tensor.shape[1] for tensor in keys.values()}),
        parts={name: "image_proj" if name.startswith(("image_proj", "proj_model")) else "unet" for name in tensors},
        evidence=(evidence,),
    )


def _lora(tensors: Mapping[str, TensorSpec]) -> Adapter | None:
    matrices = {name: found[1] for name in tensors if (found := LORA_MATRIX.search(name[-LONGEST_ENDING:]))}
    counted = [name for name in tensors if not name.endswith(LORA_EXTRAS)]
    if not matrices or 2 * len(matrices) < len(counted):
        return None
    kind = Counter(matrix.partition("_")[0] for matrix in matrices.values()).most_common(1)[0][0]
    variant = _LYCORIS.get(kind, "")
    family, why = _trained_for(tensors, matrices)
    first, matrix = next(iter(matrices.items()))
    what = f"{first!r} is a {variant or 'LoRA'} tensor"
    if not variant and len(tensors[first].shape) > 1:
        rank = tensors[first].shape[0 if matrix.endswith(_FIRST) else 1]
        what = f"{quoted(first, tensors[first])}: a LoRA matrix of rank {rank}"
    return Adapter(
        content="lora",
        variant=variant,
        family=family,
        parts={name: _lora_part(name, family) for name in tensors},
        evidence=(what, *why),
        untold=() if family else ("base model unknown: none of its layers reads text embeddings",),
    )


def _lora_part(name: str, family: str | None) -> str:
    if TEXT_ENCODER.match(name):
        return "text_encoder"
    of_transformer = name.startswith(("transformer.", "lora_transformer_")) or family in ("FLUX.1", "Stable Diffusion 3")
    return "transformer" if of_transformer else "unet"


def _trained_for(tensors: Mapping[str, TensorSpec], matrices: Mapping[str, str]) -> tuple[str | None, tuple[str, ...]]:
    """Return the family of a LoRA and what shows it: the width of the text embeddings, else names that only one family has."""
    for name, matrix in matrices.items():
        width = _text_width(name, matrix, tensors)
        if width in FAMILIES:
            return FAMILIES[width], (f"{quoted(name, tensors[name])}: cross-attends to {width}-dim text embeddings",)
    for word, family in _FAMILY_WORDS.items():
        found = next((name for name in tensors if word in name), None)
        if found:
            return family, (f"{found!r} is a {family} name",)
    return None, ()


def _text_width(name: str, matrix: str, tensors: Mapping[str, TensorSpec]) -> int | None:
    """Return the width of the text embeddings that the layer of a matrix reads, None where it reads none."""
    shape = tensors[name].shape
    if not re.search(r"attn2[._](?:processor[._])?to_[kv]", name) or len(shape) < 2:
        return None
    if matrix.endswith((*_FIRST, "hada_w1_b", "hada_w2_b")):
        return shape[1]
    if matrix in ("lokr_w2", "lokr_w2_b"):  # a Kronecker product: the widths of both factors multiply
        stem = name[: name.rindex("lokr_w2")]
        factor = tensors.get(f"{stem}lokr_w1") or tensors.get(f"{stem}lokr_w1_b")
        return shape[1] * factor.shape[1] if factor and len(factor.shape) == 2 else None
    return None


def _family_of(widths: set[int]) -> str | None:
    return next((family for width, family in FAMILIES.items() if width in widths), None)
