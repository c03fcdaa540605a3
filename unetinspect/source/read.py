"""What MODEL names, in the order in which it is tried: stdin, a path, the catalog, the hub; and what is used if the hub fails."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from posixpath import dirname, join
from typing import TYPE_CHECKING, TextIO

from msgspec.structs import replace

from unetinspect.catalog import Entry, HubLocation, find_entry, find_hub_id, load_catalog, nearest_entries
from unetinspect.errors import SourceError, UnetInspectError, UsageError, nearest_names
from unetinspect.record import Source
from unetinspect.source.hub_id import DEFAULT_ENDPOINT, HubId, is_repo_id, looks_like_path, parse_hub_id, short, with_options
from unetinspect.source.loaded import LoadedModel, LoadedWeights
from unetinspect.source.place import GLOB, is_weights

if TYPE_CHECKING:
    from unetinspect.source.hub import HubRepository

_CONFIG_NAMES = ("config.json", "unet/config.json", "model_index.json")
# IDs share long words ("stable-diffusion"), so a guess must be closer than for names.
_CLOSE_ID = 0.75
# The names of models that are often taken for UNets, and are transformers.
_TRANSFORMER = re.compile(
    r"flux|stable-diffusion-3|\bsd-?3|pixart|\bsana\b|\bwan-?\d|hunyuan|cogv|qwen-image|auraflow|lumina|ltx|mochi|z-image|chroma|hidream",
    re.IGNORECASE,
)


def read_model(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    token: str | None = None,
    offline: bool = False,
    stdin: TextIO | None = None,
) -> LoadedModel:
    """Read the config that MODEL names: "-", a path, a catalog name or a hub ID, in this order.

    A config among others or in another form is found and translated: see `find_unet`.

    Raises:
        SourceError: It names nothing that can be read.
        ConfigError: What it names is not a config.
        UsageError: An option does not apply to it.
    """
    read = _read(model, revision=revision, subfolder=subfolder, token=token, offline=offline, stdin=stdin)
    if read.source.kind == "catalog":
        return read
    from unetinspect.source.sections import find_unet  # here, as others below: a catalog name does not need it

    return find_unet(read)


def _read(
    model: str | os.PathLike[str], *, revision: str | None, subfolder: str | None, token: str | None, offline: bool, stdin: TextIO | None
) -> LoadedModel:
    text, is_path = os.fspath(model), not isinstance(model, str)
    if not text:
        raise SourceError("MODEL is empty", hint="give a path, a hub ID or a name that `unetinspect models` lists")
    if model == "-":
        from unetinspect.source.local import read_stdin

        _refuse_options("standard input", revision=revision, subfolder=subfolder)
        return read_stdin(stdin)

    def has_model(path: Path) -> bool:
        return subfolder is not None or not path.is_dir() or any((path / name).is_file() for name in _CONFIG_NAMES)

    found = _find(text, is_path=is_path, is_model=has_model)
    if isinstance(found, Path):
        from unetinspect.source.local import read_path

        _refuse_options(f"{found} on this machine", revision=revision)
        read = read_path(found, subfolder=subfolder)
        entry = None if is_path else _entry(text)
        return replace(read, notes=(f"read {found} on this machine, not the catalog's {entry.name}", *read.notes)) if entry else read
    if isinstance(found, Entry):
        published = found.hub[0] if found.hub else None
        _refuse_options(f"the bundled {found.name}", revision=revision, subfolder=subfolder, published=published)
        return _bundled(found, published)
    from unetinspect.source.hub import HubRepository

    place = with_options(found, revision=revision, subfolder=subfolder)
    repository = HubRepository(place, token=token, is_offline=offline)
    return _model_on_hub(repository, place) if place.file is None else _checkpoint_on_hub(repository, place.file)


def read_weights(
    name: str,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    token: str | None = None,
    offline: bool = False,
) -> LoadedWeights:
    """Read the header of the checkpoint that `name` names: a file, a folder that has one, a catalog name, a place on the hub.

    Raises:
        SourceError: It names no checkpoint that can be read.
        UsageError: An option does not apply to it.
    """
    if name in ("", "-"):
        raise SourceError("a checkpoint is read from a file or from the hub", hint="give a .safetensors file, a folder or a hub ID")
    from unetinspect.source.pipeline import find_weights, weights_in

    found = _find(name)
    if isinstance(found, Path):
        from unetinspect.source.local import weights_at
        from unetinspect.source.place import Folder

        _refuse_options(f"{found} on this machine", revision=revision)
        if found.is_dir():
            return find_weights(Folder(found), subfolder)
        _refuse_options(f"a file: {found}", subfolder=subfolder)
        return weights_at(found)
    if isinstance(found, Entry):
        location = next((location for location in found.hub if location.gone is None), None)
        if location is None:
            raise SourceError(f"the catalog knows no weights of {found.name} on the hub", hint="give a .safetensors file")
        found = HubId(repo_id=location.id, folder=location.subfolder or "")
    from unetinspect.source.hub import HubRepository

    place = with_options(found, revision=revision, subfolder=subfolder)
    repository = HubRepository(place, token=token, is_offline=offline)
    return find_weights(repository, place.folder) if place.file is None else weights_in(repository, place.file)


def models_at(name: str, note: Callable[[str], None]) -> list[str]:
    """Return the MODELs that a glob matches, or that a folder without a model of its own contains; of all else, the name."""
    path = os.path.expanduser(name)  # noqa: PTH111  Path.expanduser raises where there is no home
    is_folder = os.path.isdir(path)  # noqa: PTH112  Path.is_dir raises for a text that is too long to be a name
    if not (is_folder and _entry(name) is None) and (os.path.exists(path) or not GLOB.search(name)):  # noqa: PTH110  as above
        return [name]
    from unetinspect.source.local import find_configs, matching, read_path

    if not is_folder:
        return [found for match in matching(name) for found in models_at(str(match), note)] or [name]
    try:
        read_path(Path(path))
    except UnetInspectError:
        return [str(found) for found, _ in find_configs(name, note)] or [name]
    return [name]


def checkpoints_at(name: str, note: Callable[[str], None]) -> list[str]:
    """Return the checkpoints that a folder without a model of its own contains, or that a glob matches; of all else, the name.

    Raises:
        SourceError: There are none.
    """
    from unetinspect.source.local import find_checkpoints

    path = os.path.expanduser(name)  # noqa: PTH111  Path.expanduser raises where there is no home
    if not os.path.exists(path):  # noqa: PTH110  Path.exists raises for a text that is too long to be a name
        return find_checkpoints(name, note) if GLOB.search(name) else [name]
    if not os.path.isdir(path):  # noqa: PTH112  as above
        return [name]
    try:
        read_weights(name)
    except SourceError:
        return find_checkpoints(name, note)
    return [name]


def _find(text: str, *, is_path: bool = False, is_model: Callable[[Path], bool] = lambda path: True) -> Path | Entry | HubId:
    """Return what was typed: an existing path, an entry of the catalog, or a place on the hub.

    A path that is not a model by `is_model` does not hide a catalog name or a hub ID.
    """
    path = Path(os.path.expanduser(text))  # noqa: PTH111  Path.expanduser raises where there is no home
    entry = None if is_path else _entry(text)
    if os.path.exists(path):  # noqa: PTH110  Path.exists raises for a text that is too long to be a name
        could_be_other = not is_path and not looks_like_path(text) and (entry is not None or text.count("/") == 1)
        if not could_be_other or is_model(path):
            return path
    if entry is not None:
        return entry
    if is_path or looks_like_path(text):
        org, name, *inside = [*text.split("/"), "", ""]
        file = "/".join(filter(None, inside))
        hint = "check the path; `unetinspect models` lists the names that need none"
        if is_weights(file) and is_repo_id(f"{org}/{name}"):
            hint = f"for a file of a hub repository: hf://{org}/{name}/{file}"
        raise SourceError(f"there is no file or folder {short(text)}", hint=hint)
    if text.lstrip().startswith("{"):
        raise SourceError("MODEL is a config itself: pass it as a file or on standard input", hint="echo '{...}' | unetinspect trace -")
    found = parse_hub_id(text, endpoint=os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT)
    if found is not None:
        return found
    close = nearest_entries(text)
    meant = _transformer(text) or (f"did you mean {', '.join(close)}? " if close else "")
    hint = f"{meant}`unetinspect models` lists the names; else give a path or a hub ID, org/name"
    raise SourceError(f"no model called {short(text)}", hint=hint)


def _transformer(name: str) -> str:
    """Return the beginning of a hint on a name that no model could be read by, if it is known as that of a transformer."""
    return f"{name} is probably a diffusion transformer, not a UNet; " if _TRANSFORMER.search(name.rpartition("/")[2]) else ""


def _entry(text: str) -> Entry | None:
    """Return the catalog's entry of that name; for a path the catalog is not read."""
    return None if "/" in text or looks_like_path(text) else find_entry(text)


