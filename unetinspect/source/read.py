"""The order in which MODEL is tried: stdin, a path, the catalog, the hub; and what stands in for a hub that says no."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from msgspec.structs import replace

from unetinspect.catalog import Entry, HubLocation, find_entry, find_hub_id, load_catalog, nearest_entries
from unetinspect.errors import SourceError, UsageError
from unetinspect.record import Source
from unetinspect.source.base import LoadedModel
from unetinspect.source.hub_id import (
    DEFAULT_ENDPOINT,
    HubId,
    is_repo_id,
    looks_like_path,
    parse_hub_id,
    short,
    with_options,
)
from unetinspect.source.weight_files import is_weights

if TYPE_CHECKING:
    from unetinspect.source.hub_errors import HubError

_LONGEST_NAME = 80
_CHECK_PATH = "check the path; `unetinspect models` lists the names that need none"
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
    if not os.fspath(model):
        raise SourceError("MODEL is empty", hint="give a path, a hub ID or a name that `unetinspect models` lists")
    if model == "-":
        from unetinspect.source.local import read_stdin  # here, as below: a name of the catalog need not wait for it

        _refuse_options("standard input", revision=revision, subfolder=subfolder)
        return read_stdin(stdin)
    entry = find_entry(model) if isinstance(model, str) and can_be_name(model) else None
    path = _existing(model, subfolder, is_named=entry is not None)
    if path is not None:
        from unetinspect.source.local import read_path

        _refuse_options(f"{path} on this machine", revision=revision)
        note = f"read {path} on this machine, not the catalog's {entry.name}" if entry else ""
        return _with_notes(read_path(path, subfolder=subfolder), note)
    if entry is not None:
        _refuse_options(f"the bundled {entry.name}", revision=revision, subfolder=subfolder, hub_id=entry.hub[0].id if entry.hub else None)
        return _bundled(entry)
    return _read_from_hub(parse_place(model), revision=revision, subfolder=subfolder, token=token, offline=offline)


def can_be_name(text: str) -> bool:
    """Return whether a text can be a catalog name: one too long to be a file's would raise, and a path would cost the whole catalog."""
    return len(text) <= _LONGEST_NAME and "/" not in text and not looks_like_path(text)


def existing_path(text: str) -> Path | None:
    """Return a text as a path where it is one: "~" is the home."""
    path = Path(os.path.expanduser(text))  # noqa: PTH111  Path.expanduser raises where there is no home
    return path if os.path.exists(path) else None  # noqa: PTH110  Path.exists raises for a text that is too long to be a name


def _existing(model: str | os.PathLike[str], subfolder: str | None, *, is_named: bool) -> Path | None:
    """Return MODEL as a path where it is one; a folder without a model does not hide a catalog name or a hub ID."""
    text = os.fspath(model)
    path = existing_path(text)
    if path is None:
        return None
    from unetinspect.source.local import has_config

    is_explicit = not isinstance(model, str) or looks_like_path(text)
    could_be_other = is_named or text.count("/") == 1
    return None if could_be_other and not is_explicit and path.is_dir() and not has_config(path, subfolder) else path


def parse_place(model: str | os.PathLike[str]) -> HubId:
    """Return MODEL as a place on the hub.

    Raises:
        SourceError: It cannot be one, and is nothing else either.
    """
    if not isinstance(model, str) or looks_like_path(model):
        text = os.fspath(model)
        on_hub = text.count("/") >= 2 and is_weights(text) and is_repo_id("/".join(text.split("/")[:2]))
        hint = f"for a file of a hub repository: hf://{text}" if on_hub else _CHECK_PATH
        raise SourceError(f"there is no file or folder {short(text)}", hint=hint)
    if model.lstrip().startswith("{"):
        raise SourceError("MODEL is a config itself: pass it as a file or on standard input", hint="echo '{...}' | unetinspect trace -")
    found = parse_hub_id(model, endpoint=os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT)
    if found is not None:
        return found
    close = nearest_entries(model)
    meant = f"did you mean {', '.join(close)}? " if close else ""
    raise SourceError(
        f"no model called {short(model)}", hint=f"{meant}`unetinspect models` lists the names; else give a path or a hub ID, org/name"
    )


