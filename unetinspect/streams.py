"""Where output goes: the standard streams, whether closed, full, not UTF-8 or a pipe without a reader, and files written whole.

Imports nothing heavy.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from unetinspect.errors import UsageError, nearest_names
from unetinspect.terminal import columns_of, paint, wants_color, wrap_words
from unetinspect.units import visible

INTERRUPTED = 130
# The extensions of files, each with the form that it stands for.
SUFFIXES = {f".{form}": form for form in ("txt", "json", "md", "csv", "tsv", "yaml", "py", "svg", "html", "png", "pdf", "mmd", "dot")}
SUFFIXES |= {".yml": "yaml", ".htm": "html", ".mermaid": "mmd", ".gv": "dot"}
# What people type instead of the extension of a form.
_INSTEAD = {".eps": "pdf", ".ps": "pdf", ".jpg": "png", ".jpeg": "png", ".webp": "png"}
_Form = TypeVar("_Form", bound=str)
# The signal that ended the program, once there was one.
_ended_by: list[int] = []


class OutputError(UsageError):
    """Raised when stdout cannot be written to: it is closed, or the disk is full. No other answer can be printed either."""


class ReaderGoneError(Exception):
    """Raised when the reader of stdout has closed it (`| head`). Not an OSError, which Typer would turn into exit code 1."""


def ready() -> None:
    """Prepare the standard streams: characters that cannot be encoded are escaped, and errors of stdout are ours.

    A stream that was closed before the program began gets a descriptor, which the next opened file would get otherwise, and
    an object, which Python does not make for it. Writing to such a stdout fails; writing to such a stderr does nothing.
    """
    for number, name, mode, access in ((0, "stdin", "r", os.O_RDONLY), (1, "stdout", "w", os.O_RDONLY), (2, "stderr", "w", os.O_RDWR)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, access)  # gets the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - stays open
    _escape_characters()
    for method in ("write", "flush"):  # whoever prints: Typer prints the help
        with suppress(AttributeError):  # a stream without settable attributes
            setattr(sys.stdout, method, _guarded(getattr(sys.stdout, method)))


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(*given: Any) -> Any:
        try:
            return method(*given)
        except OSError as error:
            with suppress(AttributeError, OSError):  # drop what is still buffered, or Python complains again at exit
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if isinstance(error, BrokenPipeError):
                raise ReaderGoneError from None
            raise _output_error("it is closed" if error.errno == errno.EBADF else reason(error)) from None

    return guarded


def _output_error(why: str) -> OutputError:
    return OutputError(f"cannot write to standard output: {why}", hint="-o FILE writes the answer to a file")


def _escape_characters() -> None:
    """Let stdout write characters that its encoding does not have as Python escapes them."""
    with suppress(AttributeError):  # a stream that a test or another program put there; or none at all
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def print_answer(answer: str | bytes) -> None:
    """Write an answer to stdout, all of it; bytes are written as they are.

    Raises:
        OutputError: Stdout is closed, or the disk is full.
        ReaderGoneError: Its reader has closed it.
    """
    if sys.stdout is None:
        raise _output_error("it is closed")
    _escape_characters()
    with suppress(AttributeError, OSError):
        os.set_blocking(sys.stdout.fileno(), True)  # a pipe made non-blocking by its other end would lose what does not fit
    flush = _guarded(sys.stdout.flush)
    if isinstance(answer, str):
        _guarded(sys.stdout.write)(answer)
    else:
        flush()
        _guarded(sys.stdout.buffer.write)(answer)
    flush()


def print_aside(text: str, *, end: str = "\n") -> None:
    """Print to stderr; a stderr that cannot be written to must not stop the answer."""
    if sys.stderr is not None:  # print would take stdout for None
        with suppress(OSError):
            print(text, end=end, file=sys.stderr, flush=True)


def print_error(message: str, hint: str | None) -> None:
    """Print what is wrong to stderr, and what to do instead."""
    print_labeled("error", visible(message, keep_lines=True))
    if hint:
        print_labeled("hint", visible(hint))


def print_labeled(label: str, text: str) -> None:
    """Print "label: text" to stderr; on a terminal the label is colored, and lines are wrapped between words."""
    width = columns_of(sys.stderr)
    whole = "\n".join(part for line in f"{label}: {text}".split("\n") for part in wrap_words(line, width))
    colored = paint(f"{label}:", label) if wants_color(sys.stderr) else f"{label}:"
    print_aside(colored + whole.removeprefix(f"{label}:"))


def reason(error: OSError) -> str:
    """Return the system's message, as the end of a sentence.

    >>> reason(OSError(28, "No space left on device"))
    'no space left on device'
    """
    message = error.strerror or str(error)
    return message[:1].lower() + message[1:]


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, so that no half-written file is left."""
    caught = []
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        # `nohup` ignores it, and so do we.
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
    """If a signal ended the program, die of it, so that the parent process sees that."""
    if _ended_by:
        signal.raise_signal(_ended_by.pop())


