"""A file of weights that does not fit the model it is loaded into: another family, another kind of UNet, a LoRA, an adapter."""

from __future__ import annotations

import re
from collections.abc import Sequence

from unetinspect.checkpoint.original_layout import is_original
from unetinspect.explain import adapter_files
from unetinspect.explain.recogniser import Recogniser, Said, Scene, explained, meant, shape_of
from unetinspect.explain.tensors import Differences, Mismatch, models_with, read_differences
from unetinspect.record import ErrorExplanation, ModelMatch, NumberMeaning

_KEYS_SHOWN = 4
_HEAD_CHARACTERS = 400
_CROSS = (".attn2.to_k.weight", ".attn2.to_v.weight")
_PROJECTIONS = (".proj_in.weight", ".proj_out.weight")
# What a missing or unexpected tensor belongs to.
_PARTS = (
    ("encoder_hid_proj.", "encoder_hid_proj: the projection of the text embeddings (encoder_hid_dim; Kolors, DeepFloyd IF)"),
    ("add_embedding.", "add_embedding: SDXL's text_embeds and time_ids (addition_embed_type)"),
    ("class_embedding.", "class_embedding: classes or noise levels (num_class_embeds, class_embed_type)"),
    ("motion_modules.", "motion modules: AnimateDiff (UNetMotionModel)"),
    ("temp_", "layers in time: a video UNet"),
    ("temporal_", "layers in time: a video UNet"),
    ("controlnet_", "a ControlNet's own layers"),
    ("attn3.", "attn3: a layer that this code has added, and no published UNet has"),
    ("norm4.", "norm4: a layer that this code has added, and no published UNet has"),
    ("lora", "a LoRA's layers"),
    ("model.diffusion_model.", "names of the original layout (LDM, ComfyUI), not those of diffusers"),
    ("input_blocks.", "names of the original layout (LDM, ComfyUI), not those of diffusers"),
    ("time_embed.", "names of the original layout (LDM, ComfyUI), not those of diffusers"),
)


