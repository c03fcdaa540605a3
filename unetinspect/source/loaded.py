"""What reading a model gives: a config, where it was found, and what is known of its VAE."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from unetinspect.catalog import Entry, PipelineSize, find_hub_id, load_catalog
from unetinspect.checkpoint.safetensors_header import Header
from unetinspect.errors import SourceError
from unetinspect.record import Checkpoint, Medium, Source, Trace

# What to do with a file that goes with a UNet, by its content.
_FULL_CONTROLNET = "diffusers cannot load it; give a full ControlNet, such as controlnet-canny-sdxl"
_GOES_WITH = {
    "lora": "`unetinspect check MODEL --weights FILE` compares a LoRA with a UNet",
    "ip_adapter": "`unetinspect ports MODEL --with FILE` checks whether an IP-Adapter fits a UNet",
    "motion_adapter": "it becomes part of a UNet, with `UNetMotionModel.from_unet2d(unet, motion_adapter)`; see animatediff-sd15-v3",
    "control_lora": _FULL_CONTROLNET,
    "controlnet_lllite": _FULL_CONTROLNET,
}


class NoModelError(SourceError):
    """Raised when a file of weights is not that of a model; it has the weights."""

    weights: LoadedWeights


class LoadedWeights(Struct, frozen=True, kw_only=True):
    """A checkpoint whose header was read.

    Attributes:
        header: Its tensors.
        checkpoint: What it is.
        source: Where it was found.
        notes: What to say on stderr.
    """

    header: Header
    checkpoint: Checkpoint
    source: Source
    notes: tuple[str, ...] = ()

    def as_model(self, beside: LoadedModel | None = None) -> LoadedModel:
        """Return the model: with the config found `beside` the file, or else the one inferred from the header.

        Raises:
            NoModelError: It contains no UNet, or one whose config cannot be inferred.
        """
        found, name = self.checkpoint, self.source.location.rpartition("/")[2]
        if beside is not None:
            model = replace(beside, name=name, source=self.source, notes=(*self.notes, *beside.notes), weights=self)
        elif found.config is not None:
            notes = (*self.notes, "config inferred from tensor names and shapes", *found.untold[:1])
            model = LoadedModel(name=name, config=found.config, source=self.source, notes=notes, weights=self)
        else:
            error = NoModelError(
                f"cannot infer a UNet's config from the header of {self.source.location}: {found.summary}",
                hint=_GOES_WITH.get(
                    found.content, "`unetinspect identify` explains why; put the config.json beside it, or give that as MODEL"
                ),
            )
            error.weights = self
            raise error
        return model.with_pixels_of(load_catalog().get(found.models[0]) if found.models else None)


class LoadedModel(Struct, frozen=True, kw_only=True):
    """A model that was read, before anything is built.

    Attributes:
        name: What to call it in headers.
        config: The UNet's config as it was found, `_class_name` included.
        source: Where it was found.
        vae_scale_factor: Pixels per sample cell along one side; None: unknown.
        vae_scale_from: Where the factor was read ("vae/config.json", "catalog"); "": unknown.
        medium: What the pixels form; None: the class alone decides it.
        default_size: What its pipeline makes by default; None: what the config says.
        notes: What to say on stderr: a fallback, a copy from the cache.
        trace: The saved record, if MODEL was one; `config` is its config.
        weights: The checkpoint, if MODEL was one; `config` is inferred from it or was found beside it.
    """

    name: str
    config: dict[str, Any]
    source: Source
    vae_scale_factor: int | float | None = None
    vae_scale_from: str = ""
    medium: Medium | None = None
    default_size: PipelineSize | None = None
    notes: tuple[str, ...] = ()
    trace: Trace | None = None
    weights: LoadedWeights | None = None

    @classmethod
    def from_trace(cls, trace: Trace) -> LoadedModel:
        """Return a record's model, to trace it again: its config as it was given, its name, its VAE scale factor."""
        model, run, source = trace.model, trace.run, trace.model.source
        known = find_hub_id(source.location, source.subfolder or "") if source.kind in ("catalog", "hub") else None
        return cls(
            name=model.name,
            config=model.given_config,
            source=source,
            vae_scale_factor=run.vae_scale_factor,
            vae_scale_from=run.vae_scale_from,
            medium=run.medium,
            default_size=known[0].default_size if known else None,
        )

    def with_pixels_of(self, entry: Entry | None) -> LoadedModel:
        """Return the model with what the catalog knows of its pixels; of a VAE scale factor in its own files, that."""
        if entry is None:
            return self
        model, factor = replace(self, medium=entry.medium, default_size=entry.default_size), entry.vae_scale_factor
        if self.vae_scale_factor is not None:
            return model
        return replace(model, vae_scale_factor=factor, vae_scale_from="" if factor is None else "catalog")
