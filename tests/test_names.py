"""Every name that a module or tensor goes by, looked up either way round."""

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
from unetinspect.record.names import Name
from unetinspect.views.names import names_table
from unetinspect.views.render import Screen, render_csv, render_table

NAMINGS = ("path", "original", "comfyui", "block", "kohya", "peft", "processor")
MODELS = ["sd15", "sdxl", "bk-sdm-tiny", "controlnet-sd15-canny", "ddpm-cat-256", "kandinsky-3"]
SMALL = ["conditioned", "plain", "per-block-lists", "text-time", "no-mid-block", "class-projection", "k-blocks", "gligen", "text-image"]


def only(model: str, text: str) -> Name:
    """Return the one thing that a text means."""
    (found,) = find_names(traced(model), text)
    return found


@pytest.mark.parametrize("model", [*MODELS[:-1], *SMALL])
def test_any_name_finds_what_it_is_a_name_of(model: str) -> None:
    """For every naming and every name; the name of a module or tensor that is no block finds it alone."""
    index = NameIndex(traced(model))
    found: dict[str, set[str]] = {}
    for name in index.names:
        texts = [getattr(name, naming) for naming in NAMINGS]
        texts += [] if name.ip_adapter is None else [f"{name.ip_adapter}.to_k_ip.weight"]
        for text in filter(None, texts):
            if text not in found:
                found[text] = {hit.path for hit in index.find(text)}
            assert name.path in found[text], text

    assert all(len(found[name.path]) == 1 for name in index.names if name.kind == "tensor" or name.kohya or name.processor)


@pytest.mark.parametrize("model", [*MODELS, *SMALL])
def test_no_two_things_have_one_name(model: str) -> None:
    """Every naming but that of blocks tells each module and tensor apart, also written without dots."""
    names = names_of(traced(model))
    for naming in (*NAMINGS, "ip_adapter"):
        told = [str(getattr(name, naming)).replace(".", "_") for name in names if getattr(name, naming) is not None]
        assert naming == "block" or len(set(told)) == len(told)


@pytest.mark.parametrize("model", [*MODELS, *SMALL])
def test_what_has_no_name_has_a_reason(model: str) -> None:
    """A naming in which nothing of a UNet has a name is said to be one, and no other is."""
    record = traced(model)
    names = names_of(record)
    fields = ("original", "block", "kohya", "peft", "processor", "ip_adapter")

    assert set(absent(record)) == {field for field in fields if all(getattr(name, field) is None for name in names)}


@pytest.mark.parametrize("model", [*MODELS, *SMALL])
def test_the_names_are_those_of_the_record(model: str) -> None:
    """Each module but the root and each tensor stands there once; the items hold every parameter, and no two the same."""
    record = traced(model)
    names = names_of(record)
    paths = {module.path: module for module in record.modules}

    assert [name.path for name in names if name.kind == "module"] == [path for path in paths if path]
    assert {name.path: name.shape for name in names if name.kind == "tensor"} == {
        f"{module.path}.{own}".lstrip("."): shape for module in record.modules for own, shape in module.tensors.items()
    }
    direct = sum(prod(shape) for shape in paths[""].tensors.values())
    assert sum(paths[item].params for item in items_of(record)) + direct == record.totals.params
    assert msgspec.json.decode(msgspec.json.encode(names), type=tuple[Name, ...]) == names


