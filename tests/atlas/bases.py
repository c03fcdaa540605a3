"""The models that errors are provoked from: kinds of `kinds.yaml`, with sizes that are distinct primes or with their own sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from msgspec.structs import replace

from tests.tiny import Config, kinds
from unetinspect.run.resolve import resolve_config
from unetinspect.unets import InputSpec, Plan, builder_for
from unetinspect.unets.builder import is_list

# Those that differ from another in depths and names alone raise what it raises. The first of a class is the one whose config is bent.
_USED = {
    "image": """conditioned text-time simple-cross-attention only-cross-attention k-blocks no-mid-block per-block-lists own-hidden-states
        linear-projection text text-image image image-hint text-time-and-image text-proj classes class-timestep class-identity
        class-projection class-simple-projection class-concat timestep-cond gligen gligen-text-image no-cross-attention
        plain skip-blocks plain-no-mid-block plain-resnet-sampling plain-classes plain-class-timestep plain-class-identity
        plain-learned-time""",
    "other": """unet1d-audio unet1d-audio-positional unet1d-audio-more-channels unet1d-temporal unet1d-temporal-fourier
        unet1d-value-function kandinsky3-two-levels cascade-prior cascade-prior-pooled-alone cascade-decoder uvit uvit-sampled
        dreamlite dreamlite-time audioldm2 audioldm2-one-text audioldm2-classes""",
    "plugs": """controlnet controlnet-text-time controlnet-text controlnet-text-image controlnet-without-text controlnet-classes
        controlnet-class-projection controlnet-union controlnet-union-text-time controlnet-xs controlnet-xs-text-time
        controlnet-xs-own-time t2i-adapter t2i-adapter-xl t2i-adapter-light""",
    "video": """unet3d unet3d-time-cond unet3d-reads-no-text i2vgen motion motion-plain-mid-block motion-time-cond motion-sdxl
        svd svd-reads-no-text sparse-controlnet sparse-controlnet-pixels sparse-controlnet-no-mask""",
}
# The sizes of each key, for its different values in the order in which they come. Channels are 2 x a prime: 2 heads, 2 groups.
_PRIMES: dict[str, tuple[int, ...]] = {
    "block_out_channels": (34, 38, 46, 58),
    "channels": (34, 38, 46, 58),
    "in_channels": (47,),
    "out_channels": (61,),
    "cross_attention_dim": (37, 53),
    "encoder_hid_dim": (41,),
    "num_class_embeds": (67,),
    "projection_class_embeddings_input_dim": (59,),
    "time_cond_proj_dim": (71,),
    "motion_max_seq_length": (43,),
    "conditioning_channels": (29,),
    "ctrl_conditioning_channels": (29,),
    "num_control_type": (23,),
    **dict.fromkeys(
        ("norm_num_groups", "attention_head_dim", "num_attention_heads", "motion_num_attention_heads", "num_trans_head", "groups"),
        (2, 2, 2),
    ),
}
_BATCH, _TOKENS, _FRAMES = 5, 31, 7
_SIDES, _SMALL_SIDES = (7, 11), (3, 11)
_TEXT_TIME = {"addition_time_embed_dim": 73, "projection_class_embeddings_input_dim": 79 + 6 * 73}
# What must fit another key, or a number in diffusers.
_SKIPS: Config = {"block_out_channels": [32, 96, 160], "in_channels": 3, "out_channels": 3}
_TEMPORAL: Config = {"block_out_channels": [88, 104, 136]}
_CASCADE: Config = {
    "conditioning_dim": 74,
    "clip_image_in_channels": 53,
    "clip_text_in_channels": 41,
    "clip_text_pooled_in_channels": 59,
}
_SVD: Config = {"block_out_channels": [32, 96], "addition_time_embed_dim": 73, "projection_class_embeddings_input_dim": 219}
_UVIT: Config = {
    "hidden_size": 74,
    "cond_embed_dim": 53,
    "micro_cond_encode_dim": 14,
    "micro_cond_embed_dim": 42,
    "encoder_hidden_size": 41,
    "vocab_size": 131,
    "codebook_size": 127,
    "block_out_channels": 34,
    "block_num_heads": 2,
    "intermediate_size": 83,
}
_POOLING: Config = {"cross_attention_dim": 74}
_SLIM: Config = {"ctrl_block_out_channels": [14, 82]}
_BY_HAND: dict[str, Config] = {
    "k-blocks": {"block_out_channels": [34, 34, 68, 68]},
    **dict.fromkeys(("text", "controlnet-text"), _POOLING),
    **dict.fromkeys(("controlnet-xs", "controlnet-xs-text-time", "controlnet-xs-own-time"), _SLIM),
    "skip-blocks": _SKIPS,
    "unet1d-audio-positional": {"extra_in_channels": 34},
    **dict.fromkeys(("unet1d-temporal", "unet1d-temporal-fourier"), _TEMPORAL),
    "unet1d-value-function": {"block_out_channels": [352, 416]},
    "kandinsky3-two-levels": {"block_out_channels": [68, 76]},
    "cascade-prior": _CASCADE,
    "cascade-prior-pooled-alone": {**_CASCADE, "clip_image_in_channels": None, "clip_text_in_channels": None},
    "cascade-decoder": {
        "conditioning_dim": 74,
        "clip_text_pooled_in_channels": 59,
        "effnet_in_channels": 53,
        "pixel_mapper_in_channels": 43,
    },
    "dreamlite-time": {"addition_time_embed_dim": 73, "projection_class_embeddings_input_dim": 146},
    "svd": _SVD,
    "svd-reads-no-text": _SVD,
    **dict.fromkeys(("uvit", "uvit-sampled"), _UVIT),
}


class Base(NamedTuple):
    """A model that runs, and what it runs with.

    Attributes:
        name: The kind in `kinds.yaml`.
        class_name: The diffusers class.
        config: Every key of the class.
        specs: The arguments of `forward`.
        halvings: How often the sides of the sample are halved.
    """

    name: str
    class_name: str
    config: Config
    specs: tuple[InputSpec, ...]
    halvings: int


def bases(*, primes: bool) -> Iterator[Base]:
    """Yield every base, those of one class after another."""
    for group, names in _USED.items():
        for name in names.split():
            yield _base(name, kinds(group)[name], primes=primes)


def _base(name: str, config: Config, *, primes: bool) -> Base:
    if primes:
        config = _with_primes(config) | _BY_HAND.get(name, {})
    resolved = resolve_config(config)
    builder, values = builder_for(resolved.class_name), resolved.values
    halvings = int(builder.halvings(values)) - (
        resolved.class_name not in ("UNet1DModel", "T2IAdapter", "StableCascadeUNet", "UVit2DModel")
    )
    frames = builder.frames(values)
    if primes:
        sides = _SMALL_SIDES if frames or halvings > 2 else _SIDES
        size = tuple(side * 2**halvings for side in sides[-len(builder.size_axes) :])
        plan = Plan(batch=_BATCH, size=size, tokens=_TOKENS, frames=frames and _FRAMES)
    else:
        size = builder.sample_size(values).value
        plan = Plan(
            batch=2, size=tuple(min(side, 64) for side in size), tokens=builder.default_tokens, frames=frames and min(frames.value, 4)
        )
    if name == "unet1d-value-function":
        # the only length that it runs at
        plan = replace(plan, size=(16,))
    return Base(name, resolved.class_name, values, tuple(builder.inputs(values, plan)), halvings)


def _with_primes(config: Config) -> Config:
    """Return a config with a prime, or twice a prime, for each size."""
    channels = _numbers(config.get("block_out_channels"))
    known: dict[str, dict[int, int]] = {}
    primed: Config = {"in_channels": 47, "conditioning_channels": 29, "ctrl_conditioning_channels": 29}
    for key, value in config.items():
        # Blocks that attend to their own hidden states have their width.
        shared = key in ("cross_attention_dim", "num_trans_channel", "num_proj_channel") and _numbers(value) and _numbers(value) <= channels
        of = "block_out_channels" if shared else key
        primed[key] = _replaced(value, known.setdefault(of, {}), _PRIMES[of]) if of in _PRIMES else value
    if config.get("addition_embed_type") == "text_time":
        primed |= _TEXT_TIME
    return primed


def _numbers(value: Any) -> set[int]:
    if is_list(value):
        return set().union(*map(_numbers, value))
    return {value} if type(value) is int else set()


def _replaced(value: Any, known: dict[int, int], primes: tuple[int, ...]) -> Any:
    if is_list(value):
        return [_replaced(item, known, primes) for item in value]
    if type(value) is not int or value < 2:
        return value
    if value not in known:
        known[value] = primes[len(known)]
    return known[value]
