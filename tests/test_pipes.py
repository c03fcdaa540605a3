"""The program in a real pipe: a reader that stops early, one that is another program, no terminal, no UTF-8."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


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


@pytest.mark.parametrize(
    "command", ["unetinspect models | head -1", "unetinspect schema | head -c 10", "unetinspect trace ddpm-cifar10-32 --json | head -2"]
)
def test_a_closed_pipe_ends_quietly(command: str) -> None:
    """A reader that has enough is no error: exit 0, nothing on stderr."""
    ran = shell(command)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout


def test_a_config_flows_through_pipes() -> None:
    """A config from one command is the model of the next."""
    ran = shell(
        'unetinspect config ddpm-cifar10-32 --json | python3 -c \'import json, sys; m = json.load(sys.stdin)["model"];'
        ' print(json.dumps({**m["config"], "_class_name": m["class_name"]}))\' | unetinspect skips - --json --device meta'
    )

    assert ran.returncode == 0
    assert '"consumed": 12' in ran.stdout


def test_ascii_output_where_the_stream_is_ascii() -> None:
    """Without UTF-8 the table falls back to ASCII."""
    ran = shell("unetinspect models", PYTHONIOENCODING="ascii", COLUMNS="80")

    assert ran.returncode == 0
    assert ran.stdout.isascii()
    assert "----" in ran.stdout


def test_python_dash_m_names_itself_unetinspect() -> None:
    """Usage names the program, not the interpreter's way to it."""
    assert "Usage: unetinspect trace" in shell("unetinspect trace --help").stdout
