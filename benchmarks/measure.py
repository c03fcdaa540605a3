"""Commands in fresh processes, measured in interleaved rounds: wall time, CPU time and peak memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024
# An installed program finds its modules compiled, and keeps what it compiles.
_UNUSUAL = ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")


@dataclass(frozen=True)
class Command:
    """What to run.

    Attributes:
        arguments: The program and its arguments.
        cache: The cache folder of unetinspect; None: an empty one for each run.
        environment: Environment variables to set.
        codes: The exit codes that are not failures.
    """

    arguments: Sequence[str]
    cache: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    codes: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Run:
    """One run of a command, or of something within a process.

    Attributes:
        wall: Seconds from start to end.
        cpu: Seconds of CPU time, user and system, child processes included.
        peak: The largest resident set in bytes; 0 where it was not measured.
        output: What it wrote to stdout.
        errors: What it wrote to stderr.
    """

    wall: float
    cpu: float
    peak: int = 0
    output: str = ""
    errors: str = ""


def run_once(command: Command) -> Run:
    """Run a command and measure it.

    Raises:
        RuntimeError: The command fails.
    """
    with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        environment = {name: value for name, value in os.environ.items() if name not in _UNUSUAL}
        environment |= {"UNETINSPECT_CACHE": str(command.cache or empty), **command.environment}
        began = time.perf_counter()
        process = subprocess.Popen(command.arguments, stdout=output, stderr=errors, env=environment)  # noqa: S603  our own commands
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    if process.returncode not in command.codes:
        raise RuntimeError(f"exit code {process.returncode} from {' '.join(command.arguments)}\n{texts[1].strip()}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * _RSS_UNIT, *texts)


def run_rounds(commands: Mapping[str, Command], rounds: int, *, warm_up: bool = True) -> dict[str, list[Run]]:
    """Run all commands in turn, `rounds` times, in reversed order every other round, so that drift affects all of them equally.

    `warm_up` adds a round that is not counted. It fills the caches: the file system's, and those of unetinspect that are kept.

    Raises:
        RuntimeError: A command fails.
    """
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for number in range(-1 if warm_up else 0, rounds):
        for name in reversed(list(commands)) if number % 2 else commands:
            run = run_once(commands[name])
            print(f"  {name}: {run.wall:.2f} s, CPU {run.cpu:.2f} s", file=sys.stderr, flush=True)
            if number >= 0:
                runs[name].append(run)
    return runs
