"""From a checkpoint to a model: its config from what lies beside it, or from what its header tells."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from unetinspect.catalog import load_catalog
from unetinspect.errors import SourceError
from unetinspect.record import Source
from unetinspect.source.base import LoadedModel, LoadedWeights
from unetinspect.source.local_header import read_local_header
from unetinspect.source.weight_files import is_pickle, pickle_error

_UNREAD = (".gguf", ".onnx", ".msgpack", ".h5")


def weights_at(path: Path) -> LoadedWeights:
    """Read the header of a checkpoint on this machine.

    Raises:
        SourceError: It is none, or is damaged.
    """
    from unetinspect.checkpoint.identify import identify  # here: what reads no checkpoint need not wait for it

    refuse_weights(path)
    header = read_local_header(path)
    return LoadedWeights(header=header, checkpoint=identify(header), source=Source(kind="file", location=str(path)))


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
    entry = load_catalog().get(found.models[0]) if found.models else None
    if entry is None or entry.vae_scale_factor is None or model.vae_scale_factor is not None:
        return model
    return replace(model, vae_scale_factor=entry.vae_scale_factor, vae_scale_from="catalog", medium=entry.medium)


def refuse_weights(path: Path) -> None:
    """Refuse a file of weights that nothing here may open.

    Raises:
        SourceError: It is one.
    """
    suffix = path.suffix.lower()
    if suffix not in _UNREAD and not is_pickle(path.name):
        return
    beside = [other for other in (path.with_suffix(".safetensors"), path.parent / "config.json") if other.is_file()]
    instead = f"give {beside[0]}" if beside else "give the .safetensors file of the same weights, or their config.json"
    if suffix not in _UNREAD:
        raise pickle_error(str(path), hint=instead)
    raise SourceError(f"{path} is not a supported weights file: only .safetensors is read", hint=instead)
