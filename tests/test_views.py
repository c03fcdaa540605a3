"""What each view says, against golden files whose numbers are added up again, and against the record."""

from __future__ import annotations

import csv
import io
import json
import re
from math import prod
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from msgspec.structs import replace

from tests.tiny import KINDS, PLAIN, condition, config_of, traced, traced_once
from unetinspect import Trace, trace
from unetinspect.views.attention import attention_lines, attention_table
from unetinspect.views.render import Screen, render_csv, render_markdown, render_table
from unetinspect.views.skips import explain_skips, skip_lines, skips_table
from unetinspect.views.stages import cost_lines, stages_table
from unetinspect.views.tree import tree_table, within_depth
from unetinspect.views.words import skip_sum

FREEU = (1.2, 1.4, 0.9, 0.2)


@pytest.mark.parametrize("model", ["sd15", "ddpm-cat-256", "if-i-xl"])
def test_the_trace_table(golden: Any, model: str) -> None:
    """The golden table; and its numbers, read back out of the text, are the record's."""
    record = traced(model)
    text, _ = render_table(stages_table(record), Screen(width=80))
    golden(f"trace/{model}.txt", text)

    cells = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    shown = {line[0]: line for line in cells if line[0] in {stage.name for stage in record.stages}}
    for stage in record.stages:
        assert str(stage.out_shape) in shown[stage.name]
        assert not stage.attention.total or str(stage.attention.total) in shown[stage.name]
    assert f"{record.totals.params:,}" in text


@pytest.mark.parametrize("model", ["sd15", "ddpm-cat-256", "skip-blocks"])
def test_the_skips_table(golden: Any, model: str) -> None:
    """The golden table; and every line of it adds up."""
    text, _ = render_table(skips_table(traced(model)), Screen(width=80))
    golden(f"skips/{model}.txt", text)

    sums = re.findall(r"(\d+) \+ (\d+) = (\d+) -> (\d+)", text)
    assert len(sums) == len(traced(model).skips)
    for hidden, skip, concat, _ in sums:
        assert int(hidden) + int(skip) == int(concat)


EXPLAINED = ("sd15", "ddpm-cat-256", "k-blocks", "ldm-celebahq-256")


@pytest.mark.parametrize(
    "kind", [*EXPLAINED, "per-block-lists", "no-layers", "plain-one-block", "skip-blocks", "nested-transformer-depths"]
)
def test_the_explanation(golden: Any, kind: str) -> None:
    """The golden words; every sum adds up; every number of skips is the record's; the classical reason is given where it holds."""
    record = traced(kind)
    text = "\n".join(explain_skips(record)) + "\n"
    if kind in EXPLAINED:
        golden(f"explain/{kind}.txt", text)

    for left, total in re.findall(r"((?:\d+ \+ )+\d+) = (\d+)", text):
        assert sum(map(int, left.split(" + "))) == int(total)
    pushes, pops = (sum(map(int, re.findall(rf"{verb} (\d+):", text))) for verb in ("pushes", "pops"))
    assert pushes == pops == len(record.skips)
    if "does not follow the rule" not in text:
        layers = record.model.config["layers_per_block"]
        layers = layers if isinstance(layers, list) else [layers] * sum(stage.role == "down" for stage in record.stages)
        assert len(record.skips) == sum(count + 1 for count in layers)


def test_a_mismatch_is_written_beside_the_sum() -> None:
    """A skip whose sum is not what the convolution takes says so in its own line and below the table."""
    record = traced("plain")
    first, *others = record.skips
    wrong = replace(first, conv_channels=first.concat_channels + 1)

    assert skip_sum(wrong) == f"{skip_sum(first)} (MISMATCH: its first convolution takes {first.concat_channels + 1})"
    assert f"MISMATCH in 1 of {len(record.skips)}: hidden + skip differs from the first convolution's input channels" in skip_lines(
        replace(record, skips=(wrong, *others))
    )


@pytest.mark.parametrize("kind", ["svd", "uvit", "cascade-prior", "unet1d-audio", "unet1d-value-function"])
def test_attention_layers_are_counted_in_the_fields_words(kind: str, golden: Any) -> None:
    """Blocks of videos and of aMUSEd are transformer blocks too; modules between blocks are left out; blocks are named as they are."""
    lines, counts = attention_lines(traced(kind)), traced(kind).totals.attention
    golden(f"attention_lines/{kind}.txt", "\n".join(lines) + "\n")

    assert not counts.total or sum(map(int, re.findall(r"\d+", lines[1]))) == counts.total
    assert all(f"{getattr(counts, one)} {one.strip('_')}" in lines[0] for one in ("self_", "cross", "temporal") if getattr(counts, one))


@pytest.mark.parametrize("kind", ["controlnet", "uvit", "cascade-decoder", "kandinsky3", "conditioned"])
def test_skips_that_are_not_those_of_stable_diffusion_are_said_in_words(kind: str, golden: Any) -> None:
    """None at all, one read several times, outside any block, changed on the way."""
    record = traced(kind, freeu=FREEU) if kind == "conditioned" else traced(kind)
    lines = skip_lines(record)
    golden(f"skip_lines/{kind}.txt", "\n".join(lines) + "\n")

    assert explain_skips(record)[-len(lines) :] == lines
    assert any(column.header == "changes" for column in skips_table(record).columns) == any("changed on the way" in line for line in lines)


