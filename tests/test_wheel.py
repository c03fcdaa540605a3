"""The wheel, installed away from the checkout: console script, module, bundled catalog, types."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command to its end and return its stdout."""
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True, cwd=cwd).stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("unetinspect-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that has the wheel and borrows the dependencies of this one; returns its bin folder."""
    home = tmp_path_factory.mktemp("away") / "venv"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel, cwd=home)
    (site,) = home.glob("lib/*/site-packages")
    # A plain path, so that the editable install of this checkout, which is a .pth file there, is not taken along.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return home / "bin"


def test_the_wheel_holds_the_package_the_catalog_and_the_types(wheel: Path) -> None:
    """The catalog and the types are in it, and nothing of the tests."""
    names = zipfile.ZipFile(wheel).namelist()

    assert {"unetinspect/catalog.jsonl", "unetinspect/py.typed"} <= set(names)
    assert not [name for name in names if "test" in name]


def test_the_installed_program_runs_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    """Console script and `python -m` trace a bundled model from the wheel's own files."""
    where = run(installed / "python", "-c", "import unetinspect; print(unetinspect.__file__)", cwd=tmp_path)
    assert where.startswith(str(installed.parent))

    record = json.loads(run(installed / "unetinspect", "trace", "ddpm-cifar10-32", "--json", "--device", "meta", cwd=tmp_path))
    assert record["totals"]["params"] == 35_746_307
    models = json.loads(run(installed / "python", "-m", "unetinspect", "models", "--json", cwd=tmp_path))
    assert len(models["models"]) == len(list((ROOT / "configs").glob("*.yaml")))
