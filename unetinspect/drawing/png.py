"""The picture as PNG: drawn by resvg, with a font of its own where the machine has none."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from unetinspect.drawing.text_width import TIMES

# What the last fallback, an ASCII font, cannot write.
_ASCII = str.maketrans({"→": "-&gt;", TIMES: "x"})
_FAMILY = "Aileron"
# A character that stands for nothing: it is drawn as a font draws what it lacks.
_UNASSIGNED = "\U0010fffd"


def png(svg_text: str, *, scale: float = 2) -> bytes:
    """Draw an SVG that `svg` returned, on white, `scale` pixels to a unit.

    Symbols that no font of this machine has are written in ASCII.
    """
    return _draw(svg_text, scale, system_fonts=True)


def _draw(svg_text: str, scale: float, *, system_fonts: bool) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        font = Path(folder, "fallback.ttf")
        font.write_bytes(_fallback_font())
        fonts = {"skip_system_fonts": not system_fonts, "font_files": [str(font)]}
        text = svg_text if _writes_symbols(fonts) else svg_text.translate(_ASCII)
        return _render(text, fonts, zoom=scale)


def _writes_symbols(fonts: dict[str, Any]) -> bool:
    """Tell whether an arrow and a multiplication sign are drawn: as something, and not as what is lacking."""
    page = '<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20"><text y="15" font-size="12">{}</text></svg>'
    lacking = {_render(page.format(text), fonts, zoom=1) for text in ("", _UNASSIGNED)}
    return not any(_render(page.format(symbol), fonts, zoom=1) in lacking for symbol in ("→", TIMES))


def _render(text: str, fonts: dict[str, Any], *, zoom: float) -> bytes:
    import resvg_py

    families = {"font_family": _FAMILY, "sans_serif_family": _FAMILY} if fonts["skip_system_fonts"] else {}
    options: dict[str, Any] = {"background": "#ffffff", "zoom": zoom, **fonts, **families}
    return bytes(resvg_py.svg_to_bytes(svg_string=text, **options))


@cache
def _fallback_font() -> bytes:
    """Return the ASCII font that Pillow carries."""
    from PIL import ImageFont

    font: Any = ImageFont.load_default(12)
    return bytes(font.font_bytes)
