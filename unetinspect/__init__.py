"""See how a diffusers UNet is built: stages, skip connections, attention layers, from one observed forward pass.

>>> import unetinspect
>>> unetinspect.trace("sd15", res=128).output.shape  # doctest: +SKIP
(2, 4, 16, 16)
"""

from __future__ import annotations

from unetinspect.version import __version__

TYPE_CHECKING = False  # typing's own takes longer to import than Python to start: until then, Ctrl-C would be a traceback

if TYPE_CHECKING:
    from unetinspect.api import check, diff, explain_error, identify, names, sweep, trace
    from unetinspect.capturing.capture import capture
    from unetinspect.capturing.captured import Captured, load_capture
    from unetinspect.capturing.taps import features, maps, skips
    from unetinspect.capturing.words import read_prompt
    from unetinspect.errors import ConfigError, ForwardError, SourceError, UnetInspectError, UsageError
    from unetinspect.record import Trace

__all__ = [
    "Captured",
    "ConfigError",
    "ForwardError",
    "SourceError",
    "Trace",
    "UnetInspectError",
    "UsageError",
    "__version__",
    "capture",
    "check",
    "diff",
    "explain_error",
    "features",
    "identify",
    "load_capture",
    "maps",
    "names",
    "read_prompt",
    "skips",
    "sweep",
    "trace",
]
# Where a name is defined, if not in `api` or, if it is capitalized, in `errors`.
_MODULES = {
    **dict.fromkeys(("Captured", "load_capture"), "capturing.captured"),
    **dict.fromkeys(("features", "maps", "skips"), "capturing.taps"),
    "capture": "capturing.capture",
    "read_prompt": "capturing.words",
    "Trace": "record",
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> object:
    """Import a name when it is first used: the command line starts before anything else is imported."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = _MODULES.get(name, "api" if name.islower() else "errors")
    return getattr(import_module(f"unetinspect.{module}"), name)
