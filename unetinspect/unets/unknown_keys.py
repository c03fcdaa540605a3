"""Config keys that a class does not have: what they are elsewhere, and which key of the class they may be meant for.

Sources: `UNetModel` and `Model` of CompVis's latent-diffusion and Stability's generative-models, `create_model` of OpenAI's
guided-diffusion, scripts/change_naming_configs_and_checkpoints.py, `StableCascadeUnet` of the first release of Stable Cascade and
`EMAModel.state_dict` of diffusers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from unetinspect.errors import Problem
from unetinspect.unets.builder import is_list
from unetinspect.units import format_value, joined

_MOST_CLASSES = 3
# How much of two names, word for word, and how much of two words must be alike.
_LIKE_NAMES, _LIKE_WORDS = 0.35, 0.8


class _Cascade(Struct, frozen=True):
    keys: dict[str, str]
    pairs: dict[str, tuple[str, str]]
    layers: dict[str, str]


class _Tables(Struct, frozen=True):
    ema: frozenset[str]
    harmless: dict[str, str]
    switches: dict[str, tuple[str, str]]
    cascade: _Cascade
    owners: dict[str, dict[str, str]]


@cache
def _tables() -> _Tables:
    return msgspec.toml.decode(Path(__file__).with_suffix(".toml").read_bytes(), type=_Tables)


class UnknownKey(NamedTuple):
    """A config key that a class does not have.

    Attributes:
        key: The key.
        origin: What it is elsewhere: "a key of UNet2DModel"; "" where that is unknown.
        meant: The key of the class that it may be meant for.
        change: The keys to set instead, each with its value.
    """

    key: str
    origin: str = ""
    meant: str | None = None
    change: Mapping[str, Any] = MappingProxyType({})

    def sentence(self, class_name: str) -> str:
        """Say that the class does not have it, and what it is elsewhere, else what it may be meant for."""
        detail = self.origin or (f"did you mean {self.meant}?" if self.meant else "")
        return f"{self.key} is not a key of {class_name}" + (f": {detail}" if detail else "")

    def advice(self, given: Collection[str]) -> str:
        """Say what to do about it in a config with the `given` keys: what it was meant for is never just left out."""
        if self.meant is not None and self.meant in given:
            return f"remove it: {self.meant} is set too" if self.origin else f"{self.meant} is similar, and set too"
        if self.change:
            return Problem((self.key,), "", self.change).options
        return f"did you mean {self.meant}?" if self.meant else "remove it" if self.origin else "diffusers ignores it"


def explain_key(
    key: str, own: Mapping[str, Any], classes: Mapping[str, Collection[str]] | None = None, *, given: Mapping[str, Any]
) -> UnknownKey:
    """Explain a key that a class does not have: `own` has the keys of the class, each with its default or value.

    `classes` has the keys of all classes; `given` is the config as it was written.
    """
    value = given.get(key)
    switched, today = _tables().switches.get(key, ("", ""))
    if switched in own:
        return UnknownKey(key, f"true is {switched}: {format_value(today)}", change={switched: today} if value is True else {})
    if "block_types_per_layer" in own and (change := _of_cascade(key, value)):
        origin = f"the name of {joined(change)} in the first release of Stable Cascade"
        return UnknownKey(key, origin, next(iter(change)), change if key in given else {})
    for owner, keys in _tables().owners.items():
        if (instead := keys.get(key)) is not None:
            if instead in own:
                return UnknownKey(key, f"the name of {instead} in {owner}", instead)
            return UnknownKey(key, f"a key of {owner}" + (f"; {instead}" if " " in instead else ""))
    others = [name for name, keys in (classes or {}).items() if key in keys]
    if others:
        named = others[:_MOST_CLASSES] + (["others"] if len(others) > _MOST_CLASSES else [])
        return UnknownKey(key, f"a key of {joined(named)}")
    likeness = {name: _likeness(key, name, own) for name in own if key not in given or _same_type(value, own[name])}
    meant = max(likeness, key=likeness.__getitem__, default=None)
    return UnknownKey(key, meant=meant if meant is not None and likeness[meant] > (_LIKE_NAMES, 0) else None)


def _likeness(key: str, name: str, names: Collection[str]) -> tuple[float, float]:
    """Return which share of two names' words is shared, and how similar the two are letter for letter.

    A word that many names have counts the less; a shared one may be misspelt.

    >>> names = ["use_linear_projection", "upcast_attention", "attention_type", "attention_head_dim"]
    >>> [round(_likeness(key, name, names)[0], 2) for key, name in (("linear_projecton", names[0]), ("gated_attention", names[1]))]
    [0.67, 0.14]
    """

    def ratio(one: str, other: str) -> float:
        return SequenceMatcher(None, one.lower(), other.lower()).ratio()

    def weight(word: str) -> float:
        return 1 / max(sum(word in each.split("_") for each in names), 1)

    words, others = key.split("_"), name.split("_")
    shared = {other for other in others if any(ratio(word, other) >= _LIKE_WORDS for word in words)}
    single = [word for word in words if not any(ratio(word, other) >= _LIKE_WORDS for other in others)]
    total = sum(map(weight, {*others, *single}))
    return sum(map(weight, shared)) / total, ratio(key, name)


def _same_type(value: Any, default: Any) -> bool:
    """Whether a value is of the type of a default: numbers are of one type, a list is of that of its entries, and null of any."""

    def types(of: Any) -> set[str]:
        if is_list(of):
            return {kind for item in of for kind in types(item)}
        return {"number" if isinstance(of, int | float) and not isinstance(of, bool) else type(of).__name__} - {"NoneType"}

    return not types(value) or not types(default) or types(value) <= types(default)


def _of_cascade(key: str, value: Any) -> dict[str, Any]:
    """Return the keys and values of today for one of the first release of Stable Cascade; none for any other."""
    table = _tables().cascade
    if key in table.pairs:
        pair = value if is_list(value) and len(value) == 2 else (value, value)
        return dict(zip(table.pairs[key], pair, strict=True))
    if key == "level_config" and is_list(value):
        value = [[table.layers.get(str(layer), layer) for layer in level] if isinstance(level, Sequence) else level for level in value]
    return {table.keys[key]: value} if key in table.keys else {}


def from_first_cascade(config: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Translate a config of the first release of Stable Cascade; returns it and what was renamed."""
    changes = {key: change for key, value in config.items() if (change := _of_cascade(key, value))}
    found = {key: value for key, value in config.items() if key not in changes} | {"_class_name": "StableCascadeUNet"}
    for change in changes.values():
        found |= change
    return found, tuple(f"{key} to {joined(change)}" for key, change in changes.items())


def harmless_keys(unknown: Collection[str]) -> dict[str, str]:
    """Return those of the unknown keys that diffusers' own tools leave in a config and no UNet reads, with their meaning."""
    tables = _tables()
    # Words as plain as "power" are EMAModel's only in its company.
    of_ema = tables.ema if {"decay", "optimization_step"} <= set(unknown) else ()
    meanings = {**tables.harmless, **dict.fromkeys(of_ema, "left by EMAModel; no UNet reads it")}
    return {key: meanings[key] for key in unknown if key in meanings}
