"""Headers of safetensors files on this machine: 8 bytes, and then as many as they say. No weight is read, and nothing is mapped."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from unetinspect.checkpoint.header import PREFIX_BYTES, Header, header_length, merge_headers, parse_header
from unetinspect.errors import SourceError
from unetinspect.source.parse import parse_mapping, read_text
from unetinspect.source.weight_files import INDEX_SUFFIX, is_pickle, is_weights, pickle_error, shard_names, weight_paths

_NAME_IT = "give the .safetensors file itself"


def read_local_header(path: Path, *, what: str = "") -> Header:
    """Read the header of a safetensors file, or those of all files of a `.safetensors.index.json`; `what` names it in errors.

    Raises:
        SourceError: It cannot be read, is not such a file or is damaged, or its index points out of its own folder.
    """
    what = what or str(path)
    if is_pickle(path.name):
        raise pickle_error(what)
    if not path.name.lower().endswith(INDEX_SUFFIX):
        return _read_one(path, what)
    with _opened(path, what) as (stream, _):
        names = shard_names(parse_mapping(read_text(stream, what=what), what=what, is_yaml=False), what=what)
    return merge_headers((_read_one(path.parent / name, f"{name} of {what}") for name in names), name=what)


def find_local_weights(folder: Path, subfolder: str | None = None) -> Path:
    """Return the weights of the UNet in a folder: a pipeline's, or a UNet's own; `subfolder` says which it is.

    Raises:
        SourceError: There are none that can be read.
    """
    found = next((file for path in weight_paths(subfolder) if (file := folder / path).is_file()), None)
    if found is not None:
        return found
    looked = [folder if subfolder is None else folder / subfolder, *([folder / "unet"] if subfolder is None else [])]
    files = sorted(file for place in looked if place.is_dir() for file in place.iterdir() if file.is_file())
    others = [str(file) for file in files if is_weights(file.name)]
    if others:
        more = f", or one of {len(others) - 3} more" if len(others) > 3 else ""
        raise SourceError(
            f"{folder} has no weights under the names that diffusers gives a UNet's", hint=f"name them: {', '.join(others[:3])}{more}"
        )
    pickles = [file.name for file in files if is_pickle(file.name)]
    if pickles:
        raise pickle_error(f"{folder} has no weights but {pickles[0]}, which")
    raise SourceError(f"{folder} has no weights of a UNet", hint=_NAME_IT)


def _read_one(path: Path, what: str) -> Header:
    with _opened(path, what) as (stream, file_bytes):
        length = header_length(stream.read(PREFIX_BYTES), what=what, file_bytes=file_bytes)
        raw = stream.read(length)
    if len(raw) < length:
        raise SourceError(f"{what} became shorter while it was read", hint="wait until it is written")
    return parse_header(raw, what=what, file_bytes=file_bytes)


@contextmanager
def _opened(path: Path, what: str) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file, and give its size; what is none is refused before a read could wait for it forever.

    Raises:
        SourceError: It cannot be opened or read, or is none.
    """
    try:
        _refuse_special(path.stat().st_mode, what)
        # Not blocking: between the look and the opening it may have become a pipe, which waits for a writer.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        with open(os.open(path, flags), "rb", buffering=0) as raw:  # noqa: PTH123  a descriptor, no path
            status = os.fstat(raw.fileno())
            _refuse_special(status.st_mode, what)
            with open(raw.fileno(), "rb", closefd=False) as stream:
                yield stream, status.st_size
    except FileNotFoundError:
        raise SourceError(f"there is no file {what}", hint="check the path") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "its name cannot be one"
        raise SourceError(f"{what} cannot be read: {why.lower()}", hint="check that you may read it") from None


def _refuse_special(mode: int, what: str) -> None:
    if stat.S_ISREG(mode):
        return
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"))
    kind = next((name for is_kind, name in kinds if is_kind(mode)), "a special file")
    raise SourceError(f"{what} is {kind}, not a weights file", hint=_NAME_IT)
