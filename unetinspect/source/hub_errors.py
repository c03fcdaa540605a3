"""Why the hub did not give a file -> one sentence and a hint.

Found by class, status and headers, never by an exception's text: that may quote a request, whose headers contain the token.
"""

from __future__ import annotations

import os
import re
from errno import ENETDOWN, ENETUNREACH
from typing import Any
from urllib.parse import urlsplit

from unetinspect.errors import SourceError
from unetinspect.source.hub_id import DEFAULT_ENDPOINT

_CATALOG = "use a model from the catalog: `unetinspect models`"
_PAGE = f"its page may say why: {{endpoint}}/{{repo_id}}; use a copy of it, or {_CATALOG}"
_DENIED = "create a token that can read it at {endpoint}/settings/tokens, then `hf auth login` or --token"
_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy")

# By the client's exception, or else by the status of the hub's answer: the reason and the hint.
_ANSWERS: dict[str | int, tuple[str, str]] = {
    "bad token": (
        "the hub rejected the token (401): it is invalid or expired",
        "create one at {endpoint}/settings/tokens, then `hf auth login` or --token; a public model needs none: `hf auth logout`",
    ),
    "GatedRepoError": ("the repository is gated", "accept its terms at {endpoint}/{repo_id}{as_whom}"),
    "RepositoryNotFoundError": ("the hub has no such repository, or it is private", "check the spelling; if it is private, {access}"),
    "RevisionNotFoundError": (
        "the repository has no revision {revision!r}",
        "its branches and tags: {endpoint}/{repo_id}/tree/main",
    ),
    "DisabledRepoError": ("the hub has disabled the repository", _PAGE),
    410: ("the hub has removed the repository", _PAGE),
    451: ("the hub has removed the repository for legal reasons", _PAGE),
    401: ("the hub denied access (401)", _DENIED),
    403: ("the hub denied access (403)", _DENIED),
    429: ("the hub's rate limit is reached (429)", "wait {wait} and try again{higher}"),
    "any other": ("the hub returned error {status}", f"try again in a minute; {{see}}; or {_CATALOG}"),
}