def _read_from_hub(found: HubId, *, revision: str | None, subfolder: str | None, token: str | None, offline: bool) -> LoadedModel:
    from unetinspect.source.hub import read_hub
    from unetinspect.source.hub_errors import HubError

    place = with_options(found, revision=revision, subfolder=subfolder)
    if place.file is not None:
        return _checkpoint_on_hub(place, token=token, offline=offline)
    try:
        model = read_hub(place, token=token, is_offline=offline)
    except HubError as error:
        known = None if error.is_final else find_hub_id(place.repo_id, place.folder)
        if known is None:
            raise _with_close_ids(error, place.repo_id) from None
        return _stand_in(*known, place, error)
    if model.vae_scale_factor is None and (known := find_hub_id(place.repo_id, model.source.subfolder or "")) is not None:
        return replace(model, vae_scale_factor=known[0].vae_scale_factor, vae_scale_from="catalog", medium=known[0].medium)
    return model


def _checkpoint_on_hub(place: HubId, *, token: str | None, offline: bool) -> LoadedModel:
    from unetinspect.source.checkpoint import model_of
    from unetinspect.source.hub import read_hub_weights

    weights, config = read_hub_weights(place, token=token, is_offline=offline)
    if weights.checkpoint.layout != "diffusers" or config is None:
        return model_of(weights)
    return model_of(weights, LoadedModel(name=place.repo_id, config=config, source=weights.source))


def _stand_in(entry: Entry, location: HubLocation, place: HubId, error: HubError) -> LoadedModel:
    """Return the bundled config in place of the hub's, and say so."""
    at = f" at {place.revision}" if place.revision else ""
    gone = f" ({location.gone})" if location.gone else ""
    note = f"{error.reason}: for {place.repo_id}{at} the bundled config of {entry.name} was used{gone}"
    source = Source(kind="catalog", location=location.id, subfolder=location.subfolder)
    return _with_notes(_bundled(entry, source=source), note)


def _bundled(entry: Entry, source: Source | None = None) -> LoadedModel:
    first = entry.hub[0] if entry.hub else None
    source = source or Source(kind="catalog", location=first.id if first else entry.name, subfolder=first.subfolder if first else None)
    return LoadedModel(
        name=entry.name,
        config=entry.config,
        source=source,
        vae_scale_factor=entry.vae_scale_factor,
        vae_scale_from="catalog" if entry.vae_scale_factor else "",
        medium=entry.medium,
    )


def _with_close_ids(error: HubError, repo_id: str) -> HubError:
    from unetinspect.source.hub_errors import HubError

    known = [location.id for entry in load_catalog().values() for location in entry.hub if location.gone is None]
    close = [name for name in get_close_matches(repo_id, known, cutoff=_CLOSE_ID) if name != repo_id]
    if not close or error.is_final:
        return error
    return HubError(error.message, reason=error.reason, hint=f"{error.hint}; the catalog has {', '.join(close)}")


def _refuse_options(where: str, *, revision: str | None, subfolder: str | None = None, hub_id: str | None = None) -> None:
    """Check that no option is given that has nothing to say where MODEL was found.

    Raises:
        UsageError: One is.
    """
    for option, value in (("--revision", revision), ("--subfolder", subfolder)):
        if value is not None:
            hint = f"leave it out, or name the hub's own: {hub_id} {option} {value}" if hub_id else "leave it out"
            raise UsageError(f"{option} does not apply to {where}", hint=hint)


def _with_notes(model: LoadedModel, note: str) -> LoadedModel:
    return replace(model, notes=(note, *model.notes)) if note else model