def _explain(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    return _of_differences(match, scene, read_differences(match[0]))


def _explain_missing(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    return _of_differences(match, scene, read_differences(match[0]))


def _explain_shape(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    """Explain what diffusers says of one tensor: the model's shape first, the file's second."""
    mismatch = Mismatch(match["name"], shape_of(match["file"]), shape_of(match["model"]))
    return _of_differences(match, scene, Differences((mismatch,)))


def _of_differences(match: re.Match[str], scene: Scene, differences: Differences) -> ErrorExplanation | None:
    head = match.string[max(0, match.start() - _HEAD_CHARACTERS) : match.start()] + match[0][:_HEAD_CHARACTERS]
    class_name = _class_in(head)
    said = adapter_files.said(class_name, differences) or _said(class_name, differences)
    return explained(match, scene, said)


def _class_in(text: str) -> str | None:
    named = re.findall(r"state_dict for (\w{1,80})|<class '[\w.\-]{0,200}?(\w{1,80})'>", text)
    return next((first or second for first, second in reversed(named)), None)


def _said(class_name: str | None, differences: Differences) -> Said:
    in_file = models_with({mismatch.name: mismatch.in_file for mismatch in differences.mismatches})
    in_model = models_with({mismatch.name: mismatch.in_model for mismatch in differences.mismatches})
    target = class_name or "the model"
    sentences = [f"The file of weights does not fit {target} as its config builds it.", *_sentences(differences)]
    models = [
        *(ModelMatch(name=name, role="has the file's shapes", where=keys) for name, keys in in_file),
        *(ModelMatch(name=name, role="has the shapes of the model that was built", where=keys) for name, keys in in_model),
    ]
    return Said("checkpoint", " ".join(sentences), _numbers(differences), models, _changes(differences, bool(in_file)))


def _sentences(differences: Differences) -> list[str]:
    found = []
    cross = _of(differences.mismatches, _CROSS)
    if cross and len(cross[0].in_file) == len(cross[0].in_model) == 2:
        found.append(
            f"Its cross-attention takes text embeddings {cross[0].in_file[-1]} wide, and that of the model {cross[0].in_model[-1]} "
            "(cross_attention_dim): most likely they are of two families."
        )
    inner = _of(differences.mismatches, ("conv_in.weight",))
    if inner and min(len(inner[0].in_file), len(inner[0].in_model)) > 1:
        found.append(
            f"Its conv_in takes {inner[0].in_file[1]} channels, and that of the model {inner[0].in_model[1]} (in_channels): 4 is "
            "text-to-image, "
            "8 InstructPix2Pix and Marigold, 9 inpainting."
        )
    projections = _of(differences.mismatches, _PROJECTIONS)
    if projections and len(projections[0].in_file) != len(projections[0].in_model):
        linear = len(projections[0].in_file) == 2
        found.append(
            f"Its proj_in is {'linear' if linear else 'a 1x1 convolution'}, and that of the model is not "
            f"(use_linear_projection must be {'true' if linear else 'false'}: {'Stable Diffusion 2.x and SDXL' if linear else '1.x'})."
        )
    parts = _parts(differences.missing)
    if parts:
        found.append(f"The file lacks {'; '.join(parts)}.")
    parts = _parts(differences.unexpected)
    if parts:
        found.append(f"The file has what the model lacks: {'; '.join(parts)}.")
    return found or ["Levels, channels or layers of the two differ."]


def _of(mismatches: Sequence[Mismatch], ends: tuple[str, ...]) -> list[Mismatch]:
    return [mismatch for mismatch in mismatches if mismatch.name.endswith(ends)]


def _parts(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(words for mark, words in _PARTS if any(mark in name for name in names)))


def _numbers(differences: Differences) -> list[NumberMeaning]:
    counts = (
        (len(differences.mismatches), "of another shape"),
        (len(differences.missing), "missing from the file"),
        (len(differences.unexpected), "in the file and not in the model"),
    )
    numbers = [meant(count, f"tensors named that are {words}") for count, words in counts if count]
    classes: dict[str, Mismatch] = {}
    for mismatch in differences.mismatches:
        classes.setdefault(re.sub(r"\b[0-9]{1,9}\b", "*", mismatch.name), mismatch)
    for mismatch in list(classes.values())[:_KEYS_SHOWN]:
        numbers += [meant(mismatch.in_file, f"{mismatch.name} in the file"), meant(mismatch.in_model, f"{mismatch.name} in the model")]
    return numbers


def _changes(differences: Differences, known: bool) -> list[str]:
    original = any(map(is_original, differences.unexpected))
    changes = []
    if original:
        changes.append("load the file with from_single_file, which converts the original layout, or convert it before load_state_dict")
    changes.append(
        "load the file into the model that it was made for: "
        + (
            "one of those below that have the file's shapes, or its own config.json"
            if known
            else "with the config.json that was published with it"
        )
    )
    if _of(differences.mismatches, ("conv_in.weight",)):
        changes.append(
            "for another number of input channels on purpose: from_pretrained(..., in_channels=N, low_cpu_mem_usage=False, "
            "ignore_mismatched_sizes=True) leaves conv_in untrained; from_single_file takes num_in_channels=N"
        )
    elif differences.missing:
        changes.append("low_cpu_mem_usage=False with device_map=None leaves the missing layers untrained: only for one who trains them")
    return [
        *changes,
        ("`unetinspect identify FILE` says whose the file is; `unetinspect check MODEL --weights FILE` lists every tensor that differs"),
    ]


_ITEM = r"\n[^\n]{0,80}?(?:size mismatch for|Missing key\(s\)|Unexpected key\(s\)|You may consider)[^\n]*"
_MORE_KEYS = r"\n[ \t]{0,20}(?:\"[\w.\-]{1,200}\",?[ \t]{0,9})++"
_SHAPE = r"(?:torch\.Size\(|tensor\(\.\.\., [^)]{0,60}?size=)?[\[(]"
RECOGNISERS = (
    Recogniser(re.compile(rf"Error\(s\) in loading state_dict for (?![{{%])[^\n]*+(?:{_ITEM}|{_MORE_KEYS})*+"), _explain),
    Recogniser(re.compile(rf"size mismatch for [\w.\-]{{1,200}}: copying a param[^\n]*+(?:{_ITEM})*+"), _explain),
    Recogniser(
        re.compile(
            r"following\s+keys\s+are\s+missing:\s{0,9}(?=[\w.\-])(?:[\w.\-]{1,200},\s{0,9}|[\w.\-]{1,200}\s(?=[\w.\-]{1,200},))*+[\w.\-]{0,200}"
        ),
        _explain_missing,
    ),
    Recogniser(
        re.compile(
            rf"because\s+(?P<name>[\w.\-]{{1,200}})\s+expected\s+shape\s+{_SHAPE}(?P<model>[0-9,\s]{{0,80}})[\])]{{1,2}},?\s+but\s+got\s+"
            rf"{_SHAPE}(?P<file>[0-9,\s]{{0,80}})"
        ),
        _explain_shape,
    ),
    Recogniser(
        re.compile(
            r"Cannot load (?P<name>[\w.\-]{1,200}) because it has shape \((?P<file>[0-9,\s]{0,80})\) in the checkpoint but shape "
            r"\((?P<model>[0-9,\s]{0,80})\)"
        ),
        _explain_shape,
    ),
)
