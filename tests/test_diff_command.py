"""`diff` and `names` on the command line: what they take, and how they exit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.tiny import traced


def test_the_same_is_exit_0(cli: Any, saved: Path) -> None:
    """Two saved traces that are alike."""
    code, out, errors = cli("diff", str(saved), str(saved), "--json")

    assert (code, errors) == (0, "")
    assert json.loads(out)["same"] is True


def test_another_is_exit_1(cli: Any, saved: Path, tmp_path: Path) -> None:
    """Two that are not: the answer is printed too."""
    other = tmp_path / "other.json"
    other.write_text(traced("plain").to_json())
    code, out, _ = cli("diff", str(saved), str(other), "--json")
    document = json.loads(out)

    assert (code, document["same"]) == (1, False)
    assert [document[side]["class_name"] for side in "ab"] == ["UNet2DConditionModel", "UNet2DModel"]


def test_two_sizes_of_one(cli: Any) -> None:
    """`--res A,B` is of each its own; the weights are the same, the costs are not."""
    code, out, _ = cli("diff", "ddpm-cat-256", "--res", "64,128", "--json", "-q")
    document = json.loads(out)

    assert code == 1
    assert [document[side]["sample_size"] for side in "ab"] == [[64, 64], [128, 128]]
    assert document["totals"]["params"]["difference"] == 0
    assert document["totals"]["macs"]["ratio"] > 3
    assert document["config"] == []


def test_what_a_key_of_the_config_changes(cli: Any) -> None:
    """`--set-b` overrides on one side alone."""
    code, out, _ = cli("diff", "ddpm-cifar10-32", "--set-b", "layers_per_block=1", "--json", "-q")
    document = json.loads(out)

    assert code == 1
    assert [(key["key"], key["a"], key["b"]) for key in document["config"]] == [("layers_per_block", 2, 1)]


def test_names_of_a_saved_trace(cli: Any, saved: Path) -> None:
    """Without NAME all are listed: as many as the record has modules and tensors."""
    code, out, _ = cli("names", str(saved), "--json")
    record = traced("conditioned")
    listed = json.loads(out)["names"]

    assert code == 0
    assert len(listed) == len([module for module in record.modules if module.path]) + sum(len(module.tensors) for module in record.modules)