MIDDLE = "mid_block.attentions.0.transformer_blocks.0"
BLOCKS = "its blocks are IN00 to IN11, M00, OUT00 to OUT11"
IP_ADAPTER = "its cross-attention layers have 1, 3, ... 31"
LISTS = "`unetinspect names sd15` lists what it has"
NOT_KNOWN = "no name in the original layout: it is known here for UNet2DConditionModel and ControlNetModel, not for Kandinsky3UNet"
NO_BLOCK = "no block of merge-block-weighted, which counts the blocks of Stable Diffusion's original layout"
NO_NUMBER = "no number in an IP-Adapter's keys: this UNet has no cross-attention that diffusers loads one into"
TO_K = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.mark.parametrize(
    "text",
    [
        TO_K,
        f"unet.{TO_K}",
        f"unet.{TO_K}.lora_A.weight",
        f"unet.{TO_K}.lora_B.default.weight",
        f"base_model.model.{TO_K}.lora_A.weight",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight",
        f"{TO_K}.lora.up.weight",
        f"lora_unet_{TO_K.replace('.', '_')}",
        f"lora_unet_{TO_K.replace('.', '_')}.lora_down.weight",
        f"lora_unet_{TO_K.replace('.', '_')}.alpha",
        f"lora_unet_{TO_K.replace('.', '_')}.hada_w1_a",
        f"lycoris_{TO_K.replace('.', '_')}.lokr_w1",
        "input_blocks.4.1.transformer_blocks.0.attn2.to_k",
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k",
        "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.lora_up.weight",
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_up.weight",
        f"  '{TO_K}' ",
    ],
)
@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_a_layer_is_found_by_whatever_a_tool_writes(model: str, text: str) -> None:
    """With any prefix and any ending; LoRAs of SDXL are written in both layouts."""
    assert only(model, text).path == TO_K


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("output_blocks.5.1", "up_blocks.1.attentions.2"),
        ("output_blocks.5.2.conv.bias", "up_blocks.1.upsamplers.0.conv.bias"),
        ("input_blocks.3.0.op", "down_blocks.0.downsamplers.0.conv"),
        ("time_embed.2", "time_embedding.linear_2"),
        ("out.2", "conv_out"),
        (f"{TO_K}.weight", f"{TO_K}.weight"),
        (f"{MIDDLE}.attn1.processor.to_out_lora.up.weight", f"{MIDDLE}.attn1.to_out.0"),
        (f"{MIDDLE}.attn2.processor", f"{MIDDLE}.attn2"),
        (f"{MIDDLE}.attn2.processor.to_k_ip.0.weight", f"{MIDDLE}.attn2"),
        ("ip_adapter.31.to_v_ip.weight", f"{MIDDLE}.attn2"),
    ],
)
def test_a_name_means_one_thing(text: str, path: str) -> None:
    """Tensors are found with their ending, modules without it."""
    assert only("sd15", text).path == path


@pytest.mark.parametrize(
    "text", ["IN04", "in4", "IN 04", "input_blocks.4", "lora_unet_input_blocks_4", "model.diffusion_model.input_blocks.4."]
)
def test_a_block_gives_all_that_is_in_it(text: str) -> None:
    """Whichever way it is written: the resnet, the transformer, and everything in both."""
    found = find_names(traced("sd15"), text)

    assert {name.path for name in found} == {
        name.path for name in names_of(traced("sd15")) if (name.original or "").startswith("input_blocks.4.")
    }
    assert {"down_blocks.1.resnets.0", "down_blocks.1.attentions.0"} <= {name.path for name in found}


@pytest.mark.parametrize("text", ["MID", "m", "M00", "mid0", "middle", "middle_block", "mid_block"])
def test_the_middle_has_many_names(text: str) -> None:
    """Tools call it M00, people MID; diffusers' own module is the same."""
    found = {name.path for name in find_names(traced("sdxl"), text)}

    assert {"mid_block", "mid_block.resnets.1", "mid_block.attentions.0.norm.weight"} <= found
    assert all(path.startswith("mid_block") for path in found)


@pytest.mark.parametrize(("model", "last"), [("sd15", 11), ("sdxl", 8)])
def test_the_blocks_are_those_that_merge_tools_show(model: str, last: int) -> None:
    """IN00 to IN11, M00 and OUT00 to OUT11; SDXL has nine each way."""
    blocks = {name.block for name in names_of(traced(model))} - {None}

    assert blocks == {"M00", *(f"{way}{number:02}" for way in ("IN", "OUT") for number in range(last + 1))}


def test_a_container_of_diffusers_stands_for_what_it_holds() -> None:
    """A down block is three items of the original's list, and no one of them: it has no name there."""
    found = find_names(traced("sd15"), "down_blocks.1")

    assert (found[0].path, found[0].original, found[0].block) == ("down_blocks.1", None, None)
    assert {name.block for name in found[1:]} == {None, "IN04", "IN05", "IN06"}


