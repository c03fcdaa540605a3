"""Which files of a pipeline have the UNet's config, its weights and the VAE's config: one search for a folder and for a hub repository."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from posixpath import basename, dirname, join
from typing import Any

from msgspec.structs import replace

from unetinspect.checkpoint.safetensors_header import Header, merge_headers
from unetinspect.errors import SourceError, UnetInspectError
from unetinspect.record import Source
from unetinspect.source.loaded import LoadedModel, LoadedWeights
from unetinspect.source.place import INDEX_SUFFIX, Place, is_weights, unread_weights
from unetinspect.unets import supported_classes

_OTHER_VAE_NAMES = ("vqvae", "movq")
_VAE_WIDTHS = ("block_out_channels", "encoder_block_out_channels", "down_block_out_channels")
_UNET_KEYS = {"block_out_channels", "down_block_types", "up_block_types"}
# Every diffusion pipeline has these; naming them would not tell what it has instead of a UNet.
_NO_DENOISERS = ("Scheduler", "Autoencoder", "VQ", "SafetyChecker", "Adapter", "Processor")
_WEIGHT_NAMES = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    f"diffusion_pytorch_model{INDEX_SUFFIX}",
)
_ROOT_WEIGHT_NAMES = (*_WEIGHT_NAMES, "model.safetensors")
# PEFT's name for a LoRA, which has its alpha in an adapter_config.json beside it, and diffusers'.
_PEFT_NAME = "adapter_model.safetensors"
_LORA_NAMES = (_PEFT_NAME, "pytorch_lora_weights.safetensors")
_MAX_SHARDS = 200


class NoUnetError(SourceError):
    """Raised when a pipeline was read and has no UNet that can be traced."""


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
        class_name = pipeline_classes(index).get(basename(folder))
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
    """Return the class of each component in a model_index.json, without those that the pipeline leaves out.

    >>> pipeline_classes({"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"], "vae": [None, None]})
    {'unet': 'UNet2DModel'}
    """
    return {name: value[1] for name, value in index.items() if isinstance(value, list) and len(value) == 2 and isinstance(value[1], str)}


def weights_in(place: Place, path: str) -> LoadedWeights:
    """Read the header of a safetensors file, or those of all files of an index as one; it is an error if there is no such file."""
    found = _weights(place, path)
    if found is None:
        raise place.missing(path)
    return found


def find_weights(place: Place, folder: str | None) -> LoadedWeights:
    """Read the header of the UNet's weights in `folder`; None: in "unet" or at the root, "": the root is the UNet's own folder.

    If there are none, a LoRA under the name that PEFT or diffusers gives it is read, unless there are other checkpoints.

    Raises:
        SourceError: There are none under diffusers' names; the hint names what there is instead.
    """
    paths = [join("unet" if folder is None else folder, name) for name in (_ROOT_WEIGHT_NAMES if folder == "" else _WEIGHT_NAMES)]
    paths += _ROOT_WEIGHT_NAMES if folder is None else ()
    found = next((weights for path in paths if (weights := _weights(place, path)) is not None), None)
    if found is not None:
        return found
    if (doubt := place.doubt(paths[0])) is not None:
        raise doubt
    where = place.title(folder) if folder else place.name
    files = [file for inside in dict.fromkeys(map(dirname, paths)) for file in place.files(inside)]
    loras = [file for file in files if is_weights(file)]
    if len(loras) == 1 and basename(loras[0]) in _LORA_NAMES and (found := _weights(place, loras[0])) is not None:
        return found
    checkpoints = _checkpoints(place, files)
    instead = "give the .safetensors of the same model"
    errors = (unread_weights(file, what=f"{where} has no weights but {file}, which", hint=instead) for file in files)
    unread = next(filter(None, errors), None)
    if unread is not None and not checkpoints:
        raise unread
    hint = f"name the file: {_listed(checkpoints or [place.address('FILE.safetensors')])}"
    raise SourceError(f"{where} has no weights under diffusers' names for a UNet", hint=hint)


def _weights(place: Place, path: str) -> LoadedWeights | None:
    from unetinspect.checkpoint.identify import identify  # here: slow to import, and only a checkpoint needs it

    header = _index_header(place, path) if path.lower().endswith(INDEX_SUFFIX) else place.header(path)
    if header is None:
        return None
    source = Source(kind="file" if place.is_local else "hub", location=header.name, revision=place.commit)
    notes = list(place.notes(without="the config"))
    if basename(path) == _PEFT_NAME:
        try:
            config = place.read(join(dirname(path), "adapter_config.json")) or {}
        except UnetInspectError as error:
            config = {}
            notes.append(f"alpha unknown: {error.message}")
        alpha = config.get("lora_alpha")
        if isinstance(alpha, int | float) and alpha > 0 and not config.get("alpha_pattern"):  # the pattern has other layers' own
            header = replace(header, alphas={**header.alphas, "": float(alpha)})
            notes.append("alpha read from the adapter_config.json beside it")
    return LoadedWeights(header=header, checkpoint=identify(header), source=source, notes=tuple(notes))


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


def shard_names(index: Mapping[str, Any], *, what: str) -> list[str]:
    """Return the files that an index lists, each by its name in the index's own folder.

    Raises:
        SourceError: It is not an index, or lists too many files or one in another folder.
    """
    mapping = index.get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise SourceError(
            f"{what} is not a weights index: it has no weight_map", hint="give the .safetensors.index.json, or one .safetensors"
        )
    names = sorted({str(name) for name in mapping.values()})
    one_file = "give one .safetensors file"
    if len(names) > _MAX_SHARDS:
        raise SourceError(f"{what} lists {len(names)} files, more than {_MAX_SHARDS}", hint=one_file)
    for name in names:
        if any(mark in name for mark in ("/", "\\", ":", "\0")) or name in (".", "..", "") or len(name) > 255:
            raise SourceError(f"{what} lists {name[:80]!r}, which is not in its own folder", hint=one_file)
        if (error := unread_weights(name, what=f"{name[:80]!r}, which {what} lists,", hint=one_file)) is not None:
            raise error
        if not name.endswith(".safetensors"):
            raise SourceError(f"{what} lists {name[:80]!r}, which is not a .safetensors file", hint=one_file)
    return names


def _checkpoints(place: Place, files: list[str]) -> list[str]:
    """Return what to type for each checkpoint among files, indexes first."""
    return [place.address(file) for file in sorted(filter(is_weights, files), key=lambda path: (not path.endswith(INDEX_SUFFIX), path))]


def _listed(files: list[str]) -> str:
    return files[0] if len(files) == 1 else f"{files[0]} (and {len(files) - 1} more)"


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
    if (doubt := place.doubt()) is not None:
        raise doubt
    hint = "`unetinspect models` lists published UNets, `unetinspect models --classes` the classes that can be traced"
    if checkpoints := _checkpoints(place, place.files(root)):
        hint = f"to read the header of a checkpoint: {_listed(checkpoints)}"
    raise NoUnetError(f"no UNet here: {_what_is_there(place.title(root) if root else place.name, own, index)}", hint=hint)


def _what_is_there(where: str, own: Mapping[str, Any] | None, index: Mapping[str, Any] | None) -> str:
    if index is not None:
        classes = pipeline_classes(index)
        unets = [name for name, class_name in classes.items() if class_name in supported_classes()]
        others = [name for name in classes if index[name][0] != "transformers" and not any(word in classes[name] for word in _NO_DENOISERS)]
        models = [f"`{name}` is {classes[name]}" + (f", and {name}/config.json is missing" if unets else "") for name in unets or others]
        if models:
            return f"{where} is a pipeline whose {', '.join(models)}"
        return f"{where} is a {index.get('_class_name') or 'pipeline'}, and its model_index.json lists no UNet"
    if own is not None:
        architectures = own.get("architectures")
        first = next((name for name in architectures if isinstance(name, str)), None) if isinstance(architectures, list) else None
        return f"the config.json of {where} is of {own.get('_class_name') or first or own.get('model_type') or 'an unnamed model'}"
    return f"{where} has no unet/config.json, config.json or model_index.json"


def _vaes(place: Place, root: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the VAE's config, with its path in the pipeline, from each place it may be in, most likely first."""
    if (config := place.read(join(root, "vae/config.json"))) is not None:
        yield "vae/config.json", config
    # Asked late: a repository with a vae/config.json needs no index.
    index = place.read(join(root, "model_index.json"))
    for name in _OTHER_VAE_NAMES:
        is_likely = place.is_local if index is None else name in pipeline_classes(index)
        if is_likely and (config := place.read(join(root, name, "config.json"))) is not None:
            yield f"{name}/config.json", config


def _factor_of(vae: Mapping[str, Any]) -> int | None:
    """Return the pixels per sample cell: each level of a VAE but the first halves the sides."""
    widths: list[Any] = next((vae[key] for key in _VAE_WIDTHS if isinstance(vae.get(key), list)), [])
    # No image has more levels than this; the power must stay a number that can be shown.
    return 2 ** (len(widths) - 1) if 1 <= len(widths) <= 16 else None
