"""What the user typed as MODEL -> a config and where it came from. Knows neither torch nor diffusers."""

from __future__ import annotations

from unetinspect.source.loaded import LoadedModel
from unetinspect.source.read import read_model

__all__ = ["LoadedModel", "read_model"]
