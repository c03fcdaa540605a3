"""The program in a real pipe: a reader that stops early, one that is another program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest

from tests.tiny import traced
from unetinspect.run.cache import RecordCache, Recorder
from unetinspect.source import read_model
from unetinspect.unets.request import Request


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a shell pipeline in which `unetinspect` is this checkout's."""
    program = f"{sys.executable} -m unetinspect"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command.replace("unetinspect", program)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved trace, which is shown without torch."""
    path = tmp_path / "saved.json"
    path.write_text(traced("sd15").to_json())  # far more than a pipe holds
    return path


@pytest.mark.parametrize(
    "command", ["unetinspect models | head -1", "unetinspect --help | head -1", "unetinspect trace saved.json --json | head -2"]
)
def test_a_closed_pipe_ends_quietly(command: str, saved: Path) -> None:
    """A reader that has enough is no error: exit 0, nothing on stderr."""
    ran = shell(command.replace("saved.json", str(saved)))

    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout


def test_a_config_flows_through_pipes(saved: Path, tmp_path: Path) -> None:
    """A config from one command is the model of the next, to the letter: its record is one that was kept, so no torch is imported."""
    model = traced("sd15").model
    piped = read_model("-", stdin=StringIO(json.dumps({**model.config, "_class_name": model.class_name})))
    kept = RecordCache(tmp_path / "records")
    Recorder(kept, piped).record(Request(device="meta"))
    ran = shell(
        f'unetinspect config {saved} --json | python3 -c \'import json, sys; m = json.load(sys.stdin)["model"];'
        ' print(json.dumps({**m["config"], "_class_name": m["class_name"]}))\' | unetinspect skips - --json --device meta',
        UNETINSPECT_CACHE=str(kept.folder),
    )

    assert ran.returncode == 0
    assert f'"consumed": {traced("sd15").totals.skips.consumed}' in ran.stdout
    assert kept.info().records == 2  # the record, and the class's keys


def test_python_dash_m_names_itself_unetinspect() -> None:
    """Usage names the program, not the interpreter's way to it."""
    assert "Usage: unetinspect trace" in shell("unetinspect trace --help").stdout
