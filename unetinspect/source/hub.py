"""Configs of a hub repository, through huggingface_hub and its cache. Fetches configs only, never weights."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from typing import Any, TypeVar

from unetinspect.errors import UsageError
from unetinspect.record import Source
from unetinspect.source.base import LoadedModel
from unetinspect.source.hub_errors import HubError, NoAnswerError, NotAHubError, Question, explain, is_absent, is_from_hub, offline
from unetinspect.source.hub_id import HubId
from unetinspect.source.parse import parse_mapping, read_text, refuse_big
from unetinspect.source.pipeline import NoUnetError, find_unet, find_vae

# Seconds. A socket's timeout bounds one read of one address, and a name may have eight of them: the deadlines bound the whole.
_ANSWER_TIMEOUT = 3.0
_ANSWER_DEADLINE = 3.5
_DOWNLOAD_DEADLINE = 20.0

_T = TypeVar("_T")


def read_hub(model: HubId, *, token: str | None = None, is_offline: bool = False) -> LoadedModel:
    """Read the UNet's config of a repository, from the hub or from its cache on this machine.

    Raises:
        HubError: The hub cannot be asked or says no, and no copy is in the cache.
        SourceError: The repository was read and holds no UNet, or a file that is no config.
        UsageError: The token cannot be one.
    """
    repository = _Repository(model.repo_id, model.revision, token=_checked(token), is_offline=is_offline)
    try:
        found = find_unet(repository, model.folder)
    except NoUnetError:
        failure = repository.failure or repository.doubt()
        if failure is not None:
            raise failure from None
        raise
    vae = find_vae(repository, found.folder)
    return LoadedModel(
        name=model.repo_id,
        config=found.config,
        source=Source(kind="hub", location=model.repo_id, revision=repository.commit, subfolder=found.folder or None),
        vae_scale_factor=vae.factor,
        vae_scale_from=vae.read_from,
        notes=(*repository.notes(), *found.notes, *vae.notes),
    )


class _Repository:
    """The files of one repository at one revision.

    Once the hub has failed to answer, it is not asked again: what is left comes from the cache.

    Attributes:
        commit: The commit that the first file was read at; the others are read at the same one.
        failure: Why the hub is not asked, None while it answers.
    """

    is_local = False

    def __init__(self, repo_id: str, revision: str | None, *, token: str | None, is_offline: bool) -> None:
        from huggingface_hub import constants

        self.name = repo_id
        self.commit: str | None = None
        self.failure: HubError | None = None
        self._revision = revision or constants.DEFAULT_REVISION
        self._token = token
        self._copies: list[str] = []
        self._is_hub = False
        self._answers: dict[str, dict[str, Any] | None] = {}
        if is_offline or constants.HF_HUB_OFFLINE:
            self.failure = offline(repo_id, because="--offline" if is_offline else "HF_HUB_OFFLINE")

    def read(self, path: str) -> dict[str, Any] | None:
        """Return the config at `path`, None where the repository, or its cached copy, has none."""
        if path not in self._answers:
            file = self._file(path)
            self._answers[path] = None if file is None else self._parse(file, path)
        return self._answers[path]

    def notes(self) -> tuple[str, ...]:
        """Say what was read from the cache, or not at all, because the hub was not asked."""
        if self.failure is None:
            return ()
        if not self._copies:
            return (f"{self.failure.reason}: the VAE's config of {self.name} was not read",)
        return (f"{self.failure.reason}: {', '.join(self._copies)} of {self.name} was read from the cache, commit {str(self.commit)[:7]}",)

    def doubt(self) -> HubError | None:
        """Return why the hub's misses cannot be believed; None where it showed that it is one."""
        if self._is_hub or self.commit is not None:
            return None
        return explain(NotAHubError("it has no file, and does not say so as a hub does"), self._question(has_answer=False))

    def _file(self, path: str) -> Path | None:
        if self.failure is None:
            try:
                return self._keep(self._fetch(path))
            except HubError as error:
                if error.is_final:
                    raise
                self.failure = error
        copy = self._keep(self._cached(path, self.commit or self._revision))
        if copy is not None:
            self._copies.append(path)
        return copy

    def _keep(self, file: Path | None) -> Path | None:
        if file is not None and self.commit is None:
            self.commit = _commit_of(file)
        return file

    def _parse(self, file: Path, path: str) -> dict[str, Any]:
        what = f"{path} of {self.name}"
        with file.open("rb") as stream:
            return parse_mapping(read_text(stream, what=what), what=what, is_yaml=False)

    def _cached(self, path: str, revision: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        file = try_to_load_from_cache(self.name, path, revision=revision)
        return Path(file) if isinstance(file, str) else None

    def _fetch(self, path: str) -> Path | None:
        """Ask the hub for a file, or None where it has none there.

        Raises:
            HubError: It does not answer, or refuses.
        """
        from huggingface_hub import hf_hub_download

        revision = self.commit or self._revision
        cached = self._cached(path, revision)
        # What a commit holds does not change: a copy of it needs no question.
        if cached is not None and _commit_of(cached) == revision:
            return cached
        failures: tuple[type[Exception], ...] = (OSError, NoAnswerError, NotAHubError, *_client_errors())
        try:
            with _quiet_client():
                commit = self._ask(path, revision)
                if cached is not None and _commit_of(cached) == commit:
                    return cached
                return Path(_within(_DOWNLOAD_DEADLINE, lambda: hf_hub_download(self.name, path, revision=revision, token=self._token)))
        except failures as error:
            if is_absent(error):
                self._is_hub = self._is_hub or is_from_hub(error)
                return None
            raise explain(error, self._question(has_answer=hasattr(error, "response"))) from None

    def _question(self, *, has_answer: bool) -> Question:
        from huggingface_hub import constants, get_token

        # Looked up only where it tells something: finding a token may mean to renew it over the network.
        implicit = get_token() if has_answer and not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else None
        return Question(repo_id=self.name, revision=self._revision, endpoint=constants.ENDPOINT, has_token=bool(self._token or implicit))

    def _ask(self, path: str, revision: str) -> str:
        """Return the commit at which the hub has the file.

        Asked once and briefly: the client's own download tries an unreachable hub for 23 s.
        """
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        url = hf_hub_url(self.name, path, revision=revision)
        answer = _within(_ANSWER_DEADLINE, lambda: get_hf_file_metadata(url, token=self._token, timeout=_ANSWER_TIMEOUT))
        if answer.commit_hash is None or answer.etag is None:
            raise NotAHubError("what is there is not a model hub")
        refuse_big(answer.size, what=f"{path} of {self.name}")
        return answer.commit_hash


def _client_errors() -> tuple[type[Exception], ...]:
    """Return the base of the network errors of the client's HTTP library: httpx in huggingface_hub 1, httpx2 in 2."""
    from huggingface_hub.errors import HfHubHTTPError

    return tuple(base for base in HfHubHTTPError.__mro__ if issubclass(base, Exception) and base.__name__ == "HTTPError")


def _commit_of(file: Path) -> str:
    """Return the commit of a file in the hub's cache: .../snapshots/<commit>/unet/config.json."""
    parts = file.parts
    return parts[len(parts) - parts[::-1].index("snapshots")]


def _checked(token: str | None) -> str | None:
    # The client would quote an illegal header, token and all.
    if token is not None and not (token.isascii() and token.isprintable() and token and " " not in token):
        raise UsageError("--token is not a token: it is empty, or holds a character that no token has", hint="paste it whole: hf_...")
    return token


def _within(seconds: float, call: Callable[[], _T]) -> _T:
    """Return what `call` returns, or raise what it raises, within so many seconds.

    Raises:
        NoAnswerError: It took longer; its thread is left to end on its own.
    """
    outcome: Queue[tuple[_T | None, BaseException | None]] = Queue()

    def run() -> None:
        try:
            outcome.put((call(), None))
        except BaseException as error:  # carried to the thread that asked
            outcome.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        value, error = outcome.get(timeout=seconds)
    except Empty:
        raise NoAnswerError(f"no answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]  # None only where `call` returned it


@contextmanager
def _quiet_client() -> Iterator[None]:
    """Keep the client's progress bars and warnings off stderr, where our notes say what matters."""
    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    has_bars = constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    if has_bars:
        disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if has_bars:
            enable_progress_bars()
