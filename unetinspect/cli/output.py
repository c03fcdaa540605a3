"""The one way out: data on stdout or into a file, notes on stderr."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from unetinspect.cli.options import OutputOptions
from unetinspect.errors import UsageError
from unetinspect.files import write_file
from unetinspect.record import to_json
from unetinspect.source.place import is_weights, unread_weights
from unetinspect.streams import print_answer, print_aside
from unetinspect.units import visible
from unetinspect.views.render import Screen, render_csv, render_markdown, render_table, wrap_words
from unetinspect.views.table import Format, Table

# What JSON writes as \uXXXX where only ASCII will do.
_OTHERS = re.compile(r"[^\x00-\x7f]")


class Output:
    """Prints one answer in the form that the options ask for.

    Attributes:
        format: How to print it.
        screen: What a table is drawn for.
        path: The file that the answer goes into, None: stdout.
    """

    def __init__(self, options: OutputOptions) -> None:
        self.format = _format(options)
        self.path = options.output
        _spare_weights(options.output)
        self._quiet = options.quiet
        self._said: set[str] = set()
        self._about: str | None = None
        self._parts: list[str] | None = None
        self._rows: list[dict[str, Any]] = []
        self._fields: Sequence[str] = ()
        self.screen = Screen(
            width=_width(options.output),
            color=options.output is None and _wants_color(),
            unicode=options.output is not None or _is_unicode(),
            shorten=not options.no_truncate,
        )

    def show(self, table: Table, document: Any) -> None:
        """Print `table` for people or spreadsheets, `document` as JSON."""
        if self._parts is not None and self.format in ("csv", "tsv"):
            records = table.rows if table.records is None else table.records
            self._rows += [{"model": self._about, **msgspec.to_builtins(record)} for record in records]
            self._fields = ("model", *table.fields)
            return
        self.show_forms(
            document,
            text=lambda screen: render_table(table, screen),
            markdown=lambda: render_markdown(table),
            csv=lambda delimiter: render_csv(table, delimiter=delimiter),
        )

    def show_forms(
        self,
        document: Any,
        *,
        text: Callable[[Screen], tuple[str, Sequence[str]]],
        markdown: Callable[[], str],
        csv: Callable[[str], str],
    ) -> None:
        """Print what is asked for: `document` as JSON, or one of the others; `text` returns also what it left out for want of width."""
        if self.format == "json":
            self.write_json(document)
        elif self.format == "md":
            self.write(markdown())
        elif self.format in ("csv", "tsv"):
            self.write(csv("," if self.format == "csv" else "\t"))
        else:
            drawn, left_out = text(self.screen)
            self.write(drawn)
            self.hint(*left_out)

    def say(self, lines: Sequence[str], *, option: str) -> None:
        """Print words, which have no form but their own."""
        if self.format not in ("table", "md"):
            asked = "--json" if self.format == "json" else f"--format {self.format}"
            raise UsageError(f"{option} prints words, and has no {self.format} form", hint=f"leave out {option}, or {asked}")
        self.write("\n".join(part for line in lines for part in wrap_words(visible(line), self.screen.width)) + "\n")

    def write_json(self, document: Any) -> None:
        """Print a document as JSON; where stdout is not Unicode, in ASCII, as JSON writes other characters."""
        import json  # here: a table needs none

        text = to_json(document) + "\n"
        self.write(text if self.screen.unicode else _OTHERS.sub(lambda found: json.dumps(found[0])[1:-1], text))

    def write(self, answer: str | bytes) -> None:
        """Write the whole answer, or nothing of it: where it cannot be written to a file, that stays as it was."""
        if self._parts is not None:
            apart = "\n" if self._parts and self.format in ("table", "md") else ""
            self._parts.append(f"{apart}{answer!s}")
            if self.path is None:
                print_answer(self._parts[-1])
            return
        if self.path is None:
            print_answer(answer)
            return
        try:
            write_file(Path(self.path), answer.encode(errors="backslashreplace") if isinstance(answer, str) else answer)
        except OSError as error:
            raise UsageError(
                f"cannot write to {self.path}: {error.strerror or error}", hint="give -o a file in a folder that can be written to"
            ) from None

    @contextmanager
    def several(self) -> Iterator[None]:
        """Take the answers for several models: an empty line between tables, one table of all CSV rows, one writing of a file."""
        self._parts = []
        yield
        parts, self._parts = self._parts, None
        if self.format in ("csv", "tsv"):
            self.show(Table(columns=(), rows=self._rows, fields=self._fields), None)
        elif self.path is not None and parts:
            self.write("".join(parts))

    @contextmanager
    def about(self, label: str) -> Iterator[None]:
        """Say of which of several models the notes are, and the rows of CSV."""
        self._about = label
        try:
            yield
        finally:
            self._about = None

    @contextmanager
    def progress(self) -> Iterator[Callable[[str], None]]:
        """Give a way to say what is being done, on stderr where that is a terminal; it is gone again afterwards."""
        if self._quiet or not _is_terminal(sys.stderr) or os.environ.get("TERM") == "dumb":
            yield lambda step: None
            return
        from rich.console import Console
        from rich.text import Text

        status = Console(stderr=True).status("", spinner="line")

        def say(step: str) -> None:
            status.update(Text(visible(step)))
            status.start()  # with the first step: what takes none shows nothing

        try:
            yield say
        finally:
            status.stop()

    def note(self, *lines: str) -> None:
        """Say on stderr what a reader of the answer should know."""
        self._aside("note", lines if self._about is None else [f"{self._about}: {line}" for line in lines])

    def hint(self, *lines: str) -> None:
        """Say on stderr how to get more."""
        self._aside("hint", lines)

    def _aside(self, word: str, lines: Sequence[str]) -> None:
        for line in lines:
            if not self._quiet and line not in self._said:  # two models that are compared may bring the same note
                self._said.add(line)
                print_aside(f"{word}: {visible(line)}")


def _spare_weights(path: str | None) -> None:
    """Keep a file of weights from being written over: it may be the very one that is read.

    Raises:
        UsageError: `-o` names one.
    """
    if path is not None and (is_weights(path) or unread_weights(path, hint="")) and os.path.lexists(path):
        raise UsageError(f"-o {path} is a file of weights, and would be written over", hint="name another file for the answer")


def _format(options: OutputOptions) -> Format:
    if options.json and options.format not in (None, "json"):
        raise UsageError(f"--json and --format {options.format} contradict each other", hint="give one of them")
    return "json" if options.json else options.format or "table"


def _width(path: str | None) -> int | None:
    """Return the width to draw for: what COLUMNS says, where that is a width, or the terminal's; a file and a pipe have none."""
    if path is not None:
        return None
    wanted = os.environ.get("COLUMNS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    return shutil.get_terminal_size().columns if _is_terminal(sys.stdout) else None


def _wants_color() -> bool:
    """Colours only on a terminal; NO_COLOR (no-color.org) and FORCE_COLOR overrule that, in this order."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (_is_terminal(sys.stdout) and os.environ.get("TERM") != "dumb")


def _is_terminal(stream: Any) -> bool:
    return stream is not None and bool(stream.isatty())


def _is_unicode() -> bool:
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return encoding.lower().replace("-", "").startswith("utf")
