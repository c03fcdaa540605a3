"""One repository of the model hub: its files, from the hub or from the cache that the hub's client keeps on this machine.

Not through `hf_hub_download`: it asks for the metadata a second time, retries for 23 to 86 s where the hub fails, fetches a file of
any size, leaves a part of it in the cache when it is interrupted, and fails where the cache is read-only.
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

from unetinspect.checkpoint.header import PREFIX_BYTES, Header, header_length, parse_header
from unetinspect.errors import SourceError, UsageError
from unetinspect.source.hub_errors import CutOffError, HubError, NoAnswerError, NotAHubError, explain, offline
from unetinspect.source.hub_id import DEFAULT_ENDPOINT, HubId, check_endpoint, is_repo_id
from unetinspect.source.parse import MAX_BYTES, decode, parse_mapping, read_file, refuse_big
from unetinspect.source.place import Place, read_header
from unetinspect.streams import write_file

# Seconds. The socket's timeout bounds one read of one address, and a name may have eight of them: the others bound an answer.
_SOCKET_TIMEOUT = 2.5
_HEAD_SECONDS = 3.0
# A file is often on another host than the hub, which makes two answers.
_GET_SECONDS = 4.0
# These bound a hub that goes on sending, very slowly: one config, and the headers of all files of an index.
_CONFIG_SECONDS = 10.0
_HEADERS_SECONDS = 30.0
# What the hub's own client asks for first: the header of SD 1.5's UNet has 83 kB.
_FIRST_BYTES = 100_000

_COMMIT = re.compile(r"[0-9A-Za-z]{1,64}")
# Where a hub keeps a file of a repository; the second is where it sends on to for small ones.
_NAME = re.compile(r"/(?:([^/]+/[^/]+)/resolve|api/resolve-cache/models/([^/]+/[^/]+))/")

_T = TypeVar("_T")


class _Found(NamedTuple):
    """What the hub says of a file: the commit that it was asked at, and the file's bytes where it says them."""

    commit: str
    size: int | None


class HubRepository(Place):
    """The files of one repository at one revision, all at the commit that the first was read at.

    Once the hub has failed to answer, it is not asked again: what is left comes from the cache. Where the hub's answer is that
    there can be no file at all, a final `HubError` says why.

    Raises:
        SourceError: HF_ENDPOINT cannot be asked.
        UsageError: The token cannot be one.
    """

    is_local = False

    def __init__(self, place: HubId, *, token: str | None = None, is_offline: bool = False) -> None:
        check_endpoint(os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT)
        from huggingface_hub import constants

        # The client would quote an illegal header, token and all.
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
            except Exception:  # whatever a mirror answers: only a hint depends on it
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
        # What a commit holds does not change: a copy of it needs no question.
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
            self._unwritten = (error.strerror or type(error).__name__).lower()
        return config

    def _fetch_header(self, path: str, found: _Found, what: str) -> Header:
        def fetch(first: int, count: int) -> bytes:
            # But time for one answer.
            return self._fetch(path, found, first=first, count=count, seconds=max(self._deadline - time.monotonic(), 1.0))

        raw = fetch(0, _FIRST_BYTES)
        end = PREFIX_BYTES + header_length(raw[:PREFIX_BYTES], what=what, file_bytes=found.size)
        if len(raw) < end:
            raw += fetch(len(raw), end - len(raw))
        return parse_header(raw[PREFIX_BYTES:end], what=what, file_bytes=found.size)

    def _fetch(self, path: str, found: _Found, *, first: int = 0, count: int, seconds: float) -> bytes:
        """Return up to `count` bytes of a file from byte `first` on. No more is read, also where the server sends the whole file."""
        if found.size is not None and first >= found.size:
            return b""
        response = self._ask(lambda: self._open(path, found.commit, f"bytes={first}-{first + count - 1}"), seconds=_GET_SECONDS)
        # Where the answer begins in the file: at its start, from a server that does not know ranges.
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
        # Raised out here: the client's error has the request in it, and so the token, and must not hang on ours as its context.
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
            # A bare 404, without the header that says what is missing: a mirror's, or that of a proxy in between.
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
        # A redirect to another host goes without the token: the HTTP library drops it there.
        response = client.send(request, stream=True, follow_redirects=True)
        for answer in (*response.history, response):
            self._note_name(str(answer.url))
        if response.is_error:  # not left to the client's own check, which reads an error's body to its end, however long that is
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


def wait_for(call: Callable[[], _T], *, seconds: float) -> _T:
    """Return what `call` returns, or raise what it raises.

    In a thread of its own, so that nothing the system does can hold up the deadline or Ctrl-C, not even the search for an address.

    Raises:
        NoAnswerError: It took longer than `seconds`; the thread is left to end on its own.
    """
    outcome: Future[_T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # carried to the thread that asked
            outcome.set_exception(error)

    Thread(target=run, daemon=True).start()
    try:
        return outcome.result(seconds)
    except TimeoutError:
        if outcome.done():  # it is the call's own
            raise
    raise NoAnswerError(f"no answer within {seconds:g} s")


def _headers_with(token: str | None) -> dict[str, str]:
    """Return what to send with a request; to be called in the thread that asks: finding a token may mean to renew it over the network."""
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, and not marked so

    try:
        headers = build_hf_headers(token=token)
    except OSError:  # a file of tokens that may not be read
        headers = build_hf_headers(token=False)
    # Not compressed, so that sizes are those of the file.
    return {**headers, "Accept-Encoding": "identity"}


def read_body(response: Any, end: int, *, is_known: bool, seconds: float) -> bytes:
    """Return a body up to byte `end`; `is_known`: it has as many.

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
    """Return what asking may raise that is the network's or the settings' fault, and no bug.

    The client's HTTP library is httpx in huggingface_hub 1, httpx2 in 2; it says ImportError or ValueError of a proxy that it cannot use.
    """
    from huggingface_hub.errors import HfHubHTTPError

    base = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    invalid = getattr(sys.modules[base.__module__.partition(".")[0]], "InvalidURL", ValueError)
    return (NoAnswerError, NotAHubError, CutOffError, OSError, ImportError, ValueError, base, invalid)


@contextmanager
def _quiet_client() -> Iterator[None]:
    """Keep the client's warnings off stderr, where our notes say what matters, and its questions on the side out of our deadlines."""
    from huggingface_hub import constants

    logger = logging.getLogger("huggingface_hub")
    level, has_no_telemetry = logger.level, constants.HF_HUB_DISABLE_TELEMETRY
    logger.setLevel(logging.ERROR)
    # With it the client first asks the hub which agents there are, for up to 3 s.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        yield
    finally:
        logger.setLevel(level)
        constants.HF_HUB_DISABLE_TELEMETRY = has_no_telemetry
