"""What a record shows of itself where it is the value of an expression: one line, or in a notebook its picture and tables."""

from __future__ import annotations

from unetinspect.record import Trace
from unetinspect.units import format_count, format_shape, plural
from unetinspect.views.header import header


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
    """Return what a notebook shows: what was traced, the picture, and the stages, skips and attention layers to unfold."""
    from unetinspect.drawing.drawing import Drawing, shrinking
    from unetinspect.drawing.page.markup import Markup, tag
    from unetinspect.drawing.page.tables import page_tables, table_markup

    folded = [
        tag("details", tag("summary", plural(len(table.rows), table.noun)), table_markup(table))
        for table in page_tables(trace)
        if table.rows and table.id != "modules"
    ]
    lines = [tag("div", line) for line in header(trace.model, trace.run)]
    return tag("div", tag("div", *lines), Markup(shrinking(Drawing(trace).svg())), *folded)
