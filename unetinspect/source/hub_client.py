"""Asks the hub for a file of one repository, within deadlines: the client's own download tries a hub that is gone for 23 s."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from msgspec import Struct

from unetinspect.source.hub_errors import CutOffError, HubError, NoAnswerError, NotAHubError, Question, explain, is_absent, is_from_hub
from unetinspect.source.hub_id import is_repo_id
from unetinspect.source.waiting import wait_for

# Seconds. A socket's timeout bounds one read of one address, and a name may have eight of them: the silences bound the whole.
_SOCKET_TIMEOUT = 2.5
_HEAD_SILENCE = 3.0
# A file is often on another host than the hub, which makes two answers.
_GET_SILENCE = 4.0

_MAX_HOPS = 10

_COMMIT = re.compile(r"[0-9A-Za-z]{1,64}")
_ETAG = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,127}")
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-\d{1,18}|\*)/(\d{1,18}|\*)")

_T = TypeVar("_T")


class Found(Struct, frozen=True, kw_only=True):
    """What the hub says of a file: the commit it was asked at, the name of its contents, its bytes, and what its repository is called."""

    commit: str
    etag: str
    size: int | None
    repo_id: str | None


class Body(Struct, frozen=True, kw_only=True):
    """A part of a file: the bytes that were asked for, the whole file's size, and what its repository is called."""

    raw: bytes
    total: int | None
    repo_id: str | None


class HubClient:
    """One repository of the hub.

    Attributes:
        repo_id: "org/name".
        is_hub: Whether an answer so far had a hub's headers.
    """

    def __init__(self, repo_id: str, revision: str, token: str | None) -> None:
        self.repo_id = repo_id
        self.is_hub = False
        self._revision = revision
        self._token = token
        self._has_token = token is not None

    def find(self, path: str, revision: str) -> Found | None:
        """Return what the hub says of a file, None where the repository has none there.

        Raises:
            HubError: The hub does not answer, or refuses.
        """
        url = self._url(path, revision)
        return self._ask(lambda _: _metadata(url, self._token_to_send()), silence=_HEAD_SILENCE, seconds=_HEAD_SILENCE)

    def fetch(self, path: str, revision: str, *, count: int, first: int = 0, seconds: float) -> Body | None:
        """Return up to `count` bytes of a file from byte `first` on; None where there is no such file. No more is read.

        Raises:
            HubError: The hub does not answer within `seconds`, refuses, or sends less than it says.
        """
        return self._fetch(self._url(path, revision), first=first, count=count, seconds=seconds)

    def files(self, revision: str, *, count: int) -> bytes:
        """Return up to `count` bytes of the hub's own account of a repository, a JSON mapping; none where it gives none."""
        from huggingface_hub import constants

        url = f"{constants.ENDPOINT}/api/models/{self.repo_id}/revision/{quote(revision, safe='')}"
        try:
            body = self._fetch(url, first=0, count=count, seconds=_HEAD_SILENCE)
        except HubError:
            return b""
        return b"" if body is None else body.raw

    def _fetch(self, url: str, *, first: int, count: int, seconds: float) -> Body | None:
        def part(beat: Callable[[], None]) -> Body:
            return _part(url, self._token_to_send(), first=first, count=count, beat=beat)

        return self._ask(part, silence=_GET_SILENCE, seconds=seconds)

    def explained(self, error: BaseException) -> HubError:
        """Say in one sentence why the hub's answer is none."""
        return explain(error, self._question())

    def _ask(self, call: Callable[[Callable[[], None]], _T], *, silence: float, seconds: float) -> _T | None:
        try:
            with _quiet_client():
                return wait_for(call, silence=silence, seconds=seconds)
        except _failures() as error:
            if is_absent(error):
                self.is_hub = self.is_hub or is_from_hub(error)
                return None
            failure = self.explained(error)
        # Raised out here: the client's error has the request in it, and so the token, and must not hang on ours as its context.
        raise failure

    def _url(self, path: str, revision: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.repo_id, path, revision=revision)

    def _token_to_send(self) -> str | bool:
        # Not before the hub is asked: finding a token may mean to renew it over the network.
        token = self._token or _implicit_token()
        self._has_token = token is not None
        return token or False

    def _question(self) -> Question:
        from huggingface_hub import constants

        return Question(repo_id=self.repo_id, revision=self._revision, endpoint=constants.ENDPOINT, has_token=self._has_token)


def _implicit_token() -> str | None:
    from huggingface_hub import constants, get_token

    try:
        return None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    except OSError:  # a file of tokens that may not be read
        return None


