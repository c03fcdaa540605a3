"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_STDOUT, _STDERR = 1, 2


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; what stood there keeps its permissions.

    A device, a pipe, and the file that stdout already goes to are written into, never replaced: `/dev/null` stays a device.

    Raises:
        OSError: It cannot be written; what stood there stays as it was.
    """
    standing = _standing(path)
    if standing is not None and (not stat.S_ISREG(standing.st_mode) or _stream_to(standing) is not None):
        _write_into(path, standing, content)
        return
    with replacing(path) as (handle, beside):
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(handle)  # some disks say that they are full only now
        if standing is not None and hasattr(os, "chown"):
            with suppress(OSError):  # only root may give a file away; the group is often one's own
                os.chown(beside, standing.st_uid, standing.st_gid)
        beside.chmod(stat.S_IMODE(standing.st_mode) if standing is not None else 0o666 & ~_umask())


@contextmanager
def replacing(path: Path, *, suffix: str = "") -> Iterator[tuple[int, Path]]:
    """Give an open file beside `path`, as (descriptor, its path), that takes its place when the block has ended.

    So nobody ever sees `path` half-written; where the block raises, it stays as it was and nothing is left beside it. The
    block closes the descriptor. Where `path` is a symbolic link, the file that it leads to is replaced, and the link stays.

    Raises:
        OSError: There is no file to be made there, or none to be replaced.
    """
    target = Path(os.path.realpath(path))
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.", suffix=suffix)
    beside = Path(name)
    try:
        yield handle, beside
        beside.replace(target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _standing(path: Path) -> os.stat_result | None:
    """Return what stands at a path, links followed; None where there is nothing."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _stream_to(standing: os.stat_result) -> int | None:
    """Return the stream of this program that goes to a file: what `/dev/stdout` names, for one."""
    for stream in (_STDOUT, _STDERR):
        with suppress(OSError):
            if os.path.samestat(os.fstat(stream), standing):
                return stream
    return None


def _write_into(path: Path, standing: os.stat_result, content: bytes) -> None:
    stream = _stream_to(standing)
    handle = os.open(path, os.O_WRONLY) if stream is None else os.dup(stream)
    with os.fdopen(handle, "wb") as file:
        file.write(content)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
