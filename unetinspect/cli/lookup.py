"""The commands that need no forward pass of a MODEL: identify, explain-error, config, models, maps, cache, schema."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import typer
from msgspec.structs import replace

from unetinspect.cli.options import Kinds, ModelOptions, OutputOptions, SourceOptions, Stages, TokensAt, catalog_names, takes
from unetinspect.cli.output import OF_NAMED, OF_TABLES, Output, is_folder, is_redirected
from unetinspect.cli.run import parse_overrides, read_named, unknown_keys
from unetinspect.errors import ConfigError, SourceError, UnetInspectError, UsageError, nearest_names
from unetinspect.record import SCHEMA, Envelope, Trace
from unetinspect.run.cache import RecordCache, Recorder, open_cache
from unetinspect.streams import reason, save_file
from unetinspect.units import plural

# Longer text is not an error message: the log of a whole training run is shorter.
_MAX_TEXT = 16 * 1024 * 1024


@takes(SourceOptions)
def identify(
    options: SourceOptions,
    files: Annotated[
        list[str], typer.Argument(metavar="FILE|ID...", help=".safetensors files or indexes, folders, globs in quotes, or hub IDs")
    ],
) -> None:
    """unetinspect identify v1-5-pruned-emaonly.safetensors
    unetinspect identify stabilityai/stable-diffusion-xl-base-1.0 --subfolder unet
    unetinspect identify models/loras
    """
    from unetinspect.source.read import checkpoints_at, read_weights
    from unetinspect.views.checks import checkpoint_table, checkpoints_table

    output = Output(options)
    if len(files) == 1 and (options.subfolder is not None or checkpoints_at(files[0], output.note) == files):
        found = read_weights(files[0], **options.where)
        output.note(*found.notes)
        output.show(checkpoint_table(found.checkpoint), found.checkpoint)
        return
    read, failed, unread_names = [], list[tuple[bool, UnetInspectError]](), dict[str, str]()
    for name in dict.fromkeys(name for file in files for name in checkpoints_at(file, output.note)):
        try:
            found = read_weights(name, **options.where)
        except UnetInspectError as error:
            failed.append((name in files, error))
            unread_names[name] = error.message.removeprefix(f"{name} ").removeprefix("is ")
        else:
            with output.labeled(name):
                output.note(*found.notes)
            read.append(found.checkpoint)
    # What was named must be read; of a folder, what can be.
    final = next((unread for was_named, unread in failed if was_named or not read), None)
    output.note(*(unread.message for _, unread in failed if unread is not final))
    if read:
        output.show(checkpoints_table(read, unread_names), read)
    if final is not None:
        raise final


@takes(OutputOptions)
def explain_error(
    options: OutputOptions,
    text: Annotated[list[str] | None, typer.Argument(metavar="TEXT|FILE", help="Error message, or a file with it [default: stdin]")] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", rich_help_panel="Output", help="Show all numbers, models and other causes")
    ] = False,
) -> None:
    """unetinspect explain-error 'mat1 and mat2 shapes cannot be multiplied (154x2048 and 768x320)'
    python train.py 2>&1 | unetinspect explain-error
    unetinspect explain-error train.log
    """
    from unetinspect.explain import explain_error as explain
    from unetinspect.views.checks import explanations_table

    output = Output(options)
    message = " ".join(text or ())
    if message in ("", "-"):
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError("no error message given", hint="give its text, or pipe it: python train.py 2>&1 | unetinspect explain-error")
        message = _read_text(sys.stdin)
    elif os.path.isfile(message):  # noqa: PTH113  Path.is_file raises for a text that is too long to be a name
        try:
            with Path(message).open("rb") as file:
                message = _read_text(file)
        except OSError as error:
            raise SourceError(f"{message} cannot be read: {reason(error)}", hint="check that you may read it") from None
    explanations = explain(message)
    output.show(explanations_table(explanations, verbose=verbose), explanations)


def _read_text(stream: IO[Any]) -> str:
    """Read what can be an error message from a stream of bytes, or of text over them."""
    text = getattr(stream, "buffer", stream).read(_MAX_TEXT)
    return text if isinstance(text, str) else text.decode("utf-8", "replace")


# From a record, diffusers builds a UNet of its own defaults, with only a warning.
_NOT_A_CONFIG = "is a record, not a config: save one with -o FILE.json"


@takes(ModelOptions)
def config(options: ModelOptions) -> None:
    """unetinspect config sd15
    unetinspect config sd15 --set layers_per_block=1 -o unet.json
    unetinspect config sdxl --json | jq .model.config.attention_head_dim
    """
    from unetinspect.catalog import find_entry
    from unetinspect.views.models import config_table

    output = Output(options, *OF_TABLES, "yaml")
    overrides = parse_overrides(options.overrides)
    read = read_named(options, output, options.model)
    if read.trace is not None and not overrides:
        model = read.trace.model
    else:
        with output.progress() as say:
            recorder = Recorder(open_cache(), read, overrides, say=say)
            model = recorder.built
        output.note(*recorder.config.notes)
    if output.form != "txt":
        output.note(*unknown_keys(model, read.config))
    entry = find_entry(model.name) if model.source.kind == "catalog" else None
    reconstructed = "reconstructed from code and similar models, not a verbatim copy of the published config"
    notes = [reconstructed] if model.source.confidence == "reconstructed" else []
    if output.decided_by.startswith("-o") and output.form in ("json", "yaml"):
        output.note(*notes)
        whole = {"_class_name": model.class_name, **model.config}  # a record of an earlier version has no `_class_name` in it
        if output.form == "json":
            output.write_json(whole)
            return
        import yaml

        output.write(yaml.safe_dump(whole, sort_keys=False, default_flow_style=None))
        return
    if output.form == "json" and output.path is not None:
        output.note(f"{output.path} {_NOT_A_CONFIG} without {output.decided_by}")
    elif output.form == "json" and is_redirected():
        output.note(f"this {_NOT_A_CONFIG}")
    notes = [*(entry.notes if entry is not None else ()), *notes]
    output.show(config_table(model, notes), Envelope(schema=SCHEMA, model=model))


@takes(OutputOptions)
def models(
    options: OutputOptions,
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Only models with this in name, family or title [default: all]", autocompletion=catalog_names),
    ] = None,
    family: Annotated[str | None, typer.Option("--family", metavar="NAME", help="Only this family, or that of this model")] = None,
    class_name: Annotated[str | None, typer.Option("--class", metavar="CLASS", help="Only models of this diffusers class")] = None,
    classes: Annotated[bool, typer.Option("--classes", help="List the supported classes instead")] = False,
    places: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="DIR|GLOB", help="List the UNets of a folder instead; may be given several times"),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Ignore the cache (with --from)")] = False,
) -> None:
    """unetinspect models
    unetinspect models sdxl
    unetinspect models --class UNet2DModel
    unetinspect models --from runs
    unetinspect models --classes
    """
    from unetinspect.catalog import find_entry, load_catalog
    from unetinspect.unets import builder_for, installed_classes
    from unetinspect.views import models as view

    output = Output(options, *OF_NAMED)
    others = [option for option, given in (("--from", places), ("--classes", classes)) if given]
    selecting = [option for option, given in (("NAME", name), ("--family", family), ("--class", class_name)) if given is not None]
    if len(others) + bool(selecting) > 1:
        first, second, *_ = *others, *selecting
        raise UsageError(f"{first} and {second} cannot be used together", hint="use one of them")
    if places:
        traced = _trace_found(places, output, cache=not no_cache)
        found = sorted((view.found_model(*one) for one in traced), key=lambda row: (row.class_name, row.path))
        output.show(view.found_table(found), view.FoundModels(models=tuple(found)))
        return
    entries = tuple(load_catalog().values())
    if classes:
        listed = view.list_classes([builder_for(name) for name in installed_classes()], entries)
        output.show(view.classes_table(listed.classes), listed)
        return
    called = find_entry(family or "")
    in_family = family or "" if called is None else called.family
    selected = tuple(entry for entry in entries if entry.matches(name or "", in_family, class_name))
    if not selected:
        wanted = [text for text in (name, family, class_name) if text is not None]
        families = list(dict.fromkeys(entry.family for entry in entries))
        if not any(entry.matches("", in_family, None) for entry in entries):
            nearest = dict.fromkeys((*nearest_names(in_family, families), *families))
            raise UsageError(f"no bundled model is of a family {family!r}", hint=f"families: {', '.join(nearest)}")
        known = [*families, *(known for entry in entries for known in (entry.name, *entry.aliases, entry.class_name))]
        close = [meant for text in wanted for meant in nearest_names(text, known, count=1) if meant.lower() != text.lower()]
        meant = f"did you mean {close[0]}? " if close else ""
        raise UsageError(f"no bundled model matches {', '.join(map(repr, wanted))}", hint=f"{meant}`unetinspect models` lists them all")
    output.show(view.models_table(selected), view.list_models(selected))


def _trace_found(places: Sequence[str], output: Output, *, cache: bool) -> list[tuple[str, Trace]]:
    """Trace every UNet whose config is found in folders; returns the paths and traces. Those that fail are noted.

    Raises:
        SourceError: A folder does not exist, or contains no UNet config.
        ConfigError: None of the configs can be traced.
    """
    from unetinspect.run.many import record_each
    from unetinspect.source.local import find_models

    models = dict(found for place in places for found in find_models(place, output.note))
    noted: dict[str, list[str]] = {}
    for path, model in models.items():
        for note in model.notes:
            noted.setdefault(note, []).append(path)
    for note, (first, *others) in noted.items():  # those of a sweep are alike
        output.note(f"{first}{f' and {len(others)} more' if others else ''}: {note}")
    with output.progress() as say:
        found = list(record_each(tuple(models.values()), open_cache(wanted=cache), say=say))
    traced = [(path, record) for path, record in zip(models, found, strict=True) if isinstance(record, Trace)]
    for path, record in zip(models, found, strict=True):
        if isinstance(record, UnetInspectError):
            output.note(f"{path}: not traced: {' '.join(record.message.split())}")
    if not traced:
        hint = f"`unetinspect check {next(iter(models))}` shows what is wrong"
        raise ConfigError(f"none of the UNet configs in {', '.join(places)} can be traced", hint=hint)
    return traced


@takes(OutputOptions)
def maps(
    options: OutputOptions,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What seen.save() wrote: a .safetensors or .npz file")],
    *,
    kind: Kinds = None,
    stage: Stages = None,
    tokens_at: TokensAt = None,
    layers: Annotated[list[str] | None, typer.Option("--layer", metavar="PATH,...", help="Only these layers [default: all]")] = None,
    tokens: Annotated[
        list[str] | None,
        typer.Option(
            "--token", metavar="WORD|N", help="Draw this word or token position; may be given several times [default: the prompt's words]"
        ),
    ] = None,
    prompt: Annotated[int | None, typer.Option(metavar="N", help="Draw the words of this prompt, from 0 [default: the only one]")] = None,
    image: Annotated[int | None, typer.Option(metavar="N", help="Draw the maps of this image, from 0 [default: the only one]")] = None,
) -> None:
    """unetinspect maps seen.safetensors
    unetinspect maps seen.safetensors --kind cross --tokens-at 16x16 -o maps.png
    unetinspect maps seen.safetensors --token zebra -o maps/
    """
    from unetinspect.capturing.captured import read_capture
    from unetinspect.views.captured import captures_tables

    folder = options.output if options.output is not None and is_folder(options.output) else None
    output = Output(options if folder is None else replace(options, output=None), *OF_TABLES, "png", "svg", what="maps")
    if folder is not None and output.decided_by:
        raise UsageError(f"{output.decided_by} and -o {folder} cannot be used together", hint="a folder is for pictures; leave out one")
    captures = read_capture(file)
    selected = dataclasses.replace(captures, maps=captures.select(kind, stage, tokens_at, layers))
    if folder is None and output.form not in ("png", "svg"):
        if (tokens, prompt, image) != (None, None, None):
            raise UsageError("--token, --prompt and --image decide what a picture shows", hint="add -o FILE.png")
        table, *more = captures_tables(captures, selected.maps)
        output.show(table, selected, *more)
        return
    from unetinspect.drawing.map_sheet import draw_maps, map_sheet

    rows = draw_maps(file, selected, tokens, prompt=prompt, image=image)
    if len(rows) < len(selected.maps):
        output.note(f"not drawn: {plural(len(selected.maps) - len(rows), 'map')} without a grid")
    if tokens is None and prompt is None and len({one for one in captures.prompts if one.words}) > 1:
        output.note("several prompts: tokens are numbered; --prompt N draws the words of one")
    if folder is None:
        output.write(map_sheet(rows, form=output.form))
        return
    try:
        Path(folder).mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot create {folder}: {reason(error)}", hint="choose a writable folder") from None
    for number, row in enumerate(rows):
        name = re.sub(r"[^\w.]", "_", row.seen.path)
        save_file(Path(folder, f"{number:0{len(str(len(rows)))}}.{name}.png"), map_sheet([row], form="png"))


@takes(OutputOptions)
def cache(
    options: OutputOptions,
    action: Annotated[Literal["info", "clear"], typer.Argument(metavar="ACTION", help="info or clear")] = "info",
) -> None:
    """unetinspect cache
    unetinspect cache clear
    """
    from unetinspect.units import format_bytes
    from unetinspect.views.table import Table

    output = Output(options)
    kept = RecordCache()
    removed = None
    if action == "clear":
        try:
            removed = kept.clear()
        except OSError as error:
            raise UsageError(f"cannot remove the records in {kept.folder}: {reason(error)}") from None
    info = replace(kept.info(), removed=removed)
    lines = [f"folder: {info.folder}"]
    if removed is None:
        lines.append(f"{plural(info.records, 'record')}, {format_bytes(info.bytes)} of at most {format_bytes(info.limit_bytes)}")
    else:
        lines.append(f"removed: {plural(removed, 'record')}")
    if not info.writable:
        lines.append("the folder is not writable, so nothing is cached (UNETINSPECT_CACHE names another)")
    output.show(Table(columns=(), rows=(), above=lines, records=(info,)), info)


@takes(OutputOptions)
def schema(options: OutputOptions) -> None:
    """unetinspect schema -o schema.json
    unetinspect schema | jq .title
    """
    from unetinspect.views.schema import json_schema

    output = Output(options, "json", "txt", what="schema")
    output.write_json(json_schema())
