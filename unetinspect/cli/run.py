"""From options to answers: read the models, check the request, and only then import torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import typer

from unetinspect.cli.options import ModelOptions, PassOptions
from unetinspect.cli.output import Output
from unetinspect.errors import SourceError, UnetInspectError, UsageError
from unetinspect.record import ModelInfo, Trace
from unetinspect.run.cache import Recorder, open_cache
from unetinspect.source import LoadedModel, read_model
from unetinspect.source.parse import parse_value
from unetinspect.source.read import models_at
from unetinspect.streams import OutputError, print_error
from unetinspect.unets.request import Request, make_request
from unetinspect.unets.unknown_keys import explain_key

_LONGEST_SHOWN = 80
_FAILED = 2  # exit codes from here on: there is no answer


class Passes:
    """Runs the forward passes that a command's options ask for, of one model or of several.

    Attributes:
        request: The options that decide a pass.
        overrides: The config keys that are overridden.
        attached: The model that `--with` names, or None.
        cache: The cache of records, or None.
    """

    def __init__(self, options: PassOptions, output: Output) -> None:
        self.request = request_of(options)
        self.overrides = parse_overrides(options.overrides)
        self.cache = open_cache(wanted=not options.no_cache)
        self._output = output
        self._force = options.force
        self.attached = None if options.attached is None else read_named(options, output, options.attached)

    @contextmanager
    def recorder(self, model: LoadedModel) -> Iterator[Recorder]:
        """Yield a recorder of a model, with its progress shown; a saved trace is traced again."""
        with self._output.progress() as say:
            yield Recorder(self.cache, to_trace_again(model), self.overrides, force=self._force, say=say)

    def trace(self, model: LoadedModel) -> Trace:
        """Return the trace of a model; a saved one as it is, unless the options ask for another pass."""
        if model.trace is not None:
            if self.request == make_request() and not self.overrides and self.attached is None:
                self._output.note(*model.trace.run.notes)
                return model.trace
            self._output.note("the saved trace's config is traced again, with these options only")
        with self.recorder(model) as recorder:
            record = recorder.record(self.request, self.attached)
        note_pass(record, recorder.model, self._output)
        return record


def answer_models(
    options: ModelOptions,
    names: Sequence[str],
    output: Output,
    answer: Callable[[LoadedModel], int],
    *,
    failed: Callable[[str, UnetInspectError], None] = lambda name, error: None,
) -> None:
    """Answer for one model, or for each of several; all are read before the first is run. If one fails, the others go on.

    `answer` prints, and returns an exit code. The error of a model that fails is printed, then `failed` is called with it.

    Raises:
        UsageError: Several are standard input.
        typer.Exit: With the exit code of the first that failed, or the highest of the answers, if that is not 0.
    """
    if names.count("-") > 1:
        raise UsageError("- (standard input) can be given only once", hint="save it to a file")
    places = [place for name in names for place in ([name] if options.subfolder else models_at(name, output.note))]
    several = len(places) > 1
    models, codes = list[tuple[str, LoadedModel]](), [0]

    def report(error: UnetInspectError, place: str, label: str = "") -> None:
        print_error(label + error.message, error.hint)
        failed(place, error)
        codes.append(error.exit_code)

    for place in places:
        try:
            models.append((place, _read(options, place)))
        except UnetInspectError as error:
            report(error, place)
    own = [model.name for _, model in models]
    labels = own if len(set(own)) == len(own) else [place for place, _ in models]  # two runs with the same name
    with output.several() if several and models else nullcontext():
        for label, (place, model) in zip(labels, models, strict=True):
            try:
                with output.labeled(label if several else None):
                    output.note(*model.notes)
                    codes.append(answer(model))
            except OutputError:
                raise
            except UnetInspectError as error:
                report(error, place, f"{label}: " if several else "")
    code = next((code for code in codes if code >= _FAILED), max(codes))
    if code:
        raise typer.Exit(code)


def request_of(options: PassOptions) -> Request:
    """Read the options that decide a pass; a size or batch that takes several values is left open."""
    given = {name: getattr(options, name) for name in Request.__struct_fields__ if hasattr(options, name)}
    return make_request(**{name: value for name, value in given.items() if not isinstance(value, list | None)})


def parse_overrides(pairs: Sequence[str] | None) -> dict[str, Any]:
    """Read `--set key=value`; a value is JSON or YAML: 3, true, null, [320, 640], text.

    Raises:
        UsageError: A pair has no "=", or its value cannot be read.
    """
    found: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        shown = pair if len(pair) <= _LONGEST_SHOWN else f"{pair[:_LONGEST_SHOWN]}..."
        if not equals or not key.strip():
            raise UsageError(f"--set {shown} is not KEY=VALUE", hint="--set cross_attention_dim=1024")
        found[key.strip()] = parse_value(value, what=f"--set {shown}", hint=f"write it as JSON: --set '{key.strip()}=[320, 640]'")
    return found


def note_pass(record: Trace, model: LoadedModel, output: Output) -> None:
    """Print the notes of a pass, except those that were printed when its model was read."""
    output.note(*unknown_keys(record.model, model.config), *(note for note in record.run.notes if note not in model.notes))


def unknown_keys(model: ModelInfo, given: Mapping[str, Any]) -> list[str]:
    """Describe the keys of the config, which was `given`, that the class does not have."""
    own = {key: value for key, value in model.config.items() if not key.startswith("_")}
    explained = [explain_key(key, own, given=given) for key in model.config_ignored]
    return [f"{unknown._replace(meant=None).sentence(model.class_name)} ({unknown.advice(given)})" for unknown in explained]


def trace_named(options: PassOptions, output: Output) -> Trace:
    """Read the model of a command that runs one pass, and trace it."""
    passes = Passes(options, output)
    return passes.trace(read_named(options, output, options.model))


def read_named(options: ModelOptions, output: Output, name: str) -> LoadedModel:
    """Read a model, and print its notes."""
    model = _read(options, name)
    output.note(*model.notes)
    return model


def read_first(options: ModelOptions, output: Output, second: str | None, *, command: str) -> LoadedModel:
    """Read the model of a command that takes another argument after it, and print its notes.

    Raises:
        SourceError: It cannot be read; without a second argument, the hint is that MODEL comes first.
    """
    try:
        return read_named(options, output, options.model)
    except SourceError as error:
        if second is not None:
            raise
        hint = f"{error.hint or ''}; put MODEL first: unetinspect {command} sd15 {options.model}".lstrip("; ")
        raise SourceError(error.message, hint=hint) from None


def _read(options: ModelOptions, name: str) -> LoadedModel:
    return read_model(name, **options.where, stdin=sys.stdin)


def to_trace_again(model: LoadedModel) -> LoadedModel:
    """Return the config of a saved trace, to be traced again; any other model as it is."""
    if model.trace is None:
        return model
    return LoadedModel.from_trace(model.trace)
