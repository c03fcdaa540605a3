"""Numbers as the results page shows them: Markdown tables, and the page's marked places that they go to."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from measure import Command, Spread, run_checked

_VERSIONS = """
from importlib.metadata import PackageNotFoundError, version
import platform, sys
print("Python", platform.python_version())
for name in sys.argv[1:]:
    try:
        print(name, version(name))
    except PackageNotFoundError:
        pass
"""


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def seconds(value: float) -> str:
    """Write a time: "0.21 s".

    >>> seconds(0.2149)
    '0.21 s'
    """
    return f"{value:.2f} s"


def mebibytes(value: float) -> str:
    """Write memory: "376 MiB"."""
    return f"{value / 2**20:.0f} MiB"


def spread(value: Spread) -> str:
    """Write a ratio with its spread.

    >>> spread(Spread(0.0612, 0.0571, 0.0704)), spread(Spread(1.139, 1.02, 1.2))
    ('0.061 (0.057 to 0.070)', '1.14 (1.02 to 1.20)')
    """
    digits = 2 if value.median >= 1 else 3
    return f"{value.median:.{digits}f} ({value.least:.{digits}f} to {value.greatest:.{digits}f})"


def held(value: float, goal: float) -> str:
    """Say whether a value stays within a goal."""
    return "yes" if value <= goal else "**no**"


def environment(python: Path, packages: Sequence[str]) -> str:
    """Say when and with what the numbers were measured."""
    day = f"{dt.datetime.now(tz=dt.UTC):%Y-%m-%d}"
    versions = run_checked(Command([str(python), "-c", _VERSIONS, *packages])).output.splitlines()
    return f"Measured {day} on {os.cpu_count()} CPU cores: {', '.join(versions)}."


def write_section(path: Path, name: str, text: str) -> None:
    """Put text between the page's marks `<!-- results: NAME -->` and `<!-- end: NAME -->`.

    Raises:
        ValueError: The page has no such marks.
    """
    page = path.read_text(encoding="utf-8")
    begin, end = f"<!-- results: {name} -->\n", f"<!-- end: {name} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{path.name} has no place for the results of {name}")
    path.write_text(f"{before}{begin}\n{text}\n\n{end}{after}", encoding="utf-8")
