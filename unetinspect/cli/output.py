"""The one way out: data on stdout or into a file, notes on stderr."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from unetinspect.cli.options import OutputOptions
from unetinspect.errors import UsageError
from unetinspect.files import replacing
from unetinspect.record import to_json
from unetinspect.units import visible
from unetinspect.views.render import Screen, render_csv, render_markdown, render_table, wrap_words
from unetinspect.views.table import Format, Table


class Output:
    """Prints one answer in the form that the options ask for.

    Attributes:
        format: How to print it.
        screen: What a table is drawn for.
    """

    def __init__(self, options: OutputOptions) -> None:
        self.format = _format(options)
        self._path = options.output
        self._quiet = options.quiet
        self.screen = Screen(
            width=_width(options.output),
            color=_wants_color() and options.output is None,
            unicode=options.output is not None or _is_unicode(),
            shorten=not options.no_truncate,
        )

    def show(self, table: Table, document: Any) -> None:
        """Print `table` for people or spreadsheets, `document` as JSON."""
        if self.format == "json":
            self.write(to_json(document) + "\n")
        elif self.format == "md":
            self.write(render_markdown(table))
        elif self.format in ("csv", "tsv"):
            self.write(render_csv(table, delimiter="," if self.format == "csv" else "\t"))
        else:
            text, left_out = render_table(table, self.screen)
            self.write(text)
            self.hint(*left_out)

    def say(self, lines: Sequence[str], *, option: str) -> None:
        """Print words, which have no form but their own."""
        if self.format not in ("table", "md"):
            asked = "--json" if self.format == "json" else f"--format {self.format}"
            raise UsageError(f"{option} prints words, and has no {self.format} form", hint=f"leave out {option}, or {asked}")
        self.write("\n".join(part for line in lines for part in wrap_words(visible(line), self.screen.width)) + "\n")

    def write(self, text: str) -> None:
        """Write the whole answer, or nothing of it."""
        if self._path is not None:
            _write_file(Path(self._path), text)
            return
        with suppress(AttributeError):  # a stream that a test or another program put there
            sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        sys.stdout.write(text)
        sys.stdout.flush()

    @contextmanager
    def progress(self) -> Iterator[Callable[[str], None]]:
        """Give a way to say what is being done, on stderr where that is a terminal; it is gone again afterwards."""
        if self._quiet or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
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
        self._aside("note", lines)

    def hint(self, *lines: str) -> None:
        """Say on stderr how to get more."""
        self._aside("hint", lines)

    def _aside(self, word: str, lines: Sequence[str]) -> None:
        if not self._quiet:
            for line in lines:
                print(f"{word}: {visible(line)}", file=sys.stderr)


def _format(options: OutputOptions) -> Format:
    if options.json and options.format not in (None, "json"):
        raise UsageError(f"--json and --format {options.format} contradict each other", hint="give one of them")
    return "json" if options.json else options.format or "table"


def _width(path: str | None) -> int | None:
    """Return the width to draw for: the terminal's, or what COLUMNS says; a file and a pipe have none."""
    if path is not None:
        return None
    if os.environ.get("COLUMNS", "").isdigit() or sys.stdout.isatty():
        return shutil.get_terminal_size().columns
    return None


def _wants_color() -> bool:
    """Colours only on a terminal; NO_COLOR (no-color.org) and FORCE_COLOR overrule that, in this order."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (sys.stdout.isatty() and os.environ.get("TERM") != "dumb")


def _is_unicode() -> bool:
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return encoding.lower().replace("-", "").startswith("utf")


def _write_file(path: Path, text: str) -> None:
    try:
        with replacing(path) as (handle, beside):
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            beside.chmod(0o666 & ~_umask())
    except OSError as error:
        raise UsageError(
            f"cannot write to {path}: {error.strerror or error}", hint="give -o a file in a folder that can be written to"
        ) from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
