"""`check`: sizes that fail or return another size, expectations; exit codes, JSON and tables."""

from __future__ import annotations

import json
import re
import shlex
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import torch
from diffusers import UNet1DModel, UNet2DModel, UVit2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from msgspec import UNSET

from tests.schema import assert_fits_the_schema
from tests.tiny import CONDITION, PLAIN, condition, config_of, model_of, plain, traced
from unetinspect.catalog import load_catalog
from unetinspect.checking.expected import find_expected as find
from unetinspect.checking.expected import parse_expected, read_expected
from unetinspect.checking.model import check_model
from unetinspect.errors import ConfigError, Problem, UsageError
from unetinspect.run.cache import Recorder
from unetinspect.unets.request import make_request
from unetinspect.views.checks import check_table

THREE_LEVELS = plain(
    block_out_channels=[16, 16, 32],
    down_block_types=["DownBlock2D"] * 3,
    up_block_types=["UpBlock2D"] * 3,
)


def checked(config: dict[str, Any], *sizes: Any, expected: dict[str, Any] | None = None, vae_scale: int | None = None) -> Any:
    """Check a config on meta at some sample sizes."""
    model = model_of(config, "small", vae_scale_factor=vae_scale)
    requests = [make_request(latent=size, device="meta") for size in sizes]
    return check_model(Recorder(None, model), requests, expected=[read_expected(*pair) for pair in (expected or {}).items()])


def runs_on_cpu(config: dict[str, Any], size: tuple[int, int]) -> tuple[int, ...] | None:
    """Run the real UNet with real weights; returns the size of what comes back, None where it raises."""
    torch.manual_seed(0)
    unet = UNet2DModel.from_config(config)
    try:
        with torch.no_grad():
            return tuple(unet(torch.zeros(1, 3, *size), 1).sample.shape[-2:])
    except RuntimeError:
        return None


def test_every_size_is_checked() -> None:
    """One answer for each size, in their order, also after one that fails; only those that fail are findings."""
    found = checked(THREE_LEVELS, (16, 16), (18, 16), (8, 8)).check

    assert [(size.runs, size.output_size) for size in found.sizes] == [(True, (16, 16)), (False, None), (True, (8, 8))]
    assert [finding.kind for finding in found.findings] == ["fails"]
    assert checked(PLAIN, (16, 16)).check.clean
    assert checked(config_of("t2i-adapter"), (64, 64)).check.clean  # without blocks whose layers could be counted


def test_a_size_that_fails_is_found_with_place_shapes_and_neighbors() -> None:
    """The module, the two shapes that met, why, and the nearest sizes in pixels and in the sample, which a CPU run confirms."""
    found = checked(THREE_LEVELS, (18, 16), vae_scale=8).check
    (size,) = found.sizes
    (finding,) = found.findings

    # 18 is halved to 9 and then, rounded up, to 5; doubled on the way up that is 10, and the skip is 9.
    assert (size.runs, size.failed_in, size.image_size) == (False, "up_blocks.1", (144, 128))
    assert [shape[2:] for shape in size.shapes] == [(10, 8), (9, 8)]
    assert "(1, 32, 10, 8)" in str(size.reason)
    assert "down_blocks.1" in str(size.reason)
    assert [near.sample_size for near in size.nearest] == [(16, 16), (20, 16)]
    assert [near.image_size for near in size.nearest] == [(128, 128), (160, 128)]
    assert runs_on_cpu(THREE_LEVELS, (18, 16)) is None
    assert all(near.sample_size and runs_on_cpu(THREE_LEVELS, near.sample_size[:2]) == near.sample_size for near in size.nearest)
    assert (finding.about, finding.kind, finding.where) == ("size", "fails", ("up_blocks.1",))
    assert finding.advice == "nearest sizes that run: image 128 (sample 16) or image 160x128 (sample 20x16)"


