"""Runs one input after another through the program's own entry, and says what came of each. Started by run.py."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fuzz.cases import Case, make_case

_CODES = (0, 1, 2, 3, 4)


def run_case(case: Case, folder: Path) -> dict[str, Any]:
    """Run one input in a folder, and return its exit code, and what is wrong with the outcome, or None."""
    from unetinspect.cli.main import main

    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    before = _files(folder)
    with _inside(folder), _captured(case.stdin) as (stdout, stderr):
        try:
            code, raised = main(list(case.arguments)), None
        except BaseException as error:  # what main lets through is a bug, whatever it is
            code, raised = None, error
        out, err = _text(stdout), _text(stderr)
    if raised is not None:
        place = traceback.extract_tb(raised.__traceback__)
        ours = [frame for frame in place if "unetinspect" in frame.filename]
        where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(ours[-3:]))
        text = "".join(traceback.format_exception(raised))
        return {"code": code, "wrong": f"traceback: {type(raised).__name__} at {where}", "detail": text[-4000:]}
    wrong = _wrong(case, code, out, err, _files(folder) - before, folder)
    return {"code": code, "wrong": wrong, "detail": f"{out[:1500]}\n--- stderr\n{err[:1500]}" if wrong else ""}


def _wrong(case: Case, code: int | None, out: str, err: str, made: set[str], folder: Path) -> str | None:
    """Describe what is wrong with an outcome other than a traceback."""
    loose = [character for character in out + err if (ord(character) < 32 and character not in "\n\t") or 127 <= ord(character) < 160]
    asked_for = any(word.startswith(("-o", "--output")) for word in case.arguments)
    is_error = code is None or code >= 2
    # Of several models, one may fail, and the answers for the others are written.
    others_answered = asked_for and case.arguments[0] in ("trace", "sweep", "check")
    findings = {
        f"exit code {code}": code not in _CODES,
        "a traceback on stderr": "Traceback (most recent call last)" in err,
        f"exit code {code} without an error:": is_error and not any(line.startswith("error: ") for line in err.splitlines()),
        f"exit code {code} without an answer": not is_error and not out and not made and not _overwritten(case, folder),
        f"the control character {ord(loose[0]) if loose else 0:#x} in what is printed": bool(loose),
        f"files left: {min(made, default='')}": bool(made)
        and ((is_error and not others_answered) or bool(made - {"answer.txt"} and not asked_for)),
    }
    found = next((sentence for sentence, is_so in findings.items() if is_so), None)
    if found is None and not is_error and ("--json" in case.arguments or "--format=json" in case.arguments):
        whole = out if "-o" not in case.arguments else (folder / "answer.txt").read_text(encoding="utf-8") if "answer.txt" in made else ""
        found = _json_mistake(whole) if whole else None
    return found


def _overwritten(case: Case, folder: Path) -> bool:
    """Return whether the answer was written to an existing file."""
    return any((folder / name).read_bytes() != content for name, content in case.files.items() if (folder / name).is_file())


def _json_mistake(text: str) -> str | None:
    def refuse(word: str) -> None:
        raise ValueError(word)

    decoder = json.JSONDecoder(parse_constant=refuse)
    try:
        while text := text.lstrip():  # one document, or one for each of several models
            text = text[decoder.raw_decode(text)[1] :]
    except ValueError as error:
        return f"what is printed is not JSON: {error}"[:100]
    return None


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def _text(stream: Any) -> str:
    stream.flush()
    return str(stream.buffer.getvalue().decode("utf-8", "replace"))


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def _captured(stdin: bytes) -> Iterator[tuple[Any, Any]]:
    streams = sys.stdin, sys.stdout, sys.stderr
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    # As Python opens it: what cannot be encoded is escaped.
    sys.stderr = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    try:
        yield sys.stdout, sys.stderr
    finally:
        sys.stdin, sys.stdout, sys.stderr = streams


def _main() -> None:
    kind, seed, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints past Python

    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        number = int(line)
        inside = folder / str(number)
        inside.mkdir(parents=True)
        case = make_case(kind, seed, number)
        (folder / "now.json").write_text(json.dumps(case.arguments), encoding="utf-8")
        began = time.process_time()
        outcome = run_case(case, inside)
        outcome["seconds"] = round(time.process_time() - began, 2)
        if not outcome["wrong"]:
            shutil.rmtree(inside)
        answers.write(json.dumps(outcome) + "\n")
        answers.flush()


if __name__ == "__main__":
    _main()
