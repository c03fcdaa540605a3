"""A sweep is many traces of one UNet that is built once; the sizes that fail are part of its answer."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.schema import assert_fits_the_schema
from tests.tiny import CONDITION, ON_META, PLAIN, model_of, traced
from unetinspect.record import SweepPoint
from unetinspect.run.build import build_unet
from unetinspect.run.cache import RecordCache, Recorder
from unetinspect.run.sweep import sweep
from unetinspect.unets.request import make_request


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A config file of a small UNet that does not run at odd sizes."""
    path = tmp_path / "tiny" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(PLAIN))
    return str(path)


def points_of(cli: Any, *arguments: str) -> list[dict[str, Any]]:
    """Run a sweep on meta; returns its points as JSON."""
    code, out, _ = cli("sweep", *arguments, "--device", "meta", "--json")

    assert code == 0
    return json.loads(out)["sweep"]


def test_each_point_has_the_costs_of_a_trace_of_that_size_and_the_unet_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Size by size and batch by batch, in the order asked for."""
    build = mock.Mock(wraps=build_unet)
    monkeypatch.setattr("unetinspect.run.tracer.build_unet", build)
    latent = [(8, 24), (16, 8)]
    points, last = sweep(Recorder(None, model_of(CONDITION)).record, ON_META, latent=latent, batch=[3, 4])

    assert build.call_count == 1
    assert [(point.sample_size, point.batch) for point in points] == [(size, number) for size in latent for number in (3, 4)]
    for point in points:
        record = traced("conditioned", latent=point.sample_size, batch=point.batch)
        shared = {name for name in SweepPoint.__struct_fields__ if hasattr(record.totals, name)}
        peaks = {"peak_activation_bytes", "peak_activation_bytes_with_maps", "inference_bytes", "training"}
        assert {"macs", "macs_by_kind", "flops", "weight_bytes"} | peaks == shared
        assert all(getattr(point, name) == getattr(record.totals, name) for name in shared)
        assert point.largest_map is not None
        assert point.largest_map.bytes == max(layer.map_bytes for layer in record.attentions)
        assert point.tokens == max(layer.query_shape[2] for layer in record.attentions)
        assert point.output_shape == record.output.shape
        assert point.forward_batch == 2 * point.batch
    assert last is not None
    assert (last.run.sample_size, last.run.batch) == ((16, 8), 4)


def test_without_sizes_there_are_four_around_its_own_and_they_are_cached_for_trace(tmp_path: Path) -> None:
    """Half, once, one and a half times and twice the config's sample_size of 16; a trace of such a size finds its record."""
    kept = RecordCache(tmp_path)
    points, last = sweep(Recorder(kept, model_of(CONDITION)).record, ON_META)

    assert [point.sample_size for point in points] == [(8, 8), (16, 16), (24, 24), (32, 32)]
    assert kept.info().records == len(points) + 2  # the class's keys, and the pass that shows its own size
    assert Recorder(kept, model_of(CONDITION)).record(make_request(latent=32, device="meta")) == last


def test_a_size_that_does_not_run_is_part_of_the_answer(cli: Any, config: str) -> None:
    """The others are there with their costs, and the failing ones say why, and what would run; exit 0."""
    failed, ran = points_of(cli, config, "--latent", "15,16")

    assert failed["sample_size"] == [15, 15]
    assert failed["error"].startswith("the forward pass of tiny at sample 15 failed in up_blocks.1: hidden_states are (1, 32, 16, 16), but")
    assert failed["hint"] == "the nearest sizes that run: --latent 14 or --latent 16"
    assert failed["macs"] is None
    assert (ran["sample_size"], ran["error"], ran["macs"]) == ([16, 16], None, traced("plain").totals.macs)
    table = cli("sweep", config, "--latent", "15,16", "--device", "meta")[1]
    assert "1 of 2 fail:" in table
    assert "an odd side is rounded when halved" in " ".join(table.split())

    code, out, _ = cli("sweep", config, "--latent", "15,17", "--device", "meta")
    assert code == 0
    assert out.startswith("tiny: UNet2DModel\n")
    assert "2 of 2 fail:" in out


