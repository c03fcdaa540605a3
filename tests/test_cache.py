"""Records are kept from one run to the next: under a key of all that decides them, and whatever happens to the folder."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tiny import CONDITION, PLAIN, traced
from unetinspect import Trace
from unetinspect.checkpoint.safetensors_header import Header
from unetinspect.record import Checkpoint, Source
from unetinspect.run import cache
from unetinspect.run.cache import RecordCache, Recorder, open_cache
from unetinspect.run.resolve import resolve_config
from unetinspect.source.loaded import LoadedModel, LoadedWeights
from unetinspect.unets.request import Request

MODEL = LoadedModel(name="tiny", config=CONDITION, source=Source(kind="dict", location="tiny"))
ON_META = Request(device="meta")
CHECKPOINT = Checkpoint(
    name="w",
    files=1,
    bytes=0,
    tensors=0,
    params=0,
    content="unet",
    layout=None,
    class_name=None,
    family=None,
    models=(),
    summary="nothing",
    parts=(),
    evidence=(),
)

# Every field of a model with another value than above: those that decide a pass, and those that say which model it was run for.
DECIDES: dict[str, Any] = {
    "config": {**CONDITION, "layers_per_block": 2},
    "vae_scale_factor": 8,
    "medium": "video",
    "weights": LoadedWeights(header=Header(name="w", tensors={}), checkpoint=CHECKPOINT, source=Source(kind="file", location="w")),
}
DESCRIBES: dict[str, Any] = {
    "name": "other",
    "source": Source(kind="dict", location="elsewhere"),
    "vae_scale_from": "catalog",
    "notes": ("a note",),
}
OTHER_REQUESTS: dict[str, Any] = {
    "res": (64, 64),
    "latent": (8, 8),
    "batch": 2,
    "cfg": False,
    "tokens": 7,
    "frames": 3,
    "device": "cpu",
    "dtype": "float16",
    "vae_scale": 4,
    "freeu": (1.0, 1.0, 1.0, 1.0),
}


def record_key(
    model: LoadedModel, request: Request, overrides: dict[str, Any] | None = None, plugged: LoadedModel | None = None
) -> str | None:
    """Return the key of a record that the code of this moment makes."""
    added = None if plugged is None else (plugged, resolve_config(plugged.config))
    return cache.record_key(model, resolve_config(model.config, overrides), request, added, code=RecordCache().code)


@pytest.fixture
def kept(tmp_path: Path) -> RecordCache:
    """A cache in an empty folder that is not there yet."""
    return RecordCache(tmp_path / "records")


@pytest.mark.parametrize("kind", ["conditioned", "plain"])
def test_what_was_kept_is_the_record_itself(kind: str, kept: RecordCache) -> None:
    """A record that was put away comes back equal, and only under its own key."""
    record = traced(kind)
    kept.put("key", record)

    assert kept.get(Trace, "key") == record
    assert kept.get(Trace, "other") is None


def test_the_key_holds_every_field_that_decides_a_pass_and_no_other() -> None:
    """A change of any of them is another key, or the same: a new field is missed here until it has a value above."""
    same = record_key(MODEL, ON_META)
    keys = [same, record_key(MODEL, ON_META, {"norm_eps": 1}), record_key(MODEL, ON_META, {}, MODEL)]
    keys += [record_key(msgspec.structs.replace(MODEL, **{name: value}), ON_META) for name, value in DECIDES.items()]
    keys += [record_key(MODEL, msgspec.structs.replace(ON_META, **{name: value})) for name, value in OTHER_REQUESTS.items()]

    assert None not in keys
    assert len(set(keys)) == len(keys)
    assert {record_key(msgspec.structs.replace(MODEL, **{name: value}), ON_META) for name, value in DESCRIBES.items()} == {same}
    assert {*DECIDES, *DESCRIBES, "trace"} == set(LoadedModel.__struct_fields__)
    assert set(OTHER_REQUESTS) == set(Request.__struct_fields__)


def test_the_key_changes_with_the_accelerators_where_auto_would_take_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` is meta without a GPU: a record made so is none of a machine, or of a setting, that has one."""
    auto = Request(device="auto")
    before = record_key(MODEL, auto), record_key(MODEL, ON_META)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")

    assert record_key(MODEL, auto) != before[0]
    assert record_key(MODEL, ON_META) == before[1]


