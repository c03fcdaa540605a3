"""The commands that compare, draw and name: diff, draw, names."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any, cast

import typer
from msgspec import structs

from unetinspect.cli.options import DiffOptions, TraceOptions, catalog_names, takes
from unetinspect.cli.output import Output
from unetinspect.cli.run import Passes, read_first, read_named, trace_named
from unetinspect.drawing.drawing import FORMS, PICTURES, Form
from unetinspect.drawing.outline import Layout, Level
from unetinspect.errors import SourceError, UnetInspectError, UsageError
from unetinspect.record import Envelope, Trace
from unetinspect.streams import form_of
from unetinspect.unets.request import parse_counts

_DIFFERENT = 1


@takes(DiffOptions)
def diff(
    options: DiffOptions,
    other: Annotated[
        str | None,
        typer.Argument(metavar="B", help="The other model [default: A, with another size or --set-b]", autocompletion=catalog_names),
    ] = None,
    set_b: Annotated[
        list[str] | None, typer.Option("--set-b", metavar="KEY=VALUE", help="Override a config key of B only; may be given several times")
    ] = None,
) -> None:
    """unetinspect diff sd15 bk-sdm-tiny
    unetinspect diff sd15 --res 512,768
    unetinspect diff mine.yaml --set-b attention_head_dim=64
    """
    from unetinspect.compare import compare
    from unetinspect.views.diff import diff_tables

    output = Output(options)
    found = compare(*_traced_pair(options, output, other, set_b or []))
    head, *sections = diff_tables(found)
    output.show(head, found, *sections)
    if not found.same:
        raise typer.Exit(_DIFFERENT)


def _traced_pair(options: DiffOptions, output: Output, other: str | None, overrides: Sequence[str]) -> tuple[Trace, Trace]:
    """Return the traces of A and B; without B, those of A at two sizes, or with and without what `--set-b` overrides.

    Raises:
        UsageError: A and B are the same; an option has more than two values; both are standard input.
    """
    sizes = {name: _pair(getattr(options, name), option=f"--{name}") for name in ("res", "latent", "batch")}
    if other is None and not overrides and all(one == two for one, two in sizes.values()):
        hint = f"`unetinspect diff {options.model} sdxl`, or two sizes of one: `unetinspect diff {options.model} --res 512,768`"
        raise UsageError("diff needs two UNets", hint=hint)
    if options.model == "-" and other in (None, "-"):
        raise UsageError("- (standard input) can be given only once", hint="save it to a file")
    shared = {name: value for name, value in structs.asdict(options).items() if name not in sizes}

    def side(place: int, **own: Any) -> TraceOptions:
        size: dict[str, Any] = {name: pair[place] for name, pair in sizes.items()}
        batch = parse_counts([size.pop("batch") or "1"], option="--batch")[0]
        return TraceOptions(**{**shared, **size, **own, "batch": batch})

    first = side(0)
    second = side(1, model=other or options.model, overrides=[*(options.overrides or []), *overrides], attached=None)
    one, two = Passes(first, output), Passes(second, output)
    two.attached, two.cache = one.attached, one.cache
    model, against = read_named(first, output, first.model), read_named(second, output, second.model)
    return one.trace(model), two.trace(against)


def _pair(given: str | None, *, option: str) -> tuple[str | None, str | None]:
    values = (given or "").split(",")
    if len(values) > 2:
        raise UsageError(f"{option} {given}: expected at most two values, for A and B", hint=f"{option} {values[0]},{values[1]}")
    return (values[0] or None, values[-1] or None)


@takes(TraceOptions)
def draw(
    options: TraceOptions,
    level: Annotated[
        Level, typer.Option("--level", metavar="LEVEL", help="stage (one box per stage) or layer (one row per layer)")
    ] = "stage",
    form: Annotated[
        Form | None,
        typer.Option("--as", metavar="FORM", help="svg, html, png, pdf, mmd, dot or txt [default: from FILE's extension, else txt]"),
    ] = None,
    layout: Annotated[
        Layout | None,
        typer.Option("--layout", metavar="LAYOUT", help="tall, wide (a 16:9 slide) or compact (a column of a paper) [default: tall]"),
    ] = None,
    title: Annotated[
        str | None, typer.Option("--title", metavar="TEXT", help="Title of the drawing, '' for none [default: model, class, params]")
    ] = None,
    no_legend: Annotated[bool, typer.Option("--no-legend", help="Leave out the legend of the picture")] = False,
) -> None:
    """unetinspect draw sd15
    unetinspect draw sdxl --level layer -o sdxl.html
    unetinspect draw sd15 --layout wide -o sd15.pdf
    """
    from unetinspect.drawing.drawing import Drawing

    output = Output(options, *FORMS, "json", "md", what="draw", drawn=form)
    if output.path is not None and not output.decided_by:
        form_of(output.path, FORMS)  # raises: nothing decides the form
    if output.form in ("png", "pdf") and output.path is None and sys.stdout is not None and sys.stdout.isatty():
        raise UsageError(f"cannot print a {output.form.upper()} to a terminal", hint=f"write it to a file: -o FILE.{output.form}")
    of_pictures = {"--layout": layout is not None, "--no-legend": no_legend, "--title": title is not None and output.form == "json"}
    for option, is_given in of_pictures.items():
        if is_given and output.form not in PICTURES:
            raise UsageError(f"{option} cannot be used with the {output.form} form", hint=f"use {', '.join(PICTURES)}: -o FILE.svg")
    record = trace_named(options, output)
    if output.form == "json":
        output.write_json(Envelope.of(record, stages=record.stages, skips=record.skips, attentions=record.attentions))
        return
    drawing = Drawing(record, level=level, layout=layout or "tall", title=title, legend=not no_legend)
    if output.form == "txt":
        screen = output.screen
        output.write(drawing.text(width=screen.width, unicode=screen.unicode, color=screen.color))
        return
    # These forms have their own encoding, whatever that of standard output is.
    drawn = f"```mermaid\n{drawing.mermaid()}```\n" if output.form == "md" else drawing.render(cast(Form, output.form))
    output.write(drawn if isinstance(drawn, bytes) else drawn.encode())
    for misfit in drawing.misfits() if output.form in PICTURES else ():
        output.note(misfit)


@takes(TraceOptions)
def names(
    options: TraceOptions,
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Module or tensor, by its name in any of these tools [default: all]"),
    ] = None,
) -> None:
    """unetinspect names sd15 output_blocks.5.1
    unetinspect names sdxl lora_unet_mid_block_attentions_0_proj_in
    unetinspect names sd15 --format csv -o names.csv
    """
    from unetinspect.naming import find_names, names_of
    from unetinspect.views.names import names_table

    output = Output(options)
    passes = Passes(options, output)
    try:
        record = passes.trace(read_first(options, output, name, command="names"))
    except SourceError as error:
        if name is not None or "/" in options.model:
            raise
        default, name = TraceOptions().model, options.model
        try:
            record = passes.trace(read_named(options, output, default))
            found = find_names(record, name)
        except UnetInspectError:
            raise error from None
        output.note(f"no model is called {name!r}: showing that name in {default}, the default MODEL")
    else:
        found = names_of(record) if name is None else find_names(record, name)
    output.show(names_table(record, found, asked=name), Envelope.of(record, names=found))
