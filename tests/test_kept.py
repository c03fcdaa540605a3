"""Models of one resolved config share a record, and each is described by what is its own: a kept answer is the fresh one, to the byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests import kinds_plugs, tiny
from tests.checkpoints import built_shapes, header_of, write_checkpoint
from tests.kinds_other import AUDIO
from tests.test_imports import HEAVY, imported_after
from tests.tiny import CONDITION, PLAIN
from unetinspect.errors import ConfigError
from unetinspect.record import Source, Trace
from unetinspect.run.cache import RecordCache, Recorder
from unetinspect.run.resolve import class_keys, config_class, resolve_config
from unetinspect.source import read_model
from unetinspect.source.loaded import LoadedModel
from unetinspect.unets.request import Request, make_request

ON_META = Request(device="meta")


def model_of(config: dict[str, Any], name: str = "tiny", **known: Any) -> LoadedModel:
    """Take a config as if it had been read."""
    return LoadedModel(name=name, config=config, source=Source(kind="file", location=f"{name}.json"), **known)


@pytest.fixture
def kept(tmp_path: Path) -> RecordCache:
    """A cache in an empty folder."""
    return RecordCache(tmp_path / "records")


def assert_taken_as_if_fresh(
    kept: RecordCache,
    model: LoadedModel,
    request: Request = ON_META,
    overrides: dict[str, Any] | None = None,
    plugged: LoadedModel | None = None,
) -> Trace:
    """Hold that a record is taken from the cache, and that it is what `--no-cache` makes, to the byte of its JSON."""
    before = kept.info().records
    taken = Recorder(kept, model, overrides).record(request, plugged)
    fresh = Recorder(None, model, overrides).record(request, plugged)

    assert kept.info().records == before > 0
    assert msgspec.json.encode(taken) == msgspec.json.encode(fresh)
    return taken


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    written_out=st.sets(st.sampled_from(sorted(class_keys()["UNet2DModel"]))), notes=st.lists(st.text(max_size=9), max_size=3).map(tuple)
)
def test_a_fine_tune_hits_the_record_of_its_base(written_out: set[str], notes: tuple[str, ...], kept: RecordCache) -> None:
    """Whichever defaults are written out, and whatever it is called: one record, dressed in the model's own name, source and notes."""
    Recorder(kept, model_of(PLAIN, notes=("of the base",))).record(ON_META)
    defaults = {key: value for key, value in class_keys()["UNet2DModel"].items() if key in written_out}
    own = {**defaults, **PLAIN, "_name_or_path": "runs/7", "_diffusers_version": "0.1.0", "decay": 0.9}
    record = assert_taken_as_if_fresh(kept, model_of(own, "mine", notes=notes))

    assert (record.model.name, record.model.source.location) == ("mine", "mine.json")
    assert record.run.notes == notes
    assert record.model.config_ignored == ("decay",)
    assert written_out.isdisjoint(record.model.config_defaults)


@pytest.mark.parametrize("kind", ["conditioned", "text-time", "class-projection", "plain-learned-time"])
def test_what_the_class_fills_in_may_be_written_out(kind: str, kept: RecordCache) -> None:
    """A config with every key of its class hits the record of the one that was published."""
    Recorder(kept, model_of(tiny.KINDS[kind])).record(ON_META)
    whole = {**resolve_config(tiny.KINDS[kind]).values, "_class_name": tiny.KINDS[kind]["_class_name"]}

    assert assert_taken_as_if_fresh(kept, model_of(whole, "whole")).model.config_defaults == ()


def test_a_factor_that_others_told_is_described_as_each_was_told(kept: RecordCache) -> None:
    """What said the VAE's factor is the model's own; where the factor was assumed or given by an option, that is said of all."""
    for request in (ON_META, make_request(device="meta", res=128), make_request(device="meta", vae_scale=4)):
        Recorder(kept, model_of(CONDITION, vae_scale_factor=8, vae_scale_from="catalog")).record(request)
        assert_taken_as_if_fresh(kept, model_of(CONDITION, "mine", vae_scale_factor=8, vae_scale_from="vae/config.json"), request)
        Recorder(kept, model_of(CONDITION)).record(request)
        assert_taken_as_if_fresh(kept, model_of(CONDITION, "mine"), request)


def test_an_adapted_config_brings_its_own_notes(kept: RecordCache) -> None:
    """A Dance Diffusion is run with another key than it has; a config that has that key already is run without a word."""
    first = Recorder(kept, model_of(AUDIO, notes=("one",))).record(ON_META)
    again = assert_taken_as_if_fresh(kept, model_of(AUDIO, "mine", notes=("two", "three")))
    said = assert_taken_as_if_fresh(kept, model_of({**AUDIO, "time_embedding_dim": 16}, "mended"))

    assert (len(first.run.notes), len(again.run.notes)) == (2, 3)
    assert said.run.notes == ()


