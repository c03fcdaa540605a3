"""Every name of a module or tensor, looked up either way round, and how names are shown."""

from __future__ import annotations

import csv
import io
from functools import cache
from math import prod

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import traced
from unetinspect.errors import UsageError
from unetinspect.naming import NameIndex, absent, by_rule, find_names, items_of, names_of
from unetinspect.record.checkpoint import Name
from unetinspect.views.names import names_table
from unetinspect.views.render import Screen, render_csv, render_table

NAMINGS = ("path", "original", "comfyui", "block", "kohya", "peft", "processor", "ip_adapter")
# One for each way to name things: SDXL's, Stable Diffusion's, a ControlNet's, none; and the blocks and embeddings that change names.
PUBLISHED = ["koala-700m", "bk-sdm-tiny", "controlnet-sd15-canny", "ddpm-cat-256"]
MODELS = [*PUBLISHED, "per-block-lists", "text-time", "no-mid-block", "class-projection", "k-blocks", "gligen", "text-image"]


@cache
def index_of(model: str) -> NameIndex:
    """Return the names of a model, indexed once."""
    return NameIndex(traced(model))


@pytest.mark.parametrize("model", MODELS[2:])
def test_any_name_finds_its_module_and_no_other(model: str) -> None:
    """Every naming but that of blocks tells all modules and tensors apart, also without dots; what is not a block is found alone."""
    index = index_of(model)
    found: dict[str, set[str]] = {}
    for naming in NAMINGS:
        named = {name.path: getattr(name, naming) for name in index.names if getattr(name, naming) is not None}
        assert naming == "block" or len({str(text).replace(".", "_") for text in named.values()}) == len(named)
        for path, text in named.items():
            typed = f"{text}.to_k_ip.weight" if naming == "ip_adapter" else text
            if typed not in found:
                found[typed] = {hit.path for hit in index.find(typed)}
            assert path in found[typed], typed
    assert all(len(found[name.path]) == 1 for name in index.names if name.kind == "tensor" or name.kohya or name.processor)


@pytest.mark.parametrize("model", MODELS)
def test_the_names_are_those_of_the_record(model: str) -> None:
    """Each module but the root and each tensor once; items have every parameter, none twice; what is absent has a reason."""
    record, names = traced(model), names_of(traced(model))
    paths = {module.path: module for module in record.modules}

    assert [name.path for name in names if name.kind == "module"] == [path for path in paths if path]
    assert {name.path: name.shape for name in names if name.kind == "tensor"} == {
        f"{module.path}.{own}".lstrip("."): shape for module in record.modules for own, shape in module.tensors.items()
    }
    direct = sum(prod(shape) for shape in paths[""].tensors.values())
    assert sum(paths[item].params for item in items_of(record)) + direct == record.totals.params
    assert msgspec.json.decode(msgspec.json.encode(names), type=tuple[Name, ...]) == names
    optional = set(NAMINGS) - {"path", "comfyui"}
    assert set(absent(record)) == {field for field in optional if all(getattr(name, field) is None for name in names)}


MIDDLE = "mid_block.attentions.0.transformer_blocks.0"
TO_K = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
FLAT = TO_K.replace(".", "_")
WRITTEN = [
    TO_K,
    f"unet.{TO_K}",
    f"unet.{TO_K}.lora_A.weight",
    f"unet.{TO_K}.lora_B.default.weight",
    f"base_model.model.{TO_K}.lora_A.weight",
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight",
    f"{TO_K}.lora.up.weight",
    f"lora_unet_{FLAT}",
    f"lora_unet_{FLAT}.lora_down.weight",
    f"lora_unet_{FLAT}.alpha",
    f"lora_unet_{FLAT}.hada_w1_a",
    f"lycoris_{FLAT}.lokr_w1",
    "input_blocks.4.1.transformer_blocks.0.attn2.to_k",
    "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k",
    "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.lora_up.weight",
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_up.weight",
    f"  '{TO_K}' ",
]


