"""The config of a UNet from the names and shapes of its tensors; what they do not show is that of a model in the catalog, or the usual."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import gcd, isqrt, prod
from typing import Any

from msgspec import Struct

from unetinspect.catalog import Entry, load_catalog
from unetinspect.checkpoint.adapters import FAMILIES
from unetinspect.checkpoint.affixes import NOT_PARAMETERS
from unetinspect.checkpoint.catalog_tensors import tensors_of
from unetinspect.checkpoint.config_from_shapes import INFERRED, Config, config_from_shapes, defaults_of
from unetinspect.checkpoint.original_layout import FileTensor, diffusers_tensors
from unetinspect.checkpoint.safetensors_header import TensorSpec
from unetinspect.checkpoint.structure import Structure, TensorTree, UnclearError, read_structure
from unetinspect.record import Shape
from unetinspect.record.checkpoint import Layout

# Written also where they have diffusers' default value: what a reader looks for in a config.
_ALWAYS = (
    *("sample_size", "in_channels", "out_channels", "down_block_types", "mid_block_type", "up_block_types", "block_out_channels"),
    *("layers_per_block", "cross_attention_dim", "attention_head_dim", "norm_num_groups"),
)
# The models that a structure is known by: of several with the same one they come first, the others in the catalog's order.
_KNOWN_FIRST = ("sd15", "sd14", "sdxl", "sd21", "sd21-base", "sd15-inpaint", "instruct-pix2pix", "ddpm-cat-256", "audioldm-s-full-v2")
NO_CONFIG = ("cannot infer the config: use its config.json",)
_CONTROLNETS = ("ControlNetModel", "ControlNetUnionModel")
# What a ControlNet has of a UNet.
_ENCODER = ("conv_in.", "time_embedding.", "add_embedding.", "class_embedding.", "down_blocks.", "mid_block.")
# What a ControlNet for several kinds of images has beside it: the key, the tensor, the axis.
_UNION = (
    ("num_control_type", "task_embedding", 0),
    ("num_trans_channel", "task_embedding", 1),
    ("num_proj_channel", "spatial_ch_projs.weight", 0),
)
_T2I_XL_FACTOR = 16  # the downscale_factor of every published adapter for Stable Diffusion XL; the others have 8
# Keys in which models of one structure may differ.
_DIFFERING = ("sample_size", "attention_head_dim", "upcast_attention", "class_embed_type", "norm_eps", "freq_shift", "act_fn")


class Inferred(Struct, frozen=True, kw_only=True):
    """What names and shapes say of a UNet.

    Attributes:
        class_name: The diffusers class.
        config: Its config; None where it cannot be inferred.
        models: The models of the catalog with its structure, the best known first.
        family: What it belongs to, as the catalog calls it; None: no model there is like it.
        untold: What is assumed, since names and shapes do not show it, a sentence each.
    """

    class_name: str | None
    config: Config | None
    models: tuple[str, ...] = ()
    family: str | None = None
    untold: tuple[str, ...] = ()


def infer_config(tensors: Mapping[str, TensorSpec], layout: Layout | None, class_name: str | None = None) -> Inferred:
    """Return the config of a UNet whose tensors have these names, any prefix taken off.

    `class_name` is the diffusers class, if names have shown it; None: it is either of the two whose configs are inferred.
    """
    params, classes = count_params(tensors), INFERRED if class_name is None else (class_name,)
    same = known_first(entry for entry in load_catalog().values() if entry.class_name in classes and entry.params == params)
    named = diffusers_tensors(tensors, layout)
    if class_name in (None, *INFERRED):
        shapes = {name: tensor.shape for name, tensor in named.items()}
        matches = [entry for entry in same if _has_all(shapes, tensors_of(entry.name))]
        return _like(matches) if matches else infer_from_shapes(shapes, class_name)
    if same:
        assumed = f"config: assumed, as in {same[0].name} of the catalog (same class and number of parameters)"
        return _matched(same, dict(same[0].config), assumed)
    found = _by_encoder(named, class_name) if class_name in _CONTROLNETS else None
    return found or Inferred(class_name=class_name, config=None, untold=(f"cannot infer the config of {class_name}: use its config.json",))


def infer_from_shapes(shapes: Mapping[str, Shape], class_name: str | None = None) -> Inferred:
    """Return the config of a UNet that is not in the catalog, from names and shapes in diffusers' layout."""
    try:
        tree = TensorTree(shapes)
        unet = read_structure(tree)
        found = class_name or _class_of(unet, tree)
        config: Config = {"_class_name": found, **config_from_shapes(tree, unet, found)}
    except UnclearError as error:
        return Inferred(class_name=class_name, config=None, untold=(f"cannot infer the config: {error}",))
    return _by_convention(config, unet)


