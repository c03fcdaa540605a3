"""The keys of a config that names and shapes tell, for UNet2DConditionModel and UNet2DModel in diffusers' layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from unetinspect.checkpoint.names import Names, UnclearError
from unetinspect.checkpoint.structure import BlockShape, UNetShape, one_of

Config = dict[str, Any]
Style = Literal["conv", "resnet", "skip"]


def told_config(names: Names, unet: UNetShape, class_name: str) -> Config:
    """Return every key that names and shapes tell, those of diffusers' defaults among them.

    Raises:
        UnclearError: No config of this class has such tensors.
    """
    common = {**_sides(names, unet), **_blocks(unet), **_time(names, unet, class_name)}
    if class_name == "UNet2DModel":
        return common | _plain(names, unet)
    return common | {**_text(names, unet), **_classes(names), **_added(names), **_transformers(unet), **_kernels(names, unet)}


def _sides(names: Names, unet: UNetShape) -> Config:
    return {
        "in_channels": names.shape("conv_in.weight", 4)[1],
        "out_channels": names.shape("conv_out.weight", 4)[0],
        "block_out_channels": [block.channels for block in unet.down],
        "layers_per_block": _same_or_list(_layers(unet)),
    }


def _layers(unet: UNetShape) -> list[int]:
    layers = [block.layers for block in unet.down]
    for block, expected in zip(unet.up, reversed(layers), strict=True):
        if block.layers != expected + (0 if block.adaptive else 1):
            raise UnclearError(f"an up block has {block.layers} resnets, the down block that it answers to {expected}")
    return layers


def _same_or_list(values: Sequence[Any]) -> Any:
    return values[0] if all(value == values[0] for value in values) else list(values)


def _blocks(unet: UNetShape) -> Config:
    style = _style(unet)
    return {
        "down_block_types": [_block_type(block, style, "Down") for block in unet.down],
        "mid_block_type": _mid_type(unet.mid),
        "up_block_types": [_block_type(block, style, "Up") for block in unet.up],
    }


def _style(unet: UNetShape) -> Style:
    """Say what the blocks of a UNet are like, for the last ones, which have no sampler that would tell."""
    samplers = {block.sampler for block in unet.blocks}
    simple = any(attention.kind == "simple" for attention in unet.attentions)
    return "skip" if "skip" in samplers else "resnet" if "resnet" in samplers or simple else "conv"


def _block_type(block: BlockShape, style: Style, way: Literal["Down", "Up"]) -> str:
    kind = block.attention.kind if block.attention else None
    if kind in ("transformer", "simple"):
        return f"{'Simple' if kind == 'simple' else ''}CrossAttn{way}Block2D"
    if block.adaptive:
        return f"K{'CrossAttn' if kind else ''}{way}Block2D"
    sampler = block.sampler or style
    if sampler == "skip":
        return f"{'Attn' if kind else ''}Skip{way}Block2D"
    if kind == "plain":
        return f"Attn{way}Block2D"
    return f"Resnet{way}sampleBlock2D" if sampler == "resnet" else f"{way}Block2D"


def _mid_type(mid: BlockShape | None) -> str | None:
    if mid is None:
        return None
    kinds = {"transformer": "UNetMidBlock2DCrossAttn", "simple": "UNetMidBlock2DSimpleCrossAttn"}
    return kinds.get(mid.attention.kind, "UNetMidBlock2D") if mid.attention else "UNetMidBlock2D"


def _time(names: Names, unet: UNetShape, class_name: str) -> Config:
    width, taken = names.shape("time_embedding.linear_1.weight", 2)
    first = unet.down[0].channels
    scale_shift = any(block.time_out == 2 for block in unet.blocks)
    told: Config = {"resnet_time_scale_shift": "scale_shift" if scale_shift else "default"}
    usual = 4 * first
    if len(names.shapes.get("time_proj.weight", ())) == 2:
        told |= {"time_embedding_type": "learned", "num_train_timesteps": names.shape("time_proj.weight", 2)[0]}
    elif "time_proj.weight" in names:
        told |= {"time_embedding_type": "fourier"}
        usual = 2 * first if class_name == "UNet2DConditionModel" else usual
    elif taken != first:
        raise UnclearError(f"the time embedding takes {taken} values, and the first block has {first} channels")
    return told | {"time_embedding_dim": None if width == usual else width}


def _plain(names: Names, unet: UNetShape) -> Config:
    attention = unet.mid.attention if unet.mid else None
    labels = names.under("class_embedding")
    told: Config = {
        "add_attention": unet.mid is None or attention is not None,
        "downsample_type": _sampler_type(unet.down),
        "upsample_type": _sampler_type(unet.up),
        "num_class_embeds": labels.shape("weight", 2)[0] if "weight" in labels else None,
        "class_embed_type": "timestep" if "linear_1.weight" in labels else None,
    }
    scaled = any(block.time_out == 2 for block in unet.blocks)
    if attention and attention.normed and scaled:  # without it, the attention of such a mid block has no norm
        told["attn_norm_num_groups"] = 32
    return told


def _sampler_type(blocks: Sequence[BlockShape]) -> str:
    """Say how blocks with attention resample; what `Skip` blocks and those without attention do, their type says."""
    kinds = [block.sampler for block in blocks if block.attention and block.sampler in ("conv", "resnet")]
    return one_of(kinds, "the sampler of blocks with attention") or "conv"


def _text(names: Names, unet: UNetShape) -> Config:
    widths = _by_level(unet, lambda block: block.attention.context if block.attention else None, "the width of the text")
    only = _by_level(unet, lambda block: block.attention.crosses_only if block.attention else None, "only_cross_attention", mid=False)
    mid = unet.mid.attention.crosses_only if unet.mid and unet.mid.attention else None
    told: Config = {"cross_attention_dim": _filled(widths, [block.channels for block in unet.down])}
    told["only_cross_attention"] = any(only) if len({value for value in only if value is not None}) < 2 else [bool(value) for value in only]
    if bool(mid) != (told["only_cross_attention"] is True):
        simple = unet.mid is not None and unet.mid.attention is not None and unet.mid.attention.kind == "simple"
        told["mid_block_only_cross_attention"] = bool(mid) if simple else None
    return told | {"cross_attention_norm": _cross_norm(unet), **_hidden(names)}


def _by_level(unet: UNetShape, read: Callable[[BlockShape], Any], what: str, *, mid: bool = True) -> list[Any]:
    """Return what both blocks of each level say, with the mid block that of the last level too; None where nothing does."""
    levels = []
    for index, (down, up) in enumerate(zip(unet.down, reversed(unet.up), strict=True)):
        last = index == len(unet.down) - 1 and mid and unet.mid is not None
        blocks = [down, up, unet.mid] if last else [down, up]
        levels.append(one_of([read(block) for block in blocks if block], f"{what} of level {index}"))
    return levels


def _filled(widths: list[int | None], channels: list[int]) -> int | list[int]:
    known = {width for width in widths if width is not None}
    if len(known) < 2:
        return known.pop() if known else 1280
    # Levels without attention take no text: what stands for them is not read. AudioLDM writes their channels.
    return [channel if width is None else width for width, channel in zip(widths, channels, strict=True)]


def _cross_norm(unet: UNetShape) -> str | None:
    """Tell the norm over the text's own width from that over the block's: the first is "group_norm", the second "layer_norm"."""
    pairs = [(a, block.channels) for block in unet.blocks for a in block.attentions if a.kind == "simple"]
    normed = [(attention.context, attention.norm_cross, channels) for attention, channels in pairs if attention.norm_cross]
    if not normed:
        return None
    return "layer_norm" if any(width == channels != context for context, width, channels in normed) else "group_norm"


def _hidden(names: Names) -> Config:
    hidden = names.under("encoder_hid_proj")
    if "weight" in hidden:
        return {"encoder_hid_dim": hidden.shape("weight", 2)[1], "encoder_hid_dim_type": "text_proj"}
    if "text_proj.weight" in hidden:
        return {"encoder_hid_dim": hidden.shape("text_proj.weight", 2)[1], "encoder_hid_dim_type": "text_image_proj"}
    if "image_embeds.weight" in hidden:
        return {"encoder_hid_dim": hidden.shape("image_embeds.weight", 2)[1], "encoder_hid_dim_type": "image_proj"}
    return {"encoder_hid_dim": None, "encoder_hid_dim_type": None}


def _classes(names: Names) -> Config:
    labels = names.under("class_embedding")
    told: Config = {"class_embed_type": None, "num_class_embeds": None}
    if "bias" in labels:
        return told | {"class_embed_type": "simple_projection", "projection_class_embeddings_input_dim": labels.shape("weight", 2)[1]}
    if "weight" in labels:
        return told | {"num_class_embeds": labels.shape("weight", 2)[0]}
    if "linear_1.weight" in labels:
        width = labels.shape("linear_1.weight", 2)[1]
        taken = names.shape("time_embedding.linear_1.weight", 2)[1]
        # As wide as the time's: read as an embedded time, as diffusers' "timestep" takes it.
        kind = {"class_embed_type": "timestep"}
        return told | (kind if width == taken else {"class_embed_type": "projection", "projection_class_embeddings_input_dim": width})
    return told


def _added(names: Names) -> Config:
    added = names.under("add_embedding")
    if not added:
        return {"addition_embed_type": None}
    if "linear_1.weight" in added:
        width = added.shape("linear_1.weight", 2)[1]
        return {"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": width}
    if added.under("input_hint_block"):
        return {"addition_embed_type": "image_hint"}
    if added.under("pool"):
        return {"addition_embed_type": "text"}
    return {"addition_embed_type": "text_image" if added.under("text_proj") else "image"}


def _transformers(unet: UNetShape) -> Config:
    first = next((attention for attention in unet.attentions if attention.kind == "transformer"), None)
    return {
        "use_linear_projection": bool(first and first.linear),
        **_depths(unet),
    }


def _depths(unet: UNetShape) -> Config:
    """Say how many transformer blocks each level has; the mid block has those of the last one, levels without any are read by nobody."""
    mid = unet.mid.attention.depth if unet.mid and unet.mid.attention and unet.mid.attention.kind == "transformer" else None
    down, up = ([_depth(block) for block in blocks] for blocks in (unet.down, unet.up))
    if down[-1] is None:
        down[-1] = mid
    if mid is not None and mid != (down[-1] if isinstance(down[-1], int) else down[-1][0]):
        raise UnclearError(f"the mid block has {mid} transformer blocks, the last down block {down[-1]}")
    mirrored = all(value is None or other is None or value == other for value, other in zip(up, reversed(down), strict=True))
    if mirrored:
        down = [other if value is None else value for value, other in zip(down, reversed(up), strict=True)]
        # The up blocks of a level have one more layer: a list for the down block does not say how many that has.
        mirrored = all(isinstance(value, int) or value is None for value in (*down, *up))
    known = [value for value in down if value is not None] or [1]
    alike = isinstance(known[0], int) and known.count(known[0]) == len(known)
    reverse = None if mirrored else [1 if value is None else value for value in up]
    depths = known[0] if alike else [1 if value is None else value for value in down]
    return {"transformer_layers_per_block": depths, "reverse_transformer_layers_per_block": reverse}


def _depth(block: BlockShape) -> Any:
    depths = [attention.depth for attention in block.attentions if attention.kind == "transformer"]
    return _same_or_list(depths) if depths else None


def _kernels(names: Names, unet: UNetShape) -> Config:
    guidance = "time_embedding.cond_proj.weight"
    net = names.under("position_net")
    gated = "gated-text-image" if net.under("linears_text") else "gated" if net else "default"
    width = names.shape("time_embedding.linear_1.weight", 2)[0]
    return {
        "conv_in_kernel": names.shape("conv_in.weight", 4)[2],
        "conv_out_kernel": names.shape("conv_out.weight", 4)[2],
        "time_cond_proj_dim": names.shape(guidance, 2)[1] if guidance in names else None,
        "attention_type": gated,
        "class_embeddings_concat": any(block.time_in == 2 * width for block in unet.blocks),
        **({} if "conv_norm_out.weight" in names else {"norm_num_groups": None}),
    }
