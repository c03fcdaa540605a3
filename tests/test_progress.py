"""Progress goes to stderr where that is a terminal, and only there; it is gone when the answer is."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.test_imports import imported_after
from tests.tiny import CONDITION
from unetinspect.cli.options import OutputOptions
from unetinspect.cli.output import Output


def run_on_terminal(arguments: list[str], folder: Path) -> tuple[str, str]:
    """Run the program with its stderr on a terminal and its stdout into a file; returns both."""
    terminal, side = pty.openpty()
    environment = {**os.environ, "UNETINSPECT_CACHE": str(folder / "records"), "TERM": "xterm"}
    with (folder / "out").open("wb") as out:
        program = subprocess.Popen([sys.executable, "-m", "unetinspect", *arguments], stdout=out, stderr=side, env=environment)
    os.close(side)
    said = b""
    with suppress(OSError):  # the terminal's other side is closed
        while part := os.read(terminal, 4096):
            said += part
    os.close(terminal)
    assert program.wait(timeout=60) == 0
    return (folder / "out").read_text(), said.decode()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_progress_is_shown_on_a_terminal_and_cleared(tmp_path: Path) -> None:
    """Each step is named while it lasts, stdout has the JSON alone, the line is erased.

    The second time the record is kept: it takes no steps and no torch, and is printed to the byte.
    """
    config = tmp_path / "tiny" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps(CONDITION))
    command = ["trace", str(config), "--device", "meta", "--json"]
    out, said = run_on_terminal(command, tmp_path)

    assert json.loads(out)["schema"] == "unetinspect.trace/1"
    assert "importing torch and diffusers" in said
    assert "running tiny at sample 16x16 on meta" in said
    assert "\x1b[2K" in said.rpartition("running tiny")[2]

    assert len(list((tmp_path / "records").iterdir())) == 2  # the record, and the keys of the class
    again, nothing = run_on_terminal(command, tmp_path)
    assert again == out
    assert nothing == ""
    code = f"import os; os.environ['UNETINSPECT_CACHE'] = {str(tmp_path / 'records')!r}\nfrom unetinspect.cli.main import main\n"
    assert imported_after(f"{code}assert main({command!r}) == 0") == set()


class Terminal(io.StringIO):
    """A stream that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "quiet", "term"), [(Terminal(), True, "xterm"), (Terminal(), False, "dumb"), (io.StringIO(), False, "xterm")]
)
def test_nothing_is_shown_where_nobody_looks(stream: io.StringIO, quiet: bool, term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With -q, on a dumb terminal and into a pipe, a step says nothing; on a terminal it does."""
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys, "stderr", stream)
    with Output(OutputOptions(quiet=quiet)).progress() as say:
        say("running")
    assert stream.getvalue() == ""

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", shown := Terminal())
    with Output(OutputOptions()).progress() as say:
        say("running [red]sd15")
        time.sleep(0.3)
    assert "running [red]sd15" in shown.getvalue()
