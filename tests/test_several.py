"""Several MODELs from one process, and the UNets of a folder: each answer is the one that it is alone."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import jq
import pytest

from tests.schema import assert_fits_the_schema
from tests.tiny import CONDITION, KINDS, PLAIN, condition, model_of, traced
from unetinspect import Trace
from unetinspect.errors import UnetInspectError
from unetinspect.run import many
from unetinspect.run.cache import RecordCache
from unetinspect.source import local

ON_META = ("--device", "meta")
BAD = condition(norm_num_groups=7)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with small configs, in which the commands run."""
    monkeypatch.chdir(tmp_path)
    for name, config in {"unet": CONDITION, "plain": PLAIN, "bad": BAD}.items():
        Path(f"{name}.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize(
    ("command", "between"),
    [
        (("trace", "--format", "table"), "\n"),
        (("sweep", "--latent", "8,16", "--format", "md"), "\n"),
        (("check", "--latent", "15", "--json"), ""),
    ],
    ids=["table", "md", "json"],
)
def test_tables_and_documents_follow_one_after_another(cli: Any, command: tuple[str, ...], between: str) -> None:
    """Each as it is for one alone: tables with an empty line between them, JSON as a stream that `jq` reads."""
    first, *options = (*command, *ON_META)
    alone = [cli(first, name, *options)[:2] for name in ("unet.json", "plain.json")]

    assert cli(first, "unet.json", "plain.json", *options) == (max(code for code, _ in alone), between.join(text for _, text in alone), "")
    if "--json" in command:
        documents = jq.compile(".").input_text("".join(text for _, text in alone)).all()
        assert [document["model"]["class_name"] for document in documents] == ["UNet2DConditionModel", "UNet2DModel"]
        for document in documents:
            assert_fits_the_schema(document)


