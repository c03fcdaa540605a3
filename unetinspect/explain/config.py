"""Configs that diffusers refuses: lists of the wrong length, unknown blocks, keys that need another."""

from __future__ import annotations

import re
from collections.abc import Callable

from unetinspect.errors import nearest_names
from unetinspect.explain.recogniser import Recogniser, Said, Scene, explained, message, word_before
from unetinspect.record import ErrorExplanation

_SHOW = (
    "`unetinspect config CONFIG` shows every key with the value that diffusers fills in; `unetinspect check CONFIG` lists all "
    "mistakes at once"
)
_BLOCKS = (
    *(
        f"{kind}{way}Block2D"
        for kind in ("", "Attn", "CrossAttn", "SimpleCrossAttn", "K", "KCrossAttn", "Skip", "AttnSkip")
        for way in ("Down", "Up")
    ),
    *("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"),
    *("UNetMidBlock2D", "UNetMidBlock2DCrossAttn", "UNetMidBlock2DSimpleCrossAttn"),
)


def _lengths(match: re.Match[str]) -> tuple[str, list[str]]:
    keys = match["first"], match["second"]
    swapped = (
        " num_attention_heads is what diffusers calls attention_head_dim here, where the config does not set it."
        if "num_attention_heads" in keys
        else ""
    )
    return (
        f"The config's lists {keys[0]} and {keys[1]} must be equally long: one entry for each level of the U, in all lists of one value "
        "per block." + swapped,
        [
            f"make {keys[0]} as long as {keys[1]}; down_block_types, up_block_types and block_out_channels have one entry for each level",
            "a key that is one number holds for all blocks: write 2 in place of [2, 2, 2, 2]",
        ],
    )


def _explain_block(match: re.Match[str], scene: Scene) -> ErrorExplanation:
    word = word_before(match)
    front = "" if word.endswith((" ", ".")) or "name" in match.groupdict() else word
    name = match["name"] if "name" in match.groupdict() else f"{front}Block{match['rest']}"
    near = nearest_names(name, _BLOCKS)
    said = Said(
        "config",
        f"The config names a block {name!r}, which this class of this version of diffusers does not have.",
        changes=[
            *([f"did you mean {' or '.join(near)}?"] if near else []),
            (
                "load the config with the class that its _class_name says: video UNets have blocks of their own (CrossAttnDownBlock3D, "
                "CrossAttnDownBlockMotion, CrossAttnDownBlockSpatioTemporal)"
            ),
            "update diffusers if the block is newer than it",
            _SHOW,
        ],
    )
    return explained(match, scene, said, front=front)


def _explain_time_type(match: re.Match[str], scene: Scene) -> ErrorExplanation:
    word = word_before(match)
    said = Said(
        "config",
        f"time_embedding_type is {word.strip()!r}, and must be 'positional' (sines, as most UNets have) or 'fourier'.",
        changes=["set time_embedding_type to 'positional', or to 'fourier' where the model was trained so", _SHOW],
    )
    return explained(match, scene, said, front=word)


def _one_of(match: re.Match[str]) -> tuple[str, list[str]]:
    key, value = match["key"], match["value"].strip("'\"")
    adapter = (
        " It is what load_ip_adapter writes to a UNet's config; a UNet saved with an IP-Adapter loaded cannot be built from it."
        if value == "ip_image_proj"
        else ""
    )
    return (
        f"The config's {key} is {value!r}, which this class cannot build.{adapter}",
        [
            f"set {key} (and encoder_hid_dim) to null, load the UNet, then the IP-Adapter"
            if adapter
            else f"set {key} to one of those that the message lists, or to null"
        ],
    )


def _partner(match: re.Match[str]) -> tuple[str, list[str]]:
    return (
        f"One key of the config needs another: {match['key']} must be set with it, as it says how wide the layer is to be.",
        [f"set {match['key']} to the width that the model was trained with: the first layer's in_features in its checkpoint"],
    )


def _reverse(match: re.Match[str]) -> tuple[str, list[str]]:
    return (
        "transformer_layers_per_block holds lists, one depth for each layer; the way up has one layer more, and needs a list of its own.",
        ["set reverse_transformer_layers_per_block, up blocks first to last"],
    )


def _activation(match: re.Match[str]) -> tuple[str, list[str]]:
    return (f"The config's activation {match['name']!r} is none that diffusers knows.", ["set act_fn to silu, swish, mish, gelu or relu"])


def _explainer(words: Callable[[re.Match[str]], tuple[str, list[str]]]) -> Callable[[re.Match[str], Scene], ErrorExplanation | None]:
    def explain(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
        meaning, changes = words(match)
        return explained(match, scene, Said("config", meaning, (), (), [*changes, _SHOW]))

    return explain


_QUOTE = "[`'\"]?"
_TABLE = (
    (rf"Must provide the same number of {_QUOTE}(?P<first>\w{{1,60}}){_QUOTE} as {_QUOTE}(?P<second>\w{{1,60}})", _lengths),
    (r"(?P<key>addition_embed_type|encoder_hid_dim_type).?: (?P<value>['\w]{1,40}) must be None,", _one_of),
    (rf"(?P<key>encoder_hid_dim){_QUOTE} has to be defined when", _partner),
    (rf"requires {_QUOTE}(?P<key>projection_class_embeddings_input_dim){_QUOTE} be set", _partner),
    (r"Must provide .?reverse_transformer_layers_per_block", _reverse),
    (r"activation function (?P<name>\w{1,40}) not found", _activation),
)
RECOGNISERS = (
    *(Recogniser(message(pattern), _explainer(words)) for pattern, words in _TABLE),
    Recogniser(message(rf"does not exist\. Please make sure to use one of {_QUOTE}fourier"), _explain_time_type),
    Recogniser(message(r"Block(?P<rest>\w{0,40}+) does not exist\."), _explain_block),
    Recogniser(message(r"unknown mid_block_type : (?P<name>\w{1,60})"), _explain_block),
)
