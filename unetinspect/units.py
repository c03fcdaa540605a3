"""Numbers, config values and foreign text as people read them. Records hold integers; only this module adds units."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from unetinspect.errors import UsageError

MAX_SIDE = 1 << 20
_LONGEST_VALUE = 80
_Part = TypeVar("_Part")


def format_shape(shape: Sequence[int] | None) -> str:
    """Write a shape as Python writes a tuple; an absent one as "-".

    >>> format_shape((2, 320, 16, 16))
    '(2, 320, 16, 16)'
    >>> format_shape((2,))
    '(2,)'
    """
    return "-" if shape is None else str(tuple(shape))


def format_size(size: Sequence[int] | None) -> str:
    """Write a spatial size, `(height, width)`, as "512x512"; an absent one as "-".

    >>> format_size((512, 768))
    '512x768'
    """
    return "-" if size is None else "x".join(str(side) for side in size)


def parse_size(value: Any, *, option: str) -> tuple[int, int] | None:
    """Read a size: 512, "512", "512x768", (512, 768).

    Raises:
        UsageError: It is none of these, or a side is not a whole number above 0.

    >>> parse_size("512x768", option="--res")
    (512, 768)
    >>> parse_size(64, option="--latent")
    (64, 64)
    """
    if value is None:
        return None
    sides = value.lower().replace("×", "x").split("x") if isinstance(value, str) else value  # noqa: RUF001
    if isinstance(sides, int):
        sides = (sides,)
    try:
        numbers = [int(side) for side in sides]
        exact = all(str(side).strip() == str(number) for side, number in zip(sides, numbers, strict=True))
    except (TypeError, ValueError):
        numbers, exact = [], False
    if not exact or len(numbers) not in (1, 2) or not all(1 <= number <= MAX_SIDE for number in numbers):
        several = "; `unetinspect sweep` takes several" if isinstance(value, str) and "," in value and option != "--tokens-at" else ""
        raise UsageError(
            f"{option}: {value!r} is not a size from 1 to {MAX_SIDE}",
            hint=f"write one side or height x width: {option} 512, {option} 512x768{several}",
        )
    return numbers[0], numbers[-1]


def format_count(count: int | None) -> str:
    """Write a count in thousands (k), millions (M) or billions (B), to four digits.

    >>> [format_count(n) for n in (0, 960, 11_520, 139_973_760, 859_520_964, 2_567_463_684)]
    ['0', '960', '11.52 k', '140.0 M', '859.5 M', '2.567 B']
    """
    return _scaled(count, 1000, "kMB")


def format_si(count: int | float | None, unit: str = "") -> str:
    """Write a count with an SI prefix and its unit, to four digits: MACs and FLOPs are shown in G and T.

    >>> [format_si(n, "MACs") for n in (640, 94_371_840, 803_273_441_280, 6_761_236_398_080)]
    ['640 MACs', '94.37 MMACs', '803.3 GMACs', '6.761 TMACs']
    >>> format_si(0), format_si(109_550_960_640)
    ('0', '109.6 G')
    """
    return _scaled(count, 1000, "kMGTP", unit)


def format_bytes(size: int | None) -> str:
    """Write a number of bytes in binary units: 1 KiB is 1024 B.

    >>> [format_bytes(n) for n in (512, 2 * 8 * 4096 * 4096 * 4, 1_719_041_928)]
    ['512 B', '1 GiB', '1.601 GiB']
    """
    return _scaled(size, 1024, ("Ki", "Mi", "Gi", "Ti"), "B")


def plural(count: int, noun: str) -> str:
    """Write a count with its noun: "1 skip", "12 skips".

    >>> plural(1, "skip"), plural(12, "skip")
    ('1 skip', '12 skips')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def split_commas(texts: Iterable[str]) -> list[str]:
    """Split the values of an option that takes a list, and may be given several times.

    >>> split_commas(["cross, self", "joint"])
    ['cross', 'self', 'joint']
    """
    return [part.strip() for text in texts for part in text.split(",")]


def joined(words: Iterable[Any]) -> str:
    """Join words as a sentence does.

    >>> joined(["a", "b", "c"]), joined(["a"])
    ('a, b and c', 'a')
    """
    *first, last = map(str, words)
    return f"{', '.join(first)} and {last}" if first else last


def format_value(value: Any) -> str:
    """Write a config value as JSON, cut if it is long.

    >>> format_value(None), format_value("text_time"), format_value([1, 2])
    ('null', '"text_time"', '[1, 2]')
    """
    import json  # here: few answers need it

    try:
        text = json.dumps(value, default=str)
    except (ValueError, RecursionError):  # Python refuses to write thousands of digits
        return "a value too long to print"
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def visible(text: str, *, keep_lines: bool = False) -> str:
    r"""Escape control characters as Python does: text that others wrote must not move a terminal's cursor.

    >>> visible("sd\x1b[31m15\n")
    'sd\\x1b[31m15\\n'
    """
    if text.isprintable():
        return text
    kept = "\n" if keep_lines else ""
    return "".join(char if char.isprintable() or char in kept else repr(char)[1:-1] for char in text)


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return nested dicts and lists with every text in them changed, that of keys too.

    >>> map_texts({"a": ["b", 1]}, str.upper)
    {'A': ['B', 1]}
    """
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {map_texts(key, change): map_texts(inner, change) for key, inner in value.items()}
    return [map_texts(inner, change) for inner in value] if isinstance(value, list | tuple) else value


def largest(sizes: Mapping[str, int]) -> list[str]:
    """Return the names of all that is at least a hundredth of the whole, the largest first.

    >>> largest({"F32": 1, "F16": 990, "BF16": 9})
    ['F16']
    """
    whole = sum(sizes.values())
    return [name for name, size in sorted(sizes.items(), key=lambda item: -item[1]) if 100 * size >= whole]


def in_lines(parts: Iterable[_Part], fits: Callable[[Sequence[_Part]], bool]) -> list[list[_Part]]:
    """Put parts into lines, each into the last one while that `fits`.

    >>> in_lines(["a", "b", "cd"], lambda line: len("".join(line)) <= 2)
    [['a', 'b'], ['cd']]
    """
    lines: list[list[_Part]] = []
    for part in parts:
        if lines and fits([*lines[-1], part]):
            lines[-1].append(part)
        else:
            lines.append([part])
    return lines


def _scaled(number: int | float | None, base: int, prefixes: Sequence[str], unit: str = "") -> str:
    """Write a number with the largest prefix that it reaches, to four digits; an absent one as "-"."""
    if number is None:
        return "-"
    for power in range(len(prefixes), 0, -1):
        if number >= base**power:
            value = number / base**power
            digits = str(int(value)) if value == int(value) else f"{value:#.4g}".rstrip(".")
            return f"{digits} {prefixes[power - 1]}{unit}"
    return f"{number} {unit}".rstrip()
