"""The commands that look at one UNet: trace, skips, attn, tree, inputs, ports."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from unetinspect.cli.options import More, TraceOptions, takes
from unetinspect.cli.output import Output
from unetinspect.cli.run import answer_models, traced, traced_to_fit, tracing
from unetinspect.errors import UsageError, nearest_names
from unetinspect.record import Envelope, Trace
from unetinspect.source import LoadedModel
from unetinspect.unets.request import parse_size

_Stage = Annotated[str | None, typer.Option(metavar="NAME", help="Only this stage (up_blocks.1), or all of a list (up_blocks).")]


@takes(TraceOptions)
def trace(options: TraceOptions, more: More = None) -> None:
    """Example: unetinspect trace sdxl --res 1024"""
    from unetinspect.views.stages import stages_table

    output = Output(options)
    run = tracing(options, output)

    def answer(model: LoadedModel) -> int:
        record = run(model)
        output.show(stages_table(record), record)
        return 0

    answer_models(options, more, output, answer)


@takes(TraceOptions)
def skips(
    options: TraceOptions,
    explain: Annotated[bool, typer.Option("--explain", help="Say in words why the up blocks look as they do.")] = False,
) -> None:
    """Example: unetinspect skips ddpm-cat-256 --explain"""
    from unetinspect.views.skips import skips_table

    output = Output(options)
    record = traced(options, output)
    if explain:
        from unetinspect.views.skips import explain_skips

        output.say(explain_skips(record), option="--explain")
    else:
        output.show(skips_table(record), Envelope.of(record, skips=record.skips))


@takes(TraceOptions)
def attn(
    options: TraceOptions,
    kind: Annotated[Literal["self", "cross", "joint", "temporal", "pooling"] | None, typer.Option(help="Only layers of this kind.")] = None,
    stage: _Stage = None,
    tokens_at: Annotated[
        str | None, typer.Option(metavar="N|HxW", help="Only layers that work on a map of this size: 16x16 is 256 query tokens.")
    ] = None,
) -> None:
    """Example: unetinspect attn sd15 --kind cross --tokens-at 16x16"""
    from unetinspect.views.attention import attention_table

    output = Output(options)
    size = parse_size(tokens_at, option="--tokens-at")
    record = traced(options, output)
    _check_stage(stage, record)
    picked = [layer for layer in record.attentions if _in_stage(layer.stage, stage)]
    picked = [layer for layer in picked if kind in (None, layer.kind)]
    picked = [layer for layer in picked if size is None or layer.query_shape[2] == size[0] * size[1]]
    output.show(attention_table(record, picked), Envelope.of(record, attentions=tuple(picked)))


@takes(TraceOptions)
def tree(
    options: TraceOptions,
    depth: Annotated[int | None, typer.Option(min=0, metavar="N", help="Levels below the UNet or the stage; default: all.")] = None,
    stage: _Stage = None,
) -> None:
    """Example: unetinspect tree sd15 --depth 2"""
    from unetinspect.views.tree import tree_table, within_depth

    output = Output(options)
    record = traced(options, output)
    _check_stage(stage, record)
    modules = [module for module in record.modules if _in_stage(module.path, stage)]
    table = tree_table(record, modules, depth=depth, unicode=output.screen.unicode)
    output.show(table, Envelope.of(record, modules=within_depth(modules, depth)))


@takes(TraceOptions)
def inputs(
    options: TraceOptions,
    code: Annotated[bool, typer.Option("--code", help="Print Python that builds the UNet and calls it so.")] = False,
) -> None:
    """Example: unetinspect inputs sdxl --code | python"""
    from unetinspect.views.inputs import inputs_code, inputs_table

    output = Output(options)
    record = traced(options, output)
    if code:
        if output.format != "table":
            raise UsageError(f"--code prints Python, and has no {output.format} form", hint="leave out one of the two")
        output.write(inputs_code(record))
    else:
        output.show(inputs_table(record), Envelope.of(record))


@takes(TraceOptions)
def ports(options: TraceOptions) -> None:
    """Example: unetinspect ports sd15 --with controlnet-canny-sdxl"""
    from unetinspect.views.ports import fit_table, ports_table

    output = Output(options)
    record, fit = traced_to_fit(options, output)
    if fit is None:
        output.show(ports_table(record), Envelope.of(record, ports=record.ports))
    else:
        output.show(fit_table(record, fit), Envelope.of(record, ports=record.ports, fit=fit))


def _check_stage(stage: str | None, record: Trace) -> None:
    """Check that a stage, or a list of stages, is one that ran.

    Raises:
        UsageError: It is none; the hint has those that look like it.
    """
    names = [found.name for found in record.stages]
    known = list(dict.fromkeys(part for name in names for part in (name.partition(".")[0], name)))
    if stage is not None and stage not in known:
        close = sorted(nearest_names(stage, known, count=5), key=known.index)
        hint = f"did you mean one of {', '.join(close)}?" if close and "," not in stage else f"it takes one of {', '.join(known)}"
        raise UsageError(f"--stage {stage}: {record.model.name} has no such stage", hint=hint)


def _in_stage(name: str, stage: str | None) -> bool:
    return stage is None or name == stage or name.startswith(f"{stage}.")
