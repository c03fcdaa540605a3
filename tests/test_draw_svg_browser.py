"""The SVG where it is drawn: no text is wider than it was laid out for, in a browser's fonts; and the PNG, with fonts and without."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.page_browser import start_browser
from tests.test_draw_layout import LEVELS, loose, outlined, placed
from unetinspect.drawing.forms import Level
from unetinspect.drawing.png import _draw, png
from unetinspect.drawing.scene import Scene, Text
from unetinspect.drawing.svg import svg
from unetinspect.drawing.text_width import text_width

__all__ = ["start_browser"]  # a fixture

# One browser serves all: whoever shares tests out among workers keeps them together.
pytestmark = pytest.mark.xdist_group("browser")
FAMILIES = ("system-ui", "Helvetica", "Arial", '"DejaVu Sans"', "sans-serif")
# Of each text: what it says, its style, its length, and the box in which it is drawn.
MEASURE = """() => [...document.querySelectorAll('svg text')].map(text => {
    const box = text.getBBox();
    return [text.textContent, text.getComputedTextLength(), box.x, box.y, box.width, box.height];
})"""


@pytest.fixture(scope="module")
def view(browser: Any) -> Iterator[Any]:
    """A page of the browser."""
    opened = browser.new_page()
    yield opened
    opened.close()


def all_texts(scene: Scene) -> list[Text]:
    """Return every text of a picture, in no order."""
    badges = [*scene.legend_badges, *(badge for one in scene.boxes for badge in one.badges)]
    rows = [row for one in scene.boxes for row in one.rows]
    badges += [badge for row in rows for badge in row.badges]
    inside = [text for one in scene.boxes for text in one.texts] + [text for row in rows for text in row.texts]
    return [*loose(scene), *inside, *(badge.text for badge in badges), *(given.text for given in scene.given)]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["sd15", "svd-xt", "controlnet-union"])
def test_no_text_leaves_its_place_in_a_browser(view: Any, name: str, level: Level) -> None:
    """As drawn in each family that the style sheet asks for, every text lies within the rectangle that it was laid out for."""
    room = {(text.content, round(text.rect.x), round(text.y)): text.rect for text in all_texts(placed(name, level))}
    view.set_content(f'<body style="margin: 0">{svg(outlined(name), level=level)}')
    for family in FAMILIES:
        view.evaluate("family => document.querySelectorAll('svg text').forEach(text => text.style.fontFamily = family)", family)
        drawn = view.evaluate(MEASURE)
        assert len(drawn) == len(all_texts(placed(name, level)))
        for content, length, x, y, width, height in drawn:
            homes = [rect for (said, _, _), rect in room.items() if said == content]
            # Of ink, rounded outwards: that of the "f" of "self" reaches beyond its advance.
            inside = [one for one in homes if one.x - 1.5 <= x and x + width <= one.right + 1.5]
            assert inside, (family, content, x, width, homes)
            assert length <= inside[0].width + 0.1
            assert any(one.y - 1.5 <= y and y + height <= one.bottom + 1.5 for one in inside), (family, content, y, height)


def test_every_letter_is_narrower_than_the_tables_say(view: Any) -> None:
    """Letter by letter, plain and bold, in each family: no advance is wider than what the layout counts with."""
    letters = [chr(code) for code in range(33, 127)] + ["\N{MULTIPLICATION SIGN}", "→", "·", "…"]
    for bold in (False, True):
        weight = 700 if bold else 400
        view.set_content(f'<svg xmlns="http://www.w3.org/2000/svg"><text font-size="100" font-weight="{weight}"></text></svg>')
        script = """([letters, family]) => { const text = document.querySelector('text'); text.style.fontFamily = family;
            return letters.map(one => { text.textContent = one; return text.getComputedTextLength(); }); }"""
        for family in FAMILIES:
            widths = view.evaluate(script, [letters, family])
            assert all(widths)
            wide = [one for one, width in zip(letters, widths, strict=True) if width > text_width(one, 100, bold=bold) + 0.5]
            assert wide == [], family


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_paper_follows_the_scheme_of_the_reader(browser: Any, scheme: Any) -> None:
    """In dark mode the paper is dark and the title light; in light mode the other way round."""
    context = browser.new_context(color_scheme=scheme)
    view = context.new_page()
    view.set_content(svg(outlined("conditioned")))
    fills = [
        view.evaluate("style => getComputedStyle(document.querySelector(style)).fill", style)
        for style in (".ui-paper", ".ui-title", ".ui-note")
    ]
    context.close()
    bright = [sum(map(int, fill.removeprefix("rgb(").removesuffix(")").split(","))) > 3 * 128 for fill in fills]
    assert bright == ([True, False, False] if scheme == "light" else [False, True, True])


@pytest.mark.parametrize("interactive", [False, True])
def test_a_file_is_a_picture_by_itself(browser: Any, tmp_path: Any, interactive: bool) -> None:
    """Opened as a file, the SVG is an SVG document, asks for nothing else, and what is under the pointer is the box that is drawn there."""
    path = tmp_path / "unet.svg"
    path.write_text(svg(outlined("conditioned"), level="layer", interactive=interactive), encoding="utf-8")
    view = browser.new_page(viewport={"width": 1400, "height": 2400})
    asked: list[str] = []
    view.on("request", lambda request: asked.append(request.url))
    view.goto(path.as_uri())
    assert view.evaluate("document.documentElement.namespaceURI") == "http://www.w3.org/2000/svg"
    assert asked == [path.as_uri()]
    skip = placed("conditioned", "layer").skips[0]
    x, y = skip.points(33)[17]
    found = view.evaluate("([x, y]) => document.elementFromPoint(x, y + 4)?.closest('.ui-skip')?.dataset.skip ?? null", [x, y])
    assert found == (str(skip.skip.order) if interactive else None)
    view.close()


def pixels(image: bytes) -> tuple[int, int]:
    """Return a PNG's width and height, as its header says."""
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", image[16:24])
    return width, height


def test_a_png_has_the_size_that_was_asked_for() -> None:
    """Two pixels to a unit, or one; on white; the same picture each time."""
    scene, text = placed("conditioned", "stage"), svg(outlined("conditioned"))
    for scale in (1, 2):
        width, height = pixels(png(text, scale=scale))
        assert abs(width - scale * scene.width) <= 1
        assert abs(height - scale * scene.height) <= 1
    assert png(text, scale=1) == png(text, scale=1)


def test_a_png_has_its_text_without_any_font() -> None:
    """On a machine without fonts, text is drawn all the same, and what the last font lacks in ASCII."""
    page = '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="20"><text y="15" font-size="12">{}</text></svg>'
    drawn = {
        text: _draw(page.format(text), 1, system_fonts=False) for text in ("", "1 → 2", "1 -&gt; 2", "3\N{MULTIPLICATION SIGN}4", "3x4")
    }
    assert drawn["1 → 2"] == drawn["1 -&gt; 2"] != drawn[""]
    assert drawn["3\N{MULTIPLICATION SIGN}4"] == drawn["3x4"] != drawn[""]