def test_overrides_and_saved_traces_hit_it_too(kept: RecordCache) -> None:
    """`--set` to the values of a record, and that record itself as MODEL."""
    deep = {**CONDITION, "layers_per_block": 2}
    first = Recorder(kept, model_of(deep)).record(ON_META)

    assert assert_taken_as_if_fresh(kept, model_of(CONDITION), ON_META, {"layers_per_block": 2}).model.config_overrides == (
        "layers_per_block",
    )
    assert assert_taken_as_if_fresh(kept, LoadedModel.from_trace(first)) == first


def test_what_is_plugged_in_is_reduced_likewise(kept: RecordCache) -> None:
    """A ControlNet of one config is one whatever its name is; of another config, it is another."""
    canny, depth = (model_of(kinds_plugs.CONTROLNET, name) for name in ("canny", "depth"))
    Recorder(kept, model_of(CONDITION)).record(ON_META, canny)
    record = assert_taken_as_if_fresh(kept, model_of(CONDITION, "mine"), plugged=depth)
    records = kept.info().records
    wider = model_of(kinds_plugs.controlnet(conditioning_embedding_out_channels=[8, 32]), "canny")
    Recorder(kept, model_of(CONDITION)).record(ON_META, wider)

    assert record.run.plugged == "depth"
    assert {spec.config_key for spec in record.run.inputs if "residual" in spec.name} == {"--with depth"}
    assert kept.info().records == records + 1


@pytest.mark.parametrize(
    "other",
    [
        model_of({**PLAIN, "sample_size": 8}),
        model_of({**PLAIN, "norm_eps": 1}),
        model_of({**PLAIN, "act_fn": "mish"}),
        model_of(PLAIN, vae_scale_factor=8),
        model_of(PLAIN, medium="spectrogram"),
    ],
    ids=["size", "number", "function", "factor", "medium"],
)
def test_what_comes_out_otherwise_hits_nothing(other: LoadedModel, kept: RecordCache) -> None:
    """A resolved value, or what is known beside the config, is another: it gets a record of its own."""
    Recorder(kept, model_of(PLAIN)).record(ON_META)
    records = kept.info().records
    record = Recorder(kept, other).record(ON_META)

    assert kept.info().records == records + 1
    assert record == Recorder(None, other).record(ON_META)


def test_a_checkpoint_is_held_against_the_unet_whatever_is_kept(kept: RecordCache, tmp_path: Path) -> None:
    """Its header decides: one that fits is verified and kept, one that does not is refused also where its config's record is kept."""
    shapes = built_shapes(CONDITION)
    (tmp_path / "config.json").write_text(json.dumps(CONDITION))
    good = read_model(write_checkpoint(tmp_path / "good.safetensors", header_of(shapes)))
    bad = read_model(write_checkpoint(tmp_path / "bad.safetensors", header_of({**shapes, "conv_in.bias": (33,)})))
    plain = Recorder(kept, replace(good, weights=None)).record(ON_META)
    verified = Recorder(kept, good).record(ON_META)

    assert len(verified.run.notes) == len(plain.run.notes) + 1
    assert "good.safetensors match this UNet in name and shape" in verified.run.notes[-1]
    assert_taken_as_if_fresh(kept, good)
    assert "were not held against the UNet" in Recorder(kept, good, {"norm_eps": 1e-5}).record(ON_META).run.notes[-1]
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"bad\.safetensors does not fit"):
            Recorder(kept, bad).record(ON_META)


@pytest.mark.parametrize("config", [*tiny.KINDS.values(), AUDIO, *kinds_plugs.KINDS.values()], ids=lambda config: config["_class_name"])
def test_a_config_is_resolved_from_kept_keys_as_from_the_class(config: dict[str, Any], kept: RecordCache) -> None:
    """The keys and defaults of a class come back from JSON as they were, in their order."""
    first, again = (Recorder(kept, model_of(config)).config for _ in range(2))

    assert repr(again) == repr(first) == repr(resolve_config(config))
    assert list(again.values) == list(config_class(config["_class_name"]).keys)


@pytest.fixture
def kept_commands(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run commands in a folder with two small configs; they keep what they find in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    for name, config in {"unet": CONDITION, "plain": PLAIN}.items():
        Path(f"{name}.json").write_text(json.dumps(config))
    monkeypatch.setenv("UNETINSPECT_CACHE", str(tmp_path / "records"))
    monkeypatch.setattr("unetinspect.cli.run.open_cache", lambda *, wanted: RecordCache() if wanted else None)
    return cli


def test_repeated_commands_take_no_torch_and_say_the_same(kept_commands: Any) -> None:
    """`config`, `check` with what it finds, `trace` and `sweep` of several models, `ports --with`: from files alone."""
    Path("net.json").write_text(json.dumps(kinds_plugs.CONTROLNET))
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
    assert not imported_after(run)[-1] & set(HEAVY)
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
