"""What reading a model brings: a config, where it came from, and what is known of its VAE."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from unetinspect.catalog import Entry
from unetinspect.checkpoint.header import Header
from unetinspect.record import Checkpoint, Medium, Source, Trace


class LoadedWeights(Struct, frozen=True, kw_only=True):
    """A checkpoint of which the header was read.

    Attributes:
        header: Its tensors.
        checkpoint: What it is.
        source: Where it was found.
        notes: What the user should hear on stderr.
    """

    header: Header
    checkpoint: Checkpoint
    source: Source
    notes: tuple[str, ...] = ()


class LoadedModel(Struct, frozen=True, kw_only=True):
    """A model that was read, before anything is built.

    Attributes:
        name: What to call it in headers.
        config: The UNet's config as it was found, `_class_name` included.
        source: Where it was found.
        vae_scale_factor: Pixels per sample cell along one side, None where unknown.
        vae_scale_from: Where it was read ("vae/config.json", "catalog"), "" where unknown.
        medium: What the pixels make up, None where the class alone says it.
        notes: What the user should hear on stderr: a fallback that was taken, a copy from the cache.
        trace: The saved record, where that is what MODEL was; `config` is then its own.
        weights: The checkpoint, where that is what MODEL was; `config` is then what it tells, or what lies beside it.
    """

    name: str
    config: dict[str, Any]
    source: Source
    vae_scale_factor: int | float | None = None
    vae_scale_from: str = ""
    medium: Medium | None = None
    notes: tuple[str, ...] = ()
    trace: Trace | None = None
    weights: LoadedWeights | None = None

    @classmethod
    def from_trace(cls, trace: Trace) -> LoadedModel:
        """Return a record's model, to trace it again: its config as it was given, its name, its VAE scale factor."""
        model, run = trace.model, trace.run
        return cls(
            name=model.name,
            config=model.given_config,
            source=model.source,
            vae_scale_factor=run.vae_scale_factor,
            vae_scale_from=run.vae_scale_from,
            medium=run.medium,
        )

    def with_vae_of(self, entry: Entry | None) -> LoadedModel:
        """Return the model with what the catalog knows of its VAE, where its own files do not say it."""
        if entry is None or self.vae_scale_factor is not None:
            return self
        factor = entry.vae_scale_factor
        return replace(self, vae_scale_factor=factor, vae_scale_from="" if factor is None else "catalog", medium=entry.medium)
