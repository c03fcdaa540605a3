"""Streams as they are: closed, full, not UTF-8, no wider than 20 columns, ended by a signal. Nothing is lost, nothing half-written."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.tiny import traced
from unetinspect import Trace
from unetinspect.errors import UsageError
from unetinspect.run.cache import RecordCache
from unetinspect.streams import forget_what_is_no_width, print_answer

NAME = "caf\u00e9 \u6f22\u5b57 \U0001f600"
FULL = "error: cannot write to standard output: no space left on device\nhint: -o FILE writes the answer into a file\n"


def save_trace(folder: Path) -> Path:
    """Save a trace, which is shown without torch, of a UNet whose name takes more than ASCII and more than Latin-1."""
    record = traced("plain-one-block")
    path = folder / "saved.json"
    path.write_text(replace(record, model=replace(record.model, name=NAME)).to_json(), encoding="utf-8")
    return path


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved trace in a folder of its own."""
    return save_trace(tmp_path)


def run(
    command: str, folder: Path, *, before: Callable[[], object] | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a command line of the shell in a folder, in which `unetinspect` is this checkout's."""
    return subprocess.run(
        ["bash", "-c", command.replace("unetinspect", f"{sys.executable} -m unetinspect")],
        capture_output=True,
        timeout=120,
        check=False,
        cwd=folder,
        env={**os.environ, "UNETINSPECT_CACHE": str(folder / "records"), **(environment or {})},
        preexec_fn=before,
    )


@pytest.mark.parametrize("command", ["models", "skips saved.json --json", "--help", "--version"])
def test_a_full_disk_on_stdout_is_one_sentence(command: str, saved: Path) -> None:
    """Whoever prints, and however much: no traceback, no complaint at exit, and no success."""
    ran = run(f"unetinspect {command} > /dev/full", saved.parent)

    assert (ran.returncode, ran.stderr.decode()) == (2, FULL)


def test_a_closed_stdout_is_told_and_no_file_gets_what_was_meant_for_it(saved: Path) -> None:
    """Closed before the program begins: an answer has nowhere to go; into a file it goes all the same."""
    ran = run("unetinspect models >&-", saved.parent)
    assert (ran.returncode, ran.stderr.decode().splitlines()[0]) == (2, "error: cannot write to standard output: it is closed")

    ran = run("unetinspect skips saved.json -o out.txt >&- 2>&- <&-", saved.parent)
    assert ran.returncode == 0
    assert (saved.parent / "out.txt").read_text(encoding="utf-8").startswith(NAME)


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full"])
def test_notes_and_errors_never_stand_in_the_way_of_the_answer(closed: str, saved: Path) -> None:
    """Without a stderr the answer is the same, errors stay off stdout, and the exit code says what it always says."""
    record = Trace.from_json(saved.read_text(encoding="utf-8"))
    saved.write_text(replace(record, run=replace(record.run, notes=("a note",))).to_json(), encoding="utf-8")
    answered, refused = (run(f"unetinspect skips {model} {closed}", saved.parent) for model in ("saved.json", "nothing"))

    assert (answered.returncode, answered.stderr) == (0, b"")
    assert answered.stdout.decode().startswith(NAME)
    assert b"note" not in answered.stdout
    assert (refused.returncode, refused.stdout, refused.stderr) == (3, b"", b"")


def test_stdin_closed_is_an_empty_stdin(saved: Path) -> None:
    """`-` then reads nothing, and says so."""
    closed, empty = run("unetinspect skips - <&-", saved.parent), run("unetinspect skips - </dev/null", saved.parent)

    assert closed.returncode == empty.returncode == 2
    assert closed.stderr == empty.stderr
    assert closed.stderr.startswith(b"error: standard input is empty")


def test_a_pipe_that_does_not_wait_loses_nothing(saved: Path) -> None:
    """Its other end may have made it non-blocking: more than it has room for still comes out whole."""
    text = traced("sd15").to_json()
    saved.write_text(text)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    program = subprocess.Popen(
        [sys.executable, "-m", "unetinspect", "trace", str(saved), "--json"], stdout=writer, stderr=subprocess.PIPE, env=dict(os.environ)
    )
    os.close(writer)
    with pytest.raises(subprocess.TimeoutExpired):  # full by now
        program.wait(timeout=3)
    with os.fdopen(reader, encoding="utf-8") as pipe:
        assert pipe.read() == text + "\n"
    assert program.communicate(timeout=60)[1] == b""


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["latin-1", "LC_ALL=C"],
)
def test_where_stdout_is_not_utf_8_tables_are_ascii_and_json_stays_json(environment: dict[str, str], saved: Path) -> None:
    """Rules fall back, a name is escaped, JSON escapes as JSON does, in every view of a saved trace."""
    table = run("unetinspect skips saved.json", saved.parent, environment=environment)
    assert (table.returncode, table.stderr) == (0, b"")
    assert b"-----" in table.stdout
    name = NAME if environment.get("PYTHONIOENCODING") == "latin-1" else NAME.replace("\u00e9", "\\xe9")
    assert table.stdout.splitlines()[0].decode("latin-1").startswith(name.replace("\u6f22\u5b57 \U0001f600", "\\u6f22\\u5b57 \\U0001f600"))

    ran = run("unetinspect trace saved.json --json", saved.parent, environment=environment)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert json.loads(ran.stdout) == json.loads(saved.read_text(encoding="utf-8"))
    assert ran.stdout.isascii()


