"""A file of weights that does not fit the model it is loaded into: every tensor that the text names is looked up in the catalog."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from unetinspect.catalog import load_catalog
from unetinspect.checkpoint.affixes import WRAPPERS, constant_part
from unetinspect.checkpoint.catalog_tensors import ABSENT, PRESENT, Wanted, agreeing, find_tensor
from unetinspect.checkpoint.original_layout import is_original
from unetinspect.explain.answers import models_with_layers, shown
from unetinspect.explain.failed_load import MESSAGE, Named, read_class, read_tensors
from unetinspect.explain.recogniser import Recogniser, Scene
from unetinspect.record import ErrorExplanation, ModelMatch, NumberMeaning


class _Axis(Struct, frozen=True):
    name: str
    key: str
    axis: int | None = None
    unit: int = 1
    values: dict[int, str] = {}
    note: str = ""
    changes: tuple[str, ...] = ()

    def values_in(self, file: Wanted, model: Wanted) -> tuple[int, int] | None:
        """Return the values of the key in file and model, None where they do not differ or are not told."""
        if self.axis is None:
            return (len(file) == 2, len(model) == 2) if len(file) != len(model) else None
        first, second = (shape[self.axis] if self.axis < len(shape) else None for shape in (file, model))
        return None if first is None or second is None or first == second else (first // self.unit, second // self.unit)


class _Part(Struct, frozen=True):
    words: str
    name: str = ""
    has: str = ""
    lacks: str = ""
    alone: bool = False


class _Tables(Struct, frozen=True):
    classes: dict[str, str]
    axis: list[_Axis]
    storage: dict[str, _Part]
    part: list[_Part]
    foreign: list[_Part]


_TABLES = msgspec.toml.decode(Path(__file__).with_name("weights.toml").read_bytes(), type=_Tables, strict=False)
_IP_KEY = re.compile(r"^(?:ip_adapter\.)?([0-9]{1,6})\.to_(?:[kv]_(ip)|(?:q|k|v|out)_lora)\b")
_SIDES, _BUILT = ("file", "model"), "the model that was built"
_MOST_MODELS = {True: 26, False: 9}  # more agree by chance in shapes or many names, and in a few names
_MANY, _MOST_NAMED = 20, 12


class _Found(NamedTuple):
    """What was found of how the two sides differ, the most important first, and the tensors that show it."""

    words: list[str]
    changes: list[str]
    decisive: list[Named]
    models: list[ModelMatch]


def _explain(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    class_name, named = read_class(match), read_tensors(match[0])
    if not _is_ours(class_name, named):
        return None
    found = _Found([], [], [], [])
    return ErrorExplanation(
        kind=_find(class_name, named, found),
        error=shown(match),
        module=scene.module,
        meaning=" ".join([*dict.fromkeys(found.words)][:4]),
        numbers=tuple(_numbers(named, found)),
        models=tuple(found.models),
        changes=tuple(dict.fromkeys(found.changes))[:3],
    )


def _is_ours(class_name: str, named: Sequence[Named]) -> bool:
    """Tell whether it is a UNet, or what goes with one: by the class, else by the tensors that the model has."""
    classes = _TABLES.classes
    of_model = [one.name for one in named if one.model != ABSENT] or [one.name for one in named]
    if re.search(classes["other"], class_name):
        return False
    if re.search(f"{classes['unet']}|{classes['transformer']}", class_name) or any(re.match(classes["tensor"], name) for name in of_model):
        return True
    foreign = any(re.search(row.name, name) for row in _TABLES.foreign for name in of_model)
    return not class_name and (foreign or any(find_tensor(model, name) is not None for name in of_model for model in load_catalog()))


def _find(class_name: str, named: list[Named], found: _Found) -> str:
    """Find how file and model differ, and what to change; return the kind of the error."""
    is_adapter = re.search("Resampler|Proj", class_name) is not None or any(_IP_KEY.match(one.text) for one in named)
    is_lora = not is_adapter and any(one.matrix for one in named) and not any(".base_layer." in one.text for one in named)
    kind = "ip_adapter_checkpoint" if is_adapter else "lora_checkpoint" if is_lora or "LoRA" in class_name else "checkpoint"
    if _find_names(named, found) or _find_foreign(class_name, named, found):
        return kind
    sides = [one.layer for one in named] if is_lora else named
    lacking = _lacking(named)
    if is_lora and any(one.shapes for one in sides) and all(one.file == one.model for one in sides):
        found.words.append("The LoRA and the one that the model has already differ in rank only.")
        found.changes.append("load the LoRA under an adapter_name of its own, or build the other with this one's rank (r, network_dim)")
        return kind
    _find_axes(sides, found)
    if is_adapter:
        _count_layers(lacking, found)
    if not is_lora:
        _find_parts(lacking, found)
    in_file, in_model = ("", "") if found.models else (_agreeing(sides, side, class_name, found) for side in _SIDES)
    other = f"use a file for {in_model or 'this model'}"
    keys = list(dict.fromkeys(change for change in found.changes if change.startswith("set ")))
    others = [change for change in found.changes if change not in keys]
    is_open = any(one.differing > (one in found.decisive) for one in named)
    if is_lora:
        found.words[:] = [words.replace("in the file", "in the LoRA").replace("in the model", "in the UNet") for words in found.words]
        found.changes[:] = [f"load the LoRA into {in_file or 'the base model that its page names'}, or {other}"]
    elif is_adapter:
        found.changes[:] = [*others, "take the adapter for this UNet: models/ for Stable Diffusion 1.x, sdxl_models/ for SDXL"]
    elif len(keys) > 1 or not found.changes or (in_file and is_open):
        build = f"build the model with the config of the file's own model{f': {in_file}' if in_file else ''}; or {other}"
        paste = () if named else ("paste the lines below the first one too: they name the tensors that differ",)
        found.changes[:] = [*paste, build, *others, *(() if in_file else keys)]
    elif in_model and not any("default" in words for words in found.words):
        found.changes.insert(1, f"or {other}")
    found.changes.append("`unetinspect identify FILE` says what the file is; `unetinspect check MODEL --weights FILE` compares all tensors")
    if not found.words:
        layers = _layers_that_differ(named, lacking)
        found.words.append(f"The {'LoRA' if is_lora else 'file'} does not fit {class_name or 'the model'} as it was built: {layers}.")
    return kind


def _layers_that_differ(named: Sequence[Named], lacking: Mapping[str, Sequence[Named]]) -> str:
    """Say which layers differ, where no config key or known part does."""
    if {len(shape) for one in named for shape in one.shapes or ()} == {2, 4}:
        return "one has a convolution where the other has a linear layer"
    layers = {side: dict.fromkeys(re.findall(r"\w+(?:\.\d+)?", one.text)[0] for one in names) for side, names in lacking.items()}
    return "; ".join(f"the {side} lacks {', '.join([*first][:3])}" for side, first in layers.items() if first) or "their layers differ"


def _lacking(named: Sequence[Named]) -> dict[str, list[Named]]:
    """Return the tensors that each side lacks: the other has them."""
    return {side: [one for one in named if getattr(one, side) == ABSENT] for side in _SIDES}


def _find_names(named: Sequence[Named], found: _Found) -> bool:
    """Find names that differ by something constant: a prefix, a part in between, diffusers' old names, the original layout."""
    missing, unexpected = _lacking(named).values()
    in_model, in_file = {one.text for one in missing}, {one.text for one in unexpected}
    too_much = constant_part(in_file, in_model)
    part = too_much or (constant_part(in_model, in_file) if in_file else "")
    if part and (in_model or not is_original(unexpected[0].name)):
        whose = f", which {WRAPPERS[part]} adds" if part in WRAPPERS else ""
        found.words.append(f"The names in the {'file' if too_much else 'model'} have the prefix {part!r}{whose}; the others do not.")
        if part == "base_layer.":
            found.changes.append(
                f"call unload_lora_weights() before {'saving the file, and save it anew' if too_much else 'loading the file'}"
            )
        if too_much:
            found.changes.append(f"state_dict = {{name.replace({part!r}, '', 1): tensor for name, tensor in state_dict.items()}}")
        elif not found.changes:
            found.changes.append(f"load the file into what is wrapped: model.{part}load_state_dict(state_dict)")
        return True
    if not missing or not unexpected or any(is_original(one.name) for one in missing):
        return False
    if 2 * sum(is_original(one.name) for one in unexpected) >= len(unexpected):
        found.words.append("The file has names of the original layout (LDM, ComfyUI), and the model those of diffusers.")
        found.changes.append("load it with from_single_file, which converts the names")
    elif all(one.own != one.name and one.own in in_model for one in unexpected):
        found.words.append("The file has diffusers' old names of attention layers: query, key, value, proj_attn.")
        found.changes.append("load it with from_pretrained, which converts the names")
    return bool(found.words)


