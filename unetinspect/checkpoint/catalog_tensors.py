"""Every tensor of the catalog's models, by name and shape, read without torch.

`catalog_tensors.jsonl` has each distinct module once. A line is a module: its contents by name, a tensor as its shape, a module
as the number of an earlier line. The last line has the models. `make catalog` writes it, and a test compares it with what
diffusers builds.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from fnmatch import translate
from functools import cache
from pathlib import Path

import msgspec

from unetinspect.catalog import load_catalog
from unetinspect.checkpoint.original_layout import is_original, original_modules
from unetinspect.record import Shape

CATALOG_TENSORS = Path(__file__).parent.with_name("catalog_tensors.jsonl")

# What is known of a tensor's shape: an axis of None has any length, and others may follow it.
Wanted = tuple[int | None, ...]
ABSENT: Wanted = (-1,)
PRESENT: Wanted = (None,)

_Line = dict[str, int | Shape]
_WITHOUT_DOTS = re.compile(r"(?:(?:down|up)_blocks|mid_block)_")


def tensors_of(model: str) -> Mapping[str, Shape]:
    """Return the shape of each tensor in the state dict of a catalog model, by its name; one and the same for models that have the same."""
    return _tensors_at(_models()[model])


@cache
def _tensors_at(line: int) -> Mapping[str, Shape]:
    return dict(_expanded(line, ""))


def find_tensor(model: str, name: str) -> Shape | None:
    """Return the shape of a tensor of a catalog model, by diffusers' name, the original one, or either without dots.

    >>> find_tensor("sd15", "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight")
    (320, 768)
    """
    if is_original(name) or _WITHOUT_DOTS.match(name):
        name = flat_names_of(model).get(name.replace(".", "_"), ("", ""))[0]
    return tensors_of(model).get(name)


def agreeing(tensors: Collection[tuple[str, Wanted]]) -> tuple[list[str], int]:
    """Return the models that agree with most of what is known of tensors, and how many of these facts they agree with.

    >>> agreeing([("conv_in.weight", (320, 9, 3, 3)), ("add_embedding.linear_1.weight", PRESENT), ("class_embedding.weight", ABSENT)])
    (['sdxl-inpaint'], 3)
    """
    counts = {model: sum(_fits(find_tensor(model, name), wanted) for name, wanted in tensors) for model in load_catalog()}
    most = max(counts.values())
    return [model for model, count in counts.items() if count == most], most


def _fits(shape: Shape | None, wanted: Wanted) -> bool:
    if shape is None or wanted == ABSENT:
        return shape is None and wanted == ABSENT
    return (None in wanted or len(wanted) == len(shape)) and all(length in (None, own) for length, own in zip(wanted, shape, strict=False))


def having(pattern: str, axes: Mapping[int, int]) -> dict[str, list[str]]:
    """Return the models with tensors whose name matches a glob pattern and whose axes have these lengths, and the names.

    Numbers in names are written as *: a list has one name for all its items.

    >>> having("add_embedding.linear_1.weight", {1: 2560})
    {'sdxl-refiner': ['add_embedding.linear_1.weight']}
    """
    last = re.compile(translate(pattern.rpartition(".")[2]))
    found: list[dict[str, None]] = []
    for line in _lines():
        names: dict[str, None] = {}
        for part, value in line.items():
            if isinstance(value, int):
                part = "*" if part.isdecimal() else part  # noqa: PLW2901 - the name of an item is not needed
                if inside := found[value]:  # most have nothing of the name
                    names.update(dict.fromkeys(f"{part}.{name}" for name in inside))
            elif last.match(part) and all(axis < len(value) and value[axis] == length for axis, length in axes.items()):
                names[part] = None
        found.append(names)
    whole = re.compile(translate(pattern))
    matching = {model: [name for name in found[root] if whole.match(name)] for model, root in _models().items()}
    return {model: names for model, names in matching.items() if names}


@cache
def flat_names_of(model: str) -> Mapping[str, tuple[str, str]]:
    """Return the `flat_names` of a catalog model."""
    return flat_names(tensors_of(model))


def flat_names(tensors: Collection[str]) -> dict[str, tuple[str, str]]:
    """Return each tensor of a UNet by its names without dots, as LoRA files have them: diffusers' name and the original one.

    >>> flat_names(tensors_of("sd15"))["input_blocks_0_0_weight"]
    ('conv_in.weight', 'input_blocks.0.0.weight')
    """
    modules = original_modules(tensors)
    found: dict[str, tuple[str, str]] = {}
    for name in tensors:
        path = name
        while path and path not in modules:
            path = path.rpartition(".")[0]
        both = (name, modules.get(path, "") + name[len(path) :])
        found |= {spelling.replace(".", "_"): both for spelling in both}
    return found


def _expanded(line: int, prefix: str) -> Iterator[tuple[str, Shape]]:
    for part, value in _lines()[line].items():
        if isinstance(value, int):
            yield from _expanded(value, f"{prefix}{part}.")
        else:
            yield prefix + part, value


@cache
def _lines() -> list[_Line]:
    return msgspec.json.Decoder(_Line).decode_lines(CATALOG_TENSORS.read_bytes())


def _models() -> dict[str, int]:
    return _lines()[-1]  # type: ignore[return-value]