def test_the_key_changes_when_code_is_edited_or_upgraded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """People edit diffusers where it is installed: a file that changed, or another torch, is another key."""
    files = [tmp_path / name for name in ("diffusers/models/block.py", "torch/version.py", "torch-9.dist-info/RECORD")]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("a = 1\n")
    spec = importlib.util.find_spec
    monkeypatch.setattr(
        "unetinspect.run.cache.find_spec",
        lambda name: spec(name) if name == "unetinspect" else SimpleNamespace(origin=str(tmp_path / name / "__init__.py")),
    )
    keys = [record_key(MODEL, ON_META)]
    for file in files:
        file.write_text("a = 12\n")
        keys.append(record_key(MODEL, ON_META))

    assert None not in keys
    assert len(set(keys)) == 4
    assert record_key(MODEL, ON_META) == keys[-1]
    files[1].unlink()
    assert cache.code_state() is None


def test_what_cannot_be_written_down_is_not_kept() -> None:
    """A config given in Python may hold a number that Python does not write: it has no key, and is traced each time."""
    assert record_key(msgspec.structs.replace(MODEL, config={**CONDITION, "norm_eps": 10**5000}), ON_META) is None
    assert record_key(msgspec.structs.replace(MODEL, config={**CONDITION, "unknown": object()}), ON_META) == record_key(MODEL, ON_META)


def test_no_number_and_no_value_are_two_keys() -> None:
    """JSON would write NaN as null."""
    odd, none = (msgspec.structs.replace(MODEL, config={**CONDITION, "norm_num_groups": value}) for value in (float("nan"), None))

    assert record_key(odd, ON_META) != record_key(none, ON_META)


def test_nothing_is_taken_from_files_once_diffusers_is_imported() -> None:
    """It may have been changed since: in this process it was imported long ago."""
    import diffusers  # noqa: F401

    assert open_cache() is None


