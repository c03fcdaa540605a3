"""Keys that a class has and that have no effect with the others, read off the constructors and forwards of diffusers 0.42."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from unetinspect.check.blocks import READERS, Kind, attends, kinds_of
from unetinspect.check.ignored_1d import unread_1d
from unetinspect.check.problems import keys_in
from unetinspect.check.words import joined, shown
from unetinspect.record.check import Finding
from unetinspect.unets.base import Config, is_list

Unread = Iterator[tuple[str, str]]
"""Keys that have no effect, each with the reason why."""

# No line of the class reads them, or none that is ever run.
_NEVER: dict[str, tuple[str, ...]] = {
    "DreamLiteUNetModel": ("resnet_skip_time_act", "resnet_out_scale_factor", "cross_attention_norm", "mid_block_only_cross_attention"),
    "I2VGenXLUNet": ("num_attention_heads",),
    "SparseControlNetModel": ("downsample_padding",),
    "UNetMotionModel": ("reverse_motion_num_attention_heads", "encoder_hid_dim"),
}
_BLOCK_TYPES = {"down_block_types", "mid_block_type", "up_block_types", "block_types_per_layer"}
_CLASS_EMBEDS = ("timestep", "identity", "projection", "simple_projection")
_KNOWN_CLASS_EMBEDS: dict[str, tuple[str, ...]] = {
    "UNet2DModel": _CLASS_EMBEDS[:2],
    "ControlNetModel": _CLASS_EMBEDS[:3],
    "ControlNetUnionModel": _CLASS_EMBEDS[:3],
}
_TIME_ADDITIONS: dict[str, tuple[str, ...]] = {"DreamLiteUNetModel": ("text_time", "time")}
_BLOCK_KEYS_LEFT_OUT: dict[str, tuple[str, ...]] = {
    # These refuse it, whatever their blocks are.
    **dict.fromkeys(
        ("AudioLDM2UNet2DConditionModel", "DreamLiteUNetModel", "UNet2DConditionModel", "UNet3DConditionModel"), ("num_attention_heads",)
    ),
    # Its control side has attention of its own, which is built with the same keys.
    "UNetControlNetXSModel": tuple(READERS),
    "SparseControlNetModel": ("transformer_layers_per_block",),
    "UNetMotionModel": ("transformer_layers_per_block",),
}


def find_ignored(
    class_name: str, given: Mapping[str, Any], values: Mapping[str, Any], defaults: Mapping[str, Any], problems: Sequence[str]
) -> Iterator[Finding]:
    """Find keys that were given another value than the default, and that nothing reads.

    What `problems` name is no news; and where they name block types, what the blocks read is not known.
    """
    named = {key for problem in problems for key in keys_in(problem, values)}
    said = set(named)
    for key, reason in unread_keys(class_name, values, blocks_known=not named & _BLOCK_TYPES):
        value = values.get(key)
        if key in said or key not in given or _says_nothing(value) or (key in defaults and is_default(value, defaults[key])):
            continue
        said.add(key)
        what = f"{key} is {shown(value)}, and has no effect here: {reason}"
        yield Finding(about="config", kind="ignored", what=what, where=(key,), advice=f"leave out {key}")


def is_default(value: Any, default: Any) -> bool:
    """Tell whether a value says no more than the default: it is equal, or a list of nothing else.

    >>> is_default(2, 2), is_default([False, False], False)
    (True, True)
    """
    if is_list(value) and not is_list(default):
        return all(item == default for item in value)
    return bool(list(value) == list(default) if is_list(value) and is_list(default) else value == default)


def _says_nothing(value: Any) -> bool:
    return all(entry is None for entry in value) if is_list(value) else value is None


def unread_keys(class_name: str, values: Config, *, blocks_known: bool = True) -> Unread:
    """List the keys of a class that have no effect with these values, whatever they hold themselves."""
    for rule in _rules_of(class_name, values, blocks_known=blocks_known):
        yield from ((key, reason) for key, reason in rule if key in values)


def _rules_of(class_name: str, values: Config, *, blocks_known: bool) -> Iterator[Unread]:
    yield ((key, f"{class_name} never reads it") for key in _NEVER.get(class_name, ()))
    if blocks_known:
        if "down_block_types" in values and class_name != "UNet1DModel":
            yield _by_blocks(class_name, values)
        yield from (rule(values) for rule in _RULES.get(class_name, ()))
    yield _embeddings(class_name, values)


def _by_blocks(class_name: str, values: Config) -> Unread:
    """Find keys that some block types read, where no block is of these types."""
    lists = [values.get(f"{way}_block_types", []) for way in ("down", "up")]
    if not all(is_list(kinds) for kinds in lists):
        return
    kinds = kinds_of(values)
    for key, (reads, readers) in READERS.items():
        left_out = key in _BLOCK_KEYS_LEFT_OUT.get(class_name, ()) or _read_elsewhere(class_name, values, key)
        if key in values and not left_out and not any(reads(kind) for kind in _as_built(class_name, values, kinds)):
            yield key, f"only {readers}, and there is none"


def _as_built(class_name: str, values: Config, kinds: list[Kind]) -> list[Kind]:
    """Return the blocks as the class builds them: a `UNet2DModel` has one kind of mid block, whatever its name."""
    if class_name != "UNet2DModel":
        return kinds
    mid = "UNetMidBlock2DAttn" if values.get("add_attention") else "UNetMidBlock2D"
    return [kind._replace(name=mid) if kind.way == "mid" else kind for kind in kinds]


def _read_elsewhere(class_name: str, values: Config, key: str) -> bool:
    """Tell whether something other than a block reads a key."""
    if key == "cross_attention_dim":
        asks = ("encoder_hid_dim", "encoder_hid_dim_type")
        added = values.get("addition_embed_type") in ("text", "text_image")
        return added or any(values.get(other) is not None for other in asks) or _is_gated(values)
    if key == "only_cross_attention":
        # As a single value it stands in for a mid_block_only_cross_attention that is not given.
        return isinstance(values.get(key), bool) and values.get("mid_block_only_cross_attention") is None and _simple_mid(values)
    return False


def _is_gated(values: Config) -> bool:
    return values.get("attention_type") in ("gated", "gated-text-image")


def _simple_mid(values: Config) -> bool:
    return values.get("mid_block_type") == "UNetMidBlock2DSimpleCrossAttn"


def _embeddings(class_name: str, values: Config) -> Unread:
    """Find keys of the classes, and of what is added to the time embedding, that nothing asks for."""
    kind, added = values.get("class_embed_type"), values.get("addition_embed_type")
    known = _KNOWN_CLASS_EMBEDS.get(class_name, _CLASS_EMBEDS)
    if kind is not None and kind not in known:
        yield "class_embed_type", f"{class_name} knows only {joined(known)}, and has no class embedding for another word"
    if kind is not None:
        yield "num_class_embeds", "only where class_embed_type is null is it read"
    yield from _projection(class_name, values, [word for word in known if word.endswith("projection")])
    if added != "text":
        yield "addition_embed_type_num_heads", "only addition_embed_type 'text' reads it"


def _projection(class_name: str, values: Config, projecting: Sequence[str]) -> Unread:
    """Find widths of a projection that neither the classes nor what is added to the time embedding asks for."""
    of_time = () if "addition_embed_type" not in values else _TIME_ADDITIONS.get(class_name, ("text_time",))
    if values.get("addition_embed_type") in of_time:
        return
    readers = [f"addition_embed_type {word!r}" for word in of_time]
    if of_time and class_name != "ControlNetUnionModel":  # its control types are embedded in as many channels
        yield "addition_time_embed_dim", f"only {joined(readers, 'or')} reads it"
    if values.get("class_embed_type") not in projecting:
        readers = [f"class_embed_type {word!r}" for word in projecting if "class_embed_type" in values] + readers
        yield "projection_class_embeddings_input_dim", f"only {joined(readers, 'or')} reads it"


def _condition(values: Config) -> Unread:
    """Find keys of a `UNet2DConditionModel` that other keys switch off."""
    gated = values.get("attention_type")
    if gated not in ("default", None) and not _is_gated(values):
        yield "attention_type", "diffusers knows 'gated' and 'gated-text-image', and takes another word for 'default'"
    yield from _fourier_time(values)


def _fourier_time(values: Config) -> Unread:
    if values.get("time_embedding_type") == "fourier" and values.get("addition_embed_type") not in ("text_time", "time"):
        yield "freq_shift", "time_embedding_type 'fourier' has none"


def _plain(values: Config) -> Unread:
    """Find keys of a `UNet2DModel` that other keys switch off."""
    kind, time = values.get("mid_block_type"), values.get("time_embedding_type")
    if kind not in (None, "UNetMidBlock2D"):
        yield "mid_block_type", "a UNet2DModel builds a UNetMidBlock2D for whatever is not null"
    if kind is None:
        yield "add_attention", "it is of the mid block, and there is none"
    if kind is None or not values.get("add_attention"):
        yield "attn_norm_num_groups", "only the attention of a mid block reads it, and there is none"
    if time != "positional":
        yield "freq_shift", f"time_embedding_type {time!r} has none"
        yield "flip_sin_to_cos", f"time_embedding_type {time!r} has none"
    if time != "learned":
        yield "num_train_timesteps", "only time_embedding_type 'learned' reads it"
    yield from _no_convolution(values)


def _no_convolution(values: Config) -> Unread:
    """Find a padding where blocks with attention halve by a resnet, and no other block reads it."""
    kinds = [kind for kind in kinds_of(values) if kind.way == "down"]
    reads = READERS["downsample_padding"][0]
    if values.get("downsample_type") != "conv" and not any(reads(kind) and not attends(kind) for kind in kinds):
        yield "downsample_padding", "only down blocks that halve by a convolution read it, and there is none"


def _heads_given(values: Config) -> Unread:
    """Find the old name of the heads beside the new one."""
    if values.get("num_attention_heads"):
        old = "num_attention_heads is given, and read in its place"
        # Blocks that are no transformers have channels of a head, under the old name.
        if not any(attends(kind) and "CrossAttnDownBlock" not in kind.name for kind in kinds_of(values) if kind.way == "down"):
            yield "attention_head_dim", old


def _controlnet(values: Config) -> Unread:
    kinds = [kind.name for kind in kinds_of(values) if kind.way == "down"]
    if not any(name.startswith(("Simple", "K", "Attn")) for name in kinds):
        yield from _heads_given(values)


def _union(values: Config) -> Unread:
    yield from _controlnet(values)
    if values.get("addition_embed_type") != "text":
        yield "encoder_hid_dim", "only addition_embed_type 'text' reads it"
    if values.get("num_trans_layer") == 0:
        yield "num_trans_head", "num_trans_layer is 0"


def _sparse(values: Config) -> Unread:
    yield from _heads_given(values)
    yield from _own_mid_depth(values)
    if values.get("use_simplified_condition_embedding"):
        yield "conditioning_embedding_out_channels", "use_simplified_condition_embedding is true, and makes one convolution"


def _motion(values: Config) -> Unread:
    added = values.get("addition_embed_type")
    if added is not None and added != "text_time":
        yield "addition_embed_type", "a UNetMotionModel knows only 'text_time', and adds nothing for another word"
    if not values.get("use_motion_mid_block"):
        yield "temporal_transformer_layers_per_mid_block", "use_motion_mid_block is false"
    yield from _own_mid_depth(values)


def _own_mid_depth(values: Config) -> Unread:
    """Find a depth that neither a block with transformers nor the mid block takes."""
    kinds = [kind for kind in kinds_of(values) if kind.way != "mid"]
    if values.get("transformer_layers_per_mid_block") is not None and not any("CrossAttn" in kind.name for kind in kinds):
        yield (
            "transformer_layers_per_block",
            "only blocks with transformers read it, and the mid block has transformer_layers_per_mid_block",
        )


def _adapter(values: Config) -> Unread:
    if not values.get("use_motion_mid_block"):
        yield "motion_mid_block_layers_per_block", "use_motion_mid_block is false"
        yield "motion_transformer_layers_per_mid_block", "use_motion_mid_block is false"


def _cascade(values: Config) -> Unread:
    kinds = [name for level in _levels(values.get("block_types_per_layer")) for name in _levels(level)]
    for key, reader in (
        ("num_attention_heads", "SDCascadeAttnBlock"),
        ("self_attn", "SDCascadeAttnBlock"),
        ("kernel_size", "SDCascadeResBlock"),
    ):
        if reader not in kinds:
            yield key, f"only a {reader} reads it, and there is none"


def _levels(value: Any) -> list[Any]:
    return list(value) if is_list(value) else []


_RULES: dict[str, tuple[Callable[[Config], Unread], ...]] = {
    "AudioLDM2UNet2DConditionModel": (_fourier_time,),
    "ControlNetModel": (_controlnet,),
    "ControlNetUnionModel": (_union,),
    "DreamLiteUNetModel": (_condition,),
    "MotionAdapter": (_adapter,),
    "SparseControlNetModel": (_sparse,),
    "StableCascadeUNet": (_cascade,),
    "UNet1DModel": (unread_1d,),
    "UNet2DConditionModel": (_condition,),
    "UNet2DModel": (_plain,),
    "UNetMotionModel": (_motion,),
}
