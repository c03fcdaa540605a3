"""How large the UNet of a config would be, before anything is built; and what is refused for its size. No torch.

Building and running costs time by the layer, on meta too: about 10 ms for each resnet and each transformer layer. Widths cost nothing
there, so that only those are refused of which torch could not even write down the size.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Struct

from unetinspect.errors import ConfigError, ForwardError, UsageError
from unetinspect.unets.base import InputSpec, is_list
from unetinspect.units import format_bytes, format_shape

MAX_MODULES = 30_000
# torch counts the bytes of a tensor in 63 bits, and a 64-bit number takes 8 of them.
MAX_ELEMENTS = 2**60 - 1
_MAX_NUMBER = 2**63 - 1
_MAX_WRITTEN = 10**15
# No UNet has lists of so many entries: each would be a module, a channel or a head of its own.
_MAX_ENTRIES = 5_000

_LAYERS_PER_BLOCK = re.compile(r"(?!.*(transformer|mid_block)).*(layers_per_block|num_res_blocks)$")
_DEPTH_PER_BLOCK = re.compile(r"(?!.*mid_block).*transformer_layers_per_block$")
_IN_THE_MIDDLE = re.compile(r".*(mid_block_layers|mid_layers|layers_per_mid_block|mid_block_layers_per_block)$")
_ONCE = re.compile(r"(?!.*mid_)num_.*layers?$")
_REPEATS = re.compile(r".*repeat_mappers$")
_LISTS_OF_BLOCKS = re.compile(r"(down_block_types|block_out_channels|channels)$")
_DEFAULT_LAYERS = 2
# Modules of one layer, about, as counted on the models of the catalog; what a layer is differs most in these two classes.
_MODULES_IN_RESNET, _MODULES_IN_TRANSFORMER = 14, 24
_MODULES_IN_LAYER_OF = {"Kandinsky3UNet": 56, "StableCascadeUNet": 7}
_FORCE = "--force builds it all the same"


class Estimate(Struct, frozen=True, kw_only=True):
    """How large the UNet of a config would be, about.

    Attributes:
        layers: Resnets, transformer layers and the like.
        modules: The modules that they are made of: what building and running takes time for.
        params: Parameters; None: the config has no channels that they could be told from.
        largest: The key that makes most of the layers, and its value; None: none stands out.
    """

    layers: int
    modules: int
    params: int | None
    largest: tuple[str, Any] | None = None


class _Size(NamedTuple):
    resnets: int
    transformers: int

    def modules(self, class_name: str) -> int:
        in_resnet = _MODULES_IN_LAYER_OF.get(class_name, _MODULES_IN_RESNET)
        return self.resnets * in_resnet + self.transformers * _MODULES_IN_TRANSFORMER


def estimate(class_name: str, values: Mapping[str, Any]) -> Estimate:
    """Estimate how large a UNet would be. `values` holds every key of its config, defaults filled in.

    Nothing is known here of a class but the names that diffusers gives to keys: `layers_per_block` is for each block on either way,
    `transformer_layers_per_block` for each of these layers. What a key does not reach is counted in, so that a config is taken for
    larger than it is rather than for smaller; the truth lies within a factor of 3 for the models of the catalog.

    >>> found = estimate("UNet2DModel", {"block_out_channels": [8] * 4, "layers_per_block": 10**7})
    >>> found.layers, found.largest
    (80000007, ('layers_per_block', 10000000))
    """
    longest = max(values, key=lambda key: _entries(values[key]), default="")
    if longest and (entries := _entries(values[longest])) > _MAX_ENTRIES:
        return Estimate(layers=entries, modules=entries * _MODULES_IN_RESNET, params=None, largest=(longest, values[longest]))
    size = _size(class_name, values)
    small = {key: _small(value) for key, value in values.items()}
    without = {key: _size(class_name, {**values, key: value}).modules(class_name) for key, value in small.items() if value is not None}
    key = min(without, key=lambda key: without[key], default=None)
    modules = size.modules(class_name)
    largest = None if key is None or without[key] > modules // 2 else (key, values[key])
    return Estimate(layers=size.resnets + size.transformers, modules=modules, params=_params(values), largest=largest)


def refuse_huge(class_name: str, values: Mapping[str, Any], *, name: str, force: bool) -> None:
    """Check that the UNet of a config is not too large to be built and run in about ten seconds, and can be written down at all.

    With `force`, anything may be built.

    Raises:
        ConfigError: It is too large.
    """
    if force:
        return
    found = estimate(class_name, values)
    if found.modules > MAX_MODULES:
        because = "" if found.largest is None else f": {_said(*found.largest)}"
        raise ConfigError(
            f"{name} would have {_about(found.layers)} layers{because}",
            hint=f"they are {_about(found.modules)} modules, and {MAX_MODULES:,} are built and run in about ten seconds; {_FORCE}",
        )
    for key, value in values.items():
        if any(abs(number) > _MAX_NUMBER for number in _numbers(value)):
            raise ConfigError(f"{key} of {name} holds a number beyond 2^63, and nothing of such a size can be built", hint=_FORCE)
    if found.params is not None and found.params > MAX_ELEMENTS:
        raise ConfigError(
            f"{name} would have {_about(found.params)} parameters: {_said(*_widest(values))}",
            hint=f"tensors end at 2^63 bytes; {_FORCE}",
        )


def refuse_huge_inputs(specs: Iterable[InputSpec], *, name: str) -> None:
    """Check that every argument of `forward` is a tensor that torch can write down.

    Raises:
        UsageError: One is larger; its axes say which option makes it so.
    """
    for spec in specs:
        if spec.shape is not None and prod(spec.shape) > MAX_ELEMENTS:
            raise UsageError(
                f"{spec.name} of {name} would have the shape {format_shape(spec.shape)}, beyond the 2^63 bytes at which tensors end",
                hint="give a smaller --res, --latent, --batch, --tokens or --frames",
            )


def refuse_beyond_memory(needed: int, *, available: int | None, device: str, name: str, force: bool) -> None:
    """Check that a device has the memory for what is to be given to it, in bytes; None: nothing says how much it has.

    Raises:
        ForwardError: It has not.
    """
    if force or available is None or needed <= available:
        return
    raise ForwardError(
        f"{name} takes {format_bytes(needed)} on {device} for its weights alone, and {format_bytes(available)} are free",
        hint="use --device meta, where nothing is allocated: the shapes are the same; --force tries all the same",
    )


def available_memory() -> int | None:
    """Return the bytes of this machine's memory that a process can still take, None where it does not say."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, AttributeError):
        return None


