"""`draw` on the command line: which form is asked for, where it goes, and what is refused before anything is traced."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import traced
from unetinspect.drawing.drawing import Drawing
from unetinspect.drawing.forms import SUFFIXES, form_of
from unetinspect.errors import UsageError

BEGINS = {"svg": b"<svg", "html": b"<!doctype html>", "png": b"\x89PNG\r\n\x1a\n", "mmd": b"---", "dot": b"digraph", "txt": b""}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved trace, which is drawn without torch."""
    path = tmp_path / "saved.json"
    path.write_text(traced("conditioned").to_json())
    return path


@pytest.mark.parametrize(("suffix", "form"), SUFFIXES.items(), ids=lambda value: value)
def test_a_file_holds_the_form_that_its_name_ends_in(cli: Any, saved: Path, suffix: str, form: str) -> None:
    """Each form is written to FILE, and nothing to stdout; it is what `--as` prints, and what Python saves."""
    path = saved.with_suffix(suffix)

    assert cli("draw", str(saved), "-o", str(path)) == (0, "", "")
    assert path.read_bytes().lower().startswith(BEGINS[form].lower())
    again = path.with_name(f"again{suffix}")
    Drawing(traced("conditioned")).save(again)
    assert form == "txt" or path.read_bytes() == again.read_bytes()
    if form not in ("png", "txt"):
        assert cli("draw", str(saved), "--as", form)[1].encode() == path.read_bytes()


def test_a_png_can_be_piped(saved: Path) -> None:
    """Standard output takes the bytes as they are: a PNG of a size, twice that of the SVG."""
    program = [sys.executable, "-m", "unetinspect", "draw", str(saved), "--as", "png"]
    ran = subprocess.run(program, capture_output=True, check=True, timeout=120, env=dict(os.environ))
    width, height = struct.unpack(">II", ran.stdout[16:24])
    svg = Drawing(traced("conditioned")).svg()

    assert ran.stdout.startswith(BEGINS["png"])
    assert f'viewBox="0 0 {width // 2} {height // 2}"' in svg


@pytest.mark.parametrize(
    ("arguments", "sentence", "hint"),
    [
        (["-o", "unet.jpg"], "unet.jpg ends in .jpg, which is no form of a drawing", ".svg, .html, .png, .mmd, .dot, .txt"),
        (["-o", "unet.sgv"], "unet.sgv ends in .sgv, which is no form of a drawing", "did you mean unet.svg?"),
        (["-o", "unet"], "unet ends in no form at all", "a name ends in .svg"),
        (["-o", "unet.pdf"], "unet.pdf ends in .pdf, which is no form of a drawing", "did you mean unet.svg?"),
        (["-o", "unet.json"], "unet.json ends in .json, which is no form of a drawing", "--json has that. a name ends in"),
        (["-o", "unet.svg", "--json"], "-o unet.svg and --format json cannot be used together", "use one of them"),
        (["--as", "svg", "--json"], "--as svg and --format json cannot be used together", "use one of them"),
        (["--format", "csv"], "draw has no csv form", "leave out --format csv"),
        (["-o", "nowhere/unet.svg"], "cannot write to nowhere/unet.svg: no such file or directory", "a writable folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_no_drawing_is_refused(
    cli: Any, saved: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str, hint: str
) -> None:
    """One sentence, one hint, exit 2, and no file."""
    monkeypatch.chdir(saved.parent)
    code, out, errors = cli("draw", str(saved), *arguments)

    assert (code, out) == (2, "")
    assert errors.startswith(f"error: {sentence}\nhint: ")
    assert hint in errors
    assert list(saved.parent.iterdir()) == [saved]


def test_json_holds_the_sections_that_are_drawn(cli: Any, saved: Path) -> None:
    """The same paths as of every other command."""
    document = json.loads(cli("draw", str(saved), "--json")[1])
    whole = json.loads(traced("conditioned").to_json())

    assert {name: document[name] for name in ("stages", "skips", "attentions")} == {
        name: whole[name] for name in ("stages", "skips", "attentions")
    }


def test_markdown_is_a_flowchart_that_readme_files_show(cli: Any, saved: Path) -> None:
    """`--format md` is the Mermaid drawing between fences."""
    assert cli("draw", str(saved), "--format", "md")[1] == f"```mermaid\n{Drawing(traced('conditioned')).mermaid()}```\n"


def test_the_terminal_gets_ascii_where_it_knows_no_more(cli: Any, saved: Path) -> None:
    """Where stdout is not UTF-8, the drawing has nothing beyond ASCII, and still says every sum."""
    program = [sys.executable, "-m", "unetinspect", "draw", str(saved)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    ran = subprocess.run(program, capture_output=True, check=True, timeout=120, env=environment)

    assert ran.stdout.isascii()
    assert b"\\u" not in ran.stdout
    assert all(f"{skip.hidden_channels} + {skip.skip_channels}".encode() in ran.stdout for skip in traced("conditioned").skips)


def test_the_form_that_is_asked_for_counts(cli: Any, saved: Path) -> None:
    """`--as` overrules what FILE ends in, and says so."""
    path = saved.with_suffix(".png")
    code, _, errors = cli("draw", str(saved), "--as", "svg", "-o", str(path))

    assert (code, errors) == (0, f"note: --as overrides the file extension: {path} contains svg\n")
    assert path.read_bytes().startswith(BEGINS["svg"])


def test_a_picture_is_utf_8_whatever_the_terminal_is(saved: Path) -> None:
    """An SVG that is piped is the one that is written: standard output's own encoding has no say in it."""
    program = [sys.executable, "-m", "unetinspect", "draw", str(saved), "--as", "svg"]
    ran = subprocess.run(program, capture_output=True, check=True, timeout=120, env={**os.environ, "PYTHONIOENCODING": "ascii"})

    assert ran.stdout == Drawing(traced("conditioned")).svg().encode()
    assert not ran.stdout.isascii()


def test_a_level_that_there_is_not_is_refused() -> None:
    """In Python as on the command line."""
    with pytest.raises(UsageError, match="level='module': a drawing has two levels"):
        traced("conditioned").draw(level="module")  # type: ignore[arg-type]


def test_a_path_says_the_form_whatever_its_case() -> None:
    """Windows users type capitals."""
    assert form_of("UNET.SVG") == "svg"
