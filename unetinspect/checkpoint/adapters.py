"""Small files that go with a UNet, LoRAs aside: IP-Adapters, embeddings of textual inversion; and what they were trained for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec import Struct

from unetinspect.checkpoint.catalog_tensors import find_tensor
from unetinspect.checkpoint.safetensors_header import TensorSpec
from unetinspect.record import Shape
from unetinspect.record.checkpoint import Content, Layout, Lora
from unetinspect.units import format_shape, plural

# The width of the text embeddings of each family.
FAMILIES = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
_EMBEDDINGS = ("emb_params", "string_to_param", "clip_l", "clip_g", "t5xxl")
# Versions of AnimateDiff's motion modules for Stable Diffusion 1, by how many frames they know and whether the mid block has one.
_ANIMATEDIFF = {(24, False): "v1", (32, True): "v2", (32, False): "v3"}
_IP_KEY = re.compile(
    r"(?:ip_adapter\.|adapter_modules\.)?([0-9]{1,4})\.to_([kv])_ip\.weight"
    r"|double_blocks\.([0-9]{1,4})\.processor\.ip_adapter_double_stream_([kv])_proj\.weight"  # XLabs'
)
_IMAGE_PROJECTION = re.compile(r"(?:image_proj|image_proj_model|proj_model|ip_adapter_proj_model)\.(.+)")
_OF_FLUX = (3072, 4096)  # the width of FLUX.1, and of the text embeddings of T5
_OF_A_FACE = 512  # the width of the face embeddings of InsightFace
# A tensor of the image projection, the kind of IP-Adapter that it shows, and the tensor that shows how many tokens it makes.
_PROJECTIONS = (
    ("proj.weight", "", "proj.weight"),
    ("proj.3.weight", "Full", ""),
    ("perceiver_resampler.proj_in.weight", "FaceID Plus", "proj.2.weight"),
    ("norm.weight", "FaceID", "proj.2.weight"),
    ("latents", "Plus", "latents"),
)
_IP_ADAPTER = {
    "image_proj",
    "ip_adapter",
    "image_proj_model",
    "adapter_modules",
    "unet",
    "proj_model",
    "ip_adapter_proj_model",
    "double_blocks",
}


class Found(Struct, frozen=True, kw_only=True):
    """What a file is, as its `Checkpoint` says it, and what shows it.

    Attributes:
        summary: What it is in a phrase, without how it is stored.
        parts: The part of each tensor of a small file, by its name; {}: of others they are found by prefixes.
    """

    content: Content
    summary: str
    layout: Layout | None = None
    class_name: str | None = None
    family: str | None = None
    models: tuple[str, ...] = ()
    evidence: tuple[str, ...]
    untold: tuple[str, ...] = ()
    config: dict[str, Any] | None = None
    lora: Lora | None = None
    parts: dict[str, str] = {}


def find_adapter(tensors: Mapping[str, TensorSpec]) -> Found | None:
    """Say whether a file is an adapter, and for what."""
    return _textual_inversion(tensors) or _ip_adapter(tensors)


def quoted(name: str, tensor: TensorSpec) -> str:
    """Write a tensor as evidence does: its name and its shape."""
    return f"{name!r} is {format_shape(tensor.shape)}"


def _textual_inversion(tensors: Mapping[str, TensorSpec]) -> Found | None:
    if not tensors or len(tensors) > 8:
        return None
    named = all(name.partition(".")[0] in _EMBEDDINGS for name in tensors)
    # diffusers numbers the vectors of a token: "<cat-toy>_1".
    tokens = all(re.fullmatch(r"<[^<>]+>(?:_[0-9]+)?", name) for name in tensors)
    (name, only), *others = tensors.items()
    free = not others and "." not in name and only.shape[-1:] in ((768,), (1024,), (1280,)) and len(only.shape) == 2 and only.shape[0] <= 77
    if not (named or tokens or free) or any(len(tensor.shape) not in (1, 2) for tensor in tensors.values()):
        return None
    widths = {tensor.shape[-1] for tensor in tensors.values()}
    family = "Stable Diffusion XL" if {"clip_l", "clip_g"} <= tensors.keys() or 1280 in widths else _family_of(widths)
    tensor = tensors[name]
    count = max(len(tensors) if tokens else 1, *(one.shape[0] if len(one.shape) == 2 else 1 for one in tensors.values()), 1)
    return Found(
        content="textual_inversion",
        summary=f"a textual inversion embedding ({plural(count, 'vector')}){f' for {family}' if family else ''}",
        family=family,
        parts=dict.fromkeys(tensors, "text_encoder"),
        evidence=(f"{quoted(name, tensor)}: {tensor.shape[-1]}-dim token embeddings",),
    )


def plug_details(content: Content, tensors: Mapping[str, TensorSpec]) -> tuple[str | None, str]:
    """Return the family of a plug-in whose config no name shows, and what else its shapes show, in words."""
    if content == "motion_adapter":
        levels = len({name.split(".")[1] for name in tensors if name.startswith("down_blocks.")})
        frames = max((tensor.shape[1] for name, tensor in tensors.items() if name.endswith(".pe") and len(tensor.shape) == 3), default=0)
        mid = any(name.startswith("mid_block.") for name in tensors)
        version = "SDXL beta" if levels == 3 else _ANIMATEDIFF.get((frames, mid), "") if levels == 4 else ""
        words = [plural(levels, "level"), f"{'a' if mid else 'no'} mid block", f"{frames} frames" if frames else ""]
        return {3: FAMILIES[2048], 4: FAMILIES[768]}.get(levels), ", ".join(filter(None, [version, *words]))
    if content == "hypernetwork":
        widths = sorted({int(found[0]) for name in tensors if (found := re.match(r"[0-9]{1,5}(?=\.)", name))})
        return _family_of(set(widths)), f"layers of width {', '.join(map(str, widths))}"
    keys = [(name, tensor.shape) for name, tensor in tensors.items() if re.search(r"attn2[._]to_[kv]\.(?:down|weight)$", name)]
    if content == "control_lora":
        ranks = sorted({tensor.shape[0] for name, tensor in tensors.items() if name.endswith(".down") and tensor.shape})
        rank = f"rank {ranks[0]}" + (f" to {ranks[-1]}" if len(ranks) > 1 else "") if ranks else ""
        return _family_of({shape[-1] for _, shape in keys if shape}), rank
    layers = {name.partition(".")[0].removeprefix("lllite_unet_") for name in tensors}
    of_sdxl = all(find_tensor("sdxl", f"{layer}_weight") for layer in layers)
    return FAMILIES[2048] if of_sdxl else None, plural(len(layers), "layer")


class IpAdapter(NamedTuple):
    """What an IP-Adapter's file has for a UNet: its kind, the tokens that it makes of an image and their width, and weights by port.

    The family is what it was trained for, None where widths do not show it.
    """

    kind: str
    family: str | None
    tokens: int | None
    width: int | None
    weights: dict[str, Shape]


def read_ip_adapter(tensors: Mapping[str, TensorSpec]) -> IpAdapter | None:
    """Return what an IP-Adapter's file has, None if it is another file.

    Source: `_convert_ip_adapter_image_proj_to_diffusers` of diffusers' loaders, for the kinds of image projection.
    """
    tops = {name.partition(".")[0] for name in tensors}
    keys = {name: f"{key[1] or key[3]}.to_{key[2] or key[4]}_ip" for name in tensors if (key := _IP_KEY.fullmatch(name))}
    weights = {key: tensors[name].shape for name, key in keys.items()}
    if not tops or not all(top in _IP_ADAPTER or top.isdigit() for top in tops) or not (weights or tops & {"image_proj", "ip_adapter"}):
        return None
    image = {inside[1]: tensor.shape for name, tensor in tensors.items() if (inside := _IMAGE_PROJECTION.fullmatch(name))}
    kind, last = next((row[1:] for row in _PROJECTIONS if row[0] in image), ("", ""))
    width = next((shape[1] for shape in weights.values() if len(shape) == 2), None)
    values = image.get(last, ())
    tokens = values[0] // width if values and width else None
    if last == "latents":  # (1, tokens, width)
        tokens = values[1] if len(values) == 3 else None
    kind = "of InstantID" if kind == "Plus" and image.get("proj_in.weight", ())[1:] == (_OF_A_FACE,) else kind
    of_flux = _OF_FLUX in weights.values()
    family = "FLUX.1" if of_flux else _family_of({shape[1] for shape in weights.values() if len(shape) == 2})
    return IpAdapter(f"IP-Adapter {kind}".strip(), family, tokens, width, weights)


def _ip_adapter(tensors: Mapping[str, TensorSpec]) -> Found | None:
    found = read_ip_adapter(tensors)
    if found is None:
        return None
    evidence = f"{next(iter(tensors))!r} is an IP-Adapter tensor"
    layers = sum(name.endswith("to_k_ip") for name in found.weights)
    if found.width:
        name, tensor = next((name, tensor) for name, tensor in tensors.items() if _IP_KEY.fullmatch(name))
        evidence = f"{quoted(name, tensor)}: {found.width}-dim image tokens for {plural(layers, 'cross-attention layer')}"
    has = [f"{found.tokens} image tokens"] if found.tokens else []
    has += [plural(layers, "cross-attention layer")] if layers else []
    has += ["a LoRA"] if any("_lora." in name for name in tensors) else []
    details = f" ({', '.join(has)})" if has else ""
    return Found(
        content="ip_adapter",
        summary=f"an {found.kind}{details}{f' for {found.family}' if found.family else ''}",
        family=found.family,
        parts={
            name: "image_proj" if _IMAGE_PROJECTION.fullmatch(name) else "transformer" if found.family == "FLUX.1" else "unet"
            for name in tensors
        },
        evidence=(evidence,),
    )


def _family_of(widths: set[int]) -> str | None:
    return next((family for width, family in FAMILIES.items() if width in widths), None)