def damages(whole: bytes) -> dict[str, bytes]:
    """Return what an entry may look like after a crash, a full disk, or another version."""
    record = json.loads(gzip.decompress(whole))
    return {
        "empty": b"",
        "cut off": whole[: len(whole) // 2],
        "one byte short": whole[:-1],
        "a byte turned": whole[:200] + bytes([whole[200] ^ 255]) + whole[201:],
        "text": b"no gzip at all",
        "other JSON": gzip.compress(b"[1, 2]"),
        "no JSON": gzip.compress(b"{"),
        "a newer schema": gzip.compress(json.dumps({**record, "schema": "unetinspect.trace/2"}).encode()),
        "a field of another type": gzip.compress(json.dumps({**record, "stages": 3}).encode()),
    }


@pytest.mark.parametrize("damage", damages(gzip.compress(traced("plain").to_json().encode())))
def test_a_damaged_entry_is_traced_again_and_written_anew(damage: str, kept: RecordCache) -> None:
    """Whatever the file holds: no error, the right record, and the next run finds it whole."""
    model = msgspec.structs.replace(MODEL, config=PLAIN)
    record = Recorder(kept, model).record(ON_META)
    paths = sorted(kept.folder.iterdir(), key=lambda path: path.stat().st_size)  # the keys of the class, the record
    for path in paths:
        path.write_bytes(damages(path.read_bytes())[damage])

    assert len(paths) == 2
    assert kept.get(Trace, path.name.partition(".")[0]) is None
    assert not path.exists()
    assert Recorder(kept, model).record(ON_META) == record
    assert kept.get(Trace, path.name.partition(".")[0]) == record


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_no_bytes_at_all_are_an_error(content: bytes, kept: RecordCache) -> None:
    """Any content of an entry is either a record or nothing."""
    kept.folder.mkdir(parents=True, exist_ok=True)
    (kept.folder / "key.json.gz").write_bytes(content)

    assert kept.get(Trace, "key") is None


def test_the_longest_unused_go_first_when_room_is_short(tmp_path: Path) -> None:
    """The folder never holds more than its limit, and what was asked for lately stays."""
    record = traced("plain")
    one = RecordCache(tmp_path / "one")
    one.put("a", record)
    size = one.info().bytes
    kept = RecordCache(tmp_path / "records", limit=2 * size)
    for age, key in enumerate("abc"):
        kept.put(key, record)
        for found in kept.folder.glob(f"{key}.*"):
            os.utime(found, (age, age))
        kept.get(Trace, "a")

    assert [kept.get(Trace, key) is not None for key in "abc"] == [True, False, True]
    assert kept.info().records == 2
    assert kept.info().bytes <= kept.limit


@pytest.mark.parametrize("obstacle", ["file", "file above", "folder in the entry's place"])
def test_a_folder_that_cannot_be_used_costs_only_the_trace(obstacle: str, tmp_path: Path) -> None:
    """Where nothing can be kept, or read, nothing is, and nobody is bothered."""
    folder = tmp_path / "records"
    if obstacle == "folder in the entry's place":
        (folder / "key.json.gz").mkdir(parents=True)
    else:
        folder.write_text("")
    kept = RecordCache(folder / "below" if obstacle == "file above" else folder)
    kept.put("key", traced("plain"))

    assert kept.get(Trace, "key") is None
    assert kept.info().writable is (obstacle == "folder in the entry's place")


def test_a_write_that_fails_leaves_nothing_behind(kept: RecordCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: no half of an entry, no leftover of the attempt."""
    kept.folder.mkdir(parents=True)

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    kept.put("key", traced("plain"))

    assert list(kept.folder.iterdir()) == []


def test_runs_at_once_never_see_half_an_entry(kept: RecordCache) -> None:
    """Writers and readers of one key side by side: each read is the whole record."""
    record = traced("plain")
    kept.put("key", record)
    with ThreadPoolExecutor(8) as pool:
        writes = [pool.submit(kept.put, "key", record) for _ in range(40)]
        reads = [pool.submit(kept.get, Trace, "key") for _ in range(40)]
        found: list[Trace | None] = [read.result() for read in reads]
        assert [write.result() for write in writes] == [None] * 40

    assert found == [record] * 40
    assert len(list(kept.folder.iterdir())) == 1


def test_no_cache_takes_nothing_and_keeps_nothing(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--no-cache` asks for no cache, and then there is none."""
    config, asked = tmp_path / "config.json", []
    config.write_text(json.dumps(PLAIN))
    monkeypatch.setattr("unetinspect.cli.run.open_cache", lambda *, wanted: asked.append(wanted))
    assert cli("trace", str(config), "--device", "meta", "--no-cache")[0] == 0
    assert cli("trace", str(config), "--device", "meta")[0] == 0

    assert asked == [False, True]
    monkeypatch.delitem(sys.modules, "diffusers")
    assert open_cache(wanted=False) is None
    assert open_cache() is not None


def test_cache_shows_and_clears(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cache info` counts what is there, `cache clear` removes it and nothing else."""
    monkeypatch.setenv("UNETINSPECT_CACHE", str(tmp_path))
    RecordCache().put("key", traced("plain"))
    (tmp_path / "mine.txt").write_text("")
    size = (tmp_path / "key.json.gz").stat().st_size

    code, out, _ = cli("cache")
    assert (code, out.splitlines()) == (0, [f"folder: {tmp_path}", f"1 record, {size / 1024:.3f} KiB of at most 64 MiB"])
    assert json.loads(cli("cache", "info", "--json")[1])["records"] == 1
    assert json.loads(cli("cache", "clear", "--json")[1]) == {
        "folder": str(tmp_path),
        "records": 0,
        "bytes": 0,
        "limit_bytes": 64 * 2**20,
        "writable": True,
        "removed": 1,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert cli("cache", "empty")[0] == 2
