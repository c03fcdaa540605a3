"""The commands that run no forward pass: config, models, schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from unetinspect.cli.options import ModelOptions, OutputOptions, takes
from unetinspect.cli.output import Output
from unetinspect.cli.run import configured, ignored_keys
from unetinspect.errors import UsageError
from unetinspect.record import SCHEMA, Envelope, to_json


@takes(ModelOptions)
def config(options: ModelOptions) -> None:
    """The resolved config, with the defaults that diffusers fills in.

    Example: unetinspect config sdxl --json | jq .model.config.attention_head_dim
    """
    from unetinspect.views.config import config_table

    output = Output(options)
    model = configured(options, output)
    if output.format != "table":
        output.note(*ignored_keys(model))
    output.show(config_table(model), Envelope(schema=SCHEMA, model=model))


@takes(OutputOptions)
def models(
    options: OutputOptions,
    classes: Annotated[bool, typer.Option("--classes", help="List the classes that can be traced instead.")] = False,
) -> None:
    """The bundled catalog: name, params, what it is; --classes: the supported classes."""
    from unetinspect.catalog import load_catalog
    from unetinspect.inputs import supported_classes
    from unetinspect.views.models import classes_table, list_classes, list_models, models_table

    output = Output(options)
    entries = tuple(load_catalog().values())
    if classes:
        output.show(classes_table(supported_classes(), entries), list_classes(supported_classes(), entries))
    else:
        output.show(models_table(entries), list_models(entries))


@takes(OutputOptions)
def schema(options: OutputOptions) -> None:
    """JSON Schema of everything that --json prints."""
    from unetinspect.views.schema import json_schema

    output = Output(options)
    if output.format not in ("table", "json"):
        raise UsageError(f"--format {output.format}: a schema is JSON", hint="leave --format out")
    output.write(to_json(json_schema()) + "\n")


COMMANDS: tuple[Callable[..., None], ...] = (config, models, schema)
