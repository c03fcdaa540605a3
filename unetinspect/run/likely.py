"""Where to look first when diffusers refuses a config, and how to say it: lists that differ in length, groups that do not divide, ...

Nothing here refuses anything: each guess is tried by `run/trial.py` before it is said.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from math import gcd
from typing import Any, NamedTuple

from unetinspect.catalog import load_catalog
from unetinspect.errors import nearest_names
from unetinspect.run.config_types import wrong_types
from unetinspect.run.resolve import ResolvedConfig, class_keys, diffusers_class, resolve_config
from unetinspect.unets.builder import is_count, is_list
from unetinspect.unets.unknown_keys import UnknownKey, explain_key
from unetinspect.units import format_value, joined

_MULTIPLES = (8, 32)
_MOST_GROUPS = 32
# Beyond it no divisor is looked for, and no word.
_LARGEST_DIVISOR = 10_000
_LONGEST_WORD = 80
_OF_BLOCKS = ("down_block_types", "block_out_channels", "up_block_types")


class Likely(NamedTuple):
    """A change to try.

    Attributes:
        keys: The keys that are to blame if it helps.
        what: What is wrong with them then; "": no more is known than that it helps.
        change: The values to try.
        by_block: Whether it may mend one block, and leave others that fail in the same way.
    """

    keys: tuple[str, ...]
    what: str
    change: Mapping[str, Any]
    by_block: bool = False


def unknown_keys(config: ResolvedConfig) -> list[UnknownKey]:
    """List the keys of a config that its class does not have, each with its origin and the key that it may be meant for."""
    return [explain_key(key, config.values, class_keys()) for key in config.ignored]


def misspelt_keys(config: ResolvedConfig, given: Mapping[str, Any]) -> Iterator[Likely]:
    """Guess that a key that the class does not have was meant for one that it has."""
    for unknown in unknown_keys(config):
        if unknown.meant is not None and unknown.key in given:
            yield Likely((unknown.key,), unknown.sentence(config.class_name), {unknown.meant: given[unknown.key]})


def other_classes(config: ResolvedConfig, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[Likely]:
    """Guess that the config is one of another class: one that has all its keys, and whose configs have its blocks, unlike its own's."""
    own = {key for key in given if not str(key).startswith("_")}
    blocks = [key for key in given if str(key).endswith("block_types") and is_list(given[key])]

    def has_blocks(name: str, keys: Mapping[str, Any]) -> bool:
        return all({*_strings(given[key])} <= {*_published_words(name, key), *_strings(keys.get(key))} for key in blocks)

    if not has_blocks(config.class_name, defaults):
        fitting = [name for name, keys in class_keys().items() if own <= set(keys) and has_blocks(name, keys)]
        for name in sorted(fitting, key=lambda name: -len(_published(name))):
            what = f"_class_name is {format_value(config.class_name)}, and the values of {joined(blocks)} are those of {name}"
            yield Likely(("_class_name",), what, {"_class_name": name})


