"""The files of one hub repository at one revision: from the hub, or from its cache on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from unetinspect.checkpoint.header import PREFIX_BYTES, Header, header_length, parse_header
from unetinspect.errors import SourceError, UsageError
from unetinspect.source.hub_cache import cached_file, commit_of, keep_file
from unetinspect.source.hub_client import Found, HubClient
from unetinspect.source.hub_errors import HubError, NotAHubError, offline
from unetinspect.source.local_header import read_local_header
from unetinspect.source.parse import MAX_BYTES, parse_mapping, read_text, refuse_big
from unetinspect.source.weight_files import is_weights

# Seconds. A hub that falls silent is told of sooner; these bound one that goes on sending, very slowly.
_CONFIG_SECONDS = 10.0
# What the hub's own client asks for first: the header of SD 1.5's UNet has 83 kB.
_FIRST_BYTES = 100_000

_T = TypeVar("_T")


class _Sibling(Struct):
    rfilename: str


class _Listed(Struct):
    siblings: list[_Sibling] = []


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
        from huggingface_hub import constants

        self.name = repo_id
        self.commit: str | None = None
        self.failure: HubError | None = None
        self._because = "--offline" if is_offline else "HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else ""
        self._revision = revision or constants.DEFAULT_REVISION
        self._client = HubClient(repo_id, self._revision, _checked(token))
        self._copies: list[str] = []
        self._notes: list[str] = []
        self._answers: dict[str, dict[str, Any] | None] = {}
        if self._because:
            self.failure = offline(repo_id, because=self._because)

    def read(self, path: str) -> dict[str, Any] | None:
        """Return the config at `path`, None where the repository, or its cached copy, has none.

        Raises:
            HubError: The hub's answer is that there can be none.
            UnetInspectError: It is no config.
        """
        if path not in self._answers:
            self._answers[path] = self._get(path, lambda file: self._config_in(file, path), lambda found: self._fetch_config(path, found))
        return self._answers[path]

    def header(self, path: str, *, seconds: float) -> Header | None:
        """Return the header of the weights at `path`, within so many seconds; None where there is no such file, or no answer.

        Raises:
            HubError: The hub's answer is that there can be none.
            SourceError: It is no safetensors file.
        """
        what = f"{self.name}/{path}"
        return self._get(
            path, lambda file: read_local_header(file, what=what), lambda found: self._fetch_header(path, found, what=what, seconds=seconds)
        )

    def has(self, path: str) -> bool:
        """Return whether there is such a file, on the hub or, where that is not asked, in the cache."""
        return self._get(path, lambda _: True, lambda _: True) is not None

    def checkpoints(self) -> list[str]:
        """Return the .safetensors files at the root, none where the hub does not say; one more question."""
        raw = self._client.files(self.commit or self._revision, count=MAX_BYTES) if self.failure is None else b""
        try:
            listed = msgspec.json.decode(raw, type=_Listed).siblings
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return []
        names = [sibling.rfilename for sibling in listed]
        return sorted(name for name in names if "/" not in name and name.isprintable() and is_weights(name))

    def notes(self, *, without: str) -> tuple[str, ...]:
        """Say what was read from the cache because the hub was not asked, or that it was done `without`; and what else there is to say."""
        if self.failure is None:
            return tuple(self._notes)
        if not self._copies:
            return (*self._notes, f"{self.failure.reason}: {without} of {self.name} was not read")
        copies = ", ".join(dict.fromkeys(self._copies))
        return (*self._notes, f"{self.failure.reason}: {copies} of {self.name} was read from the cache, commit {str(self.commit)[:7]}")

    def why_missing(self, path: str) -> HubError | None:
        """Return why it is not known whether there is such a file; None where the hub said that there is none."""
        if self._because:
            return offline(f"{path} of {self.name}", because=self._because)
        return self.failure or self.doubt()

    def doubt(self) -> HubError | None:
        """Return why the hub's misses cannot be believed; None where it showed that it is one."""
        if self._client.is_hub or self.commit is not None:
            return None
        return self._client.explained(NotAHubError("it has no file, and does not say so as a hub does"))

    def _get(self, path: str, from_file: Callable[[Path], _T], from_hub: Callable[[Found], _T | None]) -> _T | None:
        if self.failure is None:
            try:
                return self._online(path, from_file, from_hub)
            except HubError as error:
                if error.is_final:
                    raise
                self.failure = error
        file = cached_file(self.name, path, self.commit or self._revision)
        if file is None:
            return None
        self.commit = self.commit or commit_of(file)
        self._copies.append(path)
        return from_file(file)

    def _online(self, path: str, from_file: Callable[[Path], _T], from_hub: Callable[[Found], _T | None]) -> _T | None:
        revision = self.commit or self._revision
        copy = cached_file(self.name, path, revision)
        # What a commit holds does not change: a copy of it needs no question.
        if copy is not None and commit_of(copy) == revision:
            self.commit = revision
            return from_file(copy)
        found = self._client.find(path, revision)
        if found is None:
            return None
        self._note_name(found.repo_id)
        is_copied = copy is not None and commit_of(copy) == found.commit
        value = from_file(copy) if is_copied and copy is not None else from_hub(found)
        self.commit = self.commit or found.commit
        return value

    def _note_name(self, repo_id: str | None) -> None:
        note = f"{self.name} is called {repo_id} today"
        if repo_id is not None and repo_id.lower() != self.name.lower() and note not in self._notes:
            self._notes.append(note)

    def _config_in(self, file: Path, path: str) -> dict[str, Any]:
        what = f"{path} of {self.name}"
        try:
            with file.open("rb") as stream:
                text = read_text(stream, what=what)
        except OSError as error:
            raise SourceError(
                f"{file} cannot be read: {error.strerror or type(error).__name__}", hint="check that you may read it"
            ) from None
        return parse_mapping(text, what=what, is_yaml=False)

    def _fetch_config(self, path: str, found: Found) -> dict[str, Any] | None:
        what = f"{path} of {self.name}"
        refuse_big(found.size, what=what)
        body = self._client.fetch(path, found.commit, count=MAX_BYTES + 1, seconds=_CONFIG_SECONDS)
        if body is None:
            return None
        config = parse_mapping(read_text(BytesIO(body.raw), what=what), what=what, is_yaml=False)
        try:
            keep_file(self.name, path, body.raw, revision=self.commit or self._revision, commit=found.commit, etag=found.etag)
        except OSError as error:
            why = (error.strerror or type(error).__name__).lower()
            note = f"the hub's cache could not be written ({why}): what was read of {self.name} is not kept; HF_HOME names another folder"
            self._notes += [] if note in self._notes else [note]
        return config

    def _fetch_header(self, path: str, found: Found, *, what: str, seconds: float) -> Header | None:
        deadline = time.monotonic() + seconds
        body = self._client.fetch(path, found.commit, count=_FIRST_BYTES, seconds=seconds)
        if body is None:
            return None
        # The hub's own answer was often a redirect to where the file is; only this one says what it is called.
        self._note_name(body.repo_id)
        file_bytes = found.size if body.total is None else body.total
        length = header_length(body.raw[:PREFIX_BYTES], what=what, file_bytes=file_bytes)
        raw = body.raw[PREFIX_BYTES : PREFIX_BYTES + length]
        if len(raw) < length:
            first, left = PREFIX_BYTES + len(raw), max(deadline - time.monotonic(), 1.0)
            rest = self._client.fetch(path, found.commit, first=first, count=length - len(raw), seconds=left)
            raw += b"" if rest is None else rest.raw
        return parse_header(raw, what=what, file_bytes=file_bytes)


def _checked(token: str | None) -> str | None:
    # The client would quote an illegal header, token and all.
    if token is not None and not (token.isascii() and token.isprintable() and token and " " not in token):
        raise UsageError("--token is not a token: it is empty, or holds a character that no token has", hint="paste it whole: hf_...")
    return token
