"""From a config to a module on a device, and from input specs to tensors. Imports torch and diffusers.

The module is built on torch's meta device, where nothing is allocated; only for "cpu" and "cuda" is memory then
given to it, filled with zeros: shapes do not depend on weights, and nothing is ever read from a checkpoint.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.modeling_utils import no_init_weights
from diffusers.utils import logging as diffusers_logging
from torch import Tensor, nn

from unetinspect.errors import ConfigError, UsageError
from unetinspect.run.estimate import available_memory, refuse_beyond_memory
from unetinspect.run.resolve import ResolvedConfig, diffusers_class
from unetinspect.unets import InputSpec
from unetinspect.unets.dotted import nest


def build_unet(config: ResolvedConfig, *, device: torch.device, dtype: torch.dtype, name: str, force: bool = False) -> nn.Module:
    """Build the UNet with no weights: on meta without memory, elsewhere with every parameter and buffer zero.

    Raises:
        ConfigError: diffusers refuses the config.
        ForwardError: The device has not the memory for the weights, and is not forced to take them.
    """
    unet_class = diffusers_class(config.class_name)
    try:
        with quiet_diffusers():
            with no_init_weights(), torch.device("meta"):
                unet: nn.Module = unet_class(**config.values)
            # UNetSpatioTemporalConditionModel makes CPU tensors even so. For others `.to` would touch thousands of modules for nothing.
            if dtype != torch.float32 or any(not tensor.is_meta for tensor in (*unet.parameters(), *unet.buffers())):
                unet = unet.to("meta", dtype)
    except Exception as error:  # diffusers and torch raise whatever the constructor met first
        raise ConfigError(
            f"diffusers cannot build {name} as a {config.class_name}: {first_line(error)}",
            hint="`unetinspect config MODEL` shows every key, with the defaults that were filled in",
        ) from error
    if device.type != "meta":
        needed = sum(tensor.nbytes for tensor in (*unet.parameters(), *unet.buffers()))
        refuse_beyond_memory(needed, available=_free_memory(device), device=str(device), name=name, force=force)
        unet = unet.to_empty(device=device)
        with torch.no_grad():
            for tensor in (*unet.parameters(), *unet.buffers()):
                tensor.zero_()
    return unet.eval()


def _free_memory(device: torch.device) -> int | None:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()


def make_inputs(specs: Sequence[InputSpec], *, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Make the keyword arguments of `forward`: zeros of the shapes that the specs say; dotted names become dicts and lists."""
    arguments: dict[str, Any] = nest({spec.name: _make_input(spec, device=device, dtype=dtype) for spec in specs})
    return arguments


def named_tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor in a value, with its dotted name: the way to it through dicts, tuples and lists."""
    if isinstance(value, Tensor):
        yield name, value
        return
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, tuple | list) else ()
    for key, item in items:
        yield from named_tensors(item, f"{name}.{key}" if name else str(key))


def pick_device(name: str) -> torch.device:
    """Return the device for `--device`: "auto" is CUDA where there is one, else meta.

    Raises:
        UsageError: CUDA is asked for, and there is none, or not that one.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "meta")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            has = "no CUDA device" if count == 0 else f"only {count} CUDA device(s)"
            raise UsageError(f"--device {name}: torch sees {has} here", hint="use --device meta: the shapes are the same")
        return torch.device("cuda", device.index or 0)
    return device


@contextmanager
def quiet_diffusers() -> Iterator[None]:
    """Keep diffusers' own messages off stderr: what they say of a config, this package says itself."""
    verbosity = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        diffusers_logging.set_verbosity(verbosity)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Let Python not look for garbage while a UNet is built and run: what that makes stays, and would be looked through again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def first_line(error: BaseException) -> str:
    """Return what an exception says, without the lines that follow; its type where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _make_input(spec: InputSpec, *, device: torch.device, dtype: torch.dtype) -> Any:
    if spec.shape is None:
        return list(spec.value) if isinstance(spec.value, tuple) else spec.value
    return torch.zeros(spec.shape, device=device, dtype=torch.int64 if spec.dtype == "int64" else dtype)
