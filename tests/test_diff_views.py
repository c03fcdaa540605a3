"""How a comparison is shown: at 80 columns, in Markdown, as CSV; and that its numbers add up."""

from __future__ import annotations

import csv
import io
import re

import msgspec
import pytest

from tests.test_diff import diff_of
from tests.tiny import traced
from unetinspect.compare import compare
from unetinspect.record.diff import Diff, NameCounts, Quantity, SkipDiff, SkipSide
from unetinspect.units import format_count
from unetinspect.views.diff import diff_tables
from unetinspect.views.diff_words import difference, folded, skip_text, weights_text
from unetinspect.views.layout import fit
from unetinspect.views.render import Screen, render_csv, render_markdown, render_table


def diff_text(diff: Diff, screen: Screen) -> tuple[str, list[str]]:
    """Draw a comparison as the command does; returns the hints too."""
    drawn = [render_table(table, screen) for table in diff_tables(diff)]
    return "\n".join(text for text, _ in drawn), [hint for _, hints in drawn for hint in hints]


def diff_csv(diff: Diff) -> str:
    """Write the records of a comparison."""
    return render_csv(diff_tables(diff)[0], delimiter=",")


@pytest.mark.parametrize(("a", "b"), [("sd15", "bk-sdm-tiny"), ("sd15", "svd-xt"), ("ddpm-cat-256", "sd15")], ids=str)
def test_a_comparison_fits_80_columns_whole(a: str, b: str) -> None:
    """At 80 columns no line is longer, and every value that does not wrap is there whole."""
    diff = diff_of(a, b)
    text, left_out = diff_text(diff, Screen(width=80))

    assert max(map(len, text.splitlines())) <= 80
    assert not any("shortened" in hint for hint in left_out)
    for section in diff_tables(diff):
        layout = fit(section, 80)
        values = [value for row in layout.rows for value, column in zip(row, layout.columns, strict=True) if not column.wrap]
        assert all(value.strip() in text for value in values)


def test_bk_sdm_tiny_shows_at_a_glance_what_was_removed() -> None:
    """The third line names the removed stages; the table has a row for each, and one for what is left of the others."""
    text, _ = diff_text(diff_of("sd15", "bk-sdm-tiny"), Screen(width=80))
    rows = [re.split(r"  +", line) for line in text.splitlines()]

    assert text.splitlines()[2] == "stages: 3 removed (down_blocks.3, mid_block, up_blocks.0), 6 changed, 6 the same"
    assert ["params", "859.5 M", "323.4 M", "-536.1 M, -62.4 %"] in rows
    assert ["down_blocks.0", "down_blocks.0", "-4.801 M", "removed resnets.1, attentions.1"] in rows
    assert ["down_blocks.3", "-", "-62.28 M", "removed: DownBlock2D, 2 resnets"] in rows
    assert ["up_blocks.1", "up_blocks.0", "-83.93 M", "removed resnets.1, attentions.1; moved"] in rows
    assert "6 stages are the same: time_proj, time_embedding, conv_in, conv_norm_out,\nconv_act, conv_out\n" in text


def test_two_records_of_one_unet_are_a_line_for_each_part() -> None:
    """The same config: who they are, that they are the same, and that weights fit; at two sizes, parts are counted and not listed."""
    text, left_out = diff_text(diff_of("sd15", "sd14"), Screen(width=80))

    assert left_out == []
    assert text == (
        "A: sd15, UNet2DConditionModel, sample 64x64, batch 2, float32 on meta\n"
        "B: sd14, UNet2DConditionModel, sample 64x64, batch 2, float32 on meta\n"
        "the same: 15 stages, 12 skips, config and totals\n\n"
        "weights: all 686 tensors of A fit B, and vice versa\n"
    )

    text, _ = diff_text(compare(traced("sd15"), traced("sd15", latent=16)), Screen(width=80))
    assert "stages: 2 the same, 13 the same at another size\n" in text
    assert "12 skips differ only in shape\n" in text
    assert "32 attention layers differ only in map size\n" in text
    assert "params 859.5 M" in text.partition("the same: ")[2]
    assert "sd15  " not in text  # two of one name are A and B


def test_names_and_overridden_keys_are_in_the_head() -> None:
    """The keys that were set tell two of one name apart, a long value shortened; a name that would clear the screen is written out."""
    record = traced("conditioned")
    config = {**record.model.config, "mid_block_type": None, "up_block_types": ["UpBlock2D"] * 4}
    model = msgspec.structs.replace(record.model, config=config, config_overrides=("mid_block_type", "up_block_types"))
    diff = compare(record, msgspec.structs.replace(record, model=model))
    heads = diff_text(diff, Screen(width=400))[0].splitlines()[:2]
    shortened = '["UpBlock2D", "UpBlock2D", ...'

    assert (diff.a.overrides, diff.b.overrides) == ({}, {"mid_block_type": None, "up_block_types": ["UpBlock2D"] * 4})
    assert heads[0].startswith(f"A: {record.model.name}, UNet2DConditionModel, ")
    overridden = f" with mid_block_type=null, up_block_types={shortened}, UNet2DConditionModel, "
    assert heads[1].startswith(f"B: {record.model.name}{overridden}")

    sides = {letter: msgspec.structs.replace(diff.a, name=name) for letter, name in (("a", "\x1b[2Jmine"), ("b", "other"))}
    wicked = msgspec.structs.replace(diff, **sides)
    text, _ = diff_text(wicked, Screen(width=80))
    assert "\x1b" not in text
    assert text.count("\\x1b[2Jmine") > 1


