"""A cache of records: the same question is answered again without torch.

The key of a record is a digest of everything that decides it: the resolved config, the VAE factor, the request, and the code (the
version of torch, and every file of unetinspect and diffusers). The name and source of a model are not part of the key: they are
filled in when a record is read. The cache also holds the keys of classes, so that a config is resolved without diffusers, and the
answers of `check`. A folder that cannot be used costs time, and is never an error.
"""

from __future__ import annotations

import gzip
import os
import sys
import warnings
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import Struct

from unetinspect.errors import UnetInspectError
from unetinspect.record import SCHEMA, Envelope, ModelInfo, NearSize, Trace
from unetinspect.run.resolve import ResolvedConfig, described, keys_of, model_info, resolve_config
from unetinspect.source.loaded import LoadedModel
from unetinspect.streams import replacing
from unetinspect.unets import builder_for
from unetinspect.unets.request import Request
from unetinspect.version import __version__

if TYPE_CHECKING:
    from unetinspect.run.tracer import Tracer

LIMIT_BYTES = 64 * 2**20
_SUFFIX = ".json.gz"
_Record = TypeVar("_Record", bound=Struct)


class _Keys(Struct, frozen=True):
    """The config keys of a class, each with its default."""

    keys: dict[str, Any]


class CacheInfo(Struct, frozen=True, kw_only=True):
    """The state of the cache of records.

    Attributes:
        folder: Where the records are.
        records: How many there are.
        bytes: Their size on disk.
        limit_bytes: Their maximal size; the least recently used records are evicted first.
        writable: Whether records can be written there.
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
        folder: `UNETINSPECT_CACHE`, or else a folder in the user's cache folder.
        limit: The maximal size of all records, in bytes.
    """

    def __init__(self, folder: Path | None = None, *, limit: int = LIMIT_BYTES) -> None:
        if folder is None and (named := os.environ.get("UNETINSPECT_CACHE")):
            folder = Path(named)
        if folder is None:
            from platformdirs import user_cache_path

            folder = user_cache_path("unetinspect", appauthor=False) / "records"
        self.folder = folder
        self.limit = limit

    def get(self, kind: type[_Record], key: str) -> _Record | None:
        """Return the record of a key; None if there is none of this type that can be read."""
        path = self._path(key)
        try:
            # Not `Trace.from_json`, which looks for contradictions in files that others may have written.
            record = msgspec.json.decode(gzip.decompress(path.read_bytes()), type=kind)
        except FileNotFoundError:
            return None
        except (OSError, EOFError, zlib.error, UnicodeError, msgspec.MsgspecError):  # damaged: it is made and written again
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)
        return record

    @cached_property
    def code(self) -> str | None:
        """A digest of the code that makes records, computed once in a process; None if its files cannot be found."""
        state = code_state()
        return None if state is None else sha256(repr(state).encode()).hexdigest()

    def put(self, key: str, record: Struct) -> None:
        """Write a record, if that is possible."""
        with suppress(OSError, UnicodeError):  # a name that is not UTF-8 has no JSON
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._path(key), suffix=_SUFFIX) as (handle, _), os.fdopen(handle, "wb") as file:
                file.write(gzip.compress(msgspec.json.encode(record), compresslevel=3, mtime=0))
            entries = self._entries()
            excess = sum(size for _, size, _ in entries) - self.limit
            for _, size, path in entries:
                if excess <= 0:
                    break
                path.unlink(missing_ok=True)
                excess -= size

    def info(self) -> CacheInfo:
        """Return the state of the cache."""
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
            OSError: A record cannot be removed.
        """
        entries = self._entries()
        for _, _, path in entries:
            path.unlink(missing_ok=True)
        return len(entries)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _entries(self) -> list[tuple[float, int, Path]]:
        """List (last use, bytes, path) of every record and of leftovers of an interrupted run, the oldest first."""
        entries = []
        with suppress(OSError):
            for path in self.folder.iterdir():
                if path.name.endswith(_SUFFIX):
                    with suppress(OSError):  # another run may have removed it
                        entries.append((path.stat().st_mtime, path.stat().st_size, path))
        return sorted(entries)


def open_cache(*, wanted: bool = True) -> RecordCache | None:
    """Return the cache; None if it is not wanted, or if diffusers is imported already.

    A program that imported diffusers may have changed its classes: then no record is read or written.
    """
    return RecordCache() if wanted and "diffusers" not in sys.modules else None


class Recorder:
    """Gives the records of one model that was read, from the cache or by running a pass.

    diffusers and torch are imported, and the UNet is built, only for the first record that is not in the cache. `say` is called with
    each step as it begins. Recorders of several models share one cache.

    Attributes:
        model: The model.
        overrides: The config keys that are overridden.
        force: Whether the size limits are lifted.
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
        self._makes_none = False

    @cached_property
    def config(self) -> ResolvedConfig:
        """The whole config; raises what `resolve_config` raises."""
        return resolve_config(self.model.config, self.overrides, known_keys=self._keys_of)

    @property
    def info(self) -> ModelInfo:
        """The model with its whole config; nothing is built."""
        return model_info(self.model, self.config, params=None)

    @property
    def built(self) -> ModelInfo:
        """The model with the config of the UNet that is built of it; with its whole config if it cannot be built."""

        def build() -> Envelope:
            self._say_import()
            from unetinspect.run.build import MAX_MODULES, ModuleCount, built_values, construct

            with suppress(Exception):  # `check` says why
                unet = construct(self.config, ModuleCount(MAX_MODULES))
                return Envelope(schema=SCHEMA, model=msgspec.structs.replace(self.info, config=built_values(unet, self.config)))
            return Envelope(schema=SCHEMA, model=self.info)

        return self.answer("config", build).model

    def record(self, request: Request, attached: LoadedModel | None = None) -> Trace:
        """Return the record of a pass; raises what `Tracer.observe` raises. Errors are not cached."""
        added = None if attached is None else (attached, resolve_config(attached.config, known_keys=self._keys_of))
        key = record_key(self.model, self.config, request, added, code=self._code)
        record = self._cached(Trace, key, lambda: self._tracer.observe(request, attached))
        return described(record, self.model, self.config, request, attached)

    def kept(self, request: Request) -> Trace | None:
        """Return the record of a pass if it is in the cache; nothing is imported to find out."""
        stored = Recorder(self._cache, self.model, self.overrides)
        stored._makes_none = True
        with suppress(LookupError, UnetInspectError):  # an error is found again by a pass
            return stored.record(request)
        return None

    def answer(self, asked: Any, answer: Callable[[], Envelope]) -> Envelope:
        """Return the answer to another question about this model, from the cache or from `answer`.

        Its sentences may name the model, so everything known about the model is part of the key.
        """
        given = msgspec.structs.replace(self.model, trace=None)
        return self._cached(Envelope, _key(("answer", given, self.overrides, self.force, asked, _devices()), self._code), answer)

    def nearest_sizes(self, request: Request) -> tuple[NearSize, ...]:
        """Find the sizes nearest to that of a request which run and return their own size, by running them."""
        return self._tracer.nearest_sizes(request)

    @cached_property
    def _tracer(self) -> Tracer:
        self._say_import()
        with warnings.catch_warnings():  # as in `diffusers_class`
            warnings.simplefilter("ignore")
            from unetinspect.run.tracer import Tracer

        return Tracer(self.model, self.overrides, force=self.force, say=self._say)

    def _keys_of(self, name: Any) -> dict[str, Any]:
        """Return the keys of a class, from the cache or from diffusers."""

        def asked() -> _Keys:
            self._say_import()
            return _Keys(keys_of(name))

        return self._cached(_Keys, _key(("class", name), self._code), asked).keys

    @property
    def _code(self) -> str | None:
        return self._cache.code if self._cache is not None else None

    def _cached(self, kind: type[_Record], key: str | None, make: Callable[[], _Record]) -> _Record:
        """Return the record of a key or, if there is none, what `make` returns, which is then written.

        Raises:
            LookupError: There is none, and none is to be made.
        """
        found = self._cache.get(kind, key) if self._cache is not None and key is not None else None
        if found is None:
            if self._makes_none:
                raise LookupError(key)
            found = make()
            if self._cache is not None and key is not None:
                self._cache.put(key, found)
        return found

    def _say_import(self) -> None:
        if "torch" not in sys.modules:
            self._say("importing torch and diffusers")


