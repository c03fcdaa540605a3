"""The commands that show one UNet: trace, skips, attn, tree, inputs, ports."""

from __future__ import annotations

from typing import Annotated

import typer
from msgspec.structs import replace

from unetinspect.checkpoint.adapters import read_ip_adapter
from unetinspect.cli.options import Kinds, MemoryOptions, Models, Stages, TokensAt, TraceOptions, takes
from unetinspect.cli.output import OF_NAMED, Output
from unetinspect.cli.run import Passes, answer_models, read_first, read_named, trace_named
from unetinspect.errors import UsageError
from unetinspect.record import Envelope
from unetinspect.record.selection import Selection, no_match, no_skip_matches, pick_modules, pick_skips, read_words, with_grids
from unetinspect.run.cache import Recorder
from unetinspect.source import LoadedModel
from unetinspect.source.loaded import NoModelError
from unetinspect.units import format_size

_DOES_NOT_FIT = 1
_CODE = ("py", "txt")
_Code = Annotated[bool, typer.Option("--code", help="Print Python that captures them from the UNet while it runs")]
_NoFold = Annotated[bool, typer.Option("--no-fold", help="One row for each of several equal blocks")]


@takes(MemoryOptions)
def trace(options: MemoryOptions, models: Models = None) -> None:
    """unetinspect trace sdxl --res 1024
    unetinspect trace runs/mine/unet/config.json --device meta
    unetinspect trace sd15 bk-sdm-tiny --format csv -o stages.csv
    unetinspect trace sdxl --training --optimizer 8bit --gradient-checkpointing
    """
    from unetinspect.views.stages import stages_table

    output = Output(options, *OF_NAMED)
    passes = Passes(options, output)

    def answer(model: LoadedModel) -> int:
        record = passes.trace(model)
        output.show(stages_table(record), record)
        return 0

    answer_models(options, models or [], output, answer)


@takes(TraceOptions)
def skips(
    options: TraceOptions,
    stage: Annotated[
        list[str] | None,
        typer.Option("--stage", metavar="NAME,...", help="Only skips from or to these stages: up_blocks.1, or up_blocks [default: all]"),
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option("--source", metavar="PATH,...", help="Only skips that these modules produced [default: all]")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option("--target", metavar="PATH,...", help="Only skips that these modules consume [default: all]")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Explain in words why the up blocks look as they do")] = False,
    code: _Code = False,
) -> None:
    """unetinspect skips sd15
    unetinspect skips ddpm-cat-256 --explain
    unetinspect skips sd15 --target up_blocks.3.resnets.0 --code
    """
    from unetinspect.views.inputs import capture_code
    from unetinspect.views.skips import explain_skips, skips_table

    output = Output(options, *(_CODE if code else ("txt", "md") if explain else OF_NAMED), what="--code" if code else "--explain")
    stages, sources, targets = (read_words(words, what=what) for words, what in ((stage, "stage"), (source, "source"), (target, "target")))
    if explain and (code or stages or sources or targets):
        other = "--code" if code else "--stage" if stages else "--source" if sources else "--target"
        raise UsageError(f"--explain and {other} cannot be used together", hint="leave out --explain")
    record = trace_named(options, output)
    picked = pick_skips(record, stages=stages, sources=sources, targets=targets)
    if explain:
        output.write_lines(explain_skips(record))
    elif not code:
        output.show(skips_table(record, picked), Envelope.of(record, skips=picked))
    elif picked:
        # `skips()` selects by modules alone.
        targets = tuple(dict.fromkeys(skip.target for skip in picked)) if stages else targets
        output.write(capture_code(record, "skips", {"source": sources, "target": targets}))
    else:
        raise UsageError(no_skip_matches(record.skips), hint="`unetinspect skips` lists them")


@takes(TraceOptions)
def attn(
    options: TraceOptions,
    kind: Kinds = None,
    stage: Stages = None,
    tokens_at: TokensAt = None,
    no_fold: _NoFold = False,
    code: _Code = False,
) -> None:
    """unetinspect attn sdxl --res 1024
    unetinspect attn sd15 --kind cross --tokens-at 16x16
    unetinspect attn sd15 --kind cross --stage mid_block,up_blocks --code -o maps.py
    unetinspect attn sd15 --columns processor_key --format names
    """
    from unetinspect.views.attention import attention_table
    from unetinspect.views.inputs import capture_code

    output = Output(options, *(_CODE if code else OF_NAMED), what="--code")
    selection = Selection.of(kind, stage, tokens_at)
    record = trace_named(options, output)
    picked = selection.pick(record)
    if options.tokens is not None and tokens_at is None:  # both are numbers of tokens: of the text, and of the image
        alike = next((grid for layer, grid in with_grids(record) if grid and layer.query_shape[2] == options.tokens), None)
        if alike:
            output.note(f"--tokens is the length of encoder_hidden_states; --tokens-at {format_size(alike)} selects by query tokens")
    if not code:
        table = attention_table(record, picked, fold=not (no_fold or options.columns), selection=selection)
        output.show(table, Envelope.of(record, attentions=picked))
    elif picked:
        size = (tokens_at,) if tokens_at is not None else ()
        output.write(capture_code(record, "maps", {"kind": selection.kinds, "stage": selection.stages, "tokens_at": size}))
    else:
        said, meant = no_match(with_grids(record), selection)
        raise UsageError(said, hint=meant or "`unetinspect attn` lists them")


@takes(TraceOptions)
def tree(
    options: TraceOptions,
    path: Annotated[
        str | None, typer.Argument(metavar="PATH", help="Only this module and those in it: mid_block.attentions.0 [default: all]")
    ] = None,
    depth: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Levels below the UNet, the stage or PATH [default: what fits a screen]")
    ] = None,
    stage: Stages = None,
    no_fold: _NoFold = False,
) -> None:
    """unetinspect tree sd15 --depth 2
    unetinspect tree sdxl mid_block.attentions.0
    unetinspect tree sdxl --stage mid_block --format names
    """
    from unetinspect.views.tree import tree_table

    output = Output(options, *OF_NAMED)
    stages = read_words(stage, what="stage")
    if path is not None and stages:
        raise UsageError("PATH and --stage cannot be used together", hint="leave out --stage")
    passes = Passes(options, output)
    record = passes.trace(read_first(options, output, path, command="tree"))
    modules = pick_modules(record, stages=stages, path=path)
    screen = output.screen
    table = tree_table(record, modules, depth=depth, height=screen.height, fold=not no_fold, unicode=screen.unicode)
    output.show(table, Envelope.of(record, modules=tuple(table.records or ())))


