"""What every test shares: a quiet environment, records that are traced once, golden files."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

GOLDEN = Path(__file__).parent / "golden"

# Before anything imports huggingface_hub: no test may leave this machine.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
for _variable in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "HF_ENDPOINT", "HF_TOKEN"):
    os.environ.pop(_variable, None)


# The workers, and the programs that tests start, find modules compiled that another of them has imported before.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell starts what runs in its background deaf to Ctrl-C, and so would be the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Workers share the cores: torch threads of one would wait for those of another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Records that are kept for later tests are many small objects, and looking through them for garbage is a quarter of the time.
gc.set_threshold(200_000, 20, 100)

# On a busy machine one example may take long; in CI the same examples are tried each time.
settings.register_profile("local", deadline=None, max_examples=60)
settings.register_profile("ci", parent=settings.get_profile("local"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_configure(config: pytest.Config) -> None:
    """Give the workers of a run one folder for the records that they share: the process that starts them makes it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        folder = tempfile.mkdtemp(prefix="unetinspect-tests-")
        os.environ["UNETINSPECT_TEST_RECORDS"] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--update-golden`, which writes the golden files anew; CI never does."""
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a CUDA device where there is none."""
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Keep records of this run apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNETINSPECT_CACHE", str(tmp_path_factory.mktemp("records")))
        yield


@pytest.fixture
def golden(request: pytest.FixtureRequest):
    """Compare a text with the golden file of that name, or write it with `--update-golden`."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        expected = path.read_text(encoding="utf-8")

        assert expected == text

    return compare


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved trace, which every view shows without torch."""
    from tests.tiny import traced

    path = tmp_path / "saved.json"
    path.write_text(traced("conditioned").to_json())
    return path


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Run the command line in this process; returns (exit code, stdout, stderr).

    What several tests ask for is traced once in a run, under the keys of the real cache; `--no-cache` takes and keeps nothing.
    """
    from tests.tiny import SharedRecords, code_of_this_run, key_of_this_run
    from unetinspect.cli.main import main

    for module in ("run", "lookup"):
        monkeypatch.setattr(f"unetinspect.cli.{module}.open_cache", lambda *, wanted=True: SharedRecords() if wanted else None)
    monkeypatch.setattr("unetinspect.run.cache.code_state", code_of_this_run)
    monkeypatch.setattr("unetinspect.run.cache.record_key", key_of_this_run)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
