"""The commands that compare, draw and name: diff, draw, names."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from unetinspect.cli.options import DiffOptions, TraceOptions, takes
from unetinspect.cli.output import Output
from unetinspect.cli.run import traced, traced_pair
from unetinspect.drawing.drawing import SUFFIXES, Form, form_of
from unetinspect.drawing.outline import Level
from unetinspect.errors import SourceError, UsageError
from unetinspect.record import Envelope

_DIFFERENT = 1


@takes(DiffOptions)
def diff(
    options: DiffOptions,
    other: Annotated[str | None, typer.Argument(metavar="B", help="Another; default: A at another size, or with --set-b.")] = None,
    set_b: Annotated[
        list[str] | None, typer.Option("--set-b", metavar="KEY=VALUE", help="Override a config key of B alone; may be repeated.")
    ] = None,
) -> None:
    """Example: unetinspect diff sd15 bk-sdm-tiny"""
    from unetinspect.compare import compare
    from unetinspect.views.diff import diff_csv, diff_markdown, diff_text

    output = Output(options)
    found = compare(*traced_pair(options, output, other, set_b or []))
    output.show_forms(
        found,
        text=lambda screen: diff_text(found, screen),
        markdown=lambda: diff_markdown(found),
        csv=lambda delimiter: diff_csv(found, delimiter=delimiter),
    )
    if not found.same:
        raise typer.Exit(_DIFFERENT)


@takes(TraceOptions)
def draw(
    options: TraceOptions,
    level: Annotated[Level, typer.Option(help="A box a stage, or each of its layers too.")] = "stage",
    form: Annotated[
        Form | None, typer.Option("--as", help="The form of the drawing; default: what FILE ends in, else text.", show_default=False)
    ] = None,
) -> None:
    """Example: unetinspect draw sdxl -o sdxl.html"""
    from unetinspect.drawing.drawing import Drawing

    output = Output(options)
    drawn_as = _form(output, form)
    record = traced(options, output)
    if output.format == "json":
        output.write_json(Envelope.of(record, stages=record.stages, skips=record.skips, attentions=record.attentions))
        return
    drawing = Drawing(record, level=level)
    if drawn_as == "txt" and output.format == "table":
        screen = output.screen
        output.write(drawing.text(width=screen.width, unicode=screen.unicode, color=screen.color))
        return
    # A file's form has an encoding of its own, whatever that of standard output is.
    drawn = f"```mermaid\n{drawing.mermaid()}```\n" if output.format == "md" else drawing.render(drawn_as)
    output.write(drawn if isinstance(drawn, bytes) else drawn.encode())


@takes(TraceOptions)
def names(
    options: TraceOptions,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A module or tensor, as any of them calls it; default: all.")] = None,
) -> None:
    """Example: unetinspect names sd15 output_blocks.5.1"""
    from unetinspect.naming import find_names, names_of
    from unetinspect.views.names import names_table

    output = Output(options)
    try:
        record = traced(options, output)
    except SourceError as error:
        if name is not None:
            raise
        # MODEL stands first, and may be left out elsewhere: here what stands alone is MODEL all the same.
        raise SourceError(
            error.message, hint=f"{error.hint or ''}; a name stands behind its MODEL: unetinspect names sd15 {options.model}".lstrip("; ")
        ) from None
    found = names_of(record) if name is None else find_names(record, name)
    output.show(names_table(record, found, asked=name), Envelope.of(record, names=found))


def _form(output: Output, asked: Form | None) -> Form:
    """Return the form to draw in.

    Raises:
        UsageError: FILE ends in none, or in another than is asked for; the answer is to be no drawing; a PNG would go to a terminal.
    """
    if output.format in ("csv", "tsv"):
        raise UsageError(f"--format {output.format}: a drawing is no table", hint=f"`unetinspect trace --format {output.format}` is one")
    if output.format != "table":
        if asked is not None:
            raise UsageError(f"--as {asked} and --format {output.format} contradict each other", hint="give one of them")
        if output.path is not None and Path(output.path).suffix.lower() in SUFFIXES:
            raise UsageError(f"-o {output.path} names a drawing, and --format {output.format} is none", hint="give one of them")
        return "txt"
    if asked is None:
        return "txt" if output.path is None else form_of(output.path)
    if asked == "png" and output.path is None and sys.stdout is not None and sys.stdout.isatty():
        raise UsageError("a PNG is no text for a terminal", hint="-o FILE.png writes it into a file")
    ending = SUFFIXES.get(Path(output.path).suffix.lower(), asked) if output.path is not None else asked
    if ending != asked:
        output.note(f"{output.path} holds {asked}, as --as says, whatever it ends in")
    return asked
