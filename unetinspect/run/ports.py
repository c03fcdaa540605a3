"""What can be plugged into a UNet, read off one pass of it. Reads the module tree, changes nothing. Imports torch.

Source: `forward` of diffusers' UNets ("additional_residuals"), and `_convert_ip_adapter_attn_to_diffusers` of its loaders.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator

from torch import nn

from unetinspect.observe import Observation
from unetinspect.observe.calls import ModuleCall
from unetinspect.record import Attention, Port
from unetinspect.record.stages import StageOf

_IMAGE_TOKENS = 4  # of the first IP-Adapter; IP-Adapter Plus has 16


def make_ports(root: nn.Module, seen: Observation, attentions: Iterable[Attention], stage_of: StageOf) -> tuple[Port, ...]:
    """List what this UNet takes from outside, residuals in the order of their lists."""
    takes = inspect.signature(type(root).forward).parameters
    ports: list[Port] = []
    if "down_block_additional_residuals" in takes:
        ports += _controlnet(seen, stage_of)
    if "down_intrablock_additional_residuals" in takes:
        ports += _t2i_adapter(root, seen)
    if hasattr(root, "_load_ip_adapter_weights"):
        ports += _ip_adapter(root, attentions)
    return tuple(ports)


def _controlnet(seen: Observation, stage_of: StageOf) -> Iterator[Port]:
    """One residual for each skip that was produced, and one for what the mid block returns."""
    for place, (sources, shape) in enumerate(seen.produced.items()):
        path = sources[-1].path
        yield Port(
            kind="controlnet",
            name=f"down_block_additional_residuals.{place}",
            shape=shape,
            joins=path,
            stage=stage_of(path) or path,
        )
    mid = _last_call(seen, "mid_block")
    if mid is not None and mid.out_shape is not None:
        yield Port(kind="controlnet", name="mid_block_additional_residual", shape=mid.out_shape, joins=mid.path, stage=mid.path)


def _t2i_adapter(root: nn.Module, seen: Observation) -> Iterator[Port]:
    """One feature for each down block: before its downsampler where it has cross-attention, behind the whole block where not.

    One that is left over then goes to the mid block, if it has its shape (T2I-Adapter for SDXL).
    """
    for place, block in enumerate(root.get_submodule("down_blocks").children()):
        path = f"down_blocks.{place}"
        inside = f"{path}.attentions.{len(block.attentions) - 1}" if getattr(block, "has_cross_attention", False) else path  # type: ignore[arg-type]
        call = _last_call(seen, inside)
        if call is not None and call.out_shape is not None:
            name = f"down_intrablock_additional_residuals.{place}"
            yield Port(kind="t2i-adapter", name=name, shape=call.out_shape, joins=inside, stage=path)
    mid = _last_call(seen, "mid_block")
    if mid is not None and mid.out_shape is not None:
        name = f"down_intrablock_additional_residuals.{len(list(root.get_submodule('down_blocks').children()))}"
        yield Port(kind="t2i-adapter", name=name, shape=mid.out_shape, joins=mid.path, stage=mid.path)


def _ip_adapter(root: nn.Module, attentions: Iterable[Attention]) -> Iterator[Port]:
    """Image tokens beside the text, and the two weights of each cross-attention layer, whose keys count 1, 3, 5, ..."""
    layers = {layer.path: layer for layer in attentions if layer.kind == "cross"}
    paths = ip_adapter_layers(root)
    # An IP-Adapter's processors call to_k, which a layer that attends to the text alone, through added projections, does not have.
    if not paths or not layers.keys() >= set(paths) or any(root.get_submodule(path).to_k is None for path in paths):
        return
    read = [layers[path] for path in paths]
    width = _in_features(root, read[0])
    first = read[0]
    batch = first.query_shape[0]
    yield Port(kind="ip-adapter", name="image_tokens", shape=(batch, _IMAGE_TOKENS, width), joins=first.path, stage=first.stage)
    for place, layer in enumerate(read):
        shape = (layer.heads * layer.head_dim, _in_features(root, layer))
        for name in ("to_k_ip", "to_v_ip"):
            yield Port(kind="ip-adapter", name=f"{2 * place + 1}.{name}", shape=shape, joins=layer.path, stage=layer.stage)


def ip_adapter_layers(root: nn.Module) -> list[str]:
    """List the attention layers that IP-Adapter's keys count, in their order: that of `attn_processors`, self-attention left out."""
    names = [name.removesuffix(".processor") for name in getattr(root, "attn_processors", {})]
    return [name for name in names if not name.endswith("attn1") and "motion_modules" not in name]


def _in_features(root: nn.Module, layer: Attention) -> int:
    return int(root.get_submodule(f"{layer.path}.to_k").in_features)  # type: ignore[arg-type]


def _last_call(seen: Observation, path: str) -> ModuleCall | None:
    return next((call for call in reversed(seen.calls) if call.path == path), None)
