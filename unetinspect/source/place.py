"""Where the files of a model are: a folder on this machine and a repository of the hub answer the same questions."""

from __future__ import annotations

import os
import re
import stat
from abc import ABC, abstractmethod
from pathlib import Path
from posixpath import join
from typing import Any

from unetinspect.checkpoint.gguf_header import MAGIC, parse_gguf
from unetinspect.checkpoint.safetensors_header import MAX_HEADER_BYTES, PREFIX_BYTES, Header, header_length, parse_header
from unetinspect.errors import SourceError
from unetinspect.source.parse import parse_mapping, read_file

INDEX_SUFFIX = ".safetensors.index.json"
WEIGHTS = (".safetensors", ".gguf", INDEX_SUFFIX)
GLOB = re.compile(r"[*?\[]")

# What torch writes, in a zip or not. Reading one runs the code in it.
PICKLES = (".ckpt", ".bin", ".pt", ".pth", ".pkl", ".pickle")
_OTHER_WEIGHTS = (".onnx", ".msgpack", ".h5")
_TEXTS = (".json", ".yaml", ".yml", ".txt", ".md", ".py")
_SPECIAL_FILES = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"))


def is_weights(path: str) -> bool:
    """Return whether a path ends as that of a safetensors or GGUF file, or of an index of several.

    >>> is_weights("unet/x.safetensors"), is_weights("x.safetensors.index.json"), is_weights("x.ckpt")
    (True, True, False)
    """
    return path.lower().endswith(WEIGHTS)


def is_file_name(path: str) -> bool:
    """Return whether a path ends as that of a config, of weights in any format, or of another text."""
    return is_weights(path) or path.lower().endswith((*PICKLES, *_OTHER_WEIGHTS, *_TEXTS))


def unread_weights(path: str, *, what: str = "", hint: str) -> SourceError | None:
    """Return why weights with such a path are not opened; None: they can be, or the path is not that of weights."""
    if path.lower().endswith(PICKLES):
        return SourceError(f"{what or path} is a pickle; pickles can execute code, so they are never opened", hint=hint)
    if path.lower().endswith(_OTHER_WEIGHTS):
        return SourceError(f"{what or path} is not a supported weights file: only .safetensors and .gguf are read", hint=hint)
    return None


class Place(ABC):
    """A place that has the files of a model. Paths in it are relative, with forward slashes.

    A method that reads a file raises `SourceError` or `ConfigError` if the file cannot be read or is damaged.

    Attributes:
        name: What to call it in errors: a folder's path, a hub ID.
        is_local: Whether asking for a file that may be absent costs nothing.
        commit: The commit that its files are read at, if it has commits.
    """

    name: str
    is_local: bool
    commit: str | None = None

    @abstractmethod
    def read(self, path: str) -> dict[str, Any] | None:
        """Return the config at `path`; None: there is no such file."""

    @abstractmethod
    def header(self, path: str) -> Header | None:
        """Return the header of the safetensors file at `path`; None: there is no such file."""

    @abstractmethod
    def files(self, folder: str) -> list[str]:
        """List the files directly in a folder; empty if they cannot be listed."""

    def title(self, path: str) -> str:
        """Return what to call a file in errors."""
        return f"{self.name}/{path}"

    def address(self, path: str) -> str:
        """Return what to type for a file."""
        return self.title(path)

    def doubt(self, path: str = "") -> SourceError | None:
        """Return why it is unknown whether the place, or a file in it, exists; None: that is known."""
        return None

    def missing(self, path: str) -> SourceError:
        """Return the error for a file that does not exist."""
        return SourceError(f"there is no file {self.title(path)}", hint="check the path")

    def notes(self, *, without: str) -> tuple[str, ...]:
        """Return what to say about the reading so far, which had to do `without` something."""
        return ()


class Folder(Place):
    """A folder on this machine."""

    is_local = True

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._folder = folder

    def read(self, path: str) -> dict[str, Any] | None:
        file = self._folder / path
        return parse_mapping(read_file(file), what=str(file), is_yaml=False) if file.is_file() else None

    def header(self, path: str) -> Header | None:
        return read_header(self._folder / path, what=self.title(path))

    def files(self, folder: str) -> list[str]:
        try:
            return sorted(join(folder, file.name) for file in (self._folder / folder).iterdir() if file.is_file())
        except OSError:
            return []

    def title(self, path: str) -> str:
        return str(self._folder / path)


def read_header(file: Path, *, what: str) -> Header | None:
    """Read the header of a safetensors file: 8 bytes, and then as many as they say; or of a GGUF file.

    Of weights, only a LoRA's alphas are read.

    None: there is no such file.

    Raises:
        SourceError: It cannot be read, is not a regular file or not a safetensors file, or is damaged.
    """
    try:
        _refuse_special(file.stat().st_mode, what)
        # Not blocking: since the check it may have become a pipe, which waits for a writer.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        with open(os.open(file, flags), "rb") as stream:  # noqa: PTH123  a descriptor, not a path
            status = os.fstat(stream.fileno())
            _refuse_special(status.st_mode, what)
            prefix = stream.read(PREFIX_BYTES)
            if prefix.startswith(MAGIC):
                return parse_gguf(prefix + stream.read(MAX_HEADER_BYTES), what=what, file_bytes=status.st_size)
            length = header_length(prefix, what=what, file_bytes=status.st_size)
            raw = stream.read(length)
            if len(raw) < length:
                raise SourceError(f"{what} became shorter while it was read", hint="wait until it is written")
            return parse_header(raw, what=what, file_bytes=status.st_size, stream=stream)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "invalid file name"
        raise SourceError(f"{what} cannot be read: {why.lower()}", hint="check that you may read it") from None


def _refuse_special(mode: int, what: str) -> None:
    """Refuse what is not a regular file before a read could wait for it forever."""
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _SPECIAL_FILES if is_kind(mode)), "a special file")
        raise SourceError(f"{what} is {kind}, not a weights file", hint="give the .safetensors file itself")
