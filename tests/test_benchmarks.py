"""The benchmarks: numbers by hand, commands that exist, and what a GPU has to show, with the CPU in its place."""

from __future__ import annotations

import doctest
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import capture
import gpu
import header
import measure
import page
import passes
import peers
import pytest
import sections
import torch
from host_clock import HostClock
from measure import Command, Run
from msgspec import to_builtins
from msgspec.structs import replace
from page import Goal, Row

from tests.tiny import traced
from unetinspect.profile.profiling import ProfileOptions

ROOT = Path(__file__).parent.parent
MODEL = "ddpm-cifar10-32"


def runs(*walls: float) -> list[Run]:
    """Return runs that take twice as much CPU time as wall time, and 1 MB for each second."""
    return [Run(wall, 2 * wall, round(wall * 1e6)) for wall in walls]


@pytest.mark.parametrize("module", [page, gpu])
def test_the_examples_in_docstrings_hold(module: Any) -> None:
    """They are outside of what pytest collects."""
    found = doctest.testmod(module)

    assert found.attempted > 0
    assert found.failed == 0


def test_a_ratio_is_of_runs_of_one_round() -> None:
    """Not of medians: those of 2, 4, 9 and 1, 4, 3 are 4 and 3, while the rounds' ratios are 2, 1 and 3."""
    spread = page.ratio(runs(2, 4, 9), runs(1, 4, 3), "cpu")

    assert spread == (2, 1, 3)
    assert str(spread) == "2.00 (1.00 to 3.00)"


def test_a_table_says_which_goals_are_met() -> None:
    """The median counts; a goal that is just reached is met."""
    goals = (Goal("wall", 2, ratio=True), Goal("wall", 3.9), Goal("peak", 4e6))
    table = page.results([Row("base"), Row("tool", base="base", goals=goals)], {"base": runs(1, 4, 3), "tool": runs(2, 4, 9)})

    ratio = "2.00 (1.00 to 3.00)"

    assert table.splitlines()[2:] == [
        "| base | 3.00 s | 6.00 s | 3 MB |  |  |  |  |  |",
        f"| tool | 4.00 s | 8.00 s | 4 MB | base | {ratio} | {ratio} | 2.00 x wall, 3.90 s, 4 MB | yes, **no**, yes |",
    ]


def test_a_section_is_written_between_its_marks(tmp_path: Path) -> None:
    """The rest of the page stays, and a page without the marks is refused."""
    path = tmp_path / "page.md"
    path.write_text("A\n<!-- results: one -->\nold\n<!-- end: one -->\nB\n")
    page.write_section(path, "one", "new")

    assert path.read_text() == "A\n<!-- results: one -->\n\nnew\n\n<!-- end: one -->\nB\n"
    with pytest.raises(ValueError, match="no marks for the results of two"):
        page.write_section(path, "two", "new")


def test_every_section_has_its_place() -> None:
    """What the scripts write to the docs has marks there, and no marks are left that nothing writes to."""
    names = (*sections.SECTIONS, "capture-cuda")
    written = {("benchmarks.md", name) for name in names} | gpu.sections(gpu.Results(), "none").keys()
    marked = {
        (path.name, line.removeprefix("<!-- results: ").removesuffix(" -->"))
        for path in (ROOT / "docs").glob("*.md")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("<!-- results: ")
    }

    assert written == marked


def test_a_process_is_measured_and_one_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sleeping takes wall time and no CPU time; a run has an empty cache unless one is kept; an exit code may be an answer."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    script = "import os, sys, time; time.sleep(0.3); print(os.environ['UNETINSPECT_CACHE'], 'PYTHONDONTWRITEBYTECODE' in os.environ)"
    words = [sys.executable, "-S", "-c", f"{script}; sys.exit('no such thing')"]
    run = measure.run_once(Command(words, codes=(0, 1)))
    folder, changed = run.output.split()

    assert run.wall > 0.3 > run.cpu > 0
    assert run.peak > 1e6
    assert (Path(folder).exists(), changed, run.errors) == (False, "False", "no such thing\n")
    with pytest.raises(RuntimeError, match=r"(?s)exit code 1 from .*no such thing"):
        measure.run_once(Command(words, cache=tmp_path))
    assert measure.run_once(Command(words, codes=(1,), cache=tmp_path)).output.split()[0] == str(tmp_path)