def _find_foreign(class_name: str, named: Sequence[Named], found: _Found) -> bool:
    for row in _TABLES.foreign:
        names = [one.text for one in named if (one.model if row.alone else one.file) != ABSENT]
        if 2 * sum(bool(re.search(row.name, name)) for name in names) > len(names):
            found.words.append(f"This is {row.words}, not a UNet.")
            found.changes.append(row.has or f"load the file with the class or node that is made for {row.words}")
            break
    else:
        if re.search(_TABLES.classes["transformer"], class_name):
            found.words.append(f"{class_name} is a diffusion transformer, not a UNet.")
            found.changes.append("load a file that was saved from a model of the same size")
    if found.words:
        _find_axes(named, found)
        found.changes.reverse()
    return bool(found.words)


def _find_axes(named: Sequence[Named], found: _Found) -> None:
    stored = next((one for one in named if one.storage), None)
    if stored:
        found.words.append(_TABLES.storage[stored.storage].words)
        found.changes.append(_TABLES.storage[stored.storage].has)
        return
    for row in _TABLES.axis:
        told = [(one, *pair) for one in named if one.shapes and re.search(row.name, one.own) and (pair := row.values_in(*one.shapes))]
        found.decisive.extend(one for one, *_ in told)
        for one, file, model in told[:1]:
            is_default = row.key == "cross_attention_dim" and model == 1280 and (one.model or (None,))[0] not in (None, 768, 1536)
            values = {**row.values, 1280: "diffusers' default where the config has no such key"} if is_default else row.values
            shown = [f"{value} ({values[value]})" if value in values else str(value).lower() for value in (file, model)]
            found.words.append(f"{row.key} is {shown[0]} in the file and {shown[1]} in the model.{row.note}")
            found.changes.extend(change.format(file=str(file).lower(), model=model) for change in row.changes)


