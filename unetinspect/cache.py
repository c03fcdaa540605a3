"""Records that are kept from one run to the next, so that the same question is answered without torch.

A record is kept under a key made of everything that decides it: the config and what is known of it, the request, and the
code that ran it (the version of torch, and every file of unetinspect and diffusers). Whatever goes wrong with
the folder costs a trace, and is never an error.
"""

from __future__ import annotations

import gzip
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from unetinspect.files import replacing
from unetinspect.record import Trace
from unetinspect.request import Request
from unetinspect.source.base import LoadedModel
from unetinspect.version import __version__

if TYPE_CHECKING:
    from unetinspect.tracing import Tracer

LIMIT_BYTES = 64 * 2**20
_LOCATION = "UNETINSPECT_CACHE"
_SUFFIX = ".json.gz"
_State = tuple[str, int, int]  # path, size and time of a file


class CacheInfo(Struct, frozen=True, kw_only=True):
    """The state of the cache of records.

    Attributes:
        folder: Where records are kept.
        records: How many there are.
        bytes: What they take.
        limit_bytes: What they may take; those that were not asked for longest go first.
        writable: Whether records can be kept there.
        removed: How many `cache clear` removed, None otherwise.
    """

    folder: str
    records: int
    bytes: int
    limit_bytes: int
    writable: bool
    removed: int | None = None


class RecordCache:
    """A folder of records.

    Attributes:
        folder: Where they are: the folder that `UNETINSPECT_CACHE` names, else one in the user's cache folder.
        limit: How many bytes they may take.
    """

    def __init__(self, folder: Path | None = None, *, limit: int = LIMIT_BYTES) -> None:
        self.folder = folder or default_folder()
        self.limit = limit

    def get(self, key: str) -> Trace | None:
        """Return the record that is kept under a key; None where there is none, or none that can be read."""
        path = self._path(key)
        try:
            # No `Trace.from_json`, which looks for contradictions in what others may have written.
            record = msgspec.json.decode(gzip.decompress(path.read_bytes()), type=Trace)
        except FileNotFoundError:
            return None
        except (OSError, EOFError, zlib.error, UnicodeError, msgspec.MsgspecError):  # damaged: it is traced again, and written anew
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)  # what is asked for stays
        return record

    def put(self, key: str, record: Trace) -> None:
        """Keep a record; where that cannot be done, it is not kept."""
        with suppress(OSError, UnicodeError):  # a name that is not UTF-8 has no JSON
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._path(key), suffix=_SUFFIX) as (handle, _), os.fdopen(handle, "wb") as file:
                file.write(gzip.compress(msgspec.json.encode(record), compresslevel=3, mtime=0))
            self._make_room()

    def info(self) -> CacheInfo:
        """Return how much is kept, and where."""
        sizes = [size for _, size, _ in self._entries()]
        existing = next((folder for folder in (self.folder, *self.folder.absolute().parents) if os.path.lexists(folder)), Path())
        return CacheInfo(
            folder=str(self.folder),
            records=len(sizes),
            bytes=sum(sizes),
            limit_bytes=self.limit,
            writable=os.access(existing, os.W_OK | os.X_OK) and existing.is_dir(),
        )

    def clear(self) -> int:
        """Remove every record; returns how many there were.

        Raises:
            OSError: One cannot be removed.
        """
        entries = self._entries()
        for _, _, path in entries:
            path.unlink(missing_ok=True)
        return len(entries)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _entries(self) -> list[tuple[float, int, Path]]:
        """List (last use, bytes, path) of every record, and of what an interrupted run left, the oldest first."""
        entries = []
        with suppress(OSError):
            for path in self.folder.iterdir():
                if path.name.endswith(_SUFFIX):
                    with suppress(OSError):  # another run may have removed it
                        entries.append((path.stat().st_mtime, path.stat().st_size, path))
        return sorted(entries)

    def _make_room(self) -> None:
        entries = self._entries()
        excess = sum(size for _, size, _ in entries) - self.limit
        for _, size, path in entries:
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= size


def open_cache(*, wanted: bool = True) -> RecordCache | None:
    """Return the cache; None where it is not wanted, or where diffusers was imported before.

    Whoever imported diffusers may have changed it since: nothing that its code decides is then taken from a file or kept.
    """
    return RecordCache() if wanted and "diffusers" not in sys.modules else None