def test_rounds_take_turns_and_the_first_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order is reversed every other round."""
    order: list[str] = []

    def run_once(command: Command) -> Run:
        order.extend(command.arguments)
        return Run(len(order), 0)

    monkeypatch.setattr(measure, "run_once", run_once)
    found = measure.run_rounds({"a": Command(["a"]), "b": Command(["b"])}, 2)

    assert "".join(order) == "ba" + "ab" + "ba"
    assert [[run.wall for run in found[name]] for name in "ab"] == [[3, 6], [4, 5]]


def test_every_command_exists(cli: Any, tmp_path: Path) -> None:
    """Each command of unetinspect has its options, each script is there, each base and each model too."""
    for name in ("saved.json", "sd15.safetensors", *(f"{model}-inputs.json" for model in sections.MODELS)):
        (tmp_path / name).touch()
    setting = sections.Setting(tmp_path / "bin/python", tmp_path / "other/python", 1, tmp_path)
    rows_of = ("cold", "crowded", "first", "warm", "several", "field")
    options: dict[str, set[str]] = {}
    for rows in (getattr(sections, f"{name}_rows")(setting) for name in rows_of):
        assert {row.base for row in rows} - {""} <= {row.name for row in rows}
        for command in sections.commands_of(rows).values():
            program, *words = command.arguments
            if Path(program).name == "python":
                assert Path(words[0]).is_file()
            elif Path(program).name == "unetinspect":
                name = next((word for word in words if not word.startswith("--")), "")
                options.setdefault(name, set()).update(word for word in words if word.startswith("--"))
    for name, used in options.items():
        code, text, _ = cli(*filter(None, [name]), "--help")
        assert (code, [option for option in used if option not in text]) == (0, [])
    assert options.keys() >= {"trace", "skips", "attn", "tree", "draw", "names", "diff", "check", "identify", "config", "models", "schema"}


def test_the_bare_script_runs_the_pass_of_the_trace_and_the_header_is_that_of_the_model(tmp_path: Path, cli: Any) -> None:
    """torch's counter sees the same MACs as the record has; `identify` finds the model in the catalog by the header."""
    record = traced(MODEL)
    (tmp_path / "inputs.json").write_text(record.to_json(), encoding="utf-8")
    weights = tmp_path / "unet.safetensors"
    header.write_header(MODEL, weights)
    code, printed, _ = cli("identify", str(weights))

    assert peers.count_flops(MODEL, str(tmp_path / "inputs.json"), "") == record.totals.macs
    assert weights.stat().st_size > 2 * (record.model.params or 0)
    assert (code, MODEL in printed) == (0, True)


def test_passes_are_measured_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind once, of the same modules; the observed pass is part of what the trace takes."""
    monkeypatch.setitem(passes.GROWING, "tiny", gpu.TINY)
    times: dict[str, passes.Times] = defaultdict(list)

    assert passes.Growth("tiny").measure(times) == len(traced("conditioned").modules)
    assert passes.Pass(MODEL).measure(times) == len(traced(MODEL).modules)
    assert {name: len(seconds) for name, seconds in times.items()} == dict.fromkeys(
        ("trace", "bare", "observed pass", "observed pass and record", "bare pass"), 1
    )
    assert 0 < times["observed pass"][0][0] < times["observed pass and record"][0][0]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small passes are slower with more threads, much slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_each_way_to_capture_holds_what_its_axes_say() -> None:
    """4 bytes a number; only what is kept of each step grows, and what the first step left is alive at the peak of the second."""
    case = capture.Case(gpu.TINY, {"res": 128, "dtype": "float32"}, tuple(capture.WAYS), {"cross layers": 1e-9}, {capture.FOLDED: 9120})
    device = torch.device("cpu")
    found = capture.measure(case, device, rounds=1)
    layers: list[Any] = [(layer, *layer.query_shape[:3], layer.key_shape[2]) for layer in traced("conditioned").attentions]
    cross = [(layer.stage, *shape) for layer, *shape in layers if layer.kind == "cross"]
    numbers = {
        "plain": 0,
        "cross layers": sum(images * queries * keys for _, images, _, queries, keys in cross),
        "all layers": sum(images * queries * keys for _, images, _, queries, keys in layers),
        capture.FOLDED: sum(images * keys for _, images, _, _, keys in layers),
        "as DAAM does": sum(heads * queries * keys for stage, _, heads, queries, keys in cross if stage != "mid_block"),
        "as attention-map-diffusers does": sum(images * heads * queries * keys for _, images, heads, queries, keys in cross),
    }
    rows = list(capture.rows(case, found, device))

    assert {name: one.held[0] for name, one in found.items()} == {name: 4 * count for name, count in numbers.items()}
    assert [name for name, one in found.items() if one.held[1] > one.held[0]] == ["as attention-map-diffusers does"]
    assert found["as attention-map-diffusers does"].peak - found["plain"].peak >= 4 * numbers["as attention-map-diffusers does"]
    assert [len(one.times) for one in found.values()] == [1] * len(numbers)
    assert [row[-2:] for row in rows[:4]] == [["", ""], ["0.00 x cpu", "**no**"], ["", ""], ["8.906 KiB held", "yes"]]


@pytest.mark.usefixtures("one_thread")
def test_the_other_ways_find_the_maps_that_capture_finds() -> None:
    """DAAM's are sums over the steps, of the conditional half; the heads are the mean of both."""
    plan = traced("conditioned")
    unet = capture.build(plan, torch.device("cpu"))
    inputs = capture.inputs_of(plan, torch.device("cpu"))
    kept = {}
    for name in ("cross layers", "as DAAM does", "as attention-map-diffusers does"):
        with torch.no_grad(), capture.WAYS[name](unet, plan) as found:
            unet(**inputs)
            unet(**inputs)
            kept[name] = found()
    outside = [layer.stage != "mid_block" for layer in plan.attentions if layer.kind == "cross"]
    daam = torch.stack(list(kept["as DAAM does"].values())).unflatten(0, (sum(outside), -1)).mean(1) / 2
    several = [maps.unflatten(0, (2, -1)).mean(1) for maps in kept["as attention-map-diffusers does"]]

    torch.testing.assert_close(daam.mT, torch.stack([maps[1] for maps, is_in in zip(kept["cross layers"], outside, strict=True) if is_in]))
    torch.testing.assert_close(several, kept["cross layers"] * 2)


