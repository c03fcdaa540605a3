"""Text on a terminal: how many columns it takes, and its colors."""

from __future__ import annotations

from functools import cache
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
    "good": "1;32",  # bold green
    "bad": "1;31",  # bold red
    "added": "32",  # green
    "removed": "31",  # red
}


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
