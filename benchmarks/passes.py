"""Passes within one process, everything imported: `passes.py pass|growth ROUNDS`.

Prints a JSON object: for each name, the number of modules that ran and, for each kind of pass, `[wall, CPU]` seconds per round.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from bare import as_arguments, build, make_tensors, read_config

from unetinspect import Trace
from unetinspect.api import _load
from unetinspect.observe import watch_forward
from unetinspect.run.build import build_unet
from unetinspect.run.resolve import resolve_config
from unetinspect.run.tracer import Tracer
from unetinspect.unets.request import make_request

Times = list[list[float]]

MODELS = ("sd15", "sdxl", "kandinsky-3", "stable-cascade-decoder", "audioldm2", "svd-xt")
NARROW = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 8,
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "norm_num_groups": 8,
    "attention_head_dim": 4,
    "cross_attention_dim": 32,
}
GROWING = {
    "sd15": read_config("sd15"),
    "sdxl": read_config("sdxl"),
    "narrow, 10 layers per block": {**NARROW, "layers_per_block": 10},
    "narrow, 110 layers per block": {**NARROW, "layers_per_block": 110},
}
_ON_META = make_request(device="meta")


def timed(run: Callable[[], Any], times: Times) -> Any:
    """Call a function, add its wall and CPU seconds to `times`, and return its result."""
    wall, cpu = time.perf_counter(), time.process_time()
    returned = run()
    times.append([time.perf_counter() - wall, time.process_time() - cpu])
    return returned


def arguments_of(record: Trace) -> dict[str, Any]:
    """Make the inputs of the pass that was traced."""
    specs = [{"name": spec.name, "shape": spec.shape, "dtype": spec.dtype} for spec in record.run.inputs]
    return as_arguments(make_tensors(specs))


class Pass:
    """The pass of a built UNet, observed and bare."""

    def __init__(self, model: str) -> None:
        loaded = _load(model, {})
        self.tracer = Tracer(loaded, {}, force=True)
        # Not the bare script's `build`: where transformers is missing, diffusers does not hand out all of its classes.
        self.unet = build_unet(resolve_config(loaded.config), device=torch.device("meta"), dtype=torch.float32, name=model)

    def measure(self, times: dict[str, Times]) -> int:
        """Trace it and run it; returns the number of modules. The observed pass is the part of the trace in which the UNet runs."""

        def watched(*arguments: Any) -> Any:
            return timed(lambda: watch_forward(*arguments), times["observed pass"])

        with mock.patch("unetinspect.run.tracer.watch_forward", watched):
            record = timed(lambda: self.tracer.observe(_ON_META), times["observed pass and record"])
        arguments = arguments_of(record)
        with torch.no_grad():
            timed(lambda: self.unet(**arguments), times["bare pass"])
        return len(record.modules)


class Growth:
    """A trace, from a config to a record, and bare: build the UNet and run it."""

    def __init__(self, name: str) -> None:
        self.config = GROWING[name]

    def measure(self, times: dict[str, Times]) -> int:
        """Trace the config and run it; returns the number of modules."""
        record = timed(lambda: Tracer(_load(self.config, {})).observe(_ON_META), times["trace"])
        arguments = arguments_of(record)
        with torch.no_grad():
            timed(lambda: build(self.config)(**arguments), times["bare"])
        return len(record.modules)


def main() -> None:
    """Measure all of one kind, after a warm-up each that is not counted."""
    kind, rounds = sys.argv[1], int(sys.argv[2])
    passes: dict[str, Any] = {name: Pass(name) for name in MODELS} if kind == "pass" else {name: Growth(name) for name in GROWING}
    kinds = ("observed pass", "observed pass and record", "bare pass") if kind == "pass" else ("trace", "bare")
    found: dict[str, Any] = {}
    for number in range(-1, rounds):
        for name, one in passes.items():
            if number <= 0:
                found[name] = {"modules": 0, "times": {kind: [] for kind in kinds}}
            gc.collect()
            found[name]["modules"] = one.measure(found[name]["times"])
            print(f"  {name}: {', '.join(f'{times[-1][0]:.2f} s' for times in found[name]['times'].values())}", file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
