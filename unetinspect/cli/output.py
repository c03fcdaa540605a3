"""How a command prints: its answer to stdout or into a file, notes to stderr."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from unetinspect.cli.options import OutputOptions
from unetinspect.errors import UsageError
from unetinspect.record import to_json
from unetinspect.record.selection import read_words
from unetinspect.source.place import is_weights, unread_weights
from unetinspect.streams import SUFFIXES, form_of, print_answer, print_aside, print_labeled, save_file
from unetinspect.terminal import columns_of, columns_wanted, wants_color, wrap_words
from unetinspect.units import visible
from unetinspect.views.render import Screen, render_csv, render_markdown, render_table
from unetinspect.views.table import Table, data_text, flat_fields, only_columns

_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
OF_TABLES = ("txt", "json", "md", "csv", "tsv")
OF_NAMED = (*OF_TABLES, "names")  # of tables whose records have names
_WITH_COLUMNS = ("txt", "md", "csv", "tsv", "names")
_CLEAR_LINE = "\r\x1b[2K"


class Output:
    """Prints one answer in the form that the options ask for.

    Attributes:
        form: The form: "txt" (a table), "json", "md", "csv", "tsv", or another that the command has.
        decided_by: The option that decided it; "": none.
        screen: What a table is drawn for.
        path: The file to write the answer to; None is stdout.
        label: The name of the current model, if there are several.
    """

    def __init__(self, options: OutputOptions, *forms: str, what: str = "", drawn: str | None = None) -> None:
        """Decide the form: `forms` are those that the answer has, by default those of a table; `drawn` is that of `--as`.

        Raises:
            UsageError: The options contradict each other, `what` does not have the form, or FILE is a weights file.
        """
        self.path = options.output
        if self.path is not None and (is_weights(self.path) or unread_weights(self.path, hint="")) and os.path.lexists(self.path):
            raise UsageError(f"-o {self.path} would overwrite a weights file", hint="choose another file")
        forms = forms or OF_TABLES
        if self.path is not None and is_folder(self.path):
            example = f"{self.path.rstrip('/')}/FILE.{next(form for form in ('svg', 'json', 'txt') if form in forms)}"
            raise UsageError(f"-o {self.path} names a folder, not a file", hint=f"name a file in it: -o {example}")
        wanted = {
            "--json": "json" if options.json else None,
            f"--as {drawn}": drawn,
            f"--format {options.format}": "txt" if options.format == "table" else options.format,
        }
        asked = {option: form for option, form in wanted.items() if form is not None}
        for option, form in asked.items():
            if form not in forms:
                raise UsageError(f"{what or 'this command'} has no {form} form", hint=f"leave out {option}")
        suffix = Path(self.path or "").suffix.lower()
        if self.path is not None and (suffix in SUFFIXES or (suffix and not asked)):
            form = form_of(self.path, [form for form in forms if form != "names"])
            asked[f"-o {self.path}"] = "names" if form == "txt" and options.format == "names" else form
        if len({*asked.values()}) > 1:
            first, *_, last = asked
            raise UsageError(f"{first} and {last} cannot be used together", hint=f"leave out {first}")
        self.decided_by, self.form = next(iter(asked.items()), ("", "txt"))
        self._columns = read_words(options.columns, what="--columns")
        if self._columns and ("csv" not in forms or self.form not in _WITH_COLUMNS):
            wrong = f"--columns and {self.decided_by} cannot be used together" if "csv" in forms else f"{what} has no columns"
            raise UsageError(wrong, hint="leave out --columns")
        if self.form == "names" and len(self._columns) > 1:
            raise UsageError(f"--format names prints one column, not {len(self._columns)}", hint=f"use --columns {self._columns[0]}")
        self._quiet = options.quiet
        self._printed: set[str] = set()
        self.label: str | None = None
        self._parts: list[str] | None = None
        self._rows: list[dict[str, Any]] = []
        self._fields: Sequence[str] = ()
        if options.width is not None or self.path is not None:
            width = options.width or None
        else:  # the terminal's also at the end of a pipe (`| less`); a file has no width, nor a pipe in CI
            width = columns_wanted() or columns_of(sys.stdout) or (columns_of(sys.stderr) if _is(stat.S_ISFIFO, sys.stdout) else None)
        encoding = getattr(sys.stdout, "encoding", None) or "ascii"
        self.screen = Screen(
            width=width,
            height=None if width is None or self._columns or self.form != "txt" else shutil.get_terminal_size().lines,
            color=self.path is None and wants_color(sys.stdout),
            unicode=self.path is not None or encoding.lower().replace("-", "").startswith("utf"),
            shorten=not options.no_truncate,
        )

    def show(self, table: Table, document: Any, *more: Table) -> None:
        """Print tables for people, the records of the first for spreadsheets, `document` as JSON."""
        if self._parts is not None and self.form in ("csv", "tsv"):
            records = table.rows if table.records is None else table.records
            computed = {name: write for name, write in table.computed.items() if name in self._columns}
            self._rows += [
                {"model": self.label, **{name: write(record) for name, write in computed.items()}, **msgspec.to_builtins(record)}
                for record in records
            ]
            self._fields = ("model", *table.fields)
            return
        if self._columns and self.form != "names":
            table, more = only_columns(table, self._columns), ()
        if self.form == "json":
            self.write_json(document)
        elif self.form == "names":
            _, rows = flat_fields(replace(table, wanted=self._columns or (table.name,)))
            names = (visible(str(data_text(name))) for (name,) in rows)
            self.write("".join(f"{name}\n" for name in dict.fromkeys(names) if name))
        elif self.form == "md":
            self.write("\n".join(map(render_markdown, (table, *more))))
        elif self.form in ("csv", "tsv"):
            self.write(render_csv(table, delimiter="," if self.form == "csv" else "\t"))
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
            answer = str(answer)
            is_apart = self.form == "md" or (self.form == "txt" and any("\n" in part.strip() for part in (*self._parts[-1:], answer)))
            self._parts.append("\n" * (is_apart and bool(self._parts)) + answer)
            if self.path is None:
                print_answer(self._parts[-1])
        elif self.path is None:
            print_answer(answer)
        else:
            save_file(self.path, answer.encode(errors="backslashreplace") if isinstance(answer, str) else answer)

    @contextmanager
    def several(self) -> Iterator[None]:
        """Print the answers for several models: an empty line around those of several lines, one table of all CSV rows, one file."""
        self._parts = []
        yield
        parts, self._parts = self._parts, None
        if self.form in ("csv", "tsv"):
            self.show(Table(columns=(), rows=self._rows, fields=self._fields), None)
        elif self.path is not None and parts:
            self.write("".join(parts))

    @contextmanager
    def labeled(self, label: str | None) -> Iterator[None]:
        """Put the label of one of several models before its notes, and into its rows of CSV."""
        self.label = label
        try:
            yield
        finally:
            self.label = None

    @contextmanager
    def progress(self) -> Iterator[Callable[[str], None]]:
        """Yield a function that shows the current step on stderr, if that is a terminal; the line is erased afterwards."""
        width = columns_of(sys.stderr)
        if self._quiet or width is None or os.environ.get("TERM") == "dumb":
            yield lambda step: None
            return
        clear = ""

        def show_step(step: str) -> None:
            nonlocal clear
            clear = _CLEAR_LINE
            print_aside(clear + visible(step)[: width - 1], end="")

        try:
            yield show_step
        finally:
            print_aside(clear, end="")

    def note(self, *lines: str) -> None:
        """Print what a reader of the answer should know to stderr."""
        self._aside("note", lines if self.label is None else [f"{self.label}: {line}" for line in lines])

    def _aside(self, word: str, lines: Sequence[str]) -> None:
        for line in lines:
            if not self._quiet and line not in self._printed:  # two compared models may bring the same note
                self._printed.add(line)
                print_labeled(word, visible(line))


def is_folder(path: str) -> bool:
    """Whether the FILE of `-o` is a folder: an existing one, or by the slash at its end."""
    return path.endswith("/") or os.path.isdir(path)  # noqa: PTH112  Path.is_dir raises for a text that is too long to be a name


def is_redirected() -> bool:
    """Whether standard output is a file: `> unet.json`."""
    return _is(stat.S_ISREG, sys.stdout)


def _is(kind: Callable[[int], bool], stream: Any) -> bool:
    with suppress(AttributeError, OSError):  # no stream, or one without a descriptor
        return kind(os.fstat(stream.fileno()).st_mode)
    return False
