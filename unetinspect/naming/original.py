"""What the original code (CompVis, SGM, ComfyUI, and that of ControlNet) calls the modules of a UNet that diffusers built.

The names follow from the module tree, which follows from the config: which blocks there are, how many resnets each has,
which of them have a transformer, where a sampler stands. The tables are those of `unetinspect.checkpoint.original`,
which goes the other way. A module that the original code does not have gets no name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from unetinspect.checkpoint.original import DOWN, MIDDLE_RESNETS, RESNET, TOP, UP, Way, labels
from unetinspect.record import Module, Trace

# Containers of what the tables name.
_WHOLE = {"time_embedding": "time_embed", "mid_block": "middle_block"}
_BLOCKS = {
    "down_blocks": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "mid_block": ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D"),
    "up_blocks": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
# What a transformer of the original code consists of: diffusers kept these names.
_IN_TRANSFORMER = re.compile(
    r"norm|proj_in|proj_out|transformer_blocks(\.[0-9]+(\.(norm[123]|attn[12](\.(to_[qkv]|to_out(\.0)?))?|ff(\.net(\.0(\.proj)?|\.2)?)?))?)?"
)
_HINT_BLOCKS = 6  # of the published ControlNets: their code writes these layers down one by one
_PREFIXES = {"UNet2DConditionModel": "model.diffusion_model.", "ControlNetModel": "control_model."}


def why_none(trace: Trace) -> str | None:
    """Say why nothing of this UNet has a name in the original layout; None: most of it has one."""
    class_name = trace.model.class_name
    if class_name not in _PREFIXES:
        return f"it is known here for {' and '.join(_PREFIXES)}, not for {class_name}"
    classes = {module.path: module.class_name for module in trace.modules}
    for path, found in classes.items():
        top, _, rest = path.partition(".")
        is_block = top in _BLOCKS and (rest.isdigit() or path == "mid_block")
        if is_block and found not in _BLOCKS[top]:
            return f"the original code has no block like {path} ({found})"
        if found == "DualTransformer2DModel":
            return f"the original code has one transformer where {path} has two"
    kind = classes.get("class_embedding", "Embedding")
    if kind not in ("Embedding", "TimestepEmbedding"):
        return f"the original code embeds no class as class_embedding does here ({kind})"
    return None


def prefix_of(trace: Trace) -> str:
    """Return what names start with in a whole checkpoint of the original layout."""
    return _PREFIXES[trace.model.class_name]


def original_names(trace: Trace) -> dict[str, str]:
    """Return what the original code calls each module that holds parameters, by its path; nothing where it has no such UNet."""
    if why_none(trace) is not None:
        return {}
    classes = {module.path: module.class_name for module in trace.modules}
    names = {new: old for old, new in TOP.items()} | _WHOLE | _embedding_names(classes)
    for item, old in _items(classes):
        names[item] = old
        names |= {f"{item}.{name}": f"{old}.{part}" for part, name in RESNET.items()}
    names |= _sampler_names(names)
    if trace.model.class_name == "ControlNetModel":
        names |= _controlnet_names(classes)
    return dict(_named(trace.modules, names))


def _named(modules: Sequence[Module], names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for module in modules:
        found = names.get(module.path) or _in_transformer(module.path, names)
        if found and module.params:
            yield module.path, found


def _in_transformer(path: str, names: Mapping[str, str]) -> str | None:
    """Return the name of a part of a transformer: as diffusers calls it, behind the transformer's own."""
    found = re.match(r"(?:(?:down|up)_blocks\.[0-9]+|mid_block)\.attentions\.[0-9]+", path)
    if found is None or found[0] not in names or not _IN_TRANSFORMER.fullmatch(path[found.end() + 1 :]):
        return None
    return names[found[0]] + path[found.end() :]


def _items(classes: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each resnet, transformer and sampler with its place in the original's flat lists."""
    yield from ((new, old) for old, new in MIDDLE_RESNETS.items())
    for way in (DOWN, UP):
        yield from _items_of(way, classes)


def _items_of(way: Way, classes: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    index, level = way.first, 0
    while (block := f"{way.new}.{level}") in classes:
        layer = 0
        while f"{block}.resnets.{layer}" in classes:
            yield f"{block}.resnets.{layer}", f"{way.old}.{index}.0"
            yield f"{block}.attentions.{layer}", f"{way.old}.{index}.1"
            index, layer = index + 1, layer + 1
        if f"{block}.{way.samplers}.0" in classes:
            attends = f"{block}.attentions.{layer - 1}" in classes
            yield f"{block}.{way.samplers}.0", f"{way.old}.{index}.0" if way is DOWN else f"{way.old}.{index - 1}.{2 if attends else 1}"
            index += way is DOWN  # a downsampler is an item of its own, an upsampler the last part of one
        level += 1


def _sampler_names(names: Mapping[str, str]) -> dict[str, str]:
    return {f"{path}.conv": f"{old}.{way.sampler}" for path, old in names.items() for way in (DOWN, UP) if f".{way.samplers}." in path}


def _embedding_names(classes: Mapping[str, str]) -> dict[str, str]:
    """Name what the original code calls `label_emb`: one of two embeddings, which only diffusers has side by side."""
    added, of_class = classes.get("add_embedding"), classes.get("class_embedding")
    if added == "TimestepEmbedding" and of_class is None:
        return {"add_embedding": "label_emb.0"} | {new: old for old, new in labels(added=True).items()}
    if added is None and of_class == "TimestepEmbedding":
        names = {new: old for old, new in labels(added=False).items()}
        return names | {"class_embedding": "label_emb.0"}
    return {"class_embedding": "label_emb"} if added is None and of_class == "Embedding" else {}


def _controlnet_names(classes: Mapping[str, str]) -> dict[str, str]:
    names = {"controlnet_down_blocks": "zero_convs", "controlnet_mid_block": "middle_block_out.0"}
    convolutions = (path.rpartition(".") for path in classes if re.fullmatch(r"controlnet_down_blocks\.[0-9]+", path))
    names |= {f"{of}.{place}": f"zero_convs.{place}.0" for of, _, place in convolutions}
    hint = "controlnet_cond_embedding"
    blocks = [path for path in classes if re.fullmatch(rf"{hint}\.blocks\.[0-9]+", path)]
    if len(blocks) == _HINT_BLOCKS:
        names |= {hint: "input_hint_block", f"{hint}.conv_in": "input_hint_block.0"}
        names |= {f"{hint}.blocks.{place}": f"input_hint_block.{2 * place + 2}" for place in range(_HINT_BLOCKS)}
        names |= {f"{hint}.conv_out": f"input_hint_block.{2 * _HINT_BLOCKS + 2}"}
    return names
