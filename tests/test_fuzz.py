"""Mutated inputs through the whole program: a small, fixed budget of what `fuzz/run.py` runs for long."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz import mutate
from fuzz.cases import KINDS, Case, make_case
from fuzz.run import KINDS as NAMES
from fuzz.run import report
from fuzz.worker import run_case
from tests import tiny

# So many inputs of each kind: those that build UNets cost the most.
BUDGET = {"configs": 6, "options": 6, "sizes": 4, "headers": 12, "records": 8, "traces": 6, "yaml": 12, "errors": 15, "index": 10}


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep what options may name apart from this machine's own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("UNETINSPECT_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", NAMES)
def test_each_mutated_input_ends_in_an_answer_or_in_an_error(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No traceback, no half-written file, no control character, no exit code of its own; the same inputs each time."""

    @settings(max_examples=BUDGET[kind], derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 10_000))
    def ends_well(number: int) -> None:
        case = make_case(kind, 0, number)
        outcome = run_case(case, tmp_path_factory.mktemp(kind))

        assert not outcome["wrong"], f"{outcome['wrong']}\nunetinspect {case.arguments}\n{outcome['detail']}"

    ends_well()


FOUND = {
    "an input of 2^62 numbers": Case(
        ["trace", "config.json", "--latent=1048576", "--batch=1048576", "--device=meta", "--no-cache"],
        {"config.json": mutate.dumped(tiny.CONDITION)},
    ),
    "a number of 6,000 digits in YAML": Case(["config", "-"], stdin=b"_class_name: UNet2DModel\nsample_size: 0x" + b"f" * 5000),
    "a list of 400,000 entries in a table": Case(
        ["config", "config.json"], {"config.json": mutate.dumped(tiny.condition(down_block_types=["DownBlock2D"] * 400_000))}
    ),
    "control characters of a message in Markdown": Case(
        ["explain-error", "-", "--format=md"],
        stdin=b"size mismatch for conv_in.weight: copying a param with shape torch.Size([320, 9, 3, 3]) from checkpoint, \x1b[31m"
        b"the shape in current model is torch.Size([320, 4, 3, 3]).\x9b",
    ),
    "control characters of a config in CSV": Case(
        ["config", "config.json", "--format=csv"], {"config.json": mutate.dumped(tiny.condition(act_fn="\x1b[31m"))}
    ),
    "a control character of one byte in JSON": Case(
        ["config", "config.json", "--json"], {"config.json": mutate.dumped(tiny.condition(act_fn="\x9b31m\x7f"))}
    ),
}


@pytest.mark.parametrize("name", list(FOUND))
def test_what_was_found_stays_mended(name: str, tmp_path: Path) -> None:
    """Inputs that once ended in a traceback, or took minutes."""
    began = time.process_time()

    outcome = run_case(FOUND[name], tmp_path)

    assert not outcome["wrong"], outcome["detail"]
    assert time.process_time() - began < 20


def test_every_kind_has_a_maker_and_a_budget_and_a_number_makes_the_same_input_again() -> None:
    """The kinds of the command line are those that are made, and what failed can be run again by its number."""
    assert set(NAMES) == set(KINDS) == set(BUDGET)
    for kind in NAMES:
        assert make_case(kind, 3, 5) == make_case(kind, 3, 5)


@given(st.binary(min_size=1), st.integers())
def test_bytes_and_values_are_changed_by_the_seed_alone(given_bytes: bytes, seed: int) -> None:
    """A mutation draws on nothing but the random numbers that it is given."""
    assert mutate.raw(given_bytes, Random(seed)) == mutate.raw(given_bytes, Random(seed))
    config = {"a": [1, 2, {"b": None}], "c": "d"}
    assert mutate.dumped(mutate.json_value(config, Random(seed))) == mutate.dumped(mutate.json_value(config, Random(seed)))
    assert config == {"a": [1, 2, {"b": None}], "c": "d"}


def test_what_goes_wrong_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The harness can fail: it sees an exception, an error without a sentence, no answer, an escape sequence, a half-written file."""
    import unetinspect.cli.main as program

    def escape(arguments: list[str]) -> int:
        print("\x1b[2J")
        return 0

    def half(arguments: list[str]) -> int:
        Path("answer.txt").write_text("{", encoding="utf-8")
        print("error: no", file=sys.stderr)
        return 2

    wrong = {
        "traceback: ZeroDivisionError": lambda arguments: 1 // 0,
        "exit code 2 without an error:": lambda arguments: 2,
        "exit code 0 without an answer": lambda arguments: 0,
        "the control character 0x1b in what is printed": escape,
        "exit code 70": lambda arguments: os.EX_SOFTWARE,
        "files left: answer.txt": half,
    }
    for number, (sentence, main) in enumerate(wrong.items()):
        monkeypatch.setattr(program, "main", main)
        (tmp_path / str(number)).mkdir()
        assert str(run_case(Case(["trace"]), tmp_path / str(number))["wrong"]).startswith(sentence)


def test_the_report_adds_up_the_runs_of_each_kind(tmp_path: Path) -> None:
    """Two runs of 10 and 5 inputs with one failure between them are 15 inputs and 1 distinct failure."""
    counts = '"kind": "yaml", "answers": 4, "findings": 0, "errors": 1'
    (tmp_path / "yaml-1-0.json").write_text(f'{{{counts}, "inputs": 10, "failures": 1}}')
    (tmp_path / "yaml-2-0.json").write_text(f'{{{counts}, "inputs": 5, "failures": 0}}')
    (tmp_path / "yaml-traceback").mkdir()

    assert report(tmp_path).splitlines()[-1] == "| yaml | 15 | 8 | 0 | 2 | 1 | 1 |"
