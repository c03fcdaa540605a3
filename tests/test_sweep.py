"""A sweep is many traces of one UNet that is built once; the sizes that fail are part of its answer."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.schema import assert_fits_the_schema
from tests.tiny import CONDITION, PLAIN
from unetinspect import trace
from unetinspect.errors import UsageError
from unetinspect.record import Source, SweepPoint
from unetinspect.run.build import build_unet
from unetinspect.run.cache import RecordCache, Recorder
from unetinspect.run.sweep import sweep
from unetinspect.run.tracer import Tracer
from unetinspect.source.loaded import LoadedModel
from unetinspect.unets.request import Request, make_request

ON_META = Request(device="meta")


def model_of(config: dict[str, Any]) -> LoadedModel:
    """Take a config as if it had been read."""
    return LoadedModel(name="tiny", config=config, source=Source(kind="dict", location="tiny"))


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A config file of a small UNet that does not run at odd sizes."""
    path = tmp_path / "tiny" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(PLAIN))
    return str(path)


@settings(max_examples=2)
@given(sizes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=2, unique=True), batch=st.integers(1, 3))
def test_each_point_is_what_a_trace_of_that_size_says(sizes: list[tuple[int, int]], batch: int) -> None:
    """Costs, shapes and the largest map are those of `trace`, size by size and batch by batch, in the order asked for."""
    latent = [(8 * height, 8 * width) for height, width in sizes]
    points, last = sweep(Recorder(None, model_of(CONDITION)), ON_META, latent=latent, batch=[batch, 4])

    assert [(point.sample_size, point.batch) for point in points] == [(size, number) for size in latent for number in (batch, 4)]
    for point in points:
        record = trace(CONDITION, latent=point.sample_size, batch=point.batch, device="meta", cache=False)
        assert point.macs == record.totals.macs
        assert point.macs_by_kind == record.totals.macs_by_kind
        assert point.peak_activation_bytes == record.totals.peak_activation_bytes
        assert point.peak_activation_bytes_with_maps == record.totals.peak_activation_bytes_with_maps
        assert point.largest_map is not None
        assert point.largest_map.bytes == max(layer.map_bytes for layer in record.attentions)
        assert point.tokens == max(layer.query_shape[2] for layer in record.attentions)
        assert point.output_shape == record.output.shape
        assert point.forward_batch == 2 * point.batch
    assert last is not None
    assert last.run.sample_size == latent[-1]


def test_the_unet_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many sizes: one build."""
    build = mock.Mock(wraps=build_unet)
    monkeypatch.setattr("unetinspect.run.tracer.build_unet", build)
    points, _ = sweep(Recorder(None, model_of(CONDITION)), ON_META, latent=[(8, 8), (16, 16), (24, 24)], batch=[1, 2])

    assert len(points) == 6
    assert build.call_count == 1


def test_without_sizes_there_are_four_around_its_own() -> None:
    """Half, once, one and a half times and twice the config's sample_size of 16."""
    points, _ = sweep(Recorder(None, model_of(CONDITION)), ON_META)

    assert [point.sample_size for point in points] == [(8, 8), (16, 16), (24, 24), (32, 32)]


def test_a_size_that_does_not_run_is_part_of_the_answer(cli: Any, config: str) -> None:
    """The others are there with their costs, and the failing ones say why, and what would run; exit 0."""
    code, out, _ = cli("sweep", config, "--latent", "15,16", "--device", "meta", "--json")
    failed, ran = json.loads(out)["sweep"]

    assert code == 0
    assert failed["sample_size"] == [15, 15]
    assert failed["error"].startswith("the forward pass of tiny at sample 15 failed in up_blocks.1")
    assert failed["hint"] == "the nearest sizes that run: --latent 14 or --latent 16"
    assert failed["macs"] is None
    assert (ran["sample_size"], ran["error"]) == ([16, 16], None)
    assert ran["macs"] == trace(PLAIN, device="meta").totals.macs

    table = cli("sweep", config, "--latent", "15,16", "--device", "meta")[1]
    assert "1 of 2 fail:" in table
    assert "Sizes of tensors must match" in " ".join(table.split())

    code, out, _ = cli("sweep", config, "--latent", "15,17", "--device", "meta")  # where none runs, the header still names the UNet
    assert code == 0
    assert out.startswith("tiny: UNet2DModel\n")
    assert "2 of 2 fail:" in out


def test_a_size_the_vae_cannot_make_is_one_too(cli: Any) -> None:
    """`--res` that is not a multiple of the VAE factor fails alone; where all are, the user made a mistake: exit 2."""
    code, out, _ = cli("sweep", "sd15", "--res", "100,64", "--device", "meta", "--json")
    assert code == 0
    assert [point["error"] is None for point in json.loads(out)["sweep"]] == [False, True]

    code, out, err = cli("sweep", "sd15", "--res", "100,60", "--device", "meta")
    assert (code, out) == (2, "")
    assert err.startswith("error: --res 100 is not a multiple of the VAE scale factor 8")


