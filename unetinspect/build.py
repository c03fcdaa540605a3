"""From a config to a module on a device, and from input specs to tensors. Imports torch and diffusers.

The module is built on torch's meta device, where nothing is allocated; only for "cpu" and "cuda" is memory then
given to it, filled with zeros: shapes do not depend on weights, and nothing is ever read from a checkpoint.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import diffusers
import torch
from diffusers.utils import logging as diffusers_logging
from torch import Tensor, nn

from unetinspect.config_types import wrong_types
from unetinspect.errors import ConfigError, UsageError, nearest_names
from unetinspect.inputs import InputSpec, builder_for


class ResolvedConfig(NamedTuple):
    """A config as the class reads it.

    Attributes:
        class_name: The diffusers class.
        values: Every key of the class, defaults filled in.
        defaults: The keys that were filled in.
        ignored: The keys that were given and that the class does not know.
        overridden: The keys that the caller overrode.
    """

    class_name: str
    values: dict[str, Any]
    defaults: tuple[str, ...]
    ignored: tuple[str, ...]
    overridden: tuple[str, ...]


def resolve_config(config: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> ResolvedConfig:
    """Put the overrides over a config, and fill in the defaults of the class that it names.

    Raises:
        ConfigError: It names no class, or none that can be traced.
        UsageError: An override is of a key that the class does not have: a typing error must not pass for an answer.
    """
    overrides = overrides or {}
    config = {**config, **overrides}
    class_name = config.get("_class_name")
    builder_for(class_name)
    unet_class = _diffusers_class(str(class_name))
    parameters = list(inspect.signature(unet_class.__init__).parameters.values())[1:]
    for key in overrides:
        if key != "_class_name" and not any(parameter.name == key for parameter in parameters):
            close = nearest_names(key, [parameter.name for parameter in parameters], count=1)
            meant = f"did you mean {close[0]}? " if close else ""
            raise UsageError(f"{class_name} has no config key {key}", hint=f"{meant}`unetinspect config` lists them all")
    values = {parameter.name: config.get(parameter.name, parameter.default) for parameter in parameters}
    return ResolvedConfig(
        class_name=unet_class.__name__,
        values={key: _plain(value) for key, value in values.items()},
        defaults=tuple(key for key in values if key not in config),
        ignored=tuple(str(key) for key in config if key not in values and not str(key).startswith("_")),
        overridden=tuple(overrides),
    )


def check_config(config: ResolvedConfig, *, name: str) -> None:
    """Find every mistake in a config at once.

    Raises:
        ConfigError: With all of them.
    """
    types = wrong_types(_diffusers_class(config.class_name).__init__, config.values)
    # The rules may take a value's type for granted: they see null instead of a wrong one, and are not believed on it.
    usable = {key: None if key in types else value for key, value in config.values.items()}
    rules = [problem for problem in builder_for(config.class_name).problems(usable) if not any(key in problem for key in types)]
    problems = [*types.values(), *rules]
    if problems:
        mistakes = "this mistake" if len(problems) == 1 else f"these {len(problems)} mistakes"
        raise ConfigError(
            f"{name} is no {config.class_name} that diffusers can build or run, for {mistakes} in its config:",
            problems=problems,
            hint="mend the config, or try values with --set key=value",
        )


def build_unet(config: ResolvedConfig, *, device: torch.device, dtype: torch.dtype, name: str) -> nn.Module:
    """Build the UNet with no weights: on meta without memory, elsewhere with every parameter and buffer zero.

    Raises:
        ConfigError: diffusers refuses the config.
    """
    unet_class = _diffusers_class(config.class_name)
    try:
        with quiet_diffusers(), torch.device("meta"):
            # UNetSpatioTemporalConditionModel makes CPU tensors even so, hence the second `.to`.
            unet: nn.Module = unet_class(**config.values).to("meta", dtype)
    except Exception as error:  # diffusers and torch raise whatever the constructor met first
        raise ConfigError(
            f"diffusers cannot build {name} as a {config.class_name}: {first_line(error)}",
            hint="`unetinspect config MODEL` shows every key, with the defaults that were filled in",
        ) from error
    if device.type != "meta":
        unet = unet.to_empty(device=device)
        with torch.no_grad():
            for tensor in (*unet.parameters(), *unet.buffers()):
                tensor.zero_()
    return unet.eval()


def make_inputs(specs: Sequence[InputSpec], *, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Make the keyword arguments of `forward`: zeros of the shapes that the specs say; dotted names become dicts."""
    arguments: dict[str, Any] = {}
    for spec in specs:
        *outer, last = spec.name.split(".")
        holder = arguments
        for key in outer:
            holder = holder.setdefault(key, {})
        holder[last] = _make_input(spec, device=device, dtype=dtype)
    return arguments


def input_tensors(arguments: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor among the arguments with its dotted name."""
    for key, value in arguments.items():
        if isinstance(value, Mapping):
            yield from input_tensors(value, f"{prefix}{key}.")
        elif isinstance(value, Tensor):
            yield f"{prefix}{key}", value


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


def first_line(error: BaseException) -> str:
    """Return what an exception says, without the lines that follow; its type where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _plain(value: Any) -> Any:
    """Return a config value as JSON has it: the class's own defaults and a live module's config hold tuples."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _make_input(spec: InputSpec, *, device: torch.device, dtype: torch.dtype) -> Tensor | None:
    if spec.shape is None:
        return None
    return torch.zeros(spec.shape, device=device, dtype=torch.int64 if spec.dtype == "int64" else dtype)


def _diffusers_class(class_name: str) -> type[Any]:
    found = getattr(diffusers, class_name, None)
    if found is None:
        raise ConfigError(
            f"diffusers {diffusers.__version__} has no {class_name}",
            hint="install a diffusers that has it, or see `unetinspect models`",
        )
    return found  # type: ignore[no-any-return]
