"""What is expected of the values in a record, and whether it holds. Knows neither torch nor diffusers."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from fractions import Fraction
from typing import Any, NamedTuple

import msgspec

from unetinspect.errors import UsageError
from unetinspect.record import Expectation, Finding, Trace
from unetinspect.record.check import Comparison
from unetinspect.source.parse import parse_value
from unetinspect.units import format_value

# Comparisons by order; "=" and "!=" take values of any type.
_ORDERS: dict[Comparison, Callable[[Any, Any], bool]] = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_COMPARED = re.compile(r"\s*(<=|>=|!=|==?|<|>)(?![<>=])(.*)", re.DOTALL)
_KEY = re.compile(r"\s*([^<>=!]*[^<>=!\s])")
_RANGE = re.compile(r"(\d\S*?)\.{2,3}(\d\S*)")
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?) ?([kKMGT])(i?)B?")
# The number that is compared where a section is expected to be a number: `skips=12`.
_COUNTED_BY = {"skips": "consumed", "attention": "total"}
_MISSING = object()
_MEMORY = ("memory", "mem", "vram", "ram", "bytes")


class Expected(NamedTuple):
    """What is expected of the value at `key` in a record."""

    key: str
    comparison: Comparison
    value: Any


def parse_expected(text: str) -> Expected:
    """Read what is expected as it is typed: "skips=12", "params<=900M".

    Raises:
        UsageError: It has no key or no comparison, its value cannot be read, or is a range.
    """
    key = _KEY.match(text)
    if key is None or not _COMPARED.fullmatch(text, key.end()):
        raise UsageError(f"--expect {text[:80]} is not KEY=VALUE", hint="--expect attention.cross=16, or --expect 'params<=900M'")
    expected = read_expected(key[1], text[key.end() :])
    between = _RANGE.fullmatch(expected.value) if isinstance(expected.value, str) else None
    if between is not None:
        hint = f"--expect '{key[1]}>={between[1]}' --expect '{key[1]}<={between[2]}'"
        raise UsageError(f"--expect {text[:80]}: a range is two expectations, with >= and <=", hint=hint)
    return expected


def read_expected(key: str, value: Any) -> Expected:
    """Read what is expected: a text that begins with a comparison is one, anything else is the value itself.

    Raises:
        UsageError: The value after a comparison cannot be read.

    >>> read_expected("params", "<=900M"), read_expected("skips", 12)
    (Expected(key='params', comparison='<=', value='900M'), Expected(key='skips', comparison='=', value=12))
    """
    found = _COMPARED.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return Expected(key, "=", value)
    comparison: Any = "=" if found[1] == "==" else found[1]
    return Expected(key, comparison, parse_value(found[2], what=f"--expect {key}", hint=f"write it as JSON: --expect '{key}=[64, 64]'"))


def find_expected(record: Trace | None, expected: Sequence[Expected]) -> tuple[Expectation, ...]:
    """Compare what is expected with a record. A key is a path in `totals`, in the record, in `model` or in `run`, in this order.

    A list is compared by its length where a number is expected. Without a record nothing is met.

    Raises:
        UsageError: The record has nothing of that name, or values that have no order are compared by it.
    """
    if record is None:
        return tuple(Expectation(key=key, expected=value, found=None, holds=False, comparison=sign) for key, sign, value in expected)
    whole = msgspec.json.decode(msgspec.json.encode(record))  # lists where a record has tuples
    places = [whole["totals"], whole, whole["model"], whole["run"]]
    return tuple(_compared(each, _look_up(each.key, each.value, places)) for each in expected)


def unmet(expectations: Sequence[Expectation], *, ran: bool) -> Iterator[Finding]:
    """Yield a finding for each expectation that does not hold; `ran` is whether there was a record to compare with."""
    for one in expectations:
        if not one.holds:
            sign = "" if one.comparison == "=" else f"{one.comparison} "
            found = f"found {one.found}" if ran else "not checked: no pass ran"
            what = f"{one.key}: expected {sign}{one.expected}, {found}"
            yield Finding(about="expectation", kind="not_met", what=what, where=(one.key,))


def _look_up(key: str, value: Any, places: Sequence[Mapping[str, Any]]) -> Any:
    """Find what a key names; `value` is what is expected of it.

    Raises:
        UsageError: Nothing has that name; the hint has those that are like it, or those of memory.
    """
    for place in places:
        found: Any = place
        for part in key.split("."):
            if isinstance(found, list) and part.isdecimal() and int(part) < len(found):
                found = found[int(part)]
            else:
                found = found.get(part, _MISSING) if isinstance(found, Mapping) else _MISSING
        if found is not _MISSING:
            return found
    paths = list(dict.fromkeys(path for place in places for path in _paths(place)))
    close = [path for path in paths if path.endswith(f".{key}")] or get_close_matches(key.lower(), paths, n=3, cutoff=0.65)
    amount = str(value)
    if key.lower() in _MEMORY or (not close and _AMOUNT.fullmatch(amount) and amount.endswith("B")):
        memory = [path for path in paths if path.endswith(("_bytes", "_bytes_with_maps")) and "." not in path]
        close = sorted(memory, key="inference_bytes".__ne__)  # the whole first
    hint = f"did you mean {' or '.join(close)}?" if close else "the names are those of `trace --json`: --expect attention.cross=16"
    raise UsageError(f"--expect {key}: the record has nothing of that name", hint=hint)


def _paths(place: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the keys of a place, and of what is nested in it; of those that stand in a place of their own, only there."""
    for name, value in place.items():
        yield prefix + name
        if isinstance(value, Mapping) and prefix + name not in ("totals", "model", "run"):
            yield from _paths(value, f"{prefix}{name}.")


def _compared(expected: Expected, found: Any) -> Expectation:
    key, comparison, value = expected
    number = _number(value)
    if number is not None and isinstance(found, Mapping):
        found = found.get(_COUNTED_BY.get(key.rpartition(".")[2], ""), found)
    if number is not None and isinstance(found, list):
        found = len(found)
    if comparison in ("=", "!="):
        # True equals 1 in Python, and is another thing in a config.
        same_kind = isinstance(value, bool) == isinstance(found, bool)
        same = same_kind and found == (value if number is None or isinstance(found, str) else number)
        holds = same == (comparison == "=")
    elif number is None or type(found) not in (int, float):
        what = format_value(value) if number is None else f"{key} is {format_value(found)}, which"
        hint = "numbers may have a unit: 900M, 1.5G, 24GiB" if number is None else "compare it with = or !="
        raise UsageError(f"--expect {key}{comparison}{value}: {what} is not a number", hint=hint)
    else:
        holds = _ORDERS[comparison](found, number)
    return Expectation(key=key, expected=value, comparison=comparison, found=found, holds=holds)


def _number(value: Any) -> int | float | Fraction | None:
    """Return a number, or the one of an amount with a unit; None: it is neither.

    >>> _number(12), _number("1.5G"), _number("24GiB"), _number("silu")
    (12, Fraction(1500000000, 1), Fraction(25769803776, 1), None)
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    amount = _AMOUNT.fullmatch(value) if isinstance(value, str) else None
    if amount is None:
        return None
    scale: int = (1024 if amount[3] else 1000) ** ("kMGT".index(amount[2].replace("K", "k")) + 1)
    return Fraction(amount[1]) * scale
