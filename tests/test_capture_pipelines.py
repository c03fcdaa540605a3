"""A capture of a pipeline sees what its UNet is given, names the rows that are conditional, and samples the same latents."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import HeunDiscreteScheduler
from torch import Tensor
from torch.utils._pytree import tree_map_only

from tests.attention_reference import Reference, daam, word_swap
from tests.pipelines import NEGATIVE, OF_XL, PIPELINES, PROMPT, pipeline, sampled, sdxl, tokenizer
from unetinspect import UsageError, capture, maps

WHOLE: dict[str, Any] = {"heads": None, "steps": None}


def given_to(pipe: Any) -> list[dict[str, Any]]:
    """Return a list to which each call of the UNet adds its arguments."""
    calls: list[dict[str, Any]] = []
    pipe.unet.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append({**dict(zip(("sample", "timestep"), args, strict=False)), **kwargs}), with_kwargs=True
    )
    return calls


@pytest.mark.parametrize("name", PIPELINES)
def test_maps_of_a_pipeline_are_those_of_unfused_attention_and_the_image_is_the_same(name: str) -> None:
    """Each map of each step: the text's is product 0, an image adapter's 1, 2."""
    make, given = PIPELINES[name]
    pipe = make()
    if name == "pag":  # its processors are set during a call only
        pipe._set_pag_attn_processor(pipe.pag_applied_layers, True)
    reference = Reference(pipe.unet)
    calls = given_to(pipe)
    plain = sampled(pipe, **given)
    with torch.no_grad():
        for call in calls:
            reference.unet(**call)
    with capture(pipe, maps(**WHOLE)) as seen:
        captured = sampled(pipe, **given)

    assert torch.equal(captured, plain)
    assert {one.path for one in seen.maps} == {path.replace(".base_layer", "") for path in reference.maps}
    for one in seen.maps:
        expected = reference.maps[one.path]
        products = len(expected) // len(one.calls)
        torch.testing.assert_close(one.tensor.flatten(1, 2), torch.stack(expected[one.product :: products]), atol=1e-5, rtol=0)
        assert (one.calls, one.timesteps) == ((0, 1), tuple(float(call["timestep"]) for call in calls[:2]))
    if name == "not square":
        assert {one.grid for one in seen.maps} == {(16, 24), (8, 12)}


# The conditional and unconditional rows of two images, and the embedding of each row: of the prompts 0 and 1, or of the negative prompt.
ROWS = {
    **dict.fromkeys(("sd", "img2img", "inpaint", "controlnet", "sdxl", *OF_XL), ([2, 3], [0, 1], ["-", "-", 0, 1])),
    **dict.fromkeys(("pag", "sdxl-pag"), ([2, 3], [0, 1], ["-", "-", 0, 1, 0, 1])),
    "pix2pix": ([0, 1], [4, 5], [0, 1, "-", "-", "-", "-"]),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_rows_of_a_pipeline_are_proved_by_the_embeddings_they_carry(name: str) -> None:
    """The prompts' in the conditional rows, that of the negative prompt in the unconditional ones."""
    make, given = {**PIPELINES, **OF_XL}[name]
    pipe = make()
    calls = given_to(pipe)
    prompts = {"prompt": [PROMPT, "a dog"], "negative_prompt": [NEGATIVE] * 2}
    given = {**tree_map_only(Tensor, lambda image: torch.cat([image, image]), given), **prompts}
    tap = maps(kind="cross", tokens_at="16x16", **WHOLE)
    with capture(pipe, tap) as whole, capture(pipe, tap, rows="cond") as cond, capture(pipe, tap, rows="uncond") as uncond:
        sampled(pipe, **given)
    text_encoders = sdxl() if "sdxl" in name else pipeline()
    embeddings = text_encoders.encode_prompt(**prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True)
    carried = {0: embeddings[0][0], 1: embeddings[0][1], "-": embeddings[1][0]}
    conditional, unconditional, carries = ROWS[name]

    torch.testing.assert_close(calls[0]["encoder_hidden_states"], torch.stack([carried[key] for key in carries]))
    for seen, rows in ((cond, conditional), (uncond, unconditional)):
        for one, all_rows in zip(seen.maps, whole.maps, strict=True):
            assert torch.equal(one.tensor, all_rows.tensor[:, rows])
    if name == "pix2pix":  # rows 2 and 3 are conditioned on the image
        assert calls[0]["sample"][:, 4:].flatten(1).any(1).tolist() == [True] * 4 + [False] * 2


