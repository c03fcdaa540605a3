"""The models that errors are provoked from: kinds of `kinds.yaml`, with sizes that are distinct primes or with their own sizes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from msgspec.structs import replace

from tests.tiny import Config, kinds
from unetinspect.record import InputInfo
from unetinspect.run.resolve import resolve_config
from unetinspect.unets import Plan, builder_for
from unetinspect.unets.builder import is_list

TABLES: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("tables.yaml").read_text(encoding="utf-8"))
_PRIMES: dict[str, list[int]] = TABLES["primes"]
_BATCH, _TOKENS, _FRAMES = 5, 31, 7
_SIDES, _SMALL_SIDES = (7, 11), (3, 11)
_TEXT_TIME = {"addition_time_embed_dim": 73, "projection_class_embeddings_input_dim": 79 + 6 * 73}


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
    specs: tuple[InputInfo, ...]
    halvings: int


def bases(*, primes: bool) -> Iterator[Base]:
    """Yield every base, those of one class after another."""
    for group, names in TABLES["used"].items():
        for name in names.split():
            yield _base(name, kinds(group)[name], primes=primes)


def _base(name: str, config: Config, *, primes: bool) -> Base:
    if primes:
        config = _with_primes(config) | TABLES["by_hand"].get(name, {})
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


def _replaced(value: Any, known: dict[int, int], primes: list[int]) -> Any:
    if is_list(value):
        return [_replaced(item, known, primes) for item in value]
    if type(value) is not int or value < 2:
        return value
    if value not in known:
        known[value] = primes[len(known)]
    return known[value]
