"""Tables fit any width without a value being cut, in every form."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from tests.tiny import traced
from unetinspect.record import Trace
from unetinspect.views.attention import attention_table
from unetinspect.views.inputs import inputs_table
from unetinspect.views.layout import GAP, Layout, fit, wrap_cell, wrap_lines
from unetinspect.views.models import config_table
from unetinspect.views.render import Screen, render_csv, render_markdown, render_table
from unetinspect.views.skips import skips_table
from unetinspect.views.stages import stages_table
from unetinspect.views.table import Column, Table, only_columns
from unetinspect.views.tree import modules_table, tree_table

VIEWS: dict[str, Callable[[Trace], Table]] = {
    "trace": stages_table,
    "skips": skips_table,
    "attn": lambda record: attention_table(record, record.attentions),
    "tree": tree_table,
    "inputs": inputs_table,
    "config": lambda record: config_table(record.model),
}


@pytest.mark.parametrize(("view", "model"), list(zip(VIEWS, ("sdxl", "ddpm-cat-256", "sd15") * 2, strict=True)))
def test_tables_of_published_models_fit_80_columns_without_shortened_paths(view: str, model: str) -> None:
    """At 80 columns no line is longer; a pipe gets every column and every value."""
    table = VIEWS[view](traced(model))
    text, left_out = render_table(table, Screen(width=80))

    assert max(map(len, text.splitlines())) <= 80
    assert not any("shortened" in hint for hint in left_out)

    piped, left_out = render_table(table, Screen(width=None))
    assert left_out == ()
    assert all(line == line.rstrip() for line in piped.splitlines())
    assert all(column.show(row).strip() in piped for row in table.rows for column in table.columns)
    assert all(column.header in piped for column in table.columns)


@given(view=st.sampled_from(list(VIEWS)), width=st.integers(1, 250))
def test_at_any_width_no_value_is_cut(view: str, width: int) -> None:
    """Columns go before values do: every value of the remaining columns is there whole."""
    table = VIEWS[view](traced("plain-one-block" if view == "tree" else "conditioned"))  # 50 modules have the columns of 180
    text, left_out = render_table(table, Screen(width=width))
    layout = fit(table, width)

    assert bool(layout.dropped) == any(hint.startswith(f"left out at {width} columns") for hint in left_out)
    assert all(heading in text for heading in layout.headings.values())
    assert all(column.wrap or value.strip() in text for row in layout.rows for value, column in zip(row, layout.columns, strict=True))
    assert {column.header for column in table.columns if not column.drop} <= {column.header for column in layout.columns}


@pytest.mark.parametrize(("width", "unicode"), [(None, True), (60, True), (80, False), (120, True)])
@pytest.mark.parametrize("view", VIEWS)
def test_a_table_is_drawn_as_rich_draws_it(view: str, width: int | None, unicode: bool) -> None:
    """Rich judges the columns, the alignment, and characters of width two or none; it would take 30 times as long."""
    record = traced("conditioned")
    record = replace(record, model=replace(record.model, config={**record.model.config, "模型": "ノイズ除去 é", "act_fn": "실루"}))
    table = replace(VIEWS[view](record), above=(), below=())
    text, _ = render_table(table, Screen(width=width, unicode=unicode))

    assert text.splitlines() == drawn_by_rich(wrap_lines(fit(table, width), width), unicode=unicode)


def drawn_by_rich(layout: Layout, *, unicode: bool) -> list[str]:
    """Draw what was laid out as a table of Rich; a heading takes the place of an empty line."""
    shape = box.SIMPLE_HEAD if unicode else box.Box("    \n    \n -- \n" + "    \n" * 5, ascii=True)
    table = RichTable(box=shape, padding=(0, GAP - 1, 0, 0), pad_edge=False, show_edge=False)
    for column in layout.columns:
        table.add_column(Text(column.header), justify="right" if column.right else "left", no_wrap=True)
    for number, row in enumerate(layout.rows):
        if number in layout.headings:
            table.add_row("")
        table.add_row(*map(Text, row))
    drawn = io.StringIO()
    console = Console(file=drawn, width=1000, color_system=None, legacy_windows=False)
    console.print(table)
    headings = iter(layout.headings.values())
    return [line.rstrip() or next(headings) for line in drawn.getvalue().rstrip("\n").split("\n")]


def test_screens_without_unicode_or_color_lose_nothing_else() -> None:
    """An ASCII screen gets ASCII, guides of the tree included; a colored table without its escape sequences is the plain one."""
    record = traced("conditioned")
    for table in (tree_table(record, unicode=False), *(view(record) for name, view in VIEWS.items() if name != "tree")):
        assert render_table(table, Screen(width=100, unicode=False))[0].isascii()
        colored, _ = render_table(table, Screen(width=60, color=True))
        plain, _ = render_table(table, Screen(width=60))
        assert "\x1b[" in colored
        assert [line.rstrip() for line in re.sub(r"\x1b\[[\d;]*m", "", colored).splitlines()] == plain.splitlines()


def test_escape_sequences_in_a_config_are_shown_and_not_obeyed() -> None:
    """A name that would clear the screen is written out; Markdown has one table of equal rows whatever is in a cell."""
    record = traced("plain")
    record = replace(record, model=replace(record.model, name="\x1b[2Jmine", config={**record.model.config, "act_fn": "\x1b[31m|silu"}))
    for view in VIEWS.values():
        table = view(record)
        for text in (render_table(table, Screen(width=80))[0], render_markdown(table)):
            assert "\x1b" not in text
            assert "\\x1b[2Jmine" in text
        lines = [line for line in text.splitlines() if line.startswith("|")]
        assert len(lines) == len(table.rows) + 2
        assert {line.replace("\\|", "").count("|") for line in lines} == {len(table.columns) + 1}


def test_csv_has_the_fields_of_the_record() -> None:
    """Names are those of the JSON, nested ones with a dot; shapes are tuples; absent values are empty; columns add up."""
    rows = list(csv.DictReader(io.StringIO(render_csv(stages_table(traced("sd15")), delimiter=","))))

    assert len(rows) == len(traced("sd15").stages)
    assert rows[3]["name"] == "down_blocks.0"
    assert rows[3]["out_shape"] == "(2, 320, 32, 32)"
    assert (rows[3]["attention.self"], rows[3]["attention.cross"]) == ("2", "2")
    assert sum(int(row["macs"]) for row in rows) == traced("sd15").totals.macs
    assert sum(int(row["params"]) for row in rows) == 859_520_964
    for row in csv.DictReader(io.StringIO(render_csv(skips_table(traced("sdxl")), delimiter="\t")), delimiter="\t"):
        assert int(row["hidden_channels"]) + int(row["skip_channels"]) == int(row["concat_channels"])


def test_columns_are_sorted_by_the_numbers_of_the_record() -> None:
    """Behind a text of four digits is the record's integer, under the heading of its field."""
    fields = {"MACs": "macs", "peak": "activation_bytes", "map bytes": "map_bytes", "hidden + skip = concat -> out": "concat_channels"}
    record = traced("conditioned")
    for table in (stages_table(record), skips_table(record), attention_table(record, record.attentions), modules_table(record)):
        numbers = [column for column in table.columns if column.value and column.header not in ("attn", "map")]
        assert numbers
        for column in numbers:
            field = fields.get(column.header, column.header.replace(" ", "_"))
            found = table.rows if table.records is None else table.records
            assert [column.value and column.value(row) for row in table.rows] == [getattr(one, field) for one in found]


