"""The config keys that names and shapes show, for UNet2DConditionModel and UNet2DModel in diffusers' layout."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from unetinspect.checkpoint.structure import Attention, Block, Structure, TensorTree, UnclearError, one_of
from unetinspect.record import Shape

Config = dict[str, Any]

# The two classes whose configs are inferred, and the files of diffusers that have their keys.
_SOURCES = {"UNet2DConditionModel": "unet_2d_condition.py", "UNet2DModel": "unet_2d.py"}
INFERRED = tuple(_SOURCES)
# Keys on which no tensor's name or shape depends. Heads depend on blocks: their list is as long.
HEADS = ("attention_head_dim", "num_attention_heads")
NOT_IN_TENSORS = frozenset(
    (
        *("sample_size", "center_input_sample", "flip_sin_to_cos", "freq_shift", "downsample_padding", "mid_block_scale_factor"),
        *("dropout", "act_fn", "norm_eps", "upcast_attention", "resnet_skip_time_act", "resnet_out_scale_factor", "timestep_post_act"),
    )
)
# Keys that are one side of one tensor: the key, the tensor, the axis. The last of the tensors that are there counts.
_SIDES = (
    ("in_channels", "conv_in.weight", 1),
    ("out_channels", "conv_out.weight", 0),
    ("conv_in_kernel", "conv_in.weight", 2),
    ("conv_out_kernel", "conv_out.weight", 2),
    ("time_cond_proj_dim", "time_embedding.cond_proj.weight", 1),
    ("encoder_hid_dim", "encoder_hid_proj.weight", 1),
    ("encoder_hid_dim", "encoder_hid_proj.image_embeds.weight", 1),
    ("encoder_hid_dim", "encoder_hid_proj.text_proj.weight", 1),
    ("num_class_embeds", "class_embedding.weight", 0),
    ("projection_class_embeddings_input_dim", "class_embedding.linear_1.weight", 1),
    ("projection_class_embeddings_input_dim", "add_embedding.linear_1.weight", 1),
)
# The type of an embedding is shown by what is in it, the first that is there.
_HIDDEN = {"weight": "text_proj", "text_proj.weight": "text_image_proj", "image_embeds.weight": "image_proj"}
_ADDED = {
    "linear_1.weight": "text_time",
    "input_hint_block.0.weight": "image_hint",
    "pool.positional_embedding": "text",
    "text_proj.weight": "text_image",
}


@cache
def defaults_of(class_name: str | None) -> Mapping[str, Any]:
    """Return every key of a class, in diffusers' order, with its default; nothing for a class whose configs are not inferred.

    They are read off the source, since importing diffusers takes seconds.
    """
    file, spec = _SOURCES.get(class_name or ""), find_spec("diffusers")
    if file is None or spec is None or spec.origin is None:
        return {}
    module = ast.parse((Path(spec.origin).parent / "models" / "unets" / file).read_text(encoding="utf-8"))
    found = next(node for node in module.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    init = next(node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    values = map(ast.literal_eval, init.args.defaults)
    names = (argument.arg for argument in init.args.args[1:])
    return MappingProxyType({name: list(value) if isinstance(value, tuple) else value for name, value in zip(names, values, strict=True)})


def read_sides(shapes: Mapping[str, Shape]) -> Config:
    """Return the keys that one tensor shows by itself, for a UNet of any class that has such keys."""
    found = {key: shapes[name][axis] for key, name, axis in _SIDES if len(shapes.get(name, ())) > axis}
    text = {shape[1] for name, shape in shapes.items() if name.endswith(".attn2.to_k.weight") and len(shape) == 2}
    return found | ({"cross_attention_dim": text.pop()} if len(text) == 1 else {})


def config_from_shapes(tree: TensorTree, unet: Structure, class_name: str) -> Config:
    """Return every key that names and shapes show, those at diffusers' defaults among them.

    Raises:
        UnclearError: No config of this class has such tensors.
    """
    for name, axes in (("conv_in.weight", 4), ("conv_out.weight", 4)):
        tree.shape(name, axes)
    config = {"layers_per_block": _layers(unet), **_blocks(unet), **_time(tree, unet, class_name), **_embeddings(tree)}
    config |= _plain(unet) if class_name == "UNet2DModel" else {**_text(unet), **_depths(unet), **_others(tree, unet)}
    return {key: value for key, value in config.items() if key in defaults_of(class_name)}


def _layers(unet: Structure) -> Any:
    layers = [block.layers for block in unet.down]
    for block, expected in zip(unet.up, reversed(layers), strict=True):
        if block.layers != expected + (0 if block.adaptive else 1):
            raise UnclearError(f"an up block has {block.layers} resnets, and its down block {expected}")
    return _same_or_list(layers)


def _same_or_list(values: Sequence[Any]) -> Any:
    return values[0] if all(value == values[0] for value in values) else list(values)


def _blocks(unet: Structure) -> Config:
    # The last blocks have no sampler that would show their type: they are like the others.
    samplers = {block.sampler for block in unet.blocks}
    simple = any(attention.kind == "simple" for attention in unet.attentions)
    usual = "skip" if "skip" in samplers else "resnet" if "resnet" in samplers or simple else "conv"
    mid = {None: "UNetMidBlock2D", "transformer": "UNetMidBlock2DCrossAttn", "simple": "UNetMidBlock2DSimpleCrossAttn"}
    return {
        "block_out_channels": [block.channels for block in unet.down],
        "down_block_types": [_block_type(block, usual, "Down") for block in unet.down],
        "mid_block_type": None if unet.mid is None else mid.get(_kind(unet.mid), "UNetMidBlock2D"),
        "up_block_types": [_block_type(block, usual, "Up") for block in unet.up],
    }


def _kind(block: Block) -> str | None:
    return block.attention.kind if block.attention else None


def _block_type(block: Block, usual: str, way: Literal["Down", "Up"]) -> str:
    kind = _kind(block)
    if kind in ("transformer", "simple"):
        return f"{'Simple' if kind == 'simple' else ''}CrossAttn{way}Block2D"
    if block.adaptive:
        return f"K{'CrossAttn' if kind else ''}{way}Block2D"
    sampler = block.sampler or usual
    if sampler == "skip":
        return f"{'Attn' if kind else ''}Skip{way}Block2D"
    if kind == "plain":
        return f"Attn{way}Block2D"
    return f"Resnet{way}sampleBlock2D" if sampler == "resnet" else f"{way}Block2D"


def _time(tree: TensorTree, unet: Structure, class_name: str) -> Config:
    width, read = tree.shape("time_embedding.linear_1.weight", 2)
    first = unet.down[0].channels
    usual = 4 * first
    scale_shift = any(block.time_out == 2 for block in unet.blocks)
    config: Config = {"resnet_time_scale_shift": "scale_shift" if scale_shift else "default"}
    if len(tree.shapes.get("time_proj.weight", ())) == 2:
        config |= {"time_embedding_type": "learned", "num_train_timesteps": tree.shape("time_proj.weight", 2)[0]}
    elif "time_proj.weight" in tree:
        config |= {"time_embedding_type": "fourier"}
        usual = 2 * first if class_name == "UNet2DConditionModel" else usual
    elif read != first:
        raise UnclearError(f"the time embedding reads {read} values, and the first block has {first} channels")
    return config | {"time_embedding_dim": None if width == usual else width}


def _embeddings(tree: TensorTree) -> Config:
    """Return what is embedded beside the time, and what encodes `encoder_hidden_states`."""
    sides, labels, added, hidden = read_sides(tree.shapes), *map(tree.under, ("class_embedding", "add_embedding", "encoder_hid_proj"))
    config = dict.fromkeys(("class_embed_type", "addition_embed_type", "time_cond_proj_dim", "num_class_embeds")) | sides
    config["encoder_hid_dim_type"] = next((word for name, word in _HIDDEN.items() if name in hidden), None)
    if "bias" in labels:
        config |= {"class_embed_type": "simple_projection", "num_class_embeds": None}
        config["projection_class_embeddings_input_dim"] = labels.shape("weight", 2)[1]
    elif "linear_1.weight" in labels:
        # As wide as the time's: an embedded time, as diffusers' "timestep" reads it.
        is_time = labels.shape("linear_1.weight", 2)[1] == tree.shape("time_embedding.linear_1.weight", 2)[1]
        config["class_embed_type"] = "timestep" if is_time else "projection"
        if is_time and "linear_1.weight" not in added:
            del config["projection_class_embeddings_input_dim"]
    if added.shapes:
        config["addition_embed_type"] = next((word for name, word in _ADDED.items() if name in added), "image")
    return config


def _plain(unet: Structure) -> Config:
    attention = unet.mid.attention if unet.mid else None
    config: Config = {
        "add_attention": unet.mid is None or attention is not None,
        "downsample_type": _sampler_type(unet.down),
        "upsample_type": _sampler_type(unet.up),
    }
    if attention and attention.normed and any(block.time_out == 2 for block in unet.blocks):
        config["attn_norm_num_groups"] = 32  # without it, the attention of such a mid block has no norm
    return config


def _sampler_type(blocks: Sequence[Block]) -> str:
    """Say how blocks with attention resample; the others' types say it themselves."""
    kinds = [block.sampler for block in blocks if block.attention and block.sampler in ("conv", "resnet")]
    return one_of(kinds, "the sampler of blocks with attention") or "conv"


