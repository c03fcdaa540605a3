"""`models`: the bundled catalog, the UNets of a folder, and the classes that can be traced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from unetinspect.catalog import Entry, Figure, HubLocation
from unetinspect.record import Shape, Trace
from unetinspect.unets import Builder
from unetinspect.units import format_count, format_si, format_size, plural
from unetinspect.views.table import Column, Table


class ModelSummary(Struct, frozen=True, kw_only=True):
    """A bundled model, without its config; the fields are those of `catalog.Entry`."""

    name: str
    aliases: tuple[str, ...]
    family: str
    title: str
    class_name: str
    params: int
    attention_layers: int
    vae_scale_factor: int | float | None
    hub: tuple[HubLocation, ...]
    read_from: str
    confidence: Literal["verbatim", "reconstructed"]
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


class FoundModel(Struct, frozen=True, kw_only=True):
    """A UNet whose config was found in a folder, and what one pass at its own size is.

    Attributes:
        path: Its config.
        name: What its record calls it.
        class_name: The diffusers class.
        params: Parameters, each counted once.
        attention_layers: Attention layers.
        skips: Skips that were consumed.
        sample_size: (height, width) of `sample`, or (length,) of a signal.
        forward_batch: The batch of the pass: 2 under classifier-free guidance.
        macs: Multiply-accumulates of the pass.
    """

    path: str
    name: str
    class_name: str
    params: int
    attention_layers: int
    skips: int
    sample_size: Shape
    forward_batch: int
    macs: int | None


class FoundModels(Struct, frozen=True, kw_only=True):
    """What `models --from --json` prints."""

    schema: Literal["unetinspect.found/1"] = "unetinspect.found/1"
    models: tuple[FoundModel, ...]


def found_model(path: str, record: Trace) -> FoundModel:
    """Return what is listed of a UNet that was found, from its record."""
    return FoundModel(
        path=path,
        name=record.model.name,
        class_name=record.model.class_name,
        params=record.totals.params,
        attention_layers=record.totals.attention.total,
        skips=record.totals.skips.consumed,
        sample_size=record.run.sample_size,
        forward_batch=record.run.forward_batch,
        macs=record.totals.macs,
    )


def found_table(found: Sequence[FoundModel]) -> Table:
    """Show each UNet that was found, and what one pass at its own size is."""
    return Table(
        columns=(
            Column("config", lambda model: model.path),
            Column("class", lambda model: model.class_name, in_heading=True),
            Column("params", lambda model: format_count(model.params), right=True),
            Column("attn", lambda model: str(model.attention_layers), right=True),
            Column("skips", lambda model: str(model.skips), right=True, drop=1),
            Column("sample", lambda model: format_size(model.sample_size), right=True),
            Column("MACs", lambda model: format_si(model.macs), right=True),
        ),
        rows=found,
        group=lambda model: model.class_name,
        below=[f"{plural(len(found), 'model')}; MACs of one pass at the sample size, with the batch doubled under CFG"],
    )


def models_table(entries: Sequence[Entry]) -> Table:
    """Show each bundled model: what to type, its class, its size, what it is."""
    return Table(
        columns=(
            Column("name", lambda entry: entry.name),
            Column("params", lambda entry: format_count(entry.params), right=True),
            Column("attn", lambda entry: str(entry.attention_layers), right=True, drop=2),
            Column("class", lambda entry: entry.class_name, in_heading=True),
            Column("family", lambda entry: entry.family, in_heading=True),
            Column("what it is", lambda entry: entry.title, wrap=36),
        ),
        rows=entries,
        group=lambda entry: f"{entry.family}: {entry.class_name}",
        below=[f"{plural(len(entries), 'model')}; a hub ID, a config file or a folder can be traced as well"],
        records=[summarise(entry) for entry in entries],
    )


def classes_table(classes: Sequence[Builder], entries: Sequence[Entry]) -> Table:
    """Show each class that can be traced, what it is, and the bundled models of that class."""
    rows = list_classes(classes, entries).classes
    return Table(
        columns=(
            Column("class", lambda row: row.class_name),
            Column("what it is", lambda row: row.what, wrap=24),
            Column("bundled models", lambda row: ", ".join(row.models) or "-", wrap=22, drop=1),
        ),
        rows=rows,
        below=[f"{len(rows)} classes, {sum(bool(row.plugs_into) for row in rows)} of them to plug into a UNet: --with"],
    )


def list_models(entries: Sequence[Entry]) -> ModelList:
    """Return what `models --json` prints."""
    return ModelList(models=tuple(summarise(entry) for entry in entries))


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


def summarise(entry: Entry) -> ModelSummary:
    """Return an entry without its config."""
    fields = {name: getattr(entry, name) for name in ModelSummary.__struct_fields__}
    return ModelSummary(**fields)