def _size(class_name: str, values: Mapping[str, Any]) -> _Size:
    """Count what stands on the way down, on the way up with one more for each block, in the middle, and alone."""
    blocks = max([len(value) for key, value in values.items() if _LISTS_OF_BLOCKS.match(key) and is_list(value)], default=1)
    parts = [_way(values, blocks, "down_", 0), _middle(values, blocks)]
    if "up_block_types" in values or "down_block_types" not in values:
        parts.append(_way(values, blocks, "up_", 1))
    alone = sum(_count(value) for key, value in values.items() if _ONCE.match(key))
    entries = max([len(value) for value in values.values() if is_list(value)], default=0)
    # Each layer once more: for the control, or along the frames.
    times = 2 if any(key.startswith("ctrl_") for key in values) or re.search("3D|VGen|SpatioTemporal", class_name) else 1
    return _Size(max(sum(part.resnets for part in parts) * times, entries), sum(part.transformers for part in parts) * times + alone)


def _way(values: Mapping[str, Any], blocks: int, way: str, extra: int) -> _Size:
    """Count the layers of one way: for each block its resnets, and for each of these its transformer layers."""
    other = "up_" if way == "down_" else "down_"
    reads = {key: value for key, value in values.items() if not key.startswith(other) and value is not None}
    layers = _matching(reads, _LAYERS_PER_BLOCK, blocks) or [[_DEFAULT_LAYERS] * blocks]
    repeats = _matching(reads, _REPEATS, blocks)
    inner = _inner_lengths(values, blocks)
    depths = [value for key, value in reads.items() if _DEPTH_PER_BLOCK.match(key)] or [1 if "cross_attention_dim" in values else 0]
    resnets = transformers = 0
    for block in range(blocks):
        here = (max(count[block] for count in layers) + extra) * inner[block] * max([repeat[block] for repeat in repeats], default=1)
        resnets += here
        transformers += sum(_in_block(depth, block, here) for depth in depths)
    return _Size(resnets, transformers)


def _in_block(depth: Any, block: int, layers: int) -> int:
    """Count the transformer layers of a block: a depth is for each of its layers, or lists them one by one."""
    own = (depth[block] if block < len(depth) else 0) if is_list(depth) else depth
    return _count(own) if is_list(own) else layers * _count(own)


