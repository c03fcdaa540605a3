"""What only a CUDA device can show: records equal to meta's, memory beside the estimate, stages that add up to the pass.

`gpu.py` measures the first CUDA device, prints Markdown tables and, with `--write docs`, puts them into the pages of that folder.
`gpu.py --dry-run` runs the same code on the CPU with a tiny UNet: only the device's own clock and memory are missing.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import msgspec
import torch
from host_clock import HostClock
from msgspec.structs import replace
from page import table, write_section

from unetinspect import trace
from unetinspect.api import _load
from unetinspect.profile.profiling import ProfileOptions, profile_model
from unetinspect.profile.timing import Clock, cuda_device
from unetinspect.record import Profile, Trace
from unetinspect.run.build import first_line
from unetinspect.unets.request import make_request
from unetinspect.units import format_bytes, format_si, format_size
from unetinspect.version import __version__
from unetinspect.views.costs import format_ms, format_percent, format_rate, profile_table
from unetinspect.views.render import render_markdown

TINY = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 16,
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
# These depend on the kernels that torch picks on a device: the operations without a formula, and the memory of single modules.
MAY_DIFFER = ("run.device", "totals.uncounted", "stages.activation_bytes", "modules.activation_bytes")
USUAL = ProfileOptions(repeats=10, warmup=3)
WAYS = (
    replace(USUAL, attention="math"),
    replace(USUAL, attention="slicing"),
    replace(USUAL, channels_last=True),
    replace(USUAL, compile=True),
)
CLOSE = 0.05  # how far an estimate, or a sum, may be off


@dataclass(frozen=True)
class Case:
    """A pass to run: of a catalog name or a config, and how.

    Attributes:
        model: What is run.
        request: The options of the pass, as `unetinspect.trace` takes them.
        how: How to profile it.
    """

    model: str | Mapping[str, Any]
    request: dict[str, Any]
    how: ProfileOptions = USUAL

    def __str__(self) -> str:
        name = self.model if isinstance(self.model, str) else self.model["_class_name"]
        return " ".join([name, *map(str, self.request.values()), *_ways(self.how)])


@dataclass
class Results:
    """What was measured.

    Attributes:
        records: Of each trace on the device, how many values of each field differ from meta's.
        profiles: Each profile and the trace that it belongs to.
        failures: What failed, and why.
    """

    records: list[tuple[Trace, Counter[str]]] = field(default_factory=list)
    profiles: list[tuple[Trace, Profile]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def record_cases() -> list[Case]:
    """Return the passes whose records are compared with meta's: models of many classes and kinds of attention."""
    halves = (
        "sd15",
        "sdxl",
        "ddpm-cat-256",
        "kandinsky-3",
        "audioldm2",
        "if-i-xl",
        "svd-xt",
        "animatediff-sd15-v3",
        "stable-cascade-decoder",
    )
    return [Case("sd15", {"dtype": "float32"}), *(Case(name, {"dtype": "float16"}) for name in halves)]


def profile_cases() -> list[Case]:
    """Return the passes that are profiled, at several sizes and dtypes, then with other attention, layout and compiled."""
    sides = ((512, 1024), (256, 512), (768, 768))
    dtypes = ("float16", "float32", "bfloat16")
    sizes = [(model, dtype, res) for pair in sides for dtype in dtypes for model, res in zip(("sd15", "sdxl"), pair, strict=True)]
    return [
        *(Case(model, {"dtype": dtype, "res": res}) for model, dtype, res in sizes),
        *(Case("sd15", {"dtype": "float16", "res": 512}, how) for how in WAYS),
    ]


def measure(records: Iterable[Case], profiles: Iterable[Case], clock: Clock, *, limit: float = float("inf")) -> Results:
    """Run the cases on the device of a clock; none begins after `limit` seconds."""
    began, found = time.perf_counter(), Results()
    for case, step in [*((case, _compare) for case in records), *((case, _profile) for case in profiles)]:
        spent = time.perf_counter() - began
        print(f"  {spent:.0f} s: {case}", file=sys.stderr, flush=True)
        if spent > limit:
            found.failures.append(f"{case}: not begun after {limit:.0f} s")
            continue
        try:
            step(case, clock, found)
        except Exception as error:  # whatever a device raises, the other cases still run
            found.failures.append(f"{case}: {type(error).__name__}: {first_line(error)}")
        torch.cuda.empty_cache()  # free the memory for the next case
    return found


def _compare(case: Case, clock: Clock, found: Results) -> None:
    on_device = trace(case.model, device=clock.device, cache=False, **case.request)
    on_meta = trace(case.model, device="meta", cache=False, **case.request)
    found.records.append((on_device, differing(msgspec.to_builtins(on_device), msgspec.to_builtins(on_meta))))


def _profile(case: Case, clock: Clock, found: Results) -> None:
    found.profiles.append(profile_model(_load(case.model, {}), make_request(**case.request), {}, case.how, clock=clock))


def differing(one: Any, other: Any, name: str = "") -> Counter[str]:
    """Count the values of two records that differ, by the name of their field.

    >>> differing({"skips": [{"index": 0}, {"index": 1}]}, {"skips": [{"index": 0}, {"index": 2}]})
    Counter({'skips.index': 1})
    """
    if isinstance(one, dict) and isinstance(other, dict):
        pairs = [(one.get(key), other.get(key), f"{name}.{key}" if name else key) for key in {**one, **other}]
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = [(left, right, name) for left, right in zip(one, other, strict=True)]
    else:
        return Counter([name] if one != other else [])
    found: Counter[str] = Counter()
    for pair in pairs:
        found.update(differing(*pair))
    return found


