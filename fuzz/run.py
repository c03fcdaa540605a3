"""Run mutated inputs through the whole program for a while, and keep those that end in anything but an answer or an `error:`.

python fuzz/run.py --seconds 600 --seed 1 --kind configs --write results/
python fuzz/run.py --report results/
python fuzz/run.py --seed 1 --kind configs --case 17     (one input again, its traceback in full)
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from select import select
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("configs", "options", "sizes", "headers", "records", "traces", "yaml", "errors", "index")
MOST_SECONDS, MOST_BYTES = 30.0, 4 * 2**30
# On a machine that others use too, an input may wait for long that has done nothing yet: its own time is what counts.
_MOST_WAITING = 300.0
_CASES_OF_ONE_PROCESS = 500


class Worker:
    """A process that runs inputs of one kind, and is started anew when one of them ends it."""

    def __init__(self, kind: str, seed: int, folder: Path) -> None:
        self._command = [sys.executable, "-m", "fuzz.worker", kind, str(seed), str(folder)]
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self._ran = 0

    def run(self, number: int) -> dict[str, Any]:
        """Run one input and return what came of it."""
        if self._process is None or self._ran >= _CASES_OF_ONE_PROCESS:
            self.stop()
            self._start()
        self._ran += 1
        self._streams[0].write(f"{number}\n")
        self._streams[0].flush()
        outcome = self._answer()
        if outcome.get("ended"):
            self.stop()
        return outcome

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process, self._ran = None, 0

    @property
    def _streams(self) -> tuple[IO[str], IO[str]]:
        """What the process reads and what it writes."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("no process was started")
        return process.stdin, process.stdout

    def _start(self) -> None:
        environment = {
            **{name: value for name, value in os.environ.items() if name not in ("COLUMNS", "FORCE_COLOR", "HF_TOKEN", "HF_ENDPOINT")},
            "HF_HUB_OFFLINE": "1",
            "UNETINSPECT_CACHE": str(self._folder / "cache"),
            "HOME": str(self._folder),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        with (self._folder / "worker.txt").open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(  # noqa: S603  our own worker
                self._command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        self._streams[1].readline()  # it has imported torch, which must not count as an input's time

    def _answer(self) -> dict[str, Any]:
        """Wait for what came of an input, and watch the worker's time and memory meanwhile."""
        process, answers = self._process, self._streams[1]
        if process is None:
            raise RuntimeError("no process was started")
        waited, used = time.monotonic() + _MOST_WAITING, _processor_seconds(process.pid) + MOST_SECONDS
        while not select([answers], [], [], 0.2)[0]:
            if _resident(process.pid) > MOST_BYTES:
                return {"code": None, "ended": True, "wrong": f"memory beyond {MOST_BYTES // 2**30} GB", "detail": ""}
            if _processor_seconds(process.pid) > used or time.monotonic() > waited:
                return {"code": None, "ended": True, "wrong": f"not done after {MOST_SECONDS:.0f} s", "detail": ""}
        line = answers.readline()
        if not line:
            log = (self._folder / "worker.txt").read_text(encoding="utf-8")
            return {"code": None, "ended": True, "wrong": f"the process ended with {process.wait()}", "detail": log[-4000:]}
        answer: dict[str, Any] = json.loads(line)
        return answer


def fuzz(kind: str, *, seed: int, seconds: float, first: int, results: Path) -> dict[str, Any]:
    """Run inputs of one kind until the time is over; return how many ended how. Failures are kept in `results`, one of each."""
    counts: Counter[str] = Counter()
    slowest, began = (0.0, -1), time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        worker = Worker(kind, seed, Path(temporary))
        for number in _numbers(first, until=began + seconds):
            outcome = worker.run(number)
            counts["answers" if outcome["code"] == 0 else "findings" if outcome["code"] == 1 else "errors"] += not outcome["wrong"]
            counts["failures"] += bool(outcome["wrong"])
            slowest = max(slowest, (outcome.get("seconds", 0.0), number))
            if outcome["wrong"]:
                _keep(results, kind, seed, number, outcome, Path(temporary))
            shutil.rmtree(Path(temporary) / str(number), ignore_errors=True)
        worker.stop()
    ran = counts["answers"] + counts["findings"] + counts["errors"] + counts["failures"]
    kept = {name: counts[name] for name in ("answers", "findings", "errors", "failures")}
    return {"kind": kind, "seed": seed, "seconds": round(time.monotonic() - began), "inputs": ran, **kept, "slowest": slowest}


def _numbers(first: int, *, until: float) -> Iterator[int]:
    number = first
    while time.monotonic() < until:
        yield number
        number += 1


def _keep(results: Path, kind: str, seed: int, number: int, outcome: dict[str, Any], temporary: Path) -> None:
    """Keep the first input of each failure with its files, and of those like it the number alone."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{kind}-{outcome['wrong']}")[:120]
    place = results / name
    again = f"python fuzz/run.py --kind {kind} --seed {seed} --case {number}"
    if place.exists():
        with (place / "others.txt").open("a", encoding="utf-8") as others:
            others.write(f"{again}\n")
        return
    place.mkdir(parents=True)
    inside = temporary / str(number)
    if inside.exists():
        shutil.copytree(inside, place / "files")
    typed = temporary / "now.json"
    arguments = typed.read_text(encoding="utf-8") if typed.exists() else ""
    (place / "failure.txt").write_text(
        f"{outcome['wrong']}\n{again}\nunetinspect {arguments}\n\n{outcome['detail']}\n", encoding="utf-8", errors="backslashreplace"
    )
    print(f"{kind} {number}: {outcome['wrong']}", file=sys.stderr, flush=True)


def report(results: Path) -> str:
    """Return the rows of the table in docs/reliability.md: what all runs in a folder have counted, added up by kind."""
    rows = [
        "| kind | inputs | answers | findings | errors | failures | distinct failures |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]
    for kind in KINDS:
        of_kind = [run for run in runs if run["kind"] == kind]
        sums = [sum(run[name] for run in of_kind) for name in ("inputs", "answers", "findings", "errors", "failures")]
        distinct = len([path for path in results.glob(f"{kind}-*") if path.is_dir()])
        rows += [f"| {kind} | {' | '.join(f'{count:,}' for count in sums)} | {distinct} |"] if of_kind else []
    return "\n".join(rows)


def run_again(kind: str, seed: int, number: int) -> None:
    """Run one input in this process and show what came of it."""
    sys.path.insert(0, str(ROOT))
    from fuzz.cases import make_case
    from fuzz.worker import run_case

    os.environ["HF_HUB_OFFLINE"] = "1"
    case = make_case(kind, seed, number)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["UNETINSPECT_CACHE"] = f"{folder}/cache"
        print(f"unetinspect {case.arguments}\nfiles: { {name: content[:300] for name, content in case.files.items()} }")
        print(f"stdin: {case.stdin[:300]!r}")
        outcome = run_case(case, Path(folder))
    print(outcome["wrong"] or f"fine: exit code {outcome['code']}", outcome["detail"], sep="\n")


def _processor_seconds(process: int) -> float:
    """Return the processor time that a process has had."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0.0


def _resident(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()
        return int(status[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def main() -> None:
    """Run one kind or all, each for its share of the time; or report; or run one input again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="for each kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first input, to go on where a run ended")
    parser.add_argument("--kind", choices=KINDS, action="append", help="may be repeated; default: all")
    parser.add_argument("--case", type=int, help="run this input alone, again")
    parser.add_argument("--write", type=Path, default=Path("fuzz-results"), help="where failures and counts go (default: %(default)s)")
    parser.add_argument("--report", type=Path, metavar="FOLDER", help="print the counts of the runs in this folder")
    options = parser.parse_args()
    if options.report:
        print(report(options.report))
        return
    if options.case is not None:
        run_again((options.kind or ["configs"])[0], options.seed, options.case)
        return
    for kind in options.kind or KINDS:
        counts = fuzz(kind, seed=options.seed, seconds=options.seconds, first=options.first, results=options.write)
        options.write.mkdir(parents=True, exist_ok=True)
        (options.write / f"{kind}-{options.seed}-{options.first}.json").write_text(json.dumps(counts), encoding="utf-8")
        print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main()
