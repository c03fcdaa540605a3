"""Headers of checkpoints: of built modules in diffusers' layout, and in the original one by a generator of its own.

`original_unet` writes the names and shapes of CompVis' and SGM's `UNetModel` from its constructor's arguments, as the published
code builds it: https://github.com/Stability-AI/generative-models/blob/main/sgm/modules/diffusionmodules/openaimodel.py.
It shares nothing with `unetinspect.checkpoint.original_layout`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unetinspect.catalog import load_catalog
from unetinspect.checkpoint.safetensors_header import Header, TensorSpec

Shapes = dict[str, tuple[int, ...]]


# What a constructor takes and no tensor shows: configs that differ in these alone are built once.
_NO_TENSOR = ("sample_size", "upcast_attention", "center_input_sample", "norm_eps", "freq_shift", "flip_sin_to_cos", "act_fn", "dropout")
_BUILT: dict[str, Shapes] = {}


def catalog_shapes(name: str) -> Shapes:
    """Return the names and shapes of a model of the catalog, built on meta."""
    return built_shapes(load_catalog()[name].config)


def built_shapes(config: Mapping[str, Any]) -> Shapes:
    """Return the names and shapes of what diffusers builds from a config."""
    import torch  # here, since most tests of headers need none of this

    from unetinspect.run.build import build_unet
    from unetinspect.run.resolve import resolve_config

    resolved = resolve_config(dict(config))
    shown = {key: value for key, value in sorted(resolved.values.items()) if key not in _NO_TENSOR}
    key = json.dumps([resolved.class_name, shown])
    if key not in _BUILT:
        module = build_unet(resolved, device=torch.device("meta"), dtype=torch.float32, name="it")
        _BUILT[key] = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    return dict(_BUILT[key])


def specs(shapes: Mapping[str, tuple[int, ...]], dtype: str = "F16") -> dict[str, TensorSpec]:
    """Return shapes as the tensors of a header."""
    return {name: TensorSpec(tuple(shape), dtype) for name, shape in shapes.items()}


def header_of(shapes: Mapping[str, tuple[int, ...]], *, dtype: str = "F16", prefix: str = "", **more: Any) -> Header:
    """Return a header of tensors of these shapes."""
    tensors = specs({prefix + name: shape for name, shape in shapes.items()}, dtype)
    return Header(name="some.safetensors", tensors=tensors, bytes=sum(tensor.bytes or 0 for tensor in tensors.values()), **more)


def write_checkpoint(path: Path, header: Header) -> Path:
    """Write a header as a .safetensors file that has its full size and takes none: what follows the header is a hole."""
    position = 0
    entries: dict[str, Any] = {"__metadata__": header.metadata} if header.metadata else {}
    for name, tensor in header.tensors.items():
        end = position + (tensor.bytes or 0)
        entries[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": (position, end)}
        position = end
    raw = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + position)
    return path


@dataclass(frozen=True)
class Original:
    """The arguments of the original `UNetModel`; `depths` is the number of transformer blocks per level, 0 where it has none."""

    model_channels: int
    channel_mult: tuple[int, ...]
    depths: tuple[int, ...]
    context_dim: int
    middle_depth: int
    num_res_blocks: int = 2
    in_channels: int = 4
    out_channels: int = 4
    linear: bool = False
    adm_in_channels: int | None = None
    num_classes: int | None = None
    only_cross: bool = False
    video: bool = False


SD15 = Original(320, (1, 2, 4, 4), (1, 1, 1, 0), 768, 1)
ORIGINALS = {
    "sd15": SD15,
    "sd15-inpaint": Original(320, (1, 2, 4, 4), (1, 1, 1, 0), 768, 1, in_channels=9),
    "sd21": Original(320, (1, 2, 4, 4), (1, 1, 1, 0), 1024, 1, linear=True),
    "sd21-unclip": Original(320, (1, 2, 4, 4), (1, 1, 1, 0), 1024, 1, linear=True, adm_in_channels=2048),
    "sd-x4-upscaler": Original(256, (1, 2, 2, 4), (0, 1, 1, 1), 1024, 1, in_channels=7, linear=True, num_classes=1000, only_cross=True),
    "sdxl": Original(320, (1, 2, 4), (0, 2, 10), 2048, 10, linear=True, adm_in_channels=2816),
    "sdxl-refiner": Original(384, (1, 2, 4, 4), (0, 4, 4, 0), 1280, 4, linear=True, adm_in_channels=2560),
    "svd-xt": Original(320, (1, 2, 4, 4), (1, 1, 1, 0), 1024, 1, in_channels=8, linear=True, adm_in_channels=768, video=True),
}


def original_unet(model: Original, prefix: str = "") -> Shapes:
    """Return the names and shapes of the original UNet."""
    return {prefix + name: shape for name, shape in _original(model)}


def _original(model: Original) -> Iterator[tuple[str, tuple[int, ...]]]:
    first, embedded = model.model_channels, 4 * model.model_channels
    yield from _linear("time_embed.0", first, embedded)
    yield from _linear("time_embed.2", embedded, embedded)
    if model.adm_in_channels:
        yield from _linear("label_emb.0.0", model.adm_in_channels, embedded)
        yield from _linear("label_emb.0.2", embedded, embedded)
    if model.num_classes:
        yield "label_emb.weight", (model.num_classes, embedded)
    yield from _conv("input_blocks.0.0", model.in_channels, first, 3, 3)
    yield from _norm("out.0", first)
    yield from _conv("out.2", first, model.out_channels, 3, 3)
    yield from _blocks(model, first, embedded)


def _blocks(model: Original, first: int, embedded: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    pushed, channels, index = [first], first, 1
    for level, factor in enumerate(model.channel_mult):
        for _ in range(model.num_res_blocks):
            yield from _res_block(f"input_blocks.{index}.0", channels, factor * first, embedded, video=model.video)
            channels = factor * first
            if model.depths[level]:
                yield from _spatial_transformer(f"input_blocks.{index}.1", channels, model.depths[level], model)
            pushed.append(channels)
            index += 1
        if level < len(model.channel_mult) - 1:
            yield from _conv(f"input_blocks.{index}.0.op", channels, channels, 3, 3)
            pushed.append(channels)
            index += 1
    yield from _res_block("middle_block.0", channels, channels, embedded, video=model.video)
    yield from _spatial_transformer("middle_block.1", channels, model.middle_depth, model, only_cross=False)
    yield from _res_block("middle_block.2", channels, channels, embedded, video=model.video)
    yield from _way_up(model, pushed, embedded)


def _way_up(model: Original, pushed: list[int], embedded: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    first, channels, index = pushed[0], pushed[-1], 0
    for level, factor in reversed(list(enumerate(model.channel_mult))):
        for layer in range(model.num_res_blocks + 1):
            yield from _res_block(f"output_blocks.{index}.0", channels + pushed.pop(), factor * first, embedded, video=model.video)
            channels = factor * first
            if model.depths[level]:
                yield from _spatial_transformer(f"output_blocks.{index}.1", channels, model.depths[level], model)
            if level and layer == model.num_res_blocks:
                yield from _conv(f"output_blocks.{index}.{2 if model.depths[level] else 1}.conv", channels, channels, 3, 3)
            index += 1


def _res_block(
    name: str, taken: int, given: int, embedded: int, *, video: bool = False, kernel: tuple[int, ...] = (3, 3)
) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _norm(f"{name}.in_layers.0", taken)
    yield from _conv(f"{name}.in_layers.2", taken, given, *kernel)
    yield from _linear(f"{name}.emb_layers.1", embedded, given)
    yield from _norm(f"{name}.out_layers.0", given)
    yield from _conv(f"{name}.out_layers.3", given, given, *kernel)
    if taken != given:
        yield from _conv(f"{name}.skip_connection", taken, given, 1, 1)
    if video:  # sgm's `VideoResBlock`
        yield from _res_block(f"{name}.time_stack", given, given, embedded, kernel=(3, 1, 1))
        yield f"{name}.time_mixer.mix_factor", (1,)


def _spatial_transformer(
    name: str, channels: int, depth: int, model: Original, *, only_cross: bool | None = None
) -> Iterator[tuple[str, tuple[int, ...]]]:
    crosses = model.only_cross if only_cross is None else only_cross
    yield from _norm(f"{name}.norm", channels)
    yield from _projection(f"{name}.proj_in", channels, model.linear)
    blocks = [f"{name}.transformer_blocks.{index}" for index in range(depth)]
    if model.video:  # sgm's `SpatialVideoTransformer`
        blocks += [f"{name}.time_stack.{index}" for index in range(depth)]
        yield from _linear(f"{name}.time_pos_embed.0", channels, 4 * channels)
        yield from _linear(f"{name}.time_pos_embed.2", 4 * channels, channels)
        yield f"{name}.time_mixer.mix_factor", (1,)
    for block in blocks:
        if ".time_stack." in block:
            yield from _norm(f"{block}.norm_in", channels)
            yield from _linear(f"{block}.ff_in.net.0.proj", channels, 8 * channels)
            yield from _linear(f"{block}.ff_in.net.2", 4 * channels, channels)
        for attention, width in (("attn1", model.context_dim if crosses else channels), ("attn2", model.context_dim)):
            yield f"{block}.{attention}.to_q.weight", (channels, channels)
            yield f"{block}.{attention}.to_k.weight", (channels, width)
            yield f"{block}.{attention}.to_v.weight", (channels, width)
            yield from _linear(f"{block}.{attention}.to_out.0", channels, channels)
        yield from _linear(f"{block}.ff.net.0.proj", channels, 8 * channels)
        yield from _linear(f"{block}.ff.net.2", 4 * channels, channels)
        for norm in ("norm1", "norm2", "norm3"):
            yield from _norm(f"{block}.{norm}", channels)
    yield from _projection(f"{name}.proj_out", channels, model.linear)


def _projection(name: str, channels: int, linear: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _linear(name, channels, channels) if linear else _conv(name, channels, channels, 1, 1)


def _linear(name: str, taken: int, given: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (given, taken)
    yield f"{name}.bias", (given,)


def _conv(name: str, taken: int, given: int, *kernel: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (given, taken, *kernel)
    yield f"{name}.bias", (given,)


def _norm(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (channels,)
    yield f"{name}.bias", (channels,)
