"""Heads, processors and shapes of attention that do not fit."""

from __future__ import annotations

import re
from math import prod

from unetinspect.catalog import load_catalog
from unetinspect.explain.layers import catalog_layers
from unetinspect.explain.recogniser import NUMBER, Recogniser, Said, Scene, explained, meant, message
from unetinspect.record import ErrorExplanation, ModelMatch, NumberMeaning, Shape

_ATTN = (
    "`unetinspect attn MODEL` lists every attention layer with its heads and head_dim; the keys of attn_processors are its paths + "
    ".processor"
)


def _explain_processors(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    passed, needed = int(match[1]), int(match[2])
    meaning = (
        f"set_attn_processor was given a dict of {passed} processors, and the UNet has {needed} attention layers: a dict needs one for "
        "each, "
        f"under its path + .processor. {_processors_why(passed, needed)}"
    )
    models = [*_with_layers(needed, "as the UNet"), *(_with_layers(passed, "as the dict has") if passed else [])]
    return explained(
        match,
        scene,
        Said(
            "processor_count",
            meaning,
            [meant(passed, "processors in the dict that was passed"), meant(needed, "attention layers of the UNet, self and cross")],
            models,
            [
                "for one processor everywhere pass it itself, no dict: unet.set_attn_processor(AttnProcessor2_0())",
                "to change some layers, start from dict(unet.attn_processors) and replace entries",
                "if the processors were saved, load them into the family that they were trained with",
                _ATTN,
            ],
        ),
    )


def _processors_why(passed: int, needed: int) -> str:
    if passed == 0:
        return "An empty dict: no key of the file that was loaded names a layer of this UNet."
    if passed * 2 == needed:
        return "Half of them: most likely only the cross-attention layers (attn2) have one."
    if any(entry.attention_layers == passed for entry in load_catalog().values()):
        return "Most likely it was made for another model."
    return ""


def _with_layers(count: int, words: str) -> list[ModelMatch]:
    return [
        ModelMatch(name=name, role=f"has {count} attention layers, {words}")
        for name, entry in load_catalog().items()
        if entry.attention_layers == count
    ]


def _explain_reshape(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    shape = tuple(int(number) for number in re.findall(r"-?[0-9]{1,12}", match["shape"]))
    size = int(match["size"])
    known = prod(side for side in shape if side != -1)
    if not shape or not known:
        return None
    in_attention = len(shape) in (3, 4) and (scene.shows("attention", "attn") or scene.module is None)
    kind, why = _reshape_why(shape, known, size, in_attention=in_attention)
    numbers = [
        meant(size, "elements of the tensor"),
        meant(shape, _written_shape(shape, known)),
        *_head_numbers(shape, in_attention=in_attention),
    ]
    return explained(
        match,
        scene,
        Said(
            kind,
            f"A tensor of {size} elements cannot be seen as {list(shape)}. {why}",
            numbers,
            _with_width(shape, in_attention=in_attention),
            [
                "give every input the same batch: encoder_hidden_states, sample and residuals, doubled together for CFG",
                (
                    "where heads were set by hand or by an extension: heads x head_dim must be the channels of the block, as `unetinspect "
                    "attn MODEL` shows"
                ),
                "extensions that split the image or the prompt into regions need sides that they can divide: try multiples of 64 pixels",
            ],
        ),
    )


def _written_shape(shape: Shape, known: int) -> str:
    return f"a shape of {known} elements" if -1 not in shape else f"a shape that needs a multiple of {known} elements"


def _reshape_why(shape: Shape, known: int, size: int, *, in_attention: bool) -> tuple[str, str]:
    low, high = sorted((size, known))
    heads = shape[-2] * shape[-1] if len(shape) == 4 else 0
    if -1 in shape and heads > 0 and size % heads == 0 and shape[0] > 1:
        return "batch_size", (
            f"In attention this is (batch, tokens, heads, head_dim): {shape[-2]} x {shape[-1]} fits, and the batch of {shape[0]} does "
            "not divide "
            f"the {size // heads} rows. diffusers takes the batch from encoder_hidden_states, so that most likely has another than the "
            "sample."
        )
    if -1 not in shape and low and high % low == 0:
        return ("batch_size" if high == 2 * low else "head_count"), (
            f"One is {high // low} times the other: "
            + (
                "most likely a batch was doubled for CFG on one side only."
                if high == 2 * low
                else "most likely heads or batch were counted otherwise."
            )
        )
    if in_attention:
        return (
            "head_count",
            "In attention, most likely the heads do not divide the channels, or height, width and tokens are those of another size.",
        )
    return "reshape", "Most likely it was computed for another size of the image, another batch or other channels."


def _head_numbers(shape: Shape, *, in_attention: bool) -> list[NumberMeaning]:
    if not in_attention or len(shape) != 4 or min(shape[-2:]) < 1:
        return []
    heads, head_dim = shape[-2:]
    return [
        meant(heads * head_dim, f"{heads} heads x {head_dim}: channels of the block, where the shape is (batch, tokens, heads, head_dim)")
    ]


def _with_width(shape: Shape, *, in_attention: bool) -> list[ModelMatch]:
    """Return the models of which a block with so many heads has so many channels."""
    if not in_attention or len(shape) != 4 or min(shape[-2:]) < 1:
        return []
    width = shape[-2] * shape[-1]
    found: dict[str, list[str]] = {}
    for layer in catalog_layers():
        if layer.role == "cross_attention" and layer.gives == width:
            found.setdefault(layer.model, []).append(layer.path.partition(".attentions")[0])
    return [ModelMatch(name=name, role=f"has attention in blocks of {width} channels", where=tuple(paths)) for name, paths in found.items()]


def _explain_setting(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    return explained(
        match,
        scene,
        Said(
            "head_count",
            "The config sets num_attention_heads, which diffusers refuses for this class: by an old mistake of naming, "
            "attention_head_dim holds the "
            "number of heads here. Stable Diffusion 1.x has attention_head_dim 8: 8 heads, of 40, 80 and 160 features.",
            (),
            (),
            [
                "take num_attention_heads out of the config (or set it to null) and write the number of heads to attention_head_dim",
                "update diffusers if the model is published so: older versions do not know what newer ones save",
                _ATTN,
            ],
        ),
    )


def _explain_gated(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    query, heads = int(match["width"]), int(match["heads"])
    return explained(
        match,
        scene,
        Said(
            "head_count",
            f"{query} features are to be shared out to {heads} heads, and {heads} does not divide {query}.",
            [meant(query, "features: channels of the block"), meant(heads, "heads")],
            (),
            ["set attention_head_dim (the number of heads, for UNet2DConditionModel) to a divisor of every block's channels", _ATTN],
        ),
    )


RECOGNISERS = (
    Recogniser(message(rf"number of processors {NUMBER} does not match the number of attention layers: {NUMBER}"), _explain_processors),
    Recogniser(message(r"shape '\[(?P<shape>[-0-9,\s]{1,120})\]' is invalid for input of size (?P<size>[0-9]{1,15})"), _explain_reshape),
    Recogniser(message(r"not possible to define the number of attention heads via .?num_attention_heads"), _explain_setting),
    Recogniser(
        message(
            r"embed_dim must be divisible by num_heads \(got .?embed_dim.?: (?P<width>[0-9]{1,9}) and .?num_heads.?: (?P<heads>[0-9]{1,9})"
        ),
        _explain_gated,
    ),
)