def test_the_shape_of_a_skip_is_shown_where_it_does_not_follow_from_the_samples_size() -> None:
    """Samples of 64 and 128: 64 wide there and 128 wide here is the same; 64 wide in both is not."""
    sides = [
        SkipSide(source=f"down.{place}", target="up", call=0, shape=(2, 8, size, size), hidden_channels=8, skip_channels=8,
                 concat_channels=16, out_channels=8, combine="concat", changes=())
        for place, size in ((0, 64), (1, 128))
    ]  # fmt: skip
    skip = SkipDiff(change="changed", a=sides[0], b=sides[1], differs=("source", "shape"))

    assert skip_text(skip, ((64, 64), (128, 128))) == "from down.0 -> down.1"
    assert skip_text(skip, ((64, 64), (64, 64))) == "from down.0 -> down.1; (2, 8, 64, 64) -> (2, 8, 128, 128)"


def test_markdown_and_csv_have_every_section() -> None:
    """A heading and a table of equal rows each; raw numbers in CSV, where the stages' differences add up to that of the totals."""
    text = "\n".join(map(render_markdown, diff_tables(diff_of("sd15", "bk-sdm-tiny"))))
    sections = "Config", "Totals", "Stages", "Skips, by the modules that concatenate them", "Attention", "Inputs, ports and weights"

    assert tuple(line.removeprefix("### ") for line in text.splitlines() if line.startswith("### ")) == sections
    for section in text.split("### ")[1:-1]:
        assert len({line.count("|") for line in section.splitlines() if line.startswith("|")}) == 1
    assert "| down_blocks.3 | - | -62.28 M | -7.556 G | removed: DownBlock2D, 2 resnets |" in text

    rows = list(csv.DictReader(io.StringIO(diff_csv(diff_of("sd15", "bk-sdm-tiny")))))
    stages = [row for row in rows if row["section"] == "stage"]
    (params,) = (row for row in rows if (row["section"], row["name_a"]) == ("total", "params"))
    assert sum(int(row["difference"]) for row in stages) == int(params["difference"]) == 323_384_964 - 859_520_964
    assert [row["name_a"] for row in stages if row["change"] == "removed"] == ["down_blocks.3", "mid_block", "up_blocks.0"]
    assert [(row["a"], row["b"]) for row in rows if row["name_a"] == "layers_per_block"] == [("2", "1")]
    assert diff_csv(diff_of("sd15", "sd14")) == "section,change,name_a,name_b,differs,a,b,difference\n"


@pytest.mark.parametrize(
    ("a", "b", "text"),
    [
        (859_520_964, 323_384_964, "-536.1 M, -62.4 %"),
        (0, 16, "+16"),
        (10, 995, "+985, 99.5 times"),
        (859_520_964, 859_535_364, "+14.40 k"),
        (7, 7, ""),
        (None, 7, ""),
    ],
)
def test_a_difference_has_its_part_of_a(a: int | None, b: int, text: str) -> None:
    """As a percentage; beyond ten times as a multiple; not at all where it would read 0.0 %."""
    quantity = Quantity(a=a, b=b, difference=None if a is None else b - a, ratio=b / a if a else None)

    assert difference(quantity, format_count) == text


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["resnets.0", "resnets.1", "resnets.3"], ["resnets.0-1,3"]),
        (["a.0.b.1", "a.0.b.2", "a.1.b.1", "a.1.b.2"], ["a.0-1.b.1-2"]),
        (["a.0.b.1", "a.1.b.2"], ["a.0.b.1", "a.1.b.2"]),
        (["a.0.x", "a.0.y", "a.1.x"], ["a.0-1.x", "a.0.y"]),
    ],
)
def test_names_are_folded_without_naming_what_is_not_there(paths: list[str], names: list[str]) -> None:
    """Numbers become ranges where all else is the same; no range includes a layer that was not given."""
    assert folded(paths) == names


def test_weights_are_one_line() -> None:
    """Tensors that fit, that have another shape, that are unknown on either side."""
    assert weights_text(NameCounts(same=148, changed=158, added=52, removed=380)) == (
        "weights: 148 of A's 686 tensors fit B by name and shape, 158 with a different shape, 380 not in B; 52 of B not in A"
    )