class Recorder:
    """Gives the records of one model that was read: kept ones, or those of passes that are run when they are asked for.

    torch is imported and the UNet built only for the first that is not kept; `force` builds what is huge all the same.
    `say` is told each step as it begins.
    """

    def __init__(
        self,
        cache: RecordCache | None,
        model: LoadedModel,
        overrides: Mapping[str, Any] | None = None,
        *,
        force: bool = False,
        say: Callable[[str], None] = lambda step: None,
    ) -> None:
        self._cache = cache
        self._model = model
        self._overrides = overrides or {}
        self._force = force
        self._say = say
        self._tracer: Tracer | None = None

    def record(self, request: Request, plugged: LoadedModel | None = None) -> Trace:
        """Return the record of a pass; raises what `Tracer.trace` raises, and keeps no failure."""
        key = record_key(self._model, request, self._overrides, plugged, code=self._code) if self._cache else None
        kept = self._cache.get(key) if self._cache and key else None
        if kept is not None:
            return kept
        record = self._ready().trace(request, plugged)
        if self._cache and key:
            self._cache.put(key, record)
        return record

    @cached_property
    def _code(self) -> list[str] | None:
        return code_state()

    def _ready(self) -> Tracer:
        if self._tracer is None:
            self._say("importing torch and diffusers")
            from unetinspect.tracing import Tracer

            self._tracer = Tracer(self._model, self._overrides, force=self._force, say=self._say)
        return self._tracer


def default_folder() -> Path:
    """Return the folder that records are kept in."""
    named = os.environ.get(_LOCATION)
    if named:
        return Path(named)
    from platformdirs import user_cache_path

    return user_cache_path("unetinspect", appauthor=False) / "records"


def record_key(
    model: LoadedModel,
    request: Request,
    overrides: Mapping[str, Any],
    plugged: LoadedModel | None = None,
    *,
    code: list[str] | None,
) -> str | None:
    """Return the key of a record: a digest of everything that decides it, `code` (`code_state()`) included.

    None: something of that cannot be found, or not be written down.
    """
    if code is None:
        return None
    decides = (
        __version__,
        code,
        [None if given is None else msgspec.structs.asdict(given) | {"trace": None} for given in (model, plugged)],
        request,
        dict(overrides),
        _devices() if request.device not in ("meta", "cpu") else "",
    )
    try:
        return sha256(msgspec.json.encode(decides, order="deterministic")).hexdigest()
    except (TypeError, UnicodeError, msgspec.MsgspecError):  # a config given in Python may hold anything, a file's name any bytes
        return None


def code_state() -> list[str] | None:
    """Return what changes with the code that makes a record; None where it cannot be found.

    Of unetinspect and diffusers that is every file, as people edit diffusers where it is installed; of torch, whose
    thousands of files take too long, the one that has its version and the list of its files, which every installer writes.
    """
    folders = [_folder_of(name) for name in ("unetinspect", "diffusers", "torch")]
    if None in folders:
        return None
    *edited, torch = filter(None, folders)
    try:
        installed = [_state(path) for path in (torch / "version.py", *torch.parent.glob("torch-*.dist-info/RECORD"))]
    except OSError:
        return None
    return [repr(sorted(found)) for found in (*map(_states, edited), installed)]


def _folder_of(package: str) -> Path | None:
    """Return where a package lies, without importing it."""
    spec = find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _states(folder: str | Path) -> Iterator[_State]:
    """Yield the state of every Python file in a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".py"):
                yield _state(entry)
            elif entry.name != "__pycache__" and entry.is_dir(follow_symlinks=False):
                yield from _states(entry.path)


def _state(file: os.DirEntry[str] | Path) -> _State:
    found = file.stat()
    return os.fspath(file), found.st_size, found.st_mtime_ns


def _devices() -> list[str]:
    """List the accelerators that the system shows, without asking torch, which would have to be imported."""
    variables = [os.environ.get(name, "") for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")]
    if sys.platform == "win32":
        return [*variables, str(Path(os.environ.get("SYSTEMROOT", "C:/Windows"), "System32", "nvcuda.dll").exists())]
    nodes = [node for pattern in ("nvidia[0-9]*", "kfd", "dxg") for node in Path("/dev").glob(pattern)]
    return [*variables, *sorted(map(str, nodes))]
