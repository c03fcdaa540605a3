"""Models on this machine: config files, folders, checkpoints, saved traces, standard input, and every UNet config under a folder."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from msgspec.structs import replace

from unetinspect.checkpoint.file_parts import SHARD
from unetinspect.errors import SourceError, UnetInspectError, UsageError
from unetinspect.record import Source, Trace
from unetinspect.source.hub_id import clean_folder
from unetinspect.source.loaded import LoadedModel, LoadedWeights
from unetinspect.source.parse import MAX_BYTES, decode, parse_mapping, read_file
from unetinspect.source.pipeline import find_model, pipeline_classes, weights_in
from unetinspect.source.place import GLOB, INDEX_SUFFIX, PICKLES, WEIGHTS, Folder, is_weights, unread_weights
from unetinspect.source.sections import find_unet
from unetinspect.streams import reason
from unetinspect.unets import class_like, supported_classes
from unetinspect.units import plural

_CONFIGS = (".json", ".yaml", ".yml")
_CLASS_NAME = re.compile(rb"""_class_name["']?\s*:\s*["']?(\w+)""")
# What `find_unet` finds a UNet by that has no `_class_name`: the class, keys of diffusers, the targets and flags of other code.
_WORDS_OF_UNETS = (b"block_out_channels", b"_block_types", b"openaimodel", b"video_model", b"num_res_blocks")
_A_GLOB = "give a folder, or a glob in quotes: 'runs/*/unet'"
# A folder of runs and the hub's cache have less of each: with more, it is a whole disk.
MAX_DEPTH = 12
MAX_FILES = 200_000


def read_path(path: Path, *, subfolder: str | None = None) -> LoadedModel:
    """Read an existing file or folder."""
    if path.is_dir():
        return _read_folder(path, subfolder)
    if subfolder is not None:
        raise UsageError(f"--subfolder does not apply to a file: {path}", hint="leave it out, or give the folder of the file")
    if is_weights(path.name):
        weights, beside = weights_at(path), path.parent / "config.json"
        return weights.as_model(read_path(beside) if weights.checkpoint.layout == "diffusers" and beside.is_file() else None)
    _refuse_weights(path)
    if path.name == "model_index.json":
        return _read_folder(path.parent, None)
    if path.suffix.lower() == ".toml":
        raise SourceError(
            f"{path} is TOML: kohya-ss keeps training options in it, and no UNet config", hint="give the model that it trains"
        )
    if path.suffix.lower() == ".py":
        raise SourceError(f"{path} is Python code, which is never executed", hint="save the UNet's config: unet.save_config(FOLDER)")
    text, source, name = read_file(path), Source(kind="file", location=str(path)), _name_of(path)
    is_yaml = {".json": False, ".yaml": True, ".yml": True}.get(path.suffix.lower())
    mapping = parse_mapping(text, what=str(path), is_yaml=is_yaml)
    found = _more_than_a_config(mapping, text, source, what=str(path))
    if found is not None:
        return found
    root, component = _pipeline_of(path.parent) if path.name == "config.json" else (path.parent, None)
    if component is not None:
        return replace(find_model(Folder(root), component), name=name, source=source)
    return LoadedModel(name=name, config=mapping, source=source)


def read_stdin(stdin: TextIO | None) -> LoadedModel:
    """Read a config or a saved trace from standard input, or from `stdin`."""
    stream, what = stdin or sys.stdin, "standard input"
    binary = getattr(stream, "buffer", None)
    text = decode(stream.read().encode("utf-8", "surrogatepass") if binary is None else binary.read(MAX_BYTES + 1), what=what)
    mapping, source = parse_mapping(text, what=what), Source(kind="stdin", location="-")
    return _more_than_a_config(mapping, text, source, what=what) or LoadedModel(name="stdin", config=mapping, source=source)


def weights_at(path: Path) -> LoadedWeights:
    """Read the header of a checkpoint."""
    _refuse_weights(path)
    return weights_in(Folder(path.parent), path.name)


def _refuse_weights(path: Path) -> None:
    """Refuse a file of weights in a format that is not read."""
    beside = [other for other in (path.with_suffix(".safetensors"), path.parent / "config.json") if other.is_file()]
    hint = f"give {beside[0]}" if beside else "give the .safetensors file of the same weights, or their config.json"
    if (error := unread_weights(str(path), hint=hint)) is not None:
        raise error


def _more_than_a_config(mapping: dict[str, Any], text: str, source: Source, *, what: str) -> LoadedModel | None:
    """Return the model in a saved trace, in the JSON of a command, or in a file of the catalog's form; None: it is a config."""
    schema, model, config = mapping.get("schema"), mapping.get("model"), mapping.get("config")
    if isinstance(schema, str) and schema.startswith("unetinspect."):
        if schema.startswith("unetinspect.trace/"):
            if "stages" in mapping:
                trace = Trace.from_json(text)
                return replace(LoadedModel.from_trace(trace), source=Source(kind="trace", location=source.location), trace=trace)
        elif not (schema.startswith("unetinspect.checkpoint/") and isinstance(config, dict)):
            raise SourceError(f"{what} is a list printed by this program, not a model", hint="name one of the models in it")
    if isinstance(model, dict) and {"class_name", "source", "config"} <= model.keys() and isinstance(model["config"], dict):
        # Without the keys that diffusers filled in: they are filled in again.
        defaults = model.get("config_defaults")
        filled_in = set(map(str, defaults)) if isinstance(defaults, list) else set()
        given = {key: value for key, value in model["config"].items() if key not in filled_in} | {"_class_name": model["class_name"]}
        return LoadedModel(name=str(model.get("name") or model["class_name"]), config=given, source=source)
    if "pipeline" in str(mapping.get("_class_name", "")).lower() and pipeline_classes(mapping):
        raise SourceError(
            f"{what} is a pipeline's model_index.json: it lists components and has no config",
            hint="give its folder, or the config.json in its unet folder",
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
        others = sorted(file.parent.name for file in folder.glob("*/config.json"))
        raise SourceError(f"{folder} has no folder {wanted!r}", hint=f"folders with a config: {', '.join(others)}" if others else None)
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
    """Return the name that distinguishes a config from others: for a config.json, its folder's name."""
    if path.name != "config.json":
        return path.name
    folder = path.absolute().parent
    return (folder.parent.name if folder.name == "unet" else folder.name) or str(path)


def find_models(place: str, note: Callable[[str], None]) -> list[tuple[str, LoadedModel]]:
    """Read every UNet config under a folder, or under whatever a glob matches; returns each with its path, sorted by it.

    A config is a JSON or YAML file that describes a UNet, at the top or in a section; other files are skipped. Links to folders
    and hidden folders are not followed, nor are folders more than `MAX_DEPTH` levels down. `note` receives what cannot be read.

    Raises:
        SourceError: There is no such folder, or no UNet config in it.
    """
    found = []
    for path, misspelled in find_configs(place, note):
        try:
            if misspelled:
                note(f"{path} names no UNet class: {misspelled}")
            elif (model := find_unet(read_path(path))).config.get("_class_name") in supported_classes():
                found.append((str(path), model))
        except UnetInspectError as error:
            note(error.message if str(path) in error.message else f"{path}: {error.message}")
    if not found:
        raise SourceError(f"found no UNet config in {place}", hint="a config is a JSON or YAML file that describes a UNet of diffusers")
    return found


def find_configs(place: str, note: Callable[[str], None]) -> Iterator[tuple[Path, str]]:
    """Yield every JSON or YAML file under a folder, or that a glob matches, which may describe a UNet; and its class if it is misspelled.

    Most files are of other models, and need not be parsed.
    """
    words = (*_WORDS_OF_UNETS, *map(str.encode, supported_classes()))
    for path in _search(place, _CONFIGS, note):
        if path.name == "model_index.json":  # the config that it names is found itself
            continue
        try:
            with path.open("rb") as file:
                text = file.read(MAX_BYTES)
        except OSError as error:
            note(f"{path} cannot be read: {reason(error)}")
            continue
        names = [name.decode() for name in dict.fromkeys(_CLASS_NAME.findall(text))]
        if any(word in text for word in words):
            yield path, ""
        elif misspelled := [f"{name}: {like}" for name in names if (like := class_like(name)).endswith("?")]:
            yield path, misspelled[0]


def find_checkpoints(place: str, note: Callable[[str], None]) -> list[str]:
    """Return every .safetensors and .gguf file under a folder, or that a glob matches, sorted; the files of an index are one, the index.

    `note` receives how many pickles there are, too.

    Raises:
        SourceError: There is no such folder, or no such file in it.
    """
    weights = _search(place, (*WEIGHTS, *PICKLES), note)
    if pickles := sum(path.name.lower().endswith(PICKLES) for path in weights):
        note(f"{plural(pickles, 'pickle file')} in {place} {'was' if pickles == 1 else 'were'} not opened: a pickle can execute code")
    paths = [path for path in weights if is_weights(path.name)]  # a glob matches any file
    indexes = {str(path).lower() for path in paths}
    found = [path for path in map(str, paths) if not SHARD.search(path) or SHARD.sub(INDEX_SUFFIX, path).lower() not in indexes]
    if not found:
        raise SourceError(f"found no .safetensors or .gguf file in {place}", hint="other files of weights are not read")
    return found


def _search(place: str, endings: tuple[str, ...], note: Callable[[str], None]) -> list[Path]:
    """Return every file under a folder whose name has one of the endings, or every file that a glob matches, sorted."""
    if not place:  # a variable of the shell that is not set; as a path it would be the current folder
        raise SourceError("--from needs a folder", hint="for the current folder: --from .")
    found: set[Path] = set()
    for path in matching(place):
        if path.is_dir():
            found.update(_in_folder(path, endings, note))
        elif path.is_file():
            found.add(path)
    return sorted(found)


def matching(place: str) -> list[Path]:
    """Return the path of that name, or whatever a glob matches, sorted.

    Raises:
        SourceError: There is no such path, or the glob is not one.
    """
    whole = Path(os.path.expanduser(place))  # noqa: PTH111  Path.expanduser raises where there is no home
    if os.path.exists(whole):  # noqa: PTH110  Path.exists raises for a text that is too long to be a name
        return [whole]
    if not GLOB.search(place):
        raise SourceError(f"there is no file or folder {place}", hint=_A_GLOB)
    fixed = next(index for index, part in enumerate(whole.parts) if GLOB.search(part))
    try:
        return sorted(islice(Path(*whole.parts[:fixed]).glob(str(Path(*whole.parts[fixed:]))), MAX_FILES))  # `**` follows no links
    except (OSError, ValueError) as error:  # "a**b", or a name that is too long
        raise SourceError(f"cannot search {place}: {error}", hint=_A_GLOB) from None


def _in_folder(top: Path, endings: tuple[str, ...], note: Callable[[str], None]) -> Iterator[Path]:
    seen, too_deep = 0, []
    for folder, folders, files in os.walk(top, onerror=lambda error: note(f"{error.filename} cannot be read: {reason(error)}")):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if len(Path(folder).parts) - len(top.parts) == MAX_DEPTH and folders:
            too_deep.append(folder)
            folders.clear()
        seen += len(files)
        if seen > MAX_FILES:
            note(f"{top} has more than {MAX_FILES:,} files: the rest was not searched")
            break
        paths = (Path(folder, name) for name in files if name.lower().endswith(endings))
        yield from (path for path in paths if path.is_file())  # not a pipe, which would be waited for
    if too_deep:
        where = f"in {plural(len(too_deep), 'folder')}, such as {too_deep[0]}"
        note(f"not searched: folders deeper than {plural(MAX_DEPTH, 'level')} ({where})")
