"""`unetinspect/explain/atlas.jsonl` holds what this diffusers raises: some of the errors are provoked again."""

from __future__ import annotations

import os
import re
from pathlib import Path

import diffusers
import pytest
import torch

from tests.atlas.__main__ import ATLAS
from tests.atlas.provoke import key_of, merged, provoke, without_provoked
from tests.atlas.rows import Row, read_rows

AGAIN = "run `python -m tests.atlas`"
FEWEST = 400
LARGEST = 1_250_000


@pytest.mark.slow
def test_errors_provoked_again_are_in_the_atlas() -> None:
    known = {key_of(row): row for row in read_rows(ATLAS)}
    again = merged(one.row for one in provoke(one_in=1 if "ALL_KINDS" in os.environ else 15))
    unknown = [row for row in again if key_of(row) not in known]
    assert not unknown, f"{len(unknown)} of {len(again)} rows are not in {ATLAS.name}; {AGAIN}: {unknown[:3]}"
    assert all(set(row["classes"]) <= set(known[key_of(row)]["classes"]) for row in again), AGAIN


def test_the_atlas_is_large_enough_to_be_of_use_and_small_enough_to_be_shipped() -> None:
    rows = read_rows(ATLAS)
    provoked = [row for row in rows if row["cause"] != "raises"]
    assert len(provoked) >= FEWEST
    assert ATLAS.stat().st_size < LARGEST
    assert all(len(row["numbers"]) == row["text"].count("#") for row in rows)


def test_no_path_of_a_machine_is_in_the_atlas() -> None:
    text = ATLAS.read_text(encoding="utf-8")
    assert str(Path(diffusers.__file__).parent.parent) not in text
    assert str(Path(torch.__file__).parent.parent) not in text
    assert str(Path(__file__).parents[1]) not in text
    assert "/home/" not in text
    assert re.findall(r"(?<![\w/.:*@#}>-])/(?:[\w.-]+/)+", text) == []


def test_a_text_of_the_source_that_was_provoked_is_left_out() -> None:
    def row(text: str, frame: str) -> Row:
        return Row(text=text, numbers=[], frames=[frame], module="", cause="", about="", axis="", classes=[])

    provoked = [row("num_channels (#) must be divisible by num_groups (#)", "resnet.__init__")]
    same, elsewhere = (row("num_channels (@) must be divisible by num_groups (@)", frame) for frame in ("norm.__init__", "norm.forward"))
    assert without_provoked([same, elsewhere], provoked) == [elsewhere]