def _middle(values: Mapping[str, Any], blocks: int) -> _Size:
    """Count the layers between the ways: two resnets, as many transformer layers as the deepest block, and what its own keys say."""
    depth = max(chain.from_iterable(_matching(values, _DEPTH_PER_BLOCK, blocks)), default=0)
    own = prod(max(_count(value), 1) for key, value in values.items() if _IN_THE_MIDDLE.match(key))
    return _Size(2 + own, depth * own)


def _matching(values: Mapping[str, Any], pattern: re.Pattern[str], blocks: int) -> list[list[int]]:
    return [per_block(value, blocks) for key, value in values.items() if pattern.match(key)]


def per_block(value: Any, blocks: int) -> list[int]:
    """Return the count of each block: a list's entries, what lies deeper added up; a single number for all of them."""
    if not is_list(value):
        return [_count(value)] * blocks
    return [_count(entry) for entry in value[:blocks]] + [0] * (blocks - len(value))


def _inner_lengths(values: Mapping[str, Any], blocks: int) -> list[int]:
    """Return how many modules stand in one layer of each block, where a list in a list says so."""
    found = [1] * blocks
    for key, value in values.items():
        if key in ("block_types_per_layer", "cross_attention_dim") and is_list(value):
            for place, entry in enumerate(value[:blocks]):
                found[place] *= max(len(entry), 1) if is_list(entry) else 1
    return found


def _params(values: Mapping[str, Any]) -> int | None:
    """Count the parameters by the channels: two convolutions a resnet, three on the way up, and the products of a transformer layer."""
    channels = values.get("block_out_channels")
    if not is_list(channels) or not all(isinstance(width, int) for width in channels):
        return None
    blocks = len(channels)
    found = [per_block(value, blocks) for key, value in values.items() if _LAYERS_PER_BLOCK.match(key)]
    layers = [max(counts) for counts in zip(*found, strict=True)] if found else [_DEFAULT_LAYERS] * blocks
    depths = [per_block(value, blocks) for key, value in values.items() if _DEPTH_PER_BLOCK.match(key)]
    total = 0
    for block, width in enumerate(channels):
        transformers = (2 * layers[block] + 1) * sum(depth[block] for depth in depths)
        total += width * width * (18 * layers[block] + 27 * (layers[block] + 1) + 14 * transformers)
    return total


def _widest(values: Mapping[str, Any]) -> tuple[str, Any]:
    return "block_out_channels", values["block_out_channels"]


def _small(value: Any) -> Any:
    """Return a value that asks for next to nothing in place of a count or a list of them; None for any other."""
    if is_list(value):
        return [1 if isinstance(entry, int) else entry for entry in value[:2]]
    return 1 if isinstance(value, int) and not isinstance(value, bool) and value > 1 else None


def _count(value: Any) -> int:
    """Return a count: a number above 0, or what a list of them adds up to."""
    if isinstance(value, int) and not isinstance(value, bool):
        return max(value, 0)
    return sum(map(_count, value)) if is_list(value) else 0


def _entries(value: Any) -> int:
    """Count what a list holds, however deep it lies, and no further than matters."""
    found, pending = 0, [value]
    while pending and found <= _MAX_ENTRIES:
        inner = pending.pop()
        found += len(inner) if isinstance(inner, list | tuple) else 0
        pending += [entry for entry in inner[:_MAX_ENTRIES] if isinstance(entry, list | tuple)] if isinstance(inner, list | tuple) else []
    return found


def _numbers(value: Any) -> Iterable[int]:
    if isinstance(value, int):
        return (value,)
    return chain.from_iterable(map(_numbers, value)) if is_list(value) else ()


def _said(key: str, value: Any) -> str:
    """Say what a key holds: a number as it is, a list by its length where it is long."""
    if not is_list(value):
        return f"{key} is {_about(value, '')}"
    if len(value) > 20 or any(is_list(entry) for entry in value):
        return f"{key} has {len(value)} entries" if len(value) > 20 else f"{key} adds up to {_about(_count(value), '')}"
    return f"{key} is [{', '.join(_about(entry, '') if isinstance(entry, int) else repr(entry) for entry in value)}]"


def _about(number: int, about: str = "about ") -> str:
    """Write a number in groups of three; Python refuses to write those of thousands of digits."""
    return f"{about}{number:,}" if about and number <= _MAX_WRITTEN else str(number) if number <= _MAX_WRITTEN else "more than 10^15"
