"""The commands as a user types them: what stands on stdout, what on stderr, and the exit code."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.schema import assert_fits_the_schema
from tests.tiny import CONDITION, PLAIN, traced
from unetinspect.views.inputs import inputs_code

TRACING = ("trace", "skips", "attn", "tree", "inputs", "ports")
COMMANDS = (*TRACING, "config", "models", "schema")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A config file of a small conditioned UNet, in the folder that the command runs in."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.json").write_text(json.dumps(CONDITION))
    return "tiny.json"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_says_what_it_does(cli: Any, command: str) -> None:
    """Help goes to stdout, names the command, and exits 0."""
    code, out, err = cli(command, "--help")

    assert (code, err) == (0, "")
    assert f"unetinspect {command}" in out
    assert "--json" in out


def test_help_groups_the_commands(cli: Any) -> None:
    """Without a command: help, with every command in its group."""
    code, out, err = cli()

    assert (code, err) == (0, "")
    assert out.index("Look") < out.index("│ trace") < out.index("The rest") < out.index("│ config")
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize("command", [*TRACING, "config"])
def test_json_is_one_document_that_matches_the_schema(cli: Any, tiny: str, command: str) -> None:
    """--json prints a record's sections and nothing else, under the promised schema."""
    code, out, err = cli(command, tiny, "--json")
    document = json.loads(out)

    assert (code, err) == (0, "")
    assert document["schema"] == "unetinspect.trace/1"
    assert document["model"]["class_name"] == "UNet2DConditionModel"
    assert_fits_the_schema(document)


@pytest.mark.parametrize("arguments", [["models"], ["models", "--classes"]])
def test_the_catalogs_json_matches_the_schema(cli: Any, arguments: list[str]) -> None:
    """models --json and models --classes --json too."""
    code, out, _ = cli(*arguments, "--json")

    assert code == 0
    assert_fits_the_schema(json.loads(out))


@pytest.mark.parametrize("command", [*TRACING, "config", "models"])
@pytest.mark.parametrize("form", ["table", "md", "csv", "tsv"])
def test_every_command_has_every_form(cli: Any, tiny: str, command: str, form: str) -> None:
    """A table, Markdown, CSV and TSV are each something, and end with one newline."""
    code, out, err = cli(command, *([] if command == "models" else [tiny]), "--format", form)

    assert (code, err) == (0, "")
    assert out.endswith("\n")
    assert not out.endswith("\n\n")
    assert ("\t" in out) == (form == "tsv")


@pytest.mark.parametrize("command", [*TRACING[1:], "config"])
def test_what_json_holds_of_a_model_is_a_config(cli: Any, tiny: str, tmp_path: Path, command: str) -> None:
    """The JSON of any command names its model whole: it can be traced again."""
    part = str(tmp_path / "part.json")
    assert cli(command, tiny, "--json", "-o", part)[0] == 0
    code, out, err = cli("skips", part, "--json", "--device", "meta")

    assert (code, err) == (0, "")
    assert json.loads(out)["skips"] == json.loads(cli("skips", tiny, "--json", "--device", "meta")[1])["skips"]


def test_a_part_of_the_tree(cli: Any, tiny: str) -> None:
    """--stage and --depth cut the table and the JSON alike."""
    document = json.loads(cli("tree", tiny, "--stage", "up_blocks.1", "--depth", "1", "--json")[1])
    table = cli("tree", tiny, "--stage", "up_blocks.1", "--depth", "1")[1]

    assert [module["path"] for module in document["modules"]] == ["up_blocks.1", "up_blocks.1.attentions", "up_blocks.1.resnets"]
    assert "up_blocks.1: CrossAttnUpBlock2D" in table
    assert "Transformer2DModel" not in table


