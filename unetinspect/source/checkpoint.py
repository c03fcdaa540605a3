"""Checkpoints: their headers, where they lie in a folder or a repository, and the model that they are. Never reads a weight."""

from __future__ import annotations

from pathlib import Path
from posixpath import dirname, join
from typing import Any

from msgspec.structs import replace

from unetinspect.catalog import load_catalog
from unetinspect.checkpoint.header import Header, merge_headers
from unetinspect.errors import SourceError, UnetInspectError
from unetinspect.record import Source
from unetinspect.source.base import LoadedModel, LoadedWeights
from unetinspect.source.place import Folder, Place
from unetinspect.source.weight_files import INDEX_SUFFIX, is_pickle, is_weights, pickle_error, shard_names, weight_paths

_UNREAD = (".gguf", ".onnx", ".msgpack", ".h5")


def weights_at(path: Path) -> LoadedWeights:
    """Read the header of a checkpoint on this machine."""
    refuse_weights(path)
    return weights_in(Folder(path.parent), path.name)


def weights_in(place: Place, path: str) -> LoadedWeights:
    """Read the header of a safetensors file, or those of all files of an index as one; that there is no such file is an error."""
    found = _weights(place, path)
    if found is None:
        raise place.missing(path)
    return found


def find_weights(place: Place, folder: str | None) -> LoadedWeights:
    """Read the header of the UNet's weights in a pipeline, or in a UNet's own folder; `folder` says which it is.

    Raises:
        SourceError: There are none under diffusers' names; the hint names what there is instead.
    """
    paths = weight_paths(folder)
    found = next((weights for path in paths if (weights := _weights(place, path)) is not None), None)
    if found is not None:
        return found
    if (doubt := place.doubt(paths[0])) is not None:
        raise doubt
    where = place.title(folder) if folder else place.name
    files = [file for inside in dict.fromkeys(map(dirname, paths)) for file in place.files(inside)]
    others = [place.address(file) for file in files if is_weights(file)]
    pickle = next(filter(is_pickle, files), None)
    if pickle is not None and not others:
        raise pickle_error(f"{where} has no weights but {pickle}, which")
    if place.is_local and not others:
        raise SourceError(f"{where} has no weights of a UNet", hint="give the .safetensors file itself")
    more = f", or one of {len(others) - 3} more" if len(others) > 3 else ""
    hint = f"name them: {', '.join(others[:3])}{more}" if others else f"name the file: {place.address('FILE.safetensors')}"
    raise SourceError(f"{where} has no weights under the names that diffusers gives a UNet's", hint=hint)


def config_beside(place: Place, path: str) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """Return the config in the same folder as a checkpoint, where there is one that can be read, and notes on the reading."""
    config: dict[str, Any] | None = None
    unread: tuple[str, ...] = ()
    try:
        config = place.read(join(dirname(path), "config.json"))
    except UnetInspectError as error:
        unread = (f"could not read the config beside the weights: {error.message}",)
    return config, (*place.notes(without="the config beside the weights"), *unread)


def model_of(weights: LoadedWeights, beside: LoadedModel | None = None) -> LoadedModel:
    """Take a checkpoint as a model: the config `beside` it or else that of its header, and what the catalog knows of its family.

    Raises:
        SourceError: It holds no UNet, or one whose config cannot be inferred.
    """
    found, source = weights.checkpoint, weights.source
    name = source.location.rpartition("/")[2]
    if beside is not None:
        model = replace(beside, name=name, source=source, notes=(*weights.notes, *beside.notes), weights=weights)
    elif found.config is not None:
        notes = (*weights.notes, "config inferred from tensor names and shapes", *found.untold[:1])
        model = LoadedModel(name=name, config=found.config, source=source, notes=notes, weights=weights)
    else:
        raise SourceError(
            f"cannot infer a UNet's config from the header of {source.location}: {found.summary}",
            hint="`unetinspect identify` says why; a config.json beside it is read, or give the config itself",
        )
    return model.with_vae_of(load_catalog().get(found.models[0]) if found.models else None)


def refuse_weights(path: Path) -> None:
    """Refuse a file of weights that nothing here may open."""
    if not path.name.lower().endswith(_UNREAD) and not is_pickle(path.name):
        return
    beside = [other for other in (path.with_suffix(".safetensors"), path.parent / "config.json") if other.is_file()]
    instead = f"give {beside[0]}" if beside else "give the .safetensors file of the same weights, or their config.json"
    if is_pickle(path.name):
        raise pickle_error(str(path), hint=instead)
    raise SourceError(f"{path} is not a supported weights file: only .safetensors is read", hint=instead)


def _weights(place: Place, path: str) -> LoadedWeights | None:
    from unetinspect.checkpoint.identify import identify  # here: what reads no checkpoint need not wait for it

    header = _index_header(place, path) if path.lower().endswith(INDEX_SUFFIX) else place.header(path)
    if header is None:
        return None
    source = Source(kind="file" if place.is_local else "hub", location=header.name, revision=place.commit)
    return LoadedWeights(header=header, checkpoint=identify(header), source=source, notes=place.notes(without="the config"))


def _index_header(place: Place, path: str) -> Header | None:
    index, what = place.read(path), place.title(path)
    if index is None:
        return None
    headers = []
    for name in shard_names(index, what=what):
        shard = join(dirname(path), name)
        header = place.header(shard)
        if header is None:
            raise place.doubt(shard) or SourceError(f"there is no file {name} of {what}", hint="download all files of the index")
        headers.append(header)
    return merge_headers(headers, name=what)
