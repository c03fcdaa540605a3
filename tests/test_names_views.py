"""How names are shown: one with all that it is called, many in a table, and why there is none."""

from __future__ import annotations

import csv
import io

import pytest

from tests.test_names import TO_K, index_of
from tests.tiny import traced
from unetinspect.naming import by_rule, items_of
from unetinspect.views.names import names_table
from unetinspect.views.render import Screen, render_csv, render_table


def shown(model: str, text: str | None, width: int = 80) -> str:
    """Return what the command prints for a name, or for none."""
    record = traced(model)
    names = index_of(model).names if text is None else index_of(model).find(text)
    return render_table(names_table(record, names, asked=text), Screen(width=width))[0]


def test_one_name_is_a_list_of_all_its_names() -> None:
    """Each naming on a line of its own, nothing cut."""
    lines = shown("sdxl", f"{TO_K}.weight").splitlines()

    assert [line.rstrip() for line in lines[5:]] == [
        f"diffusers                   {TO_K}.weight",
        "tensor                      Linear (640, 2048)",
        "original                    input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight",
        "in a checkpoint             model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight",
        "block                       IN04",
        "kohya-ss LoRA of its layer  lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k",
        f"PEFT LoRA of its layer      unet.{TO_K}",
    ]


@pytest.mark.parametrize(
    ("model", "text", "words"),
    [
        ("sdxl", "down_blocks.1.attentions", "5, 7"),
        ("sdxl", "mid_block.attentions.0", "IP-Adapter inside  121, 123 .. 139"),
        ("sd15", "conv_act", "no name in the original layout: it has no parameters, so no checkpoint contains it"),
        ("sd15", "conv_out", "no block: merge and LoRA tools disagree on modules outside the three lists"),
        ("ssd-1b", "middle_block.0", "its names follow the rule by which ComfyUI reads such files"),
        ("gligen", "position_net", "no name in the original layout: the original code has no such layer"),
        ("text-time", "add_embedding.linear_1.bias", "original         label_emb.0.0.bias"),
    ],
)
def test_the_view_says_why_there_is_no_name(model: str, text: str, words: str) -> None:
    """In words below the table; numbers of an IP-Adapter stand at what holds its layers."""
    assert words in " ".join(shown(model, text, width=200).splitlines())


@pytest.mark.parametrize("model", ["bk-sdm-tiny", "controlnet-sd15-canny", "ddpm-cat-256", "text-time"])
def test_the_table_of_all_has_a_line_per_item_and_fits(model: str) -> None:
    """At 80 columns nothing is cut, each item is named, and the sum of the rest is told; data has everything."""
    record = traced(model)
    names = index_of(model).names
    text = shown(model, None)

    assert max(map(len, text.splitlines())) <= 80
    table = names_table(record, names, asked=None)
    assert [row.path for row in table.rows] == list(items_of(record))
    rows = list(csv.DictReader(io.StringIO(render_csv(table, delimiter=","))))
    assert [row["path"] for row in rows] == [name.path for name in names]
    assert all(str(name.original) in text for name in table.rows if name.original)


def test_only_what_the_original_code_cannot_build_is_said_to_follow_a_rule() -> None:
    """A UNet without a transformer in its middle is none of its own."""
    rules = {model: by_rule(traced(model)) for model in ("sd15", "sdxl", "ssd-1b", "bk-sdm-tiny", "ddpm-cat-256")}

    assert [model for model, rule in rules.items() if rule] == ["ssd-1b", "bk-sdm-tiny"]