def _text(unet: Structure) -> Config:
    widths = _by_level(unet, lambda attention: attention.context, "cross_attention_dim")
    known = {width for width in widths if width is not None}
    # Levels without attention read no text, and nothing reads their width. AudioLDM writes their channels.
    each = [block.channels if width is None else width for width, block in zip(widths, unet.down, strict=True)]
    only = _by_level(unet, lambda attention: attention.crosses_only, "only_cross_attention", mid=False)
    is_mixed = len({value for value in only if value is not None}) > 1
    config: Config = {
        "cross_attention_dim": each if len(known) > 1 else next(iter(known), 1280),
        "only_cross_attention": [bool(value) for value in only] if is_mixed else any(only),
        "cross_attention_norm": _cross_norm(unet),
    }
    mid = unet.mid.attention if unet.mid else None
    mid_only = bool(mid and mid.crosses_only)
    if mid_only != (config["only_cross_attention"] is True):
        config["mid_block_only_cross_attention"] = mid_only if mid and mid.kind == "simple" else None
    return config


def _by_level(unet: Structure, read: Callable[[Attention], Any], key: str, *, mid: bool = True) -> list[Any]:
    """Return what both blocks of each level say, for the last level with the mid block; None where nothing does."""
    levels = []
    for index, (down, up) in enumerate(zip(unet.down, reversed(unet.up), strict=True)):
        blocks = [down, up, unet.mid] if mid and index == len(unet.down) - 1 else [down, up]
        levels.append(one_of([read(block.attention) for block in blocks if block and block.attention], f"{key} of level {index}"))
    return levels


