"""The config of a UNet from the names and shapes of its tensors; what they do not tell is taken from the catalog or from convention."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import gcd
from typing import Any

from msgspec import Struct

from unetinspect.catalog import Entry, load_catalog
from unetinspect.checkpoint.config_keys import DEFAULTS
from unetinspect.checkpoint.header import TensorSpec
from unetinspect.checkpoint.match import models_like, models_of_class
from unetinspect.checkpoint.names import Names, UnclearError
from unetinspect.checkpoint.original import modernized, original_to_diffusers
from unetinspect.checkpoint.structure import UNetShape, read_structure
from unetinspect.checkpoint.told import told_config
from unetinspect.record.checkpoint import Layout

Config = dict[str, Any]

# What files hold beside the parameters: positions, the filters of 1D UNets, the scales of weights in 8 bits.
_BESIDE = (
    ".pe",
    "down.kernel",
    "up.kernel",
    "position_ids",
    ".scale_weight",
    ".scale_input",
    ".weight_scale",
    ".input_scale",
    "scaled_fp8",
)
# Written also where they have diffusers' default value: what a reader looks for in a config.
_ALWAYS = (
    *("sample_size", "in_channels", "out_channels", "down_block_types", "mid_block_type", "up_block_types", "block_out_channels"),
    *("layers_per_block", "cross_attention_dim", "attention_head_dim", "norm_num_groups"),
)
_FAMILIES = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
_NEEDS_CONFIG = "its config.json is needed"


class Inferred(Struct, frozen=True, kw_only=True):
    """What names and shapes say of a UNet.

    Attributes:
        class_name: The diffusers class.
        config: Its config; None where they do not tell it.
        models: The models of the catalog that have its structure, the one that it is known by first.
        family: What it belongs to, as the catalog calls it; None: it is like nothing there.
        untold: What they do not tell, and what is taken in its place, a sentence each.
    """

    class_name: str | None
    config: Config | None
    models: tuple[str, ...] = ()
    family: str | None = None
    untold: tuple[str, ...] = ()


def infer_config(
    tensors: Mapping[str, TensorSpec],
    layout: Layout | None,
    class_name: str | None = None,
    entries: Collection[Entry] | None = None,
) -> Inferred:
    """Return the config of a UNet whose tensors have these names, any prefix taken off.

    `class_name` is the diffusers class, where names have said it; None: whether it is a UNet2DModel or a UNet2DConditionModel
    is seen here. `entries` are the models to compare with, None: those of the catalog.
    """
    known = list(load_catalog().values()) if entries is None else list(entries)
    params = count_params(tensors)
    if class_name not in (None, *DEFAULTS):
        return _matched_whole(models_of_class(known, class_name, params), class_name)
    try:
        names = Names({new: tensors[old].shape for new, old in diffusers_names(tensors, layout).items()})
        unet = read_structure(names)
        found = class_name or _class_of(unet, names)
        told = {"_class_name": found, **told_config(names, unet, found)}
    except UnclearError as error:
        return Inferred(class_name=class_name, config=None, untold=(f"no config is found from names and shapes, since {error}",))
    matches = models_like(known, told, params)
    if matches:
        return _matched(matches, told)
    return _by_convention(told, unet)


def count_params(tensors: Mapping[str, TensorSpec]) -> int:
    """Count the numbers that are parameters: buffers, which files hold too, are none."""
    return sum(tensor.elements for name, tensor in tensors.items() if not name.endswith(_BESIDE))


def diffusers_names(names: Mapping[str, TensorSpec], layout: Layout | None) -> dict[str, str]:
    """Return the name that a tensor has in the file by the name that diffusers has for it."""
    if layout == "original":
        renamed = original_to_diffusers(names, added=_has_added_embedding(names))
        return {new: old for old, new in renamed.items()}
    return {modernized(name): name for name in names}


def _has_added_embedding(tensors: Mapping[str, TensorSpec]) -> bool:
    """Tell whether `label_emb` is that of SDXL: both it and the one of unCLIP are a pair of linear layers, the texts differ."""
    widths = {tensor.shape[-1] for name, tensor in tensors.items() if name.endswith(".attn2.to_k.weight") and tensor.shape}
    return bool(widths) and min(widths) > max(width for width, family in _FAMILIES.items() if family != "Stable Diffusion XL")


def _class_of(unet: UNetShape, names: Names) -> str:
    """Tell a conditioned UNet by what the other class does not have: text, guidance, layers by block, a mid block of one resnet."""
    by_block = len({block.layers for block in unet.down}) > 1
    if any(attention.context for attention in unet.attentions) or "time_embedding.cond_proj.weight" in names or by_block:
        return "UNet2DConditionModel"
    return "UNet2DConditionModel" if unet.mid and unet.mid.layers == 1 else "UNet2DModel"


def _matched_whole(matches: list[Entry], class_name: str | None) -> Inferred:
    """Take the config of a model of the same class and size, for classes whose configs names and shapes do not tell."""
    if not matches:
        without = (f"the config of a {class_name} is not found from names and shapes: {_NEEDS_CONFIG}",)
        return Inferred(class_name=class_name, config=None, untold=without)
    first = matches[0]
    untold = f"the whole config is that of {first.name} in the catalog: it has the same class and as many parameters"
    return Inferred(
        class_name=class_name,
        config=dict(first.config),
        models=tuple(entry.name for entry in matches),
        family=first.family,
        untold=(untold, *_differences(matches)),
    )


def _matched(matches: list[Entry], told: Config) -> Inferred:
    first, keys = matches[0], DEFAULTS[told["_class_name"]]
    config = {"_class_name": told["_class_name"], **{key: value for key, value in first.config.items() if key in keys}}
    filled = {**keys, **config}
    taken = ", ".join(f"{key} {filled[key]!r}" for key in ("attention_head_dim", "sample_size", "norm_num_groups", "act_fn"))
    return Inferred(
        class_name=told["_class_name"],
        config=_ordered(config, told["_class_name"]),
        models=tuple(entry.name for entry in matches),
        family=first.family,
        untold=(f"{taken} are taken from {first.name} in the catalog: no name or shape tells them", *_differences(matches)),
    )


def _differences(matches: list[Entry]) -> tuple[str, ...]:
    """Say which other models fit as well, and in what their configs differ from the one that is taken."""
    first, *others = matches
    if not others:
        return ()
    names = ", ".join(entry.name for entry in others)
    keys = ("sample_size", "attention_head_dim", "upcast_attention", "class_embed_type", "norm_eps", "freq_shift", "act_fn")
    differing = [key for key in keys if any(_value(entry, key) != _value(first, key) for entry in others)]
    in_what = f"; their configs differ in {', '.join(differing)}" if differing else ", and nothing that counts differs in their configs"
    return (f"the same structure is that of {names}{in_what}",)


def _value(entry: Entry, key: str) -> Any:
    return {**DEFAULTS.get(entry.class_name, {}), **entry.config}.get(key)


def _by_convention(told: Config, unet: UNetShape) -> Inferred:
    """Take what models of its kind have for what names and shapes do not tell."""
    class_name, channels = told["_class_name"], told["block_out_channels"]
    groups = _most(32, channels)
    usual = 128 if told.get("addition_embed_type") == "text_time" else 64
    config = told | {"sample_size": max(usual, 2 ** len(channels)), "norm_num_groups": told.get("norm_num_groups", groups)}
    if told.get("attn_norm_num_groups") is not None:
        config["attn_norm_num_groups"] = groups
    heads, why = _heads(told, unet)
    config["attention_head_dim"] = heads
    untold = [f"attention_head_dim {heads!r} is {why}: no name or shape tells the number of heads"]
    if told.get("addition_embed_type") == "text_time":
        config["addition_time_embed_dim"] = 256
        untold.append("addition_time_embed_dim 256 is what every Stable Diffusion XL has: no name or shape tells it")
    if told.get("addition_embed_type") == "text":
        config["addition_embed_type_num_heads"] = _most(64, [unet.down[0].channels])
    rest = ", ".join(f"{key} {config[key]!r}" for key in ("sample_size", "norm_num_groups"))
    untold.append(f"{rest} and act_fn 'silu' are what is usual: no name or shape tells them")
    return Inferred(class_name=class_name, config=_ordered(config, class_name), family=_family(told, unet), untold=tuple(untold))


def _family(told: Config, unet: UNetShape) -> str | None:
    """Tell a relative of Stable Diffusion by the width of its text."""
    width = told.get("cross_attention_dim")
    kinds = {attention.kind for attention in unet.attentions}
    if kinds != {"transformer"} or not isinstance(width, int):
        return None
    return "Stable Diffusion XL" if told.get("addition_embed_type") == "text_time" else _FAMILIES.get(width)


def _heads(told: Config, unet: UNetShape) -> tuple[Any, str]:
    """Return `attention_head_dim`, which is a number of heads for transformers and the channels of a head elsewhere; and why."""
    channels, kinds = told["block_out_channels"], {attention.kind for attention in unet.attentions}
    if told["_class_name"] == "UNet2DModel" or "transformer" not in kinds:
        size = 8 if told["_class_name"] == "UNet2DModel" else 64
        return _most(size, channels), "the channels of a head that are usual for such blocks"
    if told["use_linear_projection"] or told["cross_attention_dim"] in (1024, 2048):
        heads = [_most(max(count // 64, 1), [count]) for count in channels]
        return heads, "a head for each 64 channels, as in Stable Diffusion 2 and XL"
    return _most(8, channels), "as in Stable Diffusion 1"


def _most(limit: int, channels: list[int]) -> int:
    """Return the largest number up to a limit that divides all of these."""
    common = gcd(*channels)
    return next(number for number in range(min(limit, common), 0, -1) if common % number == 0)


def _ordered(config: Config, class_name: str) -> Config:
    """Write keys in diffusers' order, those of its defaults left out but for the ones that a reader looks for."""
    defaults = DEFAULTS[class_name]
    kept = {
        key: _plain(config[key]) for key in defaults if key in config and (key in _ALWAYS or _plain(config[key]) != _plain(defaults[key]))
    }
    return {"_class_name": class_name, **kept}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
