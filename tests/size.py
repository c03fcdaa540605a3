"""Prints the lines and files of each folder of the package; fails when the package has more than was decided: `make lint` runs it."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "unetinspect"
# Raising these is a decision: is there no mechanism that could go instead?
MOST_LINES, MOST_FILES = 31_800, 182


def main() -> int:
    """Count Python, JavaScript and CSS."""
    lines: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for path in sorted(path for path in PACKAGE.rglob("*") if path.suffix in {".py", ".js", ".css"}):
        folder = path.relative_to(PACKAGE).parts[0] if path.parent != PACKAGE else "."
        lines[folder] += len(path.read_text(encoding="utf-8").splitlines())
        files[folder] += 1
    for folder in lines:
        print(f"{lines[folder]:6,} lines in {files[folder]:3} files  {folder}")
    tables = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.toml"))
    print(f"{tables:6,} lines of tables written by hand, which are not counted")
    print(f"{lines.total():6,} lines in {files.total():3} files  (at most {MOST_LINES:,} in {MOST_FILES})")
    return int(lines.total() > MOST_LINES or files.total() > MOST_FILES)


if __name__ == "__main__":
    sys.exit(main())