@pytest.mark.parametrize(
    ("model", "text", "message", "hint"),
    [
        ("sd15", "input_blocks.12.0", "sd15 has nothing called 'input_blocks.12.0'", "input_blocks holds 0 to 11"),
        ("sd15", "input_blocks.3.1", "sd15 has nothing called 'input_blocks.3.1'", "input_blocks.3 holds input_blocks.3.0 alone"),
        (
            "sd15",
            "down_blocks.1.attention.0",
            "sd15 has nothing called 'down_blocks.1.attention.0'",
            "down_blocks.1 holds attentions, resnets, downsamplers",
        ),
        ("sdxl", "IN11", "sdxl has no block IN11", "its blocks are IN00 to IN08, M00, OUT00 to OUT08"),
        ("sd15", "BASE", "'BASE' is the text encoder's share of a merge, no block of the UNet", BLOCKS),
        (
            "sd15",
            "4.to_k_ip.weight",
            "no layer of sd15 has the number 4 in an IP-Adapter's keys; even numbers are self-attention, which an IP-Adapter leaves alone",
            IP_ADAPTER,
        ),
        ("sd15", "139.to_k_ip.weight", "no layer of sd15 has the number 139 in an IP-Adapter's keys", IP_ADAPTER),
        ("sd15", "conv_inn", "sd15 has nothing called 'conv_inn'", "did you mean conv_in, conv_out, conv_act?"),
        ("sd15", "xyz", "sd15 has nothing called 'xyz'", LISTS),
        (
            "sd15",
            "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha",
            "'lora_te_text_model_encoder_layers_0_mlp_fc1.alpha' is of a text encoder, not of the UNet",
            LISTS,
        ),
        ("sd15", " ", "the name is empty", "`unetinspect names sd15` lists what the UNet has"),
        ("kandinsky-3", "input_blocks.4.1", "kandinsky-3 has nothing called 'input_blocks.4.1'", NOT_KNOWN),
        ("ddpm-cat-256", "IN04", "ddpm-cat-256 has no block IN04", NO_BLOCK),
        ("ddpm-cat-256", "1.to_k_ip", "ddpm-cat-256 has no layer for the key '1.to_k_ip'", NO_NUMBER),
    ],
)
def test_what_is_no_name_is_an_error_that_says_what_there_is(model: str, text: str, message: str, hint: str) -> None:
    """One sentence on what was typed, and what stands at that place."""
    with pytest.raises(UsageError) as caught:
        find_names(traced(model), text)

    assert (caught.value.message, caught.value.hint) == (message, hint)


@cache
def small_index() -> NameIndex:
    """Return the names of a small UNet."""
    return NameIndex(traced("conditioned"))


@settings(max_examples=30)
@given(st.text(max_size=30) | st.from_regex(r"(lora_unet_|unet\.)?(input|down|mid)_blocks?[._][0-9][._](\w|\.){0,20}", fullmatch=True))
def test_anything_typed_is_a_name_or_a_usage_error(text: str) -> None:
    """No text breaks the search."""
    index = small_index()
    try:
        hint: str | None = str(index.find(text)[0])
    except UsageError as error:
        hint = error.hint

    assert hint


def shown(model: str, text: str | None, width: int = 80) -> str:
    """Return what the command prints for a name, or for none."""
    record = traced(model)
    names = names_of(record) if text is None else find_names(record, text)
    return render_table(names_table(record, names, asked=text), Screen(width=width))[0]


def test_one_name_is_a_list_of_all_its_names() -> None:
    """Each naming on a line of its own, nothing cut."""
    lines = shown("sdxl", f"{TO_K}.weight").splitlines()

    assert [line.rstrip() for line in lines[5:]] == [
        f"diffusers               {TO_K}.weight",
        "tensor                  Linear (640, 2048)",
        "original                input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight",
        "in a checkpoint         model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight",
        "block                   IN04",
        "kohya-ss LoRA, of to_k  lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k",
        f"PEFT LoRA, of to_k      unet.{TO_K}",
    ]


@pytest.mark.parametrize(
    ("model", "text", "words"),
    [
        ("sdxl", "down_blocks.1.attentions", "5, 7"),
        ("sdxl", "mid_block.attentions.0", "IP-Adapter inside  121, 123 .. 139"),
        ("sd15", "conv_act", "no name in the original layout: it has no parameters, so no checkpoint names it"),
        ("sd15", "conv_out", "no block: merge and LoRA tools disagree on what stands outside of the three lists"),
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
    names = names_of(record)
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