def test_json_fits_the_schema_and_csv_has_the_record(cli: Any, config: str) -> None:
    """One envelope under the one schema; CSV has a line a point under the fields' names."""
    asked = ("sweep", config, "--latent", "8,16x24", "--batch", "1, 2", "--device", "meta")
    document = json.loads(cli(*asked, "--json")[1])
    assert_fits_the_schema(document)
    rows = list(csv.DictReader(io.StringIO(cli(*asked, "--format", "csv")[1])))

    assert list(document) == ["schema", "model", "sweep"]
    assert [int(row["macs"]) for row in rows] == [point["macs"] for point in document["sweep"]]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--res", "256,x"), "--res: 'x' is not a size from 1 to 1048576"),
        (("--res", ""), "--res: '' is not a comma-separated list of sizes"),
        (("--latent", "8,,16"), "--latent: '8,,16' is not a comma-separated list of sizes"),
        (("--batch", "1,two"), "--batch: '1,two' is not a comma-separated list of whole numbers from 1 to 1048576"),
        (("--batch", "0"), "--batch: '0' is not a comma-separated list of whole numbers from 1 to 1048576"),
        (("--res", "64", "--latent", "8"), "--res and --latent both give a size"),
    ],
)
def test_wrong_lists_are_told_before_anything_runs(cli: Any, options: tuple[str, ...], sentence: str) -> None:
    """One sentence, exit 2, nothing on stdout."""
    code, out, err = cli("sweep", "sd15", *options)

    assert (code, out) == (2, "")
    assert err.splitlines()[0] == f"error: {sentence}"


def test_a_recorder_shares_what_it_keeps_with_trace(tmp_path: Path) -> None:
    """What a sweep has run, a trace of that size finds; a mistake in the request is raised all the same."""
    kept = RecordCache(tmp_path)
    points, last = sweep(Recorder(kept, model_of(CONDITION)), ON_META, latent=[(8, 8)])

    assert kept.info().records == len(points) + 1 == 2  # and the class's keys
    assert Recorder(kept, model_of(CONDITION)).record(make_request(latent=8, device="meta")) == last
    with pytest.raises(UsageError):
        Tracer(model_of(CONDITION), {}).trace(make_request(frames=2, device="meta"))


def test_failed_points_have_both_sizes_and_say_how_they_were_run(cli: Any) -> None:
    """A pixel UNet's size is its image's; a signal has one length; every point says in which dtype it is told."""
    pixels = json.loads(cli("sweep", "ddpm-cifar10-32", "--latent", "33,32", "--device", "meta", "--dtype", "fp16", "--json")[1])["sweep"]
    assert [(point["image_size"], point["sample_size"], point["error"] is None) for point in pixels] == [
        ([33, 33], [33, 33], False),
        ([32, 32], [32, 32], True),
    ]
    assert {(point["dtype"], point["device"]) for point in pixels} == {("float16", "meta")}
    assert pixels[1]["weight_bytes"] == 2 * 35_746_307

    latents = json.loads(cli("sweep", "sd15", "--res", "60,64", "--device", "meta", "--json")[1])["sweep"]
    assert [(point["image_size"], point["sample_size"]) for point in latents] == [([60, 60], None), ([64, 64], [8, 8])]


def test_csv_has_the_same_columns_whichever_size_fails(cli: Any, config: str) -> None:
    """A nested record that is absent from a row leaves its fields empty, and makes no column of its own."""
    nested = {"macs_by_kind": ["conv", "linear", "attention"], "largest_map": ["path", "shape", "bytes", "materialised"]}
    expected = [[f"{name}.{inner}" for inner in nested[name]] if name in nested else [name] for name in SweepPoint.__struct_fields__]

    for sizes in ("15,16", "16,15"):
        header = cli("sweep", config, "--latent", sizes, "--device", "meta", "--format", "csv")[1].splitlines()[0].split(",")
        assert header == [name for names in expected for name in names]


def test_an_option_may_be_given_several_times(cli: Any, config: str) -> None:
    """`--latent 8 --latent 16` is `--latent 8,16`; what is given twice is run once."""
    options = ("--latent", "8", "--latent", "16,8", "--batch", "1", "--batch", "2")
    points = json.loads(cli("sweep", config, *options, "--device", "meta", "--json")[1])["sweep"]

    assert [(point["sample_size"][0], point["batch"]) for point in points] == [(8, 1), (8, 2), (16, 1), (16, 2)]


def test_what_is_added_to_the_pass_is_said(cli: Any) -> None:
    """FreeU stands in the header of a sweep as it does in that of a trace, and what is plugged in is not in the costs."""
    options = ("--latent", "8", "--device", "meta", "--freeu", "1.2,1.4,0.9,0.2", "--with", "controlnet-sd15-canny")
    table, traced = (cli(command, "sd15", *options)[1] for command in ("sweep", "trace"))

    for text in (table, traced):
        assert "FreeU:  b1 1.2, b2 1.4, s1 0.9, s2 0.2" in text
        assert "with:   controlnet-sd15-canny attached" in text
        assert "of the UNet alone, without controlnet-sd15-canny" in text
