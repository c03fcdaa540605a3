"""A config as its class reads it: overrides put on top, defaults filled in, every mistake found at once.

diffusers is imported where the class itself is needed: a class that is known already is read from what is known of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from msgspec import Struct

from unetinspect.errors import ConfigError, UsageError, nearest_names
from unetinspect.record import Medium
from unetinspect.unets import Builder, builder_for, supported_classes
from unetinspect.unets.builder import Adapted


class ConfigClass(Struct, frozen=True, kw_only=True):
    """What a config needs to be read as its class reads it.

    Attributes:
        name: The diffusers class.
        module: Where it is imported from.
        medium: What its pixels make up, where nothing else is known of the model.
        keys: Its config keys, each with its default, in the order of its constructor.
        adapts: Whether its builder may replace keys of a config.
    """

    name: str
    module: str
    medium: Medium
    keys: dict[str, Any]
    adapts: bool


class ResolvedConfig(NamedTuple):
    """A config as the class reads it.

    Attributes:
        class_name: The diffusers class.
        values: Every key of the class, defaults filled in.
        defaults: The keys that were filled in.
        ignored: The keys that were given and that the class does not know.
        overridden: The keys that the caller overrode.
        notes: What was changed in it so that diffusers can run it.
        module: Where the class is imported from.
        medium: What the pixels of the class make up.
    """

    class_name: str
    values: dict[str, Any]
    defaults: tuple[str, ...]
    ignored: tuple[str, ...]
    overridden: tuple[str, ...]
    notes: tuple[str, ...] = ()
    module: str = "diffusers"
    medium: Medium = "image"


def config_class(class_name: Any) -> ConfigClass:
    """Return what there is to know of a class, from the class itself.

    Raises:
        ConfigError: The name is missing, or is none of a class that can be traced and that this diffusers has.
    """
    builder = builder_for(class_name)
    parameters = list(inspect.signature(diffusers_class(class_name).__init__).parameters.values())[1:]
    return ConfigClass(
        name=class_name,
        module=builder.module,
        medium=builder.medium,
        keys={parameter.name: _plain(parameter.default) for parameter in parameters},
        adapts=type(builder).adapted is not Builder.adapted,
    )


def resolve_config(
    config: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    *,
    adapt: bool = True,
    class_of: Callable[[Any], ConfigClass] = config_class,
) -> ResolvedConfig:
    """Put the overrides over a config, and fill in the defaults of the class that it names.

    With `adapt`, a config that diffusers cannot run as it is gives way to the one that its builder puts in its place.
    `class_of` tells of a class by its name, and raises what `config_class` raises.

    Raises:
        ConfigError: It names no class, or none that can be traced.
        UsageError: An override is of a key that the class does not have: a typing error must not pass for an answer.
    """
    overrides = overrides or {}
    config = _plain({**config, **overrides})
    of = class_of(config.get("_class_name"))
    _check_overrides(of, overrides)
    ignored = tuple(key for key in config if key not in of.keys and not key.startswith("_"))
    adapted = builder_for(of.name).adapted({**of.keys, **config}) if adapt and of.adapts else Adapted()
    config = {**config, **adapted.changes}
    if config["_class_name"] != of.name:
        of = class_of(config["_class_name"])
    return ResolvedConfig(
        class_name=of.name,
        values={key: config.get(key, default) for key, default in of.keys.items()},
        defaults=tuple(key for key in of.keys if key not in config),
        ignored=ignored,
        overridden=tuple(overrides),
        notes=adapted.notes,
        module=of.module,
        medium=of.medium,
    )


def _check_overrides(of: ConfigClass, overrides: Mapping[str, Any]) -> None:
    for key in overrides:
        if key != "_class_name" and key not in of.keys:
            close = nearest_names(key, of.keys, count=1)
            meant = f"did you mean {close[0]}? " if close else ""
            raise UsageError(f"{of.name} has no config key {key}", hint=f"{meant}`unetinspect config` lists them all")


def diffusers_class(class_name: str) -> type[Any]:
    """Return the class itself.

    Raises:
        ConfigError: This diffusers does not have it.
    """
    module = builder_for(class_name).module
    try:
        found: type[Any] = getattr(import_module(module), class_name)
    except (ImportError, AttributeError):
        import diffusers

        raise ConfigError(
            f"diffusers {diffusers.__version__} has no {class_name}",
            hint="install a diffusers that has it, or see `unetinspect models`",
        ) from None
    return found


@cache
def class_keys() -> dict[str, dict[str, Any]]:
    """Return the config keys of every class that can be traced and that this diffusers has, each with its default."""
    found = {}
    for name in supported_classes():
        with suppress(ConfigError):  # an older diffusers lacks some
            found[name] = config_class(name).keys
    return found


def _plain(value: Any) -> Any:
    """Return a config value as JSON has it: the class's own defaults and a live module's config hold tuples."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
