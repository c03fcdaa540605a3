"""The hand-written table of other tools' messages: each row can be read, each regex is bounded, and matches the row's example."""

from __future__ import annotations

import json
import re
import string
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

import unetinspect.explain
from unetinspect.explain.answers import compute

TEXTS = Path(__file__).parent / "explain_error"
TABLE = Path(unetinspect.explain.__file__).parent / "tools.toml"
ROWS: list[dict[str, Any]] = tomllib.loads(TABLE.read_text(encoding="utf-8"))["message"]
KEYS = {"text", "kind", "needs", "sure", "general", "where", "let", "meaning", "changes", "numbers", "models", "example"}
# Repetitions: a possessive one gives nothing back, so that it needs no upper bound.
POSSESSIVE = re.compile(r"(?:[*+?]|\{[\d,]{1,9}\})\+")
UNBOUNDED = re.compile(r"[*+]|\{\d{0,6},\}")


def compiled(row: dict[str, Any]) -> re.Pattern[str]:
    """Compile a row's regex as the engine does."""
    return re.compile(row["text"].replace(" ", r"\s{1,9}"))


def values(row: dict[str, Any]) -> dict[str, str]:
    """Return the named groups and the `let` names that a row's example gives."""
    found = compiled(row).search(row["example"])
    assert found is not None, row["example"]
    groups = {name: value or "" for name, value in found.groupdict().items()}
    numbers = {name: int(value) for name, value in groups.items() if value.isdigit()}
    for name, formula in row.get("let", {}).items():
        groups[name] = str(compute(formula, numbers))
    assert compute(row.get("where", "True"), numbers), row["where"]
    return groups


def _names(row: dict[str, Any]) -> str:
    return f"{row.get('kind')}: {row.get('text', '')[:60]}"


@pytest.mark.parametrize("row", ROWS, ids=_names)
def test_a_row_is_whole(row: dict[str, Any]) -> None:
    assert row.keys() <= KEYS, row.keys() - KEYS
    assert row["kind"].replace("_", "").isalpha()
    assert all((row["meaning"], row["example"], *row["changes"]))
    assert 1 <= len(row["changes"]) <= 3
    assert row.get("sure", False) in (True, False)


@pytest.mark.parametrize("row", ROWS, ids=_names)
def test_a_regex_matches_its_example_and_has_bounds(row: dict[str, Any]) -> None:
    values(row)
    plain = re.sub(r"\\.", "", row["text"])
    plain = re.sub(r"\[[^\]]{1,80}\]", "", plain)
    assert not UNBOUNDED.search(POSSESSIVE.sub("", plain)), plain


@pytest.mark.parametrize("row", ROWS, ids=_names)
def test_each_field_has_a_value(row: dict[str, Any]) -> None:
    known = values(row)
    for sentence in (row["meaning"], *row["changes"]):
        for _, field, _, _ in string.Formatter().parse(sentence):
            assert field is None or field.removesuffix("_is") in known, field
    assert row.get("numbers", {}).keys() <= known.keys()
    assert row.get("models", {}).keys() <= known.keys()


def test_each_example_is_explained_by_its_own_row() -> None:
    for place, row in enumerate(ROWS):
        near = (
            other for other, before in enumerate(ROWS) if before is row or any(word in row["example"] for word in before.get("needs", [""]))
        )
        first = next(other for other in near if compiled(ROWS[other]).search(row["example"]))
        assert first == place, (row["example"], ROWS[first]["text"])


@pytest.mark.parametrize("row", ROWS, ids=_names)
def test_no_long_text_keeps_a_regex_busy(row: dict[str, Any]) -> None:
    regex, example = compiled(row), row["example"]
    begin = time.perf_counter()
    for text in (example[:-1] * 200, example[: len(example) // 2] * 400, example.replace(" ", "\n" * 9) * 100, "a" * 50_000):
        regex.search(text[1:])
    assert time.perf_counter() - begin < 2


@pytest.mark.parametrize("name", ["cases", "threads", "threads_held_out"])
def test_texts_about_unets_have_their_answers(name: str) -> None:
    rows = [json.loads(line) for line in (TEXTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len({row["text"] for row in rows}) == len(rows) >= 29
    for row in rows:
        assert row.keys() - {"case"} == {"text", "kind", "must", "must_not"}, row
        assert all((row["text"], row["kind"], row["must"])), row


def test_texts_of_other_models_are_many_and_say_whose_they_are() -> None:
    rows = [json.loads(line) for line in (TEXTS / "foreign.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len({row["text"] for row in rows}) == len(rows) >= 220
    assert all(row["text"] and row["from"] and row.keys() <= {"text", "from", "bare"} for row in rows)


def test_no_row_that_is_sure_takes_a_text_of_another_model() -> None:
    rows = [json.loads(line) for line in (TEXTS / "foreign.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in ROWS:
        if "needs" in row and not row.get("sure"):
            continue
        taken = [text["from"] for text in rows if compiled(row).search(text["text"]) and not text.get("bare")]
        assert not taken, (row["text"], taken)


def test_the_documents_list_every_kind() -> None:
    """docs/explain-error.md has each kind that a table has."""
    tables = [tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(TABLE.parent.glob("*.toml"))]
    kinds = {row["kind"] for table in tables for part in ("message", "generic") for row in table.get(part, ())}
    listed = (Path(__file__).parents[1] / "docs" / "explain-error.md").read_text(encoding="utf-8")

    assert [kind for kind in sorted(kinds) if f"`{kind}`" not in listed] == []
