"""Put each fault into a copy of the package, run its tests, and say which faults no test noticed: `python -m tests.mutants [ROOM...]`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Mutant:
    """A fault: in `file`, `old` (which is there once) becomes `new`; one of `tests` is to fail then."""

    file: str
    old: str
    new: str
    tests: str

    def put_into(self, root: Path) -> None:
        """Write the fault into the file under `root`."""
        path = root / self.file
        path.write_text(path.read_text(encoding="utf-8").replace(self.old, self.new), encoding="utf-8")

    def is_noticed(self) -> bool:
        """Run the tests with the fault, up to the first that fails."""
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for name in ("unetinspect", "tests", "configs", "docs", "benchmarks", "fuzz"):
                shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
            for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "Makefile"):
                shutil.copy(ROOT / name, root)
            self.put_into(root)
            command = [sys.executable, "-m", "pytest", "--quiet", "--exitfirst", "-p", "no:cacheprovider", *self.tests.split()]
            ran = subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": folder, "CI": "1"}, capture_output=True, check=False)
            return ran.returncode == 1  # 0: all passed; more: no test ran


def mutants(rooms: Iterable[str] = ()) -> Iterator[Mutant]:
    """Read the faults of some rooms, or of all."""
    for path in sorted(Path(__file__).parent.glob("*.toml")):
        if not rooms or path.stem in rooms:
            yield from (Mutant(**fault) for fault in tomllib.loads(path.read_text(encoding="utf-8"))["mutant"])


def main() -> int:
    """Try the faults; returns 1 where one was not noticed."""
    tried = missed = 0
    for mutant in mutants(sys.argv[1:]):
        noticed = mutant.is_noticed()
        tried, missed = tried + 1, missed + (not noticed)
        print(f"{'noticed' if noticed else 'MISSED '} {mutant.file}: {mutant.old!r} -> {mutant.new!r}", flush=True)
    print(f"{tried - missed} of {tried} noticed")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
