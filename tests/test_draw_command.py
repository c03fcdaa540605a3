"""`draw` on the command line: which form is asked for, where it goes, and what is refused before anything is traced."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import traced
from unetinspect.drawing.drawing import FORMS, Drawing
from unetinspect.errors import UsageError
from unetinspect.streams import SUFFIXES

BEGINS = {
    "svg": b"<svg",
    "html": b"<!doctype html>",
    "png": b"\x89png\r\n\x1a\n",
    "pdf": b"%pdf",
    "mmd": b"---",
    "dot": b"digraph",
    "txt": b"",
}


@pytest.mark.parametrize(("suffix", "form"), [named for named in SUFFIXES.items() if named[1] in FORMS], ids=lambda value: value)
def test_a_file_is_in_the_form_of_its_extension(cli: Any, saved: Path, suffix: str, form: str) -> None:
    """Each form is written to FILE, and nothing to stdout; it is what `--as` prints, and what Python saves."""
    path = saved.with_suffix(suffix.upper())

    assert cli("draw", str(saved), "-o", str(path)) == (0, "", "")
    assert path.read_bytes().lower().startswith(BEGINS[form])
    again = path.with_name(f"again{suffix}")
    Drawing(traced("conditioned")).save(again)
    assert form == "txt" or path.read_bytes() == again.read_bytes()
    if form not in ("png", "pdf", "txt"):
        assert cli("draw", str(saved), "--as", form)[1].encode() == path.read_bytes()


def test_stdout_takes_png_and_utf_8_and_text_in_ascii(saved: Path) -> None:
    """Where stdout is ASCII, a PNG and an SVG are the bytes of their files, and the text has nothing beyond ASCII but every sum."""

    def printed(*arguments: str) -> bytes:
        program = [sys.executable, "-m", "unetinspect", "draw", str(saved), *arguments]
        environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
        return subprocess.run(program, capture_output=True, check=True, timeout=120, env=environment).stdout

    trace = traced("conditioned")
    png, svg, text = printed("--as", "png"), printed("--as", "svg"), printed()
    width, height = struct.unpack(">II", png[16:24])

    assert png.lower().startswith(BEGINS["png"])
    assert f'viewBox="0 0 {width // 2} {height // 2}"'.encode() in svg
    assert svg == Drawing(trace).svg().encode()
    assert not svg.isascii()
    assert text.isascii()
    assert b"\\u" not in text
    assert all(f"{skip.hidden_channels} + {skip.skip_channels}".encode() in text for skip in trace.skips)


@pytest.mark.parametrize(
    ("arguments", "sentence", "hint"),
    [
        (
            ["-o", "unet.jpg"],
            "unsupported file extension '.jpg': unet.jpg",
            "hint: did you mean unet.png? use .svg, .html, .png, .pdf",
        ),
        (["-o", "unet.sgv"], "unsupported file extension '.sgv': unet.sgv", "did you mean unet.svg?"),
        (["-o", "unet"], "unet has no file extension", "use .svg, .html"),
        (
            ["-o", "unet.csv"],
            "unsupported file extension '.csv': unet.csv",
            "hint: use .svg, .html, .png, .pdf, .mmd, .dot, .txt, .json, .md\n",
        ),
        (["-o", "unet.svg", "--json"], "--json and -o unet.svg cannot be used together", "leave out --json"),
        (["-o", "unet.PNG", "--as", "svg"], "--as svg and -o unet.PNG cannot be used together", "leave out --as svg"),
        (["--as", "svg", "--json"], "--json and --as svg cannot be used together", "leave out --json"),
        (["--as", "svg", "--format", "table"], "--as svg and --format table cannot be used together", "leave out --as svg"),
        (["--format", "csv"], "draw has no csv form", "leave out --format csv"),
        (["-o", "unet.eps"], "unsupported file extension '.eps': unet.eps", "did you mean unet.pdf?"),
        (["--layout", "wide"], "--layout cannot be used with the txt form", "use svg, html, png, pdf: -o FILE.svg"),
        (["--no-legend", "--as", "dot"], "--no-legend cannot be used with the dot form", "use svg"),
        (["--title", "A", "--json"], "--title cannot be used with the json form", "use svg"),
        (["-o", "nowhere/unet.svg"], "cannot write to nowhere/unet.svg: no such file or directory", "a writable folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_not_a_drawing_is_refused(
    cli: Any, saved: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str, hint: str
) -> None:
    """One sentence, one hint, exit 2, and no file."""
    monkeypatch.chdir(saved.parent)
    code, out, errors = cli("draw", str(saved), *arguments)

    assert (code, out) == (2, "")
    assert errors.startswith(f"error: {sentence}\nhint: ")
    assert hint in errors
    assert list(saved.parent.iterdir()) == [saved]


def test_json_and_markdown(cli: Any, saved: Path) -> None:
    """`--json` prints the sections that are drawn, as any command does; `--format md` the Mermaid drawing between fences.

    A file's extension asks for them too.
    """
    document = json.loads(cli("draw", str(saved), "--json")[1])
    whole = json.loads(traced("conditioned").to_json())

    assert [document[name] for name in ("stages", "skips", "attentions")] == [whole[name] for name in ("stages", "skips", "attentions")]
    assert cli("draw", str(saved), "--format", "md")[1] == f"```mermaid\n{Drawing(traced('conditioned')).mermaid()}```\n"
    for form in ("json", "md"):
        assert cli("draw", str(saved), "-o", str(saved.with_name(f"drawn.{form}"))) == (0, "", "")
        assert saved.with_name(f"drawn.{form}").read_text() == cli("draw", str(saved), "--format", form)[1]


@pytest.mark.parametrize("name", ["drawing", "drawing.v2"])
def test_as_decides_where_the_extension_does_not(cli: Any, saved: Path, name: str) -> None:
    """FILE is in the form of `--as`."""
    path = saved.with_name(name)

    assert cli("draw", str(saved), "--as", "svg", "-o", str(path)) == (0, "", "")
    assert path.read_bytes().startswith(BEGINS["svg"])


def test_layout_title_and_legend_are_those_of_python(cli: Any, saved: Path) -> None:
    """The file is what `Trace.draw` writes with the same arguments."""
    path, again = saved.with_suffix(".svg"), saved.with_name("again.svg")
    options = ("--layout", "wide", "--title", "Figure 1", "--no-legend", "--level", "layer")

    assert cli("draw", str(saved), *options, "-o", str(path))[:2] == (0, "")
    traced("conditioned").draw(again, level="layer", layout="wide", title="Figure 1", legend=False)
    assert path.read_text() == again.read_text() != traced("conditioned").draw(level="layer", layout="wide").svg()
    assert cli("draw", str(saved), "--title", "Figure 1")[1].startswith("Figure 1\n")


@pytest.mark.parametrize(("layout", "points"), [("wide", 960), ("compact", 237.6)])
def test_a_note_says_where_a_picture_is_too_small_for_its_place(cli: Any, saved: Path, layout: str, points: float) -> None:
    """Type below 6 points on the page, a column above 8 inches: each as measured in the SVG; a picture that fits has no note."""
    for level in ("stage", "layer"):
        _, svg, errors = cli("draw", str(saved), "--layout", layout, "--level", level, "--as", "svg")
        width, height = map(float, re.findall(r'viewBox="0 0 (\S+) (\S+)"', svg)[0])
        smallest = min(map(float, re.findall(r'font-size="([\d.]+)"', svg))) * points / width
        inches = height * points / width / 72
        assert (f"note: the smallest type is {smallest:.1f} points at a width of {points / 72:.1f} inches; " in errors) == (smallest < 6)
        assert (f"note: the picture is {inches:.1f} inches high at a width of 3.3 inches; " in errors) == (
            layout == "compact" and inches > 8
        )
        assert bool(errors) == (level == "layer")


@pytest.mark.parametrize("word", ["level", "layout"])
def test_an_unknown_level_or_layout_is_refused(word: str) -> None:
    """In Python as on the command line."""
    wrong: Any = {word: "module"}
    with pytest.raises(UsageError, match=f"unknown {word} 'module'"):
        traced("conditioned").draw(**wrong)
