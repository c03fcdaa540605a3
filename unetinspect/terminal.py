"""Text on a terminal: how many columns there are, how many a text takes, where it is wrapped, and its colors."""

from __future__ import annotations

import os
import re
from functools import cache
from textwrap import wrap
from typing import Any
from unicodedata import combining, east_asian_width

# ANSI codes of a terminal's own 16 colors, so that its theme applies.
_STYLES = {
    "": "",
    "left": "36",  # cyan
    "bottom": "35",  # magenta
    "right": "32",  # green
    "top": "34",  # blue
    "skip": "33",  # yellow
    "self": "1;34",  # bold blue
    "cross": "1;35",  # bold magenta
    "name": "1",  # bold
    "heading": "1;36",  # bold cyan
    "shape": "2",  # dim
    "error": "1;31",  # bold red
    "hint": "36",  # cyan
    "note": "1",  # bold
    "good": "1;32",  # bold green
    "bad": "1;31",  # bold red
    "added": "32",  # green
    "removed": "31",  # red
}
# What a line begins with that the lines that continue it are indented by: "size:   ", "error: ", "  - ".
_LABEL = re.compile(r"\w+: {2,}|\w{6,7}: |(?:error|hint|note): | +(?:- )?")


def cells(text: str) -> int:
    """Return how many columns of a terminal a text takes.

    >>> cells("down"), cells("模型")
    (4, 4)
    """
    return len(text) if text.isascii() else sum(map(cells_of, text))


@cache
def cells_of(char: str) -> int:
    """Return how many columns a character takes: none if it combines with the one before, two in East Asian scripts."""
    return 1 if char.isascii() else 0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1


def paint(text: str, style: str) -> str:
    r"""Color a text.

    >>> paint("down_blocks.0", "heading")
    '\x1b[1;36mdown_blocks.0\x1b[0m'
    """
    code = _STYLES[style]
    return f"\x1b[{code}m{text}\x1b[0m" if code else text


def wrap_words(text: str, width: int | None) -> list[str]:
    """Break a line between words at `width`; the rest is indented as the line is, or by its label ("size:   ")."""
    if width is None or len(text) <= width:
        return [text]
    label = _LABEL.match(text)
    indent = " " * (label.end() if label else 0)
    return wrap(text, max(width, 20), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def is_terminal(stream: Any) -> bool:
    """Whether a stream is one, and not a pipe, a file or closed."""
    return stream is not None and bool(stream.isatty())


def wants_color(stream: Any) -> bool:
    """Only on a terminal, unless NO_COLOR (no-color.org) or FORCE_COLOR is set, in this order."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (is_terminal(stream) and os.environ.get("TERM") != "dumb")


def columns_wanted() -> int | None:
    """Return COLUMNS, if that is a width."""
    wanted = os.environ.get("COLUMNS", "")
    return int(wanted) or None if wanted.isdecimal() else None


def columns_of(stream: Any) -> int | None:
    """Return the width of the terminal that a stream is, unless COLUMNS is set; of another stream None."""
    if not is_terminal(stream):
        return None
    try:
        return columns_wanted() or os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:  # it only calls itself a terminal
        return 80
