"""The picture as PDF: vectors, and text as text in an embedded font, which publishers ask for."""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any
from xml.etree import ElementTree as ET

_REGULAR, _BOLD = "Vera", "VeraBd"
# The font has no arrow: it is drawn, this wide per em, over an invisible "->" that can be selected and searched.
_ARROW, _ARROW_TEXT_SIZE = 0.86, 0.7
_Node = tuple[str, set[str]]
_Rules = list[tuple[list[str], dict[str, str]]]


def pdf(svg_text: str, *, points: float | None = None) -> bytes:
    """Draw an SVG that `svg` returned, in its colors for light, on one page; the same SVG gives the same bytes.

    The page is `points` wide; None: 0.75 points to a unit, as browsers print it.
    """
    from reportlab.pdfbase.pdfmetrics import registerFont
    from reportlab.pdfbase.ttfonts import TTFont
    from reportlab.pdfgen.canvas import Canvas

    for name in (_REGULAR, _BOLD):
        registerFont(TTFont(name, f"{name}.ttf"))
    root: Any = ET.fromstring(svg_text)  # noqa: S314  (our own)
    width, height = float(root.get("width")), float(root.get("height"))
    points = 0.75 * width if points is None else points
    title, description, sheet, *drawn = root
    file = BytesIO()
    canvas: Any = Canvas(
        file, pagesize=(points, points * height / width), initialFontName=_REGULAR, invariant=1, pageCompression=1, lang="en"
    )
    canvas.setTitle(title.text)
    canvas.setSubject(description.text)
    canvas.setCreator("unetinspect")
    canvas.scale(points / width, points / width)
    day = sheet.text.partition("@media")[0]
    rules: _Rules = [
        (selector.split(), dict(re.findall(r"([\w-]+): ([^;]+?) *(?:;|$)", style)))
        for selector, style in re.findall(r"^\.ui-svg ([^{]+) \{ (.*) \}$", day, flags=re.MULTILINE)
    ]
    for element in drawn:
        _draw(canvas, element, [], rules, height)
    canvas.save()
    return file.getvalue()


def _draw(canvas: Any, element: Any, above: list[_Node], rules: _Rules, height: float) -> None:
    """Draw an element and what is in it; PDF's y grows upwards, from `height` below the top."""
    tag = element.tag.rpartition("}")[2]
    nodes: list[_Node] = [*above, (tag, {*element.get("class", "").split()})]
    for child in element:
        _draw(canvas, child, nodes, rules, height)
    style: dict[str, str] = {}
    for selector, properties in rules:
        *outer, own = selector
        if _fits(own, nodes[-1]) and all(any(_fits(part, node) for node in above) for part in outer):
            style |= properties
    if tag == "text":
        _write(canvas, element, style, height)
    elif tag in ("rect", "path"):
        fill, stroke = style.get("fill", "none"), style.get("stroke", "none")
        if fill != "none":
            canvas.setFillColor(fill, alpha=float(style.get("fill-opacity", 1)))
        if stroke != "none":
            canvas.setStrokeColor(stroke)
            canvas.setLineWidth(float(style.get("stroke-width", 1)))
            canvas.setDash([float(length) for length in style.get("stroke-dasharray", "").split()])
        path = _rectangle(canvas, element, height) if tag == "rect" else _path(canvas, element, height)
        canvas.drawPath(path, stroke=stroke != "none", fill=fill != "none")


def _fits(part: str, node: _Node) -> bool:
    return part[1:] in node[1] if part.startswith(".") else part == node[0]


def _rectangle(canvas: Any, element: Any, height: float) -> Any:
    x, y, wide, high, radius = (float(element.get(name, 0)) for name in ("x", "y", "width", "height", "rx"))
    path = canvas.beginPath()
    path.roundRect(x, height - y - high, wide, high, min(radius, high / 2))
    return path


def _path(canvas: Any, element: Any, height: float) -> Any:
    path, y = canvas.beginPath(), 0.0
    for command, numbers in re.findall(r"([MLHCZ])([^MLHCZ]*)", element.get("d")):
        at = [float(number) for number in numbers.split()]
        if command == "Z":
            path.close()
            continue
        if command == "H":
            at.append(y)
        else:
            at[1::2] = [height - number for number in at[1::2]]
        {"M": path.moveTo, "L": path.lineTo, "H": path.lineTo, "C": path.curveTo}[command](*at)
        y = at[-1]
    return path


def _write(canvas: Any, element: Any, style: dict[str, str], height: float) -> None:
    """Write a text from its left, middle or right."""
    font, size = _BOLD if style.get("font-weight") == "700" else _REGULAR, float(element.get("font-size"))
    pieces = re.split("(→)", element.text or "")
    widths = [_ARROW * size if piece == "→" else canvas.stringWidth(piece, font, size) for piece in pieces]
    x, y = float(element.get("x")), height - float(element.get("y"))
    x -= sum(widths) * {"middle": 0.5, "end": 1}.get(style.get("text-anchor", ""), 0)
    canvas.setFillColor(style["fill"], alpha=1)
    canvas.setStrokeColor(style["fill"])
    canvas.setLineWidth(size / 13)
    canvas.setDash()
    for piece, wide in zip(pieces, widths, strict=True):
        canvas.setFont(font, size * (_ARROW_TEXT_SIZE if piece == "→" else 1))
        if piece == "→":
            left, right, middle, head = x + 0.06 * size, x + 0.8 * size, y + 0.32 * size, 0.22 * size
            canvas.lines([(left, middle, right, middle), *((right - head, middle + up, right, middle) for up in (head, -head))])
        canvas.drawString(x, y, piece.replace("→", "->"), mode=3 if piece == "→" else 0)
        x += wide
