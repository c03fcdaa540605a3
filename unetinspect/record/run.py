"""What was run: the model, its source, and its forward pass."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from msgspec import Struct

Shape = tuple[int, ...]
Constant = bool | int | float | str | tuple[int, ...] | None
Medium = Literal["image", "video", "spectrogram", "signal"]
Confidence = Literal["verbatim", "reconstructed"]


def channels_of(shape: Shape | None, sample_size: Shape) -> int | None:
    """Return the channels of (batch, channels, ..., *space) or (batch, tokens, channels); None: it has none."""
    if shape is None or len(shape) < 2:
        return None
    return shape[1] if len(shape) >= 2 + len(sample_size) else shape[-1]


class Excerpt(Struct, frozen=True, kw_only=True):
    """A record that repeats fields of other records, `fields_of`; only its own fields are documented."""

    fields_of: ClassVar[tuple[type[Struct], ...]] = ()

    @classmethod
    def of(cls, *records: Struct, **fields: Any) -> Self:
        """Copy each field from the first record that has it, or take it from `fields`."""
        for record in records:
            for name in record.__struct_fields__:
                if name in cls.__struct_fields__:
                    fields.setdefault(name, getattr(record, name))
        return cls(**fields)


class Source(Struct, frozen=True, kw_only=True):
    """Where a model's config was read.

    Attributes:
        kind: "catalog", "file", "folder", "hub", "stdin", "trace", "dict" or "module".
        location: A path, hub ID or catalog name; for a module, its class.
        revision: The hub's commit, if known.
        subfolder: The folder inside the repository or folder that contains the config.
        confidence: Of a bundled config: "verbatim" as published, or "reconstructed" from code and similar models; None: not bundled.
    """

    kind: Literal["catalog", "file", "folder", "hub", "stdin", "trace", "dict", "module"]
    location: str
    revision: str | None = None
    subfolder: str | None = None
    confidence: Confidence | None = None


class ModelInfo(Struct, frozen=True, kw_only=True):
    """The UNet that was traced.

    Attributes:
        name: A catalog name, a hub ID, or the name of a file or class.
        class_name: The diffusers class.
        params: Parameters, each counted once even if shared; None if the UNet was not built.
        source: Where its config was read.
        config: The whole config, with its `_class_name` and the defaults that diffusers fills in: diffusers builds the UNet from it.
        config_defaults: The keys of `config` that were filled in.
        config_ignored: Given keys that the class does not have.
        config_overrides: The keys that were overridden.
        module: Where its class is imported from.
    """

    name: str
    class_name: str
    params: int | None
    source: Source
    config: dict[str, Any]
    config_defaults: tuple[str, ...] = ()
    config_ignored: tuple[str, ...] = ()
    config_overrides: tuple[str, ...] = ()
    module: str = "diffusers"

    @property
    def given_config(self) -> dict[str, Any]:
        """The config without what diffusers filled in: enough to build the UNet again."""
        whole = {"_class_name": self.class_name, **self.config}  # records of earlier versions have no `_class_name` in it
        return {key: value for key, value in whole.items() if key not in self.config_defaults}


class InputInfo(Struct, frozen=True, kw_only=True):
    """One argument of the forward pass.

    Attributes:
        name: The argument; a dotted one is inside a dict: "added_cond_kwargs.text_embeds".
        shape: Its shape; None if it is not a tensor.
        dtype: "float32", "int64", ...; None if it is not a tensor.
        axes: The name of each axis of `shape`.
        config_key: The config keys that require the argument or decide its width; None: `forward` always needs it.
        value: The value that is passed if it is not a tensor.
    """

    name: str
    shape: Shape | None
    dtype: str | None
    axes: tuple[str, ...] = ()
    config_key: str | None = None
    value: Constant = None


class OutputInfo(Struct, frozen=True, kw_only=True):
    """One tensor that the forward pass returned.

    Attributes:
        name: Its place in the output: "sample", "down_block_res_samples.3"; "" is the whole output.
        shape: Its shape.
        dtype: Its dtype.
    """

    name: str
    shape: Shape
    dtype: str


class Run(Struct, frozen=True, kw_only=True):
    """How the forward pass was run.

    Attributes:
        device: "meta", "cpu" or "cuda:0".
        dtype: The dtype of the parameters and of the floating-point inputs.
        batch: The user's batch.
        cfg: Whether classifier-free guidance doubled the batch.
        cfg_reason: Why it did or did not.
        forward_batch: The batch of the UNet: `2 * batch` under CFG.
        medium: What `image_size` measures: an image, a frame of a video, a spectrogram (time x mel bins); a signal has none.
        image_size: (height, width) in pixels; None if the VAE factor is unknown, and for a signal.
        sample_size: (height, width) of `sample`; (length,) of a signal.
        sample_size_from: Where it comes from.
        vae_scale_factor: Pixels per sample cell along one side; 1 for a pixel UNet, None if unknown.
        vae_scale_from: Where it comes from.
        frames: Frames of a video; None: the class has none.
        frames_from: Where they come from.
        freeu: The factors b1, b2, s1, s2 of FreeU; None: off.
        plugged: The name of the attached ControlNet or T2I-Adapter, if any.
        inputs: Every argument, in the order of `forward`'s signature.
        versions: Of unetinspect, torch and diffusers.
        notes: What a reader should know about this pass.
    """

    device: str
    dtype: str
    batch: int
    cfg: bool
    cfg_reason: str
    forward_batch: int
    medium: Medium = "image"
    image_size: Shape | None
    sample_size: Shape
    sample_size_from: str
    vae_scale_factor: int | float | None
    vae_scale_from: str
    frames: int | None = None
    frames_from: str = ""
    freeu: tuple[float, float, float, float] | None = None
    plugged: str | None = None
    inputs: tuple[InputInfo, ...]
    versions: dict[str, str]
    notes: tuple[str, ...] = ()


class TensorInfo(Struct, frozen=True, kw_only=True):
    """A tensor's shape and dtype."""

    shape: Shape
    dtype: str
