"""What people type for a module or tensor: the prefixes and endings that tools put around a name. Knows no UNet."""

from __future__ import annotations

import re
from collections.abc import Iterator

from unetinspect.checkpoint.affixes import LAYER_PREFIXES, PREFIXES, TEXT_ENCODER
from unetinspect.checkpoint.lora_layers import split_key, without_processor

# What the names of layers end with, besides what a LoRA has there.
_ENDING = re.compile(r"\.base_layer(?:\.\w+)?$|\.processor(?:\.to_[kv]_ip(?:\.[0-9]+)?(?:\.weight)?)?$")
# Not `input_blocks_4` and `mid_block`, which are names of modules and lists.
_BLOCK = re.compile(r"(?:(IN|OUT)(?:PUT)?(?:[ _-]?BLOCK)?[ _-]?([0-9]{1,2})|M(?:ID)?(?:DLE)?(?:[ -]?BLOCK)?[ _-]?0{0,2})", re.IGNORECASE)
# An EMA copy in a checkpoint of the original code: its keys are written without their dots.
_COPY = re.compile(r"(?:model_ema\.)?diffusion_model(?=.)")
_IP_ADAPTER = re.compile(r"(?:ip_adapter\.([0-9]{1,4})|([0-9]{1,4})(?=\.to_[kv]_ip))(?:\.to_[kv]_ip(?:\.weight)?)?")
_ELSEWHERE = {
    "a text encoder": TEXT_ENCODER,
    "the VAE": re.compile("|".join(re.escape(prefix) for prefix, part in PREFIXES if part == "vae")),
    "an IP-Adapter's image projection": re.compile(r"image_proj\."),
    "the EMA itself": re.compile(r"model_ema\.(?:decay|num_updates)$"),
}


def spellings(text: str) -> Iterator[str]:
    """Yield a name as it was typed, then without what tools put before and after it, the longest first.

    >>> list(spellings("lora_unet_conv_in.alpha"))
    ['lora_unet_conv_in.alpha', 'lora_unet_conv_in', 'conv_in.alpha', 'conv_in']
    """
    seen: set[str] = set()
    for start in (text, without_ending(text)):
        name: str | None = start
        while name:
            seen.add(name)
            name = next((name[len(prefix) :] for prefix in LAYER_PREFIXES if name.startswith(prefix)), None)
    # The name of a tensor is longer than that of its layer, which a LoRA's key means.
    yield from sorted(seen, key=len, reverse=True)


def without_ending(text: str) -> str:
    """Take off what an adapter's file has after the name of a layer.

    >>> without_ending("mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.up.weight")
    'mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0'
    """
    found = split_key(text)
    return without_processor(found[0]) if found else _ENDING.sub("", text)


def flat(name: str) -> str:
    """Write a name as kohya-ss does, without dots: every spelling of it is the same then."""
    return name.replace(".", "_")


def without_dots(text: str) -> str | None:
    """Return the original name in a key of an EMA copy, which has lost its dots; None: the key is another.

    >>> without_dots("model_ema.diffusion_modelinput_blocks00weight")
    'input_blocks00weight'
    """
    found = _COPY.match(text)
    return text[found.end() :].replace(".", "") if found else None


def block_number(text: str) -> str | None:
    """Return the block that is meant, as merge-block-weighted writes it; None: it is not a block's number.

    >>> [block_number(text) for text in ("in4", "IN04", "MID", "m00", "OUT 11", "input block 4", "mid_block")]
    ['IN04', 'IN04', 'M00', 'M00', 'OUT11', 'IN04', None]
    """
    found = _BLOCK.fullmatch(text)
    if found is None:
        return None
    return f"{found[1].upper()}{int(found[2]):02}" if found[1] else "M00"


def ip_adapter_number(text: str) -> int | None:
    """Return the number in a key of an IP-Adapter; None: it is not such a key.

    >>> [ip_adapter_number(text) for text in ("3.to_k_ip.weight", "ip_adapter.31.to_v_ip.weight", "ip_adapter.3", "3")]
    [3, 31, 3, None]
    """
    found = _IP_ADAPTER.fullmatch(text)
    return int(found[1] or found[2]) if found else None


def elsewhere(text: str) -> str | None:
    """Say which other model a name belongs to by its prefix; None: it may be the UNet's."""
    return next((model for model, pattern in _ELSEWHERE.items() if pattern.match(text)), None)
