"""An oracle for config keys: whether diffusers builds another UNet, or computes something else, once a key has another value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from zlib import crc32

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from unetinspect.record import InputInfo
from unetinspect.run.build import make_inputs, named_tensors, quiet_diffusers
from unetinspect.run.resolve import ResolvedConfig, diffusers_class, resolve_config
from unetinspect.unets import Builder, Plan, builder_for

Seen = tuple[Any, ...]


class Small(NamedTuple):
    """A small UNet on meta, and its config."""

    resolved: ResolvedConfig
    unet: nn.Module


def build(config: Mapping[str, Any]) -> Small:
    """Build a small UNet.

    Raises:
        Exception: Whatever diffusers raises where it cannot.
    """
    resolved = resolve_config(config)
    with quiet_diffusers(), torch.device("meta"):
        return Small(resolved, diffusers_class(resolved.class_name)(**resolved.values).eval())


def built(small: Small) -> Seen:
    """Return what can be seen of a UNet before it runs: its printed modules, its tensors, its inputs."""
    unet = small.unet
    tensors = [(name, tuple(tensor.shape)) for name, tensor in (*unet.named_parameters(), *unet.named_buffers())]
    # Of the values that modules keep to themselves, this one shows in half precision alone.
    upcast = [name for name, module in unet.named_modules() if isinstance(module, Attention) and module.upcast_attention]
    return repr(unet), tensors, upcast, [(spec.name, spec.shape) for spec in _specs(small.resolved)]


def computed(small: Small) -> Seen:
    """Run a UNet once on the CPU, with weights that depend on their names alone, and return its outputs to the last bit."""
    unet = small.unet.to_empty(device="cpu")
    with torch.no_grad(), quiet_diffusers():
        for name, tensor in (*unet.named_parameters(), *unet.named_buffers()):
            tensor.copy_(_noise(name, tensor) * 0.2)
        outputs = unet(**_inputs(_specs(small.resolved)))
    return tuple((name, tensor.tolist()) for name, tensor in named_tensors(outputs))


def seen(config: Mapping[str, Any]) -> tuple[Seen, Seen]:
    """Build and run a small UNet, and return what can be seen of it before and after."""
    small = build(config)
    return built(small), computed(small)


def differs(config: Mapping[str, Any], base: tuple[Seen, Seen]) -> bool:
    """Whether a UNet differs from another in anything; one that diffusers refuses to build or to run differs."""
    try:
        small = build(config)
        return built(small) != base[0] or computed(small) != base[1]
    except Exception:  # whatever diffusers and torch raise
        return True


def _specs(resolved: ResolvedConfig) -> list[InputInfo]:
    builder = builder_for(resolved.class_name)
    return builder.inputs(resolved.values, _plan(builder, resolved.values))


def _plan(builder: Builder, values: dict[str, Any]) -> Plan:
    size = builder.sample_size({**values, "sample_size": None} if "sample_size" in values else values)
    frames = builder.frames(values)
    least = {"Kandinsky3UNet": (16, 16), "UNet1DModel": (64,)}.get(builder.class_name)
    side = 4 if builder.class_name == "StableCascadeUNet" else 16
    return Plan(batch=2, size=least or tuple(side for _ in size.value), tokens=5, frames=None if frames is None else 2)


def _noise(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return torch.ones_like(tensor)
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(crc32(name.encode())))


def _inputs(specs: list[InputInfo]) -> dict[str, Any]:
    arguments = make_inputs(specs, device=torch.device("cpu"), dtype=torch.float32)
    for name, tensor in named_tensors(arguments):
        tensor.copy_(_noise(name, tensor))
    return arguments
