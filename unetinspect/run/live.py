"""A live module: its config, its device, and a way to run its pass that leaves it exactly as it was.

A fresh copy runs, without the module's hooks and with its own tensors, on meta with empty ones of the same shapes. A module
that differs from its config runs itself, with the same tensors swapped in (torch's `functional_call`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import Any, NamedTuple

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.embeddings import IPAdapterFullImageProjection, IPAdapterPlusImageProjection
from torch import Tensor, nn
from torch.func import functional_call

from unetinspect.errors import ConfigError, ForwardError
from unetinspect.observe import ForwardRaisedError
from unetinspect.record import Source
from unetinspect.run.build import first_line, pick_device
from unetinspect.run.fresh import FreshCopy, is_pag, without_offloading
from unetinspect.run.resolve import ResolvedConfig
from unetinspect.source.loaded import LoadedModel
from unetinspect.unets import InputSpec, supported_classes

_IMAGE_PATCHES = 257  # of CLIP ViT-H/14 at 224 px: 16 x 16 patches and one for the whole
# Packages whose frames are skipped in the search for the code that raised.
_NOT_THE_USERS = {"torch", "diffusers", "unetinspect", *sys.stdlib_module_names}


class Runnable(NamedTuple):
    """The UNet that runs for a live module, how to call it, and notes for the record."""

    unet: nn.Module
    call: Callable[[Mapping[str, Any]], Any]
    notes: tuple[str, ...]


class LiveModule:
    """A UNet that the caller holds.

    Attributes:
        module: The module itself; for one that `torch.compile` wrapped, what is inside.
        model: Its config and name, in the form of a model that was read.

    Raises:
        ConfigError: It has no diffusers config, or is of a class that cannot be traced.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module: nn.Module = getattr(module, "_orig_mod", module)
        config = getattr(self.module, "config", None)
        names = [base.__name__ for base in type(self.module).__mro__ if base.__name__ in supported_classes()]
        if not names or not isinstance(config, Mapping):
            raise ConfigError(
                f"{type(self.module).__name__} is no diffusers UNet that can be traced",
                hint=f"pass one of {', '.join(supported_classes())}: unetinspect.trace(pipe.unet)",
            )
        own = type(self.module)
        self.model = LoadedModel(
            name=own.__name__,
            config={**config, "_class_name": names[0]},
            source=Source(kind="module", location=f"{own.__module__}.{own.__qualname__}"),
        )

    def device(self, asked: str) -> torch.device:
        """Return where to run: with "auto" on the module's own GPU, else on meta."""
        own = next((tensor.device for tensor in self.module.parameters()), torch.device("meta"))
        if asked == "auto":
            return own if own.type == "cuda" else torch.device("meta")
        return pick_device(asked)

    def dtype(self, asked: str | None) -> torch.dtype:
        """Return the dtype of the floating-point inputs: the module's own, if none is asked for."""
        if asked is not None:
            found: torch.dtype = getattr(torch, asked)
            return found
        own: torch.dtype = self.module.dtype  # type: ignore[assignment]  # diffusers' own answer, which knows of layerwise casting
        return own if own.is_floating_point else torch.float32

    def added_specs(self, batch: int) -> tuple[InputSpec, ...]:
        """Return what modules that were loaded into the UNet ask of `forward` beyond its class: an image for each IP-Adapter."""
        layers: Iterable[nn.Module] = getattr(getattr(self.module, "encoder_hid_proj", None), "image_projection_layers", ())
        return tuple(
            InputSpec(
                f"added_cond_kwargs.image_embeds.{place}",
                (batch, 1, *((_IMAGE_PATCHES,) if _reads_patches(layer) else ()), _width(layer)),
                ("batch", "images", *(("image_tokens",) if _reads_patches(layer) else ()), "image_embed_dim"),
                "encoder_hid_dim_type, by a loaded IP-Adapter",
            )
            for place, layer in enumerate(layers)
        )

    @contextmanager
    def ready(self, config: ResolvedConfig, device: torch.device, dtype: str | None) -> Iterator[Runnable]:
        """Give what runs on `device`, in eval mode; afterwards every module is as it was."""
        copy = FreshCopy(self.module, config)
        if copy.unet is not None:
            unet = copy.unet
            copy.take_tensors(lambda tensor: _on_device(tensor, device, dtype))
            yield Runnable(unet, lambda inputs: unet(**inputs), copy.notes)
            return
        named = (*self.module.named_parameters(), *self.module.named_buffers())
        tensors = {name: moved for name, tensor in named if (moved := _on_device(tensor, device, dtype)) is not tensor}
        during = [(module, _during_a_pass(module)) for module in self.module.modules()]
        before = [(module, {name: vars(module)[name] for name in changed}) for module, changed in during]
        try:
            for module, changed in during:
                vars(module).update(changed)
            yield Runnable(self.module, lambda inputs: functional_call(self.module, tensors, (), dict(inputs)), copy.notes)
        finally:
            for module, own in before:
                vars(module).update(own)


def raised_outside(failure: ForwardRaisedError, name: str, class_name: str) -> ForwardError | None:
    """Say where a pass failed in code outside diffusers (a hook, a processor); None: it failed in a module of diffusers."""
    for frame, line in reversed(list(walk_tb(failure.error.__traceback__))):
        code, package = frame.f_code, str(frame.f_globals.get("__name__", "torch")).partition(".")[0]
        if package == "diffusers" and code.co_name == "forward":
            return None  # where a subclass or a wrapped processor of the user's calls diffusers, the error is diffusers'
        if package not in _NOT_THE_USERS:
            where = f"{Path(code.co_filename).name}:{line} ({code.co_qualname.rpartition('<locals>.')[2]})"
            return ForwardError(
                f"the forward pass of {name} failed outside diffusers, in {where}: {first_line(failure.error)}",
                hint=f"trace the config instead: `unetinspect.trace({{**unet.config, '_class_name': '{class_name}'}})`",
            )
    return None


def _during_a_pass(module: nn.Module) -> dict[str, Any]:
    """Return the attributes that a module has during a pass, instead of its own."""
    changed: dict[str, Any] = {"training": False}  # not .eval(), which a subclass may have given a meaning of its own
    if "forward" in vars(module):
        changed["forward"] = without_offloading(module)
    if is_pag(vars(module).get("processor")):
        changed["processor"] = AttnProcessor2_0()  # type: ignore[no-untyped-call]
    return changed


def _on_device(tensor: Tensor, device: torch.device, dtype: str | None) -> Tensor:
    """Return a tensor on `device` in `dtype`: itself if it is there, an empty one for meta, zeros for one from meta."""
    wanted = getattr(torch, dtype) if dtype and tensor.is_floating_point() else tensor.dtype
    if tensor.device == device and tensor.dtype == wanted:
        return tensor
    if device.type == "meta":
        return torch.empty_like(tensor, device=device, dtype=wanted)
    return torch.zeros_like(tensor, device=device, dtype=wanted) if tensor.is_meta else tensor.detach().to(device, wanted)


def _reads_patches(layer: nn.Module) -> bool:
    """Tell whether an IP-Adapter's projection reads an embedding of every patch of the image, not one of the whole."""
    return isinstance(layer, IPAdapterFullImageProjection | IPAdapterPlusImageProjection)


def _width(layer: nn.Module) -> int:
    """Return the width of the image embeddings: the projection's first linear layer reads them."""
    return next(module.in_features for module in layer.modules() if isinstance(module, nn.Linear))
