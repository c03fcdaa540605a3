"""Which files of a pipeline hold the UNet and the VAE: the same search in a folder and in a hub repository."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from posixpath import basename, dirname, join
from typing import Any

from unetinspect.errors import SourceError, UnetInspectError
from unetinspect.record import Source
from unetinspect.source.base import LoadedModel
from unetinspect.source.place import Place
from unetinspect.source.weight_files import INDEX_SUFFIX, is_weights
from unetinspect.unets import supported_classes

_OTHER_VAE_NAMES = ("vqvae", "movq")
_VAE_WIDTHS = ("block_out_channels", "encoder_block_out_channels", "down_block_out_channels")
_UNET_KEYS = {"block_out_channels", "down_block_types", "up_block_types"}
# Every diffusion pipeline has these; naming them would not tell what stands in the UNet's place.
_NO_DENOISERS = ("Scheduler", "Autoencoder", "VQ", "SafetyChecker", "Adapter", "Processor")


class NoUnetError(SourceError):
    """Raised when a pipeline was read and holds no UNet that can be traced."""


def find_model(place: Place, folder: str | None) -> LoadedModel:
    """Return the UNet of a pipeline; `folder` None: wherever it is, "": the root's own config.

    Raises:
        NoUnetError: There is none; the message names what there is.
    """
    notes: tuple[str, ...] = ()
    if folder is None or place.read(join(folder, "config.json")) is None:
        folder, others = _search(place, folder or "")
        if others:
            more = f"for the others use --subfolder {', '.join(others)}"
            notes = (f"{place.name} contains several UNets; this is {basename(folder)}, {more}",)
    config = place.read(join(folder, "config.json")) or {}
    if "_class_name" not in config and folder:
        index = place.read(join(dirname(folder), "model_index.json")) or {}
        class_name = _class_in(index, basename(folder))
        config = config if class_name is None else {"_class_name": class_name, **config}
    factor, read_from = None, ""
    try:
        read_from, vae = next(_vaes(place, dirname(folder)), ("", {}))
        factor = _factor_of(vae)
    except UnetInspectError as error:
        notes += (f"VAE scale factor unknown: {error.message}",)
    return LoadedModel(
        name=place.name,
        config=config,
        source=Source(kind="folder" if place.is_local else "hub", location=place.name, revision=place.commit, subfolder=folder or None),
        vae_scale_factor=factor,
        vae_scale_from=read_from if factor else "",
        notes=(*place.notes(without="the VAE's config"), *notes),
    )


def pipeline_classes(index: Mapping[str, Any]) -> dict[str, str]:
    """Return the class of each component that a model_index.json names, those left out of the pipeline not.

    >>> pipeline_classes({"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"], "vae": [None, None]})
    {'unet': 'UNet2DModel'}
    """
    return {name: class_name for name in index if (class_name := _class_in(index, name)) is not None}


def _class_in(index: Mapping[str, Any], name: str) -> str | None:
    match index.get(name):
        case [_, str(class_name)]:
            return class_name
    return None


def _search(place: Place, root: str) -> tuple[str, list[str]]:
    """Return the folder of the UNet's config, and the names of the other UNets of the pipeline."""
    if place.read(join(root, "unet/config.json")) is not None:
        return join(root, "unet"), []
    own = place.read(join(root, "config.json"))
    if own is not None and own.get("_class_name") in supported_classes():
        return root, []
    index = place.read(join(root, "model_index.json"))
    unets = [name for name, class_name in pipeline_classes(index or {}).items() if class_name in supported_classes()]
    found = next((name for name in unets if place.read(join(root, name, "config.json")) is not None), None)
    if found is not None:
        return join(root, found), [name for name in unets if name != found]
    if own is not None and "_class_name" not in own and own.keys() & _UNET_KEYS:
        return root, []
    raise place.doubt() or _no_unet(place, root, own, index)


def _no_unet(place: Place, root: str, own: Mapping[str, Any] | None, index: Mapping[str, Any] | None) -> NoUnetError:
    """Return the error that says what there is in place of a UNet, with the checkpoints that can be read instead."""
    files = sorted(filter(is_weights, place.files(root)), key=lambda path: (not path.endswith(INDEX_SUFFIX), path))
    if len(files) == 1:
        hint = f"it has a checkpoint, whose header is read: {place.address(files[0])}"
    elif files:
        hint = f"it has checkpoints, which are read by their headers: {place.address(files[0])} (and {len(files) - 1} more)"
    else:
        hint = f"UNets of these classes can be traced: {', '.join(supported_classes())}; `unetinspect models` lists published ones"
    return NoUnetError(f"no UNet here: {_what_is_there(f'{place.name}/{root}' if root else place.name, own, index)}", hint=hint)


def _what_is_there(where: str, own: Mapping[str, Any] | None, index: Mapping[str, Any] | None) -> str:
    if index is not None:
        classes = pipeline_classes(index)
        unets = [name for name, class_name in classes.items() if class_name in supported_classes()]
        others = [name for name in classes if index[name][0] != "transformers" and not any(word in classes[name] for word in _NO_DENOISERS)]
        models = [f"`{name}` is {classes[name]}" + (f", and {name}/config.json is missing" if unets else "") for name in unets or others]
        if models:
            return f"in {where}, {', '.join(models)}"
        return f"{where} is a {index.get('_class_name') or 'pipeline'}, and its model_index.json lists no UNet"
    if own is not None:
        architectures = own.get("architectures")
        first = next((name for name in architectures if isinstance(name, str)), None) if isinstance(architectures, list) else None
        return f"the config.json of {where} is of {own.get('_class_name') or first or own.get('model_type') or 'an unnamed model'}"
    return f"{where} has no unet/config.json, config.json or model_index.json"


def _vaes(place: Place, root: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the VAE's config, with its path in the pipeline, from where it may lie, most likely first."""
    if (config := place.read(join(root, "vae/config.json"))) is not None:
        yield "vae/config.json", config
    # Asked late: a repository with a vae/config.json is known without its index.
    index = place.read(join(root, "model_index.json"))
    for name in _OTHER_VAE_NAMES:
        is_likely = place.is_local if index is None else _class_in(index, name) is not None
        if is_likely and (config := place.read(join(root, name, "config.json"))) is not None:
            yield f"{name}/config.json", config


def _factor_of(vae: Mapping[str, Any]) -> int | None:
    """Return the pixels per sample cell: each level of a VAE but the first halves the sides."""
    widths: list[Any] = next((vae[key] for key in _VAE_WIDTHS if isinstance(vae.get(key), list)), [])
    # More levels than this no image has; the power must stay a number that can be shown.
    return 2 ** (len(widths) - 1) if 1 <= len(widths) <= 16 else None
