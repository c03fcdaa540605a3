"""Asks the hub about one repository through huggingface_hub: once, within deadlines, and for no more bytes than are needed.

Not through `hf_hub_download`: it asks for the metadata a second time, retries for 23 to 86 s where the hub fails, fetches a file of
any size, leaves a part of it in the cache when it is interrupted, and fails where the cache is read-only.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from typing import Any, NamedTuple, TypeVar

from unetinspect.source.hub_errors import CutOffError, HubError, NoAnswerError, NotAHubError, explain
from unetinspect.source.hub_id import is_repo_id

# Seconds. The socket's timeout bounds one read of one address, and a name may have eight of them: the others bound an answer.
_SOCKET_TIMEOUT = 2.5
_HEAD_SECONDS = 3.0
# A file is often on another host than the hub, which makes two answers.
_GET_SECONDS = 4.0

_COMMIT = re.compile(r"[0-9A-Za-z]{1,64}")
# Where a hub keeps a file of a repository; the second is where it sends on to for small ones.
_NAME = re.compile(r"/(?:([^/]+/[^/]+)/resolve|api/resolve-cache/models/([^/]+/[^/]+))/")

_T = TypeVar("_T")


class Found(NamedTuple):
    """What the hub says of a file: the commit that it was asked at, and the file's bytes where it says them."""

    commit: str
    size: int | None


class HubClient:
    """One repository of the hub.

    Attributes:
        repo_id: "org/name".
        new_name: What the hub calls it now, where that is another name.
        is_hub: Whether an answer so far had a hub's headers.
    """

    def __init__(self, repo_id: str, revision: str, token: str | None) -> None:
        self.repo_id = repo_id
        self.new_name: str | None = None
        self.is_hub = False
        self._revision = revision
        self._token = token

    def find(self, path: str, revision: str) -> Found | None:
        """Return what the hub says of a file, None where the repository has none there.

        Raises:
            HubError: The hub does not answer, or refuses.
        """
        return self._ask(lambda: self._metadata(path, revision), seconds=_HEAD_SECONDS)

    def fetch(self, path: str, found: Found, *, first: int = 0, count: int, seconds: float) -> bytes:
        """Return up to `count` bytes of a file from byte `first` on. No more is read, also where the server sends the whole file.

        Raises:
            HubError: The hub does not answer, takes longer than `seconds`, refuses, or sends less than it says.
        """
        if found.size is not None and first >= found.size:
            return b""
        response = self._ask(lambda: self._open(path, found.commit, f"bytes={first}-{first + count - 1}"), seconds=_GET_SECONDS)
        # Where the answer begins in the file: at its start, from a server that does not know ranges.
        begin = re.match(r"bytes (\d{1,18})-", response.headers.get("content-range", ""))
        skipped = first - (int(begin[1]) if begin else 0)
        if skipped < 0:
            raise self.explained(NotAHubError())
        end = skipped + (count if found.size is None else min(count, found.size - first))
        raw = self._ask(lambda: read_body(response, end, is_known=found.size is not None, seconds=seconds), seconds=seconds + _GET_SECONDS)
        return raw[skipped:]

    def files(self, revision: str) -> list[str]:
        """Return the paths of all files of the repository; none where the hub does not say."""
        from huggingface_hub import HfApi

        def listed() -> list[str]:
            api = HfApi(token=False, headers=_headers(self._token))
            found = api.model_info(self.repo_id, revision=revision, timeout=_SOCKET_TIMEOUT)
            return [sibling.rfilename for sibling in found.siblings or ()]

        try:
            return self._ask(listed, seconds=_GET_SECONDS)
        except Exception:  # whatever a mirror answers: only a hint depends on it
            return []

    def explained(self, error: BaseException) -> HubError:
        """Say in one sentence why the hub's answer is none."""
        from huggingface_hub import constants

        return explain(error, repo_id=self.repo_id, revision=self._revision, endpoint=constants.ENDPOINT)

    def _ask(self, call: Callable[[], _T], *, seconds: float) -> _T:
        try:
            with _quiet_client():
                return wait_for(call, seconds=seconds)
        except _failures() as error:
            failure = self.explained(error)
        # Raised out here: the client's error has the request in it, and so the token, and must not hang on ours as its context.
        raise failure

    def _metadata(self, path: str, revision: str) -> Found | None:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.errors import HfHubHTTPError, RemoteEntryNotFoundError

        url = hf_hub_url(self.repo_id, path, revision=revision)
        try:
            found = get_hf_file_metadata(url, token=False, headers=_headers(self._token), timeout=_SOCKET_TIMEOUT)
        except HfHubHTTPError as error:
            self.is_hub |= not {"x-error-code", "x-repo-commit"}.isdisjoint(error.response.headers)
            # A bare 404, without the header that says what is missing: a mirror's, or that of a proxy in between.
            is_bare = type(error) is HfHubHTTPError and error.response.status_code == 404
            if is_bare or isinstance(error, RemoteEntryNotFoundError):
                return None
            raise
        # It becomes the name of a folder in the cache.
        if found.commit_hash is None or not _COMMIT.fullmatch(found.commit_hash):
            raise NotAHubError
        self.is_hub = True
        self._note_name(found.location)
        return Found(found.commit_hash, found.size)

    def _open(self, path: str, commit: str, part: str) -> Any:
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.errors import HfHubHTTPError

        client = get_session()
        url = hf_hub_url(self.repo_id, path, revision=commit)
        request = client.build_request("GET", url, headers={**_headers(self._token), "Range": part}, timeout=_SOCKET_TIMEOUT)
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
        if name and is_repo_id(name) and name.lower() != self.repo_id.lower():
            self.new_name = name


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


def _headers(token: str | None) -> dict[str, str]:
    # In the thread that asks: finding a token may mean to renew it over the network.
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
