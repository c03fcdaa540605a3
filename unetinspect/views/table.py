"""A table as data, which every renderer draws; and its records as fields of a CSV, or as a DataFrame."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from unetinspect.errors import UsageError, nearest_names
from unetinspect.record import Attention, InputInfo, Module, OutputInfo, Port, Skip, Stage, Trace
from unetinspect.units import format_bytes, format_count, format_shape, format_si

if TYPE_CHECKING:
    import pandas as pd

Row = Any
SECTIONS: dict[str, type[msgspec.Struct]] = {
    "stages": Stage,
    "skips": Skip,
    "attentions": Attention,
    "modules": Module,
    "ports": Port,
    "outputs": OutputInfo,
    "inputs": InputInfo,
}
# How the numbers of a field are written, by a word of its name.
_UNITS: dict[str, Callable[[int], str]] = {"bytes": format_bytes, "macs": format_si, "flops": format_si, "params": format_count}


class Column(Struct, frozen=True):
    """One column of a table for people.

    Attributes:
        show: The text of a row's value.
        right: Whether it is aligned to the right, as numbers are.
        drop: When it is dropped on a narrow screen: higher numbers first, 0 never.
        wrap: The least width to which its texts may be wrapped; 0: they are not wrapped.
        path: Whether its values are module paths, which are shortened on the left as a last resort.
        file: Whether its values are names of files, which wrap after any mark.
        in_heading: Whether group headings contain it: it is dropped when rows are grouped.
        value: The number by which the HTML page sorts; None: it sorts as text.
        page: The text in the HTML page, if it differs.
    """

    header: str
    show: Callable[[Row], str]
    right: bool = False
    drop: int = 0
    wrap: int = 0
    path: bool = False
    file: bool = False
    in_heading: bool = False
    value: Callable[[Row], int | None] | None = None
    page: Callable[[Row], str] | None = None

    @classmethod
    def number(cls, header: str, value: Callable[[Row], int | None], write: Callable[[int | None], str] = str, *, drop: int = 0) -> Column:
        """Return a column of numbers, aligned to the right; zero and an absent value are blank."""
        return cls(header, lambda row: write(value(row)) if value(row) else "", right=True, drop=drop, value=value)


class Line(str):
    """A line over or under a table that begins with words in a style of the terminal; everywhere else it is its text.

    Attributes:
        lead: How many characters have the style.
        style: Its name.
    """

    lead: int
    style: str

    def __new__(cls, lead: str, style: str, rest: str = "") -> Line:
        """Make a line of the words in that style and the rest."""
        line = super().__new__(cls, lead + rest)
        line.lead, line.style = len(lead), style
        return line


class Table(Struct, frozen=True):
    """Rows of records, and how to show them.

    Attributes:
        columns: For tables and Markdown.
        rows: What the columns read.
        above: Lines over the table: what was traced, how.
        below: Lines under it: totals.
        legend: What columns mean, by header: last, and only of columns that are shown.
        group: The heading that a row may be grouped under; a path in it is removed from the first column. None: no groups.
        style: The style of a row on a terminal; None: they have none.
        records: What CSV and TSV write; None: the rows, field by field.
        fields: The header of CSV and TSV if there are no records.
        name: The field of a record that `--format names` prints; "": none.
        wanted: The fields that are shown, in this order; none: all.
        computed: Fields that are written by a function of the record: further ones that may be wanted, and the words for existing ones.
        title: Its heading, where several tables make up an answer.
    """

    columns: Sequence[Column]
    rows: Sequence[Row]
    above: Sequence[str] = ()
    below: Sequence[str] = ()
    legend: Mapping[str, str] = {}
    group: Callable[[Row], str] | None = None
    style: Callable[[Row], str] | None = None
    records: Sequence[Any] | None = None
    fields: Sequence[str] = ()
    name: str = ""
    wanted: Sequence[str] = ()
    computed: Mapping[str, Callable[[Any], Any]] = {}
    title: str = ""


def flat_fields(table: Table, *, in_words: bool = False) -> tuple[list[str], list[list[Any]]]:
    """Return the names and values of a table's data, nested records spread out: "attention.self".

    With `in_words`, a wanted field of a record that `computed` writes in words has those.

    Raises:
        UsageError: A field that is wanted does not exist.
    """
    records = table.rows if table.records is None else table.records
    rows = [dict(flatten(msgspec.to_builtins(record))) for record in records]
    # Each name once; those of a nested record in its place, also where it is absent from the first rows.
    groups: dict[str, dict[str, None]] = {}
    for name in [name for row in rows for name in row] or table.fields:
        groups.setdefault(name.partition(".")[0], {})[name] = None
    names = [name for field, group in groups.items() for name in group if len(group) == 1 or name != field]
    known = [*dict.fromkeys([*names, *table.computed])] if names else []
    for name in table.wanted:
        if known and name not in known:
            close = nearest_names(name, known, count=1)
            longer = [other for other in known if close and other.startswith(f"{close[0]}_")]  # processor: also processor_key
            meant = f"did you mean {' or '.join([*close, *longer[:1]])}? " if close else ""
            raise UsageError(f"no column '{name}'", hint=f"{meant}columns: {', '.join(known)}")
    if table.wanted:
        names = [*table.wanted]
        computed = [{name: write(record) for name, write in table.computed.items()} for record in records]
        rows = [row | more if in_words else more | row for row, more in zip(rows, computed, strict=True)]
    return names, [[row.get(name) for name in names] for row in rows]


def only_columns(table: Table, wanted: Sequence[str]) -> Table:
    """Return a table of the records with these fields as its columns, none of which is dropped.

    Raises:
        UsageError: One of them does not exist; the hint lists all.
    """
    table = replace(table, wanted=wanted, records=table.rows if table.records is None else table.records, group=None)
    names, rows = flat_fields(table, in_words=True)
    columns = [Column(name, partial(_cell, name, place), right=_is_number(rows, place)) for place, name in enumerate(names)]
    return replace(table, columns=columns, rows=rows)


def _cell(name: str, place: int, row: Sequence[Any]) -> str:
    value = row[place]
    if value and isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    value = value if value is None else data_text(value)
    if value is None or isinstance(value, list | tuple):
        return format_shape(value)
    write = next((_UNITS[word] for word in re.split(r"[._]", name) if word in _UNITS), None)
    return write(value) if write and isinstance(value, int) else str(value)


def _is_number(rows: Sequence[Sequence[Any]], place: int) -> bool:
    return all(row[place] is None or type(row[place]) in (int, float) for row in rows)


def fields_of(record: type[Struct]) -> list[str]:
    """Return the names of a record's fields in JSON."""
    return [field.encode_name for field in msgspec.structs.fields(record)]


