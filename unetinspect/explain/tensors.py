"""The tensors that a failed load names, and the catalog models that have such shapes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

from unetinspect.catalog import load_catalog
from unetinspect.explain.layers import crossing_blocks, time_width
from unetinspect.explain.recogniser import shape_of
from unetinspect.record import Shape
from unetinspect.unets.builder import is_list

_SIZE = r"(?:torch\.Size\(|tensor\([^)]{0,80}?size=)?[\[(]([0-9,\s]{0,80})[\])]\)?"
_MISMATCH = re.compile(
    rf"size mismatch for\s+([\w.\-]{{1,200}}):\s+copying a param with shape\s+{_SIZE}\s+from checkpoint,\s+"
    rf"the shape in current model is\s+{_SIZE}"
)
_KEY = re.compile(r"[A-Za-z0-9_]{1,60}(?:\.[A-Za-z0-9_\-]{1,60}){1,20}")
_MISSING = re.compile(r"Missing key\(s\) in state_dict:|following keys are missing:")
_UNEXPECTED = re.compile(r"Unexpected key\(s\) in state_dict:")
_END_OF_KEYS = re.compile(r"size mismatch for|keys are missing:|(?:Missing|Unexpected) key\(s\)|Please make sure|\n\s*\n|Traceback")


class Mismatch(NamedTuple):
    """A tensor that the file and the model have in different shapes."""

    name: str
    in_file: Shape
    in_model: Shape


class Differences(NamedTuple):
    """What a failed load says: tensors of other shapes, and names that one side lacks."""

    mismatches: tuple[Mismatch, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor that is named."""
        return (*(mismatch.name for mismatch in self.mismatches), *self.missing, *self.unexpected)


def read_differences(text: str) -> Differences:
    """Read what the lines behind the first line of such an error say."""
    mismatches = tuple(Mismatch(match[1], shape_of(match[2]), shape_of(match[3])) for match in _MISMATCH.finditer(text))
    return Differences(mismatches, tuple(_keys(text, _MISSING)), tuple(_keys(text, _UNEXPECTED)))


def models_with(shapes: Mapping[str, Shape]) -> list[tuple[str, tuple[str, ...]]]:
    """Return the models of the catalog that have every one of the tensors which their config tells, each with those keys.

    Only some tensors are known from a config: conv_in, the keys of cross-attention, the linear or convolutional
    projections around it, and add_embedding. A model of which none is named is none that is found.
    """
    found = []
    for name, known in _catalog_shapes().items():
        told = {path: (key, shape) for path, (key, shape) in known.items() if path in shapes}
        if told and all(shapes[path] == shape for path, (_, shape) in told.items()):
            found.append((name, tuple(dict.fromkeys(key for key, _ in told.values()))))
    return found


@cache
def _catalog_shapes() -> dict[str, dict[str, tuple[str, Shape]]]:
    return {name: dict(_shapes(name)) for name in load_catalog()}


def _shapes(name: str) -> Iterator[tuple[str, tuple[str, Shape]]]:
    """Yield the tensors of a model whose shapes its config tells, with the key that tells them."""
    entry = load_catalog()[name]
    config, channels, time = entry.config, entry.config.get("block_out_channels"), time_width(entry)
    if time is None or not is_list(channels):
        return
    kernel = config.get("conv_in_kernel", 3)
    yield "conv_in.weight", ("in_channels", (channels[0], config.get("in_channels", 4), kernel, kernel))
    if config.get("addition_embed_type") == "text_time":
        total = config["projection_class_embeddings_input_dim"]
        yield "add_embedding.linear_1.weight", ("projection_class_embeddings_input_dim", (time, total))
    if any("SimpleCross" in str(kind) for kind in config["down_block_types"]):
        return  # no transformers in its blocks
    for block, width in crossing_blocks(entry):
        square = (block.channels, block.channels) if config.get("use_linear_projection") else (block.channels, block.channels, 1, 1)
        for layer in range(max(block.layers, 1)):
            path = f"{block.path}.attentions.{layer}"
            yield f"{path}.transformer_blocks.0.attn2.to_k.weight", ("cross_attention_dim", (block.channels, width))
            yield f"{path}.transformer_blocks.0.attn2.to_v.weight", ("cross_attention_dim", (block.channels, width))
            if entry.class_name in ("UNet2DConditionModel", "ControlNetModel"):
                yield f"{path}.proj_in.weight", ("use_linear_projection", square)


def _keys(text: str, start: re.Pattern[str]) -> Iterator[str]:
    for match in start.finditer(text):
        end = _END_OF_KEYS.search(text, match.end())
        yield from _KEY.findall(text, match.end(), end.start() if end else len(text))
