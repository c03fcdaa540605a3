"""Errors that diffusers really raises: made with tiny UNets, told by their message alone and by their traceback."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel, UNet2DModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from tests.tiny import CONDITION, condition, plain
from unetinspect.errors import UsageError
from unetinspect.explain import explain_error
from unetinspect.record import ErrorExplanation

DEVICES = ("cpu", "meta")


def unet(device: str = "cpu", **keys: Any) -> Any:
    """Build the tiny conditioned UNet with some keys replaced."""
    with torch.device(device):
        return UNet2DConditionModel.from_config(_config(condition(**keys)))


def plain_unet(device: str = "cpu", **keys: Any) -> Any:
    """Build the tiny unconditional UNet with some keys replaced."""
    with torch.device(device):
        return UNet2DModel.from_config(_config(plain(**keys)))


def _config(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "_class_name"}


def raised_by(call: Callable[[], Any]) -> tuple[str, str]:
    """Return the message and the traceback of what a call raises."""
    try:
        call()
    except Exception as error:
        return str(error), traceback.format_exc()
    pytest.fail("nothing was raised")


def explained(text: str) -> ErrorExplanation:
    """Explain a text with one error."""
    found = explain_error(text).explanations
    assert len(found) == 1, [one.error for one in found]
    return found[0]


def run(model: Any, sample: tuple[int, ...] = (2, 4, 16, 16), text: tuple[int, ...] | None = (2, 7, 24), **arguments: Any) -> Any:
    """Call a UNet with zeros of these shapes."""
    device = next(model.parameters()).device
    states = None if text is None else torch.zeros(text, device=device)
    return model(torch.zeros(sample, device=device), 1, states, **arguments)


def zeros(device: str, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Make a list of tensors."""
    return [torch.zeros(shape, device=device) for shape in shapes]


ADDED = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 80}
RESIDUALS = ((2, 32, 16, 16), (2, 32, 16, 16), (2, 32, 8, 8), (2, 64, 8, 8))


def residuals(device: str, first: tuple[int, ...]) -> dict[str, Any]:
    """Return residuals of which the first has another shape than it must have."""
    return {
        "down_block_additional_residuals": zeros(device, first, *RESIDUALS[1:]),
        "mid_block_additional_residual": torch.zeros(2, 64, 8, 8, device=device),
    }


# Each: the mistake, the kind with a traceback, the numbers that must be told, and the function that raised it.
FORWARDS: dict[str, tuple[Callable[[str], Any], str, set[Any], str]] = {
    "width": (lambda on: run(unet(on), text=(2, 7, 40)), "cross_attention_width", {14, 40, 24, 32}, "__call__"),
    "no text": (lambda on: run(unet(on), text=None), "encoder_hidden_states", {512, 32, 24}, "__call__"),
    "batch of text": (lambda on: run(unet(on), text=(3, 7, 24)), "batch_size", {16384}, "__call__"),
    "size of residuals": (lambda on: run(unet(on), **residuals(on, (2, 32, 12, 12))), "residual_size", {16, 12}, "forward"),
    "batch of residuals": (lambda on: run(unet(on), **residuals(on, (3, 32, 16, 16))), "batch_size", {2, 3}, "forward"),
    "channels of residuals": (lambda on: run(unet(on), **residuals(on, (2, 64, 16, 16))), "residual_channels", {32, 64}, "forward"),
    "no conditions": (lambda on: run(unet(on, **ADDED)), "added_cond_kwargs", set(), "get_aug_embed"),
    "no text_embeds": (lambda on: run(unet(on, **ADDED), added_cond_kwargs={}), "added_cond_kwargs", set(), "get_aug_embed"),
    "no time_ids": (
        lambda on: run(unet(on, **ADDED), added_cond_kwargs={"text_embeds": torch.zeros(2, 32, device=on)}),
        "added_cond_kwargs",
        set(),
        "get_aug_embed",
    ),
    "too few time_ids": (
        lambda on: run(
            unet(on, **ADDED),
            added_cond_kwargs={"text_embeds": torch.zeros(2, 32, device=on), "time_ids": torch.zeros(2, 5, device=on)},
        ),
        "added_cond_width",
        {2, 72, 80},
        "forward",
    ),
    "no classes": (lambda on: run(unet(on, num_class_embeds=10)), "class_labels", set(), "get_class_embed"),
    "width of class embeddings": (
        lambda on: run(
            unet(on, class_embed_type="projection", projection_class_embeddings_input_dim=16), class_labels=torch.zeros(2, 20, device=on)
        ),
        "class_labels_width",
        {16, 20},
        "forward",
    ),
    "width of projected text": (
        lambda on: run(unet(on, encoder_hid_dim=40, encoder_hid_dim_type="text_proj")),
        "encoder_hid_width",
        {14, 24, 40},
        "process_encoder_hidden_states",
    ),
    "no image": (
        lambda on: run(unet(on, encoder_hid_dim=40, encoder_hid_dim_type="image_proj"), added_cond_kwargs={}),
        "added_cond_kwargs",
        set(),
        "process_encoder_hidden_states",
    ),
    "timestep_cond": (
        lambda on: run(unet(on, time_cond_proj_dim=16), timestep_cond=torch.zeros(2, 20, device=on)),
        "time_embedding_width",
        {16, 20},
        "forward",
    ),
    "odd height": (lambda on: plain_unet(on)(torch.zeros(2, 3, 17, 16, device=on), 1), "skip_size", {18, 17}, "forward"),
    "odd width": (lambda on: plain_unet(on)(torch.zeros(2, 3, 16, 17, device=on), 1), "skip_size", {18, 17}, "forward"),
    "no class of an image": (
        lambda on: plain_unet(on, num_class_embeds=4)(torch.zeros(2, 3, 16, 16, device=on), 1),
        "class_labels",
        set(),
        "forward",
    ),
    "classes for a UNet without": (
        lambda on: plain_unet(on)(torch.zeros(2, 3, 16, 16, device=on), 1, class_labels=torch.zeros(2, device=on)),
        "class_labels",
        set(),
        "forward",
    ),
    "processors": (lambda on: unet(on).set_attn_processor({"a": AttnProcessor()}), "processor_count", {1, 8}, "set_attn_processor"),
}


