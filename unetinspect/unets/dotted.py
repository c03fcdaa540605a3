"""Dotted names of values that lie inside others: "added_cond_kwargs.time_ids" in a dict, "controlnet_cond.0" in a list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def nest(named: Mapping[str, Any]) -> Any:
    """Put values with dotted names into dicts; where all names at one place are numbers, into a list.

    >>> nest({"sample": 1, "added_cond_kwargs.time_ids": 2, "controlnet_cond.0": 3})
    {'sample': 1, 'added_cond_kwargs': {'time_ids': 2}, 'controlnet_cond': [3]}
    """
    inside: dict[str, dict[str, Any]] = {}
    for name, value in named.items():
        first, _, rest = name.partition(".")
        inside.setdefault(first, {})[rest] = value
    nested = {first: held[""] if "" in held else nest(held) for first, held in inside.items()}
    return list(nested.values()) if nested and all(key.isdigit() for key in nested) else nested
