"""What Tab offers in a shell: commands, options, their values, the catalog."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_imports import HEAVY, SLOW
from unetinspect.catalog import load_catalog
from unetinspect.cli.main import COMMANDS, main
from unetinspect.unets.request import DTYPES

MODELS = list(load_catalog())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", list(COMMANDS)),
        ("attn --k", ["--kind"]),
        ("attn --kind ", ["self", "cross", "joint", "temporal", "pooling"]),
        ("trace --res 64 --res 64 sd15 --dtype ", list(DTYPES)),
        ("skips --format ", ["table", "json", "md", "csv", "tsv", "names"]),
        ("trace sd15 ", MODELS),
        ("diff sd15 sdxl", [name for name in MODELS if name.startswith("sdxl")]),
        ("ports sd15 --with cont", [name for name in MODELS if name.startswith("controlnet")]),
        ("trace ./", []),
    ],
)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_is_offered_what_fits(
    shell: str, line: str, expected: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even where the line so far is not a valid command; nothing, and so the shell offers files, where the word is a path."""
    for name, value in {
        "_UNETINSPECT_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": f"unetinspect {line}",
        "COMP_CWORD": str(len(line.split(" "))),
        "_TYPER_COMPLETE_ARGS": f"unetinspect {line}",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as end:
        main([])
    out, err = capsys.readouterr()
    offered = [entry.split("\t")[0] for entry in out.splitlines() if entry]
    if shell == "zsh":
        assert out == "_files\n" or out.startswith("_arguments '*: :((")
        offered = [entry.split('"')[1] for entry in out.splitlines() if '"' in entry]

    assert (end.value.code, err, offered) == (0, "", expected)


def test_bash_completes_with_the_script_and_imports_nothing_heavy(tmp_path: Path) -> None:
    """As bash does it when Tab is pressed: the registered function is called with COMP_WORDS, and COMPREPLY is what it offers."""
    program = tmp_path / "unetinspect"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m unetinspect "$@"\n')
    program.chmod(0o755)
    script = """
        eval "$(unetinspect --show-completion)"
        offer() { COMP_WORDS=(unetinspect "$@"); COMP_CWORD=$#; $(complete -p unetinspect | sed 's/.*-F //;s/ .*//') unetinspect
                  echo "${COMPREPLY[*]}"; }
        offer sk; offer trace sd15-; offer draw --level ''; complete -p unetinspect
    """
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPROFILEIMPORTTIME": "1"}
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120, check=True, env=environment)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in ran.stderr.splitlines()}

    assert ran.stdout.splitlines()[:3] == ["skips", "sd15-inpaint", "stage layer"]
    assert ran.stdout.splitlines()[3].startswith("complete -o default ")
    assert {"typer", "unetinspect"} <= imported
    assert not imported & {*HEAVY, *SLOW}
