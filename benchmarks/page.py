"""Measurements as Markdown tables, and the marked sections of a page that they are written to."""

from __future__ import annotations

import datetime as dt
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from measure import Command, Run, run_once

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


Quantity = Literal["wall", "cpu", "peak"]


@dataclass(frozen=True)
class Goal:
    """The upper limit of a median: in seconds, in bytes, or, with `ratio`, of the ratio to the row's base."""

    quantity: Quantity
    most: float
    ratio: bool = False

    def __str__(self) -> str:
        if self.ratio:
            return f"{self.most:.2f} x {self.quantity}"
        return megabytes(self.most) if self.quantity == "peak" else seconds(self.most)

    def is_met(self, runs: Sequence[Run], base: Sequence[Run]) -> bool:
        """Return whether the median of the runs is within the limit."""
        median = ratio(runs, base, self.quantity).median if self.ratio else median_of(runs, self.quantity)
        return median <= self.most


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: What is measured, as the page shows it.
        command: The command that is measured; None: the runs come from within a process.
        base: The name of the row that this one is compared with, or "".
        goals: The goals.
        note: The text of the last column.
    """

    name: str
    command: Command | None = None
    base: str = ""
    goals: tuple[Goal, ...] = ()
    note: str = ""


class Spread(NamedTuple):
    """The median, the least and the greatest of several values."""

    median: float
    least: float
    greatest: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f} to {self.greatest:.2f})"


def ratio(runs: Sequence[Run], base: Sequence[Run], quantity: Quantity) -> Spread:
    """Divide each run by the run of `base` in the same round."""
    values = [getattr(run, quantity) / getattr(other, quantity) for run, other in zip(runs, base, strict=True)]
    return Spread(statistics.median(values), min(values), max(values))


def median_of(runs: Sequence[Run], quantity: Quantity) -> float:
    """Return the median of one quantity."""
    return float(statistics.median(getattr(run, quantity) for run in runs))


def results(rows: Iterable[Row], runs: Mapping[str, Sequence[Run]], *, note: str = "") -> str:
    """Write a table of measurements; `note` is the header of the column of notes, or ""."""
    headers = ["what", "wall", "CPU", "peak memory", "beside", "wall ratio", "CPU ratio", "goal", "met"]
    return table([*headers, *filter(None, [note])], [[*_cells(row, runs), *([row.note] if note else [])] for row in rows])


def _cells(row: Row, all_runs: Mapping[str, Sequence[Run]]) -> list[str]:
    runs, base = all_runs[row.name], all_runs.get(row.base, ())
    return [
        row.name,
        seconds(median_of(runs, "wall")),
        seconds(median_of(runs, "cpu")),
        megabytes(median_of(runs, "peak")) if runs[0].peak else "",
        row.base,
        str(ratio(runs, base, "wall")) if base else "",
        str(ratio(runs, base, "cpu")) if base else "",
        ", ".join(map(str, row.goals)),
        ", ".join("yes" if goal.is_met(runs, base) else "**no**" for goal in row.goals),
    ]


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [headers, ["---"] * len(headers), *rows])


def seconds(value: float) -> str:
    """Write a time.

    >>> seconds(0.2149)
    '0.21 s'
    """
    return f"{value:.2f} s"


def megabytes(value: float) -> str:
    """Write memory, 1 MB being 10^6 bytes.

    >>> megabytes(287_654_321)
    '288 MB'
    """
    return f"{value / 1e6:.0f} MB"


def verdict(macs: int | None, total: int) -> str:
    """Compare the MACs that a tool counts with those of the pass.

    >>> verdict(10, 10), verdict(8, 10), verdict(None, 10)
    ('10: right', '8: -20.0 %', 'counts none')
    """
    if macs is None:
        return "counts none"
    return f"{macs:,}: right" if macs == total else f"{macs:,}: {100 * (macs / total - 1):+.1f} %"


def environment(python: Path, packages: Sequence[str]) -> str:
    """Describe when, where and with which versions something was measured."""
    day = f"{dt.datetime.now(tz=dt.UTC):%Y-%m-%d}"
    versions = run_once(Command([str(python), "-c", _VERSIONS, *packages])).output.splitlines()
    return f"Measured {day} on {os.cpu_count()} CPU cores: {', '.join(versions)}."


def write_section(path: Path, name: str, text: str) -> None:
    """Write text between the page's marks `<!-- results: NAME -->` and `<!-- end: NAME -->`.

    Raises:
        ValueError: The page has no such marks.
    """
    page = path.read_text(encoding="utf-8")
    begin, end = f"<!-- results: {name} -->\n", f"<!-- end: {name} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{path.name} has no marks for the results of {name}")
    path.write_text(f"{before}{begin}\n{text}\n\n{end}{after}", encoding="utf-8")
