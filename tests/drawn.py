"""The records that drawings are proved on: the U's that everybody knows, one of each class, and odd ones."""

from __future__ import annotations

import json
from functools import cache
from typing import get_args

from tests.tiny import ALL, KINDS, OF_EACH_CLASS, Config, traced, traced_once
from unetinspect import Trace
from unetinspect.drawing.outline import Layout, Level, Outline, outline_of

KNOWN = ("sd15", "sdxl", "ddpm-cat-256", "svd-xt", "kandinsky-3")
_ODD = ("conditioned", "plain", "plain-no-mid-block", "plain-one-block", "skip-blocks", "k-blocks", "simple-cross-attention", "text")
DRAWN: dict[str, str | Config] = {
    **{name: name for name in (*KNOWN, "bk-sdm-tiny", "amused-512", "controlnet-sd15-canny", "maestro-150k", "stable-cascade-prior")},
    **{name: KINDS[name] for name in _ODD},
    **{name: ALL[kind] for name, kind in OF_EACH_CLASS.items() if kind not in KINDS},
}
LEVELS: tuple[Level, ...] = get_args(Level)
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
WIDTHS = (80, 40, 120, 59)
# Pairwise: each record once, the known ones at both levels, and each level with each width of a terminal and each layout of a picture.
_TURNS = [(name, place, turn) for turn, names in enumerate((DRAWN, KNOWN)) for place, name in enumerate(names)]
CASES = [(name, LEVELS[(place + turn) % 2], WIDTHS[(place // 2 + turn) % 4]) for name, place, turn in _TURNS]
LAID_OUT = [(name, LEVELS[(place + turn) % 2], LAYOUTS[(place + 2 * turn) % 3]) for name, place, turn in _TURNS]
EVIL = "<script>alert(1)</script>a\"b]c[d`e--><i>&amp;#35;|'x\x1b[31m\n\x00\u2028\u202ey%%{init}%%é;style a:#b;]]>" + "long-" * 60


def drawn(name: str) -> Trace:
    """Return one of these records, traced on meta once in a whole run."""
    return traced_once(DRAWN.get(name, name))


@cache
def outlined(name: str) -> Outline:
    """Return the outline of one of these records."""
    return outline_of(drawn(name))


def renamed(*words: str) -> Trace:
    """Return a record in which some words are the worst name, as files that others wrote may have it."""
    text = traced("conditioned").to_json()
    for word in words:
        text = text.replace(word, json.dumps(EVIL)[1:-1])
    return Trace.from_json(text)
