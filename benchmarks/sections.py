"""The five comparisons: each runs its commands in turns and returns what the results page says of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from measure import Command, Run, imports_torch, peak_of, ratios, run_checked, run_each, run_rounds, seconds_of, spread_of
from page import environment, held, mebibytes, seconds, spread, table
from peers import PEERS

HERE = Path(__file__).resolve().parent
MODELS = ("sd15", "sdxl", "ddpm-cat-256")
_LIGHT_GOAL = 0.1
_COLD_GOAL = 1.15
_PACKAGES = ("unetinspect", "torch", "diffusers")
_PEER_PACKAGES = ("torchinfo", "torchview", "calflops", "fvcore")


@dataclass(frozen=True)
class Setting:
    """What every comparison is given.

    Attributes:
        python: The Python that unetinspect is installed for, without the packages that slow `import diffusers` down.
        peers_python: The Python that the other tools are installed for too.
        rounds: How often each command runs.
        limit: Seconds after which another tool is ended.
        folder: Where files may be put.
    """

    python: Path
    peers_python: Path
    rounds: int
    limit: float
    folder: Path

    @property
    def long_rounds(self) -> int:
        """How often a comparison runs that takes minutes for a round."""
        return max(1, self.rounds // 2)

    @property
    def records(self) -> Path:
        """A folder of records that are kept."""
        return self.folder / "records"

    def unetinspect(self, *arguments: str, cache: Path | None = None) -> Command:
        """Return the command as a user types it."""
        return Command([str(self.python.parent / "unetinspect"), *arguments], cache)

    def inputs(self, model: str) -> str:
        """Write the inputs of a model's pass to a file, once, and return its path."""
        path = self.folder / f"inputs-{model}.json"
        if not path.exists():
            run_checked(self.unetinspect("inputs", model, "--device", "meta", "--json", "--output", str(path)))
        return str(path)


def compare_startup(setting: Setting) -> str:
    """Hold what needs no torch beside a cold trace."""
    saved = str(setting.folder / "saved.json")
    run_checked(setting.unetinspect(*_trace_words("sd15"), "--json", "--output", saved))
    light = {
        "--help": ["--help"],
        "--version": ["--version"],
        "models": ["models"],
        "schema": ["schema"],
        "trace saved.json": ["trace", saved],
        "attn saved.json": ["attn", saved],
        "diff saved.json saved.json": ["diff", saved, saved],
    }
    if "\n│ diff " not in run_checked(setting.unetinspect("--help")).output:
        del light["diff saved.json saved.json"]
    cold = " ".join(_trace_words("sd15"))
    commands = {cold: setting.unetinspect(*_trace_words("sd15"))} | {name: setting.unetinspect(*words) for name, words in light.items()}
    runs = run_rounds(commands, setting.rounds)
    rows = [
        [
            f"`{cold}`, cold",
            seconds(seconds_of(runs[cold])),
            "1",
            mebibytes(peak_of(runs[cold])),
            _imports(setting, _trace_words("sd15"), expected=True),
            "",
        ]
    ]
    for name, words in light.items():
        goal = held(ratios(runs[name], runs[cold]).median, _LIGHT_GOAL)
        rows.append([f"`{name}`", *_against(runs[name], runs[cold]), _imports(setting, words), goal])
    return _section(
        setting.python,
        table(["command", "time", "of a cold trace", "peak memory", "imports torch", f"at most {_LIGHT_GOAL}"], rows),
    )


def compare_trace(setting: Setting) -> str:
    """Hold a cold trace, with nothing kept from before, beside the bare script."""
    runs = _traces(setting)
    rows = []
    for model in MODELS:
        bare, cold = runs[f"bare {model}"], runs[f"cold {model}"]
        time, ratio, peak = _against(cold, bare)
        goal = held(ratios(cold, bare).median, _COLD_GOAL)
        rows.append([model, seconds(seconds_of(bare)), time, ratio, mebibytes(peak_of(bare)), peak, goal])
    headers = ["model", "bare script", "cold trace", "trace / bare", "peak memory, bare", "peak memory, trace", f"at most {_COLD_GOAL}"]
    return _section(setting.python, table(headers, rows))


def compare_cache(setting: Setting) -> str:
    """Hold a repeated trace beside a cold one."""
    runs = _traces(setting)
    rows = []
    for model in MODELS:
        cold, again = runs[f"cold {model}"], runs[f"repeated {model}"]
        imported = _imports(setting, _trace_words(model), setting.records)
        goal = held(ratios(again, cold).median, _LIGHT_GOAL)
        rows.append([model, seconds(seconds_of(cold)), *_against(again, cold), imported, goal])
    headers = ["model", "cold trace", "repeated", "repeated / cold", "peak memory", "imports torch", f"at most {_LIGHT_GOAL}"]
    return _section(setting.python, table(headers, rows))


