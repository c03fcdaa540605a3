"""From options to answers: read the models, check the request, and only then import torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer
from msgspec import UNSET, structs
from msgspec.structs import replace

from unetinspect.cli.options import CheckOptions, DiffOptions, ModelOptions, PassOptions, SweepOptions, TraceOptions
from unetinspect.cli.output import Output
from unetinspect.errors import ConfigError, UnetInspectError, UsageError
from unetinspect.record import Envelope, Fit, ModelInfo, SweepPoint, Trace
from unetinspect.run.cache import RecordCache, Recorder, open_cache
from unetinspect.run.sweep import sweep
from unetinspect.source import LoadedModel, read_model
from unetinspect.source.parse import parse_value
from unetinspect.streams import OutputError, print_error
from unetinspect.unets.request import Request, make_request, parse_counts, parse_sizes
from unetinspect.unets.unknown_keys import explain_key

_LONGEST_SHOWN = 80
_FAILED = 2  # exit codes from here on: nothing was answered


def answer_models(options: ModelOptions, more: Sequence[str] | None, output: Output, answer: Callable[[LoadedModel], int]) -> None:
    """Answer for MODEL, or for each of several one after another; every one is read before the first takes its time.

    `answer` prints, and returns an exit code.

    Raises:
        UsageError: Several come from standard input.
        typer.Exit: The exit code is not 0.
    """
    names = [options.model, *(more or ())]
    if names.count("-") > 1:
        raise UsageError(
            f"standard input is given for {names.count('-')} models, and can be read only once", hint="save it to a file, and give that"
        )
    models = [_read(options, name) for name in names]
    if len(models) == 1:
        output.note(*models[0].notes)
        code = answer(models[0])
    else:
        own = [model.name for model in models]
        labels = own if len(set(own)) == len(own) else names  # two runs of one name are told apart by what was typed
        with output.several():
            code = answer_each(list(zip(labels, models, strict=True)), output, lambda _, model: answer(model), failed=_say_failure)
    if code:
        raise typer.Exit(code)


def answer_each(
    models: Sequence[tuple[str, LoadedModel]],
    output: Output,
    answer: Callable[[str, LoadedModel], int],
    *,
    failed: Callable[[str, UnetInspectError], int],
) -> int:
    """Answer for one model after another, each under its label; where one fails, `failed` is told, and the others go on.

    Returns the exit code of the first that failed, or the highest of the answers.
    """
    codes = [0]
    for label, model in models:
        try:
            with output.about(label):
                output.note(*model.notes)
                codes.append(answer(label, model))
        except OutputError:
            raise
        except UnetInspectError as error:
            codes.append(failed(label, error))
    return next((code for code in codes if code >= _FAILED), max(codes))


def _say_failure(label: str, error: UnetInspectError) -> int:
    print_error(f"{label}: {error.message}", error.hint)
    return error.exit_code


def sweeping(options: SweepOptions, output: Output) -> Callable[[LoadedModel], tuple[ModelInfo, tuple[SweepPoint, ...], Trace | None]]:
    """Return what gives, of a model: what a record says of it, what a pass at each size and batch cost, the record of the last that ran."""
    res, latent = parse_sizes(options.res, option="--res"), parse_sizes(options.latent, option="--latent")
    if res and latent:
        make_request(res=res[0], latent=latent[0])  # which refuses both
    batch = parse_counts(options.batch or ["1"], option="--batch")
    request, overrides = request_of(options), parse_overrides(options.overrides or [])
    plugged = read_plugged(options, output)
    kept = open_cache(wanted=not options.no_cache)

    def run(model: LoadedModel) -> tuple[ModelInfo, tuple[SweepPoint, ...], Trace | None]:
        model = to_trace_again(model)
        with output.progress() as say:
            recorder = Recorder(kept, model, overrides, force=options.force, say=say)
            points, record = sweep(recorder, request, res=res, latent=latent, batch=batch, plugged=plugged)
        if record is None:
            return recorder.info, points, None
        note_pass(record, model, output)
        return record.model, points, record

    return run


def checking(options: CheckOptions, output: Output, *, weights: str | None, expect: Sequence[str]) -> Callable[[LoadedModel], Envelope]:
    """Return what finds what is wrong with a model: with its config, at each size, with a checkpoint, with what is expected of it."""
    res, latent = parse_sizes(options.res, option="--res"), parse_sizes(options.latent, option="--latent")
    request, overrides = request_of(options), parse_overrides(options.overrides or [])
    expected = parse_pairs(expect, option="--expect", example="attention.cross=16")
    if options.plugged:
        raise UsageError(
            "--with: check looks at one UNet", hint=f"`unetinspect ports {options.model} --with {options.plugged[0]}` says what fits"
        )
    requests = [*(replace(request, res=size) for size in res), *(replace(request, latent=size) for size in latent)] or [request]
    given = None
    if weights is not None:
        from unetinspect.source.read import read_weights

        given = read_weights(weights, token=options.token, offline=options.offline)
        output.note(*given.notes)
    kept = open_cache(wanted=not options.no_cache)

    def run(model: LoadedModel) -> Envelope:
        model = to_trace_again(model)
        held = given or model.weights  # a checkpoint as MODEL is held against the UNet that its own header tells
        with output.progress() as say:
            recorder = Recorder(kept, replace(model, weights=None), overrides, force=options.force, say=say)

            def check() -> Envelope:
                say("importing torch and diffusers")
                from unetinspect.check.model import check_model

                return check_model(recorder, requests, weights=held, expected=expected)

            found = recorder.answer(("check", requests, held, expected), check)
        if found.run is not UNSET:
            output.note(*(note for note in found.run.notes if note not in model.notes))
        return found

    return run


def traced(options: TraceOptions, output: Output) -> Trace:
    """Return the trace that the options ask for; a saved one as it is, unless they ask for another pass."""
    run = tracing(options, output)
    return run(read_named(options, output, options.model))


def tracing(options: TraceOptions, output: Output) -> Callable[[LoadedModel], Trace]:
    """Return what gives the trace of a model that the options ask for; a saved one as it is, unless they ask for another pass."""
    request = request_of(options)
    plugged = read_plugged(options, output)
    overrides = parse_overrides(options.overrides or [])
    run = _passes(open_cache(wanted=not options.no_cache), options, output)
    return lambda model: run(model, request, overrides, plugged)


def traced_to_fit(options: TraceOptions, output: Output) -> tuple[Trace, Fit | None]:
    """Return the trace without what `--with` names, and how that would fit; None where it names nothing."""
    request = request_of(options)
    plugged = read_plugged(options, output)
    overrides = parse_overrides(options.overrides or [])
    kept = open_cache(wanted=not options.no_cache)
    record = _passes(kept, options, output)(read_named(options, output, options.model), request, overrides, None)
    if plugged is None:
        return record, None
    from unetinspect.run.fit import find_fit, to_fit

    with output.progress() as say:
        recorder = Recorder(kept, plugged, say=say)
        given = recorder.record(to_fit(record.run, request, recorder.config.class_name, recorder.config.values))
    output.note(*(f"{given.model.name}: {note}" for note in given.run.notes if note not in plugged.notes))
    return record, find_fit(record, given)


def traced_pair(options: DiffOptions, output: Output, other: str | None, overrides: Sequence[str]) -> tuple[Trace, Trace]:
    """Return the traces of A and B; without B, those of A at two sizes, or with and without what `--set-b` overrides.

    Raises:
        UsageError: There is but one UNet to look at; an option is given more than two values; both come from standard input.
    """
    sizes = {name: _pair(getattr(options, name), option=f"--{name}") for name in ("res", "latent", "batch")}
    if other is None and not overrides and all(one == two for one, two in sizes.values()):
        hint = f"`unetinspect diff {options.model} sdxl`; two sizes of one: `unetinspect diff {options.model} --res 512,768`"
        raise UsageError("diff compares two UNets, and is given one", hint=hint)
    if options.model == "-" and other in (None, "-"):
        raise UsageError("standard input can be read once, and A and B are both -", hint="save it to a file, and name that")
    shared = {name: value for name, value in structs.asdict(options).items() if name not in sizes}

    def of(place: int, **own: Any) -> TraceOptions:
        size: dict[str, Any] = {name: pair[place] for name, pair in sizes.items()}
        return TraceOptions(**{**shared, **size, **own, "batch": parse_counts([size["batch"] or "1"], option="--batch")[0]})

    first, second = of(0), of(1, model=other or options.model, overrides=[*(options.overrides or []), *overrides])
    asked = [(request_of(side), parse_overrides(side.overrides or [])) for side in (first, second)]
    plugged = read_plugged(options, output)
    models = [read_named(side, output, side.model) for side in (first, second)]  # both, before the first of them takes its time
    run = _passes(open_cache(wanted=not options.no_cache), options, output)
    one, two = (run(model, request, overrides, plugged) for model, (request, overrides) in zip(models, asked, strict=True))
    return one, two


def _pair(given: str | None, *, option: str) -> tuple[str | None, str | None]:
    values = (given or "").split(",")
    if len(values) > 2:
        raise UsageError(
            f"{option} {given}: diff looks at two UNets, and {len(values)} values are given", hint=f"{option} {values[0]},{values[1]}"
        )
    return (values[0] or None, values[-1] or None)


def _passes(
    kept: RecordCache | None, options: PassOptions, output: Output
) -> Callable[[LoadedModel, Request, dict[str, Any], LoadedModel | None], Trace]:
    """Return what runs a pass of a model, or takes its record."""

    def run(model: LoadedModel, request: Request, overrides: dict[str, Any], plugged: LoadedModel | None) -> Trace:
        if model.trace is not None:
            if request == make_request() and not overrides and plugged is None:
                output.note(*model.trace.run.notes)
                return model.trace
            model = to_trace_again(model)
            output.note("the options ask for another pass: the config in the saved trace is traced again, with these options alone")
        with output.progress() as say:
            record = Recorder(kept, model, overrides, force=options.force, say=say).record(request, plugged)
        note_pass(record, model, output)
        return record

    return run


def trace_found(places: Sequence[str], output: Output, take: Callable[[str, Trace], None], *, cache: bool) -> None:
    """Trace each UNet whose config is found in folders; `take` is given the config's path and the trace. A note says which cannot be.

    Raises:
        SourceError: There is no such folder, or no UNet config in it.
        ConfigError: None of the configs can be traced.
    """
    from unetinspect.source.search import find_models

    models = dict(found for place in places for found in find_models(place, output.note))
    kept = open_cache(wanted=cache)

    failures = []

    def answer(path: str, model: LoadedModel) -> int:
        with output.progress() as say:
            record = Recorder(kept, model, say=say).record(make_request())
        take(path, record)
        return 0

    def failed(path: str, error: UnetInspectError) -> int:
        output.note(f"{path}: not traced: {' '.join(error.message.split())}")
        failures.append(path)
        return 0

    answer_each(list(models.items()), output, answer, failed=failed)
    if len(failures) == len(models):
        raise ConfigError(
            f"none of the UNet configs in {', '.join(places)} can be traced", hint=f"`unetinspect check {failures[0]}` says what is wrong"
        )


def configured(options: ModelOptions, output: Output) -> ModelInfo:
    """Return the model with its whole config."""
    overrides = parse_overrides(options.overrides or [])
    model = read_named(options, output, options.model)
    if model.trace is not None and not overrides:
        return model.trace.model
    with output.progress() as say:
        recorder = Recorder(open_cache(wanted=True), model, overrides, say=say)
        info = recorder.info
    output.note(*recorder.config.notes)
    return info


def parse_overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """Read `--set key=value`, as `parse_pairs` does."""
    return parse_pairs(pairs, option="--set", example="cross_attention_dim=1024")


def parse_pairs(pairs: Sequence[str], *, option: str, example: str) -> dict[str, Any]:
    """Read key=value; a value is JSON or YAML: 3, true, null, [320, 640], text.

    Raises:
        UsageError: A pair has no "=", or its value cannot be read.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        shown = pair if len(pair) <= _LONGEST_SHOWN else f"{pair[:_LONGEST_SHOWN]}..."
        if not equals or not key.strip():
            raise UsageError(f"{option} {shown} is no key=value", hint=f"{option} {example}")
        found[key.strip()] = parse_value(value, what=f"{option} {shown}", hint=f"write it as JSON: {option} '{key.strip()}=[320, 640]'")
    return found


