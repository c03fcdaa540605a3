"""The config keys of the two classes whose configs are inferred from names and shapes, as diffusers' source has them."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

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


@cache
def defaults_of(class_name: str | None) -> Mapping[str, Any]:
    """Return every key of a class, in diffusers' order, with its default; nothing for a class whose configs are not inferred.

    They are read off the source, since importing diffusers takes seconds.
    """
    spec = find_spec("diffusers") if class_name in _SOURCES else None
    if class_name is None or spec is None or spec.origin is None:
        return {}
    module = ast.parse((Path(spec.origin).parent / "models" / "unets" / _SOURCES[class_name]).read_text(encoding="utf-8"))
    found = next(node for node in module.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    init = next(node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    values = map(ast.literal_eval, init.args.defaults)
    names = (argument.arg for argument in init.args.args[1:])
    return MappingProxyType({name: list(value) if isinstance(value, tuple) else value for name, value in zip(names, values, strict=True)})
