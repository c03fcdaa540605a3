"""One repository of the model hub: its files, from the hub or from the cache that the hub's client keeps on this machine.

Not through `hf_hub_download`: it asks for the metadata a second time, retries for 23 to 86 s if the hub fails, fetches a file of
any size, leaves a part of it in the cache when it is interrupted, and fails if the cache is read-only.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from posixpath import dirname
from threading import Thread
from typing import Any, NamedTuple, TypeVar

from unetinspect.checkpoint.safetensors_header import PREFIX_BYTES, Header, header_length, parse_header
from unetinspect.errors import SourceError, UsageError
from unetinspect.source.hub_errors import CutOffError, HubError, NoAnswerError, NotAHubError, explain, offline
from unetinspect.source.hub_id import DEFAULT_ENDPOINT, HubId, check_endpoint, is_repo_id
from unetinspect.source.parse import MAX_BYTES, decode, parse_mapping, read_file, refuse_big
from unetinspect.source.place import Place, read_header
from unetinspect.streams import reason, write_file

# Seconds. The socket's timeout bounds one read of one address, and a name may have eight of them: the others bound an answer.
_SOCKET_TIMEOUT = 2.5
_HEAD_SECONDS = 3.0
# A file is often on another host than the hub, which makes two answers.
_GET_SECONDS = 4.0
# These bound a hub that sends very slowly: one config, and the headers of all files of an index.
_CONFIG_SECONDS = 10.0
_HEADERS_SECONDS = 30.0
# As the hub's own client does; the header of SD 1.5's UNet has 83 kB.
_FIRST_BYTES = 100_000

_COMMIT = re.compile(r"[0-9A-Za-z]{1,64}")
# The address of a file of a repository; the hub redirects small files to the second.
_NAME = re.compile(r"/(?:([^/]+/[^/]+)/resolve|api/resolve-cache/models/([^/]+/[^/]+))/")

_T = TypeVar("_T")


class _Found(NamedTuple):
    """A file on the hub: the commit of the revision, and the file's size in bytes if the hub gave one."""

    commit: str
    size: int | None


