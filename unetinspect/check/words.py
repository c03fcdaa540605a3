"""How findings say values and lists."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

_LONGEST = 80


def shown(value: Any) -> str:
    """Return a config value as JSON has it, cut where it is long.

    >>> shown(None), shown("text_time"), shown([1, 2])
    ('null', '"text_time"', '[1, 2]')
    """
    text = json.dumps(value, default=str)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def joined(words: Sequence[str], last: str = "and") -> str:
    """Join words as a sentence does.

    >>> joined(["a", "b", "c"]), joined(["a"])
    ('a, b and c', 'a')
    """
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def count_of(number: int, what: str) -> str:
    """Return a number of things.

    >>> count_of(1, "head"), count_of(8, "head")
    ('1 head', '8 heads')
    """
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
