"""Every name that a module or tensor goes by, looked up either way round."""

from __future__ import annotations

from functools import cache
from math import prod

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import traced
from unetinspect.errors import UsageError
from unetinspect.naming import NameIndex, absent, find_names, items_of, names_of
from unetinspect.record.checkpoint import Name

NAMINGS = ("path", "original", "comfyui", "block", "kohya", "peft", "processor")
MODELS = ["sdxl", "bk-sdm-tiny", "controlnet-sd15-canny", "ddpm-cat-256"]
SMALL = ["conditioned", "plain", "per-block-lists", "text-time", "no-mid-block", "class-projection", "k-blocks", "gligen", "text-image"]


@cache
def index_of(model: str) -> NameIndex:
    """Return the names of a model, looked through once."""
    return NameIndex(traced(model))


def only(model: str, text: str) -> Name:
    """Return the one thing that a text means."""
    (found,) = index_of(model).find(text)
    return found


@pytest.mark.parametrize("model", ["sdxl", "bk-sdm-tiny", "controlnet-sd15-canny", *SMALL])
def test_any_name_finds_what_it_is_a_name_of(model: str) -> None:
    """For every naming and every name; the name of a module or tensor that is no block finds it alone."""
    index = index_of(model)
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
    names = index_of(model).names
    for naming in (*NAMINGS, "ip_adapter"):
        told = [str(getattr(name, naming)).replace(".", "_") for name in names if getattr(name, naming) is not None]
        assert naming == "block" or len(set(told)) == len(told)


@pytest.mark.parametrize("model", [*MODELS, *SMALL])
def test_what_has_no_name_has_a_reason(model: str) -> None:
    """A naming in which nothing of a UNet has a name is said to be one, and no other is."""
    record = traced(model)
    names = index_of(model).names
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
NO_COPY = "an EMA copy's keys have lost their dots: behind model_ema.diffusion_model no original name of sd15 reads so"
NOT_KNOWN = "no name in the original layout: it is known here for UNet2DConditionModel and ControlNetModel, not for UNet2DModel"
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
        (
            "model_ema.diffusion_modelinput_blocks11transformer_blocks0attn1to_kweight",
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.weight",
        ),
        ("model_ema.diffusion_modelinput_blocks110emb_layers1bias", "down_blocks.3.resnets.1.time_emb_proj.bias"),
        ("model_ema.diffusion_modelout2weight", "conv_out.weight"),
    ],
)
def test_a_name_means_one_thing(text: str, path: str) -> None:
    """Tensors are found with their ending, modules without it."""
    assert only("sd15", text).path == path


@pytest.mark.parametrize("model", ["sdxl", "class-projection"])
def test_a_name_that_lost_its_dots_is_still_one(model: str) -> None:
    """EMA copies have keys without dots; each means one tensor, so no two names run into each other."""
    index = index_of(model)
    for name in index.names:
        if name.kind == "tensor":
            assert index.find(f"model_ema.diffusion_model{str(name.original).replace('.', '')}") == (name,)


@pytest.mark.parametrize(("text", "block"), [("INPUT04", "IN04"), ("input 4", "IN04"), ("Input Block 11", "IN11"), ("output 5", "OUT05")])
def test_a_block_is_found_by_its_number_in_words(text: str, block: str) -> None:
    """People write the way out; the number is what counts."""
    assert {name.block for name in index_of("sd15").find(text)} == {block}


@pytest.mark.parametrize(
    "text", ["IN04", "in4", "input block 4", "input_blocks.4", "lora_unet_input_blocks_4", "model.diffusion_model.input_blocks.4."]
)
def test_a_block_gives_all_that_is_in_it(text: str) -> None:
    """Whichever way it is written: the resnet, the transformer, and everything in both."""
    found = index_of("sd15").find(text)

    assert {name.path for name in found} == {
        name.path for name in index_of("sd15").names if (name.original or "").startswith("input_blocks.4.")
    }
    assert {"down_blocks.1.resnets.0", "down_blocks.1.attentions.0"} <= {name.path for name in found}


@pytest.mark.parametrize("text", ["MID", "m", "M00", "middle", "middle block", "middle_block", "mid_block"])
def test_the_middle_has_many_names(text: str) -> None:
    """Tools call it M00, people MID; diffusers' own module is the same."""
    found = {name.path for name in index_of("sdxl").find(text)}

    assert {"mid_block", "mid_block.resnets.1", "mid_block.attentions.0.norm.weight"} <= found
    assert all(path.startswith("mid_block") for path in found)


@pytest.mark.parametrize(("model", "last"), [("sd15", 11), ("sdxl", 8)])
def test_the_blocks_are_those_that_merge_tools_show(model: str, last: int) -> None:
    """IN00 to IN11, M00 and OUT00 to OUT11; SDXL has nine each way."""
    blocks = {name.block for name in index_of(model).names} - {None}

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
        (
            "sdxl",
            "lora_unet_down_blocks_0_attentions_0_proj_in",
            "sdxl has nothing called 'lora_unet_down_blocks_0_attentions_0_proj_in'",
            "down_blocks.0 holds resnets, downsamplers, and no attentions; is it a key of a LoRA for SD 1.x or 2.x?",
        ),
        (
            "sd15",
            "lora_unet_input_blocks_7_1_transformer_blocks_4_attn1_to_q",
            "sd15 has nothing called 'lora_unet_input_blocks_7_1_transformer_blocks_4_attn1_to_q'",
            "input_blocks.7.1.transformer_blocks holds input_blocks.7.1.transformer_blocks.0 alone; is it a key of a LoRA for SDXL?",
        ),
        ("sd15", "model_ema.diffusion_modelx", "sd15 has nothing called 'model_ema.diffusion_modelx'", NO_COPY),
        ("sd15", "model_ema.decay", "'model_ema.decay' is of the EMA itself, not of the UNet", LISTS),
        ("ddpm-cat-256", "model_ema.diffusion_modelx", "ddpm-cat-256 has nothing called 'model_ema.diffusion_modelx'", NOT_KNOWN),
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
        ("ddpm-cat-256", "input_blocks.4.1", "ddpm-cat-256 has nothing called 'input_blocks.4.1'", NOT_KNOWN),
        ("ddpm-cat-256", "IN04", "ddpm-cat-256 has no block IN04", NO_BLOCK),
        ("ddpm-cat-256", "1.to_k_ip", "ddpm-cat-256 has no layer for the key '1.to_k_ip'", NO_NUMBER),
    ],
)
def test_what_is_no_name_is_an_error_that_says_what_there_is(model: str, text: str, message: str, hint: str) -> None:
    """One sentence on what was typed, and what stands at that place."""
    with pytest.raises(UsageError) as caught:
        index_of(model).find(text)

    assert (caught.value.message, caught.value.hint) == (message, hint)


@settings(max_examples=10)
@given(st.text(max_size=30) | st.from_regex(r"(lora_unet_|unet\.)?(input|down|mid)_blocks?[._][0-9][._](\w|\.){0,20}", fullmatch=True))
def test_anything_typed_is_a_name_or_a_usage_error(text: str) -> None:
    """No text breaks the search."""
    index = index_of("conditioned")
    try:
        hint: str | None = str(index.find(text)[0])
    except UsageError as error:
        hint = error.hint

    assert hint
