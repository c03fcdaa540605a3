"""The commands that show one UNet: trace, skips, attn, tree, inputs, ports."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from msgspec.structs import replace

from unetinspect.checkpoint.adapters import read_ip_adapter
from unetinspect.cli.options import MemoryOptions, Models, TraceOptions, takes
from unetinspect.cli.output import Output
from unetinspect.cli.run import Passes, answer_models, read_named
from unetinspect.errors import UsageError, nearest_names
from unetinspect.record import Envelope, Trace
from unetinspect.run.cache import Recorder
from unetinspect.source import LoadedModel
from unetinspect.source.loaded import NoModelError
from unetinspect.unets.request import parse_size

_DOES_NOT_FIT = 1
_Kind = Literal["self", "cross", "joint", "temporal", "pooling"]
_Stage = Annotated[str | None, typer.Option(metavar="NAME", help="Only this stage (up_blocks.1) or these (up_blocks) [default: all]")]


@takes(MemoryOptions)
def trace(options: MemoryOptions, models: Models = None) -> None:
    """unetinspect trace sdxl --res 1024
    unetinspect trace runs/mine/unet/config.json --device meta
    unetinspect trace sd15 bk-sdm-tiny --format csv -o stages.csv
    unetinspect trace sdxl --training --optimizer 8bit --gradient-checkpointing
    """
    from unetinspect.views.stages import stages_table

    output = Output(options)
    passes = Passes(options, output)

    def answer(model: LoadedModel) -> int:
        record = passes.trace(model)
        output.show(stages_table(record), record)
        return 0

    answer_models(options, models or [], output, answer)


@takes(TraceOptions)
def skips(
    options: TraceOptions,
    explain: Annotated[bool, typer.Option("--explain", help="Explain in words why the up blocks look as they do")] = False,
) -> None:
    """unetinspect skips sd15
    unetinspect skips ddpm-cat-256 --explain
    """
    from unetinspect.views.skips import skips_table

    output = Output(options, *(("txt", "md") if explain else ()), what="--explain")
    record = _traced(options, output)
    if explain:
        from unetinspect.views.skips import explain_skips

        output.write_lines(explain_skips(record))
    else:
        output.show(skips_table(record), Envelope.of(record, skips=record.skips))


@takes(TraceOptions)
def attn(
    options: TraceOptions,
    kind: Annotated[
        _Kind | None,
        typer.Option("--kind", metavar="KIND", help="Only layers of this kind: self, cross, joint, temporal or pooling [default: all]"),
    ] = None,
    stage: _Stage = None,
    tokens_at: Annotated[
        str | None,
        typer.Option(metavar="N|HxW", help="Only layers at this resolution: 16x16 is 256 query tokens [default: all]"),
    ] = None,
) -> None:
    """unetinspect attn sdxl --res 1024
    unetinspect attn sd15 --kind cross --tokens-at 16x16
    """
    from unetinspect.views.attention import attention_table

    output = Output(options)
    size = parse_size(tokens_at, option="--tokens-at")
    record = _traced(options, output)
    _check_stage(stage, record)
    picked = [layer for layer in record.attentions if _in_stage(layer.stage, stage)]
    picked = [layer for layer in picked if kind in (None, layer.kind)]
    picked = [layer for layer in picked if size is None or layer.query_shape[2] == size[0] * size[1]]
    output.show(attention_table(record, picked), Envelope.of(record, attentions=tuple(picked)))


@takes(TraceOptions)
def tree(
    options: TraceOptions,
    depth: Annotated[int | None, typer.Option(min=0, metavar="N", help="Levels below the UNet or the stage [default: all]")] = None,
    stage: _Stage = None,
) -> None:
    """unetinspect tree sd15 --depth 2
    unetinspect tree sdxl --stage mid_block
    """
    from unetinspect.views.tree import tree_table, within_depth

    output = Output(options)
    record = _traced(options, output)
    _check_stage(stage, record)
    modules = [module for module in record.modules if _in_stage(module.path, stage)]
    table = tree_table(record, modules, depth=depth, unicode=output.screen.unicode)
    output.show(table, Envelope.of(record, modules=within_depth(modules, depth)))


@takes(TraceOptions)
def inputs(
    options: TraceOptions,
    code: Annotated[bool, typer.Option("--code", help="Print Python that builds the UNet and calls it")] = False,
) -> None:
    """unetinspect inputs svd-xt --frames 25
    unetinspect inputs sdxl --code | python
    """
    from unetinspect.views.inputs import inputs_code, inputs_table

    output = Output(options, *(("py", "txt") if code else ()), what="--code")
    record = _traced(options, output)
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


def _traced(options: TraceOptions, output: Output) -> Trace:
    passes = Passes(options, output)
    return passes.trace(read_named(options, output, options.model))


def _check_stage(stage: str | None, record: Trace) -> None:
    """Check that a stage, or a list of stages, is one that ran.

    Raises:
        UsageError: It is not; the hint has similar names.
    """
    names = [found.name for found in record.stages]
    known = list(dict.fromkeys(part for name in names for part in (name.partition(".")[0], name)))
    if stage is not None and stage not in known:
        close = sorted(nearest_names(stage, known, count=5), key=known.index)
        hint = f"did you mean one of {', '.join(close)}?" if close and "," not in stage else f"use one of {', '.join(known)}"
        raise UsageError(f"{record.model.name} has no stage '{stage}'", hint=hint)


def _in_stage(name: str, stage: str | None) -> bool:
    return stage is None or name == stage or name.startswith(f"{stage}.")