def record_key(
    model: LoadedModel,
    config: ResolvedConfig,
    request: Request,
    attached: tuple[LoadedModel, ResolvedConfig] | None = None,
    *,
    code: str | None,
) -> str | None:
    """Return the key of a record: a digest of everything that decides the pass, `code` (`RecordCache.code`) included.

    None: some of it cannot be found or written.
    """
    added = None if attached is None else _decides(*attached)
    devices = _devices() if request.device not in ("meta", "cpu") else ""
    return _key(("trace", _decides(model, config), added, request, devices), code)


def _decides(model: LoadedModel, config: ResolvedConfig) -> tuple[Any, ...]:
    """Return what a pass depends on. A checkpoint is compared with the UNet, and a note contains its name."""
    weights = model.weights
    verified = None if weights is None else (model.name, weights.header, weights.checkpoint, bool(config.overridden))
    medium = model.medium or builder_for(config.class_name).medium
    return config.class_name, config.values, model.vae_scale_factor, model.default_size, medium, verified


def _key(decides: Any, code: str | None) -> str | None:
    """Return a digest of Python's own notation of what decides an answer (JSON has null for NaN); None if that cannot be written."""
    if code is None:
        return None
    try:
        return sha256(repr((__version__, code, decides)).encode()).hexdigest()
    except (ValueError, RecursionError):  # an integer with more digits than Python writes, lists nested too deep
        return None


def code_state() -> list[str] | None:
    """Return what changes with the code that makes a record: path, size and time of files; None if they cannot be found.

    Of unetinspect and diffusers that is every file, as people edit diffusers where it is installed. torch has thousands of files:
    its version and the list of its files, which every installer writes, are enough. No package is imported.
    """
    specs = [find_spec(name) for name in ("unetinspect", "diffusers", "torch")]
    origins = [spec.origin for spec in specs if spec is not None and spec.origin is not None]
    if len(origins) < len(specs):
        return None
    *edited, torch = (Path(origin).parent for origin in origins)
    files = [torch / "version.py", *torch.parent.glob("torch-*.dist-info/RECORD")]
    for package in edited:
        files += [Path(folder, name) for folder, _, names in os.walk(package) for name in names if name.endswith(".py")]
    try:
        states = [(file, file.stat()) for file in sorted(files)]
    except OSError:
        return None
    return [f"{file} {state.st_size} {state.st_mtime_ns}" for file, state in states]


def _devices() -> list[str]:
    """List the accelerators that the system shows, without importing torch."""
    variables = [os.environ.get(name, "") for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")]
    if sys.platform == "win32":
        return [*variables, str(Path(os.environ.get("SYSTEMROOT", "C:/Windows"), "System32", "nvcuda.dll").exists())]
    nodes = [node for pattern in ("nvidia[0-9]*", "kfd", "dxg") for node in Path("/dev").glob(pattern)]
    return [*variables, *sorted(map(str, nodes))]