def test_the_schema_is_json_and_help_is_ascii_where_stdout_is(tmp_path: Path) -> None:
    """It holds words that are not ASCII."""
    plain, ascii_alone = run("unetinspect schema", tmp_path), run("unetinspect schema", tmp_path, environment={"PYTHONIOENCODING": "ascii"})

    assert not plain.stdout.isascii()
    assert ascii_alone.stdout.isascii()
    assert json.loads(ascii_alone.stdout) == json.loads(plain.stdout)
    ran = run("unetinspect trace --help", tmp_path, environment={"PYTHONIOENCODING": "ascii"})
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert b"Usage: unetinspect trace" in ran.stdout
    assert ran.stdout.isascii()


def test_a_file_name_that_is_not_utf_8_is_read_written_and_shown(tmp_path: Path) -> None:
    """As bytes to the system, backslashed to people, in tables, in JSON and in errors."""
    name, out = os.fsencode(tmp_path) + b"/b\xff.json", os.fsencode(tmp_path) + b"/o\xff.json"
    with open(name, "w", encoding="utf-8") as file:  # noqa: PTH123 - bytes
        file.write(traced("plain-one-block").to_json())
    command = [sys.executable, "-m", "unetinspect"]
    shown = subprocess.run([*command, "skips", name, "--json", "-o", out], capture_output=True, check=True, env=dict(os.environ))
    assert (shown.stdout, shown.stderr) == (b"", b"")
    with open(out, encoding="utf-8") as file:  # noqa: PTH123 - bytes
        assert json.load(file)["model"]["class_name"] == "UNet2DModel"

    missing = subprocess.run([*command, "skips", b"no\xff.json"], capture_output=True, check=False, env=dict(os.environ))
    assert missing.returncode == 3
    assert missing.stderr.startswith(b"error: ")
    assert b"no\\udcff.json" in missing.stderr


def test_what_is_no_unicode_in_a_record_is_backslashed_in_its_json(tmp_path: Path) -> None:
    """A record that is traced from such a file is JSON that any reader takes, and is not kept."""
    record = traced("plain")
    odd = replace(record, model=replace(record.model, name="b\udcff", config={"\ud800": ["\udfff", 1]}))
    found = json.loads(odd.to_json())
    RecordCache(tmp_path).put("key", odd)

    assert found["model"]["name"] == r"b\udcff"
    assert found["model"]["config"] == {r"\ud800": [r"\udfff", 1]}
    assert found["stages"] == json.loads(record.to_json())["stages"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("columns", ["20", "1"])
@pytest.mark.parametrize("command", ["trace", "skips", "skips --explain", "attn", "tree", "inputs", "ports", "config", "--help"])
def test_few_columns_lose_no_value(command: str, columns: str, saved: Path, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every view ends in an answer, and the sums of the skips stand there whole."""
    monkeypatch.setenv("COLUMNS", columns)
    code, out, _ = cli(*command.split(), *([] if command == "--help" else [str(saved)]))

    assert code == 0
    assert out
    sums = [f"{skip.hidden_channels} + {skip.skip_channels}" for skip in traced("plain-one-block").skips]
    assert command != "skips" or all(added in out for added in sums)


@pytest.mark.parametrize("columns", ["0", "-5", "abc", "\u00b2", "", "9" * 30, "20.5", " "])
@pytest.mark.parametrize("command", ["skips", "--help"])
def test_columns_that_are_no_width_are_none(command: str, columns: str, saved: Path, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is that without COLUMNS."""
    words = [command, *([] if command == "--help" else [str(saved)])]
    without = cli(*words)
    for name in ("COLUMNS", "LINES"):
        monkeypatch.setenv(name, columns)
    forget_what_is_no_width()

    assert cli(*words) == without


def test_a_dumb_terminal_of_20_columns_gets_no_escape_sequence(saved: Path) -> None:
    """Its width counts, and nothing is coloured, moved or erased."""
    terminal, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 20, 0, 0))
    environment = {**os.environ, "TERM": "dumb"}
    program = subprocess.Popen([sys.executable, "-m", "unetinspect", "skips", str(saved)], stdout=side, stderr=side, env=environment)
    os.close(side)
    said = b""
    with suppress(OSError):  # the terminal's other side is closed
        while part := os.read(terminal, 4096):
            said += part
    os.close(terminal)

    assert program.wait(timeout=60) == 0
    assert b"\x1b" not in said
    assert b"left out at 20 columns" in said


def test_a_sentence_names_what_is_wrong_with_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """In Python, too, where a program has closed its own stdout."""
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(UsageError, match="cannot write to standard output: it is closed"):
        print_answer("text")
