"""Every command that README and docs show is run, and what they show is what it prints.

A block of ```console holds commands after "$ " and their output; a line of `...` alone marks where lines are left out.
`--update-golden` writes the outputs anew. A pipe into `jq` runs the real jq language. A block of ```python is run, and so are
its doctest-like `>>>` lines.
"""

from __future__ import annotations

import doctest
import json
import re
import runpy
import shlex
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import jq
import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

from tests.tiny import traced
from unetinspect.catalog import load_catalog

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = (
    "trace",
    "skips",
    "attn",
    "tree",
    "inputs",
    "ports",
    "sweep",
    "profile",
    "diff",
    "draw",
    "names",
    "check",
    "identify",
    "explain-error",
    "config",
    "models",
    "cache",
    "schema",
    "maps",
)
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands_of(block: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a console block with the output that is shown for it."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output.rstrip("\n")


def run(command: str, cli: Any) -> str:
    """Run a documented command in this process: `unetinspect ... [| jq [-r|-c] FILTER | head -N | tail -N]`."""
    first, *filters = (shlex.split(part) for part in split_pipe(command))
    assert first[0] == "unetinspect", command
    _, text, errors = cli(*first[1:])
    text = text or errors
    for words in filters:
        text = _filtered(text, words)
    return text.rstrip("\n")


def split_pipe(command: str) -> list[str]:
    """Split a command line at the pipes that stand outside quotes."""
    parts = [""]
    for piece in re.findall(r"'[^']*'|\"[^\"]*\"|\||[^'\"|]+", command):
        if piece == "|":
            parts.append("")
        else:
            parts[-1] += piece
    return parts


def _filtered(text: str, words: list[str]) -> str:
    lines = text.splitlines()
    if words[0] == "head":
        return "\n".join(lines[: int(words[1].lstrip("-"))])
    if words[0] == "tail":
        return "\n".join(lines[-int(words[1].lstrip("-")) :])
    assert words[0] == "jq", words
    results = jq.compile(words[-1]).input_text(text).all()
    raw = "-r" in words
    return "\n".join(result if raw and isinstance(result, str) else _json(result, compact="-c" in words) for result in results)


def _json(value: Any, *, compact: bool) -> str:
    return json.dumps(value, separators=(",", ":")) if compact else json.dumps(value, indent=2)


@pytest.fixture
def as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as the docs say: 80 columns, 24 lines, no GPU, nobody's files."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.usefixtures("as_documented")
def test_documented_output_is_real(cli: Any, page: Path, request: pytest.FixtureRequest) -> None:
    """Each command prints what stands below it, to the letter."""
    text = page.read_text(encoding="utf-8")
    real = BLOCK.sub(lambda block: "```console\n" + _rerun(block.group(1), cli) + "```", text)
    if request.config.getoption("--update-golden"):
        page.write_text(real, encoding="utf-8")

    assert page.read_text(encoding="utf-8") == real


def _rerun(block: str, cli: Any) -> str:
    outputs = ((command, cut(run(command, cli), shown)) for command, shown in commands_of(block))
    return "".join(f"$ {command}\n{output}\n" if output else f"$ {command}\n" for command, output in outputs)


CUT = "..."


def cut(output: str, shown: str) -> str:
    r"""Leave out of an output what a page leaves out of it: each line that is shown stands for the next one that is most like it.

    >>> print(cut("a 1\nb 2\nc 3\nd 4", "a 1\n...\nc 5"))
    a 1
    ...
    c 3
    ...
    """
    if CUT not in shown.splitlines():
        return output
    lines, kept = output.splitlines(), [-1]
    for line in shown.splitlines():
        rest = range(kept[-1] + 1, len(lines))
        if line != CUT and rest:
            kept.append(max(rest, key=lambda place: (lines[place] == line, SequenceMatcher(None, lines[place], line).ratio(), -place)))
    parts = [[*([CUT] if place > last + 1 else []), lines[place]] for last, place in pairwise(kept)]
    return "\n".join([*chain.from_iterable(parts), *([CUT] if kept[-1] < len(lines) - 1 else [])])


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' HeunDiscreteScheduler, with NumPy 2
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each Python block runs as it stands; where it shows results, they are the real ones."""
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    if "StableDiffusionPipeline" in text:
        from tests import pipelines  # here: it takes as long to import as all else

        monkeypatch.setattr("diffusers.StableDiffusionPipeline.from_pretrained", lambda *_, **__: pipelines.stable_diffusion())
    names: dict[str, Any] = {}
    for block in PYTHON.findall(text):
        names = names if "pipe" in names else {}  # the blocks of a page that loads a pipeline are one session
        if ">>>" in block:
            test = doctest.DocTestParser().get_doctest(block, names, page.name, None, None)
            runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
            assert runner.run(test, clear_globs=False).failed == 0, capsys.readouterr().out
            names = test.globs
        else:
            exec(compile(block, page.name, "exec"), names)


def test_every_command_has_a_page_and_every_page_its_recipes() -> None:
    """One page per command, each with `jq` recipes where the command prints JSON."""
    for command in COMMANDS:
        text = (ROOT / "docs" / f"{command}.md").read_text(encoding="utf-8")
        assert f"unetinspect {command}" in text
        assert text.count("| jq ") >= 2, command


def test_links_between_pages_lead_somewhere() -> None:
    """No relative link is dead."""
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)[^):]*\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


@pytest.fixture(scope="module")
def pictures() -> dict[str, Any]:
    """What draws the pictures of README and docs."""
    return runpy.run_path(str(ROOT / "docs" / "pictures.py"))


def test_the_pictures_are_those_of_today(pictures: dict[str, Any]) -> None:
    """Each drawing is what the tool draws, and each file is one of them."""
    shown = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "pictures").glob("*.svg")}
    drawn = {name: pictures["draw"](traced(model), *how) for name, (model, *how) in pictures["drawings"]().items()}

    assert shown == {**drawn, pictures["TABLE"]: pictures["table"]()}


def test_the_heat_maps_are_those_of_today(pictures: dict[str, Any]) -> None:
    """The picture is what was last written, up to the rounding of other machines."""
    shown = Image.open(ROOT / "docs" / "pictures" / pictures["HEAT"])

    assert np.asarray(ImageChops.difference(shown, pictures["heat_maps"]())).max() <= 4


def test_the_pictures_load_nothing_from_elsewhere() -> None:
    """No fonts, no scripts, no links: they are shown where nothing may be fetched."""
    for path in (ROOT / "docs" / "pictures").glob("*.svg"):
        svg = path.read_text(encoding="utf-8")
        assert not any(word in svg for word in ("url(http", "@font-face", "href", "<script", "@import")), path.name


def test_the_gallery_shows_each_family_of_the_catalog(pictures: dict[str, Any]) -> None:
    """One model of each family, by its own name for it, and the page is what was last written."""
    catalog = load_catalog()

    assert {family: catalog[name].family for family, name in pictures["GALLERY"].items()} == {
        family: family for family in sorted({entry.family for entry in catalog.values()})
    }
    assert (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8") == pictures["gallery"]()


def test_the_readme_is_short_and_has_a_picture() -> None:
    """Under 150 lines; one picture of real output; the two commands."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")

    assert len(text.splitlines()) < 150
    assert "](docs/" in text
    assert "make demo" in text
    assert "make test" in text
