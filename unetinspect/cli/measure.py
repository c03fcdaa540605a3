"""The commands that run a UNet several times: sweep, profile, check."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal, cast

import typer
from msgspec import UNSET
from msgspec.structs import replace

from unetinspect.cli.options import CheckOptions, Models, SweepOptions, TraceOptions, takes
from unetinspect.cli.output import Output
from unetinspect.cli.run import Passes, answer_models, note_pass, read_named, request_of, to_trace_again
from unetinspect.errors import UnetInspectError, UsageError
from unetinspect.record import SCHEMA, Check, Envelope, Source
from unetinspect.run.cache import Recorder
from unetinspect.source import LoadedModel
from unetinspect.source.parse import key_lines, read_file
from unetinspect.source.place import is_file_name, is_weights
from unetinspect.streams import print_answer
from unetinspect.unets.request import make_request, parse_bytes, parse_counts, parse_sizes

_FOUND = 1


@takes(SweepOptions)
def sweep(options: SweepOptions, models: Models = None) -> None:
    """unetinspect sweep sd15 --res 256,512,768x512
    unetinspect sweep sdxl --res 1024 --batch 1,2,4 --dtype float16
    unetinspect sweep sd15 bk-sdm-tiny --format csv
    unetinspect sweep sdxl --training --gradient-checkpointing --fit 24GiB
    """
    from unetinspect.run.sweep import sweep as run_sweep
    from unetinspect.views.costs import sweep_table

    output = Output(options)
    res, latent = parse_sizes(options.res, option="--res"), parse_sizes(options.latent, option="--latent")
    if res and latent:
        make_request(res=res[0], latent=latent[0])  # which refuses both
    if options.fit and options.batch:
        raise UsageError("--fit and --batch exclude each other", hint="--fit finds the largest batch")
    fit = parse_bytes(options.fit, option="--fit")
    batch = parse_counts(options.batch or ["1"], option="--batch")
    passes = Passes(options, output)

    def answer(model: LoadedModel) -> int:
        with passes.recorder(model) as recorder:
            points, record = run_sweep(
                recorder.record, passes.request, res=res, latent=latent, batch=batch, attached=passes.attached, fit=fit
            )
        if record is not None:
            note_pass(record, recorder.model, output)
        info = recorder.info if record is None else record.model
        output.show(sweep_table(info, points, record), Envelope(schema=SCHEMA, model=info, sweep=points))
        return 0

    answer_models(options, models or [], output, answer)


@takes(TraceOptions)
def profile(
    options: TraceOptions,
    compile: Annotated[bool, typer.Option("--compile", help="Compile each stage with torch.compile")] = False,
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Use the channels_last memory format")] = False,
    attention: Annotated[
        Literal["sdpa", "math", "slicing"],
        typer.Option(metavar="NAME", help="sdpa (torch's fused attention), math (unfused) or slicing"),
    ] = "sdpa",
    repeats: Annotated[int, typer.Option(min=1, metavar="N", help="Timed passes")] = 20,
    warmup: Annotated[int, typer.Option(min=1, metavar="N", help="Passes before them")] = 5,
) -> None:
    """unetinspect profile sd15 --res 768 --batch 2
    unetinspect profile sdxl --dtype float16 --compile
    """
    output = Output(options)
    device = request_of(options).device
    from unetinspect.profile.timing import cuda_device
    from unetinspect.views.costs import profile_table

    cuda_device(device)  # before anything is read: without a device, nothing else matters
    passes = Passes(options, output)
    read = read_named(options, output, options.model)
    model = to_trace_again(read)
    if read.trace is not None:
        output.note("the saved trace's config is profiled, with these options only")
    with output.progress() as say:  # not while passes are timed: showing it takes time of the same processor
        say("importing torch and diffusers")
        from unetinspect.profile.profiling import ProfileOptions, profile_model
    if compile:
        output.note("the first pass compiles each stage, which can take minutes")
    how = ProfileOptions(
        compile=compile, channels_last=channels_last, attention=attention, repeats=repeats, warmup=warmup, force=options.force
    )
    record, measured = profile_model(model, passes.request, passes.overrides, how, passes.attached)
    note_pass(record, model, output)
    output.show(profile_table(record, measured), Envelope.of(record, stages=record.stages, profile=measured))


@takes(CheckOptions)
def check(
    options: CheckOptions,
    models: Models = None,
    weights: Annotated[
        str | None, typer.Option(metavar="FILE|ID", help="Check a checkpoint against the UNet; only its header is read")
    ] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Expect a value in the record: skips=12, 'params<=900M'; may be given several times"),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Explain the config keys with misleading names")] = False,
    output_format: Annotated[
        Literal["github"] | None,
        typer.Option(metavar="github", help="Print findings as annotations of GitHub Actions"),
    ] = None,
) -> None:
    """unetinspect check ddpm-cat-256 --res 100,256
    unetinspect check mine.yaml --weights mine.safetensors
    unetinspect check 'configs/*.yaml' --expect skips=12 --expect 'params<=900M'
    """
    from unetinspect.checking.expected import parse_expected
    from unetinspect.views.checks import check_table, github_annotations, github_error

    output = Output(options, *(("txt",) if output_format else ()), what=f"--output-format {output_format}")
    res, latent = parse_sizes(options.res, option="--res"), parse_sizes(options.latent, option="--latent")
    expected = [parse_expected(text) for text in expect or ()]
    if options.attached is not None:
        raise UsageError("check does not support --with", hint=f"`unetinspect ports {options.model} --with {options.attached}` does")
    passes = Passes(options, output)
    sized = [*(replace(passes.request, res=size) for size in res), *(replace(passes.request, latent=size) for size in latent)]
    requests = sized or [passes.request]
    given = None
    if weights is not None:
        from unetinspect.source.read import read_weights

        given = read_weights(weights, token=options.token, offline=options.offline)
        output.note(*given.notes)

    def answer(model: LoadedModel) -> int:
        own = given or model.weights  # a checkpoint as MODEL is compared with the UNet that its own header describes
        model = replace(to_trace_again(model), weights=None)
        with output.progress() as say:
            recorder = Recorder(passes.cache, model, passes.overrides, force=options.force, say=say)

            def run() -> Envelope:
                say("importing torch and diffusers")
                from unetinspect.checking.model import check_model

                return check_model(recorder, requests, weights=own, expected=expected)

            found = recorder.answer(("check", requests, own, expected), run)
        if found.run is not UNSET:
            output.note(*(note for note in found.run.notes if note not in model.notes))
        result = cast(Check, found.check)
        name = output.label or model.name
        if output_format is None:
            output.show(check_table(found.model, result, name=name, explain=explain), found)
        else:
            file = _config_file(model.source)
            lines = key_lines(read_file(Path(file))) if file else {}
            output.write("\n".join([*github_annotations(name, result, file=file, lines=lines), ""]))
        return 0 if result.clean else _FOUND

    def failed(place: str, error: UnetInspectError) -> None:
        if output_format is not None:
            line = re.search(r"at line (\d+)", error.message)
            file = place if os.path.isfile(place) else ""  # noqa: PTH113  Path.is_file raises for a text that is too long to be a name
            print_answer(github_error(error.message, file=file, line=int(line[1]) if line else None) + "\n")

    answer_models(options, models or [], output, answer, failed=failed)


def _config_file(source: Source) -> str:
    """Return the file that a config was read from; "": it was not read from a text on this machine."""
    path = Path(source.location, source.subfolder or "", "config.json") if source.kind == "folder" else Path(source.location)
    return str(path) if source.kind in ("file", "folder", "trace") and is_file_name(path.name) and not is_weights(path.name) else ""
