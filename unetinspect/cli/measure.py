"""The commands that measure a UNet: sweep, profile."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from unetinspect.cli.options import More, SweepOptions, TraceOptions, takes
from unetinspect.cli.output import Output
from unetinspect.cli.run import answer_models, note_pass, parse_overrides, read_named, read_plugged, request_of, sweeping, to_trace_again
from unetinspect.record import SCHEMA, Envelope
from unetinspect.source import LoadedModel

_HOW = "How to run"


@takes(SweepOptions)
def sweep(options: SweepOptions, more: More = None) -> None:
    """Example: unetinspect sweep sd15 --res 256,512,768,1024 --batch 1,2"""
    from unetinspect.views.costs import sweep_table

    output = Output(options)
    run = sweeping(options, output)

    def answer(model: LoadedModel) -> int:
        info, points, record = run(model)
        output.show(sweep_table(info, points, record), Envelope(schema=SCHEMA, model=info, sweep=points))
        return 0

    answer_models(options, more, output, answer)


@takes(TraceOptions)
def profile(
    options: TraceOptions,
    compile: Annotated[bool, typer.Option("--compile", help="Compile each stage with torch.compile.", rich_help_panel=_HOW)] = False,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Weights and inputs with their channels last in memory.", rich_help_panel=_HOW)
    ] = False,
    attention: Annotated[
        Literal["sdpa", "math", "slicing"],
        typer.Option(help="torch's fused attention, its math attention, or attention slicing.", rich_help_panel=_HOW),
    ] = "sdpa",
    repeats: Annotated[int, typer.Option(min=1, metavar="N", help="Passes to time.", rich_help_panel=_HOW)] = 20,
    warmup: Annotated[int, typer.Option(min=1, metavar="N", help="Passes to run before.", rich_help_panel=_HOW)] = 5,
) -> None:
    """Example: unetinspect profile sdxl --dtype float16 --compile"""
    output = Output(options)
    request = request_of(options)
    overrides = parse_overrides(options.overrides or [])
    from unetinspect.profile.clock import cuda_device
    from unetinspect.views.costs import profile_table

    cuda_device(request.device)  # before anything is read: without a device, nothing else matters
    plugged = read_plugged(options, output)
    read = read_named(options, output, options.model)
    model = to_trace_again(read)
    if read.trace is not None:
        output.note("the config in the saved trace is profiled, with these options alone")
    with output.progress() as say:  # not while passes are timed: what draws it takes time of the same processor
        say("importing torch and diffusers")
        from unetinspect.profile.profiling import ProfileOptions, profile_model
    if compile:
        output.note("the first pass compiles each stage, which can take minutes")
    how = ProfileOptions(
        compile=compile, channels_last=channels_last, attention=attention, repeats=repeats, warmup=warmup, force=options.force
    )
    record, measured = profile_model(model, request, overrides, how, plugged)
    note_pass(record, model, output)
    output.show(profile_table(record, measured), Envelope.of(record, stages=record.stages, profile=measured))
