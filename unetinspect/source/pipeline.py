"""Which files of a pipeline hold the UNet and the VAE: the same search in a folder and in a hub repository."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from posixpath import dirname, join
from typing import Any, Protocol

from msgspec import Struct

from unetinspect.errors import SourceError, UnetInspectError
from unetinspect.unets.registry import supported_classes

_OTHER_VAE_NAMES = ("vqvae", "movq")
_VAE_WIDTHS = ("block_out_channels", "encoder_block_out_channels", "down_block_out_channels")
_UNET_KEYS = {"block_out_channels", "down_block_types", "up_block_types"}
_MODELS_HINT = "UNets of these classes can be traced: {classes}; `unetinspect models` lists published ones"


class Configs(Protocol):
    """A place that holds the files of a pipeline.

    Attributes:
        name: What to call it in errors: a folder's path, a hub ID.
        is_local: Whether looking for a file that may be absent costs nothing.
    """

    name: str
    is_local: bool

    def read(self, path: str) -> dict[str, Any] | None:
        """Return the config at `path`, relative and with forward slashes; None where there is none."""


class FoundUnet(Struct, frozen=True, kw_only=True):
    """A UNet's config inside a pipeline; `folder` is "" where it lies at the root."""

    config: dict[str, Any]
    folder: str
    notes: tuple[str, ...] = ()


class FoundVae(Struct, frozen=True, kw_only=True):
    """What the pipeline says of its VAE: pixels per sample cell, and the file that says so."""

    factor: int | None = None
    read_from: str = ""
    notes: tuple[str, ...] = ()


class NoUnetError(SourceError):
    """Raised when a pipeline was read and holds no UNet that can be traced."""


def find_unet(configs: Configs, folder: str | None) -> FoundUnet:
    """Return the UNet of a pipeline; `folder` None: wherever it is, "": the root's own config.

    Raises:
        NoUnetError: There is none; the message names what there is.
    """
    if folder is None:
        found = _search(configs, "")
    else:
        config = configs.read(join(folder, "config.json"))
        found = FoundUnet(config=config, folder=folder) if config is not None else _search(configs, folder)
    return _with_class(configs, found)


def find_vae(configs: Configs, unet_folder: str) -> FoundVae:
    """Return what the VAE beside the UNet says: each of its levels but the first halves the sides."""
    try:
        for path in _vae_paths(configs, dirname(unet_folder)):
            config = configs.read(path)
            if config is not None:
                factor = _factor_of(config)
                return FoundVae(factor=factor, read_from="/".join(path.split("/")[-2:]) if factor else "")
    except UnetInspectError as error:
        return FoundVae(notes=(f"VAE scale factor unknown: {error.message}",))
    return FoundVae()


def _vae_paths(configs: Configs, root: str) -> Iterator[str]:
    """Yield where a VAE's config may lie, most likely first."""
    yield join(root, "vae/config.json")
    # Asked late: a repository with a vae/config.json is known without its index.
    index = configs.read(join(root, "model_index.json"))
    for name in _OTHER_VAE_NAMES:
        if configs.is_local if index is None else _class_in(index, name):
            yield join(root, name, "config.json")


def pipeline_classes(index: Mapping[str, Any]) -> dict[str, str]:
    """Return the class of each component that a model_index.json names, those left out of the pipeline not.

    >>> pipeline_classes({"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"], "vae": [None, None]})
    {'unet': 'UNet2DModel'}
    """
    return {name: class_name for name in index if (class_name := _class_in(index, name)) is not None}


def _search(configs: Configs, root: str) -> FoundUnet:
    unet = configs.read(join(root, "unet/config.json"))
    if unet is not None:
        return FoundUnet(config=unet, folder=join(root, "unet"))
    own = configs.read(join(root, "config.json"))
    if own is not None and own.get("_class_name") in supported_classes():
        return FoundUnet(config=own, folder=root)
    index = configs.read(join(root, "model_index.json"))
    found = None if index is None else _component(configs, root, index)
    if found is not None:
        return found
    if own is not None and "_class_name" not in own and own.keys() & _UNET_KEYS:
        return FoundUnet(config=own, folder=root)
    raise NoUnetError(_what_is_there(configs.name, root, own, index), hint=_MODELS_HINT.format(classes=", ".join(supported_classes())))


def _component(configs: Configs, root: str, index: Mapping[str, Any]) -> FoundUnet | None:
    names = [name for name, class_name in pipeline_classes(index).items() if class_name in supported_classes()]
    for name in names:
        config = configs.read(join(root, name, "config.json"))
        if config is not None:
            others = ", ".join(other for other in names if other != name)
            notes = (f"{configs.name} contains several UNets; this is {name}, for the others use --subfolder {others}",) if others else ()
            return FoundUnet(config=config, folder=join(root, name), notes=notes)
    return None


def _with_class(configs: Configs, found: FoundUnet) -> FoundUnet:
    if "_class_name" in found.config or not found.folder:
        return found
    root, name = dirname(found.folder), found.folder.rpartition("/")[2]
    class_name = _class_in(configs.read(join(root, "model_index.json")) or {}, name)
    if class_name is None:
        return found
    return FoundUnet(config={"_class_name": class_name, **found.config}, folder=found.folder, notes=found.notes)


def _class_in(index: Mapping[str, Any], name: str) -> str | None:
    match index.get(name):
        case [_, str(class_name)]:
            return class_name
    return None


def _factor_of(vae: Mapping[str, Any]) -> int | None:
    widths: list[Any] = next((vae[key] for key in _VAE_WIDTHS if isinstance(vae.get(key), list)), [])
    # More levels than this no image has; the power must stay a number that can be shown.
    return 2 ** (len(widths) - 1) if 1 <= len(widths) <= 16 else None


def _what_is_there(where: str, root: str, own: Mapping[str, Any] | None, index: Mapping[str, Any] | None) -> str:
    place = f"{where}/{root}" if root else where
    if index is not None:
        classes = pipeline_classes(index)
        unets = [name for name, class_name in classes.items() if class_name in supported_classes()]
        models = [f"`{name}` is {classes[name]}, and {name}/config.json is missing" for name in unets]
        models = models or [f"`{name}` is {class_name}" for name, class_name in classes.items() if _is_denoiser(index[name][0], class_name)]
        if models:
            return f"no UNet here: in {place}, {', '.join(models)}"
        return f"no UNet here: {place} is a {index.get('_class_name') or 'pipeline'}, and its model_index.json lists no UNet"
    if own is not None:
        kind = own.get("_class_name") or next(iter(_strings(own.get("architectures"))), None) or own.get("model_type")
        return f"no UNet here: the config.json of {place} is of {kind or 'a model that it does not name'}"
    return f"no UNet here: {place} has no unet/config.json, config.json or model_index.json"


def _is_denoiser(library: Any, class_name: str) -> bool:
    # Every diffusion pipeline has the others; naming them would not tell what stands in the UNet's place.
    others = ("Scheduler", "Autoencoder", "VQ", "SafetyChecker", "Adapter", "Processor")
    return library != "transformers" and not any(word in class_name for word in others)


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
