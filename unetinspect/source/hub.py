"""Models of a hub repository, from the hub or its cache on this machine: configs, and of weights the header alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from posixpath import dirname, join
from typing import Any, TypeVar

from unetinspect.checkpoint.header import PREFIX_BYTES, Header, header_length, merge_headers, parse_header
from unetinspect.errors import SourceError, UnetInspectError, UsageError
from unetinspect.files import write_file
from unetinspect.record import Source
from unetinspect.source.base import LoadedModel, LoadedWeights
from unetinspect.source.hub_client import Found, HubClient
from unetinspect.source.hub_errors import HubError, NotAHubError, offline
from unetinspect.source.hub_id import DEFAULT_ENDPOINT, HubId, check_endpoint
from unetinspect.source.local_header import read_local_header
from unetinspect.source.parse import MAX_BYTES, parse_mapping, read_file, read_text, refuse_big
from unetinspect.source.pipeline import NoUnetError, find_unet, find_vae
from unetinspect.source.weight_files import INDEX_SUFFIX, is_pickle, is_weights, pickle_error, shard_names, weight_paths

# Seconds. A hub that falls silent is told of sooner; these bound one that goes on sending, very slowly.
_CONFIG_SECONDS = 10.0
_HEADER_SECONDS = 30.0
# What the hub's own client asks for first: the header of SD 1.5's UNet has 83 kB.
_FIRST_BYTES = 100_000

_T = TypeVar("_T")


def read_hub(model: HubId, *, token: str | None = None, is_offline: bool = False) -> LoadedModel:
    """Read the UNet's config of a repository, from the hub or from its cache on this machine.

    Raises:
        HubError: The hub cannot be asked or says no, and no copy is in the cache.
        SourceError: The repository was read and holds no UNet, or a config that cannot be read.
        UsageError: The token cannot be one.
    """
    repository = HubRepository(model.repo_id, model.revision, token=token, is_offline=is_offline)
    try:
        found = find_unet(repository, model.folder)
    except NoUnetError as error:
        raise repository.why_missing() or _with_checkpoints(error, repository, model) from None
    vae = find_vae(repository, found.folder)
    return LoadedModel(
        name=model.repo_id,
        config=found.config,
        source=Source(kind="hub", location=model.repo_id, revision=repository.commit, subfolder=found.folder or None),
        vae_scale_factor=vae.factor,
        vae_scale_from=vae.read_from,
        notes=(*repository.notes(without="the VAE's config"), *found.notes, *vae.notes),
    )


def read_hub_weights(place: HubId, *, token: str | None = None, is_offline: bool = False) -> tuple[LoadedWeights, dict[str, Any] | None]:
    """Read the header of a file, or of all files of an index, and the config in the same folder, where there is one.

    Where `place` names no file, it is that of the pipeline's UNet.

    Raises:
        HubError: The hub cannot be asked or says no, and no copy of the weights is in its cache on this machine.
        SourceError: There is no such file, it is not a safetensors file, or its index points out of its own folder.
        UsageError: The token cannot be one.
    """
    from unetinspect.checkpoint.identify import identify  # here: what reads no checkpoint need not wait for it

    repository = HubRepository(place.repo_id, place.revision, token=token, is_offline=is_offline)
    deadline = time.monotonic() + _HEADER_SECONDS
    paths = weight_paths(place.folder) if place.file is None else (place.file,)
    header = next((header for path in paths if (header := repository.header(path, deadline=deadline)) is not None), None)
    if header is None:
        raise _without_weights(repository, place)
    config, unread = None, ""
    try:
        config = repository.read(join(dirname(header.name.removeprefix(f"{repository.name}/")), "config.json"))
    except UnetInspectError as error:
        unread = f"could not read the config beside the weights: {error.message}"
    source = Source(kind="hub", location=header.name, revision=repository.commit)
    notes = (*repository.notes(without="the config beside the weights"), *([unread] if unread else []))
    return LoadedWeights(header=header, checkpoint=identify(header), source=source, notes=notes), config


class HubRepository:
    """The files of one repository at one revision.

    Once the hub has failed to answer, it is not asked again: what is left comes from the cache.

    Attributes:
        name: "org/name".
        commit: The commit that the first file was read at; the others are read at the same one.
        failure: Why the hub is not asked, None while it answers.
    """

    is_local = False

    def __init__(self, repo_id: str, revision: str | None, *, token: str | None, is_offline: bool) -> None:
        check_endpoint(os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT)
        from huggingface_hub import constants

        # The client would quote an illegal header, token and all.
        if token is not None and not (token.isascii() and token.isprintable() and token and " " not in token):
            raise UsageError("invalid --token: it is empty or contains an illegal character", hint="paste it whole: hf_...")
        self.name = repo_id
        self.commit: str | None = None
        self._because = "--offline" if is_offline else "HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else ""
        self.failure = offline(repo_id, because=self._because) if self._because else None
        self._revision = revision or constants.DEFAULT_REVISION
        self._client = HubClient(repo_id, self._revision, token)
        self._copies: list[str] = []
        self._unwritten = ""
        self._configs: dict[str, dict[str, Any] | None] = {}

    def read(self, path: str) -> dict[str, Any] | None:
        """Return the config at `path`, None where the repository, or its cached copy, has none.

        Raises:
            HubError: The hub's answer is that there can be none.
            UnetInspectError: It is not a config.
        """
        if path not in self._configs:
            what = f"{path} of {self.name}"
            self._configs[path] = self._get(
                path,
                lambda copy: parse_mapping(read_file(copy, what=what), what=what, is_yaml=False),
                lambda found: self._fetch_config(path, found, what),
            )
        return self._configs[path]

    def header(self, path: str, *, deadline: float) -> Header | None:
        """Return the header of a file, or those of all files of an index as one; None where there is no such file, or no answer.

        Raises:
            HubError: The hub's answer is that there can be none.
            SourceError: It is not a safetensors file, or was not read before the deadline.
        """
        what = f"{self.name}/{path}"
        if path.lower().endswith(INDEX_SUFFIX):
            index = self.read(path)
            shards = [] if index is None else [join(dirname(path), name) for name in shard_names(index, what=what)]
            return merge_headers((self._shard(shard, deadline) for shard in shards), name=what) if shards else None
        if time.monotonic() > deadline:
            raise SourceError(
                f"reading the headers of {self.name} took longer than {_HEADER_SECONDS:g} s", hint="give one .safetensors file"
            )
        return self._get(
            path, lambda copy: read_local_header(copy, what=what), lambda found: self._fetch_header(path, found, what, deadline)
        )

    def files(self) -> list[str]:
        """Return the paths of all files; none where the hub does not say."""
        return self._client.files(self.commit or self._revision)

    def notes(self, *, without: str) -> tuple[str, ...]:
        """Say what was read from the cache because the hub was not asked, or that it was done `without`; and what else there is to say."""
        notes = [f"{self.name} is now called {self._client.new_name}"] if self._client.new_name else []
        if self._unwritten:
            notes.append(f"could not write the hub's cache ({self._unwritten}): {self.name} is not kept; set HF_HOME to another folder")
        if self.failure is not None and not self._copies:
            notes.append(f"{self.failure.reason}: {without} of {self.name} was not read")
        elif self.failure is not None:
            copies = ", ".join(dict.fromkeys(self._copies))
            notes.append(f"{self.failure.reason}: read {copies} of {self.name} from the cache, commit {str(self.commit)[:7]}")
        return tuple(notes)

    def why_missing(self, path: str = "") -> HubError | None:
        """Return why it is not known whether there is such a file, or repository; None where the hub said that there is none."""
        if self._because:
            return offline(f"{path} of {self.name}" if path else self.name, because=self._because)
        return self.failure or (None if self._client.is_hub or self.commit else self._client.explained(NotAHubError()))

    def missing(self, path: str) -> SourceError:
        """Return the error that a file that was named is not there, or why that is not known."""
        hint = "its files are listed on its page, under Files and versions"
        return self.why_missing(path) or SourceError(f"{self.name} has no file {path!r}", hint=hint)

    def _shard(self, path: str, deadline: float) -> Header:
        header = self.header(path, deadline=deadline)
        if header is None:
            raise self.missing(path)
        return header

    def _get(self, path: str, from_file: Callable[[Path], _T], from_hub: Callable[[Found], _T]) -> _T | None:
        revision = self.commit or self._revision
        copy = _cached_file(self.name, path, revision)
        # What a commit holds does not change: a copy of it needs no question.
        if self.failure is None and (copy is None or _commit_of(copy) != revision):
            try:
                found = self._client.find(path, revision)
                if found is None:
                    return None
                if copy is None or _commit_of(copy) != found.commit:
                    value = from_hub(found)
                    self.commit = self.commit or found.commit
                    return value
            except HubError as error:
                if error.is_final:
                    raise
                self.failure = error
        if copy is None:
            return None
        self.commit = self.commit or _commit_of(copy)
        if self.failure is not None:
            self._copies.append(path)
        return from_file(copy)

    def _fetch_config(self, path: str, found: Found, what: str) -> dict[str, Any]:
        refuse_big(found.size, what=what)
        raw = self._client.fetch(path, found, count=MAX_BYTES + 1, seconds=_CONFIG_SECONDS)
        config = parse_mapping(read_text(BytesIO(raw), what=what), what=what, is_yaml=False)
        try:
            _keep_file(self.name, path, raw, revision=self.commit or self._revision, commit=found.commit)
        except OSError as error:
            self._unwritten = (error.strerror or type(error).__name__).lower()
        return config

    def _fetch_header(self, path: str, found: Found, what: str, deadline: float) -> Header:
        raw = self._client.fetch(path, found, count=_FIRST_BYTES, seconds=_left(deadline))
        end = PREFIX_BYTES + header_length(raw[:PREFIX_BYTES], what=what, file_bytes=found.size)
        if len(raw) < end:
            raw += self._client.fetch(path, found, first=len(raw), count=end - len(raw), seconds=_left(deadline))
        return parse_header(raw[PREFIX_BYTES:end], what=what, file_bytes=found.size)


def _cached_file(repo_id: str, path: str, revision: str) -> Path | None:
    """Return the copy of a file at a revision in the hub's cache on this machine; None where there is none."""
    from huggingface_hub import try_to_load_from_cache

    try:
        file = try_to_load_from_cache(repo_id, path, revision=revision)
    except (OSError, ValueError):  # a folder that may not be listed, a name that none could have
        return None
    return Path(file) if isinstance(file, str) else None


