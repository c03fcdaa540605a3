"""All names of all modules and tensors of a UNet, from its record."""

from __future__ import annotations

import re
from collections.abc import Iterator

from unetinspect.naming.original import original_names, prefix_of, why_none
from unetinspect.record import Module, Shape, Trace
from unetinspect.record.checkpoint import Name

# Layers that a LoRA is made for; the second names are those of diffusers before 0.26.
_KOHYA_LAYERS = ("Linear", "Conv2d", "LoRACompatibleLinear", "LoRACompatibleConv")
_PEFT_LAYERS = (*_KOHYA_LAYERS, "Conv1d", "Conv3d")
# The classes into which diffusers' pipelines load LoRAs under this prefix.
_PEFT_PREFIX = "unet."
_PEFT_CLASSES = ("UNet2DConditionModel", "UNetMotionModel")
# The classes without `attn_processors`: their layers have a processor each, and no key to set it by.
_WITHOUT_PROCESSORS = ("StableCascadeUNet", "UNet1DModel", "UNet2DModel")
_LISTS = ("ModuleList", "Sequential", "ModuleDict")
_BLOCK = re.compile(r"(input_blocks|output_blocks)\.([0-9]+)\b|(middle_block)\b")


def names_of(trace: Trace) -> tuple[Name, ...]:
    """Return all modules of a UNet, each followed by its own tensors, in the order of `named_modules()`."""
    return tuple(_Naming(trace).names())


class _Naming:
    """What each tool's names are made of."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._originals = original_names(trace)
        self._prefix = prefix_of(trace) if self._originals else ""
        self._merges = trace.model.class_name == "UNet2DConditionModel"
        self._as_original = is_sdxl(trace)
        self._processors = processor_layers(trace)
        self._ip_adapter = ip_adapter_layers(trace)

    def names(self) -> Iterator[Name]:
        for module in self._trace.modules:
            if module.path:
                yield self._module(module)
            for own, shape in module.tensors.items():
                yield self._tensor(module, own, shape)

    def _module(self, module: Module) -> Name:
        path = module.path
        original = self._originals.get(path)
        trained = module.class_name in _PEFT_LAYERS and self._trace.model.class_name in _PEFT_CLASSES
        return Name(
            path=path,
            kind="module",
            class_name=module.class_name,
            original=original,
            comfyui=self._in_checkpoint(original),
            block=self._block(original),
            kohya=self._kohya(module, original),
            peft=_PEFT_PREFIX + path if trained else None,
            processor=f"{path}.processor" if path in self._processors else None,
            ip_adapter=self._ip_adapter.get(path),
        )

    def _tensor(self, module: Module, own: str, shape: Shape) -> Name:
        original = self._originals.get(module.path)
        original = f"{original}.{own}" if original else None
        return Name(
            path=f"{module.path}.{own}" if module.path else own,
            kind="tensor",
            class_name=module.class_name,
            shape=shape,
            original=original,
            comfyui=self._in_checkpoint(original),
            block=self._block(original),
        )

    def _in_checkpoint(self, original: str | None) -> str | None:
        return self._prefix + original if original else None

    def _block(self, original: str | None) -> str | None:
        return block_of(original) if original and self._merges else None

    def _kohya(self, module: Module, original: str | None) -> str | None:
        if original is None or not self._merges or module.class_name not in _KOHYA_LAYERS:
            return None
        return "lora_unet_" + (original if self._as_original else module.path).replace(".", "_")


def is_sdxl(trace: Trace) -> bool:
    """Tell whether kohya-ss trains such a UNet in the original layout, as it does SDXL: it embeds text and time together."""
    return trace.model.config.get("addition_embed_type") == "text_time"


def processor_layers(trace: Trace) -> set[str]:
    """Return the attention layers that have a key in `unet.attn_processors`, of those that ran."""
    if trace.model.class_name in _WITHOUT_PROCESSORS:
        return set()
    return {layer.path for layer in trace.attentions if layer.index is not None}


def ip_adapter_layers(trace: Trace) -> dict[str, int]:
    """Return the number of each cross-attention layer in the keys of an IP-Adapter."""
    ports = (port for port in trace.ports if port.kind == "ip-adapter" and port.name.endswith(".to_k_ip"))
    return {port.joins: int(port.name.partition(".")[0]) for port in ports}


def block_of(original: str) -> str | None:
    """Return the block of merge-block-weighted that a module of the original layout lies in.

    >>> block_of("input_blocks.4.1"), block_of("middle_block.1.norm"), block_of("output_blocks.11.0"), block_of("time_embed.0")
    ('IN04', 'M00', 'OUT11', None)
    """
    found = _BLOCK.match(original)
    if found is None:
        return None
    return "M00" if found[3] else f"{'IN' if found[1] == 'input_blocks' else 'OUT'}{int(found[2]):02}"


def items_of(trace: Trace) -> tuple[str, ...]:
    """Return the paths of the modules that blocks are made of (resnets, transformers, samplers), and of those outside blocks.

    They stand in the order of their first call; what never ran comes last.
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
    reason = why_none(trace)
    if reason:
        found["original"] = f"no name in the original layout: {reason}"
    if reason or class_name != "UNet2DConditionModel":
        found["block"] = "no block of merge-block-weighted, which counts the blocks of Stable Diffusion's original layout"
        found["kohya"] = "no LoRA key of kohya-ss, which trains Stable Diffusion's UNets"
    if class_name not in _PEFT_CLASSES:
        found["peft"] = f"no LoRA key of diffusers, whose pipelines load LoRAs into {' and '.join(_PEFT_CLASSES)}"
    if not processor_layers(trace):
        has_none = class_name in _WITHOUT_PROCESSORS
        found["processor"] = f"no key of a processor: {class_name} has {'no attn_processors' if has_none else 'no attention here'}"
    if not ip_adapter_layers(trace):
        found["ip_adapter"] = "no number in an IP-Adapter's keys: this UNet has no cross-attention that diffusers loads one into"
    return found


def by_rule(trace: Trace) -> str | None:
    """Say of a UNet that the original code cannot build by what rule it has names in its layout all the same; None: it can."""
    classes = {module.path: module.class_name for module in trace.modules}
    if why_none(trace) is not None or "mid_block.attentions.0" in classes:
        return None
    return (
        "the original code always has a transformer in its middle block, and this UNet has none: its names follow the rule by which "
        "ComfyUI reads such files"
    )
