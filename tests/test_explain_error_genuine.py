"""Errors that diffusers really raises: by models with the sizes of `kinds.yaml`, which the atlas was not made from, and by PEFT."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from tests.atlas.provoke import ONE_IN, Provoked, provoke
from tests.test_explain_error import only
from tests.tiny import condition
from unetinspect.errors import UsageError
from unetinspect.explain import explain_error
from unetinspect.explain.answers import facts

# Of the errors with their tracebacks: what was measured, rounded down. The rest has another cause that raises the same there.
RIGHT, NAMED, REFUSED = 0.8, 0.95, 0.02


def unet(device: str = "cpu", **keys: Any) -> Any:
    """Build the tiny conditioned UNet with some keys replaced."""
    with torch.device(device):
        return UNet2DConditionModel.from_config({key: value for key, value in condition(**keys).items() if key != "_class_name"})


def raised_by(call: Callable[[], Any]) -> tuple[str, str]:
    """Return the message and the traceback of what a call raises."""
    try:
        call()
    except Exception as error:
        return str(error), traceback.format_exc()
    pytest.fail("nothing was raised")


@cache
def provoked() -> list[Provoked]:
    """Provoke one in so many of the errors; twice as many, from which the shares above were measured, if ALL_KINDS is set."""
    return list(provoke(primes=False, one_in=max(ONE_IN, 12), one_base_in=4))


def kinds_of(error: Provoked) -> set[str]:
    """Return the kinds that an explanation by the true cause may have."""
    cause = f"{error.row.cause} {error.row.about} {error.row.axis}"
    return {answer.kind for answer in facts().message if fnmatchcase(cause, answer.cause)}


@pytest.mark.slow
def test_the_true_cause_is_the_first_or_one_of_those_that_are_named() -> None:
    """From its traceback most errors are explained by what was really wrong; the others name it as another cause."""
    counts: Counter[str] = Counter()
    for error in provoked():
        try:
            found = explain_error(error.traceback).explanations[0]
        except UsageError:
            counts["refused"] += 1
            continue
        first = found.kind in kinds_of(error)
        counts["right"] += first
        counts["named"] += first or bool(kinds_of(error) & {other.kind for other in found.others})

    assert len(provoked()) > 70
    assert counts["right"] >= RIGHT * len(provoked())
    assert counts["named"] >= NAMED * len(provoked())
    assert counts["refused"] <= REFUSED * len(provoked())


@pytest.mark.slow
def test_a_message_alone_is_decided_only_where_it_says_so_itself() -> None:
    """Without a traceback what is claimed is right, but for a few; nothing is claimed of most."""
    claimed = wrong = 0
    for error in provoked():
        try:
            found = explain_error(error.message).explanations[0]
        except UsageError:
            continue
        claimed += found.decided_by != "nothing"
        wrong += found.decided_by != "nothing" and not kinds_of(error) & {found.kind, *(other.kind for other in found.others)}

    assert claimed > 8
    assert wrong <= 0.15 * claimed  # a config that the message itself takes for another mistake


def run(model: Any, sample: tuple[int, ...] = (2, 4, 16, 16), text: tuple[int, ...] | None = (2, 7, 24)) -> Any:
    """Call a UNet with zeros of these shapes."""
    device = next(model.parameters()).device
    return model(torch.zeros(sample, device=device), 1, None if text is None else torch.zeros(text, device=device))


def _without_processors(model: Any) -> None:
    model.set_attn_processor({})


MISTAKES: dict[str, tuple[Callable[[Any], Any], dict[str, Any], str, set[Any], str]] = {
    "width of text": (lambda model: run(model, text=(2, 7, 40)), {}, "cross_attention_width", {14, 40, 24, 32}, "__call__"),
    "no text": (lambda model: run(model, text=None), {}, "encoder_hidden_states", {24, 32}, "__call__"),
    "inpainting": (lambda model: run(model, sample=(2, 9, 16, 16)), {}, "in_channels", {9, 4}, "forward"),
    "channels last": (lambda model: run(model, sample=(2, 32, 32, 4)), {}, "axis_order", {32, 4}, "forward"),
    "no classes": (run, {"num_class_embeds": 10}, "class_labels", set(), "get_class_embed"),
    "processors": (_without_processors, {}, "processor_count", {0, 8}, "set_attn_processor"),
}


ON_META = ("width of text", "no text", "no classes", "processors")  # a convolution says only "Invalid channel dimensions" there


@pytest.mark.parametrize(("name", "device"), [*((name, "cpu") for name in MISTAKES), *((name, "meta") for name in ON_META)])
def test_a_forward_that_fails_is_explained_from_its_traceback(name: str, device: str) -> None:
    """The kind, the numbers and the function that raised are found, in the words of the CPU and of meta."""
    call, keys, kind, numbers, function = MISTAKES[name]

    model = unet(device, **keys)

    found = only(raised_by(lambda: call(model))[1])

    assert found.kind == kind
    assert numbers <= {number.value for number in found.numbers}
    assert found.module is not None
    assert f".{function}, line " in found.module


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"up_block_types": ["UpBlock2D"]}, "up_block_types"),
        ({"cross_attention_dim": [24]}, "cross_attention_dim"),
        ({"down_block_types": ["CrosAttnDownBlock2D", "DownBlock2D"]}, "did you mean CrossAttnDownBlock2D"),
        ({"time_embedding_type": "sines"}, "positional"),
        ({"encoder_hid_dim_type": "ip_image_proj", "encoder_hid_dim": 12}, "IP-Adapter"),
        ({"class_embed_type": "projection"}, "projection_class_embeddings_input_dim"),
        ({"act_fn": "sulu"}, "act_fn"),
        ({"norm_num_groups": 7}, "norm_num_groups"),
    ],
    ids=str,
)
def test_a_config_that_diffusers_refuses(keys: dict[str, Any], word: str) -> None:
    """The key is named, and for a misspelled block the one that was meant."""
    found = only(raised_by(lambda: unet("meta", **keys))[1])

    assert found.kind in ("config", "norm_groups")
    assert word in " ".join((found.meaning, *found.changes))


def lora(**keys: Any) -> dict[str, torch.Tensor]:
    """Return a LoRA of the tiny UNet with some keys replaced, as PEFT names it."""
    model = unet(**keys)
    model.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    return get_peft_model_state_dict(model)


def load_lora(weights: dict[str, torch.Tensor]) -> None:
    """Load a LoRA into the tiny UNet."""
    unet().load_lora_adapter(weights, prefix=None)


PEFT: dict[str, tuple[Callable[[], Any], str, str]] = {
    "of another family": (
        lambda: load_lora(lora(cross_attention_dim=40)),
        "lora_checkpoint",
        "cross_attention_dim is 40 in the LoRA and 24",
    ),
    "with a prefix": (lambda: load_lora({f"unet.{name}": one for name, one in lora().items()}), "checkpoint", "prefix 'unet.'"),
    "of a deeper UNet": (
        lambda: load_lora({name.replace("transformer_blocks.0", "transformer_blocks.3"): one for name, one in lora().items()}),
        "lora_keys",
        "SDXL",
    ),
    "for other modules": (lambda: unet().add_adapter(LoraConfig(target_modules=["q_proj"])), "lora_keys", "q_proj"),
}


@pytest.mark.parametrize("name", PEFT)
def test_a_lora_that_peft_refuses(name: str) -> None:
    """Of another width, with names that the UNet does not have, or with a prefix before them."""
    call, kind, words = PEFT[name]

    found = only(raised_by(call)[1])

    assert found.kind == kind
    assert words in found.meaning
