"""One U in every form that it can be drawn in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

from unetinspect.drawing.forms import Form, Level, form_of
from unetinspect.drawing.outline import outline_of
from unetinspect.errors import UsageError
from unetinspect.record import Trace
from unetinspect.streams import write_file


class Drawing:
    """The U of a trace, drawn in whatever form is asked for. In a notebook it shows itself.

    Attributes:
        trace: The record.
        level: "stage": a box a stage; "layer": each of its resnets, transformers and samplers too.
    """

    def __init__(self, trace: Trace, *, level: Level = "stage") -> None:
        if level not in get_args(Level):
            raise UsageError(f"level={level!r}: a drawing has two levels", hint=" or ".join(f"level={name!r}" for name in get_args(Level)))
        self.trace = trace
        self.level = level
        self._outline = outline_of(trace)

    def svg(self) -> str:
        """Return the picture as one SVG document, which needs nothing from elsewhere."""
        from unetinspect.drawing.svg import svg

        return svg(self._outline, level=self.level)

    def png(self, *, scale: float = 2) -> bytes:
        """Return the picture as PNG, `scale` pixels for each unit of the SVG."""
        from unetinspect.drawing.png import png

        return png(self.svg(), scale=scale)

    def html(self) -> str:
        """Return one HTML page to look around in, which needs nothing from elsewhere."""
        from unetinspect.drawing.page import page

        return page(self._outline, level=self.level)

    def mermaid(self) -> str:
        """Return a Mermaid flowchart."""
        from unetinspect.drawing.mermaid import mermaid

        return mermaid(self._outline, level=self.level)

    def dot(self) -> str:
        """Return a Graphviz graph."""
        from unetinspect.drawing.dot import dot

        return dot(self._outline, level=self.level)

    def text(self, *, width: int | None = None, unicode: bool = True, color: bool = False) -> str:
        """Return the U drawn in characters, `width` columns wide; None is as wide as it needs."""
        from unetinspect.drawing.terminal import terminal

        return terminal(self._outline, level=self.level, width=width, unicode=unicode, color=color)

    def render(self, form: Form) -> str | bytes:
        """Return the drawing in one form; PNG is bytes, the others are text."""
        if form == "png":
            return self.png()
        return {"svg": self.svg, "html": self.html, "mmd": self.mermaid, "dot": self.dot, "txt": self.text}[form]()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the drawing into a file, whole or not at all, in the form that its name asks for.

        Raises:
            UsageError: The name ends in no form, or the file cannot be written.
        """
        drawn = self.render(form_of(path))
        try:
            write_file(Path(path), drawn if isinstance(drawn, bytes) else drawn.encode())
        except OSError as error:
            raise UsageError(f"cannot write to {os.fspath(path)}: {error.strerror or error}") from None

    def _repr_html_(self) -> str:
        return shrinking(self.svg())

    def __repr__(self) -> str:
        return f"<Drawing of {self.trace.model.name}, level={self.level!r}>"

    def __str__(self) -> str:
        return self.text()


def shrinking(svg: str) -> str:
    """Return an SVG for the inside of a page: it shrinks with what it stands in."""
    return svg.replace("<svg ", '<svg style="max-width:100%;height:auto" ', 1)
