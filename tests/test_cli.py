"""The commands as a user types them: what is on stdout, what on stderr, and the exit code."""

from __future__ import annotations

import inspect
import io
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.models import ArgumentInfo

from tests.schema import assert_fits_the_schema
from tests.tiny import CONDITION, PLAIN, condition, some, traced
from unetinspect.cli.main import COMMANDS, load_command
from unetinspect.views.inputs import inputs_code

TRACING = ("trace", "skips", "attn", "tree", "inputs", "ports")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A config file of a small conditioned UNet, in the folder that the command runs in."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.json").write_text(json.dumps(CONDITION))
    return "tiny.json"


@pytest.fixture
def saved(cli: Any, tiny: str) -> str:
    """What `trace --json -o` writes of it."""
    assert cli("trace", tiny, "--json", "-o", "saved.json", "--device", "meta") == (0, "", "")
    return "saved.json"


def test_help_lists_each_command_in_one_line_of_its_group(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --help, -h or no command; at 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = cli()
    lines = out.splitlines()

    assert (code, err) == (0, "")
    assert cli("--help") == cli("-h") == (0, out, "")
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if line[:1].isupper() and line.endswith(":")] == [
        *("Inspect:", "Measure:", "Compare and draw:", "Check:", "Catalog and cache:", "Options:")
    ]
    assert [line.split()[0] for line in lines if line.startswith("  ") and line.split()[0] in COMMANDS] == list(COMMANDS)