def _find_parts(lacking: Mapping[str, Sequence[Named]], found: _Found) -> None:
    in_model, in_file = ([one.own for one in names] for names in lacking.values())
    for row in _TABLES.part:
        for names, where, change in ((in_file, "file and not in the model", row.has), (in_model, "model and not in the file", row.lacks)):
            holds = [bool(re.search(row.name, name)) for name in names]
            if change and any(holds) and (all(holds) or not row.alone):
                found.words.append(f"In the {where}: {row.words}.")
                found.changes.append(change)
                names[:] = () if row.alone else names


def _agreeing(named: Sequence[Named], side: str, class_name: str, found: _Found) -> str:
    """Find the models that agree with one side in every tensor that the text names, else the few that agree in most; name the former."""
    told = [(one, wanted) for one in named if (wanted := getattr(one, side)) is not None]
    if all(wanted == ABSENT for _, wanted in told):
        return ""
    best, count = agreeing([(one.name, wanted) for one, wanted in told])
    classes = {entry.class_name for entry in load_catalog().values()}
    built = "ControlNetModel" if "Control" in class_name else class_name if class_name in classes else ""
    entries = [entry for entry in map(load_catalog().__getitem__, best) if side == "file" or built in ("", entry.class_name)]
    is_whole = count == len(told)
    is_telling = len(told) > _MANY or any(wanted not in (ABSENT, PRESENT) for _, wanted in told)
    if len(entries) > (_MOST_MODELS[is_telling] if is_whole else 3 * (2 * count > len(told))) or not entries:
        return ""
    families = Counter(entry.family for entry in entries)
    entries.sort(key=lambda one: (one.class_name != (built or "UNet2DConditionModel"), -families[one.family], len(one.name)))
    whose, whole = ("the file", "has the file's shapes") if side == "file" else (_BUILT, f"has the shapes of {_BUILT}")
    keys = tuple(dict.fromkeys(row.key for row in _TABLES.axis if any(re.search(row.name, one.own) for one, _ in told)))
    role = whole if is_whole else f"agrees with {whose} in {count} of {len(told)} tensors named"
    found.models.extend(ModelMatch(name=entry.name, role=role, where=keys) for entry in entries)
    more = f", ... ({len(entries)} in the catalog)" if len(entries) > 3 else ""
    return ", ".join(entry.name for entry in entries[:3]) + more if is_whole and len(entries) <= _MOST_NAMED else ""


def _count_layers(lacking: Mapping[str, Sequence[Named]], found: _Found) -> None:
    """Find the models that have as many attention layers as the keys of an IP-Adapter's file count."""
    in_model, in_file = ([int(match[1]) for one in names if (match := _IP_KEY.match(one.text)) and match[2]] for names in lacking.values())
    layers = max(in_file or in_model, default=-1) + 1
    if layers:
        whose = "file" if in_file else "UNet"
        found.words.append(f"The {whose}'s keys N.to_k_ip count {layers} attention layers or more, self-attention too.")
        found.models.extend(models_with_layers(layers, f"has {layers} attention layers, as the {whose}'s keys count"))
    if any(key % 2 == 0 for key in in_model):
        found.words.append("Keys of cross-attention are odd: here the UNet's processors were counted in another order.")
        found.changes.insert(0, "load it with pipeline.load_ip_adapter(...), which sets the processors in diffusers' own order")


def _numbers(named: Sequence[Named], found: _Found) -> Iterator[NumberMeaning]:
    """Yield the shapes of the two tensors that decide, or how many there are of each sort."""
    decisive = {one.text: place for place, one in enumerate(found.decisive)}
    shaped = sorted((one for one in named if one.shapes), key=lambda one: decisive.get(one.text, len(decisive)))
    kinds = {re.sub(r"\b[0-9]{1,9}\b", "*", one.text): one for one in reversed(shaped)}
    for one in [*reversed(kinds.values())][:2]:
        for shape, side in zip(one.shapes or (), _SIDES, strict=False):
            yield NumberMeaning(value=tuple(length or 0 for length in shape), meaning=f"{one.text} in the {side}")
    for lacking, words in zip(_lacking(named).values(), ("missing from the file", "in the file and not in the model"), strict=True):
        if lacking and len(kinds) < 2:
            yield NumberMeaning(value=len(lacking), meaning=f"number of tensors named that are {words}")


RECOGNISERS = (Recogniser("", MESSAGE, _explain),)
