"""The bundled catalog of published UNets, read without torch.

The source is configs/*.yaml, one file per model. The program reads `catalog.jsonl`, one line per model, because reading YAML
takes longer than all the rest of a command; `make catalog` writes it, and a test compares the two.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from unetinspect.errors import nearest_names
from unetinspect.record import Confidence, Medium

CATALOG = Path(__file__).with_name("catalog.jsonl")


class HubLocation(Struct, frozen=True, kw_only=True):
    """A place on the model hub that has, or had, the config.

    Attributes:
        id: "org/name".
        subfolder: The folder of the config; None is the root.
        gone: What happened to it, if it no longer exists.
    """

    id: str
    subfolder: str | None = None
    gone: str | None = None


class Figure(Struct, frozen=True, kw_only=True):
    """A number that was published for the model, as it was written."""

    figure: str
    value: str
    source: str


class PipelineSize(Struct, frozen=True, kw_only=True):
    """The size that a model's pipeline makes by default, where it is not that of the config.

    Attributes:
        image: (height, width) in pixels.
        pipeline: The class of diffusers whose `__call__` has these defaults.
    """

    image: tuple[int, int]
    pipeline: str


class Entry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One published UNet.

    Attributes:
        name: The name to type.
        aliases: Other names to type.
        family: The family it belongs to.
        title: A few words on what it is.
        hub: Where it is published; the first is its current place.
        vae_scale_factor: VAE scale factor; 1 for a pixel UNet, null if there is nothing to scale.
        medium: What the pixels show, if not what they show for most UNets of the class.
        default_size: What the pipeline makes by default, if not what the config's `sample_size` says.
        read_from: Where the config was found.
        confidence: "verbatim" as published, or "reconstructed" from code and similar models.
        params: Parameters, counted on the built UNet.
        attention_layers: Attention layers, counted likewise.
        inference_bytes: Weights and the peak of activations of one pass in float32, at the model's own size.
        published: Published numbers.
        notes: Remarks on the config.
        config: The config itself.
    """

    name: str
    family: str
    title: str
    vae_scale_factor: int | float | None
    read_from: str
    confidence: Confidence
    params: int
    attention_layers: int
    inference_bytes: int
    config: dict[str, Any]
    medium: Medium | None = None
    default_size: PipelineSize | None = None
    aliases: tuple[str, ...] = ()
    hub: tuple[HubLocation, ...] = ()
    published: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def class_name(self) -> str:
        """The diffusers class."""
        return str(self.config["_class_name"])

    def matches(self, name: str, family: str, class_name: str | None) -> bool:
        """Whether a text is part of its name, family or title, another of its family, and a class its own; in any case."""
        is_named = any(name.lower() in text.lower() for text in (self.name, *self.aliases, self.family, self.title))
        return is_named and family.lower() in self.family.lower() and (class_name or self.class_name).lower() == self.class_name.lower()


@cache
def load_catalog() -> dict[str, Entry]:
    """Return every entry by its name, in the order of family and name."""
    entries = msgspec.json.Decoder(Entry).decode_lines(CATALOG.read_bytes())
    return {entry.name: entry for entry in entries}


def find_entry(name: str) -> Entry | None:
    """Return the entry with that name or alias, in any case, or None."""
    wanted = name.lower()
    return next((entry for entry in load_catalog().values() if wanted in map(str.lower, (entry.name, *entry.aliases))), None)


def find_hub_id(repo_id: str, folder: str | None = None) -> tuple[Entry, HubLocation] | None:
    """Return the entry that a hub ID belongs to, and its location there, or None.

    `folder` is the folder of the config ("" is the root), because a repository may contain several UNets; None is any.
    """
    for entry in load_catalog().values():
        for location in entry.hub:
            if location.id.lower() == repo_id.lower() and folder in (None, location.subfolder or ""):
                return entry, location
    return None


def nearest_entries(name: str) -> list[str]:
    """Return the catalog names that are most similar to `name`, best first."""
    names = {alias: entry.name for entry in load_catalog().values() for alias in (entry.name, *entry.aliases)}
    return list(dict.fromkeys(names[close] for close in nearest_names(name, names)))
