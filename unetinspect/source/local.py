"""Models that lie on this machine: config files, folders, saved traces, standard input."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from unetinspect.errors import SourceError, UsageError
from unetinspect.record import Source, Trace
from unetinspect.source.base import LoadedModel
from unetinspect.source.checkpoint import model_of, refuse_weights, weights_at
from unetinspect.source.hub_id import clean_folder
from unetinspect.source.parse import config_in_envelope, parse_mapping, parse_trace, read_file, read_text
from unetinspect.source.pipeline import FoundUnet, FoundVae, NoUnetError, find_unet, find_vae, pipeline_classes
from unetinspect.source.weight_files import is_weights

_CONFIG_NAMES = ("config.json", "unet/config.json", "model_index.json")


class FolderConfigs:
    """The configs in a folder of this machine."""

    is_local = True

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._folder = folder

    def read(self, path: str) -> dict[str, Any] | None:
        """Return the config at `path`, None where there is no such file.

        Raises:
            UnetInspectError: It cannot be read, or is not a mapping.
        """
        file = self._folder / path
        return parse_mapping(read_file(file), what=str(file), is_yaml=False) if file.is_file() else None


def has_config(folder: Path, subfolder: str | None) -> bool:
    """Return whether a folder is one that holds a model."""
    return subfolder is not None or any((folder / name).is_file() for name in _CONFIG_NAMES)


def read_path(path: Path, *, subfolder: str | None = None) -> LoadedModel:
    """Read an existing file or folder.

    Raises:
        SourceError: It cannot be read, or holds no UNet.
        ConfigError: It is not valid JSON or YAML, or not a mapping.
        UsageError: `subfolder` is given with a file.
    """
    if path.is_dir():
        return _read_folder(path, subfolder)
    if subfolder is not None:
        raise UsageError(f"--subfolder does not apply to a file: {path}", hint="leave it out, or give the folder that holds the file")
    if is_weights(path.name):
        return _checkpoint(path)
    refuse_weights(path)
    if path.name == "model_index.json":
        return _read_folder(path.parent, None)
    text = read_file(path)
    is_yaml = {".json": False, ".yaml": True, ".yml": True}.get(path.suffix.lower())
    mapping = parse_mapping(text, what=str(path), is_yaml=is_yaml)
    return _read_mapping(mapping, text, path) or _config_file(mapping, path)


def read_stdin(stdin: TextIO | None) -> LoadedModel:
    """Read a config or a saved trace from standard input, or from `stdin` where it is given.

    Raises:
        SourceError: It is not text, is too big, or holds no config.
        ConfigError: It is empty, not valid JSON or YAML, or not a mapping.
    """
    text = read_text(_bytes_of(stdin or sys.stdin), what="standard input")
    mapping = parse_mapping(text, what="standard input")
    found = _read_mapping(mapping, text, None)
    return found or LoadedModel(name="stdin", config=mapping, source=Source(kind="stdin", location="-"))


def _read_mapping(mapping: dict[str, Any], text: str, path: Path | None) -> LoadedModel | None:
    """Return what a mapping is, where it is more than a config: a saved trace, a file of the catalog's own form."""
    what = str(path or "standard input")
    trace = parse_trace(mapping, text, what=what)
    if trace is not None:
        return _saved(trace, str(path or "-"))
    envelope = config_in_envelope(mapping)
    if envelope is not None:
        return LoadedModel(name=str(mapping["model"].get("name") or envelope["_class_name"]), config=envelope, source=_source_of(path))
    if "pipeline" in str(mapping.get("_class_name", "")).lower() and pipeline_classes(mapping):
        raise SourceError(
            f"{what} is a pipeline's model_index.json: it lists components and has no config",
            hint="give the folder that it lies in, or the config.json in its unet folder",
        )
    config = mapping.get("config")
    if not isinstance(config, dict) or "_class_name" in mapping or "_class_name" not in config:
        return None
    factor = mapping.get("vae_scale_factor")
    factor = factor if isinstance(factor, int) and factor > 0 else None
    return LoadedModel(
        name=str(mapping.get("name") or config["_class_name"]),
        config=config,
        source=_source_of(path),
        vae_scale_factor=factor,
        vae_scale_from="vae_scale_factor beside the config" if factor else "",
    )


