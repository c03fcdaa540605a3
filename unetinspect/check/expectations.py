"""What a user expects of a record: `--expect attention.cross=16`. Knows no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from unetinspect.errors import UsageError, nearest_names
from unetinspect.record import Expectation, Trace

# Where a section stands for one number of its own: `skips=12`.
_COUNTED_BY = {"skips": "consumed", "attention": "total"}
_MISSING = object()


def find_expected(record: Trace, expected: Mapping[str, Any]) -> tuple[Expectation, ...]:
    """Hold what is expected against a record. A key is a path: in `totals`, in the record, in `model` or in `run`, in this order.

    A list stands for its length, where a whole number is expected.

    Raises:
        UsageError: The record has nothing of that name.
    """
    places = _places(record)
    return tuple(_held(key, value, _look_up(key, places)) for key, value in expected.items())


def unmet(expected: Mapping[str, Any]) -> tuple[Expectation, ...]:
    """Return what is expected of a pass that there is no record of."""
    return tuple(Expectation(key=key, expected=value, found=None, holds=False) for key, value in expected.items())


def _places(record: Trace) -> list[dict[str, Any]]:
    whole = msgspec.json.decode(msgspec.json.encode(record))  # lists where a record has tuples
    return [whole["totals"], whole, whole["model"], whole["run"]]


def _look_up(key: str, places: Sequence[Mapping[str, Any]]) -> Any:
    for place in places:
        found = _walk(place, key.split("."))
        if found is not _MISSING:
            return found
    known = dict.fromkeys(path for place in places for path in _paths(place))
    close = nearest_names(key, known)
    hint = f"did you mean {' or '.join(close)}?" if close else "the names are those of `trace --json`: --expect attention.cross=16"
    raise UsageError(f"--expect {key}: the record has nothing of that name", hint=hint)


def _walk(value: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return _MISSING
    return value


def _paths(place: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for name, value in place.items():
        found.append(prefix + name)
        if isinstance(value, Mapping) and name != "config":
            found += _paths(value, f"{prefix}{name}.")
    return found


def _held(key: str, expected: Any, found: Any) -> Expectation:
    if _is_number(expected) and isinstance(found, Mapping):
        found = found.get(_COUNTED_BY.get(key.rpartition(".")[2], ""), found)
    if _is_number(expected) and isinstance(found, list):
        found = len(found)
    # True equals 1 in Python, and is another thing in a config.
    same_kind = isinstance(expected, bool) == isinstance(found, bool)
    return Expectation(key=key, expected=expected, found=found, holds=same_kind and expected == found)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