@pytest.mark.parametrize("columns", ["80", "200"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_options_in_groups_and_examples(
    cli: Any, monkeypatch: pytest.MonkeyPatch, command: str, columns: str
) -> None:
    """Usage, one line on what it does, sections, and examples of which each is a command line that is understood."""
    monkeypatch.setenv("COLUMNS", columns)
    code, out, err = cli(command, "--help")
    usage, examples = out.splitlines()[0], out.partition("Examples:\n")[2].splitlines()
    sections = [line for line in out.splitlines() if line[:1].isupper() and line.endswith(":")]

    assert (code, err) == (0, "")
    assert out.splitlines()[2].strip() == COMMANDS[command][1]
    assert usage.startswith(f"Usage: unetinspect {command} [OPTIONS]")
    assert usage.count("MODEL") == (1 if "  MODEL " in out else 0)
    assert not any(odd in out for odd in ("<class", "<function", "list[", "None", "  --help", "[]"))
    assert sections[-2:] == ["Output:", "Examples:"]
    groups = ["Size and batch:", "Attachments:", "Device and cache:", "Model source:", "Output:", "Examples:"]
    assert [section for section in sections if section not in ("Arguments:", "Options:", "Training:")] == groups or command not in TRACING
    assert max(len(line) for line in out.partition("Examples:")[0].splitlines()) <= min(int(columns), 100)
    assert len(examples) >= 2 or command == "schema"
    for example in examples:
        before, _, words = example.partition(f"unetinspect {command}")
        assert before.strip() in ("", "python train.py 2>&1 |")
        load_command(command).make_context(command, shlex.split(words.partition(" | ")[0]))


@pytest.mark.parametrize("command", [*TRACING, "config"])
def test_json_is_one_document_that_matches_the_schema(cli: Any, tiny: str, command: str) -> None:
    """--json prints a record's sections and nothing else, under the promised schema; its model is a config that can be traced again."""
    code, out, err = cli(command, tiny, "--json")
    document = json.loads(out)

    assert (code, err) == (0, "")
    assert document["schema"] == "unetinspect.trace/1"
    assert document["model"]["class_name"] == "UNet2DConditionModel"
    assert_fits_the_schema(document)
    Path("part.json").write_text(out)
    code, again, err = cli("skips", "part.json", "--json", "--device", "meta", "-q")
    assert (code, err) == (0, "")
    assert json.loads(again)["skips"] == json.loads(cli("skips", tiny, "--json", "--device", "meta")[1])["skips"]


@pytest.mark.parametrize("arguments", [["models"], ["models", "--classes"]])
def test_the_catalogs_json_matches_the_schema(cli: Any, arguments: list[str]) -> None:
    """models --json and models --classes --json too."""
    code, out, _ = cli(*arguments, "--json")

    assert code == 0
    assert_fits_the_schema(json.loads(out))


@pytest.mark.parametrize("command", [*TRACING, "config", "models"])
def test_every_command_has_every_form(cli: Any, tiny: str, command: str) -> None:
    """A table, Markdown, CSV and TSV are each something, and end with one newline."""
    for form in ("table", "md", "csv", "tsv"):
        code, out, err = cli(command, *([] if command == "models" else [tiny]), "--format", form)

        assert (code, err) == (0, "")
        assert out.rstrip("\n") + "\n" == out
        assert ("\t" in out) == (form == "tsv")


@pytest.mark.parametrize(
    ("command", "suffix"), list(zip([*TRACING, "names", "check", "models", "trace"], ["txt", "JSON", "md", "csv", "tsv"] * 2, strict=True))
)
def test_the_extension_of_the_file_decides_the_form(cli: Any, tiny: str, command: str, suffix: str) -> None:
    """The file is what stdout is in that form; no other extension is taken, unless `--format` says what the file is."""
    form = suffix.lower().replace("txt", "table")
    words = [command, *([] if command == "models" else [tiny])]
    code, out, _ = cli(*words, "--format", form)
    for given in ([], ["--format", form]):
        path = Path(f"out{len(given)}.{suffix}")

        assert cli(*words, "-o", str(path), *given)[:2] == (code, "")
        assert path.read_text() == out
    cli(*words, "-o", "out.dat", "--format", form)
    assert Path("out.dat").read_text() == out
    refused = "error: unsupported file extension {0!r}: un{0}\nhint: use .txt, .json, .md, .csv, .tsv\n"
    for other in (".svg", ".dat", ".yaml"):
        assert cli(*words, "-o", f"un{other}") == (2, "", refused.format(other))
    assert cli(*words, "-o", "un.svg", "--format", form) == (2, "", refused.format(".svg"))
    option, against = ("--json", "un.csv") if form == "json" else (f"--format {form}", "un.json")
    sentence = f"error: {option} and -o {against} cannot be used together\nhint: leave out {option}\n"
    assert cli(*words, "-o", against, *option.split()) == (2, "", sentence)
    assert not list(Path().glob("un.*"))


@pytest.mark.parametrize(
    ("words", "path", "same", "others"),
    [
        (["inputs", "--code"], "unet.py", [], ".py, .txt"),
        (["skips", "--explain"], "unet.md", ["--format", "md"], ".txt, .md"),
        (["schema"], "schema.json", [], ".json, .txt"),
    ],
)
def test_an_answer_of_another_form_has_its_own_extensions(
    cli: Any, tiny: str, words: list[str], path: str, same: list[str], others: str
) -> None:
    """The code is Python; what has no rows has no CSV."""
    words = words if words == ["schema"] else [words[0], tiny, *words[1:]]

    assert cli(*words, "-o", path) == (0, "", "")
    assert Path(path).read_text() == cli(*words, *same)[1]
    assert cli(*words, "-o", "un.csv") == (2, "", f"error: unsupported file extension '.csv': un.csv\nhint: use {others}\n")


def test_a_part_of_the_tree(cli: Any, tiny: str) -> None:
    """--stage and --depth cut the table and the JSON alike."""
    document = json.loads(cli("tree", tiny, "--stage", "up_blocks.1", "--depth", "1", "--json")[1])
    table = cli("tree", tiny, "--stage", "up_blocks.1", "--depth", "1")[1]

    assert [module["path"] for module in document["modules"]] == ["up_blocks.1", "up_blocks.1.attentions", "up_blocks.1.resnets"]
    assert "up_blocks.1: CrossAttnUpBlock2D" in table
    assert "Transformer2DModel" not in table


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
    """Each filter leaves the layers that it names; together they leave those that all of them name; the table counts what is left."""
    code, out, _ = cli("attn", "sd15", "--device", "meta", "--json", *filters)
    layers = json.loads(out)["attentions"]

    assert (code, len(layers)) == (0, expected)
    for layer in layers:
        assert "--kind" not in filters or layer["kind"] == filters[1]
        assert "--tokens-at" not in filters or layer["query_shape"][2] == 256
    table = cli("attn", "sd15", "--device", "meta", *filters)[1]
    assert (f"{expected} of 32 shown" if expected else "this UNet has self, cross attention at 8x8, 16x16, 32x32, 64x64 in ") in " ".join(
        table.split()
    )


@pytest.mark.parametrize("command", TRACING)
def test_a_saved_trace_is_a_model(cli: Any, tiny: str, saved: str, command: str) -> None:
    """What `trace --json -o` wrote is shown by every command just as the model itself."""
    assert cli(command, saved, "--json") == cli(command, tiny, "--json", "--device", "meta")


def test_options_trace_a_saved_record_again_and_say_so(cli: Any, tiny: str, saved: str) -> None:
    """A saved trace at another size is a new pass from its config, and its config with --set is that of the model itself with --set."""
    code, out, err = cli("trace", saved, "--latent", "8", "--json")

    assert (code, json.loads(out)["output"]["shape"]) == (0, [2, 4, 8, 8])
    assert err == "note: the saved trace's config is traced again, with these options only\n"
    fresh, again = (cli("config", model, "--set", "layers_per_block=3", "--format", "csv") for model in (tiny, saved))
    assert again == fresh
    rows = [line.rsplit(",", 1) for line in fresh[1].splitlines()]
    assert all(row in rows for row in (["layers_per_block,3", "override"], ["cross_attention_dim,24", "given"]))
    assert ['act_fn,"""silu"""', "default"] in rows


def test_a_config_on_stdin(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` reads a config, in JSON or YAML."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(PLAIN)))
    code, out, err = cli("skips", "-", "--json")

    assert (code, err) == (0, "")
    assert json.loads(out)["totals"]["skips"] == {"produced": 6, "consumed": 6}


def test_ctrl_c_ends_with_a_word(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Interrupted while it runs or while it loads: one word on stderr, exit 130."""
    from unetinspect import __main__, streams
    from unetinspect.cli import main

    def interrupt(*_: Any, **__: Any) -> int:
        raise KeyboardInterrupt

    for module, name, run in ((main, "app", lambda: main.main(["models"])), (main, "main", __main__.run), (streams, "ready", __main__.run)):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, interrupt)
            assert run() == 130
        assert capsys.readouterr().err == "interrupted\n"


# One kind for each set of inputs that a config asks for; the UNet itself is always built by the same line.
CALLED = (
    *("conditioned", "plain", "text", "text-time", "text-image", "image", "image-hint", "text-time-and-text-image", "text-proj"),
    *("classes", "class-timestep", "class-identity", "class-projection", "timestep-cond", "gligen", "gligen-text-image"),
    *("dual-sizes", "no-cross-attention", "plain-classes", "plain-class-identity"),
)


@pytest.mark.parametrize("kind", some(CALLED, 3))
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


def test_unknown_keys_are_named_once_on_stderr(cli: Any, tiny: str) -> None:
    """With the nearest that the class has; -q says nothing."""
    config = condition(cros_attention_dim=3, decay=0.9)
    del config["cross_attention_dim"]
    Path("odd.json").write_text(json.dumps(config))

    assert cli("skips", "odd.json")[2] == (
        "note: cros_attention_dim is not a key of UNet2DConditionModel (did you mean cross_attention_dim?)\n"
        "note: decay is not a key of UNet2DConditionModel (diffusers ignores it)\n"
    )
    assert cli("skips", "odd.json", "-q")[2] == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_is_named_where_typer_would_name_it_after_its_metavar(name: str) -> None:
    """Some versions of Typer take a metavar that is the option's name in capitals for its name: `--DTYPE`."""
    for parameter in inspect.signature(load_command(name).callback).parameters.values():
        for info in getattr(parameter.annotation, "__metadata__", ()):
            has_name = any(str(word).startswith("--") for word in (info.default, *(info.param_decls or ())))
            assert has_name or (info.metavar or "").lower() != parameter.name or isinstance(info, ArgumentInfo), parameter


def test_names_of_one_argument_that_is_not_a_model_is_of_the_default_model(cli: Any) -> None:
    """It is answered as with sd15 before it, and a note says so."""
    code, out, err = cli("names", "IN04", "--json")

    assert (code, out) == cli("names", "sd15", "IN04", "--json")[:2]
    assert err == "note: no model is called 'IN04': showing that name in sd15, the default MODEL\n"
