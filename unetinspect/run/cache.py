"""Records that are kept from one run to the next, so that the same question is answered without torch.

A record is kept under a key made of everything that decides it: the resolved config, the VAE factor, the request, and the
code that ran it (the version of torch, and every file of unetinspect and diffusers). What a model is called and where it was
read decides nothing, and is filled in as a record is taken. Kept likewise are the keys of classes, with which a config is resolved
without diffusers, and the answers of `check`. Whatever goes wrong with the folder costs a trace, and is never an error.
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
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import Struct

from unetinspect.record import Envelope, ModelInfo, NearSize, Trace
from unetinspect.run.described import described, model_info
from unetinspect.run.resolve import ConfigClass, ResolvedConfig, config_class, resolve_config
from unetinspect.source import LoadedModel
from unetinspect.streams import replacing
from unetinspect.unets.request import Request
from unetinspect.version import __version__

if TYPE_CHECKING:
    from unetinspect.run.tracer import Tracer

LIMIT_BYTES = 64 * 2**20
_LOCATION = "UNETINSPECT_CACHE"
_SUFFIX = ".json.gz"
_Record = TypeVar("_Record", bound=Struct)
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

    def get(self, kind: type[_Record], key: str) -> _Record | None:
        """Return what is kept under a key; None where there is nothing, or nothing of this kind that can be read."""
        path = self._path(key)
        try:
            # No `Trace.from_json`, which looks for contradictions in what others may have written.
            record = msgspec.json.decode(gzip.decompress(path.read_bytes()), type=kind)
        except FileNotFoundError:
            return None
        except (OSError, EOFError, zlib.error, UnicodeError, msgspec.MsgspecError):  # damaged: it is made again, and written anew
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)  # what is asked for stays
        return record

    @cached_property
    def code(self) -> str | None:
        """A digest of the code that makes records, the same for all that one process makes; None where it cannot be found."""
        state = code_state()
        return None if state is None else sha256(repr(state).encode()).hexdigest()

    def put(self, key: str, record: Struct) -> None:
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

    diffusers and torch are imported, and the UNet is built, only for the first that is not kept; `force` builds what is huge all the
    same. `say` is told each step as it begins. Recorders of several models share one cache.

    Attributes:
        model: The model.
        overrides: The config keys that are overridden.
        force: Whether what is huge is built.
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
        self.model = model
        self.overrides = dict(overrides or {})
        self.force = force
        self._say = say

    @cached_property
    def config(self) -> ResolvedConfig:
        """The whole config; raises what `resolve_config` raises."""
        return resolve_config(self.model.config, self.overrides, class_of=self._class_of)

    @property
    def info(self) -> ModelInfo:
        """The model with its whole config, without building it."""
        return model_info(self.model, self.config, params=None)

    def record(self, request: Request, plugged: LoadedModel | None = None) -> Trace:
        """Return the record of a pass; raises what `Tracer.trace` raises, and keeps no failure."""
        added = None if plugged is None else (plugged, resolve_config(plugged.config, class_of=self._class_of))
        key = record_key(self.model, self.config, request, added, code=self._code)
        record = self._kept(Trace, key, lambda: self._tracer.observe(request, plugged))
        return described(record, self.model, self.config, request, plugged)

    def answer(self, asked: Any, answer: Callable[[], Envelope]) -> Envelope:
        """Return the answer to what else is asked of this model: the one that is kept, or else that of `answer`.

        Its sentences may name the model, and so all that is known of the model decides it.
        """
        given = msgspec.structs.replace(self.model, trace=None)
        return self._kept(Envelope, _key(("answer", given, self.overrides, self.force, asked, _devices()), self._code), answer)

    def nearest_sizes(self, request: Request) -> tuple[NearSize, ...]:
        """Find the sizes nearest to that of a request which run and return their own size, by running them."""
        return self._tracer.nearest_sizes(request)

    @cached_property
    def _tracer(self) -> Tracer:
        self._say_import()
        from unetinspect.run.tracer import Tracer

        return Tracer(self.model, self.overrides, force=self.force, say=self._say)

    def _class_of(self, name: Any) -> ConfigClass:
        """Return what there is to know of a class: what is kept, or what diffusers says."""

        def asked() -> ConfigClass:
            self._say_import()
            return config_class(name)

        return self._kept(ConfigClass, _key(("class", name), self._code), asked)

    @property
    def _code(self) -> str | None:
        return self._cache.code if self._cache is not None else None

    def _kept(self, kind: type[_Record], key: str | None, make: Callable[[], _Record]) -> _Record:
        """Return what is kept under a key, or what `make` makes, which is then kept; without a cache or a key, the latter alone."""
        if self._cache is None or key is None:
            return make()
        found = self._cache.get(kind, key)
        if found is None:
            found = make()
            self._cache.put(key, found)
        return found

    def _say_import(self) -> None:
        if "torch" not in sys.modules:
            self._say("importing torch and diffusers")


def default_folder() -> Path:
    """Return the folder that records are kept in."""
    named = os.environ.get(_LOCATION)
    if named:
        return Path(named)
    from platformdirs import user_cache_path

    return user_cache_path("unetinspect", appauthor=False) / "records"


def record_key(
    model: LoadedModel,
    config: ResolvedConfig,
    request: Request,
    plugged: tuple[LoadedModel, ResolvedConfig] | None = None,
    *,
    code: str | None,
) -> str | None:
    """Return the key of a record: a digest of everything that decides the pass, `code` (`RecordCache.code`) included.

    None: something of that cannot be found, or not be written down.
    """
    added = None if plugged is None else _decides(*plugged)
    devices = _devices() if request.device not in ("meta", "cpu") else ""
    return _key(("trace", _decides(model, config), added, request, devices), code)


def _decides(model: LoadedModel, config: ResolvedConfig) -> tuple[Any, ...]:
    """Return what of a model decides a pass. A checkpoint is held against the UNet, and a note says its name."""
    weights = model.weights
    verified = None if weights is None else (model.name, weights.header, weights.checkpoint, bool(config.overridden))
    return config.class_name, config.values, model.vae_scale_factor, model.medium or config.medium, verified


def _key(decides: Any, code: str | None) -> str | None:
    """Return a digest of what decides an answer, as Python writes it (JSON has null for NaN); None where that cannot be written."""
    if code is None:
        return None
    try:
        return sha256(repr((__version__, code, decides)).encode()).hexdigest()
    except (ValueError, RecursionError):  # a whole number of more digits than Python writes, lists in lists in lists
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
