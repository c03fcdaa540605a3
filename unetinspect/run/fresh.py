"""A fresh copy of a live module: what its config builds, with the module's settings and tensors, and without anybody's hooks.

What does not come from a config (a custom processor, LoRA layers, an IP-Adapter) is counted as a difference instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor, nn

from unetinspect.errors import ConfigError
from unetinspect.run.build import build_unet
from unetinspect.run.resolve import ResolvedConfig
from unetinspect.units import plural

_FREEU = ("s1", "s2", "b1", "b2")  # set on up blocks, which have none of them before
_NOT_CARRIED = ("training", "gradient_checkpointing")  # of no effect in a pass without gradients
_OFFLOADING = {"group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading"}


class FreshCopy:
    """What the config of a live module builds, with the settings of the live module.

    Attributes:
        unet: The copy, on meta; None where the live module differs.
        differences: What differs, each with the number of modules.
        pag_layers: The number of attention layers that perturbed-attention guidance has set a processor on.
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
        """Say why the copy does not run, and what is left out of the pass."""
        notes = [f"traced as it is: {what} ({plural(count, 'module')})" for what, count in self.differences.most_common(1)]
        if self.unet is None and not notes:
            notes.append("traced as it is: its config cannot be built")
        if self.pag_layers:
            layers = plural(self.pag_layers, "attention layer")
            notes.append(f"traced without perturbed-attention guidance (PAG), which is set on {layers}")
        return tuple(notes)

    def take_tensors(self, moved: Callable[[Tensor], Tensor]) -> None:
        """Give the copy each parameter and buffer of the live module, `moved` to the device of the pass."""
        for fresh, tensors in self._tensors:
            for name, tensor in tensors.items():
                taken = moved(tensor)
                if isinstance(tensor, nn.Parameter):  # with a gradient as after a build: torch's matmul allocates less for it
                    taken = nn.Parameter(taken, requires_grad=taken.is_floating_point())
                setattr(fresh, name, taken)

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
            if name not in _NOT_CARRIED and (name in vars(fresh) or name in _FREEU) and _is_plain(value):
                vars(fresh)[name] = value
            elif callable(value) and _is_replaced_method(live, name):
                self.differences[f"{type(live).__name__} with a replaced {name}"] += 1

    def _match_processor(self, live: Any, fresh: Any) -> None:
        own, expected = live.processor, fresh.processor
        if isinstance(own, nn.Module) and type(own) is type(expected):
            return  # compared as a child
        if isinstance(own, nn.Module) or not type(own).__module__.startswith("diffusers."):
            self.differences[_instead(own, expected)] += 1
        elif is_pag(own):
            self.pag_layers += 1
        else:
            fresh.processor = own


def is_pag(processor: Any) -> bool:
    """Tell whether a processor is one of perturbed-attention guidance, which needs a batch of 2 or 3 parts."""
    return type(processor).__module__.startswith("diffusers.") and type(processor).__name__.startswith("PAG")


def without_offloading(module: nn.Module) -> Any:
    """Return the `forward` of a module without the offloading hooks of accelerate and diffusers around it."""
    forward, registry = module.forward, vars(module).get("_diffusers_hook")
    movers = ("accelerate.hooks", "diffusers.hooks.hooks" if registry and registry.hooks.keys() <= _OFFLOADING else "")
    while isinstance(forward, partial) and forward.func.__module__ in movers:
        forward = forward.__wrapped__  # type: ignore[attr-defined]
    return forward


def _is_replaced_method(live: nn.Module, name: str) -> bool:
    """Tell whether an attribute of a module overrides a method of its class that takes part in a pass."""
    method = getattr(type(live), name, None)
    if name == "forward":
        return getattr(without_offloading(live), "__func__", None) is not method
    return callable(method) and not hasattr(ModelMixin, name)


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str) or (isinstance(value, tuple | list) and all(map(_is_plain, value)))


def _instead(own: object, expected: object) -> str:
    """Name a class and the one that the config gives, in full where the names are equal."""
    names = [type(own).__name__, type(expected).__name__]
    if names[0] == names[1]:
        names = [f"{type(each).__module__}.{type(each).__qualname__}" for each in (own, expected)]
    return f"{names[0]} instead of {names[1]}"