def _cross_norm(unet: Structure) -> str | None:
    """Return the norm of the text: "group_norm" is as wide as the text, "layer_norm" as the block."""
    pairs = [(a, block.channels) for block in unet.blocks for a in block.attentions if a.kind == "simple" and a.norm_cross]
    if not pairs:
        return None
    return "layer_norm" if any(a.norm_cross == channels != a.context for a, channels in pairs) else "group_norm"


def _depths(unet: Structure) -> Config:
    """Return how many transformer blocks each level has; the mid block has those of the last one, levels without any do not matter."""
    mid = unet.mid.attention.depth if unet.mid and unet.mid.attention and unet.mid.attention.kind == "transformer" else None
    down, up = ([_depth(block) for block in blocks] for blocks in (unet.down, unet.up))
    if down[-1] is None:
        down[-1] = mid
    if mid is not None and mid != (down[-1] if isinstance(down[-1], int) else down[-1][0]):
        raise UnclearError(f"the mid block has {mid} transformer blocks, and the last down block {down[-1]}")
    mirrored = all(value is None or other is None or value == other for value, other in zip(up, reversed(down), strict=True))
    if mirrored:
        down = [other if value is None else value for value, other in zip(down, reversed(up), strict=True)]
        # The up blocks of a level have one more layer: a list for the down block does not say how many that has.
        mirrored = all(isinstance(value, int) or value is None for value in (*down, *up))
    known = [value for value in down if value is not None] or [1]
    alike = isinstance(known[0], int) and known.count(known[0]) == len(known)
    linear = next((attention.linear for attention in unet.attentions if attention.kind == "transformer"), False)
    return {
        "use_linear_projection": linear,
        "transformer_layers_per_block": known[0] if alike else [1 if value is None else value for value in down],
        "reverse_transformer_layers_per_block": None if mirrored else [1 if value is None else value for value in up],
    }


def _depth(block: Block) -> Any:
    depths = [attention.depth for attention in block.attentions if attention.kind == "transformer"]
    return _same_or_list(depths) if depths else None


def _others(tree: TensorTree, unet: Structure) -> Config:
    net, width = tree.under("position_net"), tree.shape("time_embedding.linear_1.weight", 2)[0]
    gated = "gated-text-image" if net.under("linears_text").shapes else "gated" if net.shapes else "default"
    return {
        "attention_type": gated,
        "class_embeddings_concat": any(block.time_in == 2 * width for block in unet.blocks),
        **({} if "conv_norm_out.weight" in tree else {"norm_num_groups": None}),
    }
