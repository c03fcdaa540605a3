"""The tensors of the bundled models: those of what diffusers builds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from unetinspect.catalog import load_catalog
from unetinspect.checkpoint import catalog_tensors
from unetinspect.checkpoint.catalog_tensors import CATALOG_TENSORS, having, tensors_of
from unetinspect.run.build import build_unet
from unetinspect.run.resolve import resolve_config


@pytest.mark.slow
def test_the_tensors_are_those_of_the_models_built_anew(request: pytest.FixtureRequest) -> None:
    """Each model has the tensors of its state dict, in their order; the file is what writing it again gives."""
    models = {
        name: build_unet(resolve_config(entry.config), device=torch.device("meta"), dtype=torch.float32, name=name)
        for name, entry in load_catalog().items()
    }
    shapes = {name: {key: tuple(tensor.shape) for key, tensor in unet.state_dict().items()} for name, unet in models.items()}
    lines: dict[str, int] = {}
    roots = {name: _written(_tree(tensors), lines) for name, tensors in shapes.items()}
    text = "".join(f"{line}\n" for line in (*lines, _line(roots)))
    if request.config.getoption("--update-golden"):
        CATALOG_TENSORS.write_text(text, encoding="utf-8")
        catalog_tensors._lines.cache_clear()

    assert CATALOG_TENSORS.read_text(encoding="utf-8") == text, "the models have changed: run `make catalog`"
    for name, tensors in shapes.items():
        assert list(tensors_of(name).items()) == list(tensors.items())


def _tree(tensors: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, shape in tensors.items():
        *modules, last = name.split(".")
        place = tree
        for module in modules:
            place = place.setdefault(module, {})
        place[last] = shape
    return tree


def _written(tree: Mapping[str, Any], lines: dict[str, int]) -> int:
    """Write a module after all that is in it, if it is not there yet, and return the number of its line."""
    line = _line({name: _written(value, lines) if isinstance(value, dict) else value for name, value in tree.items()})
    return lines.setdefault(line, len(lines))


def _line(module: Mapping[str, Any]) -> str:
    return json.dumps(module, separators=(",", ":"))


def test_a_name_is_that_of_a_tensor() -> None:
    """Modules and names that go on after a tensor are none."""
    tensors = tensors_of("sd15")

    assert tensors["conv_in.weight"] == (320, 4, 3, 3)
    assert tensors["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"] == (1280, 768)
    assert len(tensors) == 686
    for name in ("conv_in", "conv_in.weight.0", "", "conv_out.x", "down_blocks.4.resnets.0.conv1.weight"):
        assert name not in tensors


@pytest.mark.parametrize(
    ("pattern", "axes"),
    [
        ("*.attn2.to_k.weight", {1: 1024}),
        ("conv_in.weight", {1: 9}),
        ("add_embedding.linear_1.weight", {1: 2816}),
        ("*.pe", {1: 32, 2: 320}),
        ("*.proj_in.*", {0: 640, 2: 1}),
        ("*", {0: 4}),
    ],
)
def test_models_are_found_by_an_axis(pattern: str, axes: dict[int, int]) -> None:
    """As by looking at every tensor of every model."""
    from fnmatch import fnmatchcase

    expected: dict[str, list[str]] = {}
    for model in load_catalog():
        for name, shape in tensors_of(model).items():
            general = ".".join("*" if part.isdecimal() else part for part in name.split("."))
            if fnmatchcase(general, pattern) and all(shape[axis : axis + 1] == (length,) for axis, length in axes.items()):
                expected.setdefault(model, []).append(general)

    assert having(pattern, axes) == {model: list(dict.fromkeys(names)) for model, names in expected.items()}
    assert expected


def test_reading_imports_no_torch() -> None:
    """What explains errors starts without torch."""
    imported = "import sys; from unetinspect.checkpoint.catalog_tensors import having"
    code = f"{imported}; assert having('*', {{0: 4}}); sys.exit('torch' in sys.modules)"

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