@takes(TraceOptions)
def inputs(
    options: TraceOptions,
    code: Annotated[bool, typer.Option("--code", help="Print Python that builds the UNet and calls it")] = False,
) -> None:
    """unetinspect inputs svd-xt --frames 25
    unetinspect inputs sdxl --code | python
    """
    from unetinspect.views.inputs import inputs_code, inputs_table

    output = Output(options, *(_CODE if code else ()), what="--code")
    record = trace_named(options, output)
    if code:
        output.write(inputs_code(record))
    else:
        output.show(inputs_table(record), Envelope.of(record))


@takes(TraceOptions)
def ports(options: TraceOptions) -> None:
    """unetinspect ports sd15
    unetinspect ports sd15 --with controlnet-canny-sdxl
    """
    from unetinspect.views.ports import fit_table, ports_table

    output = Output(options)
    ip_adapter = None
    try:
        passes = Passes(options, output)
    except NoModelError as error:
        ip_adapter = read_ip_adapter(error.weights.header.tensors)
        if ip_adapter is None:
            raise
        title = error.weights.source.location.rpartition("/")[2]
        passes = Passes(replace(options, attached=None), output)
    attached, passes.attached = passes.attached, None  # the UNet runs without it
    record = passes.trace(read_named(options, output, options.model))
    from unetinspect.run.attach import find_fit, fit_of_ip_adapter, request_to_fit

    if ip_adapter is not None:
        fit = fit_of_ip_adapter(record, title, ip_adapter)
    elif attached is None:
        output.show(ports_table(record), Envelope.of(record, ports=record.ports))
        return
    else:
        with output.progress() as say:
            recorder = Recorder(passes.cache, attached, say=say)
            given = recorder.record(request_to_fit(record.run, passes.request, recorder.config))
        output.note(*(f"{given.model.name}: {note}" for note in given.run.notes if note not in attached.notes))
        fit = find_fit(record, given)
    output.show(fit_table(record, fit), Envelope.of(record, ports=record.ports, fit=fit))
    if not fit.fits:
        raise typer.Exit(_DOES_NOT_FIT)