class HubRepository(Place):
    """The files of one repository at one revision, all at the commit that the first was read at.

    Once the hub has failed to answer, it is not asked again: the rest comes from the cache. A final `HubError` is one that the
    cache cannot help with.

    Raises:
        SourceError: HF_ENDPOINT cannot be asked.
        UsageError: The token is not valid.
    """

    is_local = False

    def __init__(self, place: HubId, *, token: str | None = None, is_offline: bool = False) -> None:
        check_endpoint(os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT)
        from huggingface_hub import constants

        # The client would quote an illegal header, with the token.
        if token is not None and not (token.isascii() and token.isprintable() and token and " " not in token):
            raise UsageError("invalid --token: it is empty or contains an illegal character", hint="paste it whole: hf_...")
        self.name = place.repo_id
        self._revision = place.revision or constants.DEFAULT_REVISION
        self._root = f"hf://{place.repo_id}{f'@{place.revision}' if place.revision else ''}"
        self._token = token
        self._offline_by = "--offline" if is_offline else "HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else ""
        self._failure = offline(self.name, because=self._offline_by) if self._offline_by else None
        self._is_hub = False  # whether an answer so far had a hub's headers
        self._new_name: str | None = None
        self._copies: list[str] = []
        self._unwritten = ""
        self._listing: list[str] | None = None
        self._configs: dict[str, dict[str, Any] | None] = {}
        self._deadline = time.monotonic() + _HEADERS_SECONDS

    def read(self, path: str) -> dict[str, Any] | None:
        if path not in self._configs:
            what = f"{path} of {self.name}"
            self._configs[path] = self._get(
                path,
                lambda copy: parse_mapping(read_file(copy, what=what), what=what, is_yaml=False),
                lambda found: self._fetch_config(path, found, what),
            )
        return self._configs[path]

    def header(self, path: str) -> Header | None:
        if time.monotonic() > self._deadline:
            raise SourceError(
                f"reading the headers of {self.name} took longer than {_HEADERS_SECONDS:g} s", hint="give one .safetensors file"
            )
        what = self.title(path)
        return self._get(path, lambda copy: read_header(copy, what=what), lambda found: self._fetch_header(path, found, what))

    def files(self, folder: str) -> list[str]:
        from huggingface_hub import HfApi

        def listed() -> list[str]:
            api = HfApi(token=False, headers=_headers_with(self._token))
            found = api.model_info(self.name, revision=self.commit or self._revision, timeout=_SOCKET_TIMEOUT)
            return sorted(sibling.rfilename for sibling in found.siblings or ())

        if self._listing is None:
            try:
                self._listing = self._ask(listed, seconds=_GET_SECONDS)
            except Exception:  # only a hint depends on it
                self._listing = []
        return [path for path in self._listing if dirname(path) == folder and path.isprintable()]

    def address(self, path: str) -> str:
        return f"{self._root}/{path}"

    def notes(self, *, without: str) -> tuple[str, ...]:
        notes = [f"{self.name} is now called {self._new_name}"] if self._new_name else []
        if self._unwritten:
            notes.append(f"could not write the hub's cache ({self._unwritten}): {self.name} is not kept; set HF_HOME to another folder")
        if self._failure is not None and not self._copies:
            notes.append(f"{self._failure.reason}: {without} of {self.name} was not read")
        elif self._failure is not None:
            copies = ", ".join(dict.fromkeys(self._copies))
            notes.append(f"{self._failure.reason}: read {copies} of {self.name} from the cache, commit {str(self.commit)[:7]}")
        return tuple(notes)

    def doubt(self, path: str = "") -> HubError | None:
        if self._offline_by:
            return offline(f"{path} of {self.name}" if path else self.name, because=self._offline_by)
        return self._failure or (None if self._is_hub or self.commit else self._explained(NotAHubError()))

    def missing(self, path: str) -> SourceError:
        hint = "its files are listed on its page, under Files and versions"
        return self.doubt(path) or SourceError(f"{self.name} has no file {path!r}", hint=hint)

    def _get(self, path: str, from_file: Callable[[Path], _T], from_hub: Callable[[_Found], _T]) -> _T | None:
        revision = self.commit or self._revision
        copy = _cached_file(self.name, path, revision)
        # The files of a commit never change: a copy needs no request.
        if self._failure is None and (copy is None or _commit_of(copy) != revision):
            try:
                found = self._ask(lambda: self._metadata(path, revision), seconds=_HEAD_SECONDS)
                if found is None:
                    return None
                if copy is None or _commit_of(copy) != found.commit:
                    value = from_hub(found)
                    self.commit = self.commit or found.commit
                    return value
            except HubError as error:
                if error.is_final:
                    raise
                self._failure = error
        if copy is None:
            return None
        self.commit = self.commit or _commit_of(copy)
        if self._failure is not None:
            self._copies.append(path)
        return from_file(copy)

    def _fetch_config(self, path: str, found: _Found, what: str) -> dict[str, Any]:
        refuse_big(found.size, what=what)
        raw = self._fetch(path, found, count=MAX_BYTES + 1, seconds=_CONFIG_SECONDS)
        config = parse_mapping(decode(raw, what=what), what=what, is_yaml=False)
        try:
            _keep_file(self.name, path, raw, revision=self.commit or self._revision, commit=found.commit)
        except OSError as error:
            self._unwritten = reason(error)
        return config

    def _fetch_header(self, path: str, found: _Found, what: str) -> Header:
        def fetch(first: int, count: int) -> bytes:
            # Always with time for one answer.
            return self._fetch(path, found, first=first, count=count, seconds=max(self._deadline - time.monotonic(), 1.0))

        raw = fetch(0, _FIRST_BYTES)
        end = PREFIX_BYTES + header_length(raw[:PREFIX_BYTES], what=what, file_bytes=found.size)
        if len(raw) < end:
            raw += fetch(len(raw), end - len(raw))
        return parse_header(raw[PREFIX_BYTES:end], what=what, file_bytes=found.size)

    def _fetch(self, path: str, found: _Found, *, first: int = 0, count: int, seconds: float) -> bytes:
        """Return up to `count` bytes of a file from byte `first` on. No more is read, even if the server sends the whole file."""
        if found.size is not None and first >= found.size:
            return b""
        response = self._ask(lambda: self._open(path, found.commit, f"bytes={first}-{first + count - 1}"), seconds=_GET_SECONDS)
        # A server that does not support ranges sends the file from its start.
        begin = re.match(r"bytes (\d{1,18})-", response.headers.get("content-range", ""))
        skipped = first - (int(begin[1]) if begin else 0)
        if skipped < 0:
            raise self._explained(NotAHubError())
        end = skipped + (count if found.size is None else min(count, found.size - first))
        raw = self._ask(lambda: read_body(response, end, is_known=found.size is not None, seconds=seconds), seconds=seconds + _GET_SECONDS)
        return raw[skipped:]

    def _ask(self, call: Callable[[], _T], *, seconds: float) -> _T:
        try:
            with _quiet_client():
                return wait_for(call, seconds=seconds)
        except _failures() as error:
            failure = self._explained(error)
        # Raised out here: the client's error contains the request, and so the token; it must not become the context of ours.
        raise failure

    def _explained(self, error: BaseException) -> HubError:
        from huggingface_hub import constants

        return explain(error, repo_id=self.name, revision=self._revision, endpoint=constants.ENDPOINT)

    def _metadata(self, path: str, revision: str) -> _Found | None:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.errors import HfHubHTTPError, RemoteEntryNotFoundError

        url = hf_hub_url(self.name, path, revision=revision)
        try:
            found = get_hf_file_metadata(url, token=False, headers=_headers_with(self._token), timeout=_SOCKET_TIMEOUT)
        except HfHubHTTPError as error:
            self._is_hub |= not {"x-error-code", "x-repo-commit"}.isdisjoint(error.response.headers)
            # A mirror or a proxy answers 404 without the header that says what is missing.
            is_bare = type(error) is HfHubHTTPError and error.response.status_code == 404
            if is_bare or isinstance(error, RemoteEntryNotFoundError):
                return None
            raise
        # It becomes the name of a folder in the cache.
        if found.commit_hash is None or not _COMMIT.fullmatch(found.commit_hash):
            raise NotAHubError
        self._is_hub = True
        self._note_name(found.location)
        return _Found(found.commit_hash, found.size)

    def _open(self, path: str, commit: str, part: str) -> Any:
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.errors import HfHubHTTPError

        client = get_session()
        url = hf_hub_url(self.name, path, revision=commit)
        request = client.build_request("GET", url, headers={**_headers_with(self._token), "Range": part}, timeout=_SOCKET_TIMEOUT)
        # The HTTP library drops the token in a redirect to another host.
        response = client.send(request, stream=True, follow_redirects=True)
        for answer in (*response.history, response):
            self._note_name(str(answer.url))
        if response.is_error:  # the client's own check would read the body of an error to its end
            response.close()
            raise HfHubHTTPError("", response=response)
        return response

    def _note_name(self, url: str) -> None:
        from huggingface_hub import constants

        found = _NAME.match(url.removeprefix(constants.ENDPOINT)) if url.startswith(constants.ENDPOINT) else None
        name = found and (found[1] or found[2])
        if name and is_repo_id(name) and name.lower() != self.name.lower():
            self._new_name = name


