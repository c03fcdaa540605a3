"""The forms of a drawing, and which of them a file's name asks for. Imports nothing that draws."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

from unetinspect.errors import UsageError, nearest_names

Level = Literal["stage", "layer"]
Form = Literal["svg", "html", "png", "mmd", "dot", "txt"]
SUFFIXES: dict[str, Form] = {
    ".svg": "svg",
    ".html": "html",
    ".htm": "html",
    ".png": "png",
    ".mmd": "mmd",
    ".mermaid": "mmd",
    ".dot": "dot",
    ".gv": "dot",
    ".txt": "txt",
}


# What people type for a form that there is under another name.
_INSTEAD = {".pdf": ".svg", ".eps": ".svg", ".jpg": ".png", ".jpeg": ".png", ".webp": ".png", ".json": "--json", ".md": "--format md"}


def form_of(path: str | os.PathLike[str]) -> Form:
    """Return the form that a file's name asks for.

    Raises:
        UsageError: It ends in none of those that a drawing has.
    """
    suffix = Path(path).suffix.lower()
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    forms = [f".{form}" for form in get_args(Form)]
    close = _INSTEAD.get(suffix) or next(iter(nearest_names(suffix, forms, count=1)), None)
    meant = f"did you mean {Path(path).stem}{close}? " if close in forms else f"{close} has that. " if close else ""
    wrong = f"{os.fspath(path)} ends in {suffix}" if suffix else f"{os.fspath(path)} ends in no form at all"
    raise UsageError(f"{wrong}, which is no form of a drawing" if suffix else wrong, hint=f"{meant}a name ends in {', '.join(forms)}")
