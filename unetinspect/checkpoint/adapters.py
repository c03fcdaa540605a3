"""Small files that go with a UNet: LoRAs, IP-Adapters, embeddings of textual inversion; and which family they were trained for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from msgspec import Struct

from unetinspect.checkpoint.header import TensorSpec
from unetinspect.record.checkpoint import Content
from unetinspect.units import format_shape, plural

_LORA = re.compile(
    r"(?:\.|_)(lora_down|lora_up|lora_mid|lora_A|lora_B|lora\.down|lora\.up|hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t2"
    r"|oft_blocks|oft_diag|dora_scale|lora_magnitude_vector|ia3_l)(?:\.[A-Za-z0-9_]+)*$"
)
# A name ends with what says that it is a matrix of a LoRA; longer ends are looked at no further.
_END = 160
_KINDS = {"hada": "LoHa of LyCORIS", "lokr": "LoKr of LyCORIS", "oft": "OFT", "ia3": "IA3 of LyCORIS"}
# Names end with these beside the matrices, and belong to them.
_BESIDE = (".alpha", ".scale", ".diff", ".diff_b", ".bias", ".lora_magnitude_vector")
_TEXT = re.compile(r"lora_te[123]?_|text_encoder(?:_[23])?[._]|conditioner\.|clip_[lg]\.|text_model\.")
_WIDTHS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
_WORDS = {
    "double_blocks": "FLUX.1",
    "single_transformer_blocks": "FLUX.1",
    "joint_blocks": "Stable Diffusion 3",
    "add_k_proj": "Stable Diffusion 3",
    "lora_te2_": "Stable Diffusion XL",
    "text_encoder_2": "Stable Diffusion XL",
}
_EMBEDDINGS = ("emb_params", "string_to_param", "clip_l", "clip_g", "t5xxl")


class Adapter(Struct, frozen=True, kw_only=True):
    """A small file that goes with a UNet.

    Attributes:
        content: What it is.
        what: What to call it in a sentence.
        family: What it was trained for, as the catalog calls it; None where widths do not tell.
        parts: The part of each tensor, by its name.
        evidence: What says so, a sentence each.
        untold: What no name tells, a sentence each.
    """

    content: Content
    what: str
    family: str | None
    parts: dict[str, str]
    evidence: tuple[str, ...]
    untold: tuple[str, ...] = ()


def find_adapter(tensors: Mapping[str, TensorSpec]) -> Adapter | None:
    """Tell whether a file is an adapter, and for what."""
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
    family = "Stable Diffusion XL" if {"clip_l", "clip_g"} <= tensors.keys() or 1280 in widths else _family_of(widths)
    name, tensor = next(iter(tensors.items()))
    return Adapter(
        content="textual_inversion",
        what="an embedding of textual inversion",
        family=family,
        parts=dict.fromkeys(tensors, "text_encoder"),
        evidence=(f"{quoted(name, tensor)}: rows of a text encoder's table, {tensor.shape[-1]} wide",),
    )


def _ip_adapter(tensors: Mapping[str, TensorSpec]) -> Adapter | None:
    tops = {name.partition(".")[0] for name in tensors}
    if not tops or not tops <= {"image_proj", "ip_adapter", "image_proj_model", "adapter_modules", "unet", "proj_model"}:
        return None
    keys = [(name, tensor) for name, tensor in tensors.items() if name.endswith(".to_k_ip.weight") and len(tensor.shape) == 2]
    if not keys and not tops & {"image_proj", "ip_adapter"}:
        return None
    evidence = [f"{next(iter(tensors))!r} is a name that only an IP-Adapter has"]
    if keys:
        name, tensor = keys[0]
        evidence = [
            f"{quoted(name, tensor)}: keys of {plural(len(keys), 'cross-attention layer')} read image tokens {tensor.shape[1]} wide"
        ]
    parts = {name: "image_proj" if name.startswith(("image_proj", "proj_model")) else "unet" for name in tensors}
    family = _family_of({tensor.shape[1] for _, tensor in keys})
    return Adapter(content="ip_adapter", what="an IP-Adapter", family=family, parts=parts, evidence=tuple(evidence))


def _lora(tensors: Mapping[str, TensorSpec]) -> Adapter | None:
    found = {name: match[1] for name in tensors if (match := _matrix(name))}
    counted = [name for name in tensors if not name.endswith(_BESIDE)]
    if not found or 2 * len(found) < len(counted):
        return None
    parts = {name: _lora_part(name) for name in tensors}
    kind = Counter(word.partition("_")[0] for word in found.values()).most_common(1)[0][0]
    what = f"a LoRA ({_KINDS[kind]})" if kind in _KINDS else "a LoRA"
    family, why = _trained_for(tensors)
    first, word = next(iter(found.items()))
    evidence = [f"{first!r} is a name that only {_KINDS[kind]} has"] if kind in _KINDS else _rank(first, tensors[first], word)
    if "unet" in parts.values() and family in ("FLUX.1", "Stable Diffusion 3"):
        parts = {name: "transformer" if part == "unet" else part for name, part in parts.items()}
    untold = () if family else ("what it was trained for is not told by its names: none of its layers reads the text",)
    return Adapter(content="lora", what=what, family=family, parts=parts, evidence=(*evidence, *why), untold=untold)


def _lora_part(name: str) -> str:
    if _TEXT.match(name):
        return "text_encoder"
    return "transformer" if name.startswith(("transformer.", "lora_transformer_")) else "unet"


def _rank(name: str, tensor: TensorSpec, word: str) -> list[str]:
    """Say of which rank the first matrix of a LoRA is: the rows of the one that comes first in a layer, the columns of the other."""
    if len(tensor.shape) < 2:
        return [f"{name!r} is a name of a LoRA"]
    comes_first = word in ("lora_down", "lora_A", "lora.down")
    return [f"{quoted(name, tensor)}: one of the two matrices of a layer, of rank {tensor.shape[0 if comes_first else 1]}"]


def _trained_for(tensors: Mapping[str, TensorSpec]) -> tuple[str | None, tuple[str, ...]]:
    """Return the family of a LoRA and the sentences that say so: the width of the text first, then names that only one family has."""
    for name, tensor in tensors.items():
        width = _text_width(name, tensor, tensors)
        if width in _WIDTHS:
            return _WIDTHS[width], (f"{quoted(name, tensor)}: the text that this layer reads is {width} wide",)
    for word, family in _WORDS.items():
        found = next((name for name in tensors if word in name), None)
        if found:
            return family, (f"{found!r} is a name of {family}",)
    return None, ()


def _text_width(name: str, tensor: TensorSpec, tensors: Mapping[str, TensorSpec]) -> int | None:
    """Return how many values the cross-attention layer takes that a tensor is for, None where it is for another."""
    found = _matrix(name)
    if found is None or not re.search(r"attn2[._](?:processor[._])?to_[kv]", name) or len(tensor.shape) < 2:
        return None
    if found[1] in ("lora_down", "lora_A", "lora.down", "hada_w1_b", "hada_w2_b"):
        return tensor.shape[1]
    if found[1] in ("lokr_w2", "lokr_w2_b"):  # a Kronecker product: the widths of both factors multiply
        stem = name[: name.rindex("lokr_w2")]
        factor = tensors.get(f"{stem}lokr_w1") or tensors.get(f"{stem}lokr_w1_b")
        return tensor.shape[1] * factor.shape[1] if factor and len(factor.shape) == 2 else None
    return None


def _matrix(name: str) -> re.Match[str] | None:
    return _LORA.search(name[-_END:])


def _family_of(widths: set[int]) -> str | None:
    return next((family for width, family in _WIDTHS.items() if width in widths), None)
