"""Calls through huggingface_hub: quiet, within deadlines, and for no more bytes than are needed."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from typing import Any, TypeVar

from unetinspect.source.hub_errors import CutOffError, NoAnswerError, NotAHubError

_T = TypeVar("_T")


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


def headers_with(token: str | None) -> dict[str, str]:
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
    except failures() as error:
        why = "timed out" if "Timeout" in type(error).__name__ else why
    finally:
        response.close()
    raise CutOffError(f"the download stopped after {len(raw)} of {end} bytes ({why})")


def failures() -> tuple[type[Exception], ...]:
    """Return what asking may raise that is the network's or the settings' fault, and no bug.

    The client's HTTP library is httpx in huggingface_hub 1, httpx2 in 2; it says ImportError or ValueError of a proxy that it cannot use.
    """
    from huggingface_hub.errors import HfHubHTTPError

    base = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    invalid = getattr(sys.modules[base.__module__.partition(".")[0]], "InvalidURL", ValueError)
    return (NoAnswerError, NotAHubError, CutOffError, OSError, ImportError, ValueError, base, invalid)


@contextmanager
def quiet_client() -> Iterator[None]:
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
