"""Streams as they are: closed, full, not UTF-8, a pipe without a reader, a terminal of 20 columns. Nothing is lost, no traceback."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from time import sleep
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from tests.tiny import CONDITION, traced
from unetinspect import Trace, __main__
from unetinspect.run.cache import RecordCache
from unetinspect.streams import print_answer

NAME = "caf\u00e9 \u6f22\u5b57 \U0001f600"
Program = Callable[..., tuple[int, str]]


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands run in, with a saved trace of a UNet whose name needs more than ASCII and more than Latin-1."""
    record = traced("plain-one-block")
    path = tmp_path / "saved.json"
    path.write_text(replace(record, model=replace(record.model, name=NAME)).to_json(), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return path


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """Run the whole program in this process with another stdout; returns its exit code and stderr."""

    def run(stdout: Any, *arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["unetinspect", *arguments])
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stdout)
            code = __main__.run()
            with suppress(OSError, ValueError):
                stdout.close()
        return code, capsys.readouterr().err

    return run


def run(command: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """Run a command line of the shell in a folder, in which `unetinspect` is this checkout's."""
    words = ["bash", "-c", command.replace("unetinspect", f"{sys.executable} -m unetinspect")]
    return subprocess.run(words, capture_output=True, timeout=120, check=False, cwd=folder, env=dict(os.environ))


@pytest.mark.parametrize("command", ["models", "skips saved.json --json", "--help", "--version"])
def test_a_stdout_that_cannot_be_written_to_is_one_sentence(command: str, saved: Path, program: Program) -> None:
    """A full disk, a closed stdout, whoever prints: no traceback and no success; a reader that has closed its pipe is not an error."""
    error = "error: cannot write to standard output: {}\nhint: -o FILE writes the answer to a file\n"
    reader, writer = os.pipe()
    os.close(reader)

    assert program(os.fdopen(os.open("/dev/full", os.O_WRONLY), "w"), *command.split()) == (2, error.format("no space left on device"))
    assert program(os.fdopen(os.open(os.devnull, os.O_RDONLY), "w"), *command.split()) == (2, error.format("it is closed"))
    assert program(os.fdopen(writer, "w"), *command.split()) == (0, "")


def test_streams_closed_before_the_program_begins(saved: Path) -> None:
    """Help has nowhere to go, an answer goes into its file all the same, and a closed stdin is empty."""
    ran = run("unetinspect --help >&-", saved.parent)
    assert (ran.returncode, ran.stderr.splitlines()[0]) == (2, b"error: cannot write to standard output: it is closed")

    ran = run("unetinspect skips saved.json -o out.txt >&- 2>&- <&-", saved.parent)
    assert (ran.returncode, Path("out.txt").read_text(encoding="utf-8").splitlines()[0].startswith(NAME)) == (0, True)

    ran = run("unetinspect skips - <&-", saved.parent)
    assert (ran.returncode, ran.stderr.startswith(b"error: standard input is empty")) == (2, True)


def test_a_pipe_that_gets_enough_ends_quietly(saved: Path) -> None:
    """In a real shell, where Python itself would complain at exit; usage names the program and not the way to it."""
    ran = run("set -o pipefail; unetinspect trace --help | head -1", saved.parent)

    assert (ran.returncode, ran.stdout[:35], ran.stderr) == (0, b"Usage: unetinspect trace [OPTIONS] ", b"")
    assert ran.stdout.count(b"\n") == 1


@pytest.mark.parametrize("full", [True, False])
def test_notes_and_errors_never_stop_the_answer(full: bool, saved: Path, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a stderr the answer is the same, errors stay off stdout, and the exit code is the same."""
    record = Trace.from_json(saved.read_text(encoding="utf-8"))
    saved.write_text(replace(record, run=replace(record.run, notes=("a note",))).to_json(), encoding="utf-8")
    code, answer, err = cli("skips", "saved.json")
    assert (code, err) == (0, "note: a note\n")

    with Path("/dev/full").open("wb", buffering=0) as raw, io.TextIOWrapper(raw, write_through=True) as broken:
        monkeypatch.setattr(sys, "stderr", broken if full else None)
        assert cli("skips", "saved.json")[:2] == (0, answer)
        assert cli("skips", "nothing")[:2] == (3, "")


def test_a_pipe_that_does_not_wait_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its other end may have made it non-blocking: more than it has room for still comes out whole."""
    text = traced("sd15").to_json()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def read() -> str:
        sleep(0.2)  # the pipe is full by now
        with os.fdopen(reader, encoding="utf-8") as pipe:
            return pipe.read()

    with ThreadPoolExecutor(1) as pool, monkeypatch.context() as patch:
        found = pool.submit(read)
        with os.fdopen(writer, "w", encoding="utf-8") as stdout:
            patch.setattr(sys, "stdout", stdout)
            print_answer(text)
        assert found.result(timeout=60) == text


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_where_stdout_is_not_utf_8_tables_are_ascii_and_json_stays_json(
    encoding: str, saved: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rules fall back, a name is escaped as far as it must be, JSON escapes as JSON does, help and schema too."""

    def printed(*arguments: str) -> bytes:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", io.TextIOWrapper(stdout := io.BytesIO(), encoding=encoding))
            assert cli(*arguments)[::2] == (0, "")
            return stdout.getvalue()

    table = printed("skips", "saved.json")
    assert b"-----" in table
    assert table.startswith(NAME.encode(encoding, "backslashreplace"))
    text = printed("trace", "saved.json", "--json")
    assert (text.isascii(), json.loads(text)) == (True, json.loads(saved.read_text(encoding="utf-8")))
    text, schema = printed("schema"), cli("schema")[1]
    assert (text.isascii(), schema.isascii(), json.loads(text)) == (True, False, json.loads(schema))
    assert printed("trace", "--help").isascii()


def test_a_file_name_that_is_not_utf_8_is_read_written_and_shown(saved: Path, cli: Any) -> None:
    """As bytes to the system, backslashed to people, in tables, in JSON and in errors."""
    name, out = os.fsdecode(b"b\xff.json"), os.fsdecode(b"o\xff.json")
    saved.rename(name)

    assert cli("skips", name, "--json", "-o", out) == (0, "", "")
    assert json.loads(Path(out).read_text(encoding="utf-8"))["model"]["class_name"] == "UNet2DModel"
    code, _, err = cli("skips", os.fsdecode(b"no\xff.json"))
    assert (code, err.startswith("error: "), "no\\udcff.json" in err) == (3, True, True)


def test_what_is_not_unicode_in_a_record_is_backslashed_in_its_json(tmp_path: Path) -> None:
    """A record that is traced from such a file is JSON that any reader takes, and is not kept."""
    record = traced("plain")
    odd = replace(record, model=replace(record.model, name="b\udcff", config={"\ud800": ["\udfff", 1]}))
    found = json.loads(odd.to_json())
    RecordCache(tmp_path).put("key", odd)

    assert found["model"]["name"] == r"b\udcff"
    assert found["model"]["config"] == {r"\ud800": [r"\udfff", 1]}
    assert found["stages"] == json.loads(record.to_json())["stages"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command", ["trace", "skips", "skips --explain", "attn", "tree", "inputs", "ports", "config", "check --explain", "--help"]
)
def test_columns_decide_the_width_and_few_of_them_lose_no_value(
    command: str, saved: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One column is enough for an answer, the sums of the skips stand there whole, and what is not a width is ignored."""
    words = [*command.split(), *([] if command == "--help" else ["saved.json"])]
    without = cli(*words)
    for columns in ("0", "-5", "abc", "\u00b2", "20.5"):
        monkeypatch.setenv("COLUMNS", columns)
        assert cli(*words) == without
    monkeypatch.setenv("COLUMNS", "1")
    code, out, _ = cli(*words)
    sums = [f"{skip.hidden_channels} + {skip.skip_channels}" for skip in traced("plain-one-block").skips]

    assert (code, out != "") == (0, True)
    assert command != "skips" or all(added in out for added in sums)
    for width in (80, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        assert max(map(len, cli(*words)[1].splitlines())) <= width


def test_a_dumb_terminal_of_20_columns_gets_no_escape_sequence(saved: Path) -> None:
    """Its width counts, and nothing is colored, moved or erased."""
    terminal, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 20, 0, 0))
    command = [sys.executable, "-m", "unetinspect", "skips", str(saved)]
    program = subprocess.Popen(command, stdout=side, stderr=side, env={**os.environ, "TERM": "dumb"})
    os.close(side)
    printed = b""
    with suppress(OSError):  # the terminal's other side is closed
        while part := os.read(terminal, 4096):
            printed += part
    os.close(terminal)

    assert program.wait(timeout=60) == 0
    assert b"\x1b" not in printed
    assert "left out at 20 columns" in " ".join(printed.decode().split())


@pytest.fixture
def terminal():
    """A terminal of 60 columns: its stream, and a function that reads what was printed to it."""
    other, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    os.set_blocking(other, False)
    with os.fdopen(side, "w") as stream, os.fdopen(other) as printed:
        yield stream, printed.read


def test_notes_and_errors_are_wrapped_and_colored_on_a_terminal_only(terminal: Any, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words are those of a pipe; lines that continue are indented by their label; NO_COLOR, FORCE_COLOR and TERM are respected."""
    stream, printed = terminal
    words = ("trace", "sd15", "--res", "512", "--latent", "64")
    plain = cli(*words)[2]
    monkeypatch.setenv("FORCE_COLOR", "1")
    colored = cli(*words)[2]
    monkeypatch.delenv("FORCE_COLOR")
    monkeypatch.setattr(sys, "stderr", stream)
    shown = {}
    for variable, value in (("TERM", "xterm"), ("TERM", "dumb"), ("NO_COLOR", "1")):
        monkeypatch.setenv(variable, value)
        cli(*words)
        shown[variable, value] = printed()
        monkeypatch.setenv("TERM", "xterm")
    wrapped = shown["TERM", "dumb"]

    assert plain.startswith("error: ")
    assert max(map(len, plain.splitlines())) > 60 >= max(map(len, wrapped.splitlines()))
    assert wrapped.split() == plain.split()
    begun = {line.strip()[:20] for line in plain.splitlines()}
    continued = [line for line in wrapped.splitlines() if line.strip()[:20] not in begun]
    assert continued
    assert all(line.startswith("    ") for line in continued)
    assert shown["NO_COLOR", "1"] == wrapped
    red, cyan = "\x1b[1;31merror:\x1b[0m", "\x1b[36mhint:\x1b[0m"
    for one, text in ((shown["TERM", "xterm"], wrapped), (colored, plain)):
        assert one == text.replace("error:", red, 1).replace("\nhint:", f"\n{cyan}", 1)


def test_a_pipe_in_a_terminal_is_as_wide_as_it(terminal: Any, saved: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """`| less` shows what the terminal does, unless --width or COLUMNS says otherwise; a file and a pipe elsewhere have no limit."""

    def answer(*options: str) -> str:
        reader, writer = os.pipe()
        with os.fdopen(reader, encoding="utf-8") as pipe:
            assert program(os.fdopen(writer, "w", encoding="utf-8"), "trace", "saved.json", *options)[0] == 0
            return pipe.read()

    whole, narrow, wider = (answer("--width", width) for width in ("0", "60", "100"))
    assert max(map(len, narrow.splitlines())) <= 60 < max(map(len, wider.splitlines())) <= 100 < max(map(len, whole.splitlines()))
    assert answer() == whole
    monkeypatch.setattr(sys, "stderr", terminal[0])
    assert [answer(), answer("--width", "0"), answer("-o", "narrow", "--width", "60")] == [narrow, whole, ""]
    with Path("file").open("w", encoding="utf-8") as file:
        assert program(file, "trace", "saved.json")[0] == 0
    assert [Path(name).read_text(encoding="utf-8") for name in ("file", "narrow")] == [whole, narrow]
    monkeypatch.setenv("COLUMNS", "100")
    assert [answer(), answer("--width", "60")] == [wider, narrow]


class Terminal(io.StringIO):
    """A stream that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "quiet", "term", "shown"),
    [
        (Terminal(), False, "xterm", True),
        (Terminal(), True, "xterm", False),
        (Terminal(), False, "dumb", False),
        (io.StringIO(), False, "xterm", False),
    ],
)
def test_progress_is_shown_on_a_terminal_and_erased(
    stream: io.StringIO, quiet: bool, term: str, shown: bool, cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each step while it lasts, on stderr; stdout has the JSON alone. With -q, on a dumb terminal and into a pipe there is none."""
    (tmp_path / "tiny.json").write_text(json.dumps(CONDITION))
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr("unetinspect.run.cache.sys", SimpleNamespace(modules={}))  # as in a process that has not imported torch
    words = ["trace", str(tmp_path / "tiny.json"), "--device", "meta", "--json", "--no-cache", *(["-q"] if quiet else [])]
    code, out, _ = cli(*words)
    steps = stream.getvalue().split("\r\x1b[2K")

    assert (code, json.loads(out)["schema"]) == (0, "unetinspect.trace/1")
    assert (steps[0], steps[-1]) == ("", "")
    assert ("importing torch and diffusers" in steps, "running tiny.json at sample 16x16 on meta" in steps) == (shown, shown)