def test_a_filter_that_leaves_nothing_says_what_there_is(cli: Any, tiny: str) -> None:
    """An empty answer names the kinds, the numbers of query tokens and the stages that there are."""
    out = cli("attn", tiny, "--tokens-at", "64")[1]

    assert "no layer matches; this UNet has self, cross attention with 64, 256 query tokens in down_blocks.0, mid_block, up_blocks.1" in out


def test_ctrl_c_ends_with_a_word(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Interrupted while it runs or while it loads: one word on stderr, exit 130."""
    from unetinspect import __main__
    from unetinspect.cli import main

    def interrupt(*_: Any, **__: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "app", interrupt)
    assert main.main(["models"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    monkeypatch.setattr(main, "main", interrupt)
    assert __main__.run() == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("command", TRACING)
def test_a_saved_trace_is_a_model(cli: Any, tiny: str, tmp_path: Path, command: str) -> None:
    """What `trace --json -o` wrote is shown by every command just as the model itself."""
    saved = str(tmp_path / "saved.json")
    assert cli("trace", tiny, "--json", "-o", saved, "--device", "meta")[0] == 0
    fresh, again = cli(command, tiny, "--json", "--device", "meta"), cli(command, saved, "--json")

    assert again == fresh


def test_the_config_in_a_saved_trace_can_be_overridden(cli: Any, tiny: str, tmp_path: Path) -> None:
    """`config` of a saved trace with --set is that of the model itself with --set."""
    saved = str(tmp_path / "saved.json")
    cli("trace", tiny, "--json", "-o", saved, "--device", "meta")
    fresh, again = (cli("config", model, "--set", "layers_per_block=3", "--format", "csv") for model in (tiny, saved))

    assert again == fresh
    assert "layers_per_block,3,override" in fresh[1]


def test_options_trace_a_saved_record_again_and_say_so(cli: Any, tiny: str, tmp_path: Path) -> None:
    """A saved trace at another size is a new pass from its config."""
    saved = str(tmp_path / "saved.json")
    cli("trace", tiny, "--json", "-o", saved)
    code, out, err = cli("trace", saved, "--latent", "8", "--json")

    assert code == 0
    assert json.loads(out)["output"]["shape"] == [2, 4, 8, 8]
    assert err == "note: the options ask for another pass: the config in the saved trace is traced again, with these options alone\n"


def test_a_config_on_stdin(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` reads a config, in JSON or YAML."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(PLAIN)))
    code, out, err = cli("skips", "-", "--json")

    assert (code, err) == (0, "")
    assert json.loads(out)["totals"]["skips"] == {"produced": 6, "consumed": 6}


def test_output_goes_whole_into_a_file_or_not_at_all(cli: Any, tiny: str, tmp_path: Path) -> None:
    """-o leaves stdout empty; where it cannot write, there is a sentence and no file."""
    path = tmp_path / "out.md"
    assert cli("trace", tiny, "--format", "md", "-o", str(path)) == (0, "", "")
    assert "| mid_block |" in path.read_text()

    missing = tmp_path / "nowhere" / "out.md"
    code, out, err = cli("trace", tiny, "-o", str(missing))
    assert (code, out) == (2, "")
    assert err == (
        f"error: cannot write to {missing}: No such file or directory\nhint: give -o a file in a folder that can be written to\n"
    )
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["--kind", "cross"], 16),
        (["--kind", "joint"], 0),
        (["--stage", "up_blocks.1"], 6),
        (["--stage", "up_blocks"], 18),
        (["--tokens-at", "16x16"], 10),
        (["--kind", "cross", "--tokens-at", "16x16", "--stage", "down_blocks.2"], 2),
    ],
)
def test_attention_filters(cli: Any, filters: list[str], expected: int) -> None:
    """Each filter leaves the layers that it names; together they leave those that all of them name."""
    code, out, _ = cli("attn", "sd15", "--device", "meta", "--json", *filters)
    layers = json.loads(out)["attentions"]

    assert code == 0
    assert len(layers) == expected
    for layer in layers:
        assert "--kind" not in filters or layer["kind"] == filters[1]
        assert "--tokens-at" not in filters or layer["query_shape"][2] == 256


def test_a_filtered_table_says_how_many_there_are(cli: Any) -> None:
    """What is left out is counted, and maps are said not to be held in memory."""
    _, out, _ = cli("attn", "sd15", "--kind", "cross", "--device", "meta")

    assert "16 of 32 shown" in out
    assert "scaled-dot-product attention does not materialize maps; the largest would take 19.25 MiB in float32" in out


# One kind for each set of inputs that a config asks for; the UNet itself is always built by the same line.
CALLED = (
    *("conditioned", "plain", "text", "text-time", "text-image", "image", "image-hint", "text-time-and-text-image", "text-proj"),
    *("classes", "class-timestep", "class-identity", "class-projection", "timestep-cond", "gligen", "gligen-text-image"),
    *("dual-sizes", "no-cross-attention", "plain-classes", "plain-class-identity", "sdxl"),
)


@pytest.mark.parametrize("kind", CALLED)
def test_code_is_python_that_runs(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    """`inputs --code` builds the UNet and calls it: it prints the output shape that was observed."""
    record = traced(kind)
    exec(compile(inputs_code(record), "code", "exec"), {})

    assert capsys.readouterr().out == f"{record.output.shape}\n"


def test_code_knows_nothing_of_this_package() -> None:
    """It runs where torch and diffusers are all that there is."""
    code = inputs_code(traced("text-time", dtype="float16"))

    assert "torch.float16" in code
    assert "unetinspect" not in "".join(line for line in code.splitlines() if not line.startswith("#"))
    assert {line.split()[1].split(".")[0] for line in code.splitlines() if line.startswith(("import ", "from "))} == {"torch", "diffusers"}


def test_config_shows_where_each_value_is_from(cli: Any, tiny: str) -> None:
    """Given keys, filled-in ones and those that --set gave are told apart."""
    _, out, _ = cli("config", tiny, "--set", "layers_per_block=3", "--format", "csv")
    rows = [line.rsplit(",", 1) for line in out.splitlines()]

    assert ["layers_per_block,3", "override"] in rows
    assert ["cross_attention_dim,24", "given"] in rows
    assert ['act_fn,"""silu"""', "default"] in rows


def test_a_config_with_keys_of_another_class_says_which_are_ignored(cli: Any, tmp_path: Path) -> None:
    """Unknown keys are named on stderr, with the nearest that the class has."""
    path = tmp_path / "odd.json"
    path.write_text(json.dumps({**CONDITION, "cros_attention_dim": 3, "decay": 0.9}))
    code, _, err = cli("trace", str(path))

    assert code == 0
    assert err == (
        "note: ignored, because UNet2DConditionModel does not know them: cros_attention_dim (did you mean cross_attention_dim?), decay\n"
    )
    assert cli("trace", str(path), "-q")[2] == ""


@pytest.mark.parametrize("width", ["20", "80", "200"])
@pytest.mark.parametrize("command", [*TRACING, "models"])
def test_columns_are_respected(cli: Any, monkeypatch: pytest.MonkeyPatch, tiny: str, command: str, width: str) -> None:
    """COLUMNS decides the width, also of a pipe; nothing is ever cut."""
    monkeypatch.setenv("COLUMNS", width)
    code, out, _ = cli(command, *([] if command == "models" else [tiny]))

    assert code == 0
    assert "…" not in out
    if width != "20":
        assert max(map(len, out.splitlines())) <= int(width)


def test_colour_only_where_it_is_wanted(cli: Any, monkeypatch: pytest.MonkeyPatch, tiny: str) -> None:
    """A pipe gets none; FORCE_COLOR does; NO_COLOR overrules it."""
    assert "\x1b" not in cli("trace", tiny)[1]
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in cli("trace", tiny)[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in cli("trace", tiny)[1]
