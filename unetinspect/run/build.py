"""From a config to a module on a device, and from the shapes of inputs to tensors. Imports torch and diffusers.

The module is built on torch's meta device, where nothing is allocated. For "cpu" and "cuda" it is then moved there, with all
weights zero: shapes do not depend on weights, and no checkpoint is read.
"""

from __future__ import annotations

import ctypes
import gc
import os
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Event, Thread, get_ident
from typing import Any

import torch
from diffusers.models.modeling_utils import no_init_weights
from diffusers.utils import logging as diffusers_logging
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from unetinspect.errors import ConfigError, ForwardError, UsageError
from unetinspect.record import InputInfo
from unetinspect.run.resolve import SEE_CONFIG, RefusedError, ResolvedConfig, diffusers_class, plain
from unetinspect.unets.builder import nest
from unetinspect.units import format_bytes, format_shape, plural

# More than three times as many as the largest model of the catalog has. Such a UNet is built and run in about ten seconds.
MAX_MODULES = 10_000
_BUILD_SECONDS = 10.0


class TooLargeError(ConfigError):
    """Raised when a UNet would have too many modules, or building it does not end."""


class _EndlessError(Exception):
    """Raised inside a build that does not end."""


class ModuleCount(AbstractContextManager[None]):
    """Counts the modules that are made inside the block, by class.

    Raises:
        TooLargeError: There are more than `limit`.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.by_class: Counter[str] = Counter()
        self.total = 0
        self._limit = limit

    def __enter__(self) -> None:
        self._hook = register_module_module_registration_hook(self._made)

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _made(self, parent: nn.Module, name: str, module: nn.Module | None) -> None:
        self.total += 1
        self.by_class[type(module).__name__] += type(module).__module__.startswith("diffusers")
        if self._limit is not None and self.total > self._limit:
            class_name, count = self.by_class.most_common(1)[0]
            raise TooLargeError(
                f"more than {self._limit:,} modules: building was stopped at {count:,} {class_name}",
                hint="check the numbers of layers in the config; --force builds it regardless of its size",
            )


def construct(config: ResolvedConfig, watched: AbstractContextManager[None]) -> nn.Module:
    """Build the UNet on torch's meta device inside `watched`. Raises whatever diffusers and torch raise."""
    with quiet_diffusers(), no_init_weights(), torch.device("meta"), watched, _stopped_when_endless():
        unet: nn.Module = diffusers_class(config.class_name)(**config.values)
        # Only UNetSpatioTemporalConditionModel makes CPU tensors all the same.
        if any(not tensor.is_meta for tensor in (*unet.parameters(), *unet.buffers())):
            unet = unet.to("meta")
    return unet.eval()


def built_values(unet: nn.Module, config: ResolvedConfig) -> dict[str, Any]:
    """Return a whole config with the values of the UNet that was built of it: constructors of diffusers replace some."""
    registered: Mapping[str, Any] = getattr(unet, "config", {})
    return {"_class_name": config.class_name, **{key: plain(registered.get(key, value)) for key, value in config.values.items()}}


@contextmanager
def _stopped_when_endless() -> Iterator[None]:
    """Stop this thread if it takes far longer than any build: a negative number makes a loop of diffusers endless."""
    done, thread, began = Event(), get_ident(), time.process_time()

    def watch() -> None:
        while not done.wait(0.5):
            if time.process_time() - began > _BUILD_SECONDS:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_EndlessError))
                return

    Thread(target=watch, daemon=True).start()
    try:
        yield
    except _EndlessError:
        raise TooLargeError(
            f"no end: building was stopped after {_BUILD_SECONDS:g} seconds of processor time", hint="check the numbers in the config"
        ) from None
    finally:
        done.set()


def build_unet(config: ResolvedConfig, *, device: torch.device, dtype: torch.dtype, name: str, force: bool = False) -> nn.Module:
    """Build the UNet without weights: on meta without memory, elsewhere with every parameter and buffer zero.

    `force` lifts the size limits.

    Raises:
        RefusedError: diffusers refuses the config.
        TooLargeError: The UNet has too many modules.
        ForwardError: The weights do not fit the free memory of the device.
    """
    try:
        unet = construct(config, ModuleCount(None if force else MAX_MODULES))
    except TooLargeError as error:
        raise TooLargeError(f"{name} has {error.message}", hint=error.hint) from None
    except Exception as error:  # the constructor may raise anything
        raise RefusedError(
            f"diffusers cannot build {name} as a {config.class_name}: {first_line(error)}",
            hint=SEE_CONFIG,
        ) from error
    if dtype != torch.float32:
        with quiet_diffusers():
            unet = unet.to(dtype)
    if device.type != "meta":
        needed = sum(tensor.nbytes for tensor in (*unet.parameters(), *unet.buffers()))
        free = _free_memory(device)
        if not force and free is not None and needed > free:
            raise ForwardError(
                f"the weights of {name} take {format_bytes(needed)}, and {device} has {format_bytes(free)} free",
                hint="use --device meta, which gives the same shapes without memory; --force tries it regardless",
            )
        unet = unet.to_empty(device=device)
        with torch.no_grad():
            for tensor in (*unet.parameters(), *unet.buffers()):
                tensor.zero_()
    return unet


def _free_memory(device: torch.device) -> int | None:
    """Return the bytes of free memory of a device; None if the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, AttributeError):
        return None


def make_inputs(specs: Sequence[InputInfo], *, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Make the keyword arguments of `forward`: zeros of the given shapes; dotted names become dicts and lists."""
    arguments: dict[str, Any] = nest({spec.name: _make_input(spec, device=device, dtype=dtype) for spec in specs})
    return arguments


def named_tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor in nested dicts, tuples and lists, with its dotted name."""
    if isinstance(value, Tensor):
        yield name, value
        return
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, tuple | list) else ()
    for key, item in items:
        yield from named_tensors(item, f"{name}.{key}" if name else str(key))


def pick_device(name: str) -> torch.device:
    """Return the device for `--device`: "auto" is CUDA if available, else meta.

    Raises:
        UsageError: torch does not see that CUDA device.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "meta")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            has = "no CUDA device" if count == 0 else f"only {plural(count, 'CUDA device')}"
            raise UsageError(f"--device {name}: torch sees {has} here", hint="use --device meta: the shapes are the same")
        return torch.device("cuda", device.index or 0)
    return device


@contextmanager
def quiet_diffusers() -> Iterator[None]:
    """Keep diffusers' own messages off stderr: this package reports the same about a config."""
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
    """Pause Python's garbage collector while a UNet is built and run: it would search the same living objects again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type if the message is empty."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def is_overflow(error: BaseException) -> bool:
    """Return whether torch raised because a tensor has more bytes than 63 bits can count."""
    return "overflow" in str(error).lower()


def _make_input(spec: InputInfo, *, device: torch.device, dtype: torch.dtype) -> Any:
    if spec.shape is None:
        return list(spec.value) if isinstance(spec.value, tuple) else spec.value
    try:
        return torch.zeros(spec.shape, device=device, dtype=torch.int64 if spec.dtype == "int64" else dtype)
    except (RuntimeError, TypeError) as error:
        if not all(str(side).isdigit() for side in spec.shape):
            raise RefusedError(f"{spec.name} cannot have the shape {format_shape(spec.shape)}", hint=SEE_CONFIG) from error
        too_large = "too large: more bytes than torch can count" if is_overflow(error) else first_line(error)
        raise UsageError(
            f"{spec.name} cannot have the shape {format_shape(spec.shape)}: {too_large}",
            hint="try a smaller --res, --latent, --batch, --tokens or --frames",
        ) from error
