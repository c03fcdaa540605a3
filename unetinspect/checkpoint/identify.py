"""What a checkpoint is, by its header alone: its models, the UNet's class and config, the family, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from unetinspect.checkpoint.adapters import Adapter, find_adapter
from unetinspect.checkpoint.evidence import metadata_evidence, part_evidence, unet_evidence
from unetinspect.checkpoint.header import Header, TensorSpec
from unetinspect.checkpoint.infer import Inferred, count_params, diffusers_names, infer_config
from unetinspect.checkpoint.layouts import Part, find_parts
from unetinspect.record import Checkpoint, CheckpointPart
from unetinspect.record.checkpoint import Content

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I8": "int8",
    "U8": "uint8",
    "I64": "int64",
    "I32": "int32",
    "BOOL": "bool",
}
_PART_WORDS = {"unet": "UNet", "vae": "VAE", "text_encoder": "text encoder", "ema": "EMA weights", "controlnet": "ControlNet"}
_CONTENT_WORDS: dict[Content, str] = {
    "controlnet": "a ControlNet",
    "t2i_adapter": "a T2I-Adapter",
    "motion_adapter": "a motion adapter",
    "vae": "a VAE",
    "text_encoder": "a text encoder",
    "transformer": "a diffusion transformer, and no UNet",
}
_TRANSFORMERS = {
    "FluxTransformer2DModel": "FLUX.1",
    "SD3Transformer2DModel": "Stable Diffusion 3",
    "PixArtTransformer2DModel": "PixArt",
    "AuraFlowTransformer2DModel": "AuraFlow",
    "LTXVideoTransformer3DModel": "LTX-Video",
}
# What a file is called by, where it holds several; what comes later only goes with it.
_ORDER = ("unet", "transformer", "controlnet", "motion_adapter", "t2i_adapter", "vae", "text_encoder")
# Those whose config would be of use here, and is not found.
_WITHOUT_CONFIG = ("motion_adapter", "t2i_adapter")
_PREDICTS = "whether it predicts the noise or the velocity is the scheduler's to know"


def identify(header: Header) -> Checkpoint:
    """Say what a checkpoint is, from the names and shapes of its tensors; never fails: what nothing is known of is "unknown"."""
    adapter = find_adapter(header.tensors)
    if adapter is not None:
        return _adapter_record(header, adapter)
    parts = find_parts(header.tensors)
    main = next((part for kind in _ORDER for part in parts if part.name == kind), None)
    if main is None:
        return _unknown(header, parts)
    if main.name in ("unet", "controlnet"):
        return _unet_record(header, parts, main)
    return _other_record(header, parts, main)


def unet_names(header: Header) -> dict[str, str] | None:
    """Return the name of each tensor of the UNet in the file, by what diffusers calls it; None where there is no UNet.

    Tensors that the original code alone has keep their names.
    """
    part = next((part for part in find_parts(header.tensors) if part.name == "unet"), None)
    if part is None or find_adapter(header.tensors) is not None:
        return None
    return {new: part.prefix + old for new, old in diffusers_names(part.tensors, part.kind.layout).items()}


def _unet_record(header: Header, parts: Sequence[Part], main: Part) -> Checkpoint:
    inferred = infer_config(main.tensors, main.kind.layout, main.kind.class_name)
    content: Content = "controlnet"
    if main.name == "unet":
        content = "pipeline" if any(part.name in ("vae", "text_encoder") for part in parts) else "unet"
    diffusion = (inferred.family or "").startswith("Stable Diffusion") and main.name == "unet"
    told = any("prediction_type" in key for key in header.metadata)
    return Checkpoint(
        **_size(header),
        content=content,
        layout=main.kind.layout,
        class_name=inferred.class_name,
        family=inferred.family,
        models=inferred.models,
        summary=_unet_summary(parts, main, inferred, content),
        parts=_part_records(parts),
        evidence=(*unet_evidence(main, inferred), *map(part_evidence, _beside(parts, main)), *metadata_evidence(header)),
        untold=(*inferred.untold, *((_PREDICTS,) if diffusion and not told else ())),
        config=inferred.config,
    )


def _unet_summary(parts: Sequence[Part], main: Part, inferred: Inferred, content: Content) -> str:
    layout, dtype = f"in the {main.kind.layout} layout", _dtype(main.tensors.values())
    model = f", like {inferred.models[0]}" if inferred.models else ""
    names = {part.name for part in parts}
    if content == "pipeline":
        whole = "a whole" if {"vae", "text_encoder"} <= names else "a"
        words = _joined([_PART_WORDS[name] for name in _PART_WORDS if name in names])
        return f"{whole} {inferred.family + ' ' if inferred.family else ''}checkpoint {layout}{model}: {words}, {dtype}"
    if content == "controlnet":
        return f"a ControlNet{f' ({inferred.class_name})' if inferred.class_name else ''} {layout}{model}, {dtype}"
    what = f"the UNet of {inferred.family}" if inferred.family else "a UNet"
    beside = (
        f", with {_joined(sorted(_PART_WORDS[name] for name in names & {'ema', 'controlnet'}))}" if names & {"ema", "controlnet"} else ""
    )
    return f"{what}{f' ({inferred.class_name})' if inferred.class_name else ''} {layout}{model}{beside}, {dtype}"


def _other_record(header: Header, parts: Sequence[Part], main: Part) -> Checkpoint:
    content = main.kind.content if main.kind.content in _CONTENT_WORDS else _content_of(main)
    family = _TRANSFORMERS.get(main.kind.class_name or "") if content == "transformer" else None
    layout = f" in the {main.kind.layout} layout" if main.kind.layout else ""
    class_name = f" ({main.kind.class_name})" if main.kind.class_name else ""
    of_family = f" of {family}" if family else ""
    what = f"a diffusion transformer{of_family}, and no UNet" if content == "transformer" else _CONTENT_WORDS[content]
    like_a_unet = content in ("transformer", *_WITHOUT_CONFIG)
    return Checkpoint(
        **_size(header),
        content=content,
        layout=main.kind.layout,
        class_name=main.kind.class_name if like_a_unet else None,
        family=family,
        models=(),
        summary=f"{what}{class_name}{layout}, {_dtype(main.tensors.values())}",
        parts=_part_records(parts),
        evidence=(part_evidence(main), *map(part_evidence, _beside(parts, main)), *metadata_evidence(header)),
        untold=("its config is not found from names and shapes: its config.json is needed",) if content in _WITHOUT_CONFIG else (),
    )


def _content_of(part: Part) -> Content:
    return "vae" if part.name == "vae" else "text_encoder"


def _adapter_record(header: Header, adapter: Adapter) -> Checkpoint:
    groups: dict[str, dict[str, TensorSpec]] = {}
    for name, part in adapter.parts.items():
        groups.setdefault(part, {})[name] = header.tensors[name]
    family = f" for {adapter.family}" if adapter.family else ""
    words = _joined([_PART_WORDS.get(name, name).replace("_", " ") for name in groups])
    where = f", of its {words}" if adapter.content == "lora" else ""
    return Checkpoint(
        **_size(header),
        content=adapter.content,
        layout=None,
        class_name=None,
        models=(),
        family=adapter.family,
        summary=f"{adapter.what}{family}{where}, {_dtype(header.tensors.values())}",
        parts=tuple(_part_record(name, _common_prefix(tensors), tensors) for name, tensors in groups.items()),
        evidence=(*adapter.evidence, *metadata_evidence(header)),
        untold=adapter.untold,
    )


def _unknown(header: Header, parts: Sequence[Part]) -> Checkpoint:
    if not header.tensors:
        summary, evidence = "a file without a tensor", ["its header lists none"]
    else:
        names = ", ".join(repr(name[:80]) for name in list(header.tensors)[:3])
        summary = f"nothing that is known here, {_dtype(header.tensors.values())}"
        evidence = [f"its names do not tell what it is, whole as it stands; the first are {names}"]
    return Checkpoint(
        **_size(header),
        content="unknown",
        layout=None,
        class_name=None,
        models=(),
        family=None,
        summary=summary,
        parts=_part_records(parts),
        evidence=(*evidence, *metadata_evidence(header)),
    )


def _size(header: Header) -> dict[str, Any]:
    return {
        "name": header.name,
        "files": header.files,
        "bytes": header.bytes,
        "tensors": len(header.tensors),
        "params": count_params(header.tensors),
        "metadata": header.metadata,
    }


def _beside(parts: Sequence[Part], main: Part) -> list[Part]:
    return [part for part in parts if part is not main and part.name != "other"]


def _part_records(parts: Iterable[Part]) -> tuple[CheckpointPart, ...]:
    rank = {name: index for index, name in enumerate((*_ORDER, "ema", "other"))}
    ordered = sorted(parts, key=lambda part: rank.get(part.name, len(rank)))
    return tuple(_part_record(part.name, part.prefix, part.tensors) for part in ordered)


def _part_record(name: str, prefix: str, tensors: Mapping[str, TensorSpec]) -> CheckpointPart:
    return CheckpointPart(
        name=name,
        prefix=prefix,
        tensors=len(tensors),
        params=count_params(tensors),
        bytes_by_dtype=_bytes_by_dtype(tensors.values()),
    )


def _bytes_by_dtype(tensors: Iterable[TensorSpec]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + (tensor.bytes or 0)
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def _dtype(tensors: Iterable[TensorSpec]) -> str:
    """Say which dtypes take at least a hundredth of the bytes, as torch calls them."""
    sizes = _bytes_by_dtype(tensors)
    total = sum(sizes.values())
    return _joined([_DTYPES.get(dtype, dtype) for dtype, size in sizes.items() if 100 * size >= total]) or "without a number"


def _joined(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _common_prefix(names: Iterable[str]) -> str:
    """Return what all names start with, up to a dot or an underscore."""
    listed = list(names)
    low, high = min(listed), max(listed)
    shared = next((index for index, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    end = max(low.rfind(".", 0, shared), low.rfind("_", 0, shared))
    return low[: end + 1]
