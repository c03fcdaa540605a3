"""The picture as PNG: drawn by resvg, with a font of its own where the machine has none."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from unetinspect.drawing.svg import FONTS
from unetinspect.drawing.text_width import TIMES

# What the last fallback, an ASCII font, cannot write.
_ASCII = str.maketrans({"→": "-&gt;", TIMES: "x"})
_FAMILY = "Aileron"
# A character that no font has.
_UNASSIGNED = "\U0010fffd"


def png(svg_text: str, *, scale: float = 2) -> bytes:
    """Draw an SVG that `svg` returned, on white, `scale` pixels to a unit.

    Symbols that no font has are written in ASCII.
    """
    with tempfile.TemporaryDirectory() as folder:
        font = Path(folder, "fallback.ttf")
        font.write_bytes(_fallback_font())
        options: dict[str, Any] = {"background": "#ffffff", "font_files": [str(font)]}
        if not _draws("x", options):  # this machine has no font
            options |= {"font_family": _FAMILY, "sans_serif_family": _FAMILY}
        text = svg_text if _draws(f"→{TIMES}", options) else svg_text.translate(_ASCII)
        return _render(text, zoom=scale, **options)


def _draws(characters: str, options: dict[str, Any]) -> bool:
    """Return whether the fonts have these characters: missing ones are drawn as nothing, or all alike."""
    text = f"<text y='15' font-size='12' font-family='{FONTS}'>{{}}</text>"
    page = f"<svg xmlns='http://www.w3.org/2000/svg' width='20' height='20'>{text}</svg>"
    lacking = {_render(page.format(text), zoom=1, **options) for text in ("", _UNASSIGNED)}
    return not any(_render(page.format(symbol), zoom=1, **options) in lacking for symbol in characters)


def _render(svg_text: str, **options: Any) -> bytes:
    import resvg_py

    return bytes(resvg_py.svg_to_bytes(svg_string=svg_text, **options))


@cache
def _fallback_font() -> bytes:
    """Return the ASCII font that Pillow carries."""
    from PIL import ImageFont

    font: Any = ImageFont.load_default(12)
    return bytes(font.font_bytes)
