"""Whole processes, started fresh and measured: wall-clock time and peak memory, in rounds that take turns."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024
_SLOW_SECONDS = 20.0
# An installed program finds its modules compiled: without this it would compile its own at each start.
_UNUSUAL = ("PYTHONDONTWRITEBYTECODE",)


@dataclass(frozen=True)
class Command:
    """What to run.

    Attributes:
        arguments: The program and its arguments.
        cache: The folder that unetinspect keeps its records in; None: an empty one for each run.
    """

    arguments: Sequence[str]
    cache: Path | None = None


@dataclass(frozen=True)
class Run:
    """One run of a command, from start to exit.

    Attributes:
        seconds: Wall-clock time.
        peak_bytes: The most memory that was resident.
        code: Exit code; negative: the signal that ended it.
        output: What it printed.
        errors: What it printed to stderr.
    """

    seconds: float
    peak_bytes: int
    code: int
    output: str
    errors: str

    @property
    def last_error(self) -> str:
        """The last line on stderr, which says why a Python program failed."""
        lines = self.errors.strip().splitlines()
        return lines[-1].strip() if lines else f"exit code {self.code}"


@dataclass(frozen=True)
class Spread:
    """The median of several values, the least and the greatest."""

    median: float
    least: float
    greatest: float


def run_once(command: Command, limit: float) -> Run:
    """Run a command and measure it; it is ended after `limit` seconds."""
    with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        environment = {name: value for name, value in os.environ.items() if name not in _UNUSUAL}
        environment["UNETINSPECT_CACHE"] = str(command.cache or empty)
        began = time.perf_counter()
        process = subprocess.Popen(command.arguments, stdout=output, stderr=errors, env=environment)  # noqa: S603  our own commands
        timer = Timer(limit, process.kill)
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return Run(seconds, usage.ru_maxrss * _RSS_UNIT, process.returncode, *texts)


def run_checked(command: Command, limit: float = 3600) -> Run:
    """Run a command that must succeed.

    Raises:
        RuntimeError: It does not.
    """
    run = run_once(command, limit)
    if run.code:
        raise RuntimeError(f"{' '.join(command.arguments)}: {run.last_error}")
    return run


def run_rounds(commands: Mapping[str, Command], rounds: int) -> dict[str, list[Run]]:
    """Run all commands in turn, `rounds` times, every other round backwards, so that what drifts meets all alike.

    One round more goes before, which fills the caches of the file system and is not counted.

    Raises:
        RuntimeError: A command fails.
    """
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        names = list(commands)
        for name in reversed(names) if number % 2 else names:
            run = run_checked(commands[name])
            _say(name, run)
            if number:
                runs[name].append(run)
    return runs


def run_each(commands: Mapping[str, Command], rounds: int, limit: float) -> dict[str, list[Run]]:
    """Run all commands in turn, `rounds` times, without a round before; one that is slow or fails is run once."""
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            if any(run.code or run.seconds > _SLOW_SECONDS for run in runs[name]):
                continue
            runs[name].append(run_once(command, limit))
            _say(name, runs[name][-1])
    return runs


def spread_of(values: Sequence[float]) -> Spread:
    """Return the median, the least and the greatest."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(runs: Sequence[Run], base: Sequence[Run]) -> Spread:
    """Divide the seconds of each run by those of the run of `base` in the same round."""
    return spread_of([run.seconds / other.seconds for run, other in zip(runs, base, strict=True)])


def seconds_of(runs: Sequence[Run]) -> float:
    """Return the median of the seconds."""
    return statistics.median(run.seconds for run in runs)


def peak_of(runs: Sequence[Run]) -> float:
    """Return the median of the peak memory, in bytes."""
    return statistics.median(run.peak_bytes for run in runs)


def imports_torch(python: Path, arguments: Sequence[str], cache: Path | None = None) -> bool:
    """Say whether a command of unetinspect imports torch."""
    run = run_checked(Command([str(python), "-X", "importtime", "-m", "unetinspect", *arguments], cache))
    return any(line.rpartition("|")[2].strip() == "torch" for line in run.errors.splitlines())


def _say(name: str, run: Run) -> None:
    print(f"  {name}: {run.seconds:.2f} s{'' if run.code == 0 else ': ' + run.last_error}", file=sys.stderr, flush=True)