def _refuse_options(where: str, *, revision: str | None = None, subfolder: str | None = None, published: HubLocation | None = None) -> None:
    """Refuse options that do not apply `where` MODEL was found; the hint names the place where it is `published`."""
    for option, value in (("--revision", revision), ("--subfolder", subfolder)):
        if value is not None:
            hint = f"leave it out, or name the hub's own: {published.id} {option} {value}" if published else "leave it out"
            raise UsageError(f"{option} does not apply to {where}", hint=hint)


def _bundled(entry: Entry, location: HubLocation | None, *notes: str) -> LoadedModel:
    place, folder = (location.id, location.subfolder) if location else (entry.name, None)
    source = Source(kind="catalog", location=place, subfolder=folder, confidence=entry.confidence)
    return LoadedModel(name=entry.name, config=entry.config, source=source, notes=notes).with_pixels_of(entry)


def _model_on_hub(repository: HubRepository, place: HubId) -> LoadedModel:
    from unetinspect.source.hub_errors import HubError
    from unetinspect.source.pipeline import find_model

    try:
        model = find_model(repository, place.folder)
    except HubError as error:
        if error.is_final:
            raise
        known = find_hub_id(place.repo_id, place.folder)
        if known is not None:
            entry, location = known
            at = f" at {place.revision}" if place.revision else ""
            gone = f" ({location.gone})" if location.gone else ""
            note = f"{error.reason}: for {place.repo_id}{at} the bundled config of {entry.name} was used{gone}"
            return _bundled(entry, location, note)
        ids = [location.id for entry in load_catalog().values() for location in entry.hub if location.gone is None]
        close = [name for name in nearest_names(place.repo_id, ids, count=1, cutoff=_CLOSE_ID) if name != place.repo_id]
        error.hint = (_transformer(place.repo_id) or (f"did you mean {close[0]}? " if close else "")) + (error.hint or "")
        raise
    known = find_hub_id(place.repo_id, model.source.subfolder or "")
    return model.with_pixels_of(known[0] if known else None)


def _checkpoint_on_hub(repository: HubRepository, file: str) -> LoadedModel:
    from unetinspect.source.pipeline import weights_in

    weights = weights_in(repository, file)
    if weights.checkpoint.layout != "diffusers":
        return weights.as_model()
    config, unread = None, list[str]()
    try:
        config = repository.read(join(dirname(file), "config.json"))
    except UnetInspectError as error:
        unread = [f"could not read the config beside the weights: {error.message}"]
    weights = replace(weights, notes=(*repository.notes(without="the config beside the weights"), *unread))
    beside = None if config is None else LoadedModel(name=repository.name, config=config, source=weights.source)
    return weights.as_model(beside)
