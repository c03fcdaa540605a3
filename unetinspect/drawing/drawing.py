"""The U in every form, and what a notebook shows of a record. The module of a form is imported when it is first drawn."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Literal, get_args

from unetinspect.drawing.outline import Layout, Level, outline_of
from unetinspect.errors import UsageError
from unetinspect.record import Trace
from unetinspect.streams import form_of, save_file
from unetinspect.units import format_count, format_shape, plural

Form = Literal["svg", "html", "png", "pdf", "mmd", "dot", "txt"]
FORMS: tuple[Form, ...] = get_args(Form)
# Those that a layout and a legend are of.
PICTURES: tuple[Form, ...] = ("svg", "html", "png", "pdf")


class Drawing:
    """The U of a trace, in any form; a notebook displays it.

    Attributes:
        trace: The record.
        level: "stage": one box per stage; "layer": one row per resnet, transformer and sampler in them too.
        layout: Of a picture (SVG, HTML, PNG, PDF). "tall"; "wide": 16:9, for a slide; "compact": for a 3.3-inch column.
        legend: Whether a picture has a legend; a compact one has none.
    """

    def __init__(
        self, trace: Trace, *, level: Level = "stage", layout: Layout = "tall", title: str | None = None, legend: bool = True
    ) -> None:
        """Draw a trace; `title` is what to write above instead of model, class and parameters, "" for nothing.

        Raises:
            UsageError: The level or the layout is unknown.
        """
        for word, given, known in (("level", level, get_args(Level)), ("layout", layout, get_args(Layout))):
            if given not in known:
                raise UsageError(f"unknown {word} {given!r}", hint=" or ".join(f"{word}={name!r}" for name in known))
        self.trace = trace
        self.level = level
        self.layout = layout
        self.legend = legend
        self._outline = outline_of(trace, title=title)

    def svg(self) -> str:
        """Return the picture as one self-contained SVG document."""
        from unetinspect.drawing.svg import svg

        return svg(self._outline, level=self.level, layout=self.layout, legend=self.legend)

    def png(self, *, scale: float = 2) -> bytes:
        """Return the picture as PNG, `scale` pixels for each unit of the SVG."""
        from unetinspect.drawing.png import png

        return png(self.svg(), scale=scale)

    def pdf(self) -> bytes:
        """Return the picture as one page of PDF, in vectors and with its text as text; wide is 13.33 x 7.5 inches, compact 3.3 wide."""
        from unetinspect.drawing.pdf import pdf
        from unetinspect.drawing.place.layouts import PLANS

        return pdf(self.svg(), points=PLANS[self.layout].points)

    def misfits(self) -> Iterator[str]:
        """Yield what makes a picture too small for the place that its layout is for: a slide, or a column of at most 8 inches."""
        from unetinspect.drawing.place import place
        from unetinspect.drawing.place.boxes import NOTE_SIZE
        from unetinspect.drawing.place.layouts import PLANS

        points = PLANS[self.layout].points
        if points is None:
            return
        scene = place(self._outline, level=self.level, layout=self.layout, legend=self.legend)
        smallest, inches = NOTE_SIZE * points / scene.width, scene.height * points / scene.width / 72
        if smallest < 6:
            yield f"the smallest type is {smallest:.1f} points at a width of {points / 72:.1f} inches; --layout tall has larger type"
        if inches > 8 and self.layout == "compact":
            yield f"the picture is {inches:.1f} inches high at a width of 3.3 inches; --layout wide fits across two columns"

    def html(self) -> str:
        """Return one self-contained, interactive HTML page."""
        from unetinspect.drawing.page import page

        return page(self._outline, level=self.level, layout=self.layout, legend=self.legend)

    def mermaid(self) -> str:
        """Return a Mermaid flowchart."""
        from unetinspect.drawing.graphs import mermaid

        return mermaid(self._outline, level=self.level)

    def dot(self) -> str:
        """Return a Graphviz graph."""
        from unetinspect.drawing.graphs import dot

        return dot(self._outline, level=self.level)

    def text(self, *, width: int | None = None, unicode: bool = True, color: bool = False) -> str:
        """Return the U as text, `width` columns wide; None: as wide as it needs."""
        from unetinspect.drawing.text import text

        return text(self._outline, level=self.level, width=width, unicode=unicode, color=color)

    def render(self, form: Form) -> str | bytes:
        """Return the drawing in one form; PNG and PDF are bytes, the others are text."""
        if form in ("png", "pdf"):
            return self.png() if form == "png" else self.pdf()
        return {"svg": self.svg, "html": self.html, "mmd": self.mermaid, "dot": self.dot, "txt": self.text}[form]()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the drawing to a file, in the form of its extension; if that fails, the file is unchanged.

        Raises:
            UsageError: The extension is not that of a drawing, or the file cannot be written.
        """
        drawn = self.render(form_of(path, FORMS))
        save_file(path, drawn if isinstance(drawn, bytes) else drawn.encode())

    def _repr_html_(self) -> str:
        """Return the SVG, which shrinks with the page."""
        return self.svg().replace("<svg ", '<svg style="max-width:100%;height:auto" ', 1)

    def __repr__(self) -> str:
        return f"<Drawing of {self.trace.model.name}, level={self.level!r}>"

    def __str__(self) -> str:
        return self.text()


def one_line(trace: Trace) -> str:
    """Write a record in one line: model, shapes and counts."""
    sample = next((given.shape for given in trace.run.inputs if given.shape is not None), None)
    model = f"{trace.model.name}, {trace.model.class_name}, {format_count(trace.totals.params)} params"
    shapes = f"sample {format_shape(sample)} -> {format_shape(trace.output.shape)}"
    counts = (
        plural(len(trace.stages), "stage"),
        plural(trace.totals.skips.consumed, "skip"),
        plural(trace.totals.attention.total + trace.totals.attention.without_processor, "attention layer"),
    )
    return f"<Trace of {model}: {shapes}; {', '.join(counts)}>"


def to_html(trace: Trace) -> str:
    """Return what a notebook shows: the header, the picture, and tables of stages, skips and attention layers to unfold."""
    from unetinspect.drawing.page.markup import Markup, tag
    from unetinspect.drawing.page.tables import page_tables, table_markup
    from unetinspect.views.header import header

    folded = [
        tag("details", tag("summary", plural(len(table.table.rows), table.noun)), table_markup(table))
        for table in page_tables(trace)
        if table.table.rows and table.id != "modules"
    ]
    lines = [tag("div", line) for line in header(trace.model, trace.run)]
    return tag("div", tag("div", *lines), Markup(Drawing(trace)._repr_html_()), *folded)
