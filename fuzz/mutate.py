"""Mutations of bytes, of texts and of JSON values; each takes its random numbers from what it is given, so that a seed repeats it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

_DEEP = 60
_HUGE_INTEGER = 10**5000

NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2, 3, 7, 8, 16, 31, 64, 255, 1000, 65536, 10**7, 2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63)),
    *(10**30, 0.5, -0.0, 1e-320, 1e308, -1e308, float("nan"), float("inf"), float("-inf"), 8.0),
)
TEXTS = (
    *("", " ", "a", "null", "true", "8", "-1", "1e9", "None", "NaN", "silu", "DownBlock2D", "CrossAttnDownBlock2D", "UNetMidBlock2D"),
    *(
        "\x1b[31mred\x1b[0m",
        "\x1b]0;title\x07",
        "\x1b[2J",
        "\r\n",
        "\x00",
        "\x7f",
        "\x9b31m",
        "\u202etxt.exe",
        "\ud800",
        "\ufeff",
        "e\u0301",
    ),
    *(
        "[bold]x[/bold]",
        "[/]",
        "{",
        "%s",
        "{0}",
        "../../etc/passwd",
        "/",
        "~",
        "a" * 5000,
        "é" * 300,
        "字" * 50,
        "🧨",
        "x=y",
        "--help",
        "-",
    ),
)
YAML_PARTS = (
    *(
        "&a [*a]",
        "*a",
        "&a {b: *a}",
        "!!python/object/apply:os.system ['true']",
        "!!binary |\n  R0lG",
        "!!set {a, b}",
        "? [a]\n: b",
        "<<: *a",
    ),
    *(
        "---",
        "...",
        "|",
        ">",
        "'",
        '"',
        "\t",
        "0x" + "f" * 5000,
        "1_000",
        "0o17",
        "1:30:00",
        "2024-01-01",
        "!!float .nan",
        "- - - -",
        "@",
        "`",
    ),
    *(
        "[" * 200,
        "{" * 200,
        "{a: " * 90,
        "~",
        "yes",
        ".inf",
        "!!omap [a: 1]",
        "!x y",
        "%YAML 1.9",
        "\x07",
        "\u2028",
        "!!timestamp 2024-99-99",
    ),
    "&x [a,a,a,a,a,a,a,a,a]\nb: &y [*x,*x,*x,*x,*x,*x,*x,*x,*x]\nc: &z [*y,*y,*y,*y,*y,*y,*y,*y,*y]",
)


def value(random: Random) -> Any:
    """Return a value that no config should hold, or only by chance."""
    make: tuple[Callable[[], Any], ...] = (
        lambda: random.choice(NUMBERS),
        lambda: random.choice(TEXTS),
        lambda: random.choice((None, True, False)),
        lambda: [random.choice(NUMBERS + TEXTS + (None,)) for _ in range(random.choice((0, 1, 2, 3, 4, 50)))],
        lambda: [random.choice((8, 16, 32, 64, "DownBlock2D"))] * random.choice((1, 2, 3, 4, 5, 400_000)),
        lambda: {random.choice(TEXTS): random.choice(NUMBERS + TEXTS)},
        lambda: [[random.choice(NUMBERS)], [1, [2, [3]]]],
        lambda: nested(random.randrange(_DEEP)),
        lambda: random.randrange(-5, 200),
        lambda: 2 ** random.randrange(70),
        lambda: _HUGE_INTEGER,
    )
    return random.choices(make, weights=(6, 5, 3, 3, 2, 2, 2, 1, 4, 3, 1))[0]()


def nested(depth: int) -> Any:
    """Return a list in a list in a list."""
    inner: Any = 1
    for _ in range(depth):
        inner = [inner]
    return inner


def json_value(given: Any, random: Random) -> Any:
    """Return a JSON value with one change somewhere in it: a value changed, dropped, doubled, wrapped or moved."""
    if isinstance(given, dict) and given and random.random() > 0.05:
        return _mutated_dict(given, random)
    if isinstance(given, list) and given and random.random() > 0.1:
        return _mutated_list(given, random)
    if isinstance(given, int) and not isinstance(given, bool) and random.random() < 0.4:
        return random.choice((given + 1, given - 1, given * 2, given // 2, given * 1000, -given, given * 10**6))
    return value(random)


def _mutated_dict(given: dict[str, Any], random: Random) -> dict[str, Any]:
    key = random.choice(list(given))
    kind = random.randrange(10)
    if kind == 0:
        return {name: inner for name, inner in given.items() if name != key}
    if kind == 1:
        return {**given, key: given[random.choice(list(given))]}
    if kind == 2:
        return {**given, random.choice((key + "s", key.upper(), *TEXTS)): value(random)}
    if kind == 3:
        return {**given, key: random.choice(([given[key]], {key: given[key]}, dumped(given[key]).decode()))}
    return {**given, key: json_value(given[key], random)}


def _mutated_list(given: list[Any], random: Random) -> list[Any]:
    place, kind = random.randrange(len(given)), random.randrange(6)
    if kind == 0:
        return given[:place] + given[place + 1 :]
    if kind == 1:
        return given[: place + 1] + given[place:]
    if kind == 2:
        return given[::-1] if random.random() < 0.5 else given * random.choice((0, 2, 3))
    return [*given[:place], json_value(given[place], random), *given[place + 1 :]]


def raw(given: bytes, random: Random) -> bytes:
    """Return bytes with a few changes: flipped, cut out, put in, doubled, cut off, or joined from two places."""
    data = bytearray(given)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        at = random.randrange(len(data) + 1)
        length = random.choice((1, 1, 2, 8, 100, 5000))
        kind = random.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            del data[at : at + length]
        elif kind == 2:
            data[at:at] = random.randbytes(min(length, 8))
        elif kind == 3:
            data[at:at] = data[at : at + length]
        elif kind == 4:
            data[at : at + 1] = random.choice(
                (b"0", b"9", b"-", b"e", b"{", b"}", b"[", b"]", b'"', b",", b"\\", b"\x00", b"\xff", b"\x1b")
            )
        elif random.random() < 0.2:
            del data[at:]
    return bytes(data)


def text(given: str, random: Random, parts: tuple[str, ...] = TEXTS) -> str:
    """Return a text with a few changes: a word dropped, doubled, swapped or another put in."""
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(given) + 1)
        length = random.choice((1, 3, 10, 40))
        given = random.choice(
            (
                given[:at] + given[at + length :],
                given[:at] + given[at : at + length] + given[at:],
                given[:at] + random.choice(parts) + given[at:],
                given[:at] + str(random.choice(NUMBERS)) + given[at + length :],
            )
        )
    return given


def dumped(given: Any) -> bytes:
    """Write a value as JSON, also what JSON has no word for: NaN, halves of characters, numbers of thousands of digits."""
    with _long_numbers():
        return json.dumps(given).encode()


@contextmanager
def _long_numbers() -> Iterator[None]:
    """Let Python write numbers of any length, as it does not by itself."""
    most = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(most)