def data_text(value: Any) -> Any:
    """Return a value as CSV has it: lists of words and of records, and empty ones, as JSON; an absent value as ""."""
    if isinstance(value, list | tuple) and (not value or any(isinstance(item, dict | str) for item in value)):
        import json  # here: few tables have such a field

        return json.dumps(value)
    return "" if value is None else value


def flatten(fields: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return the names and values of a record's fields, those of nested records under names with dots, all after `prefix`."""
    flat: list[tuple[str, Any]] = []
    for name, value in fields.items():
        if isinstance(value, dict):
            flat += flatten(value, f"{prefix}{name}.")
        else:
            flat.append((prefix + name, value))
    return flat


def to_dataframe(trace: Trace, section: str | None) -> pd.DataFrame:
    """Return one section of a record as a DataFrame of pandas, a row for each of its records.

    Raises:
        UsageError: There is no such section or none is named, or there is no pandas.
    """
    if section not in SECTIONS:
        close = nearest_names(str(section), list(SECTIONS), count=1)
        wrong = "to_dataframe() needs a section" if section is None else f"to_dataframe() has no section {section!r}"
        raise UsageError(f"{wrong}; use one of {', '.join(SECTIONS)}", hint=f"did you mean {close[0]!r}?" if close else None)
    try:
        import pandas as pd
    except ModuleNotFoundError as error:
        if error.name != "pandas":
            raise
        raise UsageError("a DataFrame needs pandas, which is not installed", hint="pip install 'unetinspect[pandas]'") from None
    records: Sequence[Any] = trace.run.inputs if section == "inputs" else getattr(trace, section)
    if not records:
        return pd.DataFrame(columns=fields_of(SECTIONS[section]))
    return pd.json_normalize(list(msgspec.to_builtins(records)))