@pytest.mark.parametrize(("form", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_csv_is_one_table_with_a_column_for_the_model(cli: Any, form: str, delimiter: str) -> None:
    """One header, and a row is that of the model alone with its name before it; a single model has no such column."""
    options = (*ON_META, "--format", form)
    names = ("unet.json", "plain.json")
    rows, *alone = (
        list(csv.DictReader(io.StringIO(cli("trace", *models, *options)[1]), delimiter=delimiter))
        for models in (names, names[:1], names[1:])
    )

    assert next(iter(rows[0])) == "model"
    assert [row.pop("model") for row in rows] == ["unet.json"] * len(alone[0]) + ["plain.json"] * len(alone[1])
    assert rows == [*alone[0], *alone[1]]


def test_totals_are_columns_of_the_stages(cli: Any) -> None:
    """One number a model without `jq`, or a table of several; the same numbers as in JSON, and no column of CSV that was not asked for."""
    names = ("unet.json", "plain.json")
    totals = [json.loads(cli("trace", name, "--json", *ON_META)[1])["totals"] for name in names]
    printed = cli("trace", *names, "--columns", "totals.inference_bytes", "--format", "names", *ON_META)[1]
    table = cli("trace", *names, "--columns", "model,params,totals.macs_by_kind.conv", "--format", "csv", *ON_META)[1]
    rows = list(csv.DictReader(io.StringIO(table)))

    assert printed.split() == [str(each["inference_bytes"]) for each in totals]
    assert {row["totals.macs_by_kind.conv"] for row in rows} == {str(each["macs_by_kind"]["conv"]) for each in totals}
    assert sum(int(row["params"]) for row in rows) == sum(each["params"] for each in totals)
    assert "totals." not in cli("trace", *names, "--format", "csv", *ON_META)[1]


def test_a_size_that_fails_leaves_the_columns_of_the_others(cli: Any) -> None:
    """All sizes of one model fail, and none of the other: nested fields have columns of their own; a clean check has its header."""
    Path("flat.json").write_text(json.dumps(KINDS["plain-one-block"]))
    text = cli("sweep", "plain.json", "flat.json", "--latent", "15", *ON_META, "--format", "csv")[1]
    rows = list(csv.DictReader(io.StringIO(text)))
    header = "about,kind,what,where,advice,count,examples,stops,follows\n"

    assert [(row["model"], bool(row["error"]), bool(row["macs_by_kind.conv"])) for row in rows] == [
        ("plain.json", True, False),
        ("flat.json", False, True),
    ]
    assert len({len(row) for row in csv.reader(io.StringIO(text))}) == 1
    assert cli("check", "plain.json", *ON_META, "--format", "csv")[:2] == (0, header)
    assert cli("check", "plain.json", "unet.json", *ON_META, "--format", "csv")[:2] == (0, f"model,{header}")


def test_the_others_go_on_after_one_fails(cli: Any) -> None:
    """Its error, under its name, on stderr; the exit code of the first that failed, before that of findings."""
    code, out, err = cli("trace", "bad.json", "plain.json", *ON_META, "--json")
    alone = cli("trace", "bad.json", *ON_META)

    assert code == alone[0] == 2
    assert out == cli("trace", "plain.json", *ON_META, "--json")[1]
    assert err == alone[2].replace("error: ", "error: bad.json: ", 1)

    both = ("bad.json", "plain.json")  # at 15 cells, the first cannot be built and the second does not run
    assert [cli("trace", *names, "--latent", "15", *ON_META)[0] for names in (both, both[::-1])] == [2, 4]

    Path("lost.json").write_text(json.dumps({"_class_name": "NoSuchUNet"}))
    found = cli("check", "plain.json", "unet.json", "--latent", "15", *ON_META)
    failed = cli("check", "plain.json", "lost.json", "unet.json", "--latent", "15", *ON_META)
    assert (found[0], failed[0]) == (1, 2)
    assert failed[1] == found[1]
    assert failed[2].startswith("error: lost.json: NoSuchUNet is not a UNet class that can be traced\nhint: ")


@pytest.mark.parametrize("command", ["trace", "sweep", "check", "check --output-format github"])
def test_what_cannot_be_read_does_not_hide_the_others(cli: Any, command: str) -> None:
    """Its error, as it is alone, comes first, and the others are answered as they are alone, into a file too."""
    lost, good = ("sdlx", os.devnull), ("plain.json", "unet.json")
    words = (*command.split(), *ON_META)
    alone = [cli(*words, name) for name in lost]
    answered = cli(*words, *good)
    code, *printed = cli(*words, lost[0], good[0], lost[1], good[1])

    assert (code, answered[0]) == (3, 0)
    assert printed == ["".join(one[stream] for one in (*alone, answered)) for stream in (1, 2)]
    if "github" not in command:  # its errors are printed, as they are on stdout
        assert cli(*words, lost[0], *good, "-o", "out") == (3, "", alone[0][2] + answered[2])
        assert Path("out").read_text() == answered[1]


def test_standard_input_is_read_once(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice is one error; once, it is one of several models."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(PLAIN)))
    assert cli("trace", "-", "plain.json", "-") == (
        2,
        "",
        "error: - (standard input) can be given only once\nhint: save it to a file\n",
    )
    assert cli("trace", "plain.json", "-", *ON_META, "--json")[0] == 0


def test_a_file_has_all_answers_or_stays_as_it_was(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """-o is written once, at the end, with the text of stdout; where nothing is answered, it is not touched."""
    for form in ("table", "csv"):
        printed = cli("trace", "unet.json", "bad.json", "plain.json", *ON_META, "--format", form)
        written = cli("trace", "unet.json", "bad.json", "plain.json", *ON_META, "--format", form, "-o", "out")

        assert written == (2, "", printed[2])
        assert Path("out").read_text() == printed[1]
    Path("out").write_text("mine")
    cli("trace", "bad.json", "bad.json", *ON_META, "-o", "out")
    assert Path("out").read_text() == "mine"

    monkeypatch.setattr(sys, "stdout", None)  # not the fault of a model: reported once
    code, _, err = cli("trace", "plain.json", "unet.json", *ON_META)
    assert code == 2
    assert err.splitlines()[0] == "error: cannot write to standard output: it is closed"
    assert err.count("error: ") == 1


def test_notes_name_the_model_that_they_are_about(cli: Any) -> None:
    """Its name, or the typed path where two have one name; a model alone has its notes as ever."""
    for run in ("a", "b"):
        Path(run, "unet").mkdir(parents=True)
        Path(run, "unet", "config.json").write_text(json.dumps({**PLAIN, "decay": 0.9}))
        Path(f"{run}.json").write_text(json.dumps({**PLAIN, "decay": 0.9}))
    note = "decay is not a key of UNet2DModel (diffusers ignores it)"

    assert cli("trace", "a.json", "b.json", *ON_META)[2] == f"note: a.json: {note}\nnote: b.json: {note}\n"
    assert cli("trace", "a", "a/unet", *ON_META)[2] == f"note: a: {note}\nnote: a/unet: {note}\n"
    assert cli("trace", "a", *ON_META)[2] == f"note: {note}\n"


def found_in(cli: Any, *places: str) -> tuple[list[str], str]:
    """Return the paths that `models --from` lists, and its notes on stderr."""
    code, out, err = cli("models", *(word for place in places for word in ("--from", place)), "--json")
    document = json.loads(out)

    assert code == 0
    assert_fits_the_schema(document)
    return [model["path"] for model in document["models"]], err


def without(config: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != key}


@pytest.fixture
def runs(folder: Path) -> Path:
    """Training runs: good configs, bad ones, ones of other models, links in circles."""
    top = folder / "runs"
    for place, text in {
        "one/unet/config.json": json.dumps(CONDITION),
        "one/vae/config.json": json.dumps({"_class_name": "AutoencoderKL", "block_out_channels": [8, 8]}),
        "one/model_index.json": json.dumps({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}),
        "one/text_encoder/config.json": json.dumps({"architectures": ["CLIPTextModel"]}),
        "two/config.json": json.dumps(PLAIN),
        "four/train.yaml": f"lr: 1e-4\nunet: {json.dumps(PLAIN)}\n",
        "four/sweep.yaml": json.dumps({"unet": {"_target_": "diffusers.UNet2DModel", **without(PLAIN, "_class_name")}}),
        "four/loads.yaml": "unet: {_target_: diffusers.UNet2DModel.from_pretrained, pretrained_model_name_or_path: acme/sd}\n",
        "four/tokens.yaml": "lr: 1e-4\nmodel: {name: gpt, layers: 4}\n",
        "three/mine.yaml": "\n".join(f"{key}: {json.dumps(value)}" for key, value in PLAIN.items()),
        "three/deep/er/config.json": json.dumps(BAD),
        "three/broken/config.json": '{"_class_name": "UNet2DModel",',
        ".hidden/config.json": json.dumps(PLAIN),
    }.items():
        path = top / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (top / "one" / "again").symlink_to(top)
    (top / "two" / "unet").symlink_to(top / "two")
    (top / "latest.yaml").symlink_to(top / "three" / "mine.yaml")
    (top / "gone.yaml").symlink_to(top / "nowhere")
    os.mkfifo(top / "three" / "config.json")
    return top


@pytest.mark.usefixtures("runs")
def test_a_folder_is_listed_with_the_numbers_of_its_records(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every config of a UNet, by class and path, each once; notes on those that cannot be traced or read; limits of the search."""
    paths, err = found_in(cli, "runs")

    yamls = ["runs/four/sweep.yaml", "runs/four/train.yaml", "runs/latest.yaml", "runs/three/mine.yaml"]
    assert paths == ["runs/one/unet/config.json", *yamls, "runs/two/config.json"]
    assert "note: runs/four/sweep.yaml and 1 more: config read from the section unet\n" in err
    assert "note: runs/four/loads.yaml: no UNet config here: the section unet loads acme/sd\n" in err
    assert "note: runs/three/broken/config.json is not valid JSON" in err
    assert "note: runs/three/deep/er/config.json: not traced: cannot build UNet2DConditionModel from er: 1 config error" in err
    assert "block_out_channels contains 32, 64, not divisible by norm_num_groups (7); norm_num_groups 4 works\n" in err
    assert err.count("note: ") == 5

    record = traced("conditioned")
    first = json.loads(cli("models", "--from", "runs", "--json", "-q")[1])["models"][0]
    assert (first["params"], first["macs"]) == (record.totals.params, record.totals.macs)
    assert (first["attention_layers"], first["skips"]) == (len(record.attentions), len(record.skips))
    assert (first["sample_size"], first["forward_batch"]) == ([16, 16], 2)
    assert "6 models" in cli("models", "--from", "runs", "-q")[1]

    assert found_in(cli, "runs/*/unet")[0] == ["runs/one/unet/config.json", "runs/two/unet/config.json"]
    assert found_in(cli, "runs/**/mine.yaml", "runs/three/mine.yaml", "runs/t*/*.yaml")[0] == ["runs/three/mine.yaml"]

    monkeypatch.setattr(local, "MAX_DEPTH", 1)
    paths, err = found_in(cli, "runs")
    assert "runs/one/unet/config.json" not in paths
    assert "note: not searched: folders deeper than 1 level (in 3 folders, such as runs/" in err
    monkeypatch.setattr(local, "MAX_FILES", 3)
    assert "note: runs has more than 3 files: the rest was not searched" in found_in(cli, "runs")[1]


def test_several_processes_find_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the models, errors included, and one pass for all models with one config; this process traces none."""
    monkeypatch.setattr(many, "_LEAST_FOR_EACH", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    configs = (CONDITION, BAD, PLAIN, CONDITION)
    models = [model_of(config, f"m{place}") for place, config in enumerate(configs)]
    steps: list[str] = []
    first, failed, plain, last = many.record_each(models, RecordCache(tmp_path / "records"), say=steps.append)

    assert isinstance(failed, UnetInspectError)
    assert failed.message.startswith("cannot build UNet2DConditionModel from m1: 1 config error")
    assert [(one.model.name, one.totals) for one in (first, plain, last) if isinstance(one, Trace)] == [
        (name, traced(kind).totals) for name, kind in (("m0", "conditioned"), ("m2", "plain"), ("m3", "conditioned"))
    ]
    assert steps == [f"m{place}: {place + 1} of 4" for place in range(4)]


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["--from", "nowhere"], 3, "there is no file or folder nowhere"),
        (["--from", "empty"], 3, "found no UNet config in empty"),
        (["--from", f"*/{'x' * 300}"], 3, f"found no UNet config in */{'x' * 300}"),
        (["--from", "x**y"], 3, ""),  # older versions of Python refuse such a pattern
        (["--from", ".", "--classes"], 2, "--from and --classes cannot be used together"),
        (["--from", ""], 3, "--from needs a folder"),
        (["--from", "bad"], 2, "none of the UNet configs in bad can be traced"),
    ],
    ids=["no folder", "no config", "no match", "not a glob", "both", "nothing", "bad"],
)
def test_nothing_to_list_is_an_error(cli: Any, arguments: list[str], code: int, error: str) -> None:
    """One sentence and its hint; a note for each config that cannot be traced."""
    for name in {"empty", "bad"}.intersection(arguments):
        Path(name).mkdir()
    if "bad" in arguments:
        Path("bad/config.json").write_text(json.dumps(BAD))
    found = cli("models", *arguments)

    assert found[:2] == (code, "")
    *notes, last, hint = [line for line in found[2].splitlines() if line.startswith(("error: ", "hint: ", "note: "))]
    assert last.startswith(f"error: {error}")
    assert [note.split(": ")[:3] for note in notes] == ([["note", "bad/config.json", "not traced"]] if "bad" in arguments else [])
    assert "bad" not in arguments or hint == "hint: `unetinspect check bad/config.json` shows what is wrong"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files_are_noted(cli: Any, runs: Path) -> None:
    """A file without permission gets a note, and the others are listed."""
    (runs / "two" / "config.json").chmod(0)

    assert "runs/two/config.json cannot be read: permission denied" in found_in(cli, "runs")[1]
