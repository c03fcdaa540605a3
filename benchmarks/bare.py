"""The bare script: import torch and diffusers, build a UNet on meta, run it once, observe nothing. `bare.py MODEL INPUTS`.

This is the least that it takes to run a UNet on meta. It does not use unetinspect: the inputs of the pass come from a file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def read_config(model: str) -> dict[str, Any]:
    """Read the config of a catalog name, as unetinspect reads it."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    entry = yaml.load((CONFIGS / f"{model}.yaml").read_text(encoding="utf-8"), Loader=loader)  # noqa: S506  a safe loader
    config: dict[str, Any] = entry["config"]
    return config


def read_inputs(path: str) -> list[dict[str, Any]]:
    """Read the inputs of the pass from what `unetinspect inputs MODEL --json` printed: name, shape and dtype of each."""
    inputs: list[dict[str, Any]] = json.loads(Path(path).read_text(encoding="utf-8"))["run"]["inputs"]
    return inputs


def build(config: Mapping[str, Any]) -> nn.Module:
    """Build the UNet of a config on meta, in eval mode."""
    import diffusers
    import torch

    unet_class = getattr(diffusers, config["_class_name"])
    with torch.device("meta"):
        unet: nn.Module = unet_class(**{key: value for key, value in config.items() if not key.startswith("_")})
    return unet.to("meta").eval()  # UNetSpatioTemporalConditionModel makes tensors on the CPU even so


def make_tensors(inputs: Iterable[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Make a meta tensor for each input, by its dotted name."""
    import torch

    return {spec["name"]: torch.zeros(spec["shape"], dtype=getattr(torch, spec["dtype"]), device="meta") for spec in inputs}


def as_arguments(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of `forward`; "added_cond_kwargs.time_ids" becomes an item of a dict."""
    arguments: dict[str, Any] = {}
    for name, tensor in tensors.items():
        first, _, rest = name.partition(".")
        if rest:
            arguments.setdefault(first, {})[rest] = tensor
        else:
            arguments[first] = tensor
    return arguments


def run(config: Mapping[str, Any], inputs: Iterable[Mapping[str, Any]]) -> None:
    """Build the UNet and run it once on meta."""
    import torch

    unet = build(config)
    with torch.no_grad():
        unet(**as_arguments(make_tensors(inputs)))


if __name__ == "__main__":
    model, inputs_path = sys.argv[1:]
    run(read_config(model), read_inputs(inputs_path))