def test_a_size_that_is_not_a_multiple_of_the_vae_factor_is_part_of_it_too(cli: Any) -> None:
    """It fails alone; if all sizes are like that, it is a mistake of the user: exit 2."""
    assert [point["error"] is None for point in points_of(cli, "sd15", "--res", "100,64")] == [False, True]

    code, out, err = cli("sweep", "sd15", "--res", "100,60", "--device", "meta")
    assert (code, out) == (2, "")
    assert err.startswith("error: --res 100 is not a multiple of the VAE scale factor 8")


def test_failed_points_have_both_sizes_and_the_options_of_their_pass(cli: Any) -> None:
    """A pixel UNet's size is that of its image; of an image that has no sample, only the image is known."""
    pixels = points_of(cli, "ddpm-cifar10-32", "--latent", "33,32", "--dtype", "fp16")
    assert [(point["image_size"], point["sample_size"], point["error"] is None) for point in pixels] == [
        ([33, 33], [33, 33], False),
        ([32, 32], [32, 32], True),
    ]
    assert {(point["dtype"], point["device"]) for point in pixels} == {("float16", "meta")}
    assert pixels[1]["weight_bytes"] == 2 * 35_746_307

    latents = points_of(cli, "sd15", "--res", "60,64")
    assert [(point["image_size"], point["sample_size"]) for point in latents] == [([60, 60], None), ([64, 64], [8, 8])]


def test_json_fits_the_schema_and_csv_has_the_same_columns_whichever_size_fails(cli: Any, config: str) -> None:
    """One envelope under the one schema; in CSV, a nested record that is absent leaves its fields empty."""
    asked = ("sweep", config, "--latent", "15,16x24", "--batch", "1, 2", "--device", "meta")
    document = json.loads(cli(*asked, "--json")[1])
    assert_fits_the_schema(document)
    rows = list(csv.DictReader(io.StringIO(cli(*asked, "--format", "csv")[1])))
    nested = {"macs_by_kind": ["conv", "linear", "attention"], "largest_map": ["path", "shape", "bytes", "materialised"]}
    columns = [[f"{name}.{inner}" for inner in nested[name]] if name in nested else [name] for name in SweepPoint.__struct_fields__]

    assert list(document) == ["schema", "model", "sweep"]
    assert [row["macs"] for row in rows] == [str(point["macs"] or "") for point in document["sweep"]]
    assert list(rows[0]) == [name for names in columns for name in names]
    assert cli(*asked[:3], "16", "--format", "csv", "--device", "meta")[1].splitlines()[0] == ",".join(rows[0])


def test_an_option_may_be_given_several_times(cli: Any, config: str) -> None:
    """`--latent 8 --latent 16` is `--latent 8,16`; a size that is given twice is run once."""
    points = points_of(cli, config, "--latent", "8", "--latent", "16,8", "--batch", "1", "--batch", "2")

    assert [(point["sample_size"][0], point["batch"]) for point in points] == [(8, 1), (8, 2), (16, 1), (16, 2)]


def test_what_is_added_to_the_pass_is_in_the_header(cli: Any) -> None:
    """FreeU and an attached ControlNet, as in the header of a trace; the costs are those of the UNet."""
    options = ("--latent", "8", "--device", "meta", "--freeu", "1.2,1.4,0.9,0.2", "--with", "controlnet-sd15-canny")
    for command in ("sweep", "trace"):
        text = cli(command, "sd15", *options)[1]
        assert "FreeU:  b1 1.2, b2 1.4, s1 0.9, s2 0.2" in text
        assert "with:   controlnet-sd15-canny attached" in text
        assert "of the UNet alone, without controlnet-sd15-canny" in text
