"""Which models of the catalog have the structure that a checkpoint has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from unetinspect.catalog import Entry
from unetinspect.checkpoint.config_keys import DEFAULTS

Config = Mapping[str, Any]

# Those that a structure is known by; of several with the same one they come first, and the others in the catalog's order.
_KNOWN_FIRST = ("sd15", "sd14", "sdxl", "sd21", "sd21-base", "sd15-inpaint", "instruct-pix2pix", "ddpm-cat-256", "audioldm-s-full-v2")
# What names and shapes decide, where nothing but the value itself says it.
_PLAIN_KEYS = (
    *("in_channels", "out_channels", "block_out_channels", "mid_block_type", "resnet_time_scale_shift", "time_embedding_type"),
    *("time_cond_proj_dim", "conv_in_kernel", "conv_out_kernel", "encoder_hid_dim", "addition_embed_type", "num_class_embeds"),
    *("projection_class_embeddings_input_dim", "attention_type", "class_embeddings_concat", "num_train_timesteps", "add_attention"),
)


def models_of_class(entries: Iterable[Entry], class_name: str | None, params: int) -> list[Entry]:
    """Return the models of a class that have so many parameters, the one that their structure is known by first."""
    fitting = [entry for entry in entries if entry.class_name == class_name and entry.params == params]
    rank = {name: index for index, name in enumerate(_KNOWN_FIRST)}
    return sorted(fitting, key=lambda entry: rank.get(entry.name, len(rank)))  # a stable sort: ties keep the catalog's order


def models_like(entries: Iterable[Entry], config: Config, params: int) -> list[Entry]:
    """Return the models whose structure is that of a config, and that have so many parameters."""
    wanted = structure_of(config)
    return [entry for entry in models_of_class(entries, config["_class_name"], params) if structure_of(entry.config) == wanted]


def structure_of(config: Config) -> dict[str, Any]:
    """Return what a config says of names and shapes, with diffusers' defaults filled in, and nothing of what they do not show."""
    full = {**DEFAULTS[config["_class_name"]], **config}
    levels = len(full["block_out_channels"])
    kinds = [list(map(_kind, full[f"{way}_block_types"])) for way in ("down", "up")]
    crossing = [_crosses(down) or _crosses(up) for down, up in zip(kinds[0], reversed(kinds[1]), strict=False)]
    told = {key: _listed(full.get(key)) for key in _PLAIN_KEYS}
    told |= {"blocks": [_without_last(ways) for ways in kinds], "layers": _per_level(full["layers_per_block"], levels)}
    mid = full["mid_block_type"] in ("UNetMidBlock2DCrossAttn", "UNetMidBlock2DSimpleCrossAttn")
    crossing[-1:] = [crossing[-1] or mid] if crossing else []
    if any(crossing):
        widths = _per_level(full["cross_attention_dim"], levels)
        told["widths"] = [width if crosses else None for width, crosses in zip(widths, crossing, strict=False)]
        told["linear"] = full["use_linear_projection"]
    return told


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _kind(block_type: Any) -> str:
    return str(block_type).removeprefix("UNetRes").replace("Downsample", "Down").replace("Upsample", "Up")


def _crosses(block_type: str) -> bool:
    return "CrossAttn" in block_type


def _without_last(block_types: list[str]) -> list[str]:
    """Drop what the last block without attention is: it has no sampler, which is all that tells such blocks apart."""
    *others, last = block_types or [""]
    return [*others, last if "Attn" in last else "last"]


def _per_level(value: Any, levels: int) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value] * levels
