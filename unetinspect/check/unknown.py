"""Keys that a class does not know: what they are elsewhere, and what they may stand for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unetinspect.check.foreign_keys import EMA_KEYS, FOREIGN_KEYS, UNREAD_KEYS
from unetinspect.errors import nearest_names
from unetinspect.record.check import Finding, KeyMeaning
from unetinspect.units import joined

_MOST_CLASSES = 3


def find_unknown(
    class_name: str, given: Mapping[str, Any], ignored: Sequence[str], classes: Mapping[str, Mapping[str, Any]], diffusers_version: str
) -> Iterator[Finding]:
    """Find keys that this diffusers' class ignores, each with what it is elsewhere, and which key it may stand for.

    `classes` holds the keys of every class.
    """
    newer = _newer_version(given.get("_diffusers_version"), diffusers_version)
    for key in ignored:
        if key in _explained(ignored):
            continue
        origin, instead = _origin(key, class_name, classes)
        what, advice = f"{key} is not a key of {class_name}", "remove it"
        if instead is not None:
            advice = f"remove it: {instead} is set too" if instead in given else f"did you mean {instead}?"
        if origin:
            what += f": {origin}"
        elif newer:
            what += f" in diffusers {diffusers_version}; the config is from diffusers {newer}"
            advice += f", or install diffusers {newer}"
        yield Finding(about="config", kind="unknown", what=what, where=(key,), advice=advice)


def say_unread(given: Mapping[str, Any], ignored: Sequence[str]) -> Iterator[KeyMeaning]:
    """Say what keys are that no UNet reads and that do no harm: those that diffusers' own tools leave in a config."""
    explained = _explained(ignored)
    for key in ignored:
        if key in explained:
            yield KeyMeaning(key=key, value=given.get(key), meaning=explained[key])


def _explained(ignored: Sequence[str]) -> dict[str, str]:
    """Return the keys that need no mending. Words as plain as "power" are EMAModel's only in its company."""
    of_ema = EMA_KEYS if {"decay", "optimization_step"} <= set(ignored) else {}
    return {**UNREAD_KEYS, **of_ema}


def _origin(key: str, class_name: str, classes: Mapping[str, Mapping[str, Any]]) -> tuple[str, str | None]:
    """Say what a key is elsewhere, and which key of the class it stands for; "" where nothing is known of it."""
    own = classes.get(class_name, {})
    if key in FOREIGN_KEYS:
        owner, here, meaning = FOREIGN_KEYS[key]
        if here in own:
            return f"the name of {here} in {owner}", here
        return f"a key of {owner}{f'; {meaning}' if meaning else ''}", None
    others = [name for name, keys in classes.items() if key in keys]
    if others:
        named = others[:_MOST_CLASSES] + (["others"] if len(others) > _MOST_CLASSES else [])
        return f"a key of {joined(named)}", None
    close = nearest_names(key, own, count=1)
    return "", close[0] if close else None


def _newer_version(saved: Any, installed: str) -> str | None:
    """Return the version that a config was saved by, where it is newer than the installed one.

    >>> _newer_version("0.50.0.dev0", "0.42.1"), _newer_version("0.6.0", "0.42.1"), _newer_version(None, "0.42.1")
    ('0.50.0.dev0', None, None)
    """
    numbers = [tuple(map(int, re.findall(r"\d{1,9}", str(version))[:3])) for version in (saved, installed)]
    return str(saved) if isinstance(saved, str) and numbers[0] > numbers[1] else None
