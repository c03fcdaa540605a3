"""The wheel, away from the checkout: console script, module, bundled catalog, types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_runs_away_from_the_checkout(tmp_path: Path) -> None:
    """The catalog and the types are in it, and nothing of the tests; it traces a bundled model from its own files."""

    def run(*words: str | Path) -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "away")}
        return subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, timeout=240, check=True, cwd=tmp_path, env=environment
        ).stdout

    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True, capture_output=True)
    (built,) = tmp_path.glob("unetinspect-*.whl")
    wheel = zipfile.ZipFile(built)
    names = set(wheel.namelist())
    wheel.extractall(tmp_path / "away")
    (scripts,) = (name for name in names if name.endswith("entry_points.txt"))

    assert {"unetinspect/catalog.jsonl", "unetinspect/catalog_tensors.jsonl", "unetinspect/py.typed"} <= names
    assert not [name for name in names if "test" in name]
    assert wheel.read(scripts).decode().strip() == "[console_scripts]\nunetinspect = unetinspect.__main__:main"
    assert run("-c", "import unetinspect; print(unetinspect.__file__)").startswith(str(tmp_path))
    record = json.loads(run("-m", "unetinspect", "trace", "ddpm-cifar10-32", "--json", "--device", "meta"))
    assert record["totals"]["params"] == 35_746_307
    # What it knows of errors lies beside the code.
    explained = json.loads(
        run("-m", "unetinspect", "explain-error", "mat1 and mat2 shapes cannot be multiplied (154x2048 and 768x320)", "--json")
    )
    assert explained["explanations"][0]["kind"] == "cross_attention_width"
