"""Whether two configs of a class make the same UNet, by trial: both are built on meta, run and compared. Imports torch and diffusers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from unetinspect.observe.meta_kernels import Operations
from unetinspect.run.build import collector_paused, construct, make_inputs, named_tensors, quiet_diffusers
from unetinspect.run.resolve import ResolvedConfig, plan_pass
from unetinspect.source.loaded import LoadedModel
from unetinspect.unets.request import Request

# Processor time: the load of the machine must not decide what is found.
_SECONDS = 10.0
# Attributes of every module; and its config: what its forward makes of that shows in its operations.
_OF_EVERY_MODULE = frozenset({*vars(nn.Module()), "_internal_dict"})


class Probes:
    """Compares the UNet of a config with those of other configs of its class.

    A build is watched module by module and stopped at the first that differs: most differ early.
    """

    def __init__(self, model: LoadedModel, config: ResolvedConfig, request: Request) -> None:
        self._model = model
        self._config = config
        self._request = replace(request, device="meta")
        self._stop = time.process_time() + _SECONDS

    @collector_paused()
    def same(self, values: Mapping[str, Any]) -> bool:
        """Whether diffusers builds the same UNet from other values, with the same inputs and operations.

        A UNet that cannot be built or run in time counts as different. So does a value that diffusers replaces with the given one:
        it is another way to write the same config.
        """
        if time.process_time() > self._stop:
            return False
        try:
            recorded, built = self._base
            unet: Any = construct(self._config._replace(values=dict(values)), _watched(partial(_compare, iter(recorded))))
            if any(unet.config[key] == built.config[key] for key in values if values[key] != self._config.values[key]):
                return False
            return bool(_structure(unet) == _structure(built) and self._passed(unet, values) == self._pass)
        except Exception:  # diffusers and torch raise whatever they met first
            return False

    @cached_property
    def _base(self) -> tuple[list[Any], Any]:
        recorded: list[Any] = []
        return recorded, construct(self._config, _watched(recorded.append))

    @cached_property
    def _pass(self) -> list[Any]:
        return self._passed(self._base[1], self._config.values)

    def _passed(self, unet: nn.Module, values: Mapping[str, Any]) -> list[Any]:
        """Run a UNet; returns its inputs and every operation."""
        planned = plan_pass(self._model, self._config.class_name, values, self._request)
        inputs = make_inputs(planned.run.inputs, device=torch.device("meta"), dtype=torch.float32)
        operations = _Operations([*unet.named_parameters(), *unet.named_buffers(), *named_tensors(inputs)])
        with torch.no_grad(), quiet_diffusers(), operations:
            unet(**inputs)
        return [[(spec.name, spec.shape, spec.dtype, spec.value) for spec in planned.run.inputs], operations.seen]


def _compare(recorded: Iterator[Any], step: Any) -> None:
    if step != next(recorded, None):
        raise ValueError  # which stops the build


@contextmanager
def _watched(take: Callable[[Any], None]) -> Iterator[None]:
    """Watch a build: `take` is called with what each module has of its own, as it is registered."""
    hook = register_module_module_registration_hook(lambda parent, name, child: take(None if child is None else _attributes(child)))
    try:
        yield
    finally:
        hook.remove()


def _structure(unet: nn.Module) -> list[Any]:
    """Return everything that a UNet consists of, without its own attributes: they repeat the config.

    What its forward makes of them shows in its operations.
    """
    tensors = (*unet.named_parameters(remove_duplicate=False), *unet.named_buffers(remove_duplicate=False))
    modules = [(name, _attributes(module)) for name, module in unet.named_modules(remove_duplicate=False) if name]
    return [modules, [(name, tensor.shape, tensor.dtype) for name, tensor in tensors]]


def _attributes(module: nn.Module) -> tuple[Any, ...]:
    own = {name: value for name, value in vars(module).items() if name not in _OF_EVERY_MODULE}
    return type(module), _plain(own)


def _plain(value: Any) -> Any:
    """Return numbers, texts and the like, also in lists and mappings; of anything else its type: what it does shows in the operations."""
    if value is None or isinstance(value, str | int | float | torch.dtype | torch.device | type):
        return value
    if isinstance(value, Mapping):
        return [(key, _plain(item)) for key, item in value.items()]
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else type(value)


class _Operations(Operations):  # type: ignore[no-untyped-call]
    """Records every operation of a pass: its name, its scalars, and the tensors that it takes and returns.

    Attributes:
        seen: The operations, in order.
    """

    def __init__(self, named: list[tuple[str, Tensor]]) -> None:
        super().__init__()
        self.seen: list[Any] = []
        self._names: dict[int, Any] = {id(tensor): name for name, tensor in named}
        self._kept = [tensor for _, tensor in named]  # an id belongs to one tensor only while that lives

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arguments = self._named([args, kwargs or {}])
        result = super().__torch_dispatch__(func, types, args, kwargs)
        self.seen.append((str(func), arguments, self._named(result)))
        return result

    def _named(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in self._names:
                self._names[id(value)] = len(self._kept), value.shape, value.dtype, None if value.is_meta else value.tolist()
                self._kept.append(value)
            return self._names[id(value)]
        if isinstance(value, list | tuple):
            return [self._named(item) for item in value]
        return {key: self._named(item) for key, item in value.items()} if isinstance(value, dict) else value
