"""The one map between the names of the original code (CompVis' LDM, Stability AI's SGM, ComfyUI) and those of diffusers.

In the original, `input_blocks` and `output_blocks` are flat lists: a convolution first, then one item for each resnet, with its
transformer if it has one. A downsampler is an item of its own, an upsampler the last part of one; each ends what diffusers calls a
block. So the map of a UNet follows from its blocks, which can be read off the names of either side.
Source: https://github.com/CompVis/stable-diffusion/blob/main/ldm/modules/diffusionmodules/openaimodel.py
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import count, takewhile
from math import gcd
from typing import NamedTuple

from unetinspect.checkpoint.safetensors_header import TensorSpec
from unetinspect.record import Shape
from unetinspect.record.checkpoint import Layout

_RESNET = {
    "": "",
    ".norm1": ".in_layers.0",
    ".conv1": ".in_layers.2",
    ".time_emb_proj": ".emb_layers.1",
    ".norm2": ".out_layers.0",
    ".conv2": ".out_layers.3",
    ".conv_shortcut": ".skip_connection",
}
# Of Stable Video Diffusion: each layer is followed by its like over frames, and a number that mixes both.
_VIDEO_RESNET = {
    **{f".spatial_res_block{new}": old for new, old in _RESNET.items()},
    **{f".temporal_res_block{new}": f".time_stack{old}" for new, old in _RESNET.items()},
    ".time_mixer": ".time_mixer",
}
_VIDEO_TRANSFORMER = {
    **{f".{part}": f".{part}" for part in ("norm", "proj_in", "proj_out", "transformer_blocks", "time_mixer")},
    ".temporal_transformer_blocks": ".time_stack",
    ".time_pos_embed.linear_1": ".time_pos_embed.0",
    ".time_pos_embed.linear_2": ".time_pos_embed.2",
}
HINT_BLOCKS = 6  # of the published ControlNets, whose code writes these layers down one by one
_HINT = "controlnet_cond_embedding"
_FIXED = {
    "conv_in": "input_blocks.0.0",
    "time_embedding": "time_embed",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block": "middle_block",
    "controlnet_down_blocks": "zero_convs",
    "controlnet_mid_block": "middle_block_out.0",
    _HINT: "input_hint_block",
    f"{_HINT}.conv_in": "input_hint_block.0",
    **{f"{_HINT}.blocks.{place}": f"input_hint_block.{2 * place + 2}" for place in range(HINT_BLOCKS)},
    f"{_HINT}.conv_out": f"input_hint_block.{2 * HINT_BLOCKS + 2}",
}
# Stable Cascade's own code; queries, keys and values are one tensor there.
_CASCADE = {"attn.out_proj.": "to_out.0.", "clip_mapper.": "clip_txt_pooled_mapper."}
_CASCADE_QKV = "attn.in_proj_"
# diffusers' own names of attention layers before it had the class `Attention`.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(r"(.*\.attentions\.[0-9]{1,4}\.)(query|key|value|proj_attn)(\.(?:weight|bias))", re.DOTALL)
# The original names of a T2I-Adapter's blocks; those of the light one have resnets in a body of their own.
_T2I_BLOCK = re.compile(r"body\.(0|[1-9]\d{0,3})\.(?:body\.(0|[1-9]\d{0,3})\.)?(.*)")
_ITEM = re.compile(r"(input_blocks|output_blocks)\.([0-9]{1,4})\.([0-9])\.(\w*)")
_ORIGINAL = re.compile(
    r"(?:(?:model\.)?diffusion_model\.|control_model\.)?(?:input_blocks|output_blocks|middle_block|time_embed|label_emb|out)[._]"
)
_BLOCK = re.compile(r"(input_blocks|output_blocks)\.([0-9]+)\b|(middle_block)\b")
_TEXT_OF_SD2 = 1024  # the width of its text embeddings, and of unCLIP's


class Block(NamedTuple):
    """A down or up block: whether each of its layers has a transformer, and whether a sampler follows them."""

    transformers: Sequence[bool]
    sampler: bool


class FileTensor(NamedTuple):
    """A tensor as a file has it.

    Attributes:
        name: Its name in the file.
        shape: Its shape.
        piece: Which piece of the file's tensor, where diffusers splits it into several.
    """

    name: str
    shape: Shape
    piece: int = 0


def is_original(name: str) -> bool:
    """Say whether a name is of the original layout, with or without its prefix; dots may be underscores."""
    return _ORIGINAL.match(name) is not None


def block_of(original: str) -> str | None:
    """Return the block of merge-block-weighted that a module of the original layout is in.

    >>> block_of("input_blocks.4.1"), block_of("middle_block.1.norm"), block_of("output_blocks.11.0"), block_of("time_embed.0")
    ('IN04', 'M00', 'OUT11', None)
    """
    found = _BLOCK.match(original)
    if found is None:
        return None
    return "M00" if found[3] else f"{'IN' if found[1] == 'input_blocks' else 'OUT'}{int(found[2]):02}"


def diffusers_name(name: str) -> str:
    """Return diffusers' name of one tensor; without the others, its place in a list of the original layout may be another.

    >>> diffusers_name("input_blocks.0.0.weight"), diffusers_name("mid_block.attentions.0.query.weight")
    ('conv_in.weight', 'mid_block.attentions.0.to_q.weight')
    """
    layout: Layout | None = "original" if is_original(name) else None
    return next(iter(diffusers_tensors({name: TensorSpec((), "")}, layout, expected=("add_embedding.linear_1.weight",))))


def original_modules(tensors: Collection[str]) -> dict[str, str]:
    """Return the original name of each module of a UNet or ControlNet with these tensors, by diffusers' name.

    Parts of a transformer have the same names on both sides, so they are left out. What the original code calls `label_emb` is one
    of two embeddings, which only diffusers has side by side.
    """
    paths = {name[: dot.start()] for name in tensors for dot in re.finditer(r"\.", name)}

    def blocks(way: str) -> Iterator[Block]:
        for block in takewhile(paths.__contains__, (f"{way}_blocks.{level}" for level in count())):
            layers = takewhile(lambda layer: f"{block}.resnets.{layer}" in paths, count())  # noqa: B023 - used before the next block
            yield Block([f"{block}.attentions.{layer}" in paths for layer in layers], sampler=f"{block}.{way}samplers.0" in paths)

    label: dict[str, str] = {}
    embeddings = [name for name in ("add_embedding", "class_embedding") if name in paths]
    for name in embeddings if len(embeddings) == 1 else ():
        if (is_table := f"{name}.weight" in tensors) or f"{name}.linear_1.weight" in tensors:
            label = _label_module(name, is_table=is_table)
    is_video = any(path.endswith(".temporal_transformer_blocks") for path in paths)
    return _modules(blocks("down"), blocks("up"), label, is_video=is_video)


def _modules(down: Iterable[Block], up: Iterable[Block], label: Mapping[str, str], *, is_video: bool) -> dict[str, str]:
    resnet, transformer_parts = (_VIDEO_RESNET, _VIDEO_TRANSFORMER) if is_video else (_RESNET, {})

    def layer_of(block: str, layer: int, old: str, old_resnet: str, *, has_transformer: bool) -> dict[str, str]:
        new = f"{block}.attentions.{layer}"
        transformer = {new: f"{old}.1", **{f"{new}{part}": f"{old}.1{name}" for part, name in transformer_parts.items()}}
        resnets = {f"{block}.resnets.{layer}{part}": f"{old_resnet}{name}" for part, name in ({"": ""} | resnet).items()}
        return resnets | (transformer if has_transformer else {})

    names = {**_FIXED, **label}
    names |= layer_of("mid_block", 0, "middle_block", "middle_block.0", has_transformer=True)
    names |= layer_of("mid_block", 1, "middle_block", "middle_block.2", has_transformer=False)
    index = 0
    for level, block in enumerate(down):
        new = f"down_blocks.{level}"
        for layer, transformer in enumerate(block.transformers):
            index += 1
            old = f"input_blocks.{index}"
            names |= layer_of(new, layer, old, f"{old}.0", has_transformer=transformer)
        if block.sampler:
            index += 1
            names[f"{new}.downsamplers.0"] = f"input_blocks.{index}.0"
            names[f"{new}.downsamplers.0.conv"] = f"input_blocks.{index}.0.op"
    names |= {f"controlnet_down_blocks.{place}": f"zero_convs.{place}.0" for place in range(index + 1)}
    index = -1
    for level, block in enumerate(up):
        new = f"up_blocks.{level}"
        for layer, transformer in enumerate(block.transformers):
            index += 1
            old = f"output_blocks.{index}"
            names |= layer_of(new, layer, old, f"{old}.0", has_transformer=transformer)
        if block.sampler:
            old = f"output_blocks.{index}.{2 if any(block.transformers[-1:]) else 1}"
            names |= {f"{new}.upsamplers.0": old, f"{new}.upsamplers.0.conv": f"{old}.conv"}
    return names


def _label_module(name: str, *, is_table: bool) -> dict[str, str]:
    """Return what `label_emb` is: the embedding of this name in diffusers, which is a table of classes or two linear layers."""
    if is_table:
        return {name: "label_emb"}
    return {name: "label_emb.0", f"{name}.linear_1": "label_emb.0.0", f"{name}.linear_2": "label_emb.0.2"}


def diffusers_tensors(
    tensors: Mapping[str, TensorSpec],
    layout: Layout | None,
    *,
    names: Mapping[str, str] | None = None,
    expected: Collection[str] = (),
) -> dict[str, FileTensor]:
    """Return the tensors of a file by the names that diffusers has for them; what has none keeps its own.

    `names` are those in the file, where `tensors` are named without a prefix; `expected` are the names in the UNet that the file is
    for, if known.
    """
    rename = _original_renamer(tensors, expected) if layout == "original" else _modernized
    found: dict[str, FileTensor] = {}
    for name, (shape, _) in tensors.items():
        whole = name if names is None else names[name]
        stem, fused, kind = name.rpartition(_CASCADE_QKV)
        if fused and shape and layout == "original":
            for piece, part in enumerate(("to_q", "to_k", "to_v")):
                found[f"{stem}{part}.{kind}"] = FileTensor(whole, (shape[0] // 3, *shape[1:]), piece)
            continue
        # `UNet1DModel` has the old names today.
        renamed = name if name in expected else rename(name)
        # A damaged file may have a tensor under both names: none is lost.
        found[name if renamed in tensors else renamed] = FileTensor(whole, shape)
    return found


def _modernized(name: str) -> str:
    old = _OLD_NAME.fullmatch(name)
    return f"{old[1]}{_OLD_ATTENTION[old[2]]}{old[3]}" if old else name


def _t2i_adapter_names(names: Collection[str]) -> dict[str, str]:
    """Return diffusers' name of each tensor of a T2I-Adapter in the original layout.

    The original code has one list of resnets for all levels, each with as many. A level shows where it begins only if it has another
    width than the one before.
    Source: ldm/modules/encoders/adapter.py of https://github.com/TencentARC/T2I-Adapter
    """
    found = {name: block for name in names if (block := _T2I_BLOCK.fullmatch(name))}
    is_light = any(block[2] for block in found.values())
    begins = [int(block[1]) for block in found.values() if block[3].startswith("in_conv.")]
    per_level = gcd(len({block[1] for block in found.values()}), *begins)
    renamed = {name: f"adapter.{name}" for name in names}
    for name, block in found.items():
        level, layer = (block[1], block[2]) if is_light else divmod(int(block[1]), per_level)
        layers = "" if block[3].startswith(("in_conv.", "out_conv.")) else f"resnets.{layer}."
        renamed[name] = f"adapter.body.{level}.{layers}{block[3]}"
    return renamed


def _original_renamer(tensors: Mapping[str, TensorSpec], expected: Collection[str]) -> Callable[[str], str]:
    if any(map(_T2I_BLOCK.fullmatch, tensors)) and not any(map(_ITEM.match, tensors)):
        return _t2i_adapter_names(tensors).__getitem__
    is_video = any(".time_stack." in name for name in tensors)
    label = _label(tensors, expected, is_video=is_video)
    modules = _modules(_blocks(tensors, "input_blocks"), _blocks(tensors, "output_blocks"), label, is_video=is_video)
    # What is in a container and is not known here keeps its name.
    containers = {name[: dot.start()] for name in modules for dot in re.finditer(r"\.", name)}
    names = {old: new for new, old in modules.items() if new not in containers}

    def rename(name: str) -> str:
        for old, new in _CASCADE.items():
            name = name.replace(old, new)
        parts = name.split(".", 7)
        for length in range(min(len(parts), 7), 0, -1):
            module = ".".join(parts[:length])
            if module in names:
                return names[module] + name[len(module) :]
        return name

    return rename


def _blocks(names: Iterable[str], way: str) -> list[Block]:
    """Read the blocks off a flat list: a sampler ends each."""
    items: dict[int, dict[str, str]] = {}
    for name in names:
        found = _ITEM.match(name)
        if found and found[1] == way:
            items.setdefault(int(found[2]), {})[found[3]] = found[4]
    transformers: list[bool] = []
    blocks = []
    for index in range(1 if way == "input_blocks" else 0, max(items, default=0) + 1):
        parts = items.get(index, {})
        if "op" not in parts.values():
            transformers.append(parts.get("1", "conv") != "conv")
        if {"op", "conv"} & set(parts.values()):
            blocks.append(Block(transformers, sampler=True))
            transformers = []
    return [*blocks, Block(transformers, sampler=False)]


def _label(tensors: Mapping[str, TensorSpec], expected: Collection[str], *, is_video: bool) -> dict[str, str]:
    """Return what `label_emb` is: SDXL and videos add what unCLIP has as a class, in two layers that are alike."""
    if "label_emb.weight" in tensors:
        return _label_module("class_embedding", is_table=True)
    known = [name for name in ("add_embedding", "class_embedding") if f"{name}.linear_1.weight" in expected]
    widths = [shape[-1] for name, (shape, _) in tensors.items() if name.endswith(".attn2.to_k.weight") and shape]
    is_sdxl = bool(widths) and min(widths) > _TEXT_OF_SD2
    return _label_module((known or ["add_embedding" if is_sdxl or is_video else "class_embedding"])[0], is_table=False)