def _commit_of(file: Path) -> str:
    """Return the commit of a copy: .../snapshots/<commit>/unet/config.json."""
    return file.parts[-file.parts[::-1].index("snapshots")]


def _keep_file(repo_id: str, path: str, raw: bytes, *, revision: str, commit: str) -> None:
    """Keep a file that was fetched whole where the client keeps it on a file system without links: not in blobs/, with a link to it.

    Nobody ever sees a half of it, and another run may do the same at the same time.

    Raises:
        OSError: The cache cannot be written.
    """
    from huggingface_hub import constants

    root = Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"
    files = {root / "snapshots" / commit / path: raw}
    # Last: a branch is of use only when there is something at its commit.
    if revision != commit:
        files[root / "refs" / revision] = commit.encode()
    for file, content in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, content)


def _with_checkpoints(error: NoUnetError, repository: HubRepository, model: HubId) -> NoUnetError:
    """Return the error with the single-file checkpoints that the repository has instead."""
    paths = repository.files() if model.folder is None else []
    files = sorted(path for path in paths if "/" not in path and path.isprintable() and is_weights(path))
    if not files:
        return error
    revision = f"@{model.revision}" if model.revision else ""
    more = f" (and {len(files) - 1} more)" if len(files) > 1 else ""
    return NoUnetError(
        error.message, hint=f"it has checkpoints, which are read by their headers: hf://{model.repo_id}{revision}/{files[0]}{more}"
    )


def _without_weights(repository: HubRepository, place: HubId) -> SourceError:
    if place.file is not None:
        return repository.missing(place.file)
    first = weight_paths(place.folder)[0]
    failure = repository.why_missing(first)
    if failure is not None:
        return failure
    where = f"{repository.name}/{place.folder}" if place.folder else repository.name
    pickle = next((path for path in repository.files() if is_pickle(path) and dirname(path) == dirname(first)), None)
    if pickle is not None:
        return pickle_error(f"{where} has no weights but {pickle}, which")
    return SourceError(
        f"{where} has no weights under the names that diffusers gives a UNet's",
        hint=f"name the file: hf://{repository.name}/FILE.safetensors",
    )


def _left(deadline: float) -> float:
    """Return the seconds until a deadline, but time for one answer."""
    return max(deadline - time.monotonic(), 1.0)
