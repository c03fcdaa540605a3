"""Other tools that count what a forward pass costs, each on the same UNet and inputs as unetinspect, with its fairest call.

`python peers.py TOOL MODEL INPUTS` prints one JSON object: the `macs` that the tool counts (null: none), those
`without_attention` where it tells them apart, and the `seconds` since torch and diffusers were imported.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bare import as_arguments, build, make_tensors, read_config, read_inputs

if TYPE_CHECKING:
    from torch import nn

# calflops needs these; where they are installed, `import diffusers` imports them too, and takes seconds more.
_SLOW_IMPORTS = ("transformers", "accelerate")
_MEMORY_SHARE = 0.9


@dataclass(frozen=True)
class Work:
    """What every tool is given: a catalog name, its config, and the inputs of the pass."""

    model: str
    config: dict[str, Any]
    inputs: list[dict[str, Any]]


@dataclass(frozen=True)
class Counted:
    """What a tool says of the pass.

    Attributes:
        macs: Multiply-accumulates, None: it counts none.
        without_attention: Those of convolutions and linear layers alone, where it tells them apart.
    """

    macs: int | None
    without_attention: int | None = None


@dataclass(frozen=True)
class Peer:
    """A tool.

    Attributes:
        count: Has it count.
        how: How it is called.
        why: Why its MACs are not those of the pass, where they are not.
    """

    count: Callable[[Work], Counted]
    how: str
    why: str = ""


def count_unetinspect(work: Work) -> Counted:
    """Write the whole record as JSON, and read the totals back."""
    main = import_module("unetinspect.cli.main").main
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        main(["trace", work.model, "--device", "meta", "--no-cache", "--json", "--output", str(path), "--quiet"])
        totals = json.loads(path.read_text(encoding="utf-8"))["totals"]
    return Counted(totals["macs"], totals["macs"] - totals["macs_by_kind"]["attention"])


def count_flop_counter(work: Work) -> Counted:
    """Count on meta, where torch takes fused attention apart, so that its products are batched ones."""
    from torch.utils.flop_counter import FlopCounterMode

    unet, arguments = build(work.config), as_arguments(make_tensors(work.inputs))
    with FlopCounterMode(display=False) as counter:
        unet(**arguments)
    flops = {str(operation): count for operation, count in counter.get_flop_counts()["Global"].items()}
    attention = sum(flops.get(name, 0) for name in ("aten.bmm", "aten.baddbmm"))
    return Counted(counter.get_total_flops() // 2, (sum(flops.values()) - attention) // 2)


def count_flop_counter_cpu(work: Work) -> Counted:
    """Count on the CPU, without computing."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    with FakeTensorMode():
        unet, arguments = build(work.config, "cpu"), as_arguments(make_tensors(work.inputs, "cpu"))
        with FlopCounterMode(display=False) as counter:
            unet(**arguments)
    return Counted(counter.get_total_flops() // 2)


def count_torchinfo(work: Work) -> Counted:
    """Summarise, and write the summary."""
    arguments = as_arguments(make_tensors(work.inputs))
    summary = import_module("torchinfo").summary(build(work.config), input_data=arguments, device="meta", verbose=0)
    str(summary)
    return Counted(summary.total_mult_adds)


def count_torchview(work: Work) -> Counted:
    """Draw the graph as text for graphviz."""
    arguments = as_arguments(make_tensors(work.inputs))
    graph = import_module("torchview").draw_graph(build(work.config), input_data=arguments, device="meta")
    str(graph.visual_graph.source)
    return Counted(None)


def count_calflops(work: Work) -> Counted:
    """Count without printing."""
    calflops = import_module("calflops")
    tensors = make_tensors(work.inputs)
    unet = positional(build(work.config), list(tensors))
    _, macs, _ = calflops.calculate_flops(unet, args=list(tensors.values()), print_results=False, output_as_string=False)
    return Counted(int(macs))


def count_fvcore(work: Work) -> Counted:
    """Count on the CPU, with weights that are zero."""
    import torch

    analysis = import_module("fvcore.nn").FlopCountAnalysis
    unet, tensors = build(work.config).to_empty(device="cpu"), make_tensors(work.inputs, "cpu")
    for tensor in (*unet.parameters(), *unet.buffers()):
        torch.nn.init.zeros_(tensor)
    return Counted(int(analysis(positional(unet, list(tensors)), tuple(tensors.values())).total()))


def positional(unet: nn.Module, names: Sequence[str]) -> nn.Module:
    """Wrap a UNet so that it takes its inputs as tensors by position and returns a tensor."""
    from torch import Tensor, nn

    class Positional(nn.Module):
        """The wrapper."""

        def __init__(self) -> None:
            super().__init__()
            self.unet = unet

        def forward(self, *tensors: Tensor) -> Tensor:
            """Run the UNet."""
            sample: Tensor = self.unet(**as_arguments(dict(zip(names, tensors, strict=True)))).sample
            return sample

    return Positional()


PEERS = {
    "unetinspect": Peer(count_unetinspect, "`unetinspect trace MODEL --device meta --no-cache --json`"),
    "FlopCounterMode": Peer(count_flop_counter, "`torch.utils.flop_counter`, on meta; the oracle of the MACs"),
    "FlopCounterMode, CPU": Peer(
        count_flop_counter_cpu,
        "the same on fake CPU tensors, which compute nothing and are counted as real ones are",
        "torch has no formula for its fused attention on the CPU",
    ),
    "torchinfo": Peer(
        count_torchinfo,
        "`summary(unet, input_data=..., device='meta')`",
        "a linear layer is multiplied by the batch and not by its tokens; attention products have no parameters to count from",
    ),
    "torchview": Peer(count_torchview, "`draw_graph(unet, input_data=..., device='meta')`; draws, and counts nothing"),
    "calflops": Peer(
        count_calflops,
        "`calculate_flops`, on meta, through a wrapper with tensors by position, since it cannot take SDXL's dict",
        "it patches functions of torch, but not fused attention",
    ),
    "fvcore": Peer(
        count_fvcore,
        "`FlopCountAnalysis`, through the same wrapper; on the CPU, since its `torch.jit` tracing fails on meta; it computes for real",
        "fused attention is an unsupported operator; norms and upsampling are added in",
    ),
}


def limit_memory() -> None:
    """Let an allocation fail before the machine has no memory left."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = int(free * _MEMORY_SHARE)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def main() -> None:
    """Have one tool count one model."""
    tool, model, inputs_path = sys.argv[1:]
    limit_memory()
    if tool != "calflops":
        sys.modules.update(dict.fromkeys(_SLOW_IMPORTS))  # type: ignore[arg-type]  # None: Python says there is no such package
    import diffusers
    import torch

    work = Work(model, read_config(model), read_inputs(inputs_path))
    getattr(diffusers, work.config["_class_name"])
    began = time.perf_counter()
    with torch.no_grad():
        counted = PEERS[tool].count(work)
    seconds = time.perf_counter() - began
    print(json.dumps({"macs": counted.macs, "without_attention": counted.without_attention, "seconds": seconds}))


if __name__ == "__main__":
    main()