@settings(max_examples=3)
@given(st.tuples(st.integers(1, 14), st.integers(1, 14)))
def test_a_size_is_clean_where_a_cpu_run_says_so(size: tuple[int, int]) -> None:
    """Whatever the size: it runs here where it runs with real weights, and so do the neighbours that are named."""
    (found,) = checked(THREE_LEVELS, size).check.sizes

    assert (found.output_size if found.runs else None) == runs_on_cpu(THREE_LEVELS, size)
    for near in found.nearest:
        assert near.sample_size is not None
        assert runs_on_cpu(THREE_LEVELS, (near.sample_size[0], near.sample_size[1])) == near.sample_size


VALUES = load_catalog()["hopper-medium-v2-value-function"].config  # its sample_size is 65536, and its last layer fits few lengths


def test_the_own_size_of_a_config_is_checked_where_a_pass_takes_another() -> None:
    """A finding for the config's own, in the CPU's words; the record is that of the size that runs."""
    model = model_of(VALUES, "small")
    found: Any = check_model(Recorder(None, model), [make_request(device="meta")], expected=[])
    own, taken = found.check.sizes
    torch.manual_seed(0)
    with pytest.raises(RuntimeError) as on_cpu, torch.no_grad():
        UNet1DModel.from_config(VALUES)(torch.zeros(1, 14, 65536), 1)

    assert (own.sample_size, own.runs, taken.runs) == ((65536,), False, True)
    assert own.reason == str(on_cpu.value)
    assert found.run.sample_size == taken.sample_size != own.sample_size
    assert [(finding.about, finding.kind) for finding in found.check.findings] == [("size", "fails")]


def test_no_size_takes_the_others_with_it() -> None:
    """Neither one that an option refuses, nor one that fails where the config's own fails too; all refused is an error."""
    odd = plain(sample_size=5, block_out_channels=[16, 16, 32], down_block_types=["DownBlock2D"] * 3, up_block_types=["UpBlock2D"] * 3)
    found = checked(odd, (5, 5), (8, 8), (10**6, 10**6)).check
    signal = checked(VALUES, (3, 4), (16, 16)).check

    assert [size.runs for size in found.sizes][:2] == [False, True]
    assert [size.runs for size in signal.sizes] == [False, True]
    assert [finding.stops for finding in signal.findings] == [False]
    with pytest.raises(UsageError):
        checked(VALUES, (3, 4))


def test_a_config_that_runs_at_no_size_is_to_blame() -> None:
    """Not its sizes: the key is found by trial, and what is advised runs."""
    found = checked(plain(norm_num_groups=7), (16, 16), (8, 8)).check

    assert (found.sizes, [finding.about for finding in found.findings]) == ((), ["config"])
    assert found.findings[0].stops


