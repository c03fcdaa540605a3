"""Other tools on the same UNet and inputs, each called in its fairest way: `peers.py TOOL MODEL INPUTS HEADER`.

Prints a JSON object: the `macs` that the tool counts, null where it counts none.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from bare import as_arguments, build, make_tensors, read_config, read_inputs

# `import diffusers` can import these too, which takes seconds. None: as if they were not installed.
_SLOW_IMPORTS = ("transformers", "accelerate", "peft")


def print_unet(model: str, inputs: str, header: str) -> None:
    """Print the modules."""
    print(build(read_config(model)))


def count_flops(model: str, inputs: str, header: str) -> int:
    """Count on meta, where torch splits fused attention into two products that it has formulas for."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    unet, arguments = build(read_config(model)), as_arguments(make_tensors(read_inputs(inputs)))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet(**arguments)
    return int(counter.get_total_flops()) // 2


def summarize(model: str, inputs: str, header: str) -> int:
    """Print torchinfo's summary."""
    arguments = as_arguments(make_tensors(read_inputs(inputs)))
    summary = import_module("torchinfo").summary(build(read_config(model)), input_data=arguments, device="meta", verbose=1)
    return int(summary.total_mult_adds)


def draw_graph(model: str, inputs: str, header: str) -> None:
    """Draw the graph as source code for graphviz, which is not run."""
    arguments = as_arguments(make_tensors(read_inputs(inputs)))
    print(import_module("torchview").draw_graph(build(read_config(model)), input_data=arguments, device="meta").visual_graph.source)


def estimate_memory(model: str, inputs: str, header: str) -> None:
    """Let hf-mem read a checkpoint's header from a hub whose answers come from this process, without a network."""
    import httpx2

    with Path(header).open("rb") as file:
        start = file.read(1 << 20)

    def answer(request: httpx2.Request) -> httpx2.Response:
        if "/api/models/" in request.url.path:
            return httpx2.Response(200, json=[{"type": "file", "path": "model.safetensors"}])
        first, last = request.headers["range"].removeprefix("bytes=").split("-")
        return httpx2.Response(206, content=start[int(first) : int(last) + 1])

    hub = functools.partial(httpx2.AsyncClient, transport=httpx2.MockTransport(answer))
    httpx2.AsyncClient = hub  # type: ignore[misc, assignment]
    sys.argv = ["hf-mem", "--model-id", f"unet/{model}"]
    import_module("hf_mem.cli").main()


TOOLS: dict[str, Callable[[str, str, str], int | None]] = {
    "print(unet)": print_unet,
    "FlopCounterMode": count_flops,
    "torchinfo": summarize,
    "torchview": draw_graph,
    "hf-mem": estimate_memory,
}


def main() -> None:
    """Run one tool, its own output going to stderr."""
    tool, *arguments = sys.argv[1:]
    sys.modules.update(dict.fromkeys(_SLOW_IMPORTS))  # type: ignore[arg-type]
    with contextlib.redirect_stdout(sys.stderr):
        macs: Any = TOOLS[tool](*arguments)
    print(json.dumps({"macs": macs}))


if __name__ == "__main__":
    main()
