"""Small configs of ControlNets and T2I-Adapters, and of the UNet that contains a ControlNet."""

from __future__ import annotations

from typing import Any

from tests.tiny import Config, kinds

KINDS = kinds("plugs")
CONTROLNET = KINDS["controlnet"]


def controlnet(**keys: Any) -> Config:
    """Return the small ControlNet with some keys replaced."""
    return {**CONTROLNET, **keys}


def xs(**keys: Any) -> Config:
    """Return the small UNet that contains a ControlNet with some keys replaced."""
    return {**KINDS["controlnet-xs"], **keys}


def adapter(**keys: Any) -> Config:
    """Return the small T2I-Adapter with some keys replaced."""
    return {**KINDS["t2i-adapter"], **keys}