@given(view=st.sampled_from(list(VIEWS)), data=st.data(), width=st.integers(1, 250))
def test_columns_that_are_asked_for_are_the_columns(view: str, data: st.DataObject, width: int) -> None:
    """In any order, at any width, with the values of the CSV: shapes and texts as they are, numbers with their units."""
    table = VIEWS[view](traced("plain-one-block" if view == "tree" else "conditioned"))
    names, *rows = csv.reader(io.StringIO(render_csv(table, delimiter=",")))
    wanted = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    picked = only_columns(table, wanted)

    assert [column.header for column in fit(picked, width).columns] == wanted
    assert list(csv.reader(io.StringIO(render_csv(picked, delimiter=",")))) == [
        [row[names.index(name)] for name in wanted] for row in [names, *rows]
    ]
    for column, name in zip(picked.columns, wanted, strict=True):
        for shown, row in zip(map(column.show, picked.rows), rows, strict=True):
            value = row[names.index(name)]
            if value.startswith('["') and view != "config":  # whose values are JSON
                value = ", ".join(json.loads(value))
            if name == "changes" and value == "[]":
                value = ""
            assert shown == (value or "-") or re.fullmatch(r"[\d.]+ ([kMGTB]|[KMG]?i?B)", shown) or value == shown == ""


@given(text=st.text(alphabet="ab_ ./-", max_size=60), width=st.integers(1, 30), file=st.booleans())
def test_wrapping_a_cell_loses_no_letter(text: str, width: int, file: bool) -> None:
    """Broken lines hold the same letters in the same order; the name of a file fits 24 columns whatever it is."""
    lines = wrap_cell(text, width, file=file)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert not file or max(map(len, lines)) <= max(width, 24)


@pytest.mark.parametrize(("width", "meanings"), [(20, ["a: first"]), (200, ["a: first", "wide: second"])])
def test_a_legend_is_that_of_the_columns_that_are_shown(width: int, meanings: list[str]) -> None:
    """What was dropped is not explained; Markdown has all columns."""
    columns = (Column("a", str), Column("wide", lambda row: f"{row}" * 40, drop=1))
    table = Table(columns=columns, rows=["1"], below=["total"], legend={"a": "first", "wide": "second"})

    assert render_table(table, Screen(width=width))[0].splitlines()[-len(meanings) - 1 :] == ["total", *meanings]
    assert render_markdown(table).endswith("total  \na: first  \nwide: second\n")
    assert "first" not in render_table(replace(table, rows=[]), Screen(width=width))[0]
