"""A live module: its config, its device, and a way to run its pass that leaves it exactly as it was. Imports torch.

A fresh copy runs: what its config builds, with the module's settings and tensors and without its hooks. On meta the tensors are
empty ones of the same shapes. A module that differs from its config (a custom processor, LoRA layers) runs itself, with the same
tensors swapped in (torch's `functional_call`).
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from traceback import walk_tb
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.embeddings import IPAdapterFullImageProjection, IPAdapterPlusImageProjection
from torch import Tensor, nn
from torch.func import functional_call

from unetinspect.errors import ConfigError, ForwardError
from unetinspect.observe import ForwardRaisedError
from unetinspect.record import InputInfo, Source
from unetinspect.run.attach import FREEU_FACTORS
from unetinspect.run.build import build_unet, first_line, pick_device
from unetinspect.run.resolve import ResolvedConfig
from unetinspect.source.hub_id import is_repo_id
from unetinspect.source.loaded import LoadedModel
from unetinspect.unets import supported_classes
from unetinspect.unets.request import Request
from unetinspect.units import plural

_IMAGE_PATCHES = 257  # of CLIP ViT-H/14 at 224 px: 16 x 16 patches and one for the whole
# Packages whose frames are skipped in the search for the code that raised.
_NOT_THE_USERS = {"torch", "diffusers", "unetinspect", *sys.stdlib_module_names}
_NOT_CARRIED = ("training", "gradient_checkpointing")  # without effect in a pass without gradients
Call = Callable[[Mapping[str, Any]], Any]
Trained = list[Tensor]
Notes = tuple[str, ...]
_OFFLOADING = {"group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading"}


class LiveModule:
    """A UNet that the caller already has.

    Attributes:
        module: The module itself, without the wrapper of `torch.compile`.
        model: Its config and name, in the form of a model that was read.

    Raises:
        ConfigError: It has no diffusers config, or is of a class that cannot be traced.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module: nn.Module = getattr(module, "_orig_mod", module)
        own, config = type(self.module), getattr(self.module, "config", None)
        names = [base.__name__ for base in own.__mro__ if base.__name__ in supported_classes()]
        if not names or not isinstance(config, Mapping):
            raise ConfigError(
                f"{own.__name__} is not a diffusers UNet that can be traced",
                hint=f"pass one of {', '.join(supported_classes())}: unetinspect.trace(pipe.unet)",
            )
        self.model = LoadedModel(
            name=_name_of(config) or own.__name__,
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
        """Return the dtype of the floating-point inputs: the module's own, unless one is asked for."""
        if asked is not None:
            found: torch.dtype = getattr(torch, asked)
            return found
        own: torch.dtype = self.module.dtype  # type: ignore[assignment]  # diffusers' own answer, aware of layerwise casting
        return own if own.is_floating_point else torch.float32

    def added_specs(self, batch: int) -> Iterator[InputInfo]:
        """Yield the arguments of `forward` that loaded modules ask for: an image embedding for each IP-Adapter.

        The first linear layer of an adapter's projection reads it. Some projections read an embedding of every patch of the image.
        """
        layers: Iterable[nn.Module] = getattr(getattr(self.module, "encoder_hid_proj", None), "image_projection_layers", ())
        for place, layer in enumerate(layers):
            reads_patches = isinstance(layer, IPAdapterFullImageProjection | IPAdapterPlusImageProjection)
            width = next(module.in_features for module in layer.modules() if isinstance(module, nn.Linear))
            yield InputInfo(
                name=f"added_cond_kwargs.image_embeds.{place}",
                shape=(batch, 1, _IMAGE_PATCHES, width) if reads_patches else (batch, 1, width),
                dtype="float",
                axes=("batch", "images", "image_tokens", "image_embed_dim") if reads_patches else ("batch", "images", "image_embed_dim"),
                config_key="encoder_hid_dim_type, by a loaded IP-Adapter",
            )

    @contextmanager
    def ready(self, config: ResolvedConfig, device: torch.device, request: Request) -> Iterator[tuple[nn.Module, Call, Trained, Notes]]:
        """Give the UNet that runs on `device`, in eval mode, how to call it, the tensors that are trained, and notes.

        Afterwards every module is as it was. Only parameters that require a gradient are trained.
        """
        copy = FreshCopy(self.module, config)
        dtype = request.dtype
        if copy.unet is not None:
            unet = copy.unet
            copy.take_tensors(lambda tensor: _on_device(tensor, device, dtype), frozen=request.training)
            yield unet, lambda inputs: unet(**inputs), [own for own in unet.parameters() if own.requires_grad], copy.notes
            return
        named = (*self.module.named_parameters(), *self.module.named_buffers())
        if request.training:  # other tensors than the module's own, even if they share its memory: they get gradients
            tensors = {name: _on_device(each, device, dtype).detach().requires_grad_(each.requires_grad) for name, each in named}
        else:
            tensors = {name: moved for name, each in named if (moved := _on_device(each, device, dtype)) is not each}
        trained = [tensor for tensor in tensors.values() if tensor.requires_grad]
        during = [(module, _during_a_pass(module)) for module in self.module.modules()]
        before = [(module, {name: vars(module)[name] for name in changed}) for module, changed in during]
        try:
            for module, changed in during:
                vars(module).update(changed)
            yield self.module, lambda inputs: functional_call(self.module, tensors, (), dict(inputs)), trained, copy.notes
        finally:
            for module, own in before:
                vars(module).update(own)


class FreshCopy:
    """What the config of a live module builds, with the settings of the live module.

    Attributes:
        unet: The copy, on meta; None if the live module differs from its config.
        differences: What differs, each with the number of modules.
        pag_layers: The number of attention layers with a processor of perturbed-attention guidance.
    """

    def __init__(self, live: nn.Module, config: ResolvedConfig) -> None:
        self.unet: nn.Module | None = None
        self.differences: Counter[str] = Counter()
        self.pag_layers = 0
        self._tensors: list[tuple[nn.Module, dict[str, Tensor]]] = []
        try:
            built = build_unet(config, device=torch.device("meta"), dtype=torch.float32, name=type(live).__name__)
        except ConfigError:
            return
        self._match(live, built)
        if not self.differences:
            self.unet = built

    @property
    def notes(self) -> tuple[str, ...]:
        """Say how the module differs from its config, and what is left out of the pass."""
        notes = [f"traced as it is: {what} ({plural(count, 'module')})" for what, count in self.differences.most_common(1)]
        if self.unet is None and not notes:
            notes.append("traced as it is: its config cannot be built")
        if self.pag_layers:
            layers = plural(self.pag_layers, "attention layer")
            notes.append(f"traced without perturbed-attention guidance (PAG), which is set on {layers}")
        return tuple(notes)

    def take_tensors(self, moved: Callable[[Tensor], Tensor], *, frozen: bool = False) -> None:
        """Give the copy each parameter and buffer of the live module, `moved` to the device of the pass.

        `frozen` is whether parameters that require no gradient in the live module require none here.
        """
        for fresh, tensors in self._tensors:
            for name, tensor in tensors.items():
                own = moved(tensor)
                if isinstance(tensor, nn.Parameter):  # with a gradient as after a build: torch's matmul allocates less for it
                    own = nn.Parameter(own, requires_grad=tensor.requires_grad if frozen else own.is_floating_point())
                setattr(fresh, name, own)

    def _match(self, live: nn.Module, fresh: nn.Module) -> None:
        """Give a module of the copy the settings of the live one, and count what differs."""
        children, expected = dict(live.named_children()), dict(fresh.named_children())
        if "_orig_mod" in children:  # a wrapper of torch.compile
            self._match(children["_orig_mod"], fresh)
            return
        if type(live) is not type(fresh):
            self.differences[_instead(live, fresh)] += 1
            return
        if hasattr(live, "get_processor"):
            self._match_processor(live, fresh)
        self._match_attributes(live, fresh)
        tensors, given = _own_tensors(live), _own_tensors(fresh)
        self._tensors.append((fresh, tensors))
        if {name: tensor.shape for name, tensor in tensors.items()} != {name: tensor.shape for name, tensor in given.items()}:
            self.differences[f"{type(live).__name__} with other tensors"] += 1
        for name in sorted((children.keys() ^ expected.keys()) - {"processor"}):
            self.differences[f"{type(live).__name__} {'with' if name in children else 'without'} {name}"] += 1
        for name, child in children.items():
            if name in expected:
                self._match(child, expected[name])

    def _match_attributes(self, live: nn.Module, fresh: nn.Module) -> None:
        for name, value in vars(live).items():
            if name not in _NOT_CARRIED and (name in vars(fresh) or name in FREEU_FACTORS) and _is_plain(value):
                vars(fresh)[name] = value
            elif callable(value) and _is_replaced_method(live, name):
                self.differences[f"{type(live).__name__} with a replaced {name}"] += 1

    def _match_processor(self, live: Any, fresh: Any) -> None:
        own, expected = live.processor, fresh.processor
        if isinstance(own, nn.Module) and type(own) is type(expected):
            return  # compared as a child
        if isinstance(own, nn.Module) or not type(own).__module__.startswith("diffusers."):
            self.differences[_instead(own, expected)] += 1
        elif _is_pag(own):
            self.pag_layers += 1
        else:
            fresh.processor = own


def _name_of(config: Mapping[str, Any]) -> str | None:
    """Return the hub ID or the folder's name that a module was loaded from; None if it was not loaded."""
    place = str(config.get("_name_or_path") or "").replace("\\", "/").removesuffix("/unet")
    if cached := re.search(r"/models--([^/]+)/snapshots/", place):
        return cached[1].replace("--", "/")
    return place if is_repo_id(place) else place.rpartition("/")[2] or None


def raised_outside(failure: ForwardRaisedError, name: str, class_name: str) -> ForwardError | None:
    """Say where a pass failed in code outside diffusers (a hook, a processor); None: it failed in a module of diffusers."""
    for frame, line in reversed(list(walk_tb(failure.error.__traceback__))):
        code, package = frame.f_code, str(frame.f_globals.get("__name__", "torch")).partition(".")[0]
        if package == "diffusers" and code.co_name == "forward":
            return None  # if a subclass or processor of the user's calls diffusers, the error is still diffusers'
        if package not in _NOT_THE_USERS:
            where = f"{Path(code.co_filename).name}:{line} ({code.co_qualname.rpartition('<locals>.')[2]})"
            return ForwardError(
                f"the forward pass of {name} failed outside diffusers, in {where}: {first_line(failure.error)}",
                hint=f"trace the config instead: `unetinspect.trace({{**unet.config, '_class_name': '{class_name}'}})`",
            )
    return None


def _during_a_pass(module: nn.Module) -> dict[str, Any]:
    """Return the attributes that a module has during a pass, instead of its own."""
    changed: dict[str, Any] = {"training": False}  # not .eval(), which a subclass may override
    if "forward" in vars(module):
        changed["forward"] = _without_offloading(module)
    if _is_pag(vars(module).get("processor")):
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


def _is_pag(processor: Any) -> bool:
    """Return whether a processor is one of perturbed-attention guidance, which needs a batch of 2 or 3 parts."""
    return type(processor).__module__.startswith("diffusers.") and type(processor).__name__.startswith("PAG")


def _without_offloading(module: nn.Module) -> Any:
    """Return the `forward` of a module without the offloading hooks of accelerate and diffusers around it."""
    forward, registry = module.forward, vars(module).get("_diffusers_hook")
    movers = ("accelerate.hooks", "diffusers.hooks.hooks" if registry and registry.hooks.keys() <= _OFFLOADING else "")
    while isinstance(forward, partial) and forward.func.__module__ in movers:
        forward = forward.__wrapped__  # type: ignore[attr-defined]
    return forward


def _is_replaced_method(live: nn.Module, name: str) -> bool:
    """Return whether an attribute of a module overrides a method of its class that is used in a pass."""
    method = getattr(type(live), name, None)
    if name == "forward":
        return getattr(_without_offloading(live), "__func__", None) is not method
    return callable(method) and not hasattr(ModelMixin, name)


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str) or (isinstance(value, tuple | list) and all(map(_is_plain, value)))


def _instead(own: object, expected: object) -> str:
    """Name a class and the one that the config gives, with their modules if the names are equal."""
    names = [type(own).__name__, type(expected).__name__]
    if names[0] == names[1]:
        names = [f"{type(each).__module__}.{type(each).__qualname__}" for each in (own, expected)]
    return f"{names[0]} instead of {names[1]}"
