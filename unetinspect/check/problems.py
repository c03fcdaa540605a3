"""The sentences on what diffusers cannot build or run, as findings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from unetinspect.record.check import Finding

# A key that is refused alone is no contradiction, whatever its sentence says to use instead.
_REFUSED = "which diffusers refuses"


def sort_problems(values: Mapping[str, Any], problems: Sequence[str]) -> Iterator[Finding]:
    """Make a finding of each sentence: a contradiction where several keys are at odds, else a wrong value."""
    for problem in dict.fromkeys(problems):
        keys = keys_in(problem.partition(_REFUSED)[0], values)
        yield Finding(about="config", kind="contradiction" if len(keys) > 1 else "wrong", what=problem, where=keys)


def keys_in(sentence: str, keys: Iterable[str]) -> tuple[str, ...]:
    """Return the keys that a sentence names, in its own order. Keys that are plain words ("groups") must begin it.

    >>> keys_in("addition_embed_type is 'text', which needs encoder_hid_dim", ["encoder_hid_dim", "addition_embed_type", "type"])
    ('addition_embed_type', 'encoder_hid_dim')
    """
    known = set(keys)
    words = re.findall(r"[A-Za-z_0-9]+", sentence)
    named = [word for place, word in enumerate(words) if word in known and ("_" in word or place == 0)]
    return tuple(dict.fromkeys(named))
