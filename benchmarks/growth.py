"""How the time of a trace grows with the number of modules, beside that of the bare pass; in one process, everything imported.

`python growth.py ROUNDS` prints a JSON list: name, `modules`, and the `trace` and `bare` seconds of each round.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from bare import read_config, run

import unetinspect

LATENT = 8


def deep_config(layers: int) -> dict[str, Any]:
    """Return the config of a narrow UNet with 92 modules per layer of its blocks."""
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": LATENT,
        "layers_per_block": layers,
        "block_out_channels": [32, 64],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "norm_num_groups": 8,
        "attention_head_dim": 4,
        "cross_attention_dim": 32,
    }


CONFIGS: dict[str, Callable[[], dict[str, Any]]] = {
    "sd15": lambda: read_config("sd15"),
    "sdxl": lambda: read_config("sdxl"),
    "narrow, 10 layers per block": lambda: deep_config(10),
    "narrow, 110 layers per block": lambda: deep_config(110),
}


class Row:
    """One config, and the seconds of its passes.

    Attributes:
        config: The config.
        modules: How many modules ran.
        trace: Seconds of each trace.
        bare: Seconds of each bare pass, right after the trace.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.modules = 0
        self.trace: list[float] = []
        self.bare: list[float] = []

    def measure(self) -> None:
        """Trace it, and run it bare."""
        began = time.perf_counter()
        record = unetinspect.trace(self.config, device="meta", cache=False)
        self.trace.append(time.perf_counter() - began)
        self.modules = len(record.modules)
        inputs = [{"name": spec.name, "shape": spec.shape, "dtype": spec.dtype} for spec in record.run.inputs]
        del record
        began = time.perf_counter()
        run(self.config, inputs)
        self.bare.append(time.perf_counter() - began)

    def forget(self) -> None:
        """Forget what was measured."""
        self.trace.clear()
        self.bare.clear()


def main() -> None:
    """Trace and run every config in turn."""
    rounds = int(sys.argv[1])
    configs = {name: make() for name, make in CONFIGS.items()}
    rows = {name: Row(config) for name, config in configs.items()}
    rows["sd15"].measure()  # the first pass of a process also loads what all later ones find loaded
    for row in rows.values():
        row.forget()
    for _ in range(rounds):
        for name, row in rows.items():
            row.measure()
            print(f"  {name}: {row.trace[-1]:.2f} s, bare {row.bare[-1]:.2f} s", file=sys.stderr, flush=True)
    print(json.dumps([{"name": name, "modules": row.modules, "trace": row.trace, "bare": row.bare} for name, row in rows.items()]))


if __name__ == "__main__":
    main()
