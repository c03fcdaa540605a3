"""Tensors that are added do not fit: residuals of another size, another batch, other tokens, other channels."""

from __future__ import annotations

import re
from collections.abc import Iterator

from unetinspect.catalog import load_catalog
from unetinspect.explain.recogniser import Recogniser, Said, Scene, explained, meant, message, shape_of
from unetinspect.explain.widths import is_text_rows
from unetinspect.record import ErrorExplanation, ModelMatch, NumberMeaning
from unetinspect.unets.builder import is_list

_PIXELS = 8
_PLUGGED = ("controlnet", "ControlNet", "adapter", "additional_residual", "guided_hint", "cldm", "SparseCtrl")
_CHECK = "`unetinspect inputs MODEL --res HEIGHTxWIDTH` shows the shape of each input at a size"
_PORTS = "`unetinspect ports MODEL --with CONTROLNET` puts what the UNet takes beside what a ControlNet or T2I-Adapter gives"


def _explain(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    first, second, axis = (int(match[name]) for name in ("a", "b", "axis"))
    return explained(match, scene, _said(first, second, axis, scene))


def _explain_shapes(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    """Explain the wording of the meta device, which tells both shapes; its axis counts from the end."""
    other, shape = shape_of(match["other"]), shape_of(match["shape"])
    axis = len(shape) - int(match["axis"])
    if not 0 <= axis < len(shape) or len(other) != len(shape):
        return None
    return explained(match, scene, _said(shape[axis], other[axis], axis, scene))


def _said(first: int, second: int, axis: int, scene: Scene) -> Said:
    if axis == 0:
        return _batch(first, second, scene)
    if axis == 1:
        return _tokens_or_channels(first, second, scene)
    if axis == 2 and (is_text_rows(first) or is_text_rows(second)):
        return _tokens(first, second)
    return _size(first, second, axis, scene)


def _numbers(first: int, second: int, what: str) -> list[NumberMeaning]:
    return [meant(first, f"{what} of the first tensor"), meant(second, f"{what} of the second, which is added to it or compared with it")]


def _size(first: int, second: int, axis: int, scene: Scene) -> Said:
    side = {2: "height", 3: "width", 4: "width of a video's frames"}.get(axis, f"side along dimension {axis}")
    plugged = scene.shows(*_PLUGGED)
    return Said(
        "residual_size",
        f"Two tensors that are added have a {side} of {first} and of {second}. "
        + ("The traceback shows a ControlNet or an adapter: " if plugged else "Most likely ")
        + "residuals are added that were computed for an image of another size, or a mask or latents of another size are mixed in. "
        f"{_why(first, second)}",
        [
            meant(first, f"{side} of the first tensor; as latents of a VAE with factor {_PIXELS} an image of {first * _PIXELS} pixels"),
            meant(second, f"{side} of the second; as latents {second * _PIXELS} pixels"),
        ],
        (),
        [
            "give the control image, the mask and the image one size, that of height and width; resize them before the call",
            *(["with several ControlNets, resize every control image to the same size"] if plugged else []),
            "use sides that are multiples of 64 pixels, so that no level rounds",
            _CHECK,
            _PORTS,
        ],
    )


def _why(first: int, second: int) -> str:
    low, high = sorted((first, second))
    if low and high % low == 0 and high // low == _PIXELS:
        return f"One is {_PIXELS} times the other: an image in pixels stands where latents belong."
    if low and high % low == 0 and high // low == 2:
        return "One is twice the other: an image of twice the size, or residuals of a block one level further out."
    if high - low == 1:
        return "They differ by one: an odd side was rounded, once up and once down."
    return ""


def _batch(first: int, second: int, scene: Scene) -> Said:
    low, high = sorted((first, second))
    doubled = "One is twice the other: CFG doubles the batch, and one of the two was not doubled. " if high == 2 * low else ""
    return Said(
        "batch_size",
        f"Two tensors that are added have batches of {first} and of {second}. {doubled}Every input of a forward pass needs the same batch: "
        "sample, encoder_hidden_states, added_cond_kwargs, class_labels, and the residuals of a ControlNet.",
        _numbers(first, second, "batch"),
        (),
        [
            "repeat what is too short, as torch.cat([x] * 2) for CFG, or leave CFG out for all of them (guidance_scale 1)",
            "with a ControlNet: give it the doubled latents and embeddings too, or use guess_mode, which pads its residuals",
            "`unetinspect inputs MODEL --batch N` shows every input at a batch, CFG included",
        ],
    )


def _tokens_or_channels(first: int, second: int, scene: Scene) -> Said:
    if is_text_rows(first) or is_text_rows(second):
        return _tokens(first, second)
    models = list(_with_channels(first, second))
    if models and not scene.shows("attention_processor", "attn1(", "attn2("):
        return Said(
            "residual_channels",
            f"Two tensors that are added have {first} and {second} channels. Most likely the residuals of a ControlNet or T2I-Adapter "
            "are those "
            "of another family, or are shifted by one in their list: a block adds what was made for its neighbour.",
            _numbers(first, second, "channels"),
            models,
            [_PORTS, "give as many residuals as the UNet has skips, in its order, and the mid block's on its own"],
        )
    ratio = "One is a multiple of the other: most likely one input has another batch, and attention has mixed batch and tokens. "
    low, high = sorted((first, second))
    return Said(
        "token_count",
        f"Two tensors that are added have {first} and {second} along dimension 1: tokens in attention (height times width of the block's "
        f"hidden states, or words of the prompt), channels elsewhere. {ratio if low and high % low == 0 else ''}",
        _numbers(first, second, "dimension 1"),
        models,
        [
            "give sample and encoder_hidden_states the same batch, CFG included",
            "where a mask or stored attention maps are used: compute them for this size again",
            _CHECK,
        ],
    )


def _tokens(first: int, second: int) -> Said:
    return Said(
        "token_count",
        f"Two tensors have {first} and {second} tokens of text. CLIP's text encoders take 77 at once; longer prompts are encoded in chunks "
        "of 77, and prompt and negative prompt need the same number of chunks.",
        [
            meant(number, f"{number // 77} x 77 tokens" if is_text_rows(number) else "tokens, no multiple of 77")
            for number in (first, second)
        ],
        (),
        [
            "pad prompt_embeds and negative_prompt_embeds to one length",
            "cut the prompt to 77 tokens (max_length, truncation=True), or use a tool that encodes it in chunks",
            "encoder_attention_mask and cross-attention maps must be as long as the embeddings",
        ],
    )


def _with_channels(first: int, second: int) -> Iterator[ModelMatch]:
    for entry in load_catalog().values():
        channels = entry.config.get("block_out_channels")
        if is_list(channels) and first != second and {first, second} <= {*channels, entry.config.get("in_channels")}:
            yield ModelMatch(name=entry.name, role=f"has blocks of {first} and of {second} channels", where=("block_out_channels",))


RECOGNISERS = (
    Recogniser(
        message(
            r"The size of tensor a \((?P<a>[0-9]{1,12})\) must match the size of tensor b \((?P<b>[0-9]{1,12})\) "
            r"at non-singleton dimension (?P<axis>[0-9]{1,2})"
        ),
        _explain,
    ),
    Recogniser(
        message(
            r"The expanded size of the tensor \((?P<a>[0-9]{1,12})\) must match the existing size \((?P<b>[0-9]{1,12})\) "
            r"at non-singleton dimension (?P<axis>[0-9]{1,2})"
        ),
        _explain,
    ),
    Recogniser(
        message(
            r"Attempting to broadcast a dimension of length [0-9]{1,12} at -(?P<axis>[0-9])! Mismatching argument at index [0-9]{1,2} had "
            r"torch\.Size\(\[(?P<other>[0-9,\s]{1,80})\]\); but expected shape should be broadcastable to \[(?P<shape>[0-9,\s]{1,80})\]"
        ),
        _explain_shapes,
    ),
)
