"""Waiting for what may never come: in a thread, with deadlines, so that Ctrl-C is heard at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, Queue
from typing import TypeVar

from unetinspect.source.hub_silence import NoAnswerError

_T = TypeVar("_T")


def wait_for(call: Callable[[Callable[[], None]], _T], *, silence: float, seconds: float) -> _T:
    """Return what `call` returns, or raise what it raises; it gets a function to call whenever something has come.

    In a thread of its own, so that nothing the system does can hold up the deadlines or Ctrl-C, not even the search for an address.

    Raises:
        NoAnswerError: Nothing came for `silence` seconds, or not all within `seconds`; the thread is left to end on its own.
    """
    outcomes: Queue[tuple[_T | None, BaseException | None] | None] = Queue()
    given_up = threading.Event()

    def beat() -> None:
        if given_up.is_set():
            raise NoAnswerError("given up")
        outcomes.put(None)

    def run() -> None:
        try:
            outcomes.put((call(beat), None))
        except BaseException as error:  # carried to the thread that asked
            outcomes.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        value, error = _outcome(outcomes, silence=silence, seconds=seconds)
    finally:
        given_up.set()
    if error is not None:
        raise error
    return value  # type: ignore[return-value]  # None only where `call` returned it


def _outcome(queue: Queue[_T | None], *, silence: float, seconds: float) -> _T:
    deadline = time.monotonic() + seconds
    has_begun = False
    while True:
        left = deadline - time.monotonic()
        try:
            found = queue.get(timeout=min(silence, left)) if left > 0 else queue.get_nowait()
        except Empty:
            if not has_begun:
                raise NoAnswerError(f"no answer within {min(silence, seconds):g} s") from None
            raise NoAnswerError("it fell silent" if left >= silence else f"it was not done within {seconds:g} s") from None
        if found is not None:
            return found
        if left <= 0:
            raise NoAnswerError(f"it was not done within {seconds:g} s")
        has_begun = True
