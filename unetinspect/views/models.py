"""The commands that run no pass: `models` (catalog, folder, classes), `config` and `cache`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from msgspec import Struct

from unetinspect.catalog import Entry, Figure, HubLocation, PipelineSize
from unetinspect.record import Confidence, ModelInfo, Run, Shape, Trace
from unetinspect.record.run import Excerpt
from unetinspect.unets import Builder
from unetinspect.units import format_bytes, format_count, format_si, format_size, plural
from unetinspect.views.header import header
from unetinspect.views.table import Column, Table

# About a page: laying out a cell of megabytes would take minutes.
_MOST_CHARACTERS = 4000


class ModelSummary(Excerpt, frozen=True, kw_only=True):
    """A bundled model, without its config."""

    fields_of: ClassVar = (Entry,)

    name: str
    aliases: tuple[str, ...]
    family: str
    title: str
    class_name: str
    params: int
    attention_layers: int
    inference_bytes: int | None = None
    vae_scale_factor: int | float | None
    default_size: PipelineSize | None = None
    hub: tuple[HubLocation, ...]
    read_from: str
    confidence: Confidence
    published: tuple[Figure, ...]
    notes: tuple[str, ...]


class ModelList(Struct, frozen=True, kw_only=True):
    """What `models --json` prints."""

    schema: Literal["unetinspect.models/1"] = "unetinspect.models/1"
    models: tuple[ModelSummary, ...]


class ClassSummary(Struct, frozen=True, kw_only=True):
    """A class that can be traced, and the bundled models of it.

    Attributes:
        class_name: The diffusers class.
        what: What it is, in a few words.
        plugs_into: The arguments of a UNet's forward that take its outputs; a UNet has none.
        models: The bundled models of this class.
    """

    class_name: str
    what: str
    plugs_into: tuple[str, ...]
    models: tuple[str, ...]


class ClassList(Struct, frozen=True, kw_only=True):
    """What `models --classes --json` prints."""

    schema: Literal["unetinspect.classes/1"] = "unetinspect.classes/1"
    classes: tuple[ClassSummary, ...]


class FoundModel(Excerpt, frozen=True, kw_only=True):
    """A UNet whose config was found in a folder, and one pass at its own size.

    Attributes:
        path: Its config.
        name: What its record calls it.
        attention_layers: Attention layers.
        skips: Skips that were consumed.
        macs: Multiply-accumulates of the pass.
        inference_bytes: Weights and the peak of activations.
    """

    fields_of: ClassVar = (ModelInfo, Run)

    path: str
    name: str
    class_name: str
    params: int
    attention_layers: int
    skips: int
    sample_size: Shape
    forward_batch: int
    macs: int | None
    inference_bytes: int | None = None


class FoundModels(Struct, frozen=True, kw_only=True):
    """What `models --from --json` prints."""

    schema: Literal["unetinspect.found/1"] = "unetinspect.found/1"
    models: tuple[FoundModel, ...]


def found_model(path: str, record: Trace) -> FoundModel:
    """Return the row of a UNet that was found, from its record."""
    totals = record.totals
    layers, skips = totals.attention.total, totals.skips.consumed
    return FoundModel.of(totals, record.model, record.run, path=path, attention_layers=layers, skips=skips)


def found_table(found: Sequence[FoundModel]) -> Table:
    """Show each UNet that was found, and one pass at its own size."""
    return Table(
        columns=(
            Column("config", lambda model: model.path, wrap=24, file=True),
            Column("class", lambda model: model.class_name, in_heading=True),
            Column("params", lambda model: format_count(model.params), right=True),
            Column("attn", lambda model: str(model.attention_layers), right=True),
            Column("skips", lambda model: str(model.skips), right=True, drop=1),
            Column("sample", lambda model: format_size(model.sample_size), right=True),
            Column("MACs", lambda model: format_si(model.macs), right=True),
            Column("memory", lambda model: format_bytes(model.inference_bytes), right=True),
        ),
        rows=found,
        name="path",
        group=lambda model: model.class_name,
        below=[
            f"{plural(len(found), 'model')}; MACs of one pass at the config's sample size (batch doubled under CFG)",
            "memory: weights + activations of that pass",
        ],
    )


def models_table(entries: Sequence[Entry]) -> Table:
    """Show each bundled model: its name, class, size and title; a mark says that its config is not a verbatim copy."""
    marks = {"verbatim": "", "reconstructed": " *"}
    reconstructed = sum(entry.confidence == "reconstructed" for entry in entries)
    return Table(
        columns=(
            Column("name", lambda entry: entry.name + marks[entry.confidence]),
            Column("params", lambda entry: format_count(entry.params), right=True),
            Column("memory", lambda entry: format_bytes(entry.inference_bytes), right=True, drop=1),
            Column("attn", lambda entry: str(entry.attention_layers), right=True, drop=2),
            Column("class", lambda entry: entry.class_name, in_heading=True),
            Column("family", lambda entry: entry.family, in_heading=True),
            Column("title", lambda entry: entry.title, wrap=30),
        ),
        rows=entries,
        group=lambda entry: f"{entry.family}: {entry.class_name}",
        below=[
            f"{plural(len(entries), 'model')}; a hub ID, a config file or a folder can be traced as well",
            *(
                [f"*: reconstructed from code and similar models ({reconstructed}); the others are verbatim copies"]
                if reconstructed
                else []
            ),
        ],
        legend={"memory": "weights + activations of one pass at the model's own size, in float32 (batch doubled under CFG)"},
        records=list_models(entries).models,
        name="name",
        computed={"hub": lambda entry: ", ".join(one.id + (" (gone)" if one.gone else "") for one in entry.hub)},
    )


def classes_table(classes: Sequence[ClassSummary]) -> Table:
    """Show each class that can be traced, its description, and the bundled models of that class."""
    return Table(
        columns=(
            Column("class", lambda row: row.class_name),
            Column("description", lambda row: row.what, wrap=24),
            Column("bundled models", lambda row: ", ".join(row.models) or "-", wrap=22, drop=1),
        ),
        rows=classes,
        name="class_name",
        below=[f"{len(classes)} classes, {sum(bool(row.plugs_into) for row in classes)} of them to attach to a UNet: --with"],
    )


def list_models(entries: Sequence[Entry]) -> ModelList:
    """Return what `models --json` prints."""
    return ModelList(models=tuple(ModelSummary.of(entry, class_name=entry.class_name) for entry in entries))


def list_classes(classes: Sequence[Builder], entries: Sequence[Entry]) -> ClassList:
    """Return what `models --classes --json` prints."""
    return ClassList(
        classes=tuple(
            ClassSummary(
                class_name=builder.class_name,
                what=builder.what,
                plugs_into=tuple(builder.plugs_into.values()),
                models=tuple(entry.name for entry in entries if entry.class_name == builder.class_name),
            )
            for builder in classes
        )
    )


def config_table(model: ModelInfo, notes: Sequence[str] = ()) -> Table:
    """Show each key with its value; below, keys that the class does not know, and the catalog's notes on the config."""
    filled = len(model.config_defaults)
    origins = dict.fromkeys(model.config_defaults, "default") | dict.fromkeys(model.config_overrides, "override")
    rows = [
        {"key": key, "value": json.dumps(value), "from": origins.get(key, "given")}
        for key, value in model.config.items()
        if not key.startswith("_")
    ]
    below = [f"{plural(len(rows) - filled, 'key')} given, {filled} filled in by diffusers"]
    if model.config_ignored:
        below.append(f"ignored (not a key of {model.class_name}): {', '.join(model.config_ignored)}")
    return Table(
        columns=(
            Column("key", lambda row: row["key"]),
            Column("value", lambda row: _shortened(model.config[row["key"]], row["value"]), wrap=24),
            Column("from", lambda row: row["from"]),
        ),
        rows=rows,
        above=header(model),
        below=[*below, *(f"note: {note}" for note in notes)],
    )


def _shortened(value: Any, text: str) -> str:
    """Return the JSON of a value; of a very long one, its length."""
    if len(text) <= _MOST_CHARACTERS:
        return text
    length = f"{len(value)} entries" if isinstance(value, list) else f"{len(text)} characters of JSON"
    return f"{length} (--json shows them)"
