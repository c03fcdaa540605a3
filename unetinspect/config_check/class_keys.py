"""The config keys of every class that can be traced, and their defaults, as diffusers 0.42 has them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any


@cache
def class_keys() -> dict[str, dict[str, Any]]:
    """Return each class's keys with their defaults; tuples are lists, as in JSON."""
    read: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("class_keys.json").read_text(encoding="utf-8"))
    return read


def classes_with(key: str) -> list[str]:
    """Return the classes that have a key, in alphabetical order.

    >>> classes_with("sample_rate")
    ['UNet1DModel']
    """
    return [name for name, keys in class_keys().items() if key in keys]


def is_default(class_name: str, key: str, value: Any) -> bool:
    """Tell whether a value says no more than the class's default: it is equal, or a list of nothing else.

    >>> is_default("UNet2DModel", "layers_per_block", 2), is_default("UNet2DConditionModel", "only_cross_attention", [False, False])
    (True, True)
    """
    keys = class_keys().get(class_name, {})
    if key not in keys:
        return False
    default = keys[key]
    if isinstance(value, list | tuple) and not isinstance(default, list):
        return all(item == default for item in value)
    return bool((list(value) if isinstance(value, tuple) else value) == default)
