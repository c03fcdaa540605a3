"""The commands that run no forward pass: config, models, cache, schema."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from msgspec.structs import replace

from unetinspect.cli.options import ModelOptions, OutputOptions, takes
from unetinspect.cli.output import Output
from unetinspect.cli.run import configured, ignored_keys, trace_found
from unetinspect.errors import UsageError
from unetinspect.record import SCHEMA, Envelope, ModelInfo


@takes(ModelOptions)
def config(options: ModelOptions) -> None:
    """Example: unetinspect config sdxl --json | jq .model.config.attention_head_dim"""
    from unetinspect.views.models import config_table

    output = Output(options)
    model = configured(options, output)
    if output.format != "table":
        output.note(*ignored_keys(model))
    output.show(config_table(model, _catalog_notes(model)), Envelope(schema=SCHEMA, model=model))


@takes(OutputOptions)
def models(
    options: OutputOptions,
    classes: Annotated[bool, typer.Option("--classes", help="List the classes that can be traced instead.")] = False,
    places: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="DIR|GLOB", help="List the UNets whose configs are in a folder instead; may be repeated."),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="With --from: trace afresh, and keep no records.")] = False,
) -> None:
    """Example: unetinspect models --from runs"""
    from unetinspect.catalog import load_catalog
    from unetinspect.unets import builder_for, supported_classes
    from unetinspect.views import models as view

    output = Output(options)
    if places and classes:
        raise UsageError("--from and --classes contradict each other", hint="give one of them")
    if places:
        found: list[view.FoundModel] = []
        trace_found(places, output, lambda path, record: found.append(view.found_model(path, record)), cache=not no_cache)
        found.sort(key=lambda row: (row.class_name, row.path))
        output.show(view.found_table(found), view.FoundModels(models=tuple(found)))
        return
    entries = tuple(load_catalog().values())
    if classes:
        builders = [builder_for(name) for name in supported_classes()]
        output.show(view.classes_table(builders, entries), view.list_classes(builders, entries))
    else:
        output.show(view.models_table(entries), view.list_models(entries))


@takes(OutputOptions)
def schema(options: OutputOptions) -> None:
    """Example: unetinspect schema -o schema.json"""
    from unetinspect.views.schema import json_schema

    output = Output(options)
    if output.format not in ("table", "json"):
        raise UsageError(f"--format {output.format}: a schema is JSON", hint="leave --format out")
    output.write_json(json_schema())


@takes(OutputOptions)
def cache(
    options: OutputOptions,
    action: Annotated[Literal["info", "clear"], typer.Argument(help="Show what is kept, or remove it.", show_default=True)] = "info",
) -> None:
    """Example: unetinspect cache clear"""
    from unetinspect.run.cache import RecordCache
    from unetinspect.views.models import cache_table

    output = Output(options)
    kept = RecordCache()
    removed = None
    if action == "clear":
        try:
            removed = kept.clear()
        except OSError as error:
            raise UsageError(f"cannot remove the records in {kept.folder}: {error.strerror or error}") from None
    info = replace(kept.info(), removed=removed)
    output.show(cache_table(info), info)


def _catalog_notes(model: ModelInfo) -> tuple[str, ...]:
    """Return what the catalog notes of a bundled config: what is special in it, and how sure it is."""
    from unetinspect.catalog import find_entry

    entry = find_entry(model.name) if model.source.kind == "catalog" else None
    if entry is None:
        return ()
    sure = () if entry.confidence == "verbatim" else ("reconstructed from code and siblings, not a verbatim copy of what was published",)
    return (*entry.notes, *sure)