@cache
def raised_in_forward(mistake: str, device: str) -> tuple[str, str]:
    """Return the message and the traceback of a mistake, made once."""
    return raised_by(lambda: FORWARDS[mistake][0](device))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mistake", FORWARDS)
def test_a_forward_that_fails_is_explained_from_its_traceback(mistake: str, device: str) -> None:
    """The kind, the numbers and the function that raised are found, in the words of the CPU and of meta."""
    _, kind, numbers, function = FORWARDS[mistake]

    found = explained(raised_in_forward(mistake, device)[1])

    assert found.kind == kind
    assert numbers <= {number.value for number in found.numbers}
    assert found.module is not None
    assert found.module.startswith("diffusers.models.")
    assert f".{function}, line " in found.module
    assert found.changes


@pytest.mark.parametrize("mistake", FORWARDS)
def test_a_message_alone_is_explained_too(mistake: str) -> None:
    """Without a traceback nothing is known of the module, and each number of the message is still told."""
    found = explained(f"RuntimeError: {raised_in_forward(mistake, 'cpu')[0]}")

    assert found.module is None
    assert found.meaning
    assert found.changes


CHANNELS: dict[str, tuple[tuple[int, ...], str]] = {
    "inpainting": ((2, 9, 16, 16), "in_channels"),
    "pixels": ((2, 3, 16, 16), "in_channels"),
    "channels last": ((2, 32, 32, 4), "axis_order"),
}


@pytest.mark.parametrize("case", CHANNELS)
def test_wrong_input_channels(case: str) -> None:
    """What came in and what conv_in takes are both told, and channels at the end are seen."""
    shape, kind = CHANNELS[case]

    found = explained(raised_by(lambda: run(unet(), sample=shape))[1])

    assert found.kind == kind
    assert {shape, 4} <= {number.value for number in found.numbers}


def test_channels_both_ways_name_the_pipelines() -> None:
    """9 channels into 4 are an inpainting pipeline's, 4 into 9 lack the mask."""
    into_four = explained(raised_by(lambda: run(unet(), sample=(2, 9, 16, 16)))[1])
    into_nine = explained(raised_by(lambda: run(unet(in_channels=9)))[1])

    assert any("StableDiffusionInpaintPipeline" in change for change in into_four.changes)
    assert any("torch.cat([latents, mask, masked_image_latents], dim=1)" in change for change in into_nine.changes)
    assert "sd15-inpaint" in {model.name for model in into_four.models}