def _source_of(path: Path | None) -> Source:
    return Source(kind="file", location=str(path)) if path else Source(kind="stdin", location="-")


def _saved(trace: Trace, location: str) -> LoadedModel:
    return LoadedModel(
        name=trace.model.name,
        config=trace.model.given_config,
        source=Source(kind="trace", location=location),
        vae_scale_factor=trace.run.vae_scale_factor,
        medium=trace.run.medium,
        vae_scale_from=trace.run.vae_scale_from,
        trace=trace,
    )


def _config_file(config: dict[str, Any], path: Path) -> LoadedModel:
    source = Source(kind="file", location=str(path))
    root, component = _pipeline_of(path.parent) if path.name == "config.json" else (path.parent, None)
    if component is None:
        return LoadedModel(name=_name_of(path), config=config, source=source)
    found = find_unet(FolderConfigs(root), component)
    return _loaded(found, find_vae(FolderConfigs(root), component), name=_name_of(path), source=source)


def _read_folder(folder: Path, subfolder: str | None) -> LoadedModel:
    wanted = None if subfolder is None else clean_folder(subfolder)
    if wanted and not (folder / wanted).is_dir():
        held = sorted(file.parent.name for file in folder.glob("*/config.json"))
        raise SourceError(f"{folder} has no folder {wanted!r}", hint=f"folders with a config: {', '.join(held)}" if held else None)
    root, component = _pipeline_of(folder) if wanted is None else (folder, None)
    configs = FolderConfigs(root)
    try:
        found = find_unet(configs, component or wanted)
    except NoUnetError as error:
        raise _with_checkpoint(error, folder / (wanted or "")) from None
    source = Source(kind="folder", location=str(folder), subfolder=None if component else found.folder or None)
    return _loaded(found, find_vae(configs, found.folder), name=_name_of(folder / "config.json"), source=source)


def _with_checkpoint(error: NoUnetError, folder: Path) -> NoUnetError:
    """Return the error with a checkpoint that the folder has, whose header tells a config."""
    found = sorted((path for path in folder.iterdir() if is_weights(path.name)), key=lambda path: (path.suffix != ".json", path))
    return NoUnetError(error.message, hint=f"it has a checkpoint, whose header is read: {found[0]}") if found else error


def _pipeline_of(folder: Path) -> tuple[Path, str | None]:
    """Return the pipeline that a folder is a component of, and the component; without one the folder itself and None."""
    whole = folder.absolute()
    is_component = (whole / "config.json").is_file() and not (whole / "model_index.json").is_file()
    if is_component and (whole.name == "unet" or (whole.parent / "model_index.json").is_file()):
        return whole.parent, whole.name
    return folder, None


def _loaded(found: FoundUnet, vae: FoundVae, *, name: str, source: Source) -> LoadedModel:
    return LoadedModel(
        name=name,
        config=found.config,
        source=source,
        vae_scale_factor=vae.factor,
        vae_scale_from=vae.read_from,
        notes=found.notes + vae.notes,
    )


def _name_of(path: Path) -> str:
    """Return what tells a config from others: a file called config.json is known by its folder's name."""
    if path.name != "config.json":
        return path.name
    folder = path.absolute().parent
    return (folder.parent.name if folder.name == "unet" else folder.name) or str(path)


def _bytes_of(stream: TextIO) -> BinaryIO:
    raw = getattr(stream, "buffer", None)
    return raw if raw is not None else BytesIO(stream.read().encode("utf-8", "surrogatepass"))


def _checkpoint(path: Path) -> LoadedModel:
    weights = weights_at(path)
    beside = path.parent / "config.json"
    return model_of(weights, read_path(beside) if weights.checkpoint.layout == "diffusers" and beside.is_file() else None)
