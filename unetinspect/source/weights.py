"""What the user typed as a checkpoint -> its header and what it is. Never reads a weight."""

from __future__ import annotations

from unetinspect.catalog import find_entry
from unetinspect.errors import SourceError, UsageError
from unetinspect.source.base import LoadedWeights
from unetinspect.source.checkpoint import weights_at
from unetinspect.source.hub_id import HubId, with_options
from unetinspect.source.local_header import find_local_weights
from unetinspect.source.read import can_be_name, existing_path, parse_place


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
    path = existing_path(name)
    if path is not None:
        if revision is not None:
            raise UsageError(f"--revision does not apply to {path} on this machine", hint="leave it out")
        if path.is_dir():
            path = find_local_weights(path, subfolder)
        elif subfolder is not None:
            raise UsageError(f"--subfolder does not apply to a file: {path}", hint="leave it out")
        return weights_at(path)
    from unetinspect.source.hub import read_hub_weights

    place = with_options(_place_of(name), revision=revision, subfolder=subfolder)
    return read_hub_weights(place, token=token, is_offline=offline)[0]


def _place_of(name: str) -> HubId:
    """Return the place on the hub that is meant; a catalog name stands for where its model is published."""
    entry = find_entry(name) if can_be_name(name) else None
    if entry is None:
        return parse_place(name)
    location = next((location for location in entry.hub if location.gone is None), None)
    if location is None:
        raise SourceError(f"the catalog knows no weights of {entry.name} on the hub", hint="give a .safetensors file")
    return HubId(repo_id=location.id, folder=location.subfolder or "")
