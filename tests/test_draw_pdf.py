"""The PDF of a picture, as an independent reader finds it: every text where it belongs, embedded fonts, vectors only."""

from __future__ import annotations

from collections import Counter
from io import BytesIO
from typing import Any, get_args

import pytest
from pypdf import PdfReader
from pypdf.generic import ContentStream

from tests.drawn import outlined
from tests.test_draw_picture import placed, texts_of
from tests.tiny import traced
from unetinspect.drawing.outline import Layout
from unetinspect.drawing.text_width import text_width

PAINTING = {b"f", b"f*", b"S", b"s", b"B", b"B*", b"b", b"b*"}


@pytest.mark.parametrize("layout", get_args(Layout))
def test_a_pdf_is_the_picture_in_vectors_and_text(layout: Layout) -> None:
    """The characters are those of the picture, "->" for its arrows; texts begin where they are placed; all shapes are painted."""
    drawing = traced("sd15").draw(layout=layout)
    scene, reader = placed("sd15", "stage", layout), PdfReader(BytesIO(drawing.pdf()))
    (page,) = reader.pages
    width, height = float(page.mediabox.width), float(page.mediabox.height)
    scale = width / scene.width
    starts: dict[str, list[tuple[float, float]]] = {}

    def visit(text: str, matrix: Any, own: Any, *_: Any) -> None:
        x, y = own[4] * matrix[0] + matrix[4], own[5] * matrix[3] + matrix[5]
        starts.setdefault(text.strip(), []).append((x / scale, scene.height - y / scale))

    found = page.extract_text(visitor_text=visit)
    written = [text.content.replace("→", "->") for text in texts_of(scene)]
    assert Counter("".join(found.split())) == Counter("".join("".join(written).split()))
    assert scale == pytest.approx({"tall": 0.75, "wide": 960 / scene.width, "compact": 237.6 / scene.width}[layout])
    assert height == pytest.approx(scene.height * scale, abs=0.01)
    assert reader.metadata is not None
    assert reader.metadata.title == outlined("sd15").title

    alone = [text for text in texts_of(scene) if written.count(text.content) == 1 and text.content in starts]
    assert len(alone) > 10
    for text in alone:
        ((x, y),) = starts[text.content]
        away = {"start": 0.0, "middle": 0.5, "end": 1.0}[text.anchor] * text_width(text.content, text.size, bold=text.bold)
        assert y == pytest.approx(text.y, abs=0.1)
        # The font may be narrower than what is laid out for, not wider.
        assert text.x - away - 0.1 <= x <= text.x - 0.8 * away + 0.1

    resources: Any = page["/Resources"]
    fonts = [font.get_object()["/FontDescriptor"] for font in resources["/Font"].values()]
    embedded = [str(font["/FontName"]).partition("+")[2] for font in fonts if "/FontFile2" in font]
    assert sorted(embedded) == ["BitstreamVeraSans-Bold", "BitstreamVeraSans-Roman"]
    assert len(fonts) == 2
    svg = drawing.svg()
    painted = sum(operator in PAINTING for _, operator in ContentStream(page["/Contents"], reader).operations)
    shown = svg.split("</title>", 1)[1]
    arrows = sum(text.content.count("→") for text in texts_of(scene))
    assert painted == shown.count("<rect") + shown.count("<path") + arrows
    assert list(page.images) == []


def test_a_pdf_has_the_same_bytes_each_time_and_any_characters() -> None:
    """A title in letters that the font lacks is drawn all the same, and its other letters are there."""
    drawing = traced("conditioned").draw(title="Réseau 模型")
    assert drawing.pdf() == drawing.pdf()
    assert "Réseau" in PdfReader(BytesIO(drawing.pdf())).pages[0].extract_text()