class HubError(SourceError):
    """Raised when a repository cannot be read.

    Attributes:
        reason: Why, as a clause for a note: "the hub's rate limit is reached (429)".
        is_final: Whether no copy or bundled config may be used instead.
    """

    def __init__(self, message: str, *, reason: str, hint: str, is_final: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.is_final = is_final


class NoAnswerError(Exception):
    """Raised when the hub took too long; the message is the limit: "within 3 s"."""


class NotAHubError(Exception):
    """Raised when the server that answers is not a hub: a captive portal, a wrong HF_ENDPOINT."""


class CutOffError(Exception):
    """Raised when an answer began and did not end; the message says after how many bytes."""


def offline(what: str, *, because: str) -> HubError:
    """Return the error for a repository, or a file of one, that is not on this machine when `because` forbids to fetch it."""
    return HubError(
        f"{what} is not in the hub's cache on this machine, and {because} allows no download",
        reason=f"offline ({because})",
        hint=f"go online once, or {_CATALOG}",
    )


def explain(error: BaseException, *, repo_id: str, revision: str, endpoint: str) -> HubError:
    """Return the error for what the hub answered, or for no answer."""
    response = getattr(error, "response", None)
    if response is None:
        reason, hint = _unanswered(error, endpoint)
        return HubError(f"could not fetch {repo_id}: {reason}", reason=reason, hint=f"{hint}, or {_CATALOG}")
    has_token = "authorization" in response.request.headers
    fields = {
        "repo_id": repo_id,
        "revision": revision,
        "endpoint": endpoint,
        "status": response.status_code,
        "access": "this token cannot read it" if has_token else "`hf auth login` or --token",
        "as_whom": " with the account of this token" if has_token else ", then `hf auth login` or --token",
        "higher": "" if has_token else ", or log in for a higher limit: `hf auth login`",
        "wait": _seconds_to_wait(response.headers),
        "see": "https://status.huggingface.co shows the hub's status" if endpoint == DEFAULT_ENDPOINT else "or unset HF_ENDPOINT",
    }
    key = _key(error, response, has_token=has_token)
    reason, hint = (text.format(**fields) for text in _ANSWERS[key])
    return HubError(f"could not fetch {repo_id}: {reason}", reason=reason, hint=hint, is_final=key == "RevisionNotFoundError")


def _key(error: BaseException, response: Any, *, has_token: bool) -> str | int:
    # Without a token the hub answers 401 for what it does not show; with one that it knows, 403 or 404.
    if response.status_code == 401 and has_token:
        message = response.headers.get("x-error-message", "").lower()
        is_named = any(words in message for words in ("invalid credentials", "invalid username or password", "expired"))
        if is_named or response.headers.get("x-error-code") not in ("GatedRepo", "RepoNotFound"):
            return "bad token"
    return next((key for key in (type(error).__name__, response.status_code) if key in _ANSWERS), "any other")


def _seconds_to_wait(headers: Any) -> str:
    """Return what the hub asks for: `Retry-After: 120`, or `RateLimit: "api";r=0;t=55` (a draft of the IETF)."""
    after = re.fullmatch(r"\s*(\d{1,6})\s*", headers.get("retry-after", ""))
    found = after or re.search(r"\bt\s*=\s*(\d{1,6})\b", headers.get("ratelimit", ""))
    return f"{int(found[1])} s" if found else "a few minutes"


def _unanswered(error: BaseException, endpoint: str) -> tuple[str, str]:
    """Return why there is no answer, and what to do about it."""
    import socket  # here, and ssl too: they are not needed unless the hub is asked and does not answer
    import ssl

    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    failed = next((cause for cause in causes if isinstance(cause, OSError) and cause.errno is not None), None)
    host = urlsplit(endpoint).hostname or endpoint
    proxy = next((name for name in _PROXIES if os.environ.get(name)), None)
    settings = ([] if endpoint == DEFAULT_ENDPOINT else ["HF_ENDPOINT"]) + ([f"the proxy in {proxy}"] if proxy else [])
    hint = " and ".join(["check the connection", *settings])
    if isinstance(error, CutOffError):
        why, hint = str(error), "try again"
    elif isinstance(error, NotAHubError):
        why = f"{endpoint} is not a model hub"
    elif (tls := next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)) is not None:
        parts = [(tls.reason or "TLS failed").lower().replace("_", " "), getattr(tls, "verify_message", "")]
        why = f"no trusted connection to {host} ({': '.join(filter(None, parts))})"
        hint = "if a proxy opens connections, name its certificate: SSL_CERT_FILE=/path/to/certificate.pem"
    elif any(isinstance(cause, socket.gaierror) for cause in causes):
        why = f"could not resolve the hub's host name, {host}"
    elif failed is not None and failed.errno in (ENETUNREACH, ENETDOWN):
        why, hint = "no network connection", "connect and try again, use --offline to read the copy on this machine"
    elif isinstance(error, FileNotFoundError | PermissionError) and "SSL_CERT_FILE" in os.environ:
        why, hint = "SSL_CERT_FILE names a file that cannot be read", "unset it or name an existing certificate"
    elif isinstance(error, ImportError | ValueError) and proxy:
        why, hint = f"{proxy} names an unsupported kind of proxy", f"use one that starts with http:// or unset {proxy}"
    elif isinstance(error, NoAnswerError):
        why = f"{endpoint} did not answer {error}"
    else:
        is_late, strerror = "Timeout" in type(error).__name__, failed.strerror.lower() if failed and failed.strerror else ""
        why = f"{endpoint} did not answer ({'timed out' if is_late else strerror or type(error).__name__})"
    return why, hint
