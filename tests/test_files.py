"""Files that are written whole or not at all: full disks, devices, links, caches that several runs share, signals."""

from __future__ import annotations

import json
import os
import pty
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from tests.test_streams import run, save_trace
from tests.tiny import PLAIN, traced
from unetinspect import Trace
from unetinspect.files import write_file
from unetinspect.record import to_json
from unetinspect.run.cache import RecordCache


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved trace in a folder of its own."""
    return save_trace(tmp_path)


def at_most(size: int) -> Callable[[], None]:
    """Return what lets a child write no file larger than `size` bytes, as a disk does that is full."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_full_disk_leaves_the_old_file_as_it_was(saved: Path) -> None:
    """-o: a sentence, exit 2, nothing beside it, and no new file where there was none."""
    old = saved.parent / "out.json"
    old.write_text("mine")
    for name in ("out.json", "new.json"):
        ran = run(f"unetinspect trace saved.json --json -o {name}", saved.parent, before=at_most(4096))
        assert (ran.returncode, ran.stdout) == (2, b"")
        assert (
            ran.stderr.decode()
            == f"error: cannot write to {name}: File too large\nhint: give -o a file in a folder that can be written to\n"
        )

    assert old.read_text() == "mine"
    assert {path.name for path in saved.parent.iterdir()} == {"saved.json", "out.json"}


@contextmanager
def no_room() -> Iterator[None]:
    """Let this process write no file larger than 256 bytes: in it, as torch takes seconds to import in another."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256, hard))
    sys.dont_write_bytecode = True  # Python would keep what fits of a module, and fail on it ever after
    try:
        yield
    finally:
        sys.dont_write_bytecode = False
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_cache_that_is_full_or_cannot_be_written_costs_no_answer(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the folder's place, a disk with no room: the answer is printed, no word is said, nothing stays."""
    config, records = tmp_path / "config.json", tmp_path / "records"
    tried: list[str] = []
    config.write_text(json.dumps(PLAIN))
    put = RecordCache.put

    def noted(self: RecordCache, key: str, record: Struct) -> None:
        tried.append(key)
        put(self, key, record)

    monkeypatch.setattr(RecordCache, "put", noted)
    answers = []
    for folder, room in ((config, nullcontext()), (records, no_room())):
        # The program itself would not look into the cache here, where diffusers was imported before.
        monkeypatch.setattr("unetinspect.cli.run.open_cache", lambda *, wanted, folder=folder: RecordCache(folder))
        with room:
            answers.append(cli("trace", str(config), "--device", "meta", "--json"))
    (code, out, err), again = answers

    assert again == (code, out, err)
    assert (code, err) == (0, "")
    assert len(tried) == 4  # each time the keys of the class, and the record
    assert json.loads(out)["totals"] == json.loads(to_json(traced("plain").totals))
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
    programs = [
        subprocess.Popen([sys.executable, "-c", USE_THE_CACHE, str(number)], cwd=saved.parent, stdout=subprocess.PIPE, env=dict(os.environ))
        for number in range(3)
    ]
    said = [program.communicate(timeout=120)[0].decode() for program in programs]

    assert [program.returncode for program in programs] == [0, 0, 0]
    assert all(len(found) == 60 and found.count(".") > 30 for found in said)
    kept = RecordCache(saved.parent / "records")
    assert {path.name for path in kept.folder.iterdir()} <= {"key.json.gz"}
    kept.put("key", traced("plain"))
    assert kept.get(Trace, "key") == traced("plain")


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
    null, full = tmp_path / "null", tmp_path / "full"
    try:
        os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(full, stat.S_IFCHR | 0o666, os.makedev(1, 7))
        null.write_bytes(b"")
    except PermissionError:
        pytest.skip("no devices can be made here")
    before = null.stat()
    write_file(null, b"text")

    assert (null.stat().st_mode, null.stat().st_rdev) == (before.st_mode, before.st_rdev)
    with pytest.raises(OSError, match="No space left on device"):
        write_file(full, b"text")
    assert {path.name for path in tmp_path.iterdir()} == {"null", "full"}


def test_dev_stdout_is_stdout(saved: Path) -> None:
    """-o /dev/stdout and -o /dev/null: into a pipe, and behind what a file that stdout goes to holds already."""
    plain = run("unetinspect models", saved.parent)
    script = "echo first > out.txt; unetinspect models -o /dev/stdout >> out.txt; unetinspect models -o /dev/stdout | cat"
    ran = run(script, saved.parent)

    assert (ran.returncode, ran.stderr, ran.stdout) == (0, b"", plain.stdout)
    assert (saved.parent / "out.txt").read_bytes() == b"first\n" + plain.stdout


def test_a_link_leads_to_what_is_replaced_and_permissions_stay(tmp_path: Path) -> None:
    """The link is still a link; a file keeps the mode that it had, a new one has what the umask leaves."""
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
    assert err.startswith(f"error: cannot write to {path}: ")
    assert "Traceback" not in err
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name)
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


def test_a_file_of_weights_is_never_written_over(cli: Any, tmp_path: Path) -> None:
    """It may be the one that is read: a name typed twice must not cost a checkpoint."""
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(b"weights")
    code, out, err = cli("models", "-o", str(weights))

    assert (code, out) == (2, "")
    assert err.startswith(f"error: -o {weights} is a file of weights, and would be written over\nhint: ")
    assert weights.read_bytes() == b"weights"
