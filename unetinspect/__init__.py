"""See how a diffusers UNet is built: stages, skip connections, attention layers, from one observed forward pass.

>>> import unetinspect
>>> unetinspect.trace("sd15", res=128).output.shape  # doctest: +SKIP
(2, 4, 16, 16)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unetinspect.errors import ConfigError, ForwardError, SourceError, UnetInspectError, UsageError
from unetinspect.version import __version__

if TYPE_CHECKING:
    from unetinspect.api import trace
    from unetinspect.record import Trace

__all__ = [
    "ConfigError",
    "ForwardError",
    "SourceError",
    "Trace",
    "UnetInspectError",
    "UsageError",
    "__version__",
    "trace",
]


def __getattr__(name: str) -> Any:
    """Import the two names that cost something only when they are asked for."""
    if name == "trace":
        from unetinspect.api import trace

        return trace
    if name == "Trace":
        from unetinspect.record import Trace

        return Trace
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
