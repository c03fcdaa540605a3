"""What the hub's client raises -> one sentence and a hint. Quotes no request: a token stands in its headers."""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

from unetinspect.source.hub_id import DEFAULT_ENDPOINT
from unetinspect.source.hub_silence import CATALOG_HINT as _CATALOG
from unetinspect.source.hub_silence import CutOffError, HubError, NoAnswerError, NotAHubError, unanswered

__all__ = ["CutOffError", "HubError", "NoAnswerError", "NotAHubError", "Question", "explain", "is_absent", "is_from_hub", "offline"]

# Answers that say that there was something.
_GONE = {410: "removed", 451: "had to remove"}


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

    headers = getattr(getattr(error, "response", None), "headers", {})
    status = getattr(getattr(error, "response", None), "status_code", None)
    if _is_bad_token(status, headers, asked):
        return _bad_token(asked)
    # GatedRepoError is a RepositoryNotFoundError, and so goes first.
    if isinstance(error, errors.GatedRepoError):
        return _gated(asked)
    if isinstance(error, errors.RepositoryNotFoundError):
        return _not_found(asked)
    if isinstance(error, errors.RevisionNotFoundError):
        return _no_revision(asked)
    if isinstance(error, errors.DisabledRepoError):
        return _gone(asked, "disabled")
    return _explain_status(error, status, headers, asked)


def _explain_status(error: BaseException, status: int | None, headers: Mapping[str, str], asked: Question) -> HubError:
    if status in _GONE:
        return _gone(asked, _GONE[status])
    if status in (401, 403):
        return _refused(asked, status)
    if status == 429:
        return _limited(asked, headers)
    if status is not None and status >= 500:
        return _failing(asked, status)
    return unanswered(error, status, repo_id=asked.repo_id, endpoint=asked.endpoint)


def offline(what: str, *, because: str) -> HubError:
    """Say that a repository, or a file of one, is not on this machine, and that nothing was fetched because of `because`."""
    return HubError(
        f"{what} is not in the hub's cache on this machine, and {because} forbids to fetch it",
        reason=f"nothing is fetched ({because})",
        hint=f"go online once, or {_CATALOG}",
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


def _is_bad_token(status: int | None, headers: Mapping[str, str], asked: Question) -> bool:
    # Without a token the hub says 401 of what it does not show; with one that it knows, it says 403 or 404.
    if status != 401 or not asked.has_token:
        return False
    said = headers.get("x-error-message", "").lower()
    is_named = any(words in said for words in ("invalid credentials", "invalid username or password", "expired"))
    return is_named or headers.get("x-error-code") not in ("GatedRepo", "RepoNotFound")


def _bad_token(asked: Question) -> HubError:
    return HubError(
        f"the token that was sent is not valid: the hub refused it for {asked.repo_id} (401)",
        reason="the token that was sent is not valid",
        hint=f"make one on {asked.endpoint}/settings/tokens, then `hf auth login` or --token; a public model needs none: `hf auth logout`",
    )


def _no_revision(asked: Question) -> HubError:
    return HubError(
        f"{asked.repo_id} has no revision {asked.revision!r}",
        reason="the revision was not found",
        hint=f"its branches and tags: {asked.endpoint}/{asked.repo_id}/tree/main",
        is_final=True,
    )


def _gone(asked: Question, what: str) -> HubError:
    return HubError(
        f"the hub has {what} {asked.repo_id}: nobody can read it there",
        reason=f"the hub has {what} it",
        hint=f"its page may say why: {asked.endpoint}/{asked.repo_id}; name a copy of it, or {_CATALOG}",
    )


def _refused(asked: Question, status: int) -> HubError:
    subject = "the token that was sent" if asked.has_token else "a request without a token"
    return HubError(
        f"the hub refused {subject} for {asked.repo_id} ({status})",
        reason=f"the hub refused {subject} ({status})",
        hint=f"make a token that may read it on {asked.endpoint}/settings/tokens, then `hf auth login` or --token",
    )


def _limited(asked: Question, headers: Mapping[str, str]) -> HubError:
    seconds = _seconds_to_wait(headers)
    wait = "wait some minutes" if seconds is None else f"wait {seconds} s"
    higher = "" if asked.has_token else ", or log in for a higher limit: `hf auth login`"
    return HubError(
        f"{asked.repo_id} could not be fetched: the hub's limit on requests is reached (429)",
        reason="the hub's limit on requests is reached (429)",
        hint=f"{wait} and try again{higher}",
    )


def _seconds_to_wait(headers: Mapping[str, str]) -> int | None:
    """Return what the hub says: `Retry-After: 120`, or `RateLimit: "api";r=0;t=55`, as of a draft of the IETF."""
    after = re.fullmatch(r"\s*(\d{1,6})\s*", headers.get("retry-after", ""))
    window = re.search(r"\bt\s*=\s*(\d{1,6})\b", headers.get("ratelimit", ""))
    found = after or window
    return None if found is None else int(found[1])


def _failing(asked: Question, status: int) -> HubError:
    is_default = asked.endpoint == DEFAULT_ENDPOINT
    see = "https://status.huggingface.co says how the hub is" if is_default else "or unset HF_ENDPOINT, which names it"
    return HubError(
        f"{asked.repo_id} could not be fetched: {asked.endpoint} is failing (error {status})",
        reason=f"the hub is failing (error {status})",
        hint=f"try again in a minute; {see}; or {_CATALOG}",
    )