def note_pass(record: Trace, model: LoadedModel, output: Output) -> None:
    """Say what a reader should know of a pass, but for what was said when its model was read."""
    output.note(*ignored_keys(record.model), *(note for note in record.run.notes if note not in model.notes))


def ignored_keys(model: ModelInfo) -> list[str]:
    """Say which keys of the config the class does not know, with the nearest that it does."""
    if not model.config_ignored:
        return []
    unknown = [explain_key(key, model.config) for key in model.config_ignored]
    shown = [f"{each.key} (did you mean {each.meant}?)" if each.meant else each.key for each in unknown]
    return [f"ignored, because {model.class_name} does not know them: {', '.join(shown)}"]


def read_named(options: ModelOptions, output: Output, name: str) -> LoadedModel:
    """Read a model, MODEL itself or what `--with` names, and say the notes that its reading brought."""
    model = _read(options, name)
    output.note(*model.notes)
    return model


def _read(options: ModelOptions, name: str) -> LoadedModel:
    return read_model(
        name,
        revision=options.revision,
        subfolder=options.subfolder,
        token=options.token,
        offline=options.offline,
        stdin=sys.stdin,
    )


def to_trace_again(model: LoadedModel) -> LoadedModel:
    """Take a saved trace as its config; what else was read stays as it is."""
    if model.trace is None:
        return model
    from unetinspect.api import loaded_trace

    return loaded_trace(model.trace)


def read_plugged(options: PassOptions, output: Output) -> LoadedModel | None:
    """Read what `--with` names; None where it names nothing.

    Raises:
        UsageError: It names several.
    """
    names = options.plugged or []
    if len(names) > 1:
        raise UsageError(f"--with is given {len(names)} times, and one thing is plugged in at a time", hint=f"--with {names[0]} alone")
    return read_named(options, output, names[0]) if names else None


def request_of(options: PassOptions) -> Request:
    """Read the options that decide a pass; those of a check leave its sizes open, those of a sweep its batches too."""
    own = ("res", "latent", "batch") if isinstance(options, TraceOptions) else ("batch",) if isinstance(options, CheckOptions) else ()
    sizes: dict[str, Any] = {name: getattr(options, name) for name in own}
    return make_request(
        **sizes,
        cfg=options.cfg,
        tokens=options.tokens,
        frames=options.frames,
        device=options.device,
        dtype=options.dtype,
        vae_scale=options.vae_scale,
        freeu=options.freeu,
    )
