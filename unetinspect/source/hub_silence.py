"""Why there is no answer from the hub: no network, no such host, no trust, a connection that broke off -> one sentence and a hint.

Said from the class of what was raised, never from its text: a message may quote a request, and a token stands in its headers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from errno import ENETDOWN, ENETUNREACH
from urllib.parse import urlsplit

from unetinspect.errors import SourceError
from unetinspect.source.hub_id import DEFAULT_ENDPOINT

CATALOG_HINT = "name a model of the catalog: `unetinspect models`"

_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy")


class HubError(SourceError):
    """Raised when a repository cannot be read.

    Attributes:
        reason: A clause for a note that says why something else was read: "the hub did not answer (timed out)".
        is_final: Whether the hub's answer stands, whatever copy of the repository is at hand.
    """

    def __init__(self, message: str, *, reason: str, hint: str, is_final: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.is_final = is_final


class NoAnswerError(Exception):
    """Raised when the hub took longer than it may; the message says how long that is."""


class NotAHubError(Exception):
    """Raised when what answers is not a hub: a captive portal, a wrong HF_ENDPOINT."""


class CutOffError(Exception):
    """Raised when an answer began and did not end; the message says after how many bytes."""


def unanswered(error: BaseException, status: int | None, *, repo_id: str, endpoint: str) -> HubError:
    """Say why a repository could not be fetched, where the hub itself said nothing of use."""
    named = _named(error, endpoint)
    if named is None:
        clause, hint = f"did not answer ({_clause(error, status)})", f"check the connection{_settings(endpoint)}"
        why, reason = f"{endpoint} {clause}", f"the hub {clause}"
    else:
        why, hint = named
        reason = f"the hub could not be read: {why}"
    return HubError(f"{repo_id} could not be fetched: {why}", reason=reason, hint=f"{hint}, or {CATALOG_HINT}")


def _named(error: BaseException, endpoint: str) -> tuple[str, str] | None:
    """Return a cause that has a name of its own, and what to do about it."""
    import socket  # here, and ssl too: nobody waits for them where the hub is not asked, or answers
    import ssl

    host, causes, proxy = urlsplit(endpoint).hostname or endpoint, list(_causes(error)), _proxy()
    if isinstance(error, CutOffError):
        return f"its answer was cut off: {error}", "try again"
    # An SSLError is an OSError, and so goes first.
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        hint = "where a proxy opens connections, name its certificate: SSL_CERT_FILE=/path/to/certificate.pem"
        return f"there is no trusted connection to {host} ({_ssl_reason(causes)})", hint
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return f"the address of {host} was not found", f"check that there is a network{_settings(endpoint)}"
    if any(isinstance(cause, OSError) and cause.errno in (ENETUNREACH, ENETDOWN) for cause in causes):
        return "there is no network", "connect and try again, read what is on this machine with --offline"
    if isinstance(error, FileNotFoundError | PermissionError) and os.environ.get("SSL_CERT_FILE"):
        return "SSL_CERT_FILE names a file that cannot be read", "unset it, or name a certificate that is there"
    if isinstance(error, ImportError | ValueError) and proxy:
        return f"the proxy that {proxy} names is of a kind that cannot be used", f"name one that starts with http://, unset {proxy}"
    return None


def _settings(endpoint: str) -> str:
    """Name the settings that say where the hub is, and how it is reached."""
    names = [] if endpoint == DEFAULT_ENDPOINT else ["HF_ENDPOINT"]
    proxy = _proxy()
    return "".join(f" and {name}" for name in [*names, *([f"the proxy that {proxy} names"] if proxy else [])])


def _proxy() -> str | None:
    return next((name for name in _PROXIES if os.environ.get(name)), None)


def _clause(error: BaseException, status: int | None) -> str:
    if status is not None:
        return f"error {status}"
    if isinstance(error, NoAnswerError | NotAHubError):
        return str(error)
    name = type(error).__name__
    if "Timeout" in name:
        return "timed out"
    said = next(
        (cause.strerror for cause in _causes(error) if isinstance(cause, OSError) and cause.errno is not None and cause.strerror), None
    )
    return said.lower() if said else name


def _ssl_reason(causes: list[BaseException]) -> str:
    """Say what the operating system's TLS library said: "certificate verify failed: self-signed certificate"."""
    import ssl

    found = next(cause for cause in causes if isinstance(cause, ssl.SSLError))
    reason = (found.reason or "tls failed").lower().replace("_", " ")
    detail = getattr(found, "verify_message", "")
    return f"{reason}: {detail}" if detail else reason


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
