"""The list of small faults that the tests are measured with is that of this code."""

from __future__ import annotations

from pathlib import Path

from tests.mutants.__main__ import ROOT, mutants


def test_each_fault_is_of_this_code() -> None:
    """What it replaces is in its file, once; the tests that are to notice it exist."""
    for mutant in mutants():
        assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1, mutant
        assert mutant.new not in (mutant.old, ""), mutant
        assert all((ROOT / test.partition("::")[0]).exists() for test in mutant.tests.split()), mutant
        assert Path(mutant.file).parts[0] == "unetinspect"
