"""The order in which what the user typed is tried: stdin, a path, the catalog, the hub; and what stands in for a hub that says no."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from msgspec.structs import replace

from unetinspect.catalog import Entry, HubLocation, find_entry, find_hub_id, load_catalog, nearest_entries
from unetinspect.errors import SourceError, UsageError
from unetinspect.record import Source
from unetinspect.source.base import LoadedModel, LoadedWeights
from unetinspect.source.hub_id import DEFAULT_ENDPOINT, HubId, file_on_hub, looks_like_path, parse_hub_id, short, with_options

if TYPE_CHECKING:
    from unetinspect.source.hub import HubRepository

_CONFIG_NAMES = ("config.json", "unet/config.json", "model_index.json")
# IDs share long words ("stable-diffusion"), so they must be closer than names to be worth a guess.
_CLOSE_ID = 0.75


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

    Raises:
        SourceError: It names nothing that can be read.
        ConfigError: What it names is not a config.
        UsageError: An option does not go with it.
    """
    text = os.fspath(model)
    if not text:
        raise SourceError("MODEL is empty", hint="give a path, a hub ID or a name that `unetinspect models` lists")
    if model == "-":
        from unetinspect.source.local import read_stdin  # here, as below: a name of the catalog need not wait for it

        _refuse_options("standard input", revision=revision, subfolder=subfolder)
        return read_stdin(stdin)
    entry = _entry(text) if isinstance(model, str) else None
    path = _existing(text)
    if path is not None:
        from unetinspect.source.local import read_path

        # A folder without a model does not hide a catalog name or a hub ID.
        could_be_other = isinstance(model, str) and not looks_like_path(text) and (entry is not None or text.count("/") == 1)
        has_model = subfolder is not None or not path.is_dir() or any((path / name).is_file() for name in _CONFIG_NAMES)
        if has_model or not could_be_other:
            _refuse_options(f"{path} on this machine", revision=revision)
            found = read_path(path, subfolder=subfolder)
            notes = (f"read {path} on this machine, not the catalog's {entry.name}",) if entry else ()
            return replace(found, notes=(*notes, *found.notes))
    if entry is not None:
        published = entry.hub[0] if entry.hub else None
        _refuse_options(f"the bundled {entry.name}", revision=revision, subfolder=subfolder, published=published)
        return _bundled(entry, published)
    place = with_options(_place(text, is_path=not isinstance(model, str)), revision=revision, subfolder=subfolder)
    from unetinspect.source.hub import HubRepository

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
    """Read the header of the checkpoint that `name` names: a file, a folder that holds one, a catalog name, a place on the hub.

    Raises:
        SourceError: It names no checkpoint that can be read.
        UsageError: An option does not go with it.
    """
    if name in ("", "-"):
        raise SourceError("a checkpoint is read from a file or from the hub", hint="give a .safetensors file, a folder or a hub ID")
    from unetinspect.source.checkpoint import find_weights, weights_at, weights_in

    path = _existing(name)
    if path is not None:
        _refuse_options(f"{path} on this machine", revision=revision)
        if path.is_dir():
            from unetinspect.source.place import Folder

            return find_weights(Folder(path), subfolder)
        _refuse_options(f"a file: {path}", subfolder=subfolder)
        return weights_at(path)
    entry = _entry(name)
    if entry is not None:  # stands for where its model is published
        location = next((location for location in entry.hub if location.gone is None), None)
        if location is None:
            raise SourceError(f"the catalog knows no weights of {entry.name} on the hub", hint="give a .safetensors file")
        place = HubId(repo_id=location.id, folder=location.subfolder or "")
    else:
        place = _place(name)
    place = with_options(place, revision=revision, subfolder=subfolder)
    from unetinspect.source.hub import HubRepository

    repository = HubRepository(place, token=token, is_offline=offline)
    return find_weights(repository, place.folder) if place.file is None else weights_in(repository, place.file)


def _entry(text: str) -> Entry | None:
    """Return the catalog's entry of that name; a path does not cost the reading of the catalog."""
    return None if "/" in text or looks_like_path(text) else find_entry(text)


def _existing(text: str) -> Path | None:
    """Return a text as a path where it is one: "~" is the home."""
    path = Path(os.path.expanduser(text))  # noqa: PTH111  Path.expanduser raises where there is no home
    return path if os.path.exists(path) else None  # noqa: PTH110  Path.exists raises for a text that is too long to be a name


def _refuse_options(where: str, *, revision: str | None = None, subfolder: str | None = None, published: HubLocation | None = None) -> None:
    """Refuse the options that have nothing to say where MODEL was found; the hint names the place where it is `published`."""
    for option, value in (("--revision", revision), ("--subfolder", subfolder)):
        if value is not None:
            hint = f"leave it out, or name the hub's own: {published.id} {option} {value}" if published else "leave it out"
            raise UsageError(f"{option} does not apply to {where}", hint=hint)


def _place(text: str, *, is_path: bool = False) -> HubId:
    """Return what was typed as a place on the hub; what cannot be one is nothing else either."""
    if is_path or looks_like_path(text):
        on_hub = file_on_hub(text)
        hint = (
            f"for a file of a hub repository: {on_hub}" if on_hub else "check the path; `unetinspect models` lists the names that need none"
        )
        raise SourceError(f"there is no file or folder {short(text)}", hint=hint)
    if text.lstrip().startswith("{"):
        raise SourceError("MODEL is a config itself: pass it as a file or on standard input", hint="echo '{...}' | unetinspect trace -")
    found = parse_hub_id(text, endpoint=os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT)
    if found is not None:
        return found
    close = nearest_entries(text)
    meant = f"did you mean {', '.join(close)}? " if close else ""
    hint = f"{meant}`unetinspect models` lists the names; else give a path or a hub ID, org/name"
    raise SourceError(f"no model called {short(text)}", hint=hint)


def _bundled(entry: Entry, location: HubLocation | None, *notes: str) -> LoadedModel:
    source = Source(kind="catalog", location=location.id if location else entry.name, subfolder=location.subfolder if location else None)
    return LoadedModel(name=entry.name, config=entry.config, source=source, notes=notes).with_vae_of(entry)


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
        close = [name for name in get_close_matches(place.repo_id, ids, cutoff=_CLOSE_ID) if name != place.repo_id]
        if close:
            error.hint = f"{error.hint}; the catalog has {', '.join(close)}"
        raise
    if model.vae_scale_factor is not None:
        return model
    known = find_hub_id(place.repo_id, model.source.subfolder or "")
    return model.with_vae_of(known[0] if known else None)


def _checkpoint_on_hub(repository: HubRepository, file: str) -> LoadedModel:
    from unetinspect.source.checkpoint import config_beside, model_of, weights_in

    weights = weights_in(repository, file)
    if weights.checkpoint.layout != "diffusers":
        return model_of(weights)
    config, notes = config_beside(repository, file)
    weights = replace(weights, notes=notes)
    return model_of(weights, None if config is None else LoadedModel(name=repository.name, config=config, source=weights.source))