@pytest.mark.parametrize(
    ("path", "texts"),
    [
        (TO_K, WRITTEN),
        ("up_blocks.1.attentions.2", ["output_blocks.5.1"]),
        ("up_blocks.1.upsamplers.0.conv.bias", ["output_blocks.5.2.conv.bias"]),
        ("down_blocks.0.downsamplers.0.conv", ["input_blocks.3.0.op"]),
        ("time_embedding.linear_2", ["time_embed.2"]),
        ("conv_out", ["out.2"]),
        (f"{TO_K}.weight", [f"{TO_K}.weight"]),
        (f"{MIDDLE}.attn1.to_out.0", [f"{MIDDLE}.attn1.processor.to_out_lora.up.weight"]),
        (f"{MIDDLE}.attn2", [f"{MIDDLE}.attn2.processor", f"{MIDDLE}.attn2.processor.to_k_ip.0.weight", "ip_adapter.31.to_v_ip.weight"]),
        ("down_blocks.3.resnets.1.time_emb_proj.bias", ["model_ema.diffusion_modelinput_blocks110emb_layers1bias"]),
        ("conv_out.weight", ["model_ema.diffusion_modelout2weight"]),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_name_is_found_by_whatever_a_tool_writes(path: str, texts: list[str]) -> None:
    """With any prefix and any ending: tensors with their ending, modules without; LoRAs of SDXL are written in both layouts."""
    for model in ("sd15", "sdxl") if path == TO_K else ("sd15",):
        assert [text for text in texts if [name.path for name in index_of(model).find(text)] != [path]] == []


@pytest.mark.parametrize("model", ["bk-sdm-tiny", "class-projection"])
def test_names_without_dots_are_still_told_apart(model: str) -> None:
    """Keys of EMA copies have lost their dots; each means one tensor."""
    index = index_of(model)
    for name in index.names:
        if name.kind == "tensor":
            assert index.find(f"model_ema.diffusion_model{str(name.original).replace('.', '')}") == (name,)


@pytest.mark.parametrize(
    ("texts", "start", "inside"),
    [
        (
            ["IN04", "in4", "INPUT04", "input block 4", "lora_unet_input_blocks_4", "model.diffusion_model.input_blocks.4."],
            "input_blocks.4.",
            {"down_blocks.1.resnets.0", "down_blocks.1.attentions.0"},
        ),
        (["output 11", "OUT11"], "output_blocks.11.", {"up_blocks.3.resnets.2"}),
        (["MID", "m", "M00", "middle", "middle block", "middle_block", "mid_block"], "middle_block", {"mid_block.resnets.1"}),
    ],
    ids=["IN04", "OUT11", "M00"],
)
def test_a_block_gives_all_that_is_in_it(texts: list[str], start: str, inside: set[str]) -> None:
    """Whichever way it is written: the resnet, the transformer, and everything in both."""
    expected = {name.path for name in index_of("sd15").names if (name.original or "").startswith(start)}
    assert inside <= expected
    for text in texts:
        found = index_of("sd15").find(text)
        assert {name.path for name in found if name.original} == expected, text


def test_the_blocks_are_those_that_merge_tools_show() -> None:
    """IN00 to IN11, M00 and OUT00 to OUT11; SDXL has nine each way. A down block of diffusers is three of them."""
    for model, last in (("sd15", 11), ("sdxl", 8)):
        blocks = {name.block for name in index_of(model).names} - {None}
        assert blocks == {"M00", *(f"{way}{number:02}" for way in ("IN", "OUT") for number in range(last + 1))}

    found = find_names(traced("sd15"), "down_blocks.1")
    assert (found[0].path, found[0].original, found[0].block) == ("down_blocks.1", None, None)
    assert {name.block for name in found[1:]} == {None, "IN04", "IN05", "IN06"}


BLOCKS = "its blocks are IN00 to IN11, M00, OUT00 to OUT11"
NUMBERS = "its cross-attention layers have the numbers 1, 3, ... 31"
LIST = "`unetinspect names sd15` lists all names"
NOT_KNOWN = "no original name: known for UNet2DConditionModel and ControlNetModel, not for UNet2DModel"
UNKNOWN = [
    ("sd15", "input_blocks.12.0", None, "input_blocks contains 0 to 11"),
    ("sd15", "input_blocks.3.1", None, "input_blocks.3 contains only input_blocks.3.0"),
    ("sd15", "down_blocks.1.attention.0", None, "down_blocks.1 contains attentions, resnets, downsamplers"),
    (
        "sdxl",
        "lora_unet_down_blocks_0_attentions_0_proj_in",
        None,
        "down_blocks.0 contains resnets, downsamplers, but no attentions; is it a key of a LoRA for SD 1.x or 2.x?",
    ),
    (
        "sd15",
        "lora_unet_input_blocks_7_1_transformer_blocks_4_attn1_to_q",
        None,
        "input_blocks.7.1.transformer_blocks contains only input_blocks.7.1.transformer_blocks.0; is it a key of a LoRA for SDXL?",
    ),
    (
        "sd15",
        "model_ema.diffusion_modelx",
        None,
        "no original name of sd15 matches; keys of an EMA copy are original names without their dots",
    ),
    ("sd15", "model_ema.decay", "'model_ema.decay' is part of the EMA itself, not of the UNet", LIST),
    ("ddpm-cat-256", "model_ema.diffusion_modelx", None, NOT_KNOWN),
    ("sdxl", "IN11", "sdxl has no block IN11", "its blocks are IN00 to IN08, M00, OUT00 to OUT08"),
    ("sd15", "BASE", "'BASE' is the text encoder in a block merge, not a block of the UNet", BLOCKS),
    (
        "sd15",
        "4.to_k_ip.weight",
        "sd15 has no layer with the IP-Adapter number 4 (even numbers are self-attention, which an IP-Adapter does not change)",
        NUMBERS,
    ),
    ("sd15", "139.to_k_ip.weight", "sd15 has no layer with the IP-Adapter number 139", NUMBERS),
    ("sd15", "conv_inn", None, "did you mean conv_in, conv_out, conv_act?"),
    ("sd15", "xyz", None, LIST),
    ("sd15", "lora_te_text_model_fc1.alpha", "'lora_te_text_model_fc1.alpha' is part of a text encoder, not of the UNet", LIST),
    ("sd15", " ", "the name is empty", LIST),
    ("ddpm-cat-256", "input_blocks.4.1", None, NOT_KNOWN),
    (
        "ddpm-cat-256",
        "IN04",
        "ddpm-cat-256 has no block IN04",
        "no block number: merge-block-weighted numbers the blocks of Stable Diffusion's original layout",
    ),
    (
        "ddpm-cat-256",
        "1.to_k_ip",
        "ddpm-cat-256 has no layer for the key '1.to_k_ip'",
        "no IP-Adapter number: this UNet has no cross-attention that diffusers loads one into",
    ),
]


@pytest.mark.parametrize(("model", "text", "message", "hint"), UNKNOWN, ids=[row[1] for row in UNKNOWN])
def test_an_unknown_name_is_an_error_that_says_what_there_is(model: str, text: str, message: str | None, hint: str) -> None:
    """One sentence on what was typed, and what there is in that place."""
    with pytest.raises(UsageError) as caught:
        index_of(model).find(text)

    assert (caught.value.message, caught.value.hint) == (message or f"{model} has nothing called {text!r}", hint)


@settings(max_examples=10)
@given(st.text(max_size=30) | st.from_regex(r"(lora_unet_|unet\.)?(input|down|mid)_blocks?[._][0-9][._](\w|\.){0,20}", fullmatch=True))
def test_anything_typed_is_a_name_or_a_usage_error(text: str) -> None:
    """No text breaks the search."""
    try:
        hint: str | None = str(index_of("text-time").find(text)[0])
    except UsageError as error:
        hint = error.hint

    assert hint


def shown(model: str, text: str | None, width: int = 80) -> str:
    """Return what the command prints for a name, or for none."""
    names = index_of(model).names if text is None else index_of(model).find(text)
    return render_table(names_table(traced(model), names, asked=text), Screen(width=width))[0]


def test_one_name_is_a_list_of_all_its_names() -> None:
    """Each naming on a line of its own; where that does not fit, each name is under its naming, and none is broken."""
    lines, narrow = (shown("sdxl", f"{TO_K}.weight", width=width).splitlines() for width in (200, 80))

    assert max(map(len, narrow)) <= 80
    assert [f"{naming:<28}{name.strip()}" for naming, name in zip(narrow[5::2], narrow[6::2], strict=True)] == lines[5:]
    assert lines[5:] == [
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
        ("sd15", "conv_act", "no original name: it has no parameters, so it is in no checkpoint"),
        ("sd15", "conv_out", "no block number: tools disagree on modules outside input_blocks, middle_block and output_blocks"),
        ("koala-700m", "output_blocks.0.0", "original names: by ComfyUI's rule"),
        ("gligen", "position_net", "no original name: the original code has no such layer"),
        ("text-time", "add_embedding.linear_1.bias", "original         label_emb.0.0.bias"),
    ],
)
def test_the_view_says_why_there_is_no_name(model: str, text: str, words: str) -> None:
    """In words below the table; a module that contains layers shows their IP-Adapter numbers."""
    assert words in " ".join(shown(model, text, width=200).splitlines())


@pytest.mark.parametrize("model", [*PUBLISHED, "text-time"])
def test_the_table_of_all_has_a_line_per_item_and_fits(model: str) -> None:
    """At 80 columns nothing is cut, each item is named, and the rest is counted; data has everything."""
    names, text = index_of(model).names, shown(model, None)

    assert max(map(len, text.splitlines())) <= 80
    table = names_table(traced(model), names, asked=None)
    assert [row.path for row in table.rows] == list(items_of(traced(model)))
    rows = list(csv.DictReader(io.StringIO(render_csv(table, delimiter=","))))
    assert [row["path"] for row in rows] == [name.path for name in names]
    assert all(str(name.original) in text for name in table.rows if name.original)


def test_names_follow_a_rule_only_where_the_original_code_cannot_build_the_unet() -> None:
    """It has no UNet without a transformer in its middle block."""
    rules = {model: by_rule(traced(model)) for model in ("sd15", "sdxl", *PUBLISHED)}

    assert [model for model, rule in rules.items() if rule] == ["koala-700m", "bk-sdm-tiny"]
