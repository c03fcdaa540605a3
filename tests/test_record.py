"""The record's JSON form: what is written is read back, and what is damaged is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.schema import assert_fits_the_schema
from tests.tiny import traced
from unetinspect import SourceError, Trace
from unetinspect.capturing.captured import Captures
from unetinspect.record import SCHEMA, Checkpoint, Diff, Envelope, ErrorExplanations, to_json
from unetinspect.run.cache import CacheInfo
from unetinspect.views.models import ClassList, FoundModels, ModelList
from unetinspect.views.schema import json_schema

DOCUMENTS = sorted((Path(__file__).parent / "documents").glob("*.json"))
READERS: dict[str | None, type[Any]] = {
    "unetinspect.trace/1": Envelope,
    "unetinspect.diff/1": Diff,
    "unetinspect.checkpoint/1": Checkpoint,
    "unetinspect.errors/1": ErrorExplanations,
    "unetinspect.models/1": ModelList,
    "unetinspect.found/1": FoundModels,
    "unetinspect.classes/1": ClassList,
    "unetinspect.capture/1": Captures,
    None: CacheInfo,
}


def is_kept(old: Any, new: Any) -> bool:
    """Whether nothing of a document is lost; fields may be added."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(name in new and is_kept(value, new[name]) for name, value in old.items())
    if isinstance(old, list):
        return isinstance(new, list) and len(old) == len(new) and all(map(is_kept, old, new))
    return type(old) is type(new) and old == new


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_documents_of_earlier_versions_are_read_and_written_again_equal(path: Path) -> None:
    """Every field that version 1 of a schema has printed is printed still, with its value: the files are never written anew."""
    document = json.loads(path.read_text())
    kind = Trace if path.stem == "trace" else READERS[document.get("schema")]
    record = msgspec.json.decode(path.read_bytes(), type=kind)

    assert is_kept(document, json.loads(to_json(record)))
    assert_fits_the_schema(document)
    assert kind is not Trace or Trace.from_json(path.read_bytes()) == record


@pytest.mark.parametrize("kind", ["conditioned", "gligen", "skip-blocks"])
def test_a_record_survives_json_and_fits_the_schema(kind: str) -> None:
    """from_json(to_json(t)) == t, the JSON is the same again, and is what `schema` describes, which refuses channels that are text."""
    record = traced(kind)
    text = record.to_json()
    document = json.loads(text)

    assert Trace.from_json(text) == record
    assert Trace.from_json(text).to_json() == text
    assert_fits_the_schema(document)
    document["skips"][0]["skip_channels"] = "32"
    with pytest.raises(jsonschema.ValidationError):
        assert_fits_the_schema(document)


def test_an_envelope_prints_only_the_sections_it_is_given() -> None:
    """`skips --json` has skips and no stages, under the names of the whole record."""
    record = traced("conditioned")
    envelope = json.loads(to_json(Envelope(schema=SCHEMA, model=record.model, run=record.run, skips=record.skips)))

    assert list(envelope) == ["schema", "model", "run", "skips"]
    assert envelope["skips"] == json.loads(record.to_json())["skips"]


@given(cut=st.integers(min_value=0, max_value=10_000))
def test_a_record_that_was_cut_off_is_refused_in_a_sentence(cut: int) -> None:
    """No prefix of a record passes for one, and none raises anything but a SourceError."""
    text = traced("plain").to_json()
    with pytest.raises(SourceError, match="this is not a whole trace"):
        Trace.from_json(text[: cut % len(text)])


def test_a_trace_that_was_saved_before_fields_were_added_is_read() -> None:
    """What is added within a schema version has a value for those that do not have it."""
    record = traced("conditioned")
    saved = json.loads(record.to_json())
    for section in ("outputs", "ports"):
        del saved[section]
    for field in ("medium", "frames", "frames_from", "freeu", "plugged"):
        del saved["run"][field]
    for skip in saved["skips"]:
        del skip["concat_in"], skip["changes"]
    del saved["totals"]["attention"]["without_processor"], saved["model"]["module"]
    read = Trace.from_json(json.dumps(saved))

    assert read.run == record.run
    assert read.model == record.model
    assert read.attentions == record.attentions
    assert [skip.source for skip in read.skips] == [skip.source for skip in record.skips]


def test_a_newer_schema_is_refused_with_both_names() -> None:
    """A trace of another schema version says which it is, and which is read."""
    with pytest.raises(SourceError) as raised:
        Trace.from_json(traced("plain").to_json().replace(SCHEMA, "unetinspect.trace/9"))

    assert raised.value.message == "this trace has the schema 'unetinspect.trace/9'; this version reads 'unetinspect.trace/1'"
    assert raised.value.exit_code == 3


def test_the_schema_says_what_each_field_is() -> None:
    """Every field that a record's docstring explains carries that sentence; nothing of Python is left in it."""
    definitions = json_schema()["$defs"]

    assert definitions["Skip"]["properties"]["hidden_channels"]["description"] == "Channels of the hidden states."
    assert all("description" in field for field in definitions["Skip"]["properties"].values())
    assert all("description" in field for name, field in definitions["Attention"]["properties"].items() if name != "macs")
    text = json.dumps(definitions)
    assert "Attributes:" not in text
    assert "None" not in text


@pytest.mark.parametrize(
    ("section", "field", "value", "said"),
    [
        ("skips", "source_stage", "down_blocks.9", "a skip names 'down_blocks.9', which is not one of its stages"),
        ("skips", "target_stage", "", "a skip names '', which is not one of its stages"),
        ("attentions", "stage", "x", "an attention layer names 'x', which is not one of its stages"),
        ("stages", "name", "x", "stage 'x' is not one of its modules"),
        ("modules", "path", "a.b", "module 'a.b' has no parent"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(section: str, field: str, value: str, said: str) -> None:
    """Every view relies on names that lead somewhere; a record that somebody edited says which do not."""
    record = json.loads(traced("conditioned").to_json())
    record[section].append({**record[section][-1], field: value})

    with pytest.raises(SourceError, match=f"this trace contradicts itself: {said}"):
        Trace.from_json(json.dumps(record))
