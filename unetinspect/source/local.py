"""Models on this machine: config files, folders, checkpoints, saved traces, standard input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, TextIO

from msgspec.structs import replace

from unetinspect.errors import SourceError, UsageError
from unetinspect.record import Source, Trace
from unetinspect.source.base import LoadedModel
from unetinspect.source.checkpoint import model_of, refuse_weights, weights_at
from unetinspect.source.hub_id import clean_folder
from unetinspect.source.parse import MAX_BYTES, decode, parse_mapping, read_file
from unetinspect.source.pipeline import find_model, pipeline_classes
from unetinspect.source.place import Folder
from unetinspect.source.weight_files import is_weights


def read_path(path: Path, *, subfolder: str | None = None) -> LoadedModel:
    """Read an existing file or folder."""
    if path.is_dir():
        return _read_folder(path, subfolder)
    if subfolder is not None:
        raise UsageError(f"--subfolder does not apply to a file: {path}", hint="leave it out, or give the folder that holds the file")
    if is_weights(path.name):
        weights, beside = weights_at(path), path.parent / "config.json"
        return model_of(weights, read_path(beside) if weights.checkpoint.layout == "diffusers" and beside.is_file() else None)
    refuse_weights(path)
    if path.name == "model_index.json":
        return _read_folder(path.parent, None)
    text, source = read_file(path), Source(kind="file", location=str(path))
    is_yaml = {".json": False, ".yaml": True, ".yml": True}.get(path.suffix.lower())
    mapping = parse_mapping(text, what=str(path), is_yaml=is_yaml)
    found = _more_than_a_config(mapping, text, source, what=str(path))
    if found is not None:
        return found
    root, component = _pipeline_of(path.parent) if path.name == "config.json" else (path.parent, None)
    if component is not None:
        return replace(find_model(Folder(root), component), name=_name_of(path), source=source)
    return LoadedModel(name=_name_of(path), config=mapping, source=source)


def read_stdin(stdin: TextIO | None) -> LoadedModel:
    """Read a config or a saved trace from standard input, or from `stdin` where it is given."""
    stream, what = stdin or sys.stdin, "standard input"
    binary = getattr(stream, "buffer", None)
    text = decode(stream.read().encode("utf-8", "surrogatepass") if binary is None else binary.read(MAX_BYTES + 1), what=what)
    mapping, source = parse_mapping(text, what=what), Source(kind="stdin", location="-")
    return _more_than_a_config(mapping, text, source, what=what) or LoadedModel(name="stdin", config=mapping, source=source)


def _more_than_a_config(mapping: dict[str, Any], text: str, source: Source, *, what: str) -> LoadedModel | None:
    """Return the model in a saved trace, in JSON that a command printed, or in a file of the catalog's form; None: it is a config."""
    schema, model, config = mapping.get("schema"), mapping.get("model"), mapping.get("config")
    if isinstance(schema, str) and schema.startswith("unetinspect."):
        if schema.startswith("unetinspect.trace/"):
            if "stages" in mapping:
                trace = Trace.from_json(text)
                return replace(LoadedModel.from_trace(trace), source=Source(kind="trace", location=source.location), trace=trace)
        elif not (schema.startswith("unetinspect.checkpoint/") and isinstance(config, dict)):
            raise SourceError(f"{what} is a list printed by this program, not a model", hint="name one of the models in it")
    if isinstance(model, dict) and {"class_name", "source", "config"} <= model.keys() and isinstance(model["config"], dict):
        # Keys that diffusers had filled in are left out, so that they are filled in anew.
        defaults = model.get("config_defaults")
        filled_in = {str(key) for key in defaults} if isinstance(defaults, list) else set()
        given = {key: value for key, value in model["config"].items() if key not in filled_in} | {"_class_name": model["class_name"]}
        return LoadedModel(name=str(model.get("name") or model["class_name"]), config=given, source=source)
    if "pipeline" in str(mapping.get("_class_name", "")).lower() and pipeline_classes(mapping):
        raise SourceError(
            f"{what} is a pipeline's model_index.json: it lists components and has no config",
            hint="give the folder that it lies in, or the config.json in its unet folder",
        )
    if not isinstance(config, dict) or "_class_name" in mapping or "_class_name" not in config:
        return None
    factor = mapping.get("vae_scale_factor")
    factor = factor if isinstance(factor, int) and factor > 0 else None
    return LoadedModel(
        name=str(mapping.get("name") or config["_class_name"]),
        config=config,
        source=source,
        vae_scale_factor=factor,
        vae_scale_from="vae_scale_factor beside the config" if factor else "",
    )


def _read_folder(folder: Path, subfolder: str | None) -> LoadedModel:
    wanted = None if subfolder is None else clean_folder(subfolder)
    if wanted and not (folder / wanted).is_dir():
        held = sorted(file.parent.name for file in folder.glob("*/config.json"))
        raise SourceError(f"{folder} has no folder {wanted!r}", hint=f"folders with a config: {', '.join(held)}" if held else None)
    root, component = _pipeline_of(folder) if wanted is None else (folder, None)
    found = find_model(Folder(root), component or wanted)
    inside = None if component else found.source.subfolder
    return replace(found, name=_name_of(folder / "config.json"), source=Source(kind="folder", location=str(folder), subfolder=inside))


def _pipeline_of(folder: Path) -> tuple[Path, str | None]:
    """Return the pipeline that a folder is a component of, and the component; without one the folder itself and None."""
    whole = folder.absolute()
    is_component = (whole / "config.json").is_file() and not (whole / "model_index.json").is_file()
    if is_component and (whole.name == "unet" or (whole.parent / "model_index.json").is_file()):
        return whole.parent, whole.name
    return folder, None


def _name_of(path: Path) -> str:
    """Return what tells a config from others: a file called config.json is known by its folder's name."""
    if path.name != "config.json":
        return path.name
    folder = path.absolute().parent
    return (folder.parent.name if folder.name == "unet" else folder.name) or str(path)
