"""Which UNet classes there is a builder for. A new class is one file beside this one."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from unetinspect.errors import ConfigError, nearest_names
from unetinspect.inputs.base import Builder


@cache
def _builders() -> dict[str, Builder]:
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        import_module(f"unetinspect.inputs.{module.name}")
    return {builder.class_name: builder() for builder in Builder.__subclasses__()}


def supported_classes() -> list[str]:
    """Return the names of the classes that can be traced, in alphabetical order."""
    return sorted(_builders())


def plug_classes() -> list[str]:
    """Return the names of the classes whose outputs are plugged into a UNet."""
    return [name for name in supported_classes() if _builders()[name].plugs_into]


def builder_for(class_name: Any) -> Builder:
    """Return the input builder of a diffusers class.

    Raises:
        ConfigError: The name is missing, or no builder knows it.
    """
    if isinstance(class_name, str) and class_name in _builders():
        return _builders()[class_name]
    supported = ", ".join(supported_classes())
    if class_name is None:
        raise ConfigError("the config has no _class_name, so it does not say which UNet it is", hint=f"add a _class_name: {supported}")
    close = nearest_names(str(class_name), supported_classes(), count=1)
    meant = f"did you mean {close[0]}? " if close else ""
    raise ConfigError(f"{class_name} is not a UNet class that can be traced", hint=f"{meant}supported: {supported}")
