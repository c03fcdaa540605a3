"""Files of a LoRA or an IP-Adapter that do not fit the UNet they are loaded into."""

from __future__ import annotations

import re
from collections.abc import Sequence

from unetinspect.catalog import load_catalog
from unetinspect.explain.layers import catalog_layers
from unetinspect.explain.recogniser import Said, meant
from unetinspect.explain.tensors import Differences, Mismatch
from unetinspect.explain.widths import whose
from unetinspect.record import ModelMatch, NumberMeaning

_LORA = re.compile(r"lora[_.](?:A|B|down|up)\b|\.lora\.|_lora\.|lora_[AB]_|lora_(?:unet|te)")
_IMAGE_PROJECTIONS = (
    "Resampler",
    "ImageProjModel",
    "MLPProjModel",
    "ImageProjection",
    "IPAdapterPlusImageProjection",
    "MultiIPAdapterImageProjection",
)
_IP_KEY = re.compile(r"^([0-9]{1,6})\.to_[kv]_ip\b")
_KEYS = (".to_k.", ".to_v.", "_to_k.", "_to_v.")


def said(class_name: str | None, differences: Differences) -> Said | None:
    """Return the words for a LoRA's or an IP-Adapter's file; None for any other."""
    if any(_IP_KEY.match(name) for name in differences.names):
        return _ip_adapter(differences)
    if class_name in _IMAGE_PROJECTIONS:
        return _image_projection(str(class_name), differences)
    if any(_LORA.search(name) for name in differences.names):
        return _lora(differences)
    return None


def _lora(differences: Differences) -> Said:
    cross = next((mismatch for mismatch in differences.mismatches if _is_cross_input(mismatch)), None)
    numbers: list[NumberMeaning] = [meant(len(differences.names), "tensors named")]
    models: list[ModelMatch] = []
    words = "Its layers have other channels than those of the UNet."
    if cross is not None:
        file, model = cross.in_file[1], cross.in_model[1]
        words = f"Its cross-attention takes text embeddings {file} wide, and that of the UNet {model}."
        numbers += [
            meant(file, f"width in the LoRA{whose(file)}"),
            meant(model, f"width in the UNet{whose(model)}"),
            meant(cross.in_file[0], "the LoRA's rank, which may be any"),
        ]
        models = [*_taking(file, "the LoRA was made for such a width"), *_taking(model, "the UNet has such a width")]
    return Said(
        "lora_checkpoint",
        f"A LoRA is loaded into a UNet of another family than it was trained on. {words}",
        numbers,
        models,
        [
            (
                "load it into the base model its page names, or take a LoRA for this one: those for Stable Diffusion 1.x, 2.x and SDXL "
                "do not mix"
            ),
            "`unetinspect identify LORA.safetensors` says for which family it is",
            "`unetinspect names MODEL KEY` says which layer a key is for",
        ],
    )


def _is_cross_input(mismatch: Mismatch) -> bool:
    """Tell whether it is the first of a LoRA's two matrices at a key of cross-attention: (rank, width of the text)."""
    down = re.search(r"lora[_.](?:A|down)\b", mismatch.name) is not None
    shapes = min(len(mismatch.in_file), len(mismatch.in_model)) >= 2
    return down and shapes and "attn2" in mismatch.name and any(key in mismatch.name for key in _KEYS)


def _taking(width: int, words: str) -> list[ModelMatch]:
    names = dict.fromkeys(layer.model for layer in catalog_layers() if layer.role == "cross_attention" and layer.takes == width)
    return [ModelMatch(name=name, role=words, where=("cross_attention_dim",)) for name in names]


def _ip_adapter(differences: Differences) -> Said:
    in_file = _layers([*differences.unexpected, *(mismatch.name for mismatch in differences.mismatches)])
    in_model = _layers([*differences.missing, *(mismatch.name for mismatch in differences.mismatches)])
    numbers = []
    if differences.unexpected and in_file:
        numbers.append(meant(in_file, "attention layers, at least, of the UNet that the file is for: its largest key and one"))
    if differences.missing and in_model:
        numbers.append(meant(in_model, "attention layers, at least, of the UNet that it is loaded into"))
    by_order = (
        ""
        if not _even(differences.missing)
        else (
            " The UNet's keys here are even numbers too: its attention processors were counted in another order, or self-attention has "
            "them too, "
            "as when ModuleList is built before the processors are set."
        )
    )
    return Said(
        "ip_adapter_checkpoint",
        "An IP-Adapter's file does not fit the UNet. Its keys N.to_k_ip.weight count every attention layer, self-attention included, so "
        "that those "
        f"of cross-attention are odd: up to 31 for a UNet of 32 layers (Stable Diffusion 1.x), up to 139 for SDXL's 140.{by_order}",
        numbers,
        _counted(in_file, "as the file's keys need"),
        [
            "take the adapter for this UNet: models/ for Stable Diffusion 1.x, sdxl_models/ for SDXL",
            "load it with pipeline.load_ip_adapter(...), which sets the processors in diffusers' own order",
            "`unetinspect ports MODEL` lists the keys and shapes that this UNet takes",
            "`unetinspect names MODEL 1.to_k_ip.weight` says which layer a key is for",
        ],
    )


def _layers(names: Sequence[str]) -> int:
    """Return the number of attention layers that the largest key stands for, 0 where there is none."""
    return max((int(match[1]) + 1 for match in map(_IP_KEY.match, names) if match), default=0)


def _even(names: Sequence[str]) -> bool:
    return any(int(match[1]) % 2 == 0 for match in map(_IP_KEY.match, names) if match)


def _counted(layers: int, words: str) -> list[ModelMatch]:
    return [
        ModelMatch(name=name, role=f"has {layers} attention layers, {words}")
        for name, entry in load_catalog().items()
        if layers and entry.attention_layers == layers and entry.config.get("cross_attention_dim")
    ]


def _image_projection(class_name: str, differences: Differences) -> Said:
    plus = any("perceiver" in name or "layers." in name or "latents" in name for name in differences.names)
    shapes = [
        meant(shape, f"{mismatch.name} in the {side}")
        for mismatch in differences.mismatches[:2]
        for shape, side in ((mismatch.in_file, "file"), (mismatch.in_model, "model"))
    ]
    return Said(
        "ip_adapter_checkpoint",
        f"The image projection of an IP-Adapter ({class_name}) does not fit its file: "
        + (
            "the file is one of another kind (Plus and FaceID have a Resampler, the plain one a linear layer)."
            if plus and not shapes
            else ""
        )
        + (
            "most likely the adapter and the image encoder do not belong together: ViT-H is 1024 wide (1280 inside), ViT-bigG 1280 (1664 "
            "inside)."
            if shapes
            else ""
        )
        + ("" if plus or shapes else "it is another kind of adapter."),
        shapes,
        (),
        [
            (
                "load the image encoder that belongs to the adapter: ViT-H for those with vit-h in their name and all of Stable Diffusion "
                "1.x, else ViT-bigG"
            ),
            "load the adapter with the class or node that is made for its kind: plain, Plus, FaceID",
        ],
    )
