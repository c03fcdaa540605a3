"""What in a header says what a checkpoint is: sentences that quote its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from unetinspect.checkpoint.adapters import quoted
from unetinspect.checkpoint.header import Header, TensorSpec
from unetinspect.checkpoint.infer import Inferred, count_params, diffusers_names
from unetinspect.checkpoint.layouts import Part
from unetinspect.units import plural

_CONTENTS = {
    "vae": "a VAE",
    "text_encoder": "a text encoder",
    "controlnet": "a ControlNet",
    "motion_adapter": "a motion adapter (AnimateDiff)",
    "t2i_adapter": "a T2I-Adapter",
    "transformer": "a diffusion transformer, and no UNet",
}
_BEHIND = {"vae": "the VAE", "text_encoder": "the text encoder", "ema": "the moving average of the UNet's weights"}
_LAYOUTS = {"diffusers": "as diffusers names it", "original": "as the original code and ComfyUI name it"}
_METADATA = ("modelspec.architecture", "modelspec.title", "modelspec.prediction_type", "ss_base_model_version", "ss_network_module")
_LONGEST = 80


def unet_evidence(part: Part, inferred: Inferred) -> Iterator[str]:
    """Say what of its tensors tells which UNet it is."""
    if part.kind.because:
        layout = f", {_LAYOUTS[part.kind.layout]}" if part.kind.layout else ""
        what = f"a {part.kind.class_name}" if part.kind.class_name else "a UNet"
        yield f"{part.prefix + part.kind.because!r} is a tensor of {what}{layout}"
    yield from _shapes(part)
    if inferred.models:
        params = count_params(part.tensors)
        yield f"{params:,} parameters and the same structure: {', '.join(inferred.models)} in the catalog"


def _shapes(part: Part) -> Iterator[str]:
    """Quote the tensors whose shapes decide what fits the UNet."""
    names = diffusers_names(part.tensors, part.kind.layout)

    def tensor(name: str, axes: int) -> tuple[str, TensorSpec] | None:
        old = names.get(name)
        found = part.tensors[old] if old is not None else None
        return (quoted(part.prefix + (old or ""), found), found) if found and len(found.shape) == axes else None

    if found := tensor("conv_in.weight", 4):
        yield f"{found[0]}: its sample has {found[1].shape[1]} channels, its first block {found[1].shape[0]}"
    text = next((name for name in names if name.endswith(".attn2.to_k.weight")), "")
    if found := tensor(text, 2):
        yield f"{found[0]}: the text is {found[1].shape[1]} wide"
    inner = text.partition(".transformer_blocks.")[0] + ".proj_in.weight"
    if found := tensor(inner, 4):
        yield f"{found[0]}: a convolution, as in Stable Diffusion 1"
    elif found := tensor(inner, 2):
        yield f"{found[0]}: a linear layer, as in Stable Diffusion 2 and XL"
    if found := tensor("add_embedding.linear_1.weight", 2):
        yield f"{found[0]}: {found[1].shape[1]} values are added to the embedding of the time, beside it"
    for name in ("class_embedding.linear_1.weight", "class_embedding.weight"):
        if found := tensor(name, 2):
            yield f"{found[0]}: it takes class labels"


def part_evidence(part: Part) -> str:
    """Say what of its tensors tells what another part is."""
    if part.name in _BEHIND and part.prefix:
        return f"{part.prefix!r} stands before {plural(len(part.tensors), 'tensor')}: {_BEHIND[part.name]}"
    because = part.kind.because
    if because is None or part.kind.content not in _CONTENTS:
        return f"{part.prefix!r} stands before {plural(len(part.tensors), 'tensor')}" if part.prefix else "no name is one that is known"
    layout = f", {_LAYOUTS[part.kind.layout]}" if part.kind.layout else ""
    return f"{part.prefix + because!r} is a tensor of {_CONTENTS[part.kind.content]}{layout}"


def metadata_evidence(header: Header) -> Iterator[str]:
    """Quote what the writer of the file says that it is, which nobody has checked."""
    for key, value in _found(header.metadata):
        yield f"its metadata says {key}: {value[:_LONGEST]!r}"


def _found(metadata: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    yield from ((key, metadata[key]) for key in _METADATA if key in metadata)
