"""Which keys of a config to suspect when diffusers refuses it, what to try instead, and how to say what is wrong.

Nothing here refuses anything: `run/trial.py` tries each suspect before it is named.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from math import gcd, isfinite
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from unetinspect.catalog import load_catalog
from unetinspect.errors import nearest_names
from unetinspect.run.resolve import ResolvedConfig, class_keys, diffusers_class, resolve_config
from unetinspect.unets.builder import is_count, is_list, leaves, words_in
from unetinspect.unets.unknown_keys import UnknownKey, explain_key
from unetinspect.units import format_value, joined

_MULTIPLES = (8, 32)
_MOST_GROUPS = 32
# Larger numbers are not searched for a divisor, and longer texts not compared with words.
_LARGEST_DIVISOR = 10_000
_LONGEST_WORD = 80
_OF_BLOCKS = ("down_block_types", "block_out_channels", "up_block_types")
# Some constructors declare one value for these keys, others one for each block or side. All take both.
_MAY_BE_LISTS = ("sample_size", "cross_attention_dim", "motion_num_attention_heads")
_TYPES: dict[type, str] = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}


class Suspect(NamedTuple):
    """A change to try.

    Attributes:
        keys: The keys to blame if it helps.
        what: What is wrong with them in that case; "": nothing more is known.
        change: The values to try.
        by_block: Whether it may fix one block while others fail in the same way.
    """

    keys: tuple[str, ...]
    what: str
    change: Mapping[str, Any]
    by_block: bool = False


def unknown_keys(config: ResolvedConfig, given: Mapping[str, Any]) -> list[UnknownKey]:
    """List the keys of a config that its class does not have, each with its origin and the key that it may be meant for."""
    return [explain_key(key, class_keys()[config.class_name], class_keys(), given=given) for key in config.ignored]


def misspelt_keys(config: ResolvedConfig, given: Mapping[str, Any]) -> Iterator[Suspect]:
    """Suspect that a key that the class does not have was meant for one that it has."""
    for unknown in unknown_keys(config, given):
        change = unknown.change or ({unknown.meant: given[unknown.key]} if unknown.meant is not None and unknown.key in given else {})
        if change:
            yield Suspect((unknown.key,), unknown.sentence(config.class_name), change)


def other_classes(config: ResolvedConfig, given: Mapping[str, Any]) -> Iterator[Suspect]:
    """Suspect that the config is one of another class: a class that has all of its keys and blocks, which its own class has not."""
    own = {key for key in given if not str(key).startswith("_")}
    blocks = [key for key in given if str(key).endswith("block_types") and is_list(given[key])]

    def has_blocks(name: str) -> bool:
        default = class_keys()[name]
        return all({*_strings(given[key])} <= {*_published_words(name, key), *_strings(default.get(key))} for key in blocks)

    if not has_blocks(config.class_name):
        fitting = [name for name, keys in class_keys().items() if own <= set(keys) and has_blocks(name)]
        for name in sorted(fitting, key=lambda name: -len(_published(name))):
            what = f"_class_name is {format_value(config.class_name)}, but {joined(blocks)} have values of {name}"
            yield Suspect(("_class_name",), what, {"_class_name": name})


def likely_mistakes(config: ResolvedConfig) -> Iterator[Suspect]:
    """Suspect what is known to go wrong often. Values may be of any type."""
    class_name, values = config.class_name, config.values
    constructor = diffusers_class(class_name).__init__
    wrong = wrong_types(constructor, values)
    for key, what in wrong.items():
        for value in alternatives(config, key):
            if not wrong_types(constructor, {key: value}):
                yield Suspect((key,), what, {key: value})
    read = {key: _read(values[key]) for key in wrong}
    if len(read) > 1 and not wrong_types(constructor, read):  # if diffusers reads two in one line, no single change helps
        yield Suspect(tuple(read), f"{joined(read)} are written as strings", read)
    yield from _missing_partners(config)
    others = [key for key in values if key not in wrong]
    for key in others:
        yield from _unknown_words(class_name, key, values[key])
    blocks = [key for key in others if key.endswith(("block_types", "block_out_channels")) and is_list(values[key])]
    lengths = Counter(len(values[key]) for key in blocks if values[key])
    by_number = sorted(lengths, key=lambda length: (lengths[length], length), reverse=True)
    widths = [[width for width in values[key] if is_count(width)] for key in blocks if key.endswith("channels")]
    yield from (suspect for key in others for suspect in _other_lengths(key, values, blocks, by_number[:1]))
    for key in others:
        for channels in filter(None, widths):
            if "groups" in key:
                yield from _uneven_groups(key, values[key], channels)
            elif "head" in key:
                yield from _many_heads(key, values[key], channels)
    yield from (suspect for key in others for suspect in _other_lengths(key, values, blocks, by_number[1:]))


def wrong_types(constructor: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, str]:
    """Return a sentence for each key with a value of a type that the constructor does not declare.

    diffusers checks no types, and may run with such a value. null is accepted. In a list each entry is compared with the declared
    types, at any depth.
    """
    found = {}
    for key, hint in get_type_hints(constructor).items():
        if key not in values:
            continue
        value, declared = values[key], set(_types_in(hint))
        scalars = [kind for kind in _TYPES if kind in declared]
        takes_list = bool(declared & {tuple, list}) or key in _MAY_BE_LISTS
        wrong = [entry for entry in (leaves(value) if takes_list else [value]) if not _is_of(entry, scalars)]
        if scalars and wrong:
            expected = " or ".join(_TYPES[kind] for kind in scalars) + (" or a list of them" if takes_list else "")
            found[key] = f"{key} {'is' if wrong[0] is value else 'has'} {format_value(wrong[0])}: diffusers expects {expected}"
    return found


def _types_in(hint: Any) -> Iterator[Any]:
    """Yield the plain types in a hint: those of `int | tuple[int, ...] | None` are int, tuple, NoneType."""
    origin = get_origin(hint)
    yield origin or hint
    if origin in (Union, UnionType, tuple, list):
        for part in get_args(hint):
            yield from _types_in(part)


def _is_of(value: Any, types: Collection[type]) -> bool:
    if isinstance(value, float):
        return float in types and isfinite(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int in types or float in types
    return value is None or type(value) in types


def doubted_words(config: ResolvedConfig, message: str) -> Iterator[Suspect]:
    """Suspect words that diffusers knows and complains of in its message: they may be those of another class."""
    if doubted := re.findall(r"\w+", message):
        yield from (suspect for key, value in config.values.items() for suspect in _unknown_words(config.class_name, key, value, doubted))


def _other_lengths(key: str, values: Mapping[str, Any], blocks: Sequence[str], lengths: Sequence[int]) -> Iterator[Suspect]:
    """Suspect that a list should have the length of other lists of blocks."""
    value = values[key]
    if is_list(value) and value and "mid_block" not in key:
        for length in lengths:
            if length != len(value):
                other = next(name for name in blocks if len(values[name]) == length)
                what = f"these lists must have the same length: {key} has {len(value)}, {other} has {length}"
                yield Suspect((key, other), what, {key: _fitted(value, length)})


def _fitted(value: Sequence[Any], length: int) -> list[Any]:
    """Return the first entries of a list, the last one repeated if there are too few."""
    return [*value[:length], *[value[-1]] * (length - len(value))]


def _unknown_words(class_name: str, key: str, value: Any, doubted: Collection[str] = ()) -> Iterator[Suspect]:
    """Suspect that words are misspelt, or blocks of another class; or, of the known words, that the doubted ones are wrong."""
    known = _published_words(class_name, key) if doubted else known_words(class_name, key)
    words = [word for word in dict.fromkeys(_strings(value)) if (word in doubted if doubted else word not in known)]
    near = {word: found for word in words if (found := [name for name in nearest_names(word, known) if name != word])}
    for place in range(max(map(len, near.values()), default=0)):
        what = f"{key} {'contains' if is_list(value) else 'is'} {joined(map(format_value, near))}"
        meant = {word: found[min(place, len(found) - 1)] for word, found in near.items()}
        yield Suspect((key,), what if doubted else f"{what}, which {class_name} does not know", {key: _replaced(value, meant)})


def _replaced(value: Any, meant: Mapping[str, str]) -> Any:
    """Return a word, or nested lists of words, with some replaced."""
    if is_list(value):
        return [_replaced(entry, meant) for entry in value]
    return meant.get(value, value) if isinstance(value, str) else value


def _uneven_groups(key: str, value: Any, channels: Sequence[int]) -> Iterator[Suspect]:
    if not is_count(value):
        yield Suspect((key,), f"{key} is {format_value(value)}", {key: _share(_MOST_GROUPS, gcd(*channels))})
    elif uneven := [str(width) for width in dict.fromkeys(channels) if width % value]:
        what = f"block_out_channels contains {', '.join(uneven)}, not divisible by {key} ({format_value(value)})"
        yield Suspect(("block_out_channels", key), what, {key: _share(value, gcd(*channels))})


def _many_heads(key: str, value: Any, channels: Sequence[int]) -> Iterator[Suspect]:
    """Suspect that a number of heads, or their width, exceeds the channels of a block or does not divide them."""
    if is_count(value):
        what = f"{key} is {format_value(value)}, more than a block has channels" if value > min(channels) else ""
        for width in sorted(set(channels), reverse=True):
            yield Suspect((key,), what, {key: _share(value, width)}, by_block=True)
    elif is_list(value) and len(value) == len(channels) and all(map(is_count, value)):
        pairs = list(zip(value, channels, strict=True))
        what = next((f"{key} contains {count} for a block of {width} channels" for count, width in pairs if count > width), "")
        yield Suspect((key,), what, {key: [_share(count, width) for count, width in pairs]}, by_block=True)


def _share(count: int, width: int) -> int:
    """Return the largest number up to `count` that divides a width."""
    return max(part for part in range(1, min(count, width, _LARGEST_DIVISOR) + 1) if width % part == 0)


def _missing_partners(config: ResolvedConfig) -> Iterator[Suspect]:
    """Suspect that a word needs other keys: those that all published configs with the word have, and not all others."""
    configs = [entry.config for entry in load_catalog().values()]
    defaults = class_keys()[config.class_name]
    for key, word in config.values.items():
        if not isinstance(word, str) or word == defaults[key]:
            continue
        same = [other for other in configs if other.get(key) == word]
        rest = [other for other in configs if other.get(key) != word]
        unset = [name for name, value in config.values.items() if value is None]
        missing = [
            name for name in unset if all(other.get(name) is not None for other in same) and any(other.get(name) is None for other in rest)
        ]
        what = f"{key} is {format_value(word)}, which needs {' and '.join(missing)}"
        for other in same if missing else ():
            yield Suspect((key, *missing), what, {name: other[name] for name in missing})


def ranked_keys(config: ResolvedConfig, overridden: Iterable[str], message: str) -> tuple[list[str], list[str]]:
    """Return the keys of a config that something points at, and the others, most likely first. `message` is that of diffusers."""
    class_name, values, defaults = config.class_name, config.values, class_keys()[config.class_name]
    pointed = [
        key
        for key, value in values.items()
        if (value is None and defaults[key] is not None)
        or ("_" in key and key in message)
        or not {*_strings(value)} <= {*known_words(class_name, key), *_strings(defaults[key])}
    ]
    strong = list(dict.fromkeys([*overridden, *pointed]))
    nearest = min(_published(class_name), key=lambda other: _distance(other, values), default=values)
    near = [key for key in values if nearest.get(key) != values[key]]
    near = near if len(near) <= len(values) // 8 else []
    own = [key for key in values if values[key] != defaults[key]]
    own.sort(key=lambda key: (key.endswith(("block_types", "block_out_channels")), is_list(values[key])))
    return strong, [key for key in dict.fromkeys((*near, *own, *values)) if key not in strong]


def alternatives(config: ResolvedConfig, key: str) -> Iterator[Any]:
    """Yield other values of a key, most likely first: those of published configs, the default, and values near its own."""
    class_name, values = config.class_name, config.values
    value, default = values[key], class_keys()[class_name][key]
    if (read := _read(value)) != value:
        yield read
    published = [other[key] for other in sorted(_published(class_name), key=lambda other: _distance(other, values)) if key in other]
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
        yield from (found for entry in load_catalog().values() if (found := entry.config.get(key)) is not None)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        channels = values.get("block_out_channels")
        yield from dict.fromkeys(filter(is_count, channels)) if is_list(channels) else ()
        yield from (2**power for power in range(int(min(2**20, abs(value))).bit_length() - 1, -1, -1))
        yield int(value) if isinstance(value, float) and abs(value) < 2**20 else 2
    yield from (True, False) if isinstance(default, bool) else ()


def _other_lists(class_name: str, key: str, value: Sequence[Any], length: int) -> Iterator[Any]:
    """Yield lists of `length` entries, or with entries like those of a list."""
    flat = _flat(value)
    if flat and all(map(is_count, flat)):
        yield from ([-(-entry // step) * step for entry in flat] for step in _MULTIPLES if len(flat) == len(value))
        yield [min(flat)] * length
    for word in dict.fromkeys(_strings(value)):
        yield from (_replaced(value, {word: meant}) for meant in nearest_names(word, known_words(class_name, key)))
    yield from ([entry] * length for entry in dict.fromkeys(flat))


def _flat(value: Any) -> list[Any]:
    return [entry for entry in leaves(value) if isinstance(entry, str | int | float)]


def _strings(value: Any) -> Iterable[str]:
    return (word for word in words_in(value) if len(word) <= _LONGEST_WORD)


def _read(value: Any) -> Any:
    """Read a value that is written as text: "128" is 128, and "64, 128" a list.

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
    """List the words that a key may have: those of published configs and, for block types, classes in the modules of the UNet's blocks."""
    found = _published_words(class_name, key)
    for way in ("down", "mid", "up"):
        if key.startswith(f"{way}_block_type"):
            found |= {name for name in _classes_beside(class_name) if way.title() in name and "Block" in name}
    return sorted(found)


def _published_words(class_name: str, key: str) -> set[str]:
    return {word for config in _published(class_name) for word in _strings(config.get(key))}


@cache
def _classes_beside(class_name: str) -> set[str]:
    """Return the names of the classes in the modules from which a UNet's own module imports its blocks."""
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
