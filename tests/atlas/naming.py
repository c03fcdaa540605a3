"""A message with its numbers and words taken out, and what each number is: sizes are primes, so a number says it itself."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import NamedTuple

from tests.tiny import Config
from unetinspect.run.resolve import diffusers_class
from unetinspect.unets import supported_classes

_NUMBER = re.compile(r"(?:(?<![\w.])|(?<=\dx))\d+(?:(?:\.\d+)?(?:e[+-]?\d+)?(?!\w)|(?=x\d))")
_DTYPE = r"(?:c10::)?(?:Float|Half|BFloat16|Double|Long|Int|Bool|Char|Byte|float|double|long int|long|int|bool)"
_WORDS = (
    (re.compile(r"(?<!\d)0x[0-9a-f]{6,}|#"), "@"),
    (re.compile(r"<class '[^']*'>"), "<class '@'>"),
    (re.compile(r"(?<=one of )\{'[^{}]*\}"), "@"),  # a set, whose order is another in each process
    (re.compile(r"FrozenDict\(.*\)"), "@"),
    (re.compile(r"(?<=`: )\[.*?\](?=\.)"), "@"),  # the values of a key, as many as the model has blocks
    (re.compile(r"[\[(][^\[\]()]*['\"][^\[\]()]*[\])](?=[\s.,:;]|$)"), "@"),  # a list of words
    (re.compile(r"torch\.(?:cuda\.)?\w+Tensor|CPU\w+Type|\w+Tensor\b(?= or | and)|torch\.b?float\d+|torch\.u?int\d+|torch\.bool"), "@"),
    (re.compile(rf"(?<=\(){_DTYPE}(?=\))|\b(?:Half|BFloat16|Double|Float|Long)\b|c10::\w+"), "@"),
    (re.compile(rf"(?<=type ){_DTYPE}\b|(?<=dtype: ){_DTYPE}\b|(?<=dtype ){_DTYPE}\b|'\w+ ?\w*'(?= is not supported between)"), "@"),
)
_LONGEST = 200
_DIMENSION = re.compile(r"(?:[Dd]imension|\bdim) \(?$")
# Before numbers that count tensors or arguments, or are bounds.
_COUNTS = re.compile(r"(?:tensor number|groups=|range of \[[-\d, ]*|position|argument @|at pos|at least|element|Argument @)\s?$")
_NO_LENGTH = re.compile(r"layers|kernel|mult|sample_size|mappers|num_frames|sample_rate|freq_shift|padding|num_train_timesteps")
_SUMMED = re.compile(r"channels[.\d]*$|^given$|^expected$|pooled|addition_time_embed_dim$")
_ROWS = re.compile(r"batch$|given$|expected$")  # heads are told apart in the batch alone
_COUNTED = re.compile(r"head|\.ids$|given|expected|frames")
_GROUPS = re.compile(r"num_groups[ (=]*$")
_SHAPE = re.compile(r"\[[\d, -]*$|\(?\d+x$")
_LENGTH = re.compile(r"(?:[Ss]ize|tensor [ab]|to have|num_channels|embed_dim|of|size\(-\d\)|num_heads|by|channels in input) ?[(=]*$")
_WEIGHT = re.compile(r"weight of size \[([\d, ]*)$")
_SMALL = 4  # a number up to this is a kernel's side, a count of axes, ...: only in a shape do lengths explain it


class Names(NamedTuple):
    """The quantities of one run by name: those of its inputs and of the module that failed, and those of its config."""

    near: Mapping[str, int]
    far: Mapping[str, int]


class Told(NamedTuple):
    """A message with '#' for each number and '@' for each variable word, and what the numbers are."""

    text: str
    numbers: tuple[str, ...]


def told(message: str, names: Names, words: Iterable[str] = ()) -> Told:
    """Take the numbers and words out of a message. `words` are wrong values of config keys."""
    message = " ".join(message.split())
    for word in words:
        message = re.sub(rf"(?<![\w@]){re.escape(word)}(?!\w)", "@", message)
    message = re.sub(r"(?<![\w`])[A-Z]\w+(?![\w`])", lambda match: "@" if match[0] in _class_names() else match[0], message)
    for pattern, instead in _WORDS:
        message = pattern.sub(instead, message)
    if len(message) > _LONGEST:
        message = message[:_LONGEST].rpartition(" ")[0]
    found = tuple(_meaning(match, names) for match in _NUMBER.finditer(message))
    return Told(_NUMBER.sub("#", message), found)


@cache
def _class_names() -> frozenset[str]:
    """Return the names of the classes that diffusers has imported for its models."""
    for name in supported_classes():
        diffusers_class(name)  # imports it
    modules = [module for name, module in sys.modules.items() if name.startswith(("diffusers.models", "diffusers.pipelines.audioldm2"))]
    return frozenset(
        name
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__.startswith("diffusers")
    )


def _meaning(match: re.Match[str], names: Names) -> str:
    if not match[0].isdigit():
        return ""
    value, before, after = int(match[0]), match.string[: match.start()], match.string[match.end() :]
    if _DIMENSION.search(before):
        return f"={value}"  # which dimension it is distinguishes causes
    if of_weight := _WEIGHT.search(before):
        return f"weight.{of_weight[1].count(',')}"
    if _COUNTS.search(before):
        return ""
    if _GROUPS.search(before):
        return "|".join(
            name for name, length in (*names.near.items(), *names.far.items()) if length == value and ("group" in name or name == "given")
        )
    in_shape = _SHAPE.search(before) or re.match(r"x\d", after)
    if not in_shape and (value <= _SMALL or not (_LENGTH.search(before) or after.startswith(" channels"))):
        return "|".join(name for name in ("given", "expected") if names.near.get(name) == value)
    return expression(value, names)


def expression(value: int, names: Names) -> str:
    """Write a number as the shortest expression of names that gives it; "" if none does, or several do that are unrelated.

    >>> expression(155, Names({"given": 40, "sample.batch": 5, "encoder_hidden_states.tokens": 31}, {}))
    'sample.batch*encoder_hidden_states.tokens'
    >>> expression(640, Names({"sample.batch": 5, "sample.height*sample.width": 128}, {}))
    'sample.batch*sample.height*sample.width'
    """
    plain = {name: length for name, length in names.near.items() if "*" not in name}
    for known in (plain, names.far, names.near):
        if same := [name for name, length in known.items() if length == value and "groups" not in name]:
            # "given" needs no half of it, which is the same number where it is 1.
            whole = [name for name in same if "/" not in name]
            return "|".join(
                name for name in same if "/" not in name or (name.partition("/")[0] not in same and known is plain) or not whole
            )
    factors = _factors(names)
    for count in (2, 3, 4):
        products = ["*".join(names_of) for names_of in _products(value, factors, count) if _plausible(names_of, names)]
        if products:
            return products[0] if len(products) == 1 else ""
    return _sum(value, names)


def _plausible(factors: tuple[str, ...], names: Names) -> bool:
    """Tell whether lengths are likely to be multiplied: at most one small one, which would make any number."""
    lengths = {**names.far, **names.near}
    small = [name for name in factors if lengths[name] <= _SMALL]
    if small == ["downscale_factor", "downscale_factor"]:
        return True
    if len(set(factors)) < len(factors) or ("time_embed_dim" in factors and len(factors) > 2):
        return False
    if any("head" in name for name in small) and not any(_ROWS.search(name) for name in factors if name not in small):
        return False
    return not small or (len(small) == 1 and bool(_COUNTED.search(small[0])))


def _factors(names: Names) -> list[tuple[str, int]]:
    """List what a product can be made of, one name for each length. A height goes with its width alone, as an area."""
    lengths: dict[str, int] = {}
    for name, length in (*names.near.items(), *names.far.items()):
        is_factor = not name.endswith(("/given", "/expected")) and ("*" in name or _side(name) not in ("height", "width"))
        if is_factor and length > 1 and length not in lengths.values() and "group" not in name:
            lengths[name] = length
    return list(lengths.items())


def _products(value: int, known: list[tuple[str, int]], count: int) -> Iterator[tuple[str, ...]]:
    if count == 1:
        yield from ((name,) for name, length in known if length == value)
        return
    for place, (name, length) in enumerate(known):
        if value % length == 0 and value > length > 1:
            yield from ((name, *rest) for rest in _products(value // length, known[place:], count - 1))


def _sum(value: int, names: Names) -> str:
    lengths: dict[str, int] = {}
    for name, length in (*names.near.items(), *names.far.items()):
        if length not in lengths.values():
            lengths[name] = length
    for more in (2, 1):
        if near := [f"{name}+{more}" for name, length in lengths.items() if "*" not in name and _side(name) and length + more == value]:
            return near[0] if len(near) == 1 else ""
    terms = [(name, length) for name, length in lengths.items() if _SUMMED.search(name)]
    sums = [f"{a}+{b}" for place, (a, one) in enumerate(terms) for b, other in terms[place:] if one + other == value]
    return sums[0] if len(sums) == 1 else ""


def _side(name: str) -> str:
    """Return which side of the sample a name is of; "any" for a wrong length, which may be of a side; "" for other names."""
    last = name.partition("/")[0].rpartition(".")[2]
    return last if last in ("height", "width", "length") else "any" if last in ("given", "expected") else ""


def config_names(config: Config) -> dict[str, int]:
    """Name the numbers of a config, "cross_attention_dim", "block_out_channels.0", and what models make of them."""
    named = {name: value for key, item in config.items() for name, value in _flat(key, item)}
    if config.get("addition_embed_type") != "text":
        named.pop("addition_embed_type_num_heads", None)
    first = named.get("block_out_channels.0")
    if first:
        named["time_embed_dim"] = 4 * first
    for key in ("num_attention_heads", "attention_head_dim"):
        for name, channels in [(name, value) for name, value in named.items() if name.startswith("block_out_channels.")]:
            heads = key if key in named else f"{key}{name.removeprefix('block_out_channels')}"
            if named.get(heads) and channels % named[heads] == 0:
                named[f"{name}/{heads}"] = channels // named[heads]
    return {name: value for name, value in named.items() if value > 1 and not _NO_LENGTH.search(name)}


def _flat(name: str, value: object) -> Iterator[tuple[str, int]]:
    if isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _flat(f"{name}.{place}", item)
    elif type(value) is int:
        yield name, value


def levels(name: str, length: int, halvings: int) -> dict[str, int]:
    """Name a side and its halves, rounded up as strided convolutions round.

    >>> levels("sample.height", 23, 2)
    {'sample.height': 23, 'sample.height/2': 12, 'sample.height/4': 6}
    """
    return {f"{name}/{2**times}" if times else name: -(-length // 2**times) for times in range(halvings + 1)}


def with_areas(sides: Mapping[str, int], height: str, width: str) -> dict[str, int]:
    """Name the products of a height and a width at each level.

    >>> with_areas({"height": 4, "height/2": 2, "width": 6, "width/2": 3}, "height", "width")
    {'height*width': 24, 'height/2*width/2': 6}
    """
    halves = [name.removeprefix(height) for name in sides if name.partition("/")[0] == height]
    return {f"{height}{half}*{width}{half}": sides[height + half] * sides[width + half] for half in halves if width + half in sides}