def _has_all(shapes: Mapping[str, Shape], expected: Mapping[str, Shape]) -> bool:
    """Say whether a file has all tensors of a model; of a packed one only the number of values may be known."""
    return all(shapes.get(name) in (shape, (prod(shape),)) for name, shape in expected.items())


def infer_t2i_adapter(tensors: Mapping[str, TensorSpec], layout: Layout | None) -> Inferred:
    """Return the config of a T2I-Adapter from its names and shapes, in either layout."""
    shapes = {name: tensor.shape for name, tensor in diffusers_tensors(tensors, layout).items()}
    is_light = "adapter.conv_in.weight" not in shapes
    first, last = ("body.0.in_conv", "out_conv") if is_light else ("conv_in", "resnets.0.block1")
    levels = {found[1] for name in shapes if (found := re.match(r"adapter\.body\.(\d{1,4})\.", name))}
    try:
        widths = [shapes[f"adapter.body.{level}.{last}.weight"][0] for level in range(len(levels))]
        unshuffled = shapes[f"adapter.{first}.weight"][1]
    except (KeyError, IndexError):  # a damaged file, or one without resnets
        widths, unshuffled = [], 0
    # A color or gray image, in which a square of pixels has become the channels of one.
    in_channels = 1 if unshuffled % 3 else 3
    factor = isqrt(unshuffled // in_channels)
    if not widths or not factor or in_channels * factor**2 != unshuffled:
        return Inferred(class_name="T2IAdapter", config=None, untold=NO_CONFIG)
    is_xl = not is_light and factor >= _T2I_XL_FACTOR
    kind = "light_adapter" if is_light else "full_adapter_xl" if is_xl else "full_adapter"
    config = {
        "_class_name": "T2IAdapter",
        "in_channels": in_channels,
        "channels": widths[:-1] if is_light else widths,
        "num_res_blocks": len([name for name in shapes if re.fullmatch(r"adapter\.body\.0\.resnets\.\d+\.block1\.weight", name)]),
        "downscale_factor": factor,
        "adapter_type": kind,
    }
    untold = [] if is_light else [f"adapter_type {kind!r}: assumed, as in adapters with downscale_factor {factor}"]
    untold += [] if is_xl else ["base model: Stable Diffusion 1 or 2; their channels are the same"]
    return Inferred(class_name="T2IAdapter", config=config, family=FAMILIES[2048] if is_xl else None, untold=tuple(untold))


def count_params(tensors: Mapping[str, TensorSpec]) -> int:
    """Count the numbers that are parameters; files contain buffers too."""
    return sum(tensor.elements for name, tensor in tensors.items() if not name.endswith(NOT_PARAMETERS))


def _class_of(unet: Structure, tree: TensorTree) -> str:
    """Tell the classes apart by what only UNet2DConditionModel has: text, guidance, layers by block, a mid block of one resnet."""
    by_block = len({block.layers for block in unet.down}) > 1
    reads_text = any(attention.context for attention in unet.attentions)
    small_mid = unet.mid is not None and unet.mid.layers == 1
    is_conditioned = reads_text or "time_embedding.cond_proj.weight" in tree or by_block or small_mid
    return "UNet2DConditionModel" if is_conditioned else "UNet2DModel"


def known_first(entries: Iterable[Entry]) -> list[Entry]:
    """Return models with those first that a structure is known by, the others in their order."""
    rank = {name: index for index, name in enumerate(_KNOWN_FIRST)}
    return sorted(entries, key=lambda entry: rank.get(entry.name, len(rank)))


def _by_encoder(tensors: Mapping[str, FileTensor], class_name: str) -> Inferred | None:
    """Return the config of a ControlNet whose encoder is that of a UNet in the catalog: the values of the keys that both have."""
    encoder = {name: tensor.shape for name, tensor in tensors.items() if name.startswith(_ENCODER)}
    models = load_catalog()
    for entry in known_first(models.values()):
        own = {name: shape for name, shape in tensors_of(entry.name).items() if name.startswith(_ENCODER)}
        if entry.class_name == "UNet2DConditionModel" and own == encoder:
            keys = {key for other in models.values() if other.class_name == "ControlNetModel" for key in other.config}
            hint = (f"controlnet_cond_embedding.{name}.weight" for name in ("conv_in", "blocks.1", "blocks.3", "blocks.5"))
            sizes = [size for name in hint if name in tensors for size in tensors[name].shape[:1]]
            config = {key: value for key, value in entry.config.items() if key in keys and not key.startswith("_")}
            config = {"_class_name": class_name, **config, "conditioning_embedding_out_channels": sizes}
            if class_name == "ControlNetUnionModel":
                shapes = {name: tensors[name].shape for _, name, _ in _UNION if name in tensors}
                config |= {key: shapes[name][axis] for key, name, axis in _UNION if len(shapes.get(name, ())) > axis}
                config["num_trans_layer"] = sum(name.endswith(".attn.in_proj_weight") for name in tensors)
            told = f"what no tensor shows, such as attention_head_dim: assumed, as in {entry.name} of the catalog (same encoder)"
            return Inferred(class_name=class_name, config=config, family=entry.family, untold=(told,))
    return None


def _like(matches: list[Entry]) -> Inferred:
    first = matches[0]
    assumed = ", ".join(f"{key} {_value(first, key)!r}" for key in ("attention_head_dim", "sample_size", "norm_num_groups", "act_fn"))
    return _matched(matches, _ordered(first.config, first.class_name), f"{assumed}: assumed, as in {first.name} of the catalog")


def _matched(matches: list[Entry], config: Config, assumed: str) -> Inferred:
    first, *others = matches
    untold = [assumed]
    if others:
        names = ", ".join(entry.name for entry in others)
        differing = [key for key in _DIFFERING if any(_value(entry, key) != _value(first, key) for entry in others)]
        differences = f"configs differ in {', '.join(differing)}" if differing else "equivalent configs"
        untold.append(f"same structure: {names} ({differences})")
    models = tuple(entry.name for entry in matches)
    return Inferred(class_name=first.class_name, config=config, models=models, family=first.family, untold=tuple(untold))


def _value(entry: Entry, key: str) -> Any:
    return {**defaults_of(entry.class_name), **entry.config}.get(key)


def _by_convention(found: Config, unet: Structure) -> Inferred:
    """Add what similar models have where names and shapes show nothing."""
    class_name, channels = found["_class_name"], found["block_out_channels"]
    groups, is_sdxl = _largest_divisor(32, channels), found.get("addition_embed_type") == "text_time"
    heads, why = _heads(found, unet)
    config = {
        **found,
        "sample_size": max(128 if is_sdxl else 64, 2 ** len(channels)),
        "norm_num_groups": found.get("norm_num_groups", groups),
        "attention_head_dim": heads,
    }
    untold = [f"attention_head_dim {heads!r}: assumed, {why}"]
    if found.get("attn_norm_num_groups") is not None:
        config["attn_norm_num_groups"] = groups
    if is_sdxl:
        config["addition_time_embed_dim"] = 256
        untold.append("addition_time_embed_dim 256: assumed, as in every Stable Diffusion XL")
    if found.get("addition_embed_type") == "text":
        config["addition_embed_type_num_heads"] = _largest_divisor(64, channels[:1])
    usual = ", ".join(f"{key} {config[key]!r}" for key in ("sample_size", "norm_num_groups"))
    untold.append(f"{usual}, act_fn 'silu': assumed, the usual values")
    return Inferred(class_name=class_name, config=_ordered(config, class_name), family=_family(found, unet), untold=tuple(untold))


def _family(config: Config, unet: Structure) -> str | None:
    """Return the family of a relative of Stable Diffusion, by the width of its text embeddings."""
    width = config.get("cross_attention_dim")
    if {attention.kind for attention in unet.attentions} != {"transformer"} or not isinstance(width, int):
        return None
    return "Stable Diffusion XL" if config.get("addition_embed_type") == "text_time" else FAMILIES.get(width)


def _heads(config: Config, unet: Structure) -> tuple[Any, str]:
    """Return `attention_head_dim`, the number of heads of transformers, and elsewhere the channels of a head; and why."""
    channels = config["block_out_channels"]
    if config["_class_name"] == "UNet2DModel":
        return _largest_divisor(8, channels), "the usual channels of a head in such blocks"
    if not any(attention.kind == "transformer" for attention in unet.attentions):
        return _largest_divisor(64, channels), "the usual channels of a head in such blocks"
    if config["use_linear_projection"] or config["cross_attention_dim"] in (1024, 2048):
        heads = [_largest_divisor(max(count // 64, 1), [count]) for count in channels]
        return heads, "one head per 64 channels, as in Stable Diffusion 2 and XL"
    return _largest_divisor(8, channels), "as in Stable Diffusion 1"


def _largest_divisor(limit: int, channels: list[int]) -> int:
    """Return the largest number up to a limit that divides all of these."""
    common = gcd(*channels)
    return next(number for number in range(min(limit, common), 0, -1) if common % number == 0)


def _ordered(config: Mapping[str, Any], class_name: str) -> Config:
    """Put keys in diffusers' order, and leave out those at their defaults, but for the ones that a reader looks for."""
    defaults = defaults_of(class_name)
    kept = {key: config[key] for key in defaults if key in config and (key in _ALWAYS or config[key] != defaults[key])}
    return {"_class_name": class_name, **kept}
