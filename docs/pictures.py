"""Draws the README's picture: the real output of a command, as an SVG that needs nothing from elsewhere.

    python docs/picture.py

`make docs` runs it; a test holds the picture against the output of today.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

import unetinspect
from unetinspect.views.render import Screen, render_table
from unetinspect.views.skips import skips_table

PICTURE = Path(__file__).parent / "skips-sd15.svg"
COMMAND = "unetinspect skips sd15"
WIDTH = 80

# Rich links fonts from a server; the picture falls back to the reader's own.
TEMPLATE = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def draw() -> str:
    """Return the picture as SVG, the same on every machine."""
    table = skips_table(unetinspect.trace("sd15", device="meta"))
    text, _ = render_table(table, Screen(width=WIDTH, color=True))
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(text.rstrip("\n")), soft_wrap=True)
    svg = console.export_svg(title=COMMAND, code_format=TEMPLATE, unique_id="unetinspect")
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
