"""Files that are written whole or not at all: full disks, devices, links, a cache that several runs share, signals."""

from __future__ import annotations

import json
import os
import pty
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import PLAIN, traced
from unetinspect.record import to_json
from unetinspect.run.cache import RecordCache
from unetinspect.streams import ending_cleanly, write_file


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved trace in a folder of its own."""
    path = tmp_path / "saved.json"
    path.write_text(traced("plain").to_json(), encoding="utf-8")
    return path


@contextmanager
def no_room() -> Iterator[None]:
    """Let this process write no file larger than 256 bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256, hard))
    sys.dont_write_bytecode = True  # Python would keep what fits of a module, and fail on it ever after
    try:
        yield
    finally:
        sys.dont_write_bytecode = False
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_old_file_as_it_was(saved: Path, cli: Any) -> None:
    """-o: a sentence, exit 2, nothing beside it, and no new file where there was none."""
    old, new = saved.with_name("out.json"), saved.with_name("new.json")
    old.write_text("mine")
    for path in (old, new):
        with no_room():
            ran = cli("trace", str(saved), "--json", "-o", str(path))
        assert ran == (2, "", f"error: cannot write to {path}: file too large\nhint: choose a file in a writable folder\n")

    assert old.read_text() == "mine"
    assert {path.name for path in saved.parent.iterdir()} == {"saved.json", "out.json"}