def test_a_skip_has_one_label_in_every_form() -> None:
    """Channels, sum and changes are the same in the table, Markdown, CSV, the HTML page and each drawing; here each is written anew."""
    down, up = ["CrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D"], ["UpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"]
    three = {"block_out_channels": [32, 32, 64], "down_block_types": down}
    record = traced_once(condition(**three, up_block_types=up), freeu=FREEU, plug_in=config_of("controlnet", **three))
    table, drawing = skips_table(record), record.draw(level="layer")
    rows = csv.DictReader(io.StringIO(render_csv(table, delimiter=",")))
    tables = [render_table(table, Screen(width=None))[0], render_markdown(table), drawing.html().replace("→", "->")]
    drawings = [drawing.svg(), drawing.mermaid(), drawing.dot(), drawing.text()]

    for skip, row in zip(record.skips, rows, strict=True):
        filtered = skip.target_stage in ("up_blocks.0", "up_blocks.1")
        factors = {"up_blocks.0": ", s1 0.9", "up_blocks.1": ", s2 0.2"}.get(skip.target_stage)
        way = f"+ down_block_additional_residuals.{skip.index}{f'; filtered in the Fourier domain{factors}' if factors else ''}"
        channels = f"{row['hidden_channels']} + {row['skip_channels']} = {row['concat_channels']} -> {row['out_channels']}"
        assert [change["kind"] for change in json.loads(row["changes"])] == ["sum", "filter"][: 1 + filtered]
        assert all(channels in text and way in text for text in tables)
        assert all(f"{row['skip_channels']} (sum{', filter' if filtered else ''})" in text for text in drawings)


@pytest.mark.parametrize("model", ["sd15", "nested-transformer-depths"])
def test_the_tree_unfolded_again_is_every_module(model: str) -> None:
    """Each line stands for as many modules as its own count and those of the lines above it say; together, for all."""
    record = traced(model)
    times: list[int] = []
    standing_for = 0
    for line in tree_table(record).rows:
        level = (len(line.label) - len(line.label.lstrip("│├└─ "))) // 3
        times[level:] = [line.count]
        standing_for += prod(times)

    assert standing_for == len(record.modules)


def test_the_tree_folds_what_print_folds(golden: Any) -> None:
    """Where the observed shapes are equal too, the folded lines are those of `print(unet)`."""
    with torch.device("meta"):
        printed = repr(UNet2DConditionModel.from_config(KINDS["transformer-depths"]))
    folded = re.findall(r"\(([\d-]+)\): (\d+ x \w+)", printed)
    labels = [line.label.lstrip("│├└─ ") for line in tree_table(traced("transformer-depths")).rows if line.count > 1]

    assert sorted(labels) == sorted(f"{name}: {what}" for name, what in folded)
    assert ("0-2: 3 x BasicTransformerBlock") in labels
    golden("tree/transformer-depths.txt", render_table(tree_table(traced("transformer-depths")), Screen(width=None))[0])


def test_depth_cuts_the_tree() -> None:
    """Depth 0 is the UNet alone; depth 1 adds its children."""
    record = traced("sd15")

    assert [line.label for line in tree_table(record, depth=0).rows] == ["UNet2DConditionModel"]
    assert len(tree_table(record, depth=1).rows) == 1 + 9
    assert [module.path for module in within_depth(record.modules, 0)] == [""]
    assert "mid_block.resnets" not in [module.path for module in within_depth(record.modules, 1)]


def test_a_pass_without_attention_or_cfg_says_no_more_than_there_is() -> None:
    """One sample, nothing attends: no second number to tell apart, no second peak."""
    config = {**PLAIN, "down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2, "add_attention": False}
    lines = cost_lines(trace(config, device="meta"))

    assert lines[0].startswith("MACs:   ")
    assert "batch" not in lines[0]
    assert "attention" not in "".join(lines)
    assert [line.split()[0] for line in lines] == ["MACs:", "not", "peak:", "memory:"]


def test_a_record_from_before_costs_were_counted_shows_none() -> None:
    """Its fields are null: the table has the lines and columns that it can, and no empty promises."""
    fields = json.loads(traced("conditioned").to_json())
    for name in [name for name in fields["totals"] if "macs" in name or "flops" in name or "activation" in name or "dtype" in name]:
        fields["totals"][name] = None
    fields["totals"]["uncounted"] = []
    for section in ("stages", "modules", "attentions"):
        for row in fields[section]:
            row |= {name: None for name in ("macs", "macs_by_kind", "flops", "activation_bytes") if name in row}
    record = Trace.from_json(json.dumps(fields))

    assert cost_lines(record) == []
    for table in (stages_table(record), tree_table(record), attention_table(record, record.attentions)):
        text, _ = render_table(table, Screen(width=None))
        assert "None" not in text
    assert "total: 790.4 k params" in render_table(stages_table(record), Screen(width=None))[0]