def likely_mistakes(class_name: str, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[Likely]:
    """Guess what may be wrong with a config, each guess with a change that would mend it. Values may be of any type."""
    constructor = diffusers_class(class_name).__init__
    wrong = wrong_types(constructor, values)
    for key, what in wrong.items():
        for value in alternatives(class_name, key, values, defaults):
            if not wrong_types(constructor, {key: value}):
                yield Likely((key,), what, {key: value})
    read = {key: _read(values[key]) for key in wrong}
    if len(read) > 1 and not wrong_types(constructor, read):  # two that one line of diffusers meets are told apart by none
        yield Likely(tuple(read), f"{joined(read)} are written as strings", read)
    yield from _partners(values, defaults)
    others = [key for key in values if key not in wrong]
    for key in others:
        yield from _words(class_name, key, values[key])
    blocks = [key for key in others if key.endswith(("block_types", "block_out_channels")) and is_list(values[key])]
    lengths = Counter(len(values[key]) for key in blocks if values[key])
    by_number = sorted(lengths, key=lambda length: (lengths[length], length), reverse=True)
    widths = [[width for width in values[key] if is_count(width)] for key in blocks if key.endswith("channels")]
    yield from (guess for key in others for guess in _lengths(key, values, blocks, by_number[:1]))
    for key in others:
        for channels in filter(None, widths):
            if "groups" in key:
                yield from _groups(key, values[key], channels)
            elif "head" in key:
                yield from _heads(key, values[key], channels)
    yield from (guess for key in others for guess in _lengths(key, values, blocks, by_number[1:]))


def doubted_words(class_name: str, values: Mapping[str, Any], said: str) -> Iterator[Likely]:
    """Guess that words which diffusers knows and complains of are not for this class. `said` is what it says."""
    if doubted := re.findall(r"\w+", said):
        yield from (guess for key, value in values.items() for guess in _words(class_name, key, value, doubted))


def _lengths(key: str, values: Mapping[str, Any], blocks: Sequence[str], lengths: Sequence[int]) -> Iterator[Likely]:
    """Guess that a list is to have the length that most lists of blocks have, or that others have."""
    value = values[key]
    if is_list(value) and value and "mid_block" not in key:
        for length in lengths:
            if length != len(value):
                other = next(name for name in blocks if len(values[name]) == length)
                what = f"these lists must have the same length: {key} has {len(value)}, {other} has {length}"
                yield Likely((key, other), what, {key: _fitted(value, length)})


def _fitted(value: Sequence[Any], length: int) -> list[Any]:
    """Return a list of so many entries: the first of another, the last one repeated."""
    return [*value[:length], *[value[-1]] * (length - len(value))]


def _words(class_name: str, key: str, value: Any, doubted: Collection[str] = ()) -> Iterator[Likely]:
    """Guess that words are misspelt, or the names of another class's blocks; or that the doubted ones of those that are known are wrong."""
    known = _published_words(class_name, key) if doubted else known_words(class_name, key)
    words = [word for word in dict.fromkeys(_strings(value)) if (word in doubted if doubted else word not in known)]
    near = {word: found for word in words if (found := [name for name in nearest_names(word, known) if name != word])}
    for place in range(max(map(len, near.values()), default=0)):
        what = f"{key} {'contains' if is_list(value) else 'is'} {joined(map(format_value, near))}"
        meant = {word: found[min(place, len(found) - 1)] for word, found in near.items()}
        yield Likely((key,), what if doubted else f"{what}, which {class_name} does not know", {key: _replaced(value, meant)})


def _replaced(value: Any, meant: Mapping[str, str]) -> Any:
    """Return a word, or a list of them however deep, with some replaced."""
    return [_replaced(entry, meant) for entry in value] if is_list(value) else meant.get(value, value) if isinstance(value, str) else value


def _groups(key: str, value: Any, channels: Sequence[int]) -> Iterator[Likely]:
    """Guess that group norms cannot divide their channels."""
    if not is_count(value):
        yield Likely((key,), f"{key} is {format_value(value)}", {key: _share(_MOST_GROUPS, gcd(*channels))})
    elif uneven := [str(width) for width in dict.fromkeys(channels) if width % value]:
        what = f"block_out_channels contains {', '.join(uneven)}, not divisible by {key} ({format_value(value)})"
        yield Likely(("block_out_channels", key), what, {key: _share(value, gcd(*channels))})


def _heads(key: str, value: Any, channels: Sequence[int]) -> Iterator[Likely]:
    """Guess that there are more heads, or wider ones, than a block has channels, or that they cannot share them out."""
    if is_count(value):
        what = f"{key} is {format_value(value)}, more than a block has channels" if value > min(channels) else ""
        for width in sorted(set(channels), reverse=True):
            yield Likely((key,), what, {key: _share(value, width)}, by_block=True)
    elif is_list(value) and len(value) == len(channels) and all(map(is_count, value)):
        pairs = list(zip(value, channels, strict=True))
        what = next((f"{key} contains {count} for a block of {width} channels" for count, width in pairs if count > width), "")
        yield Likely((key,), what, {key: [_share(count, width) for count, width in pairs]}, by_block=True)


def _share(count: int, width: int) -> int:
    """Return the largest number up to `count` that divides a width."""
    return max(part for part in range(1, min(count, width, _LARGEST_DIVISOR) + 1) if width % part == 0)


def _partners(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[Likely]:
    """Guess that a word asks for other keys: those that all published configs with the word have, and not all others."""
    configs = [entry.config for entry in load_catalog().values()]
    for key, word in values.items():
        if not isinstance(word, str) or word == defaults[key]:
            continue
        same = [config for config in configs if config.get(key) == word]
        others = [config for config in configs if config.get(key) != word]
        missing = [
            name
            for name, value in values.items()
            if value is None and all(config.get(name) is not None for config in same) and any(config.get(name) is None for config in others)
        ]
        what = f"{key} is {format_value(word)}, which needs {' and '.join(missing)}"
        for config in same if missing else ():
            yield Likely((key, *missing), what, {name: config[name] for name in missing})


def ranked_keys(
    class_name: str, values: Mapping[str, Any], defaults: Mapping[str, Any], first: Sequence[str], said: str
) -> tuple[list[str], list[str]]:
    """Order the keys of a config by how likely they are to be wrong; returns those that something points at, and the others."""
    pointed = [
        key
        for key, value in values.items()
        if (value is None and defaults[key] is not None)
        or ("_" in key and key in said)
        or not {*_strings(value)} <= {*known_words(class_name, key), *_strings(defaults[key])}
    ]
    strong = list(dict.fromkeys([*first, *pointed]))
    published = _published(class_name)
    nearest = min(published, key=lambda config: _distance(config, values), default=values)
    near = [key for key in values if nearest.get(key) != values[key]]
    near = near if len(near) <= len(values) // 8 else []
    own = [key for key in values if values[key] != defaults[key]]
    own.sort(key=lambda key: (key.endswith(("block_types", "block_out_channels")), is_list(values[key])))
    return strong, [key for key in dict.fromkeys((*near, *own, *values)) if key not in strong]


def alternatives(class_name: str, key: str, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[Any]:
    """Yield other values of a key, the likeliest first: what published configs of the class have, its default, and values near its own."""
    value, default = values[key], defaults[key]
    yield from (read for read in [_read(value)] if read != value)
    published = [config[key] for config in sorted(_published(class_name), key=lambda config: _distance(config, values)) if key in config]
    yield from [*published[:1], default, *published[1:4]]
    blocks = next((len(found) for name in _OF_BLOCKS if is_list(found := values.get(name)) and found), 0)
    if is_list(default) and default and blocks:
        yield _fitted(default, blocks) if is_list(value) or not isinstance(value, type(default[0])) else [value] * blocks
    if isinstance(value, str):
        yield from nearest_names(value, known_words(class_name, key)) or known_words(class_name, key)
    elif is_list(value):
        yield from _other_lists(class_name, key, value, blocks or len(value))
        yield from dict.fromkeys(_flat(value)) if not is_list(default) else ()
    elif value is None:
        yield from (config[key] for entry in load_catalog().values() if (config := entry.config).get(key) is not None)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        channels = values.get("block_out_channels")
        yield from dict.fromkeys(filter(is_count, channels)) if is_list(channels) else ()
        yield from (2**power for power in range(int(min(2**20, abs(value))).bit_length() - 1, -1, -1))
        yield int(value) if isinstance(value, float) and abs(value) < 2**20 else 2
    yield from (True, False) if isinstance(default, bool) else ()


def _other_lists(class_name: str, key: str, value: Sequence[Any], length: int) -> Iterator[Any]:
    """Yield lists of as many entries as there are blocks, or of entries like those of a list."""
    flat = _flat(value)
    if flat and all(map(is_count, flat)):
        yield from ([-(-entry // step) * step for entry in flat] for step in _MULTIPLES if len(flat) == len(value))
        yield [min(flat)] * length
    for word in dict.fromkeys(_strings(value)):
        yield from (_replaced(value, {word: meant}) for meant in nearest_names(word, known_words(class_name, key)))
    yield from ([entry] * length for entry in dict.fromkeys(flat))


def _flat(value: Any) -> list[Any]:
    """List the words and numbers that a list holds, however deep."""
    return [entry for each in value for entry in _flat(each)] if is_list(value) else [value] * isinstance(value, str | int | float)


def _read(value: Any) -> Any:
    """Read what was written as text: "128" is 128, and "64, 128" a list.

    >>> _read("128"), _read(["1e-5", "silu"]), _read("64, 128"), _read("silu")
    (128, [1e-05, 'silu'], [64, 128], 'silu')
    """
    if is_list(value):
        return [_read(entry) for entry in value]
    for text in (value, f"[{value}]") if isinstance(value, str) else ():
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            continue
    return value


@cache
def known_words(class_name: str, key: str) -> list[str]:
    """List the words that a key may hold: those of published configs and, for block types, the classes beside the UNet's own."""
    found = _published_words(class_name, key)
    for way in ("down", "mid", "up"):
        if key.startswith(f"{way}_block_type"):
            found |= {name for name in _classes_beside(class_name) if way.title() in name and "Block" in name}
    return sorted(found)


def _published_words(class_name: str, key: str) -> set[str]:
    return {word for config in _published(class_name) for word in _strings(config.get(key))}


def _strings(value: Any) -> Iterable[str]:
    """Return the words in a value, however deep."""
    return (word for word in _flat(value) if isinstance(word, str) and len(word) <= _LONGEST_WORD)


@cache
def _classes_beside(class_name: str) -> set[str]:
    """Return the names of the classes in the modules that a UNet's own module takes its blocks from."""
    module = sys.modules[diffusers_class(class_name).__module__]
    modules = {module.__name__, *(getattr(value, "__module__", None) for value in vars(module).values() if callable(value))}
    own = [sys.modules[name] for name in modules if name and name.startswith(module.__name__.rpartition(".")[0])]
    return {name for each in own for name, value in vars(each).items() if isinstance(value, type)}


@cache
def _published(class_name: str) -> list[dict[str, Any]]:
    """List the configs of the class in the catalog, defaults filled in."""
    return [resolve_config(entry.config).values for entry in load_catalog().values() if entry.config["_class_name"] == class_name]


def _distance(config: Mapping[str, Any], values: Mapping[str, Any]) -> int:
    return sum(config.get(key) != value for key, value in values.items())
