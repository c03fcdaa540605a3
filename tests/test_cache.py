"""Records are cached under a key of all that decides them, whatever happens to the folder; a cached answer is the fresh one."""

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
from msgspec.structs import replace

from tests.checkpoints import built_shapes, header_of, write_checkpoint
from tests.test_imports import imported_after
from tests.tiny import CONDITION, ON_META, PLAIN, config_of, model_of, traced
from unetinspect import Trace
from unetinspect.catalog import PipelineSize
from unetinspect.errors import ConfigError
from unetinspect.record import Source
from unetinspect.run import cache
from unetinspect.run.cache import RecordCache, Recorder, open_cache
from unetinspect.run.resolve import class_keys, resolve_config
from unetinspect.source import read_model
from unetinspect.source.loaded import LoadedModel
from unetinspect.unets.request import Request, make_request

AUDIO, CONTROLNET = config_of("unet1d-audio"), config_of("controlnet")
# Every field of a model with another value than above: those that decide a pass, and those that say which model it was run for.
DECIDES: dict[str, Any] = {
    "config": {**CONDITION, "layers_per_block": 2},
    "vae_scale_factor": 8,
    "medium": "video",
    "default_size": PipelineSize(image=(64, 128), pipeline="APipeline"),
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
    "training": True,
    "optimizer": "sgd",
    "gradient_checkpointing": True,
}


MODEL = model_of(CONDITION)


def record_key(
    model: LoadedModel, request: Request, overrides: dict[str, Any] | None = None, attached: LoadedModel | None = None
) -> str | None:
    """Return the key of a record that the code of this moment makes."""
    added = None if attached is None else (attached, resolve_config(attached.config))
    return cache.record_key(model, resolve_config(model.config, overrides), request, added, code=RecordCache().code)


@pytest.fixture
def kept(tmp_path: Path) -> RecordCache:
    """A cache in an empty folder that is not there yet."""
    return RecordCache(tmp_path / "records")


def test_the_key_holds_every_field_that_decides_a_pass_and_no_other(tmp_path: Path) -> None:
    """A change of any of them is another key, or the same: a new field is missed here until it has a value above."""
    weights = read_model(write_checkpoint(tmp_path / "w.safetensors", header_of(built_shapes(PLAIN)))).weights
    deciding = {**DECIDES, "weights": weights}
    same = record_key(MODEL, ON_META)
    keys = [same, record_key(MODEL, ON_META, {"norm_eps": 1}), record_key(MODEL, ON_META, {}, MODEL)]
    keys += [record_key(replace(MODEL, **{name: value}), ON_META) for name, value in deciding.items()]
    keys += [record_key(MODEL, replace(ON_META, **{name: value})) for name, value in OTHER_REQUESTS.items()]

    assert None not in keys
    assert len(set(keys)) == len(keys)
    assert {record_key(replace(MODEL, **{name: value}), ON_META) for name, value in DESCRIBES.items()} == {same}
    assert {*deciding, *DESCRIBES, "trace"} == set(LoadedModel.__struct_fields__)
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


def test_the_key_is_of_the_values_as_python_writes_them() -> None:
    """What Python does not write has no key; NaN is not null, as it would be in JSON; unknown keys of a config do not matter."""
    assert record_key(model_of({**CONDITION, "norm_eps": 10**5000}), ON_META) is None
    assert record_key(model_of({**CONDITION, "unknown": object()}), ON_META) == record_key(MODEL, ON_META)
    odd, none = (model_of({**CONDITION, "norm_num_groups": value}) for value in (float("nan"), None))
    assert record_key(odd, ON_META) != record_key(none, ON_META)


