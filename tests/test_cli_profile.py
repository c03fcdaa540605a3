"""`unetinspect profile`: what it prints, and what it says where there is nothing to measure."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from host_clock import HostClock
from msgspec.structs import replace

from tests.schema import assert_fits_the_schema
from tests.test_profile import SMALL, known
from tests.tiny import traced
from unetinspect.record import SCHEMA, Envelope, Profile, to_json
from unetinspect.units import format_bytes
from unetinspect.views.costs import format_percent, profile_table
from unetinspect.views.render import Screen, render_csv, render_table
from unetinspect.views.schema import json_schema

NO_CUDA = """\
error: profile measures a CUDA device, and torch sees none here
hint: `unetinspect trace` and `unetinspect sweep` estimate MACs and memory without one
"""
COLUMNS = ["stage", "class", "time", "spread (ms)", "share", "MACs", "TFLOP/s", "of matrix rate", "peak", "estimate"]


@pytest.fixture
def small(tmp_path: Path) -> str:
    """Write a config that the CPU runs at once."""
    path = tmp_path / "small.json"
    path.write_text(json.dumps(SMALL))
    return str(path)


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch see no GPU, and let the tracer and diffusers not even be imported."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("unetinspect.profile.profiling", "unetinspect.run.tracer", "diffusers"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def as_if_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command measure the CPU."""
    monkeypatch.setattr("unetinspect.profile.timing.cuda_device", lambda name: torch.device("cpu"))
    monkeypatch.setattr("unetinspect.profile.profiling.cuda_device", lambda name: torch.device("cpu"))
    monkeypatch.setattr("unetinspect.profile.profiling.Clock", lambda device: HostClock())


@pytest.mark.parametrize(("width", "dropped"), [(80, ["class", "spread (ms)", "MACs"]), (200, [])])
def test_the_table_fits_and_says_each_stage(width: int, dropped: list[str]) -> None:
    """No line is too long; each stage has its row, with the record's numbers; what does not fit is named."""
    _, profile = known()
    text, left_out = render_table(profile_table(*known()), Screen(width=width))
    lines = text.splitlines()
    head = next(line for line in lines if line.startswith("stage"))

    assert max(map(len, lines)) <= width
    assert re.split(r" {2,}", head) == [column for column in COLUMNS if column not in dropped]
    assert all(name in "".join(left_out) for name in dropped)
    rows = {line.split()[0]: line for line in lines if line.split()}
    for number, stage in enumerate(profile.stages, 1):
        assert f" {number}.000 ms " in rows[stage.name] or f" {number}.00 ms " in rows[stage.name]
        assert f" {format_percent(stage.share)} " in rows[stage.name]
        assert rows[stage.name].endswith(format_bytes(stage.activation_bytes))


def test_the_lines_below_the_table() -> None:
    """1 to 11 ms of 11 stages are 66 ms, of a pass of 72: 8.3 % less; the hooks cost 1 ms more; the rest by arithmetic."""
    record, profile = known()
    below = list(profile_table(record, profile).below)
    error = ((record.totals.peak_activation_bytes or 0) / (2 << 20) - 1) * 100

    assert len(profile.stages) == 11
    assert below[:4] == [
        "forward: 72.00 ms (70.40 to 73.60 ms), without hooks",
        "sum of the stages: 66.00 ms, 8.3 % less than the forward",
        "forward with the hooks that time them: 73.00 ms (73.00 to 73.00 ms)",
        "  the hooks cost 1.000 ms",
    ]
    assert below[5].startswith(
        f"  {profile.matrix_share * 100:.1f} % of the 0.250 TFLOP/s that a large matrix product reached here in float32"
    )
    assert below[6:9] == [
        f"peak of activations: measured 2 MiB; estimated {format_bytes(record.totals.peak_activation_bytes)} ({error:+.1f} %)",
        "  with the kernels' workspaces: 3 MiB",
        f"  allocated before: 5 MiB, weights {format_bytes(record.totals.weight_bytes)}",
    ]
    assert below[9].startswith("times are medians of 5 repeats after 2 warm-ups, ")
    assert below[10].startswith("TF32 is ")
    assert len(below) == 11


def test_notes_are_those_of_the_pass() -> None:
    """TF32 is mentioned for float32 only; a compiled pass, other attention and hooks with a negative cost each have a line."""
    record, profile = known()
    other = replace(profile, dtype="float16", compiled=True, channels_last=True, attention="math", hooks_cost_ms=-0.5)
    table = profile_table(record, other)
    text = "\n".join(table.below)

    assert "TF32" not in text
    assert "the hooks cost -0.500 ms" in text
    assert "estimates are of a pass that is not compiled" in text
    assert "the estimate of the whole includes materialized attention maps; stages have no such estimate" in text
    assert table.above[-1].endswith("; math attention, each stage compiled, channels last")


def test_the_record_is_json_that_the_schema_describes() -> None:
    """It is read back as it was, matches the schema, and every field of it is explained there."""
    record, profile = known()
    text = to_json(Envelope(schema=SCHEMA, model=record.model, run=record.run, profile=profile))
    definitions = json_schema()["$defs"]

    assert_fits_the_schema(json.loads(text))
    assert msgspec.json.decode(to_json(profile), type=Profile) == profile
    for name in ("Profile", "StageProfile", "Spread"):
        assert all("description" in field for field in definitions[name]["properties"].values())
    assert render_csv(profile_table(record, profile), delimiter=",").startswith("name,role,class_name,ms.median,ms.low,ms.high,share,")


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize("options", [[], ["sdxl", "--compile", "--json", "--device", "cuda:1"]], ids=" ".join)
def test_without_cuda_it_is_one_sentence(cli: Any, options: list[str]) -> None:
    """Exit code 2, what is missing and what to type instead, at the cost of asking torch; nothing on stdout."""
    assert cli("profile", *options) == (2, "", NO_CUDA)


@pytest.mark.usefixtures("as_if_cuda")
def test_the_command_prints_the_sections_of_its_record(cli: Any, small: str) -> None:
    """The sections of a trace that it is about, and the profile; options reach it."""
    code, out, error = cli("profile", small, "--json", "--repeats", "2", "--warmup", "1", "--attention", "math", "--channels-last", "-q")
    document = json.loads(out)

    assert (code, error) == (0, "")
    assert_fits_the_schema(document)
    assert list(document) == ["schema", "model", "run", "output", "totals", "stages", "profile"]
    asked = {"repeats": 2, "warmup": 1, "attention": "math", "channels_last": True, "compiled": False}
    assert {name: document["profile"][name] for name in asked} == asked
    assert [stage["name"] for stage in document["profile"]["stages"]] == [stage["name"] for stage in document["stages"]]


@pytest.mark.usefixtures("as_if_cuda")
def test_the_config_of_a_saved_trace_is_profiled(cli: Any, tmp_path: Path) -> None:
    """A note says so; the table is printed."""
    path = tmp_path / "saved.json"
    path.write_text(traced("plain-one-block").to_json())
    code, out, error = cli("profile", str(path), "--repeats", "1", "--warmup", "1", "--latent", "4")

    assert code == 0
    assert "note: the saved trace's config is profiled, with these options only" in error
    assert "sum of the stages: " in out


@pytest.mark.parametrize("option", ["--repeats", "--warmup"])
def test_at_least_one_pass_is_measured(cli: Any, option: str) -> None:
    """Both begin at 1."""
    code, out, error = cli("profile", option, "0")

    assert (code, out) == (2, "")
    assert option in error
