"""Small files that go with a UNet, LoRAs aside: IP-Adapters, embeddings of textual inversion; and what they were trained for."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from unetinspect.checkpoint.safetensors_header import TensorSpec
from unetinspect.record.checkpoint import Content, Lora
from unetinspect.units import format_shape, plural

# The width of the text embeddings of each family.
FAMILIES = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
_EMBEDDINGS = ("emb_params", "string_to_param", "clip_l", "clip_g", "t5xxl")
_IP_ADAPTER = {"image_proj", "ip_adapter", "image_proj_model", "adapter_modules", "unet", "proj_model"}


class Adapter(Struct, frozen=True, kw_only=True):
    """A small file that goes with a UNet.

    Attributes:
        content: What it is.
        summary: What it is in a phrase; "": its content and family say it all.
        models: The models of the catalog that it fits.
        lora: What it changes, if it is a LoRA.
        family: What it was trained for, as the catalog calls it; None where widths do not show it.
        parts: The part of each tensor, by its name.
        evidence: What shows it, a sentence each.
        untold: What no name shows, a sentence each.
    """

    content: Content
    summary: str = ""
    models: tuple[str, ...] = ()
    lora: Lora | None = None
    family: str | None
    parts: dict[str, str]
    evidence: tuple[str, ...]
    untold: tuple[str, ...] = ()


def find_adapter(tensors: Mapping[str, TensorSpec]) -> Adapter | None:
    """Say whether a file is an adapter, and for what."""
    return _textual_inversion(tensors) or _ip_adapter(tensors)


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


def _family_of(widths: set[int]) -> str | None:
    return next((family for width, family in FAMILIES.items() if width in widths), None)