def is_same(differences: Iterable[str]) -> bool:
    """Return whether nothing differs except what depends on the device's kernels."""
    return all(name.startswith(MAY_DIFFER) for name in differences)


def records_table(found: Results) -> str:
    """Write the table of records and how they differ from meta's."""
    headers = ["model", "dtype", "modules", "skips", "attention layers", "MACs", "same as on meta", "values that differ"]
    return table(
        headers,
        (
            [
                record.model.name,
                record.run.dtype,
                f"{len(record.modules):,}",
                str(len(record.skips)),
                str(len(record.attentions)),
                format_si(record.totals.macs),
                _yes(is_same(differences)),
                ", ".join(f"{count} {name}" for name, count in sorted(differences.items()) if name != "run.device"),
            ]
            for record, differences in found.records
        ),
    )


def memory_table(found: Results) -> str:
    """Write the table of estimated and measured peaks of activations."""
    return table(
        ["model", "size", "dtype", "how", "estimated", "measured", "estimate is off by", "within 5 %", "with what kernels use"],
        (
            [
                *_pass_cells(record, profile),
                format_bytes(profile.estimated_peak_bytes),
                format_bytes(measured := profile.peak_activation_bytes or profile.peak_allocated_bytes),
                *_off(profile.estimated_peak_bytes / measured - 1 if profile.estimated_peak_bytes and measured else None),
                format_bytes(profile.peak_allocated_bytes),
            ]
            for record, profile in found.profiles
        ),
    )


def times_table(found: Results) -> str:
    """Write the table of pass times, sums of the stages, and rates."""
    return table(
        ["model", "size", "dtype", "how", "pass", "sum of the stages", "sum is off by", "within 5 %", "hooks", "TFLOP/s", "of matrix rate"],
        (
            [
                *_pass_cells(record, profile),
                format_ms(profile.forward_ms.median),
                format_ms(profile.stages_sum_ms),
                *_off(profile.stages_sum_ms / profile.forward_ms.median - 1),
                format_ms(profile.hooks_cost_ms),
                format_rate(profile.tflops),
                format_percent(profile.matrix_share),
            ]
            for record, profile in found.profiles
        ),
    )


def sections(found: Results, device_name: str) -> dict[tuple[str, str], str]:
    """Return the text of each section, by page and name."""
    versions = f"unetinspect {__version__}, torch {torch.__version__}, diffusers {diffusers.__version__}"
    where = f"Measured {dt.datetime.now(tz=dt.UTC):%Y-%m-%d} on {device_name}: {versions}."
    failed = "\n".join(["Failed:", "", *(f"- {failure}" for failure in found.failures)]) if found.failures else ""
    stages = [render_markdown(profile_table(record, profile)).strip() for record, profile in found.profiles[:2]]
    parts = {
        ("benchmarks.md", "gpu"): [times_table(found), *stages],
        ("how-it-counts.md", "gpu-records"): [records_table(found)],
        ("how-it-counts.md", "gpu-memory"): [memory_table(found)],
    }
    return {place: "\n\n".join(filter(None, [*texts, failed, where])) for place, texts in parts.items()}


def _pass_cells(record: Trace, profile: Profile) -> list[str]:
    how = ProfileOptions(compile=profile.compiled, channels_last=profile.channels_last, attention=profile.attention)
    size = format_size(record.run.image_size or record.run.sample_size)
    return [record.model.name, size, profile.dtype, ", ".join(_ways(how))]


def _ways(how: ProfileOptions) -> Iterator[str]:
    if how.attention != "sdpa":
        yield f"{how.attention} attention"
    if how.channels_last:
        yield "channels last"
    if how.compile:
        yield "compiled"


def _off(part: float | None) -> Sequence[str]:
    return ("", "") if part is None else (f"{100 * part:+.1f} %", _yes(abs(part) <= CLOSE))


def _yes(holds: bool) -> str:
    return "yes" if holds else "**no**"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, and write them into the pages if asked to; returns 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="run a tiny UNet on the CPU instead of a CUDA device")
    parser.add_argument("--limit", type=float, default=330, metavar="SECONDS", help="begin no case after this time (default: %(default)s)")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write the tables into the pages of this folder")
    options = parser.parse_args(arguments)
    if not (options.dry_run or torch.cuda.is_available()):
        parser.error("torch sees no CUDA device here; --dry-run runs on the CPU")
    clock = HostClock() if options.dry_run else Clock(cuda_device("auto"))
    # Compiling takes longer than all the rest, and needs a C++ compiler.
    tiny = [Case(TINY, {"dtype": "float32"}, replace(how, repeats=2, warmup=1)) for how in (USUAL, *WAYS) if not how.compile]
    cases = (tiny[:1], tiny) if options.dry_run else (record_cases(), profile_cases())
    found = measure(*cases, clock, limit=options.limit)
    for (page, name), text in sections(found, clock.device_name).items():
        print(f"## {name}\n\n{text}\n", flush=True)
        if options.write:
            write_section(options.write / page, name, text)
    return int(bool(found.failures))


if __name__ == "__main__":
    sys.exit(main())
