"""What a `Trace` and a `Drawing` show of themselves, and sections as DataFrames."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest

from tests.tiny import traced
from unetinspect.errors import UsageError
from unetinspect.views.table import SECTIONS


def test_a_trace_is_one_line() -> None:
    """What is printed is short, and says what was traced."""
    assert repr(traced("sd15")) == (
        "<Trace of sd15, UNet2DConditionModel, 859.5 M params: sample (2, 4, 64, 64) -> (2, 4, 64, 64); "
        "15 stages, 12 skips, 32 attention layers>"
    )


def test_a_drawing_shows_itself() -> None:
    """In a notebook as SVG that shrinks with the page, as text elsewhere, in one line in a list."""
    drawing = traced("conditioned").draw(level="layer")

    assert drawing._repr_html_().replace(' style="max-width:100%;height:auto"', "") == drawing.svg()
    assert "resnets.0" in str(drawing)
    assert repr(drawing) == f"<Drawing of {traced('conditioned').model.name}, level='layer'>"


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_is_a_data_frame(section: str) -> None:
    """A row for each record, and each field of it, nested ones spread out."""
    record = traced("conditioned")
    records: Any = record.run.inputs if section == "inputs" else getattr(record, section)
    frame = record.to_dataframe(section)

    assert isinstance(frame, pd.DataFrame)
    assert len(frame) == len(records) > 0
    for row, found in zip(records, frame.to_dict("records"), strict=True):
        for field, value in msgspec.to_builtins(row).items():
            assert isinstance(value, dict) or _as_tuples(value) == found[field] or (value is None and pd.isna(found[field])), field


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value


def test_frames_are_summed_and_grouped() -> None:
    """What people want of them: the MACs of the stages add up, layers are counted by kind and shape."""
    record = traced("sd15")
    layers, stages = record.to_dataframe("attentions"), record.to_dataframe("stages")

    assert stages.macs.sum() == record.totals.macs
    assert stages["attention.cross"].sum() == 16
    assert layers.groupby(["kind", "map_shape"]).size()[("cross", (16, 4096, 77))] == 5


def test_a_section_without_records_has_its_columns() -> None:
    """A model without attention gives an empty frame, which can be asked for its kinds."""
    frame = msgspec.structs.replace(traced("plain"), attentions=()).to_dataframe("attentions")

    assert len(frame) == 0
    assert {"path", "kind", "heads", "map_shape"} <= set(frame.columns)


def test_an_unknown_section_and_a_missing_pandas_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the sections, or the hint the extra to install, whose pandas is the one tested here."""
    sections = "; use one of stages, skips, attentions, modules, ports, outputs, inputs"
    with pytest.raises(UsageError) as error:
        traced("plain").to_dataframe("attention")
    assert (error.value.message, error.value.hint) == (
        f"to_dataframe() has no section 'attention'{sections}",
        "did you mean 'attentions'?",
    )
    with pytest.raises(UsageError) as error:
        traced("plain").to_dataframe()
    assert (error.value.message, error.value.hint) == (f"to_dataframe() needs a section{sections}", None)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="a DataFrame needs pandas, which is not installed") as error:
        traced("plain").to_dataframe("skips")
    assert error.value.hint == "pip install 'unetinspect[pandas]'"
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    assert {*project["project"]["optional-dependencies"]["pandas"]} <= {*project["dependency-groups"]["test-core"]}
