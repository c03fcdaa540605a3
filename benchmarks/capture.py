"""Steps of a UNet while its attention maps are captured, beside plain steps and other ways: `capture.py [--device cuda]`.

Prints a Markdown table. The weights and inputs are random. The rows of one case run in turn, in one process, in reversed order
every other round. A round that is not counted comes first: in it, the bytes of tensors are counted instead of the time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias
from unittest import mock

import torch
from diffusers.models.attention_processor import AttnProcessor
from measure import Run
from page import Goal, Quantity, environment, median_of, ratio, table, write_section
from passes import Times, arguments_of, timed
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_leaves, tree_map

from unetinspect import Trace, capture, maps, trace
from unetinspect.run.build import build_unet
from unetinspect.run.resolve import resolve_config
from unetinspect.units import format_bytes, plural
from unetinspect.views.costs import format_ms

# Entered for some steps; what it returns gives the tensors that are held so far, in dicts and lists.
Way: TypeAlias = Callable[[nn.Module, Trace], AbstractContextManager[Callable[[], Any]]]
# Called with the path of a layer and its probabilities, (images x heads, queries, tokens).
Keep: TypeAlias = Callable[[str, Tensor], None]
MIB = 1024**2


@contextmanager
def plain(unet: nn.Module, plan: Trace) -> Iterator[Callable[[], Any]]:
    """Keep nothing."""
    yield list


def capturing(**words: Any) -> Way:
    """Return the way of `unetinspect.capture`, with the options of `maps`."""

    @contextmanager
    def way(unet: nn.Module, plan: Trace) -> Iterator[Callable[[], Any]]:
        with capture(unet, maps(**words), plan=plan) as seen:
            yield lambda: [found.tensor for found in seen.maps]

    return way


@contextmanager
def as_daam(unet: nn.Module, plan: Trace) -> Iterator[Callable[[], Any]]:
    """Sum the maps of each head and layer over the steps, as DAAM does.

    It keeps the conditional half of the maps, and reads them token by token. It leaves out the middle block, and the layers whose
    maps are 8 times smaller than the sample of the config along one side.
    """
    sums: dict[tuple[str, int], Any] = {}
    left_out = plan.model.config["sample_size"] ** 2 // 8**2

    def keep(path: str, probabilities: Tensor) -> None:
        if probabilities.shape[1] == left_out:
            return
        by_token = torch.stack([token[len(token) // 2 :] for token in probabilities.permute(2, 0, 1)])
        for head, found in enumerate(by_token.transpose(0, 1).contiguous()):
            sums[path, head] = sums.get((path, head), 0.0) + found

    paths = [layer.path for layer in plan.attentions if layer.kind == "cross" and layer.stage != "mid_block"]
    with _unfused(unet, paths, keep):
        yield lambda: sums


@contextmanager
def as_attention_map_diffusers(unet: nn.Module, plan: Trace) -> Iterator[Callable[[], Any]]:
    """Keep the maps of each step, head and image of the cross layers in host memory, as attention-map-diffusers does."""
    kept: list[Tensor] = []
    with _unfused(
        unet,
        [layer.path for layer in plan.attentions if layer.kind == "cross"],
        lambda path, probabilities: kept.append(probabilities.cpu()),
    ):
        yield lambda: kept


@contextmanager
def _unfused(unet: nn.Module, paths: Sequence[str], keep: Keep) -> Iterator[None]:
    """Run layers with a processor that computes all of their probabilities, which are kept and used."""

    def scores(path: str, compute: Callable[..., Tensor], *operands: Any) -> Tensor:
        probabilities = compute(*operands)
        keep(path, probabilities)
        return probabilities

    with ExitStack() as stack:
        for path in paths:
            layer: Any = unet.get_submodule(path)
            stack.enter_context(mock.patch.object(layer, "processor", AttnProcessor()))
            stack.enter_context(mock.patch.object(layer, "get_attention_scores", partial(scores, path, layer.get_attention_scores)))
        yield


WAYS: dict[str, Way] = {
    "plain": plain,
    "cross layers": capturing(kind="cross"),
    "all layers": capturing(),
    'all layers, `queries="mean"`': capturing(queries="mean"),
    "as DAAM does": as_daam,
    "as attention-map-diffusers does": as_attention_map_diffusers,
}
FOLDED = 'all layers, `queries="mean"`'


@dataclass(frozen=True)
class Case:
    """A pass, and the ways that are compared in it.

    Attributes:
        model: A catalog name or a config.
        request: The options of the pass, as `unetinspect.trace` takes them.
        ways: Names of `WAYS`; the first is "plain".
        goals: The greatest ratios to plain steps, by way.
        most_held: The most bytes that a way may hold, by way.
    """

    model: str | Mapping[str, Any]
    request: dict[str, Any]
    ways: Sequence[str] = tuple(way for way in WAYS if way != FOLDED)
    goals: Mapping[str, float] = field(default_factory=dict)
    most_held: Mapping[str, int] = field(default_factory=dict)


CASES = {
    "cpu": [
        Case("sd15", {"res": 256, "dtype": "float32"}, goals={"cross layers": 1.03, "all layers": 1.10}),
        Case("sd15", {"res": 512, "dtype": "float32"}, ("plain", FOLDED), most_held={FOLDED: MIB}),
    ],
    "cuda": [Case("sdxl", {"res": 1024, "dtype": "float16"}, tuple(WAYS), goals={"cross layers": 1.10, "all layers": 1.6})],
}


@dataclass
class Found:
    """What was measured of one way.

    Attributes:
        held: The bytes of the tensors held after one step and after two.
        peak: The most bytes that were allocated at once while these two steps ran.
        times: Wall and CPU seconds of a step, one a round.
    """

    held: tuple[int, int] = (0, 0)
    peak: int = 0
    times: Times = field(default_factory=list)


def measure(case: Case, device: torch.device, rounds: int) -> dict[str, Found]:
    """Run one uncounted round of two steps for the memory, then rounds of one step for the time."""
    plan = trace(case.model, device="meta", cache=False, **case.request)
    unet = build(plan, device)
    inputs = inputs_of(plan, device)
    found = dict.fromkeys(case.ways, Found())

    def step() -> None:
        with torch.no_grad():
            unet(**inputs)
        if device.type == "cuda":
            torch.cuda.synchronize()

    step()  # what torch keeps from its first pass is no cost of a way
    for number in range(-1, rounds):
        for name in reversed(case.ways) if number % 2 else case.ways:
            print(f"  {case.request['res']} px: {name}", file=sys.stderr, flush=True)
            way = WAYS[name](unet, plan)
            if number < 0:
                found[name] = count_bytes(way, step, device)
                continue
            with way:
                timed(step, found[name].times)
    return found


def build(plan: Trace, device: torch.device) -> nn.Module:
    """Build the UNet of a trace with small random weights: diffusers' own take half a minute."""
    dtype = getattr(torch, plan.run.dtype)
    unet = build_unet(resolve_config(plan.model.config), device=device, dtype=dtype, name=plan.model.name)
    for parameter in unet.parameters():
        nn.init.uniform_(parameter, -0.03, 0.03)
    return unet


