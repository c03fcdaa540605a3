"""The names of the original code (CompVis, SGM, ComfyUI) in diffusers' words. Knows names only; what has none keeps its own.

In the original, `input_blocks` and `output_blocks` are flat lists: a convolution first, then a resnet with or without a
transformer per item. A downsampler is an item of its own, an upsampler the last part of one; each ends a level, which is
what diffusers calls a block. `unetinspect.naming` goes the other way by the same tables.
Source: https://github.com/CompVis/stable-diffusion/blob/main/ldm/modules/diffusionmodules/openaimodel.py
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

TOP = {
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "middle_block.1": "mid_block.attentions.0",
}
MIDDLE_RESNETS = {"middle_block.0": "mid_block.resnets.0", "middle_block.2": "mid_block.resnets.1"}
RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
# Old files in diffusers' layout: the attention of `UNet2DModel` before it became `Attention`.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_ITEM = re.compile(r"(input_blocks|output_blocks)\.([0-9]{1,4})\.([0-9])\.")
_OLD_NAME = re.compile(r"(.*\.attentions\.[0-9]{1,4}\.)(query|key|value|proj_attn)(\.(?:weight|bias))", re.DOTALL)


class Way(NamedTuple):
    """How the original code and diffusers call the blocks of one way, and the convolution of a sampler in them.

    `first` is the first item of the original's list that belongs to a block.
    """

    old: str
    sampler: str
    new: str
    samplers: str
    first: int


DOWN = Way("input_blocks", "op", "down_blocks", "downsamplers", 1)
UP = Way("output_blocks", "conv", "up_blocks", "upsamplers", 0)


def original_to_diffusers(names: Iterable[str], *, added: bool) -> dict[str, str]:
    """Return what diffusers calls each tensor of an original UNet, its prefix taken off.

    `added` says what `label_emb` is: the added embedding of SDXL (`add_embedding`), or that of a class (`class_embedding`).
    """
    listed = list(names)
    modules = {**TOP, **labels(added=added)}
    resnets = dict(MIDDLE_RESNETS)
    for way in (DOWN, UP):
        for place, parts in _items(listed, way):
            _place(way, place, parts, modules, resnets)
    modules |= {f"{old}.{part}": f"{new}.{name}" for old, new in resnets.items() for part, name in RESNET.items()}
    return {name: _renamed(name, modules) for name in listed}


def modernized(name: str) -> str:
    """Return what diffusers of today calls a tensor: attention layers of unconditional UNets have had other names.

    >>> modernized("mid_block.attentions.0.proj_attn.bias")
    'mid_block.attentions.0.to_out.0.bias'
    """
    old = _OLD_NAME.fullmatch(name)
    return f"{old[1]}{_OLD_ATTENTION[old[2]]}{old[3]}" if old else name


def labels(*, added: bool) -> dict[str, str]:
    """Return what diffusers calls the parts of the original's `label_emb`: a table of classes, or two linear layers."""
    embedding = "add_embedding" if added else "class_embedding"
    return {"label_emb.0.0": f"{embedding}.linear_1", "label_emb.0.2": f"{embedding}.linear_2", "label_emb": "class_embedding"}


def _items(names: Iterable[str], way: Way) -> Iterator[tuple[tuple[int, int, int], dict[int, str]]]:
    """Yield for each item of a way (index, level, layer in the level), and what each of its parts is."""
    items: dict[int, dict[int, str]] = {}
    for name in names:
        found = _ITEM.match(name)
        if found and found[1] == way.old:
            items.setdefault(int(found[2]), {}).setdefault(int(found[3]), _kind(name[found.end() :]))
    level = layer = 0
    for index in sorted(items):
        if index < way.first:
            continue
        yield (index, level, layer), items[index]
        ends = "sampler" in items[index].values()
        level, layer = (level + 1, 0) if ends else (level, layer + 1)


def _kind(rest: str) -> str:
    head = rest.partition(".")[0]
    if head in ("op", "conv"):
        return "sampler"
    return "resnet" if head in ("in_layers", "out_layers", "emb_layers", "skip_connection") else "attention"


def _place(way: Way, place: tuple[int, int, int], parts: dict[int, str], modules: dict[str, str], resnets: dict[str, str]) -> None:
    index, level, layer = place
    for part, kind in parts.items():
        old = f"{way.old}.{index}.{part}"
        if kind == "sampler":
            modules[f"{old}.{way.sampler}"] = f"{way.new}.{level}.{way.samplers}.0.conv"
        elif kind == "resnet":
            resnets[old] = f"{way.new}.{level}.resnets.{layer}"
        else:
            modules[old] = f"{way.new}.{level}.attentions.{layer}"


def _renamed(name: str, modules: dict[str, str]) -> str:
    """Put the new name of the longest module that the tensor lies in; none lies deeper than five parts."""
    parts = name.split(".", 5)
    for count in range(min(len(parts), 5), 0, -1):
        module = ".".join(parts[:count])
        if module in modules:
            return modules[module] + name[len(module) :]
    return name
