"""All names of all modules and tensors of a UNet, from its record."""

from __future__ import annotations

import re
from collections.abc import Iterator

from unetinspect.checkpoint.original_layout import HINT_BLOCKS, block_of, original_modules
from unetinspect.record import Module, Trace
from unetinspect.record.checkpoint import Name

# Layers that a LoRA is made for; the second names are those of diffusers before 0.26.
_KOHYA_LAYERS = ("Linear", "Conv2d", "LoRACompatibleLinear", "LoRACompatibleConv")
_PEFT_LAYERS = (*_KOHYA_LAYERS, "Conv1d", "Conv3d")
# The classes into which diffusers' pipelines load LoRAs, whose keys start with this prefix.
_PEFT_PREFIX = "unet."
_PEFT_CLASSES = ("UNet2DConditionModel", "UNetMotionModel")
# The classes without `attn_processors`: their layers have a processor each, and no key to set it by.
_WITHOUT_PROCESSORS = ("StableCascadeUNet", "UNet1DModel", "UNet2DModel")
_LISTS = ("ModuleList", "Sequential", "ModuleDict")
# What names in the original layout start with in a whole checkpoint.
_ORIGINAL_PREFIXES = {"UNet2DConditionModel": "model.diffusion_model.", "ControlNetModel": "control_model."}
_ORIGINAL_BLOCKS = {
    "down_blocks": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "mid_block": ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D"),
    "up_blocks": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
_TRANSFORMER = re.compile(r"(?:(?:down|up)_blocks\.[0-9]+|mid_block)\.attentions\.[0-9]+")
# What a transformer of the original code consists of: diffusers kept these names.
_IN_TRANSFORMER = re.compile(
    r"\.(norm|proj_in|proj_out|transformer_blocks(\.[0-9]+(\.(norm[123]|attn[12](\.(to_[qkv]|to_out(\.0)?))?|ff(\.net(\.0(\.proj)?|\.2)?)?))?)?)"
)


def names_of(trace: Trace) -> tuple[Name, ...]:
    """Return all modules of a UNet, each followed by its own tensors, in the order of `named_modules()`."""
    return tuple(_names(trace))


def _names(trace: Trace) -> Iterator[Name]:
    class_name = trace.model.class_name
    originals, processors, ip_adapter = _original_names(trace), processor_layers(trace), _ip_adapter_layers(trace)
    prefix = _ORIGINAL_PREFIXES.get(class_name, "")
    merges = class_name == "UNet2DConditionModel"
    for module in trace.modules:
        path, original = module.path, originals.get(module.path)
        block = block_of(original) if original and merges else None
        is_trained = module.class_name in _PEFT_LAYERS and class_name in _PEFT_CLASSES
        has_kohya = original is not None and merges and module.class_name in _KOHYA_LAYERS
        if path:
            yield Name(
                path=path,
                kind="module",
                class_name=module.class_name,
                original=original,
                comfyui=prefix + original if original else None,
                block=block,
                kohya="lora_unet_" + str(original if is_sdxl(trace) else path).replace(".", "_") if has_kohya else None,
                peft=_PEFT_PREFIX + path if is_trained else None,
                processor=f"{path}.processor" if path in processors else None,
                ip_adapter=ip_adapter.get(path),
            )
        for own, shape in module.tensors.items():
            yield Name(
                path=f"{path}.{own}".lstrip("."),
                kind="tensor",
                class_name=module.class_name,
                shape=shape,
                original=f"{original}.{own}" if original else None,
                comfyui=f"{prefix}{original}.{own}" if original else None,
                block=block,
            )


def _original_names(trace: Trace) -> dict[str, str]:
    """Return the original name of each module that has parameters, by its path; nothing where the original code has no such UNet."""
    if _why_not_original(trace) is not None:
        return {}
    classes = {module.path: module.class_name for module in trace.modules}
    names = original_modules({f"{module.path}.{own}" for module in trace.modules for own in module.tensors})
    hint = "controlnet_cond_embedding"
    if sum(path.startswith(f"{hint}.blocks.") for path in classes) != HINT_BLOCKS:
        names = {path: name for path, name in names.items() if not path.startswith(hint)}
    found = {}
    for module in trace.modules:
        transformer = _TRANSFORMER.match(module.path)
        if transformer and _IN_TRANSFORMER.fullmatch(module.path, transformer.end()):
            name: str | None = names[transformer[0]] + module.path[transformer.end() :]
        else:
            name = names.get(module.path)
        if name and module.params:
            found[module.path] = name
    return found


def _why_not_original(trace: Trace) -> str | None:
    """Say why nothing of this UNet has a name in the original layout; None: most of it has one."""
    class_name = trace.model.class_name
    if class_name not in _ORIGINAL_PREFIXES:
        return f"known for {' and '.join(_ORIGINAL_PREFIXES)}, not for {class_name}"
    classes = {module.path: module.class_name for module in trace.modules}
    for path, found in classes.items():
        top, _, rest = path.partition(".")
        is_block = top in _ORIGINAL_BLOCKS and (rest.isdigit() or path == "mid_block")
        if is_block and found not in _ORIGINAL_BLOCKS[top]:
            return f"the original code has no block like {path} ({found})"
        if found == "DualTransformer2DModel":
            return f"the original code has one transformer where {path} has two"
    kind = classes.get("class_embedding", "Embedding")
    return None if kind in ("Embedding", "TimestepEmbedding") else f"the original code has no class embedding like this one ({kind})"


def is_sdxl(trace: Trace) -> bool:
    """Say whether kohya-ss trains such a UNet in the original layout, as it does SDXL: it embeds text and time together."""
    return trace.model.config.get("addition_embed_type") == "text_time"


def processor_layers(trace: Trace) -> set[str]:
    """Return the attention layers that have a key in `unet.attn_processors`, of those that ran."""
    if trace.model.class_name in _WITHOUT_PROCESSORS:
        return set()
    return {layer.path for layer in trace.attentions if layer.index is not None}


def _ip_adapter_layers(trace: Trace) -> dict[str, int]:
    """Return the number of each cross-attention layer in the keys of an IP-Adapter."""
    ports = (port for port in trace.ports if port.kind == "ip-adapter" and port.name.endswith(".to_k_ip"))
    return {port.joins: int(port.name.partition(".")[0]) for port in ports}


def items_of(trace: Trace) -> tuple[str, ...]:
    """Return the paths of the modules that blocks are made of (resnets, transformers, samplers), and of those outside blocks.

    They are in the order of their first call; what never ran comes last.
    """
    steps = {module.path: module.step for module in trace.modules if module.step is not None}
    children: dict[str, list[Module]] = {}
    for module in trace.modules:
        if module.path:
            children.setdefault(module.path.rpartition(".")[0], []).append(module)
    return tuple(sorted(_items("", children), key=lambda path: steps.get(path, len(trace.modules) * len(steps) + 1)))


def _items(path: str, children: dict[str, list[Module]]) -> Iterator[str]:
    for child in children.get(path, ()):
        inside = children.get(child.path, ())
        is_block = "Block" in child.class_name and child.path.count(".") <= 1 and any(module.class_name in _LISTS for module in inside)
        if child.class_name in _LISTS or is_block:
            yield from _items(child.path, children)
        elif child.params:
            yield child.path


def absent(trace: Trace) -> dict[str, str]:
    """Say for each naming that has no name for anything of this UNet why, by the field of `Name`."""
    found: dict[str, str] = {}
    class_name = trace.model.class_name
    reason = _why_not_original(trace)
    if reason:
        found["original"] = f"no original name: {reason}"
    if reason or class_name != "UNet2DConditionModel":
        found["block"] = "no block number: merge-block-weighted numbers the blocks of Stable Diffusion's original layout"
        found["kohya"] = "no kohya-ss LoRA key: kohya-ss trains Stable Diffusion's UNets only"
    if class_name not in _PEFT_CLASSES:
        found["peft"] = f"no PEFT LoRA key: diffusers' pipelines load LoRAs into {' and '.join(_PEFT_CLASSES)} only"
    if not processor_layers(trace):
        has_none = class_name in _WITHOUT_PROCESSORS
        found["processor"] = f"no processor key: {class_name} has {'no attn_processors' if has_none else 'no attention here'}"
    if not _ip_adapter_layers(trace):
        found["ip_adapter"] = "no IP-Adapter number: this UNet has no cross-attention that diffusers loads one into"
    return found


def by_rule(trace: Trace) -> str | None:
    """Say by what rule a UNet has original names that the original code cannot build; None: it can."""
    classes = {module.path: module.class_name for module in trace.modules}
    if _why_not_original(trace) is not None or "mid_block.attentions.0" in classes:
        return None
    return "original names: by ComfyUI's rule, since the original code has no UNet without a transformer in its middle block"
