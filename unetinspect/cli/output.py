"""How a command prints: its answer to stdout or into a file, notes to stderr."""

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
from unetinspect.record import to_json
from unetinspect.source.place import is_weights, unread_weights
from unetinspect.streams import print_answer, print_aside, reason, write_file
from unetinspect.units import visible
from unetinspect.views.render import Screen, render_csv, render_markdown, render_table, wrap_words
from unetinspect.views.table import Format, Table

_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_CLEAR_LINE = "\r\x1b[2K"


class Output:
    """Prints one answer in the form that the options ask for.

    Attributes:
        format: The form.
        screen: What a table is drawn for.
        path: The file to write the answer to; None is stdout.
    """

    def __init__(self, options: OutputOptions) -> None:
        self.path = options.output
        if options.json and options.format not in (None, "json"):
            raise UsageError(f"--json and --format {options.format} cannot be used together", hint="use one of them")
        self.format: Format = "json" if options.json else options.format or "table"
        if self.path is not None and (is_weights(self.path) or unread_weights(self.path, hint="")) and os.path.lexists(self.path):
            raise UsageError(f"-o {self.path} would overwrite a weights file", hint="choose another file")
        self._quiet = options.quiet
        self._printed: set[str] = set()
        self._label: str | None = None
        self._parts: list[str] | None = None
        self._rows: list[dict[str, Any]] = []
        self._fields: Sequence[str] = ()
        self.screen = Screen(
            width=_width() if self.path is None else None,
            color=self.path is None and _wants_color(),
            unicode=self.path is not None or _is_unicode(),
            shorten=not options.no_truncate,
        )

    def require(self, what: str, *formats: Format) -> None:
        """Check that the requested format is one of those that a command or option has.

        Raises:
            UsageError: It does not.
        """
        if self.format not in formats:
            asked = "--json" if self.format == "json" else f"--format {self.format}"
            raise UsageError(f"{what} has no {self.format} form", hint=f"leave out {asked}")

    def show(self, table: Table, document: Any, *more: Table) -> None:
        """Print tables for people, the records of the first for spreadsheets, `document` as JSON."""
        if self._parts is not None and self.format in ("csv", "tsv"):
            records = table.rows if table.records is None else table.records
            self._rows += [{"model": self._label, **msgspec.to_builtins(record)} for record in records]
            self._fields = ("model", *table.fields)
            return
        if self.format == "json":
            self.write_json(document)
        elif self.format == "md":
            self.write("\n".join(map(render_markdown, (table, *more))))
        elif self.format in ("csv", "tsv"):
            self.write(render_csv(table, delimiter="," if self.format == "csv" else "\t"))
        else:
            drawn = [render_table(one, self.screen) for one in (table, *more)]
            self.write("\n".join(text for text, _ in drawn))
            self._aside("hint", [hint for _, hints in drawn for hint in hints])

    def write_lines(self, lines: Sequence[str]) -> None:
        """Print sentences, wrapped at the screen's width."""
        self.write("\n".join(part for line in lines for part in wrap_words(visible(line), self.screen.width)) + "\n")

    def write_json(self, document: Any) -> None:
        """Print a document as JSON, which escapes what stdout cannot encode."""
        import json  # here: a table needs none

        text = to_json(document) + "\n"
        self.write(text if self.screen.unicode else _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text))

    def write(self, answer: str | bytes) -> None:
        """Write the whole answer; if it cannot be written to a file, that file is unchanged."""
        if self._parts is not None:
            apart = "\n" if self._parts and self.format in ("table", "md") else ""
            self._parts.append(f"{apart}{answer!s}")
            if self.path is None:
                print_answer(self._parts[-1])
        elif self.path is None:
            print_answer(answer)
        else:
            try:
                write_file(Path(self.path), answer.encode(errors="backslashreplace") if isinstance(answer, str) else answer)
            except OSError as error:
                raise UsageError(f"cannot write to {self.path}: {reason(error)}", hint="choose a file in a writable folder") from None

    @contextmanager
    def several(self) -> Iterator[None]:
        """Print the answers for several models: an empty line between tables, one table of all CSV rows, one file."""
        self._parts = []
        yield
        parts, self._parts = self._parts, None
        if self.format in ("csv", "tsv"):
            self.show(Table(columns=(), rows=self._rows, fields=self._fields), None)
        elif self.path is not None and parts:
            self.write("".join(parts))

    @contextmanager
    def labeled(self, label: str) -> Iterator[None]:
        """Put the label of one of several models before its notes, and into its rows of CSV."""
        self._label = label
        try:
            yield
        finally:
            self._label = None

    @contextmanager
    def progress(self) -> Iterator[Callable[[str], None]]:
        """Yield a function that shows the current step on stderr, if that is a terminal; the line is erased afterwards."""
        if self._quiet or not _is_terminal(sys.stderr) or os.environ.get("TERM") == "dumb":
            yield lambda step: None
            return
        clear = ""

        def show_step(step: str) -> None:
            nonlocal clear
            clear = _CLEAR_LINE
            print_aside(clear + visible(step)[: shutil.get_terminal_size().columns - 1], end="")

        try:
            yield show_step
        finally:
            print_aside(clear, end="")

    def note(self, *lines: str) -> None:
        """Print what a reader of the answer should know to stderr."""
        self._aside("note", lines if self._label is None else [f"{self._label}: {line}" for line in lines])

    def _aside(self, word: str, lines: Sequence[str]) -> None:
        for line in lines:
            if not self._quiet and line not in self._printed:  # two compared models may bring the same note
                self._printed.add(line)
                print_aside(f"{word}: {visible(line)}")


def _width() -> int | None:
    """Return the width to draw for: COLUMNS, if that is a width, or the terminal's; a pipe has none."""
    wanted = os.environ.get("COLUMNS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    return shutil.get_terminal_size().columns if _is_terminal(sys.stdout) else None


def _wants_color() -> bool:
    """Only on a terminal, unless NO_COLOR (no-color.org) or FORCE_COLOR is set, in this order."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (_is_terminal(sys.stdout) and os.environ.get("TERM") != "dumb")


def _is_terminal(stream: Any) -> bool:
    return stream is not None and bool(stream.isatty())


def _is_unicode() -> bool:
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return encoding.lower().replace("-", "").startswith("utf")