def compare_peers(setting: Setting) -> str:
    """Hold other tools on the same UNets beside unetinspect: time, memory, and whose MACs are those of the pass."""
    script = [str(setting.peers_python), str(HERE / "peers.py")]
    runs = {}
    for model in MODELS:
        commands = {name: Command([*script, name, model, setting.inputs(model)]) for name in PEERS}
        runs[model] = run_each(commands, setting.long_rounds, setting.limit)
    macs = table(["tool", *MODELS], [[name, *(_macs(runs[model], name, setting.limit) for model in MODELS)] for name in PEERS])
    times = [f"{model}:\n\n{_peer_times(runs[model])}" for model in MODELS]
    notes = [f"- {name}: {peer.how}.{f' Not the MACs of the pass: {peer.why}.' if peer.why else ''}" for name, peer in PEERS.items()]
    return _section(setting.peers_python, macs, *times, "\n".join(notes), packages=_PEER_PACKAGES)


def compare_growth(setting: Setting) -> str:
    """Hold traces of ever more modules beside their bare passes, in one process."""
    script = [str(setting.python), str(HERE / "growth.py"), str(setting.long_rounds)]
    measured: list[dict[str, Any]] = json.loads(run_checked(Command(script)).output)
    rows, per_module = [], []
    for row in measured:
        traced, bare = spread_of(row["trace"]).median, spread_of(row["bare"]).median
        ratio = spread_of([one / other for one, other in zip(row["trace"], row["bare"], strict=True)])
        per_module.append(1000 * traced / row["modules"])
        each = [f"{per_module[-1]:.2f} ms", f"{1000 * bare / row['modules']:.2f} ms"]
        rows.append([row["name"], f"{row['modules']:,}", seconds(traced), seconds(bare), *each, spread(ratio)])
    headers = ["UNet", "modules", "trace", "bare pass", "trace per module", "bare pass per module", "trace / bare"]
    worst = f"The greatest time per module is {max(per_module) / min(per_module):.2f} times the least."
    return _section(setting.python, table(headers, rows), worst)


SECTIONS: dict[str, Callable[[Setting], str]] = {
    "startup": compare_startup,
    "trace": compare_trace,
    "cache": compare_cache,
    "growth": compare_growth,
    "peers": compare_peers,
}


def verdict(macs: int | None, total: int, without_attention: int) -> str:
    """Say how counted MACs stand to those of the pass.

    >>> verdict(10, 10, 8), verdict(8, 10, 8), verdict(5, 10, 8), verdict(None, 10, 8)
    ('right', 'attention left out, -20.0 %', '-50.0 %', 'counts none')
    """
    if macs is None:
        return "counts none"
    if macs == total:
        return "right"
    difference = f"{100 * (macs / total - 1):+.1f} %"
    return f"attention left out, {difference}" if macs == without_attention else difference


@cache
def _traces(setting: Setting) -> dict[str, list[Run]]:
    """Run, for each model, the bare script, a cold trace and a repeated one; two comparisons share them."""
    commands = {}
    for model in MODELS:
        words = _trace_words(model)
        run_checked(setting.unetinspect(*words, cache=setting.records))
        commands[f"bare {model}"] = Command([str(setting.python), str(HERE / "bare.py"), model, setting.inputs(model)])
        commands[f"cold {model}"] = setting.unetinspect(*words)
        commands[f"repeated {model}"] = setting.unetinspect(*words, cache=setting.records)
    return run_rounds(commands, setting.rounds)


def _trace_words(model: str) -> list[str]:
    return ["trace", model, "--device", "meta"]


def _imports(setting: Setting, words: Sequence[str], records: Path | None = None, *, expected: bool = False) -> str:
    """Say whether a command imports torch, in bold where that is not what is expected."""
    found = imports_torch(setting.python, words, records)
    answer = "yes" if found else "no"
    return answer if found == expected else f"**{answer}**"


def _macs(runs: Mapping[str, Sequence[Run]], name: str, limit: float) -> str:
    run = runs[name][0]
    if run.code:
        return _failure(run, limit)
    macs, truth = _printed(run)["macs"], _printed(runs["FlopCounterMode"][0])
    right = verdict(macs, truth["macs"], truth["without_attention"])
    return right if macs is None else f"{macs:,}: {right}"


def _failure(run: Run, limit: float) -> str:
    if run.seconds >= limit:
        return f"no result in {limit:.0f} s"
    return "no result in the memory that was free" if "can't allocate memory" in run.last_error else run.last_error.replace("|", "\\|")


def _peer_times(runs: Mapping[str, Sequence[Run]]) -> str:
    rows, base = [], runs["unetinspect"]
    for name, tries in runs.items():
        time, _, peak = _against(tries, tries)
        if tries[0].code:
            rows.append([name, f"failed after {time}", "", "", peak])
            continue
        after_imports = spread_of([_printed(run)["seconds"] for run in tries]).median
        ratio = ratios(tries[: len(base)], base[: len(tries)])
        rows.append([name, time, seconds(after_imports), spread(ratio), peak])
    return table(["tool", "time", "after imports", "time / unetinspect", "peak memory"], rows)


def _printed(run: Run) -> dict[str, Any]:
    printed: dict[str, Any] = json.loads(run.output.splitlines()[-1])
    return printed


def _against(runs: Sequence[Run], base: Sequence[Run]) -> tuple[str, str, str]:
    """Return the time, its ratio to that of `base`, and the peak memory, as the page shows them."""
    return seconds(seconds_of(runs)), spread(ratios(runs, base)), mebibytes(peak_of(runs))


def _section(python: Path, *parts: str, packages: Sequence[str] = ()) -> str:
    return "\n\n".join([*parts, environment(python, [*_PACKAGES, *packages])])
