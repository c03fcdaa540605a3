"""The small configs of `kinds.yaml`, and records that are traced once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar
from unittest import mock

import torch
import yaml
from msgspec import Struct
from msgspec.structs import replace

from unetinspect import Trace, trace
from unetinspect.catalog import load_catalog
from unetinspect.record import Source
from unetinspect.run.cache import RecordCache, code_state, record_key
from unetinspect.run.resolve import ResolvedConfig
from unetinspect.source.loaded import LoadedModel
from unetinspect.unets import builder_for
from unetinspect.unets.request import Request

Config = dict[str, Any]
Kind = TypeVar("Kind")


def kinds(group: str) -> dict[str, Config]:
    """Read a group of `kinds.yaml`, each kind with the keys of the one that it starts `from`; an older diffusers lacks some classes."""
    found: dict[str, Config] = {}
    for name, keys in _GROUPS[group].items():
        base = found[keys["from"]] if "from" in keys else {}
        found[name] = {**base, **{key: value for key, value in keys.items() if key != "from"}}
    return {name: config for name, config in found.items() if config["_class_name"] in dir(_home_of(config["_class_name"]))}


@cache
def _home_of(class_name: str) -> ModuleType:
    return import_module(builder_for(class_name).module)


_GROUPS: dict[str, dict[str, Config]] = yaml.safe_load(Path(__file__).with_name("kinds.yaml").read_text(encoding="utf-8"))
KINDS = kinds("image")
CONDITION, PLAIN = KINDS["conditioned"], KINDS["plain"]
# One-dimensional UNets and those made for one pipeline; ControlNets, T2I-Adapters and the UNet that contains a ControlNet; video UNets.
# A `MotionAdapter` is in none: it runs only in a UNet of published size (tests/test_motion_adapter.py).
OTHER, PLUGS, VIDEO = map(kinds, ("other", "plugs", "video"))
ALL = {**KINDS, **OTHER, **PLUGS, **VIDEO}
# The first kind of each class.
OF_EACH_CLASS = {config["_class_name"]: kind for kind, config in reversed(ALL.items())}


def config_of(kind: str, **keys: Any) -> Config:
    """Return a small config with some keys replaced."""
    return {**ALL[kind], **keys}


def condition(**keys: Any) -> Config:
    """Return the small conditioned config with some keys replaced."""
    return {**CONDITION, **keys}


def plain(**keys: Any) -> Config:
    """Return the small unconditional config with some keys replaced."""
    return {**PLAIN, **keys}


def model_of(config: Config, name: str = "tiny", **known: Any) -> LoadedModel:
    """Take a config as if it had been read."""
    return LoadedModel(name=name, config=config, source=Source(kind="file", location=f"{name}.json"), **known)


ON_META = Request(device="meta")
# The folder with the records that the workers of a run share; `conftest.py` makes it.
SHARED_RECORDS = "UNETINSPECT_TEST_RECORDS"
_known: dict[str, Trace] = {}


class SharedRecords(RecordCache):
    """The records of a run of the tests. Each is compared with its JSON form: what is read is what was traced."""

    def __init__(self) -> None:
        super().__init__(Path(os.environ[SHARED_RECORDS]), limit=2**40)

    def put(self, key: str, record: Struct) -> None:
        assert not isinstance(record, Trace) or Trace.from_json(record.to_json()) == record
        super().put(key, record)


def traced(name: str, **options: Any) -> Trace:
    """Trace a bundled model, or else one of `ALL`, on meta, once for each set of options."""
    return traced_once(name if name in load_catalog() else ALL[name], **options)


def traced_once(model: str | Config, **options: Any) -> Trace:
    """Trace a model on meta, once for each set of options in a whole run: workers and `cli` share the records."""
    options = {"device": "meta", **options}
    key = repr((model, sorted(options.items())))
    if key not in _known:
        _known[key] = _shared_or_traced(model, options) if SHARED_RECORDS in os.environ else trace(model, **options)
    return _known[key]


def _shared_or_traced(model: str | Config, options: dict[str, Any]) -> Trace:
    with (
        mock.patch("unetinspect.api.open_cache", lambda *, wanted: SharedRecords() if wanted else None),
        mock.patch("unetinspect.run.cache.code_state", code_of_this_run),
    ):
        return trace(model, **options)


def some(kinds: Iterable[Kind], one_in: int) -> list[Kind]:
    """Return one in so many of the kinds; all of them if ALL_KINDS is in the environment: `ALL_KINDS=1 make test`."""
    return list(kinds)[:: 1 if "ALL_KINDS" in os.environ else one_in]


# The code does not change during a run, whatever a test pretends.
code_of_this_run = cache(code_state)


def key_of_this_run(model: LoadedModel, config: ResolvedConfig, request: Request, *arguments: Any, **more: Any) -> str | None:
    """Return the key of a record: without a GPU, "auto" is meta, and its record the same."""
    if request.device == "auto" and not torch.cuda.is_available():
        request = replace(request, device="meta")
    return record_key(model, config, request, *arguments, **more)