def inputs_of(plan: Trace, device: torch.device) -> dict[str, Any]:
    """Make random inputs for the pass of a trace."""
    inputs: dict[str, Any] = tree_map(lambda tensor: torch.rand(tensor.shape, device=device).to(tensor.dtype), arguments_of(plan))
    return inputs


def bytes_of(kept: Any) -> int:
    """Return the bytes of what some tensors keep in memory."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tree_leaves(kept)}
    return sum(storages.values())


def count_bytes(way: AbstractContextManager[Callable[[], Any]], step: Callable[[], None], device: torch.device) -> Found:
    """Run two steps and note what is held after each, and the most bytes that torch's allocator gave out at once."""
    with ExitStack() as stack:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        else:
            profiler = stack.enter_context(profile(activities=[ProfilerActivity.CPU], profile_memory=True))
        kept = stack.enter_context(way)
        step()
        first = bytes_of(kept())
        step()
        held = first, bytes_of(kept())
    if device.type == "cuda":
        return Found(held, torch.cuda.max_memory_allocated() - before)
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    return Found(held, max(accumulate(event.nbytes() for event in events if event.name() == "[memory]")))


def rows(case: Case, found: Mapping[str, Found], device: torch.device) -> Iterator[list[str]]:
    """Write the cells of each way."""
    # Other processes take wall time from a CPU; a CUDA device has no CPU time.
    quantity: Quantity = "wall" if device.type == "cuda" else "cpu"
    runs = {name: [Run(wall, cpu) for wall, cpu in one.times] for name, one in found.items()}
    base = runs["plain"]
    for name, one in found.items():
        goals = []
        if name in case.goals:
            goal = Goal(quantity, case.goals[name], ratio=True)
            goals.append((str(goal), goal.is_met(runs[name], base)))
        if name in case.most_held:
            goals.append((f"{format_bytes(case.most_held[name])} held", one.held[1] <= case.most_held[name]))
        beside = [
            str(ratio(runs[name], base, "wall")),
            str(ratio(runs[name], base, "cpu")),
            format_bytes(one.held[0]) + (" more with each step" if one.held[1] > one.held[0] else ""),
            format_bytes(one.peak - found["plain"].peak),
        ]
        yield [
            f"{case.request['res']} px: {name}",
            format_ms(1000 * median_of(runs[name], "wall")),
            *([""] * len(beside) if name == "plain" else beside),
            ", ".join(text for text, _ in goals),
            ", ".join("yes" if is_met else "**no**" for _, is_met in goals),
        ]


def main(arguments: Sequence[str] | None = None, cases: Mapping[str, Sequence[Case]] = CASES) -> int:
    """Measure, print the table, and write it to a page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the UNet runs (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="steps of each way that are timed (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads: CPU time is work only with one (default: %(default)s)")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the table of a CUDA device to this page, between its marks")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    found: list[list[str]] = []
    for case in cases[options.device]:
        rounds = options.rounds if case.goals else 1  # no goal for its time
        found += rows(case, measure(case, device, rounds), device)
    headers = ["what", "step", "wall ratio", "CPU ratio", "held", "extra peak", "goal", "met"]
    text = f"{table(headers, found)}\n\nThe UNet ran on {plural(options.threads, 'CPU thread')}."
    if options.device == "cuda":
        where = environment(Path(sys.executable), ("unetinspect", "torch", "diffusers"))
        text = f"{table(headers, found)}\n\nThe UNet ran on {torch.cuda.get_device_name()}. {where}"
    print(text)
    if options.write:
        write_section(options.write, f"capture-{options.device}", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