def interrupted() -> int:
    """Say that the user ended the program, and return the exit code for that."""
    print_aside("interrupted")
    return INTERRUPTED


def form_of(path: str | os.PathLike[str], forms: Sequence[_Form]) -> _Form:
    """Return the one of the forms that the extension of a file stands for.

    Raises:
        UsageError: It stands for none of them; the hint lists theirs.
    """
    suffix = Path(path).suffix.lower()
    for form in forms:
        if form == SUFFIXES.get(suffix):
            return form
    likely = [_INSTEAD[suffix]] if suffix in _INSTEAD else nearest_names(suffix[1:], forms, count=1) if suffix not in SUFFIXES else []
    meant = f"did you mean {Path(path).stem}.{likely[0]}? " if likely and likely[0] in forms else ""
    wrong = f"unsupported file extension {suffix!r}: {os.fspath(path)}" if suffix else f"{os.fspath(path)} has no file extension"
    raise UsageError(wrong, hint=f"{meant}use {', '.join(f'.{form}' for form in forms)}")


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; an existing one keeps its permissions.

    A device, a pipe, and the file that stdout already goes to are written into, never replaced: `/dev/null` stays a device.

    Raises:
        OSError: It cannot be written; an existing file is unchanged.
    """
    try:
        existing = path.stat()
    except FileNotFoundError:
        existing = None
    if existing is not None:
        stream = _stream_to(existing)
        if stream is not None or not stat.S_ISREG(existing.st_mode):
            with os.fdopen(os.open(path, os.O_WRONLY) if stream is None else os.dup(stream), "wb") as file:
                file.write(content)
            return
    with replacing(path) as (handle, beside):
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(handle)  # some disks report only now that they are full
        if existing is not None and hasattr(os, "chown"):
            with suppress(OSError):  # only root may give a file away; the group is often one's own
                os.chown(beside, existing.st_uid, existing.st_gid)
        beside.chmod(stat.S_IMODE(existing.st_mode) if existing is not None else 0o666 & ~_umask())


def save_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file as `write_file` does.

    Raises:
        UsageError: It cannot be written.
    """
    try:
        write_file(Path(path), content)
    except OSError as error:
        raise UsageError(f"cannot write to {os.fspath(path)}: {reason(error)}", hint="choose a file in a writable folder") from None


@contextmanager
def replacing(path: Path, *, suffix: str = "") -> Iterator[tuple[int, Path]]:
    """Yield an open file beside `path`, as (descriptor, its path), that replaces `path` when the block has ended.

    So nobody ever sees `path` half-written; if the block raises, `path` is unchanged and nothing is left beside it. The block
    closes the descriptor. If `path` is a symbolic link, its target is replaced, and the link stays.

    Raises:
        OSError: The file cannot be created, or `path` cannot be replaced.
    """
    import tempfile  # here: it takes longer to import than `--version` takes to answer

    target = Path(os.path.realpath(path))
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.", suffix=suffix)
    beside = Path(name)
    try:
        yield handle, beside
        beside.replace(target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _stream_to(file: os.stat_result) -> int | None:
    """Return the stream of this program that goes to a file, as it does for `/dev/stdout`."""
    for stream in (1, 2):
        with suppress(OSError):
            if os.path.samestat(os.fstat(stream), file):
                return stream
    return None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