def test_without_guidance_every_row_is_conditional() -> None:
    """And there is no unconditional row to capture."""
    pipe = pipeline()
    with capture(pipe, maps(kind="cross"), rows="cond") as cond, capture(pipe, maps(kind="cross")) as whole:
        sampled(pipe, guidance_scale=1.0)
    with pytest.raises(UsageError, match="without guidance"), capture(pipe, maps(kind="cross"), rows="uncond"):
        sampled(pipe, guidance_scale=1.0)

    assert all(torch.equal(one.tensor, other.tensor) for one, other in zip(cond.maps, whole.maps, strict=True))


@pytest.mark.parametrize("target", [pipeline().unet, SimpleNamespace(unet=pipeline().unet)], ids=["a UNet", "an unknown pipeline"])
def test_rows_are_never_guessed(target: Any) -> None:
    """Where the order is not known, a slice names the rows."""
    with pytest.raises(UsageError) as caught, capture(target, maps(), rows="cond"):
        pass

    assert "rows=slice(1, 2)" in (caught.value.hint or "")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_calls_are_labelled_by_their_timesteps() -> None:
    """Heun's method calls the UNet three times for two steps."""
    pipe = pipeline(scheduler=HeunDiscreteScheduler(steps_offset=1))
    calls = given_to(pipe)
    with capture(pipe, maps(**WHOLE)) as seen:
        sampled(pipe)

    assert len(calls) == 3
    for one in seen.maps:
        assert (one.calls, one.tensor.shape[0]) == ((0, 1, 2), 3)
        assert one.timesteps == tuple(float(call["timestep"]) for call in calls)


def test_a_word_swap_is_that_of_prompt_to_prompt() -> None:
    """Two prompts, and the second image takes the cross-attention maps of the first."""
    prompts = {"prompt": ["a cat", "a dog"], "negative_prompt": [NEGATIVE] * 2, "output_type": "latent"}
    edited, other = pipeline(), pipeline()
    other.unet = Reference(other.unet, word_swap).unet
    plain, expected = sampled(edited, **prompts), sampled(other, **prompts)
    with capture(edited, maps(kind="cross", change=lambda probs, at: torch.cat([probs[:3], probs[2:3]]))):
        swapped = sampled(edited, **prompts)

    torch.testing.assert_close(swapped, expected, atol=1e-5 * float(plain.abs().max()), rtol=0)
    torch.testing.assert_close(swapped[0], plain[0], atol=1e-5 * float(plain.abs().max()), rtol=0)
    assert not torch.allclose(swapped[1], plain[1], atol=1e-2)


def test_a_heat_map_is_that_of_daam() -> None:
    """Of a word of two tokens, in an image that is not square: over heads, steps and layers of the conditional row."""
    pipe = pipeline()
    reference = Reference(pipe.unet)
    calls = given_to(pipe)
    with capture(pipe, maps(kind="cross"), rows="cond") as seen:
        sampled(pipe, prompt="a cat, an ox", height=32, width=48)
    with torch.no_grad():
        for call in calls:
            reference.unet(**call)
    ids = tokenizer()("a cat, an ox").input_ids
    positions = [ids.index(tokenizer().convert_tokens_to_ids("o")), ids.index(tokenizer().convert_tokens_to_ids("x</w>"))]
    cross = [
        torch.stack(found)
        for found in reference.maps.values()
        if found[0].shape[-1] == len(tokenizer()("", padding="max_length").input_ids)
    ]
    grids = [(16, 24) if each.shape[-2] == 384 else (8, 12) for each in cross]
    expected = daam([each.unflatten(1, (2, -1))[:, 1].mean((0, 1)).numpy() for each in cross], grids, positions, size=(64, 96))

    assert len(positions) == 2
    np.testing.assert_allclose(seen.heat("ox", (64, 96)).array, expected, atol=1e-5)
    np.testing.assert_allclose(seen.heat(positions, (64, 96)).array, expected, atol=1e-5)
