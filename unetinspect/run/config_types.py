"""Config values of other types than a class's own constructor declares. Knows no class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from unetinspect.units import format_value

# Constructors declare one value for them here, and one for each block or side there, and take both.
_MAY_BE_LISTS = ("sample_size", "cross_attention_dim", "motion_num_attention_heads")
_WORDS: dict[type, str] = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}


def wrong_types(constructor: Callable[..., Any], config: Mapping[str, Any]) -> dict[str, str]:
    """Return, for each key whose value is of a type that the constructor does not declare, a sentence on it.

    diffusers checks no types, and may run with such a value all the same. null passes. In a list each entry is compared with the
    declared types, however deep it lies.
    """
    hints = get_type_hints(constructor)
    return {key: sentence for key, hint in hints.items() if key in config for sentence in _mistakes(key, config[key], hint)}


def _mistakes(key: str, value: Any, hint: Any) -> Iterator[str]:
    kinds = set(_flat(hint))
    scalars = [kind for kind in _WORDS if kind in kinds]
    takes_list = tuple in kinds or list in kinds or key in _MAY_BE_LISTS
    if not scalars:
        return  # nothing that is known here: left to the class
    if isinstance(value, list | tuple):
        wrong = [] if takes_list else [value]
        wrong += [entry for entry in _entries(value) if takes_list and not _fits(entry, scalars)]
    else:
        wrong = [] if _fits(value, scalars) else [value]
    if wrong:
        words = " or ".join(_WORDS[kind] for kind in scalars)
        listed = " or a list of them" if takes_list else ""
        yield f"{key} {'has' if wrong[0] is not value else 'is'} {format_value(wrong[0])}: diffusers expects {words}{listed}"


def _flat(hint: Any) -> Iterator[Any]:
    """Yield the plain types in a hint: those of `int | tuple[int, ...] | None` are int, tuple, NoneType."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        for part in get_args(hint):
            yield from _flat(part)
    elif origin in (tuple, list):
        yield origin
        for part in get_args(hint):
            yield from _flat(part)
    else:
        yield hint


def _entries(value: list[Any] | tuple[Any, ...]) -> Iterator[Any]:
    for entry in value:
        if isinstance(entry, list | tuple):
            yield from _entries(entry)
        else:
            yield entry


def _fits(value: Any, kinds: list[type]) -> bool:
    if isinstance(value, NoneType):
        return True
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, float):
        return float in kinds and isfinite(value)
    if isinstance(value, int):
        return int in kinds or float in kinds
    return isinstance(value, str) and str in kinds
