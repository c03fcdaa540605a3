"""What the hub's client raises -> one sentence and a hint. Quotes no request: a token stands in its headers."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from unetinspect.errors import SourceError
from unetinspect.source.hub_id import DEFAULT_ENDPOINT


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


class Question(Struct, frozen=True, kw_only=True):
    """What was asked of the hub, as far as an error may tell.

    Attributes:
        repo_id: "org/name".
        revision: The branch, tag or commit.
        endpoint: The hub's address.
        has_token: Whether a token was sent.
    """

    repo_id: str
    revision: str
    endpoint: str
    has_token: bool


def explain(error: BaseException, asked: Question) -> HubError:
    """Say in one sentence what the hub answered, or that it did not."""
    from huggingface_hub import errors

    # The client's own download wraps a hub that stopped answering as a file that is not in the cache.
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OSError) and error.errno is not None:
        return _unwritable(error, asked)
    # GatedRepoError is a RepositoryNotFoundError, and so goes first.
    if isinstance(error, errors.GatedRepoError):
        return _gated(asked)
    if isinstance(error, errors.RepositoryNotFoundError):
        return _not_found(asked)
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(
            f"{asked.repo_id} has no revision {asked.revision!r}",
            reason="the revision was not found",
            hint=f"its branches and tags: {asked.endpoint}/{asked.repo_id}/tree/main",
            is_final=True,
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return _refused(asked, status)
    return _unreachable(_why(error, status), asked)


def offline(repo_id: str, *, because: str) -> HubError:
    """Say that a repository is not on this machine, and that nothing was fetched because of `because`."""
    return HubError(
        f"{repo_id} is not in the hub's cache on this machine, and {because} forbids to fetch it",
        reason=f"nothing is fetched ({because})",
        hint="go online once, or name a model of the catalog: `unetinspect models`",
    )


def is_absent(error: BaseException) -> bool:
    """Return whether the hub's answer is that the repository has no such file."""
    from huggingface_hub import errors

    # A bare 404, without the header that says what is missing: a mirror's, or that of a proxy in between.
    bare = type(error) is errors.HfHubHTTPError and error.response.status_code == 404
    return bare or (isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError))


def is_from_hub(error: BaseException) -> bool:
    """Return whether an answer bears a hub's headers; a proxy's own 404 does not."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    return "x-error-code" in headers or "x-repo-commit" in headers


def _gated(asked: Question) -> HubError:
    then = "with the account of the token that was sent" if asked.has_token else "then log in with `hf auth login`, or pass --token"
    return HubError(
        f"{asked.repo_id} is gated: its files are open to those who accepted its terms",
        reason="the hub keeps it gated",
        hint=f"accept them on {asked.endpoint}/{asked.repo_id}, {then}",
    )


def _not_found(asked: Question) -> HubError:
    private = "is private and not open to the token that was sent" if asked.has_token else "is private, and no token was sent"
    hint = "check the spelling" + ("" if asked.has_token else "; for a private repository log in with `hf auth login`, or pass --token")
    return HubError(f"the hub has no repository {asked.repo_id}, or it {private}", reason="the hub did not find it", hint=hint)


def _refused(asked: Question, status: int) -> HubError:
    subject = "the token that was sent" if asked.has_token else "a request without a token"
    return HubError(
        f"the hub refused {subject} for {asked.repo_id} ({status})",
        reason=f"the hub refused {subject} ({status})",
        hint=f"make a token that may read it on {asked.endpoint}/settings/tokens, then `hf auth login` or --token",
    )


def _unwritable(error: OSError, asked: Question) -> HubError:
    why = error.strerror.lower() if error.strerror else type(error).__name__
    return HubError(
        f"{asked.repo_id} could not be stored in the hub's cache: {why}",
        reason=f"the hub's cache could not be written ({why})",
        hint="set HF_HOME to a folder that you may write",
    )


def _unreachable(why: str, asked: Question) -> HubError:
    where = "" if asked.endpoint == DEFAULT_ENDPOINT else " and HF_ENDPOINT"
    return HubError(
        f"{asked.repo_id} could not be fetched: {asked.endpoint} did not answer ({why})",
        reason=f"the hub did not answer ({why})",
        hint=f"check the connection{where}, or name a model of the catalog: `unetinspect models`",
    )


def _why(error: BaseException, status: int | None) -> str:
    """Say why there is no answer, from the class: a message may quote the token, as that of an illegal header does."""
    if status is not None:
        reasons = {429: "429: too many requests"}
        return reasons.get(status, f"error {status}")
    if isinstance(error, NoAnswerError | NotAHubError):
        return str(error)
    name = type(error).__name__
    if "Timeout" in name:
        return "timed out"
    cause = _system_error(error)
    return cause or name


def _system_error(error: BaseException) -> str | None:
    """Return what the operating system said, from the chain of causes: "Connection refused"."""
    seen: Any = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno is not None and seen.strerror:
            return seen.strerror.lower()
        seen = seen.__cause__ or seen.__context__
    return None