def test_a_size_that_returns_another_is_found() -> None:
    """aMUSEd's UNet returns an odd size rounded, and raises nothing: the CPU does the same."""
    config = config_of("uvit", downsample=True, upsample=True)
    found = checked(config, (7, 9)).check
    (size,) = found.sizes
    unet = UVit2DModel.from_config(config)
    width, pooled, condition_width = config["encoder_hidden_size"], config["cond_embed_dim"], config["micro_cond_embed_dim"]
    with torch.no_grad():
        output = unet(
            torch.zeros(1, 7, 9, dtype=torch.int64),
            torch.zeros(1, 5, width),
            torch.zeros(1, pooled),
            torch.zeros(1, condition_width // config["micro_cond_encode_dim"]),
        )

    assert size.runs
    assert size.output_size == tuple(output.shape[-2:]) != (7, 9)
    assert [finding.kind for finding in found.findings] == ["other_size"]
    assert all(near.sample_size for near in size.nearest)


def test_a_config_that_cannot_be_built_is_explained_and_not_run() -> None:
    """Every mistake is a finding of its own; no size is tried; an expectation cannot be checked; the first line says so."""
    found = checked(condition(norm_num_groups=7, act_fn="sillu", upcast_attn=1), (16, 16), expected={"skips": 4})
    lines = check_table(found.model, found.check).above

    assert found.run is UNSET
    assert found.check.sizes == ()
    assert sum(finding.stops for finding in found.check.findings) == 2
    assert [finding.what for finding in found.check.findings if finding.about == "expectation"] == [
        "skips: expected 4, not checked: no pass ran"
    ]
    assert lines[0] == "4 problems: small does not run; only its config was checked"
    assert sum("(does not run): " in line for line in lines) == 2


class RefusingRecorder(Recorder):
    """A recorder whose model diffusers refuses."""

    def record(self, *arguments: Any) -> Any:
        """Raise what a trace of such a model raises."""
        raise self.refusal

    refusal = ConfigError("cannot build UNet2DConditionModel from small: 2 config errors")


def refused(refusal: ConfigError) -> Any:
    """Check a config that is refused."""
    model = model_of(condition(act_fn="sillu", upcast_attn=True, addition_time_embed_dim=6), "small")
    recorder = RefusingRecorder(None, model)
    recorder.refusal = refusal
    return check_model(recorder, [make_request(device="meta")], expected=[]).check


def test_mistakes_become_findings_with_what_to_type() -> None:
    """One key is wrong, several contradict each other; the change is a `--set`; what else is found needs no UNet."""
    found = refused(
        ConfigError(
            "2 config errors",
            problems=[
                Problem(("act_fn",), "act_fn is sillu; silu runs", {"act_fn": "silu"}),
                Problem(("cross_attention_dim", "encoder_hid_dim"), "these do not go together"),
            ],
        )
    )

    assert [(finding.kind, finding.stops, finding.where, finding.advice) for finding in found.findings] == [
        ("wrong", True, ("act_fn",), "--set act_fn=silu"),
        ("contradiction", True, ("cross_attention_dim", "encoder_hid_dim"), None),
        ("unknown", False, ("upcast_attn",), "did you mean upcast_attention?"),
    ]


def test_a_refusal_without_a_key_to_blame_is_one_finding() -> None:
    """Its hint is the advice."""
    (finding, _) = refused(ConfigError("diffusers cannot build it: out of range", hint="try another")).findings

    assert (finding.kind, finding.stops, finding.what) == ("wrong", True, "diffusers cannot build it: out of range")
    assert finding.advice == "try another"


def test_keys_without_effect_and_unusual_values_are_found_where_it_runs() -> None:
    """They do not stop the UNet from running."""
    found = checked(condition(addition_time_embed_dim=6, flip_sin_to_cos="yes", upcast_attention=True), (16, 16)).check

    assert [(finding.kind, finding.where, finding.stops) for finding in found.findings] == [
        ("unusual", ("flip_sin_to_cos",), False),
        ("ignored", ("addition_time_embed_dim",), False),
    ]
    assert found.sizes[0].runs
    assert found.findings[0].what == 'flip_sin_to_cos is "yes": diffusers expects true or false, and runs with this'
    assert found.findings[1].what == "addition_time_embed_dim is 6, which has no effect: the UNet is the same without it"


def test_expectations_are_looked_up_in_the_record() -> None:
    """In the totals, the record, the model and the run; sections and lists are compared by their count."""
    record = traced("conditioned")
    cross = sum(layer.kind == "cross" for layer in record.attentions)
    expected = {
        "attention.cross": cross,
        "attention": len(record.attentions),
        "skips": len(record.skips),
        "params": record.totals.params,
        "stages": len(record.stages),
        "stages.0.name": record.stages[0].name,
        "class_name": "UNet2DConditionModel",
        "config.cross_attention_dim": 24,
        "sample_size": [16, 16],
        "cfg": True,
    }

    assert [found.key for found in find_expected(record, expected) if not found.holds] == []
    assert all(cross > 0 and not found.holds for found in find_expected(record, {"attention.cross": cross + 1, "skips": 0, "cfg": 1}))
    assert [found.holds for found in find_expected(None, {"skips": 1, "params": "!=0"})] == [False, False]


@given(st.sampled_from(["=", "==", "!=", "<", "<=", ">", ">="]), st.integers(-2, 2), st.sampled_from(["", " "]))
def test_comparisons_are_those_of_numbers(sign: str, offset: int, blank: str) -> None:
    """As Python compares them, as it is typed and in Python; the measured value is in the record."""
    record = traced("conditioned")
    params, limit = record.totals.params, record.totals.params + offset
    typed, given = parse_expected(f"totals.params{blank}{sign}{blank}{limit}"), read_expected("totals.params", f"{sign}{limit}")
    (found,) = find(record, [typed])

    assert typed == given
    assert found.holds == eval(f"{params} {'==' if sign == '=' else sign} {limit}")  # numbers of this test
    assert (found.found, found.expected, found.comparison) == (params, limit, sign.replace("==", "="))


def test_amounts_have_units_and_what_has_no_order_is_refused() -> None:
    """k, M, G and T are thousands, Ki, Mi, Gi and Ti are 1024, a B after them is that of bytes; lists are compared by their length."""
    record = traced("conditioned")
    params, stages = record.totals.params, len(record.stages)
    met = (
        f"params={params / 1000}k",
        f"params = {params / 1024} KiB",
        "params<1G",
        "params>0.001kB",
        f"stages<={stages}",
        f"stages<{stages}.5",
    )
    unmet = ("params>=1Gi", f"params!={params / 1000}kB", f"stages>{stages}", "class_name=1k")

    assert [found.holds for found in find(record, [parse_expected(text) for text in met + unmet])] == [True] * len(met) + [False] * len(
        unmet
    )
    for text in ("params<=many", "class_name>3", "params<true", "cfg>=0", "params=<3", "params", "<3", "params!3"):
        with pytest.raises(UsageError, match="--expect"):
            find(record, [parse_expected(text)])


def test_an_expectation_of_an_unknown_name_gets_the_nearest_names() -> None:
    """A typing error is not a finding: it is refused."""
    with pytest.raises(UsageError, match=r"--expect attention\.cros") as raised:
        find_expected(traced("conditioned"), {"attention.cros": 1})

    assert "attention.cross" in str(raised.value.hint)


def find_expected(record: Any, expected: dict[str, Any]) -> Any:
    """Compare what is expected as Python writes it."""
    return find(record, [read_expected(*pair) for pair in expected.items()])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with small configs."""
    monkeypatch.chdir(tmp_path)
    for name, config in {"unet": CONDITION, "plain": THREE_LEVELS}.items():
        Path(f"{name}.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_exit_codes(cli: Any) -> None:
    """0 where nothing is found, 1 where something is, 2 where it cannot be asked."""
    skips, params = traced("conditioned").totals.skips.consumed, traced("conditioned").totals.params
    clean = cli("check", "unet.json", "--device", "meta", "--expect", f"skips={skips}", "--expect", "params<1M")
    found = cli("check", "plain.json", "--device", "meta", "--latent", "16,18")
    typo = cli("check", "unet.json", "--device", "meta", "--expect", "atention=6")
    no_pair = cli("check", "unet.json", "--device", "meta", "--expect", "skips")
    between = cli("check", "unet.json", "--device", "meta", "--expect", f"params={params}..{params}")

    assert clean == (0, f"OK: unet.json runs at sample 16x16; skips {skips}; params {params} < 1M\n", "")
    assert found[0] == 1
    assert found[1].startswith(
        "1 problem: plain.json runs at sample 16x16, fails at sample 18x18\n  fails: sample 18 fails in up_blocks.1: "
    )
    assert (typo[0], typo[1], typo[2].splitlines()[0]) == (2, "", "error: --expect atention: the record has nothing of that name")
    assert (no_pair[0], no_pair[2]) == (
        2,
        "error: --expect skips is not KEY=VALUE\nhint: --expect attention.cross=16, or --expect 'params<=900M'\n",
    )
    error, hint = between[2].splitlines()
    assert error == f"error: --expect params={params}..{params}: a range is two expectations, with >= and <="
    assert cli("check", "unet.json", "--device", "meta", *shlex.split(hint.removeprefix("hint: ")))[0] == 0


@pytest.mark.usefixtures("folder")
def test_json_is_of_the_schema_and_says_what_the_table_says(cli: Any) -> None:
    """The envelope with a section `check`, also where nothing ran."""
    code, text, _ = cli("check", "plain.json", "--device", "meta", "--latent", "18", "--json")
    document = json.loads(text)
    broken = json.loads(cli("check", "plain.json", "--device", "meta", "--set", "act_fn=sillu", "--json")[1])

    assert (code, document["check"]["clean"], document["check"]["sizes"][0]["runs"]) == (1, False, False)
    assert broken["check"]["findings"][0]["about"] == "config"
    for each in (document, broken):
        assert_fits_the_schema(each)


@pytest.mark.usefixtures("folder")
def test_a_size_that_the_vae_cannot_make_is_a_finding(cli: Any) -> None:
    """A size in pixels that is not a multiple of the VAE factor, with the nearest that are."""
    code, text, _ = cli("check", "unet.json", "--device", "meta", "--vae-scale", "8", "--res", "100", "--json")
    (size,) = json.loads(text)["check"]["sizes"]

    assert (code, size["runs"], size["sample_size"]) == (1, False, None)
    assert [near["image_size"] for near in size["nearest"]] == [[96, 96], [104, 104]]


@pytest.mark.usefixtures("folder")
def test_meanings_are_explained_on_request(cli: Any) -> None:
    """Without `--explain` the first line is all that there is to say of a UNet without problems."""
    brief, explained = (cli("check", "unet.json", "--device", "meta", *more)[1] for more in ((), ("--explain",)))

    assert explained.startswith(brief + "\nunet.json: UNet2DConditionModel, ")
    assert "  cross_attention_dim: width of encoder_hidden_states" in explained


def uncolored(text: str) -> str:
    """Remove the codes of colors."""
    return re.sub("\x1b\\[[0-9;]*m", "", text)


@pytest.mark.parametrize(
    ("command", "painted"),
    [
        ("check unet.json", {"OK": "1;32"}),
        ("check plain.json --latent 18", {"1 problem": "1;31", "  fails": "1;31"}),
        ("diff unet.json plain.json", {"mid_block": "32"}),
        ("explain-error mat1 and mat2 shapes cannot be multiplied (154x2048 and 768x320)", {"error:": "1;31"}),
    ],
    ids=["ok", "problem", "diff", "error"],
)
@pytest.mark.usefixtures("folder")
def test_verdicts_are_green_and_red(cli: Any, monkeypatch: pytest.MonkeyPatch, command: str, painted: dict[str, str]) -> None:
    """On a terminal only: without their codes the lines are those of a pipe, also where they are wrapped; NO_COLOR wins."""
    monkeypatch.setenv("COLUMNS", "60")
    words = [*command.split(), *(("--device", "meta") if "json" in command else ())]
    plainly = cli(*words)[1]
    monkeypatch.setenv("FORCE_COLOR", "1")
    colored = cli(*words)[1]
    monkeypatch.setenv("NO_COLOR", "1")

    assert "\x1b" not in plainly
    assert uncolored(colored) == plainly == cli(*words)[1]
    assert [f"\x1b[{code}m{lead}" in colored for lead, code in painted.items()] == [True] * len(painted)


@pytest.mark.usefixtures("folder")
def test_markdown_is_a_bold_verdict_and_a_list(cli: Any) -> None:
    """Each line of the table: a problem as an item, its advice as one in it; verdicts are paragraphs of their own."""
    names = ("plain.json", "unet.json", "unet.json")
    table, marked = (cli("check", *names, "--device", "meta", "--latent", "18,16", "--format", form)[1] for form in ("table", "md"))
    html = MarkdownIt().render(marked)
    text = re.sub(r"<[^>]+>", "", html)

    assert unescape(text).split() == table.replace("-> ", "").split()
    assert html.count("<p><strong>") == len(names)
    assert html.count("<li>") == sum(line.startswith("  ") for line in table.splitlines())
    assert "<ul>\n<li><strong>fails</strong>: sample 18 fails in " in html
    assert html.count("<li>nearest sizes") == table.count("-> nearest sizes") > 0


@pytest.fixture
def configs(folder: Path) -> Path:
    """Two configs with a problem each, beside a good one, a broken one, another model's and a note."""
    (folder / "configs/deep/unet").mkdir(parents=True)
    for name, text in {
        "good.json": json.dumps(PLAIN),
        "heads,50%.json": json.dumps({**PLAIN, "attention_head_dim": 6}, indent="\t"),
        "broken.yaml": "_class_name: UNet2DModel\nact_fn: }\n",
        "deep/unet/config.json": json.dumps({**PLAIN, "act_fn": "sillu"}, indent=1),
        "deep/config.yaml": "_class_name: AutoencoderKL\n",
        "note.txt": "",
    }.items():
        (folder / "configs" / name).write_text(text)
    return folder / "configs"


@pytest.mark.usefixtures("configs")
def test_a_glob_and_a_folder_are_all_their_configs(cli: Any) -> None:
    """One verdict each, of those that can be read, and the worst exit code, also where a typed name cannot be read."""
    code, out, err = cli("check", "configs", "--device", "meta")
    globbed = cli("check", "configs/*.json", "--device", "meta")
    verdicts = [line for line in out.splitlines() if not line.startswith(" ") and line]

    assert (code, err.partition(": ")[2][:30]) == (2, "configs/broken.yaml is not val")
    assert verdicts == [
        "1 problem: deep does not run; only its config was checked",
        "OK: good.json runs at sample 16x16",
        "1 problem: heads,50%.json runs at sample 16x16",
    ]
    assert (globbed[0], globbed[1]) == (1, out.partition("\n\n")[2])
    assert cli("check", "configs/*.json", "configs/lost.json", "--device", "meta")[:2] == (3, globbed[1])
    assert cli("check", "configs/*.toml")[2].startswith("error: there is no file or folder 'configs/*.toml'")


def test_github_marks_the_line_of_the_key(cli: Any, configs: Path) -> None:
    """Each annotation, unescaped as the runner does it, names a file and the line in which the key is written, or the syntax breaks."""
    code, out, _ = cli(
        "check", "configs", "--device", "meta", "--output-format", "github", "--expect", "skips<1", "--expect", "sample_size=1"
    )
    marked = []
    for file, line, message in re.findall(r"^::error file=([^:,]*)(?:,line=(\d+))?::(.*)$", out, re.MULTILINE):
        text = (configs.parent / unquote(file)).read_text()
        marked.append((unquote(message), text.splitlines()[int(line) - 1].strip(' ",\t').partition('"')[0] if line else ""))

    assert (code, out.count("::error "), len(marked)) == (2, 9, 9)
    assert [line for message, line in marked if "attention_head_dim is 6: " in message and "\n" in message] == ["attention_head_dim"]
    assert [line for message, line in marked if "sillu" in message] == ["act_fn"]
    assert [line for message, line in marked if "not valid YAML" in message] == ["act_fn: }"]
    assert [line for message, line in marked if "skips: expected < 1, found " in message] == ["", ""]
    assert [line for message, line in marked if "sample_size: expected 1, found " in message] == ["", ""]  # the file has that key
    assert cli("check", "lost.json", "--output-format", "github")[1].startswith("::error::there is no file or folder ")