def test_a_control_image_of_another_size_is_told_from_its_controlnet() -> None:
    """The sides of both are told, and that a ControlNet is at work."""
    keys = ("in_channels", "block_out_channels", "layers_per_block", "down_block_types", "cross_attention_dim", "norm_num_groups")
    control: Any = ControlNetModel.from_config({key: CONDITION[key] for key in keys})

    found = explained(raised_by(lambda: run(control, controlnet_cond=torch.zeros(2, 3, 96, 128)))[1])

    assert (found.kind, [number.value for number in found.numbers]) == ("residual_size", [16, 12])
    assert "shows a ControlNet" in found.meaning


def test_a_missing_argument_names_the_class() -> None:
    """The class stands in front of `forward()`; what is missing is named."""
    message, trace = raised_by(lambda: unet()(torch.zeros(2, 4, 16, 16), 1))

    assert {explained(text).kind for text in (message, trace)} == {"encoder_hidden_states"}
    assert "UNet2DConditionModel" in explained(message).meaning


def test_dtypes_and_devices() -> None:
    """Half into float, and an input on another device, are told apart."""
    half = torch.zeros(2, 7, 24).half()

    assert explained(raised_by(lambda: unet()(torch.zeros(2, 4, 16, 16), 1, half))[0]).kind == "dtype"
    assert explained(raised_by(lambda: unet().half()(torch.zeros(2, 4, 16, 16), 1, half))[0]).kind == "dtype"
    assert explained(raised_by(lambda: unet()(torch.zeros(2, 4, 16, 16), 1, half.to("meta")))[0]).kind in ("dtype", "device")
    assert explained(raised_by(lambda: unet()(torch.zeros(2, 4, 16, 16).to("meta"), 1, half.float()))[0]).kind == "device"


CONFIGS: dict[str, tuple[dict[str, Any], str, str]] = {
    "up_block_types": ({"up_block_types": ["UpBlock2D"]}, "config", "up_block_types"),
    "block_out_channels": ({"block_out_channels": [32]}, "config", "block_out_channels"),
    "only_cross_attention": ({"only_cross_attention": [True]}, "config", "only_cross_attention"),
    "attention_head_dim": ({"attention_head_dim": [4]}, "config", "attention_head_dim"),
    "cross_attention_dim": ({"cross_attention_dim": [24]}, "config", "cross_attention_dim"),
    "num_attention_heads": ({"num_attention_heads": 8}, "head_count", "attention_head_dim"),
    "down block": ({"down_block_types": ["CrosAttnDownBlock2D", "DownBlock2D"]}, "config", "CrossAttnDownBlock2D"),
    "up block": ({"up_block_types": ["UpBlok2D", "CrossAttnUpBlock2D"]}, "", ""),
    "mid block": ({"mid_block_type": "UNetMidBlock2DCrosAttn"}, "config", "UNetMidBlock2DCrossAttn"),
    "time": ({"time_embedding_type": "sines"}, "config", "'sines'"),
    "addition": ({"addition_embed_type": "texttime"}, "config", "'texttime'"),
    "ip_image_proj": ({"encoder_hid_dim_type": "ip_image_proj", "encoder_hid_dim": 12}, "config", "IP-Adapter"),
    "encoder_hid_dim": ({"encoder_hid_dim_type": "text_proj"}, "config", "encoder_hid_dim"),
    "projection": ({"class_embed_type": "projection"}, "config", "projection_class_embeddings_input_dim"),
    "activation": ({"act_fn": "sulu"}, "config", "'sulu'"),
    "groups": ({"norm_num_groups": 7}, "norm_groups", "norm_num_groups"),
    "depths": ({"transformer_layers_per_block": [[1, 1], 1]}, "config", "reverse_transformer_layers_per_block"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_diffusers_refuses(case: str) -> None:
    """The key is named, and for a misspelt block the one that was meant; what is no error of a UNet is not explained."""
    keys, kind, words = CONFIGS[case]
    message, trace = raised_by(lambda: unet("meta", **keys))

    if not kind:  # "UpBlok2D does not exist." may be about anything
        with pytest.raises(UsageError):
            explain_error(message)
        return
    for text in (message, trace):
        found = explained(text)
        assert found.kind == kind
        assert words in " ".join((found.meaning, *found.changes))