class Counted(HostClock):
    """The CPU, which here says that a pass took 2 MB."""

    def allocated_bytes(self) -> int:
        return 1_000_000

    def peak_bytes(self) -> int:
        return 3_000_000


@pytest.fixture(scope="module")
def measured() -> gpu.Results:
    """What the GPU script finds on the CPU, with one case that fails."""
    case = gpu.Case(gpu.TINY, {"dtype": "float32"}, ProfileOptions(repeats=3, warmup=1))
    broken = gpu.Case({**gpu.TINY, "norm_num_groups": 7}, {})
    return gpu.measure([broken, case], [case], Counted())


def test_the_gpu_script_compares_records_value_by_value(measured: gpu.Results) -> None:
    """The record of the CPU is that of meta but for the device; a record with other MACs is found out."""
    (record, differences), expected = measured.records[0], traced("conditioned")
    changed = replace(record, skips=(replace(record.skips[0], out_channels=1), *record.skips[1:]))

    assert differences == {"run.device": 1}
    assert record.skips == expected.skips
    assert record.totals.macs == expected.totals.macs
    assert gpu.is_same(differences)
    assert "| yes |  |" in gpu.records_table(measured)
    assert not gpu.is_same(gpu.differing(to_builtins(record), to_builtins(changed)))


def test_the_gpu_script_compares_memory_and_times(measured: gpu.Results) -> None:
    """The estimate beside 2 MB, the sum of the stages beside the pass, both in percent."""
    ((record, profile),) = measured.profiles
    estimate = traced("conditioned").totals.peak_activation_bytes or 0
    row = gpu.memory_table(measured).splitlines()[-1]
    sums = gpu.times_table(measured).splitlines()[-1]

    assert f"| {100 * (estimate / 2e6 - 1):+.1f} % | **no** |" in row
    assert f"| {100 * (profile.stages_sum_ms / profile.forward_ms.median - 1):+.1f} % |" in sums
    assert 0 < profile.stages_sum_ms <= profile.hooked_forward_ms.median
    assert [stage.name for stage in profile.stages] == [stage.name for stage in record.stages]


def test_the_gpu_script_goes_on_where_a_case_fails(measured: gpu.Results) -> None:
    """What failed is listed below each table; nothing is begun once the time is over; the cases are of the catalog, none twice."""
    cases = gpu.profile_cases()
    late = gpu.measure([], cases, Counted(), limit=-1)

    assert [failure.partition(":")[0] for failure in measured.failures] == ["UNet2DConditionModel"]
    assert all(f"- {measured.failures[0]}" in text for text in gpu.sections(measured, "CPU").values())
    assert (late.profiles, len(late.failures)) == ([], len(cases))
    assert {str(case).split()[0] for case in (*gpu.record_cases(), *cases)} <= set(sections.MODELS)
    assert len(set(map(str, cases))) == len(cases)


def test_the_dry_run_writes_every_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The same way from the command line to the pages as on a device."""
    for name in ("benchmarks.md", "how-it-counts.md"):
        shutil.copy(ROOT / "docs" / name, tmp_path)
    monkeypatch.setattr(gpu, "HostClock", Counted)
    monkeypatch.setattr(gpu, "WAYS", gpu.WAYS[2:])

    assert gpu.main(["--dry-run", "--write", str(tmp_path)]) == 0
    times = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")

    assert [f"| UNet2DConditionModel | 16x16 | float32 | {how} |" in times for how in ("", "channels last")] == [True] * 2
    assert "No CUDA device" not in (tmp_path / "how-it-counts.md").read_text(encoding="utf-8")
    assert "## gpu-memory" in capsys.readouterr().out