def _cached_file(repo_id: str, path: str, revision: str) -> Path | None:
    """Return the copy of a file at a revision in the hub's cache on this machine."""
    from huggingface_hub import try_to_load_from_cache

    try:
        file = try_to_load_from_cache(repo_id, path, revision=revision)
    except (OSError, ValueError):  # a folder that may not be listed, an invalid name
        return None
    return Path(file) if isinstance(file, str) else None


def _commit_of(file: Path) -> str:
    """Return the commit of a copy: .../snapshots/<commit>/unet/config.json."""
    return file.parts[-file.parts[::-1].index("snapshots")]


def _keep_file(repo_id: str, path: str, raw: bytes, *, revision: str, commit: str) -> None:
    """Keep a file as the client does on a file system without links: not in blobs/ with a link to it.

    Nobody ever sees half a file, and two runs may write it at the same time.
    """
    from huggingface_hub import constants

    root = Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"
    files = {root / "snapshots" / commit / path: raw}
    # Last: a branch must not name a commit without files.
    if revision != commit:
        files[root / "refs" / revision] = commit.encode()
    for file, content in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, content)


def wait_for(call: Callable[[], _T], *, seconds: float) -> _T:
    """Return what `call` returns, or raise what it raises.

    It runs in its own thread, so that nothing delays the deadline or Ctrl-C, not even the system's search for an address.

    Raises:
        NoAnswerError: It took longer than `seconds`; the thread ends on its own.
    """
    outcome: Future[_T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # raised again in the thread that waits
            outcome.set_exception(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome.done():
        raise NoAnswerError(f"within {seconds:g} s")
    return outcome.result()


def _headers_with(token: str | None) -> dict[str, str]:
    """Return what to send with a request; called in the thread that asks, since a token may be renewed over the network."""
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, and not marked so

    try:
        headers = build_hf_headers(token=token)
    except OSError:  # a file of tokens that may not be read
        headers = build_hf_headers(token=False)
    # Not compressed, so that sizes are the file's.
    return {**headers, "Accept-Encoding": "identity"}


def read_body(response: Any, end: int, *, is_known: bool, seconds: float) -> bytes:
    """Return a body up to byte `end`, or all of a shorter one unless `end` `is_known` to be in it.

    Raises:
        CutOffError: It ended before, the server fell silent, or it took longer than `seconds`.
    """
    raw, why = bytearray(), "connection closed"
    deadline = time.monotonic() + seconds
    try:
        for chunk in response.iter_bytes():
            raw += chunk
            if len(raw) >= end:
                return bytes(raw[:end])
            if time.monotonic() > deadline:
                why = f"time limit of {seconds:.2g} s"
                break
        else:
            if not is_known:
                return bytes(raw)
    except _failures() as error:
        why = "timed out" if "Timeout" in type(error).__name__ else why
    finally:
        response.close()
    raise CutOffError(f"the download stopped after {len(raw)} of {end} bytes ({why})")


def _failures() -> tuple[type[Exception], ...]:
    """Return the exceptions that are the network's or the settings' fault, not bugs.

    The client's HTTP library is httpx in huggingface_hub 1, httpx2 in 2; it raises ImportError or ValueError for an unsupported proxy.
    """
    from huggingface_hub.errors import HfHubHTTPError

    base = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    invalid = getattr(sys.modules[base.__module__.partition(".")[0]], "InvalidURL", ValueError)
    return (NoAnswerError, NotAHubError, CutOffError, OSError, ImportError, ValueError, base, invalid)


@contextmanager
def _quiet_client() -> Iterator[None]:
    """Keep the client's warnings off stderr, and its requests for other things out of our deadlines."""
    from huggingface_hub import constants

    logger = logging.getLogger("huggingface_hub")
    level, has_no_telemetry = logger.level, constants.HF_HUB_DISABLE_TELEMETRY
    logger.setLevel(logging.ERROR)
    # With telemetry the client first asks the hub for a list of agents, for up to 3 s.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        yield
    finally:
        logger.setLevel(level)
        constants.HF_HUB_DISABLE_TELEMETRY = has_no_telemetry