def damages(whole: bytes) -> dict[str, bytes]:
    """Return what an entry may look like after a crash, a full disk, or another version."""
    record = json.loads(gzip.decompress(whole))
    return {
        "cut off": whole[: len(whole) // 2],
        "text": b"no gzip at all",
        "other JSON": gzip.compress(b"[1, 2]"),
        "a field of another type": gzip.compress(json.dumps({**record, "stages": 3}).encode()),
    }


@pytest.mark.parametrize("damage", damages(gzip.compress(traced("plain").to_json().encode())))
def test_a_damaged_entry_is_traced_again_and_written_anew(damage: str, kept: RecordCache) -> None:
    """Whatever the file holds: no error, the right record, and the next run finds it whole."""
    model = replace(MODEL, config=PLAIN)
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


def test_no_cache_is_opened_if_not_wanted_or_once_diffusers_is_imported(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--no-cache` asks for none; diffusers may have been changed since it was imported, as in this process."""
    config, asked = tmp_path / "config.json", []
    config.write_text(json.dumps(PLAIN))
    monkeypatch.setattr("unetinspect.cli.run.open_cache", lambda *, wanted: asked.append(wanted))
    assert cli("trace", str(config), "--device", "meta", "--no-cache")[0] == 0
    assert cli("trace", str(config), "--device", "meta")[0] == 0

    assert asked == [False, True]
    assert open_cache() is None
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


def assert_cached_is_fresh(
    kept: RecordCache,
    model: LoadedModel,
    request: Request = ON_META,
    overrides: dict[str, Any] | None = None,
    attached: LoadedModel | None = None,
) -> Trace:
    """Check that a record comes from the cache, and that it is what `--no-cache` makes, to the byte of its JSON."""
    before = kept.info().records
    taken = Recorder(kept, model, overrides).record(request, attached)
    fresh = Recorder(None, model, overrides).record(request, attached)

    assert kept.info().records == before > 0
    assert msgspec.json.encode(taken) == msgspec.json.encode(fresh)
    return taken


@settings(max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    written_out=st.sets(st.sampled_from(sorted(class_keys()["UNet2DModel"]))), notes=st.lists(st.text(max_size=9), max_size=3).map(tuple)
)
def test_a_fine_tune_hits_the_record_of_its_base(written_out: set[str], notes: tuple[str, ...], kept: RecordCache) -> None:
    """Whichever defaults are written out, and whatever it is called: one record, with the model's own name, source and notes."""
    Recorder(kept, model_of(PLAIN, notes=("of the base",))).record(ON_META)
    defaults = {key: value for key, value in class_keys()["UNet2DModel"].items() if key in written_out}
    own = {**defaults, **PLAIN, "_name_or_path": "runs/7", "_diffusers_version": "0.1.0", "decay": 0.9}
    record = assert_cached_is_fresh(kept, model_of(own, "mine", notes=notes))

    assert (record.model.name, record.model.source.location) == ("mine", "mine.json")
    assert record.run.notes == notes
    assert record.model.config_ignored == ("decay",)
    assert written_out.isdisjoint(record.model.config_defaults)


def test_the_source_of_a_vae_factor_is_the_models_own(kept: RecordCache) -> None:
    """Where the factor was found is the model's own, unless it was assumed or given by an option."""
    for request in (ON_META, make_request(device="meta", res=128), make_request(device="meta", vae_scale=4)):
        Recorder(kept, model_of(CONDITION, vae_scale_factor=8, vae_scale_from="catalog")).record(request)
        assert_cached_is_fresh(kept, model_of(CONDITION, "mine", vae_scale_factor=8, vae_scale_from="vae/config.json"), request)
        Recorder(kept, model_of(CONDITION)).record(request)
        assert_cached_is_fresh(kept, model_of(CONDITION, "mine"), request)


def test_an_adapted_config_brings_its_own_notes(kept: RecordCache) -> None:
    """A Dance Diffusion is run with another key than it has; a config that has that key already is run without a word."""
    first = Recorder(kept, model_of(AUDIO, notes=("one",))).record(ON_META)
    again = assert_cached_is_fresh(kept, model_of(AUDIO, "mine", notes=("two", "three")))
    said = assert_cached_is_fresh(kept, model_of({**AUDIO, "time_embedding_dim": 16}, "mended"))

    assert (len(first.run.notes), len(again.run.notes)) == (2, 3)
    assert said.run.notes == ()


def test_overrides_and_saved_traces_hit_it_too(kept: RecordCache) -> None:
    """`--set` to the values of a record, and that record itself as MODEL."""
    deep = {**CONDITION, "layers_per_block": 2}
    first = Recorder(kept, model_of(deep)).record(ON_META)

    assert assert_cached_is_fresh(kept, model_of(CONDITION), ON_META, {"layers_per_block": 2}).model.config_overrides == (
        "layers_per_block",
    )
    assert assert_cached_is_fresh(kept, LoadedModel.from_trace(first)) == first


def test_an_attached_controlnet_is_reduced_likewise(kept: RecordCache) -> None:
    """A ControlNet of one config is one whatever its name is; of another config, it is another."""
    canny, depth = (model_of(CONTROLNET, name) for name in ("canny", "depth"))
    Recorder(kept, model_of(CONDITION)).record(ON_META, canny)
    record = assert_cached_is_fresh(kept, model_of(CONDITION, "mine"), attached=depth)
    records = kept.info().records
    wider = model_of(config_of("controlnet", conditioning_embedding_out_channels=[8, 32]), "canny")
    Recorder(kept, model_of(CONDITION)).record(ON_META, wider)

    assert record.run.plugged == "depth"
    assert {spec.config_key for spec in record.run.inputs if "residual" in spec.name} == {"--with depth"}
    assert kept.info().records == records + 1


def test_a_checkpoint_is_compared_with_the_unet_whatever_is_cached(kept: RecordCache, tmp_path: Path) -> None:
    """Its header decides: one that fits is verified and kept, one that does not is refused also where its config's record is kept."""
    shapes = built_shapes(CONDITION)
    (tmp_path / "config.json").write_text(json.dumps(CONDITION))
    good = read_model(write_checkpoint(tmp_path / "good.safetensors", header_of(shapes)))
    bad = read_model(write_checkpoint(tmp_path / "bad.safetensors", header_of({**shapes, "conv_in.bias": (33,)})))
    plain = Recorder(kept, replace(good, weights=None)).record(ON_META)
    verified = Recorder(kept, good).record(ON_META)

    assert len(verified.run.notes) == len(plain.run.notes) + 1
    assert "good.safetensors match this UNet in name and shape" in verified.run.notes[-1]
    assert_cached_is_fresh(kept, good)
    assert "were not compared with the UNet" in Recorder(kept, good, {"norm_eps": 1e-5}).record(ON_META).run.notes[-1]
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"bad\.safetensors does not fit"):
            Recorder(kept, bad).record(ON_META)


@pytest.mark.parametrize("config", [CONDITION, AUDIO, CONTROLNET], ids=lambda config: config["_class_name"])
def test_a_config_is_resolved_from_cached_keys_as_from_the_class(config: dict[str, Any], kept: RecordCache) -> None:
    """The keys and defaults of a class come back from JSON as they were, in their order."""
    first, again = (Recorder(kept, model_of(config)).config for _ in range(2))

    assert repr(again) == repr(first) == repr(resolve_config(config))


@pytest.fixture
def kept_commands(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run commands in a folder with two small configs; they keep what they find in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    for name, config in {"unet": CONDITION, "plain": PLAIN}.items():
        Path(f"{name}.json").write_text(json.dumps(config))
    monkeypatch.setenv("UNETINSPECT_CACHE", str(tmp_path / "records"))
    for module in ("run", "lookup"):
        monkeypatch.setattr(f"unetinspect.cli.{module}.open_cache", lambda *, wanted=True: RecordCache() if wanted else None)
    return cli


def test_repeated_commands_take_no_torch_and_say_the_same(kept_commands: Any) -> None:
    """`config`, `check` with what it finds, `trace` and `sweep` of several models, `ports --with`: from files alone."""
    Path("net.json").write_text(json.dumps(CONTROLNET))
    commands = [
        ["config", "unet.json", "--set", "norm_eps=1"],
        ["check", "unet.json", "plain.json", "--latent", "15,16", "--expect", "skips=3", "--device", "meta", "--json"],
        ["trace", "unet.json", "plain.json", "--device", "meta"],
        ["sweep", "unet.json", "plain.json", "--latent", "8", "--device", "meta"],
        ["ports", "unet.json", "--with", "net.json", "--device", "meta"],
    ]
    first = [kept_commands(*command) for command in commands]
    codes = [code for code, _, _ in first]
    again = [[*command, "-o", str(place)] for place, command in enumerate(commands)]
    run = f"from unetinspect.cli.main import main\nassert [main(command) for command in {again!r}] == {codes!r}"

    assert codes == [0, 1, 0, 0, 0]
    assert imported_after(run) == set()
    assert [Path(str(place)).read_text() for place in range(len(commands))] == [out for _, out, _ in first]


def test_a_check_is_kept_under_all_that_is_asked(kept_commands: Any) -> None:
    """A repeated check keeps nothing more; another size, expectation, name or checkpoint is another check; errors are not kept."""

    def records_after(*arguments: str) -> int:
        kept_commands("check", *arguments, "--device", "meta")
        return RecordCache().info().records

    Path("other.json").write_bytes(Path("plain.json").read_bytes())
    write_checkpoint(Path("file.safetensors"), header_of(built_shapes(PLAIN)))
    asked = [
        ["plain.json"],
        ["plain.json", "--latent", "16"],
        ["plain.json", "--expect", "skips=6"],
        ["plain.json", "--expect", "skips=5"],
        ["other.json"],
        ["plain.json", "--weights", "file.safetensors"],
    ]
    counts = [records_after(*arguments) for arguments in asked]

    # The first also brings its class's keys and its pass; the size is a pass of its own, the rest are none.
    assert [after - before for before, after in zip([0, *counts], counts, strict=False)] == [3, 2, 1, 1, 1, 1]
    assert [records_after(*arguments) for arguments in asked] == [counts[-1]] * len(asked)
    assert records_after("plain.json", "--expect", "skip=5") == counts[-1]
    assert records_after("plain.json", "--latent", "8", "--no-cache") == counts[-1]
