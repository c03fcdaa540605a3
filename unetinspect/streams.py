"""Standard input, output and error as they are: closed, full, not UTF-8, a pipe whose reader has gone. Imports nothing heavy."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from unetinspect.errors import UsageError
from unetinspect.units import visible

INTERRUPTED = 130
_DIGITS = 5  # of a width: what is longer is none
_TO_A_FILE = "-o FILE writes the answer into a file"
# The signal that ended the program, once there was one.
_ended_by: list[int] = []


class OutputError(UsageError):
    """Raised when stdout takes nothing: it is closed, or the disk is full. Then no other answer can be given either."""


class ReaderGoneError(Exception):
    """Raised when whoever read stdout has what it wanted (`| head`); no OSError, of which typer and rich would make an exit code of 1."""


def ready() -> None:
    """Make the streams such that whatever is printed later cannot fail for its characters, nor land in another file.

    Where one was closed before the program began, its number would go to the next file that is opened, and Python has no
    object for it: errors printed there would come out on stdout.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123 - open as long as the program runs
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - the same
    _guard_stdout()
    escape_characters()
    forget_what_is_no_width()


def _guard_stdout() -> None:
    """Let every write to stdout that fails be an error of ours, whoever writes: help and version are printed by others."""
    if sys.stdout is None:
        return
    for name in ("write", "flush"):
        with suppress(AttributeError):  # a stream that takes no attributes
            setattr(sys.stdout, name, _guarded(getattr(sys.stdout, name)))


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(*given: Any) -> Any:
        try:
            return method(*given)
        except BrokenPipeError:
            let_go_of_stdout()
            raise ReaderGoneError from None
        except OSError as error:
            raise stdout_failed(error) from None

    return guarded


def forget_what_is_no_width() -> None:
    """Take COLUMNS and LINES out of the environment where rich would fail on them: 0, a superscript, thirty digits."""
    for name in ("COLUMNS", "LINES"):
        given = os.environ.get(name, "")
        if given and not (given.isascii() and given.isdecimal() and int(given[:_DIGITS]) > 0 and len(given) <= _DIGITS):
            del os.environ[name]


def escape_characters() -> None:
    """Let stdout show what it cannot encode as Python writes it, backslashed."""
    with suppress(AttributeError):  # a stream that a test or another program put there; or none at all
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end what runs inside as Ctrl-C does, so that no half-written file stays behind."""
    caught = []
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        # `nohup` has it ignored, and so it stays.
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            with suppress(ValueError):  # only the main thread can
                signal.signal(number, _end)
                caught.append(number)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:
    _ended_by.append(number)
    raise KeyboardInterrupt


def die_if_ended() -> None:
    """Where a signal ended the program, die of it, so that whoever waits for the program sees that."""
    if _ended_by:
        signal.raise_signal(_ended_by.pop())


def print_answer(answer: str | bytes) -> None:
    """Write an answer to stdout, all of it; bytes are written as they are.

    Raises:
        OutputError: Stdout takes nothing: it is closed, or the disk is full.
        ReaderGoneError: Its reader has gone.
    """
    if sys.stdout is None:
        raise OutputError("cannot write to standard output: it is closed", hint=_TO_A_FILE)
    escape_characters()
    with suppress(AttributeError, OSError):
        os.set_blocking(sys.stdout.fileno(), True)  # a pipe that its other end made non-blocking would lose what it has no room for
    if isinstance(answer, str):
        _guarded(sys.stdout.write)(answer)
    else:
        _guarded(sys.stdout.flush)()
        _guarded(sys.stdout.buffer.write)(answer)
    _guarded(sys.stdout.flush)()


def finish() -> None:
    """Write what is left for stdout. A reader that has gone is no failure.

    Raises:
        OutputError: It cannot be written.
    """
    with suppress(ReaderGoneError):
        if sys.stdout is not None:
            sys.stdout.flush()


def stdout_failed(error: OSError) -> OutputError:
    """Return what to say of a write to stdout that failed; nothing more is written there."""
    let_go_of_stdout()
    return OutputError(f"cannot write to standard output: {reason(error)}", hint=_TO_A_FILE)


def let_go_of_stdout() -> None:
    """Send whatever is left for stdout nowhere; Python would complain once more when it closes the stream at exit."""
    with suppress(AttributeError, OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_aside(line: str) -> None:
    """Say something on stderr; where nothing can be said there, the answer is what counts."""
    if sys.stderr is not None:  # print would take stdout for None
        with suppress(OSError):
            print(line, file=sys.stderr)


def interrupted() -> int:
    """Say that the user ended the program, and return the exit code for that."""
    print_aside("interrupted")
    return INTERRUPTED


def print_error(message: str, hint: str | None) -> None:
    """Say on stderr what is wrong, and what to do instead."""
    print_aside(f"error: {visible(message, keep_lines=True)}")
    if hint:
        print_aside(f"hint: {visible(hint)}")


def reason(error: OSError) -> str:
    """Return what the system says is wrong, as the end of a sentence.

    >>> reason(OSError(28, "No space left on device"))
    'no space left on device'
    """
    said = error.strerror or str(error)
    return said[:1].lower() + said[1:]