def test_a_cache_that_is_full_or_cannot_be_written_costs_no_answer(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the folder's place, a disk with no room: the answer is printed, no word is said, nothing stays."""
    config, records = tmp_path / "config.json", tmp_path / "records"
    config.write_text(json.dumps(PLAIN))
    tried: list[str] = []
    put = RecordCache.put

    def noted(self: RecordCache, key: str, record: Any) -> None:
        tried.append(key)
        put(self, key, record)

    monkeypatch.setattr(RecordCache, "put", noted)
    for folder, room in ((config, nullcontext()), (records, no_room())):
        # The program itself would not look into the cache here, because diffusers was imported before.
        monkeypatch.setattr("unetinspect.cli.run.open_cache", lambda *, wanted, folder=folder: RecordCache(folder))
        with room:
            code, out, err = cli("trace", str(config), "--device", "meta", "--json")
        assert (code, err) == (0, "")
        assert json.loads(out)["totals"] == json.loads(to_json(traced("plain").totals))

    assert len(tried) == 4  # each time the keys of the class, and the record
    assert config.read_text() == json.dumps(PLAIN)
    assert list(records.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_read_only_cache_folder_is_shown_as_that(tmp_path: Path) -> None:
    """Somebody else's folder, or one below what may not be looked into, is not writable, and nothing raises."""
    (tmp_path / "records").mkdir()
    tmp_path.chmod(0o755)
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        info, below = RecordCache(tmp_path / "records").info(), RecordCache(Path("/root/unetinspect/records")).info()
        RecordCache(tmp_path / "records").put("key", traced("plain"))
        os._exit(10 * info.writable + below.writable)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list((tmp_path / "records").iterdir()) == []
    assert RecordCache(tmp_path / "records").info().writable


USE_THE_CACHE = """
import sys
from pathlib import Path
from unetinspect import Trace
from unetinspect.run.cache import RecordCache
kept, record = RecordCache(Path("records")), Trace.from_json(Path("saved.json").read_text(encoding="utf-8"))
for turn in range(60):
    if turn % 6 == int(sys.argv[1]):
        kept.clear()
    kept.put("key", record)
    found = kept.get(Trace, "key")
    assert found in (None, record)
    print("." if found else "-", end="")
"""


def test_runs_at_once_share_one_cache(saved: Path) -> None:
    """Processes that write, read and clear one key: each reads the whole record or none, and none is left half-written."""
    commands = [[sys.executable, "-c", USE_THE_CACHE, str(number)] for number in range(2)]
    programs = [subprocess.Popen(command, cwd=saved.parent, stdout=subprocess.PIPE, env=dict(os.environ)) for command in commands]
    printed = [program.communicate(timeout=120)[0].decode() for program in programs]

    assert [program.returncode for program in programs] == [0, 0]
    assert all(len(found) == 60 and found.count(".") > 30 for found in printed)
    assert {path.name for path in (saved.parent / "records").iterdir()} <= {"key.json.gz"}


def test_what_is_no_file_is_written_into_and_not_replaced(tmp_path: Path) -> None:
    """-o onto a terminal, a named pipe: they are what they were, and have got all of it."""
    terminal, side = pty.openpty()
    device = Path(os.ttyname(side))
    write_file(device, b"to the terminal")
    assert os.read(terminal, 100) == b"to the terminal"
    assert stat.S_ISCHR(device.stat().st_mode)
    os.close(terminal)
    os.close(side)

    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(fifo.read_bytes)
        write_file(fifo, b"x" * 200_000)  # more than it holds at once
        assert read.result(timeout=60) == b"x" * 200_000
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["fifo"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device, or replace one")
def test_dev_null_stays_a_device(tmp_path: Path) -> None:
    """Root could replace it; a copy of it is what is tried here."""
    null = tmp_path / "null"
    try:
        os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        null.write_bytes(b"")
    except PermissionError:
        pytest.skip("no devices can be made here")
    before = null.stat()
    write_file(null, b"text")

    assert (null.stat().st_mode, null.stat().st_rdev) == (before.st_mode, before.st_rdev)
    with pytest.raises(OSError, match="No space left on device"):
        write_file(Path("/dev/full"), b"text")
    assert [path.name for path in tmp_path.iterdir()] == ["null"]


def test_dev_stdout_is_stdout(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Where stdout goes to a file, `-o /dev/stdout` adds to what that file has already."""
    os.write(1, b"first\n")
    write_file(Path("/dev/stdout"), b"second\n")

    assert capfd.readouterr().out == "first\nsecond\n"


def test_a_link_leads_to_what_is_replaced_and_permissions_stay(tmp_path: Path) -> None:
    """The link is still a link; a file keeps its mode, a new one has what the umask leaves."""
    (tmp_path / "below").mkdir()
    real, link, dangling = tmp_path / "below" / "real", tmp_path / "link", tmp_path / "dangling"
    real.write_bytes(b"old")
    real.chmod(0o640)
    link.symlink_to(Path("below") / "real")
    dangling.symlink_to(Path("below") / "new")
    for path in (link, dangling):
        write_file(path, b"new")

    assert link.is_symlink()
    assert dangling.is_symlink()
    assert (real.read_bytes(), (tmp_path / "below" / "new").read_bytes()) == (b"new", b"new")
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    mask = os.umask(0o027)
    write_file(tmp_path / "other", b"")
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "other").stat().st_mode) == 0o640
    assert {path.name for path in (tmp_path / "below").iterdir()} == {"real", "new"}


@pytest.mark.parametrize("where", ["", "missing/out.json", "saved.json/out.json", "loop"])
def test_where_nothing_can_be_written_there_is_a_sentence(where: str, saved: Path, cli: Any) -> None:
    """A folder, a folder that is not there, a file for a folder, a link to itself."""
    (saved.parent / "loop").symlink_to("loop")
    path = saved.parent / where
    code, out, err = cli("skips", str(saved), "-o", str(path))

    assert (code, out) == (2, "")
    assert err.startswith(f"error: cannot write to {path}: " if where else f"error: -o {path} names a folder, not a file\n")
    assert {entry.name for entry in saved.parent.iterdir()} == {"saved.json", "loop"}


STUCK_WHILE_WRITING = """
import os, sys, time
def slow(handle):
    print("writing", flush=True)
    time.sleep(60)
os.fsync = slow
sys.argv[1:] = ["models", "-o", "out.txt"]
from unetinspect.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_leaves_no_half_of_a_file(number: signal.Signals, tmp_path: Path) -> None:
    """Ended while it writes: the old file stays, nothing beside it, and whoever waits sees the signal; Ctrl-C is exit 130."""
    (tmp_path / "out.txt").write_text("mine")
    command = [sys.executable, "-c", STUCK_WHILE_WRITING]
    program = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ))
    assert program.stdout is not None
    assert program.stdout.readline() == b"writing\n"
    assert len(list(tmp_path.iterdir())) == 2
    program.send_signal(number)

    assert program.communicate(timeout=60)[1] == b"interrupted\n"
    assert program.returncode == (130 if number == signal.SIGINT else -number)
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]
    assert (tmp_path / "out.txt").read_text() == "mine"


def test_a_closed_terminal_interrupts_too_unless_it_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGHUP ends what runs as SIGTERM does; `nohup` has it ignored, and so it stays."""
    monkeypatch.setattr("unetinspect.streams._ended_by", [])
    with pytest.raises(KeyboardInterrupt), ending_cleanly():
        signal.raise_signal(signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending_cleanly():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_file_of_weights_is_never_written_over(cli: Any, tmp_path: Path) -> None:
    """It may be the one that is read: a name typed twice must not cost a checkpoint."""
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(b"weights")

    assert cli("models", "-o", str(weights)) == (
        2,
        "",
        f"error: -o {weights} would overwrite a weights file\nhint: choose another file\n",
    )
    assert weights.read_bytes() == b"weights"
