"""`unetinspect/explain/atlas.jsonl` holds what this diffusers raises: some of the errors are provoked again."""

from __future__ import annotations

import re
from pathlib import Path

import diffusers
import msgspec
import pytest
import torch
from msgspec.structs import replace

from tests.atlas.provoke import ONE_BASE_IN, ONE_IN, merged, provoke, without_provoked
from unetinspect.explain.atlas import ATLAS, Row

AGAIN = "run `python -m tests.atlas`"
FEWEST = 400
LARGEST = 1_250_000


def atlas() -> list[Row]:
    """Read the atlas."""
    return msgspec.json.Decoder(Row).decode_lines(ATLAS.read_bytes())


@pytest.mark.slow
def test_errors_provoked_again_are_in_the_atlas() -> None:
    known = {replace(row, classes=()): row.classes for row in atlas()}
    again = merged(one.row for one in provoke(one_in=ONE_IN, one_base_in=ONE_BASE_IN))
    unknown = [row for row in again if not {*row.classes} <= {*known.get(replace(row, classes=()), ())}]
    assert len(again) > 60
    assert not unknown, f"{len(unknown)} of {len(again)} rows are not in {ATLAS.name}; {AGAIN}: {unknown[:3]}"


def test_the_atlas_is_large_enough_to_be_of_use_and_small_enough_to_be_shipped() -> None:
    assert sum(row.cause != "raises" for row in atlas()) >= FEWEST
    assert ATLAS.stat().st_size < LARGEST
    assert all(len(row.numbers) == row.text.count("#") for row in atlas())


def test_no_path_of_a_machine_is_in_the_atlas() -> None:
    text = ATLAS.read_text(encoding="utf-8")
    assert str(Path(diffusers.__file__).parent.parent) not in text
    assert str(Path(torch.__file__).parent.parent) not in text
    assert str(Path(__file__).parents[1]) not in text
    assert "/home/" not in text
    assert re.findall(r"(?<![\w/.:*@#}>-])/(?:[\w.-]+/)+", text) == []


def test_a_text_of_the_source_that_was_provoked_is_left_out() -> None:
    provoked = [Row(text="num_channels (#) must be divisible by num_groups (#)", frames=("resnet.__init__",), cause="")]
    same, elsewhere = (
        Row(text="num_channels (@) must be divisible by num_groups (@)", frames=(frame,), cause="")
        for frame in ("norm.__init__", "norm.forward")
    )
    assert without_provoked([same, elsewhere], provoked) == [elsewhere]
