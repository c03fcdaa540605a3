"""What a checkpoint is, by its header alone: its models, the UNet's class and config, the family, and what shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec.structs import asdict, replace

from unetinspect.catalog import load_catalog
from unetinspect.checkpoint.adapters import FAMILIES, Found, find_adapter, plug_details, quoted
from unetinspect.checkpoint.affixes import PREDICTION_MARKERS
from unetinspect.checkpoint.catalog_tensors import find_tensor, tensors_of
from unetinspect.checkpoint.file_parts import CONTENT_WORDS, Part, common_prefix, find_parts, shard_of
from unetinspect.checkpoint.infer import NO_CONFIG, Inferred, count_params, infer_config, infer_t2i_adapter, known_first
from unetinspect.checkpoint.lora import find_lora, transformer_family
from unetinspect.checkpoint.original_layout import diffusers_tensors, is_original
from unetinspect.checkpoint.safetensors_header import Header, TensorSpec
from unetinspect.record import Checkpoint, CheckpointPart
from unetinspect.record.checkpoint import Content
from unetinspect.units import joined, largest, plural

# What torch calls the dtypes of safetensors.
_NUMBERS = {"F": "float", "I": "int", "U": "uint"}
_DTYPES = {f"{letter}{bits}": f"{word}{bits}" for letter, word in _NUMBERS.items() for bits in (8, 16, 32, 64)}
_DTYPES |= {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "BOOL": "bool"}
_PART_WORDS = {
    "unet": "UNet",
    "vae": "VAE",
    "text_encoder": "text encoder",
    "ema": "EMA weights",
    "controlnet": "ControlNet",
    "lora": "a LoRA",
}
_TRANSFORMERS = {
    "FluxTransformer2DModel": "FLUX.1",
    "HunyuanVideoTransformer3DModel": "HunyuanVideo",
    "SD3Transformer2DModel": "Stable Diffusion 3",
    "PixArtTransformer2DModel": "PixArt",
    "AuraFlowTransformer2DModel": "AuraFlow",
    "LTXVideoTransformer3DModel": "LTX-Video",
}
# A file is what it contains first of these; the others only go with it.
_PLUGINS = ("control_lora", "controlnet_lllite", "hypernetwork", "motion_adapter")
_ORDER = ("unet", "transformer", "controlnet", *_PLUGINS, "t2i_adapter", "vae", "text_encoder", "image_encoder")
_METADATA = ("modelspec.architecture", "modelspec.title", "modelspec.prediction_type", "ss_base_model_version", "ss_network_module")
_LONGEST = 80
# How the names of the tensors of a UNet's blocks start, in both layouts.
_STAGES = ("down_blocks.", "mid_block.", "up_blocks.", "input_blocks.", "middle_block.", "output_blocks.")


def identify(header: Header) -> Checkpoint:
    """Say what a checkpoint is, from the names and shapes of its tensors; never fails: what is not known is "unknown"."""
    found = find_adapter(header.tensors) or find_lora(header)
    if found is None:
        parts = find_parts(header.tensors)
        found = _of_parts(header, parts)
        rank = {name: index for index, name in enumerate((*_ORDER, "ema", "lora", "other"))}
        parts.sort(key=lambda part: rank.get(part.name, len(rank)))
        records = [_part_record(part.name, part.prefix, part.stored, part.tensors, part.form) for part in parts]
    else:
        groups: dict[str, dict[str, TensorSpec]] = {}
        for name, part_name in found.parts.items():
            groups.setdefault(part_name, {})[name] = header.tensors[name]
        # The names of embeddings are whole: what they have in common ("clip_" of clip_l and clip_g) is no prefix.
        has_prefix = found.content != "textual_inversion"
        records = [_part_record(name, common_prefix(own) if has_prefix else "", own, own) for name, own in groups.items()]
        found = replace(found, summary=f"{found.summary}, {_dtype(header.tensors.values())}")
    written = tuple(f"metadata {key}: {header.metadata[key][:_LONGEST]!r}" for key in _METADATA if key in header.metadata)
    return Checkpoint(
        name=header.name,
        files=header.files,
        bytes=header.bytes,
        tensors=len(header.tensors),
        params=sum(record.params for record in records),
        metadata=header.metadata,
        **(asdict(found) | {"parts": tuple(records), "evidence": (*found.evidence, *written)}),
    )


def _of_parts(header: Header, parts: Sequence[Part]) -> Found:
    main = next((part for name in _ORDER for part in parts if part.name == name), None)
    if main is None:
        return _of_shard(header, parts) or _of_unknown(header)
    found = _of_unet(header, parts, main) if main.name in ("unet", "controlnet") else _of_other(main)
    others = (part for part in parts if part is not main and part.name != "other")
    return replace(found, evidence=(*found.evidence, *map(_part_evidence, others)))


def _of_unet(header: Header, parts: Sequence[Part], main: Part) -> Found:
    inferred = infer_config(main.tensors, main.kind.layout, main.kind.class_name)
    content: Content = "controlnet"
    if main.name == "unet":
        content = "pipeline" if any(part.name in ("vae", "text_encoder") for part in parts) else "unet"
    else:  # the family of the UNets that it is for
        widths = (tensor.shape[-1] for name, tensor in main.tensors.items() if name.endswith(".attn2.to_k.weight") and tensor.shape)
        inferred = replace(inferred, family=FAMILIES.get(next(widths, 0), inferred.family))
    markers = {name: what for name, what in PREDICTION_MARKERS.items() if name in header.tensors}
    untold = inferred.untold
    if main.name == "unet" and (inferred.family or "").startswith("Stable Diffusion"):
        shown = any("prediction_type" in key for key in header.metadata) or bool(markers)
        untold += () if shown else ("epsilon or v-prediction: a scheduler setting, not in the file",)
    return Found(
        content=content,
        layout=main.kind.layout,
        class_name=inferred.class_name,
        family=inferred.family,
        models=inferred.models,
        summary=_unet_summary(parts, main, inferred, content, markers.values()),
        evidence=(
            *_unet_evidence(main, inferred),
            *(f"marker tensor {name!r}: {what}" for name, what in markers.items()),
        ),
        untold=untold,
        config=inferred.config,
    )


def _unet_summary(parts: Sequence[Part], main: Part, inferred: Inferred, content: Content, markers: Iterable[str]) -> str:
    layout, names = f"in the {main.kind.layout} layout", {part.name for part in parts}
    form, _, tool = (main.form or "").removesuffix(")").partition(" (")
    stored = ", ".join((main.form or _dtype(main.stored.values()), *markers))
    model = f", like {inferred.models[0]}" if inferred.models else ""
    class_name = f" ({inferred.class_name})" if inferred.class_name else ""
    if content == "pipeline":
        whole = "a whole" if {"vae", "text_encoder"} <= names else "a"
        words = joined([*(word for name, word in _PART_WORDS.items() if name in names and name != "text_encoder"), *_encoders(parts)])
        return f"{whole} {inferred.family + ' ' if inferred.family else ''}checkpoint {layout}{model}: {words}, {stored}"
    if content == "controlnet":
        family = f" for {inferred.family}" if inferred.family in FAMILIES.values() else ""
        return f"a ControlNet{class_name}{family} {layout}{model}, {stored}"
    what = f"the UNet of {inferred.family}" if inferred.family else "a UNet"
    beside = sorted(_PART_WORDS[name] for name in names & {"ema", "controlnet", "lora"})
    beside += ["GLIGEN"] if any(name.startswith("position_net.") for name in main.tensors) else []
    described = f"{what}{class_name} {layout}{model}{f', with {joined(beside)}' if beside else ''}"
    if main.form:
        return ", ".join((f"{form} of {described}", *([tool] if tool else []), *markers))
    return f"{described}, {stored}"


def _encoders(parts: Sequence[Part]) -> list[str]:
    """Name the encoders of a whole checkpoint: SGM numbers them behind one prefix."""
    encoders: dict[str, list[str]] = {}
    for part in parts:
        for name in part.tensors if part.name == "text_encoder" else ():
            number = name.partition(".")[0] if part.prefix == "conditioner.embedders." else ""
            encoders.setdefault(part.prefix + number, []).append(name)
    words = ["image encoder" if any(".visual." in name for name in names) else "text encoder" for names in encoders.values()]
    return [word if count == 1 else f"{count} {word}s" for word, count in Counter(words).items()]


def _unet_evidence(part: Part, inferred: Inferred) -> Iterator[str]:
    if part.kind.because:
        yield _name_evidence(part, f"a {part.kind.class_name or 'UNet'}")
    yield from part.remarks
    yield from _shape_evidence(part)
    if inferred.models:
        yield f"{count_params(part.tensors):,} parameters and the structure of {', '.join(inferred.models)} (catalog)"


def _name_evidence(part: Part, what: str) -> str:
    layout = {None: "", "diffusers": " in the diffusers layout", "original": " in the original layout (LDM, ComfyUI)"}[part.kind.layout]
    return f"{part.names[part.kind.because or '']!r} is a tensor of {what}{layout}"


def _shape_evidence(part: Part) -> Iterator[str]:
    """Quote the tensors whose shapes decide what fits the UNet."""
    named = diffusers_tensors(part.tensors, part.kind.layout, names=part.names)
    file_tensors = {whole: part.tensors[name] for name, whole in part.names.items()}
    text = next((name for name in named if name.endswith(".attn2.to_k.weight")), "")
    projection = text.partition(".transformer_blocks.")[0] + ".proj_in.weight"
    for name, axes, meaning in (
        ("conv_in.weight", 4, "{1} input channels, {0} in the first block"),
        (text, 2, "cross-attends to {1}-dim text embeddings"),
        (projection, 4, "a convolution, as in Stable Diffusion 1"),
        (projection, 2, "a linear layer, as in Stable Diffusion 2 and XL"),
        ("add_embedding.linear_1.weight", 2, "{1}-dim input of the added embedding"),
        ("class_embedding.linear_1.weight", 2, "conditioned on class labels"),
        ("class_embedding.weight", 2, "conditioned on class labels"),
    ):
        if name in named and len(named[name].shape) == axes:
            old = named[name].name
            unpacked = " unpacked" if part.stored.get(old) != file_tensors[old] else ""
            yield f"{quoted(old, file_tensors[old])}{unpacked}: {meaning.format(*named[name].shape)}"


def _part_evidence(part: Part) -> str:
    words = {"vae": "the VAE", "text_encoder": "the text encoder", "ema": "EMA weights (a moving average of the UNet's)"}
    if part.prefix and part.name in words:
        return f"{plural(len(part.stored), 'tensor')} with prefix {part.prefix!r}: {words[part.name]}"
    if part.kind.because and part.kind.content in CONTENT_WORDS:
        return _name_evidence(part, CONTENT_WORDS[part.kind.content])
    if part.name == "lora":
        return f"{plural(len(part.stored), 'tensor')} of a LoRA beside the layers that it changes: {next(iter(part.stored))!r}"
    return f"{plural(len(part.stored), 'tensor')} with prefix {part.prefix!r}" if part.prefix else "no known tensor names"


def _of_other(main: Part) -> Found:
    content, class_name = main.kind.content, main.kind.class_name
    if content not in CONTENT_WORDS:
        content = "vae" if main.name == "vae" else "text_encoder"
    family = _TRANSFORMERS.get(class_name or "") if content == "transformer" else None
    if content == "transformer" and family is None:
        inputs_of = {name.removesuffix(".weight"): tensor.shape[-1] for name, tensor in main.tensors.items() if tensor.shape}
        family, _ = transformer_family(inputs_of) or (None, "")
    whose, details = f" of {family}" if family else "", f" ({class_name})" if class_name else ""
    if content in _PLUGINS:
        family, words = plug_details(content, main.tensors)
        whose, details = f" for {family}" if family else "", f" ({words})" if words else ""
    needs_config = content in ("motion_adapter", "t2i_adapter")
    inferred = Inferred(class_name=class_name, config=None, untold=NO_CONFIG)
    if content == "t2i_adapter":
        inferred = infer_t2i_adapter(main.tensors, main.kind.layout)
        family, whose = inferred.family, f" for {inferred.family}" if inferred.family else ""
    what = f"{CONTENT_WORDS[content]}{whose}{details}"
    layout = f" in the {main.kind.layout} layout" if main.kind.layout else ""
    but = ", not a UNet" if content == "transformer" else ""
    return Found(
        content=content,
        layout=main.kind.layout,
        class_name=class_name if needs_config or content == "transformer" or class_name == "AutoencoderTiny" else None,
        family=family,
        summary=f"{what}{layout}{but}, {_dtype(main.stored.values())}",
        evidence=(_part_evidence(main),),
        untold=inferred.untold if needs_config else (),
        config=inferred.config,
    )


def _of_shard(header: Header, parts: Sequence[Part]) -> Found | None:
    """Say of which models of the catalog a file has some of the tensors, if it has nothing else; None: of none."""
    tensors = {name: tensor.shape for part in parts for name, tensor in part.tensors.items()}
    if not any(name.startswith(_STAGES) for name in tensors):
        return None
    models = [
        entry
        for entry in load_catalog().values()
        if len(tensors) < len(tensors_of(entry.name)) and all(find_tensor(entry.name, name) == shape for name, shape in tensors.items())
    ]
    if not models:
        return None
    first, *others = known_first(models)
    number = shard_of(header.name) or "one file of several"
    found = f"{len(tensors):,} of the {len(tensors_of(first.name)):,} tensors"
    also = f", or of {', '.join(entry.name for entry in others)}" if others else ""
    classes, families = (sorted({str(getattr(entry, field)) for entry in models}) for field in ("class_name", "family"))
    return Found(
        content="controlnet" if classes == ["ControlNetModel"] else "unet",
        layout="original" if any(map(is_original, tensors)) else "diffusers",
        class_name=classes[0] if len(classes) == 1 else None,
        family=families[0] if len(families) == 1 else None,
        summary=f"a part of {joined(classes)} ({number}): {found} of {first.name}{also}, {_dtype(header.tensors.values())}",
        evidence=(f"all its tensors are those of {', '.join(entry.name for entry in models)} by name and shape (catalog)",),
        untold=("the config: give the .safetensors.index.json beside its files, or the config.json",),
    )


def _of_unknown(header: Header) -> Found:
    if not header.tensors:
        return Found(content="unknown", summary="a file without tensors", evidence=("no tensors in its header",))
    names = ", ".join(repr(name[:_LONGEST]) for name in list(header.tensors)[:3])
    summary = f"unknown file type, {_dtype(header.tensors.values())}"
    return Found(content="unknown", summary=summary, evidence=(f"no known tensor names; the first are {names}",))


def _part_record(
    name: str, prefix: str, stored: Mapping[str, TensorSpec], tensors: Mapping[str, TensorSpec], form: str | None = None
) -> CheckpointPart:
    return CheckpointPart(
        name=name,
        prefix=prefix,
        tensors=len(stored),
        params=count_params(tensors),
        bytes_by_dtype=_bytes_by_dtype(stored.values()),
        quantization=form,
    )


def _bytes_by_dtype(tensors: Iterable[TensorSpec]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + (tensor.bytes or 0)
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def _dtype(tensors: Iterable[TensorSpec]) -> str:
    """Name the dtypes that take at least a hundredth of the bytes, as torch does."""
    return joined([_DTYPES.get(dtype, dtype) for dtype in largest(_bytes_by_dtype(tensors))] or ["no values"])
