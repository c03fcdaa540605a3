"""Tables fit any width without a value being cut, in every form."""

from __future__ import annotations

import csv
import io
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
from unetinspect.views.table import Table
from unetinspect.views.tree import tree_table

VIEWS: dict[str, Callable[[Trace], Table]] = {
    "trace": stages_table,
    "skips": skips_table,
    "attn": lambda record: attention_table(record, record.attentions),
    "tree": tree_table,
    "inputs": inputs_table,
    "config": lambda record: config_table(record.model),
}
MODELS = ("sd15", "sdxl", "ddpm-cat-256")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("view", VIEWS)
def test_tables_of_published_models_fit_80_columns_whole(view: str, model: str) -> None:
    """At 80 columns no line is longer, no value is cut, and module paths need no shortening."""
    table = VIEWS[view](traced(model))
    text, left_out = render_table(table, Screen(width=80))
    layout = fit(table, 80)

    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert not layout.shortened
    assert not any("shortened" in hint for hint in left_out)
    unwrapped = [value for line in layout.lines for value, column in zip(line, layout.columns, strict=False) if not column.wrap]
    assert all(value.strip() in text for value in unwrapped)


@pytest.mark.parametrize("view", VIEWS)
def test_a_pipe_gets_every_column_and_no_more_width_than_it_needs(view: str) -> None:
    """Without a width nothing is left out, and no line ends in blanks."""
    table = VIEWS[view](traced("sdxl"))
    text, left_out = render_table(table, Screen(width=None))

    assert left_out == ()
    assert all(column.header in text for column in table.columns)
    assert all(line == line.rstrip() for line in text.splitlines())
    assert all(column.show(row).strip() in text for row in table.rows for column in table.columns)


@pytest.mark.parametrize("view", VIEWS)
@given(width=st.integers(1, 250))
def test_at_any_width_no_value_is_cut(view: str, width: int) -> None:
    """Columns go before values do: every value of the columns that are left stands there whole."""
    table = VIEWS[view](traced("plain-one-block" if view == "tree" else "conditioned"))  # 50 modules have the columns of 180
    text, left_out = render_table(table, Screen(width=width))
    layout = fit(table, width)

    assert bool(layout.dropped) == any(hint.startswith(f"left out at {width} columns") for hint in left_out)
    for line in layout.lines:
        for value, column in zip(line, layout.columns, strict=False):
            assert column.wrap or value.strip() in text
    assert {column.header for column in table.columns if not column.drop} <= {column.header for column in layout.columns}


@pytest.mark.parametrize("view", VIEWS)
def test_ascii_screens_get_ascii(view: str) -> None:
    """Where the output cannot show more, rules and guides are ASCII too."""
    table = tree_table(traced("sd15"), unicode=False) if view == "tree" else VIEWS[view](traced("sd15"))
    text, _ = render_table(table, Screen(width=100, unicode=False))

    assert text.isascii()


def test_colour_changes_nothing_but_colour() -> None:
    """Without its escape sequences a coloured table is the plain one."""
    import re

    table = VIEWS["skips"](traced("sd15"))
    colored, _ = render_table(table, Screen(width=80, color=True))
    plain, _ = render_table(table, Screen(width=80))

    assert "\x1b[" in colored
    assert [line.rstrip() for line in re.sub(r"\x1b\[[\d;]*m", "", colored).splitlines()] == plain.splitlines()


@pytest.mark.parametrize("unicode", [True, False], ids=["unicode", "ascii"])
@pytest.mark.parametrize("width", [None, 60, 80, 120])
@pytest.mark.parametrize("view", VIEWS)
def test_a_table_is_drawn_as_rich_draws_it(view: str, width: int | None, unicode: bool) -> None:
    """Rich judges the columns, what is aligned, and characters that take two columns or none; it would take 30 times as long."""
    wide = traced("conditioned")
    wide = replace(wide, model=replace(wide.model, config={**wide.model.config, "模型": "ノイズ除去 é", "act_fn": "실루"}))
    for record in (traced("sdxl"), wide):
        table = replace(VIEWS[view](record), above=(), below=())
        text, _ = render_table(table, Screen(width=width, unicode=unicode))

        assert text.splitlines() == drawn_by_rich(wrap_lines(fit(table, width), width), unicode=unicode)


def drawn_by_rich(layout: Layout, *, unicode: bool) -> list[str]:
    """Draw what was laid out as a table of Rich; a heading takes the place of an empty line."""
    shape = box.SIMPLE_HEAD if unicode else box.Box("    \n    \n -- \n" + "    \n" * 5, ascii=True)
    table = RichTable(box=shape, padding=(0, GAP - 1, 0, 0), pad_edge=False, show_edge=False)
    for column in layout.columns:
        table.add_column(Text(column.header), justify="right" if column.right else "left", no_wrap=True)
    headings = iter([line[0] for line in layout.lines if len(line) < len(layout.columns)])
    for line in layout.lines:
        table.add_row(*(map(Text, line) if len(line) == len(layout.columns) else [""]))
    drawn = io.StringIO()
    console = Console(file=drawn, width=1000, color_system=None, legacy_windows=False)
    console.print(table)
    return [line.rstrip() or next(headings) for line in drawn.getvalue().rstrip("\n").split("\n")]


def test_escape_sequences_in_a_config_are_shown_and_not_obeyed() -> None:
    """A name that would clear the screen stands there in letters."""
    record = traced("plain")
    record = replace(record, model=replace(record.model, name="\x1b[2Jmine", config={**record.model.config, "act_fn": "\x1b[31msilu"}))
    for view in VIEWS.values():
        text, _ = render_table(view(record), Screen(width=80))

        assert "\x1b" not in text
        assert "\\x1b[2Jmine" in text


@pytest.mark.parametrize("view", VIEWS)
def test_markdown_is_one_table_of_equal_rows(view: str) -> None:
    """Every row has as many cells as there are columns."""
    table = VIEWS[view](traced("sd15"))
    lines = [line for line in render_markdown(table).splitlines() if line.startswith("|")]

    assert len(lines) == len(table.rows) + 2
    assert {line.replace("\\|", "").count("|") for line in lines} == {len(table.columns) + 1}


def test_csv_has_the_fields_of_the_record() -> None:
    """Names are those of the JSON, nested ones with a dot; shapes are tuples; absent values are empty."""
    rows = list(csv.DictReader(io.StringIO(render_csv(stages_table(traced("sd15")), delimiter=","))))

    assert len(rows) == len(traced("sd15").stages)
    assert rows[3]["name"] == "down_blocks.0"
    assert rows[3]["out_shape"] == "(2, 320, 32, 32)"
    assert (rows[3]["attention.self"], rows[3]["attention.cross"]) == ("2", "2")
    assert rows[3]["macs"] == "109550960640"
    assert sum(int(row["macs"]) for row in rows) == traced("sd15").totals.macs
    assert sum(int(row["params"]) for row in rows) == 859_520_964


def test_tsv_of_skips_adds_up() -> None:
    """Numbers stay numbers: the columns of a TSV add up as the table says."""
    for row in csv.DictReader(io.StringIO(render_csv(skips_table(traced("sdxl")), delimiter="\t")), delimiter="\t"):
        assert int(row["hidden_channels"]) + int(row["skip_channels"]) == int(row["concat_channels"])


@given(text=st.text(alphabet="ab_ ", max_size=60), width=st.integers(1, 30))
def test_wrapping_a_cell_loses_no_letter(text: str, width: int) -> None:
    """Broken lines hold the same letters in the same order."""
    assert "".join("".join(wrap_cell(text, width)).split()) == "".join(text.split())
