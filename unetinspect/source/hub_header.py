"""Headers of weights on the hub, by range requests: a few hundred kB of a file of many GB."""

from __future__ import annotations

import time
from posixpath import dirname, join
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from unetinspect.checkpoint.header import Header, merge_headers
from unetinspect.errors import SourceError, UnetInspectError
from unetinspect.source.hub_id import HubId
from unetinspect.source.hub_repository import HubRepository
from unetinspect.source.weight_files import INDEX_SUFFIX, is_pickle, pickle_error, shard_names, weight_paths

# Seconds for all headers of one answer together.
_HEADER_SECONDS = 30.0


class HubHeader(Struct, frozen=True, kw_only=True):
    """The header of weights on the hub.

    Attributes:
        header: What they hold.
        place: Where they are: `file` is always set.
        commit: The commit that they were read at.
        config: The config.json in the same folder, None where there is none.
        notes: What the user should hear on stderr.
    """

    header: Header
    place: HubId
    commit: str | None
    config: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


def read_hub_header(place: HubId, *, token: str | None = None, is_offline: bool = False) -> HubHeader:
    """Read the header of a file, or of all files of an index; where no file is named, of the UNet's weights.

    Raises:
        HubError: The hub cannot be asked or says no, and no copy of the weights is in its cache on this machine.
        SourceError: There is no such file, it is no safetensors file, or its index points out of its own folder.
        UsageError: The token cannot be one.
    """
    repository = HubRepository(place.repo_id, place.revision, token=token, is_offline=is_offline)
    file = place.file if place.file is not None else _find(repository, place.folder)
    if is_pickle(file):
        raise pickle_error(f"{file} of {place.repo_id}", hint="give the .safetensors of the same repository")
    header = _read(repository, file, deadline=time.monotonic() + _HEADER_SECONDS)
    config, notes = _config_beside(repository, file)
    return HubHeader(
        header=header,
        place=replace(place, file=file),
        commit=repository.commit,
        config=config,
        notes=(*repository.notes(without="the config beside the weights"), *notes),
    )


def find_hub_weights(place: HubId, *, token: str | None = None, is_offline: bool = False) -> HubId:
    """Return the place of the UNet's weights: a pipeline's, or a UNet's own; what names a file already is returned as it is.

    Raises:
        HubError: The hub cannot be asked or says no, and no copy of the weights is in its cache on this machine.
        SourceError: There are none that can be read.
        UsageError: The token cannot be one.
    """
    if place.file is not None:
        return place
    repository = HubRepository(place.repo_id, place.revision, token=token, is_offline=is_offline)
    return replace(place, file=_find(repository, place.folder))


def _find(repository: HubRepository, folder: str | None) -> str:
    paths = weight_paths(folder)
    found = next((path for path in paths if repository.has(path)), None)
    if found is not None:
        return found
    failure = repository.why_missing(paths[0])
    if failure is not None:
        raise failure
    where = repository.name if not folder else f"{repository.name}/{folder}"
    pickle = join(dirname(paths[0]), "diffusion_pytorch_model.bin")
    if repository.has(pickle):
        raise pickle_error(f"{where} has no weights but {pickle}, which")
    raise SourceError(
        f"{where} has no weights under the names that diffusers gives a UNet's",
        hint=f"name the file: hf://{repository.name}/FILE.safetensors",
    )


def _read(repository: HubRepository, file: str, *, deadline: float) -> Header:
    if not file.lower().endswith(INDEX_SUFFIX):
        return _one(repository, file, deadline)
    index = repository.read(file)
    if index is None:
        raise _missing(repository, file)
    what = f"{repository.name}/{file}"
    shards = [join(dirname(file), name) for name in shard_names(index, what=what)]
    return merge_headers((_one(repository, shard, deadline) for shard in shards), name=what)


def _one(repository: HubRepository, file: str, deadline: float) -> Header:
    left = deadline - time.monotonic()
    if left <= 0:
        raise SourceError(f"the headers of {repository.name} were not read within {_HEADER_SECONDS:g} s", hint="give one .safetensors file")
    header = repository.header(file, seconds=left)
    if header is None:
        raise _missing(repository, file)
    return header


def _missing(repository: HubRepository, file: str) -> SourceError:
    hint = "its files are listed on its page, under Files and versions"
    return repository.why_missing(file) or SourceError(f"{repository.name} has no file {file!r}", hint=hint)


def _config_beside(repository: HubRepository, file: str) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    try:
        return repository.read(join(dirname(file), "config.json")), ()
    except UnetInspectError as error:
        return None, (f"the config beside the weights was not read: {error.message}",)
