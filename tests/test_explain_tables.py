"""The hand-written tables of messages: each row explains its own example with all that it says, and its regex is bounded."""

from __future__ import annotations

import re
import time
from pathlib import Path

import msgspec
import pytest

import unetinspect.explain
from tests.test_explain_error import texts
from unetinspect.explain.answers import Answer
from unetinspect.explain.recogniser import Scene

TABLES = Path(unetinspect.explain.__file__).parent
TOOLS, DIFFUSERS = (
    msgspec.toml.decode((TABLES / f"{name}.toml").read_bytes(), type=dict[str, list[Answer]])["message"] for name in ("tools", "diffusers")
)
# Repetitions: a possessive one gives nothing back, so that it needs no upper bound.
POSSESSIVE = re.compile(r"(?:[*+?]|\{[\d,]{1,9}\})\+")
UNBOUNDED = re.compile(r"[*+]|\{\d{0,6},\}")


def compiled(row: Answer) -> re.Pattern[str]:
    """Compile a row's regex as the engine does."""
    return re.compile(row.text.replace(" ", r"\s{1,9}"))


each_row = pytest.mark.parametrize("row", [*TOOLS, *DIFFUSERS], ids=lambda row: f"{row.kind}: {row.text[:60]}")


@each_row
def test_a_row_explains_its_example(row: Answer) -> None:
    """Every field of its sentences has a value, every number and model that it names is one of the message, its condition holds."""
    match = compiled(row).search(row.example)
    assert match is not None
    found = row.explain(match, Scene(nearby=" ".join(row.needs)))
    assert found is not None

    assert row.kind.replace("_", "").isalpha()
    assert found.meaning
    assert all(found.changes)
    assert 1 <= len(row.changes) <= 3
    assert {*row.numbers, *row.models} <= {*match.groupdict(), *row.let, "any"}


@each_row
def test_no_long_text_keeps_a_regex_busy(row: Answer) -> None:
    """Each repetition has a bound, and near misses over and over are read at once."""
    regex, example = compiled(row), row.example
    plain = re.sub(r"\[[^\]]{1,80}\]", "", re.sub(r"\\.", "", row.text))
    assert not UNBOUNDED.search(POSSESSIVE.sub("", plain)), plain

    begin = time.perf_counter()
    for text in (example[:-1] * 200, example[: len(example) // 2] * 400, example.replace(" ", "\n" * 9) * 100, "a" * 50_000):
        regex.search(text[1:])
    assert time.perf_counter() - begin < 2


def test_each_example_is_explained_by_its_own_row() -> None:
    """None of the rows before it takes it."""
    for place, row in enumerate(TOOLS):
        near = (other for other in TOOLS if other is row or any(word in row.example for word in other.needs or [""]))
        first = next(other for other in near if compiled(other).search(row.example))
        assert TOOLS.index(first) == place, (row.example, first.text)


@pytest.mark.parametrize(("name", "fewest"), [("cases", 29), ("threads", 29), ("threads_held_out", 29), ("foreign", 220)])
def test_texts_are_many_and_have_their_answers(name: str, fewest: int) -> None:
    """Texts about UNets have a kind and words that must be said, texts of other models whose they are."""
    rows = texts(name)

    assert len({row["text"] for row in rows}) == len(rows) >= fewest
    for row in rows:
        assert all(row[key] for key in (("text", "from") if name == "foreign" else ("text", "kind", "must"))), row
        assert row.keys() <= {"text", "from", "bare"} or row.keys() - {"case"} == {"text", "kind", "must", "must_not"}, row


def test_no_row_that_is_sure_takes_a_text_of_another_model() -> None:
    """Nor does one that asks for no word around it."""
    foreign = texts("foreign")
    for row in TOOLS:
        if row.sure or not row.needs:
            taken = [text["from"] for text in foreign if compiled(row).search(text["text"]) and not text.get("bare")]
            assert not taken, (row.text, taken)


def test_the_documents_list_every_kind() -> None:
    """docs/explain-error.md has each kind that a table has."""
    tables = [msgspec.toml.decode(path.read_bytes()) for path in sorted(TABLES.glob("*.toml"))]
    kinds = {row["kind"] for table in tables for part in ("message", "generic") for row in table.get(part, ())}
    listed = (Path(__file__).parents[1] / "docs" / "explain-error.md").read_text(encoding="utf-8")

    assert [kind for kind in sorted(kinds) if f"`{kind}`" not in listed] == []
