"""A live module, taken as it is: its config, its device, and a way to call it that leaves it exactly as it was.

On meta the module runs with its parameters and buffers swapped for empty ones of the same shapes (torch's
`functional_call`), so that nothing is computed and nothing moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.embeddings import IPAdapterFullImageProjection, IPAdapterPlusImageProjection
from torch import Tensor, nn
from torch.func import functional_call

from unetinspect.errors import ConfigError
from unetinspect.record import Source
from unetinspect.run.build import pick_device
from unetinspect.source.base import LoadedModel
from unetinspect.unets import InputSpec, supported_classes

_IMAGE_PATCHES = 257  # of CLIP ViT-H/14 at 224 px: 16 x 16 patches and one for the whole


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
        return next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)

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
    def ready(self, device: torch.device, dtype: str | None) -> Iterator[Callable[[Mapping[str, Any]], Any]]:
        """Give a way to call the module on `device`, in eval mode; afterwards every module has its own mode again."""
        tensors = dict(self._tensors_on(device, dtype))
        modes = [(module, module.training) for module in self.module.modules()]
        try:
            for module, _ in modes:
                module.training = False  # not .eval(), which a subclass may have given a meaning of its own
            yield lambda inputs: functional_call(self.module, tensors, (), dict(inputs)) if tensors else self.module(**inputs)
        finally:
            for module, training in modes:
                module.training = training

    def _tensors_on(self, device: torch.device, dtype: str | None) -> Iterator[tuple[str, Tensor]]:
        """Yield stand-ins for the parameters and buffers that are not on `device`, or not of the dtype asked for."""
        for name, tensor in (*self.module.named_parameters(), *self.module.named_buffers()):
            wanted = getattr(torch, dtype) if dtype and tensor.is_floating_point() else tensor.dtype
            if tensor.device == device and tensor.dtype == wanted:
                continue
            yield name, torch.empty_like(tensor, device=device, dtype=wanted) if device.type == "meta" else tensor.to(device, wanted)


def _reads_patches(layer: nn.Module) -> bool:
    """Tell whether an IP-Adapter's projection reads an embedding of every patch of the image, not one of the whole."""
    return isinstance(layer, IPAdapterFullImageProjection | IPAdapterPlusImageProjection)


def _width(layer: nn.Module) -> int:
    """Return the width of the image embeddings: the projection's first linear layer reads them."""
    return next(module.in_features for module in layer.modules() if isinstance(module, nn.Linear))