def _metadata(url: str, token: str | bool) -> Found:
    """Ask for what the hub says of a file, once: some versions of the client ask again and again."""
    from huggingface_hub import constants, get_session, hf_raise_for_status

    client = get_session()
    request = client.build_request("HEAD", url, headers=_headers(token), timeout=_SOCKET_TIMEOUT)
    hops = [client.send(request, follow_redirects=False)]
    # To another name of the repository, to another place on the hub; but not to where the file is, where the hub itself told all.
    while hops[-1].next_request is not None and len(hops) < _MAX_HOPS:
        is_told = "x-repo-commit" in hops[-1].headers and not str(hops[-1].next_request.url).startswith(f"{constants.ENDPOINT}/")
        if is_told:
            break
        hops.append(client.send(hops[-1].next_request, follow_redirects=False))
    headers = hops[-1].headers
    hf_raise_for_status(hops[-1])
    commit = headers.get("x-repo-commit") or ""
    etag = (headers.get("x-linked-etag") or headers.get("etag") or "").removeprefix("W/").strip('"')
    # Both become names of files in the cache.
    if not (_COMMIT.fullmatch(commit) and _ETAG.fullmatch(etag)):
        raise NotAHubError("what is there is not a model hub")
    size = headers.get("x-linked-size") or (None if hops[-1].is_redirect else headers.get("content-length")) or ""
    return Found(commit=commit, etag=etag, size=int(size) if _NUMBER.fullmatch(size) else None, repo_id=_name_in(hops))


def _headers(token: str | bool) -> dict[str, str]:
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, and not marked so

    # Not compressed, so that sizes are those of the file.
    return {**build_hf_headers(token=token), "Accept-Encoding": "identity"}


def _name_in(hops: list[Any]) -> str | None:
    """Return what the repository is called where the redirects came to: the last address that names it."""
    return next((found for hop in reversed(hops) if (found := _repo_of(str(hop.url)))), None)


def _part(url: str, token: str | bool, *, first: int, count: int, beat: Callable[[], None]) -> Body:
    """Read a part of a file and not a byte more than comes with it, also where the server sends the whole file."""
    from huggingface_hub import get_session, hf_raise_for_status

    headers = {**_headers(token), "Range": f"bytes={first}-{first + count - 1}"}
    # A redirect to another host goes without the token: the HTTP library drops it there.
    with get_session().stream("GET", url, headers=headers, timeout=_SOCKET_TIMEOUT, follow_redirects=True) as response:
        beat()
        start, total = _placed(response)
        repo_id = _name_in([*response.history, response])
        if response.status_code == 416 and total == 0:
            return Body(raw=b"", total=0, repo_id=repo_id)
        if response.status_code >= 400:
            # Told by its headers alone: the client would read the body to its end, however long it is.
            hf_raise_for_status(type(response)(response.status_code, headers=_without_body(response), request=response.request))
        if not start <= first:
            raise NotAHubError("it sent another part of the file than was asked for")
        expected = count if total is None else max(min(count, total - first), 0)
        raw = _read(response, skip=first - start, count=expected, beat=beat)
    if total is not None and len(raw) < expected:
        raise CutOffError(f"{len(raw)} of {expected} bytes came")
    return Body(raw=raw, total=total, repo_id=repo_id)


def _read(response: Any, *, skip: int, count: int, beat: Callable[[], None]) -> bytes:
    parts: list[bytes] = []
    held = 0
    try:
        for chunk in response.iter_bytes() if count else ():
            beat()
            part = chunk[skip : skip + count - held]
            skip = max(skip - len(chunk), 0)
            parts.append(part)
            held += len(part)
            if held >= count:
                break
    except NoAnswerError:
        raise
    except _failures() as error:
        how = "it fell silent" if "Timeout" in type(error).__name__ else "the connection broke off"
        raise CutOffError(f"{how} after {held} of {count} bytes") from error
    return b"".join(parts)


def _placed(response: Any) -> tuple[int, int | None]:
    """Return where in the file a body starts, and the file's size; the whole file's where a server does not know ranges."""
    found = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    if found is not None:
        return int(found[1] or 0), None if found[2] == "*" else int(found[2])
    length = response.headers.get("content-length", "")
    return 0, int(length) if response.status_code == 200 and _NUMBER.fullmatch(length) else None


def _without_body(response: Any) -> list[tuple[str, str]]:
    return [(name, value) for name, value in response.headers.multi_items() if not name.lower().startswith(("content-", "transfer-"))]


def _repo_of(url: str) -> str | None:
    """Return the repository that an address of the hub is of, None for an address elsewhere."""
    from huggingface_hub import constants

    if not url.startswith(constants.ENDPOINT + "/") or "/resolve/" not in url:
        return None
    repo_id = unquote(url.removeprefix(constants.ENDPOINT + "/").partition("/resolve/")[0])
    return repo_id if is_repo_id(repo_id) else None


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
