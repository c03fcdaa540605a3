"""The sections of the results page: the rows of each, and how they are run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from measure import Command, Run, run_once, run_rounds
from page import Goal, Row, median_of, results, table, verdict

HERE = Path(__file__).resolve().parent
MODELS = tuple(path.stem for path in sorted((HERE.parent / "configs").glob("*.yaml")))
_FIELD_MODELS = ("sd15", "sdxl")
_COUNTERS = ("unetinspect", "FlopCounterMode", "torchinfo")
_TRACE_BYTES = Goal("peak", 300e6)


@dataclass(frozen=True)
class Setting:
    """What all sections need.

    Attributes:
        python: The Python of the environment with unetinspect and without transformers, accelerate and peft.
        other_python: The Python of the environment that has these three and the other tools too.
        rounds: How often each command runs.
        folder: A folder for temporary files.
    """

    python: Path
    other_python: Path
    rounds: int
    folder: Path

    @property
    def few_rounds(self) -> int:
        """The rounds of what takes minutes per round."""
        return (self.rounds + 1) // 2

    def unetinspect(self, *words: str, other: bool = False) -> Command:
        """Return a command as a user types it, with an empty cache."""
        python = self.other_python if other else self.python
        return Command([str(python.parent / "unetinspect"), *words])

    def repeated(self, *words: str) -> Command:
        """Return a command with a cache that is kept from round to round."""
        return replace(self.unetinspect(*words), cache=self.folder / "cache")

    def script(self, name: str, *words: str, other: bool = False) -> Command:
        """Return a call of one of this folder's scripts."""
        return Command([str(self.other_python if other else self.python), str(HERE / name), *words])

    def bare(self, model: str, *, other: bool = False) -> Command:
        """Return a call of the bare script with the inputs that a trace makes."""
        return self.script("bare.py", model, self.inputs(model), other=other)

    def inputs(self, model: str) -> str:
        """Return a file with the inputs of a model's pass."""
        return self.file(f"{model}-inputs.json", self.unetinspect("inputs", model, "--device", "meta", "--json", "--output"))

    def header(self, model: str) -> str:
        """Return a .safetensors file with the header of a model's weights."""
        return self.file(f"{model}.safetensors", self.script("header.py", model))

    def file(self, name: str, command: Command) -> str:
        """Return the path of a file that a command writes, which takes the path as its last argument; it runs once."""
        path = self.folder / name
        if not path.exists():
            run_once(replace(command, arguments=[*command.arguments, str(path)]))
        return str(path)


def trace_words(model: str) -> list[str]:
    """Return the arguments of a trace."""
    return ["trace", model, "--device", "meta"]


def cold_rows(setting: Setting) -> list[Row]:
    """Compare a trace with an empty cache and the bare script, for each model."""
    rows = []
    for model, most in {"sd15": 0.60, "sdxl": 0.60, "svd-xt": 0.70, "ddpm-cat-256": 0.70}.items():
        bare = f"bare script: {model}"
        goals = (Goal("wall", most, ratio=True), _TRACE_BYTES)
        rows.append(Row(bare, setting.bare(model)))
        rows.append(Row(f"`trace {model}`", setting.unetinspect(*trace_words(model)), bare, goals))
    return rows


def crowded_rows(setting: Setting) -> list[Row]:
    """Compare a cold trace with transformers, accelerate and peft installed and one without."""
    words = trace_words("sd15")
    without, there = "`trace sd15` without them", "`trace sd15` with them"
    return [
        Row(without, setting.unetinspect(*words)),
        Row(there, setting.unetinspect(*words, other=True), without, (Goal("wall", 1.05, ratio=True),)),
        Row("bare script with them", setting.bare("sd15", other=True), there),
    ]


def first_rows(setting: Setting) -> list[Row]:
    """Compare a cold trace and the bare script without any compiled bytecode."""
    nothing = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": str(setting.folder / "no-bytecode")}
    bare = "bare script, no bytecode"
    return [
        Row(bare, replace(setting.bare("sd15"), environment=nothing)),
        Row(
            "`trace sd15`, no bytecode",
            replace(setting.unetinspect(*trace_words("sd15")), environment=nothing),
            bare,
            (Goal("wall", 7.5),),
        ),
    ]


def warm_rows(setting: Setting) -> list[Row]:
    """Compare repeated commands, and those that need no torch, with a bare Typer app."""
    help_page, app = "bare Typer app, `--help`", "bare Typer app"
    saved = setting.file("saved.json", setting.unetinspect(*trace_words("sd15"), "--json", "--output"))
    goals = {
        **dict.fromkeys(("trace sd15", "skips sd15", "attn sd15", "draw sd15"), Goal("wall", 1.3, ratio=True)),
        **dict.fromkeys(("tree sdxl", "attn sdxl"), Goal("wall", 1.6, ratio=True)),
        **dict.fromkeys(("config sd15", "check sd15"), Goal("wall", 0.3)),
    }
    others = (
        "names sd15",
        "diff sd15 bk-sdm-tiny",
        "--version",
        "models",
        "schema",
        f"trace {saved}",
        f"identify {setting.header('sd15')}",
    )
    rows = [
        Row(help_page, setting.script("bare_typer.py", "--help")),
        Row(app, setting.script("bare_typer.py")),
        Row("`--help`", setting.repeated("--help"), help_page, (Goal("wall", 1.2, ratio=True),)),
    ]
    for line in (*goals, *others):
        command = replace(setting.repeated(*line.split()), codes=(0, 1) if line.startswith("diff") else (0,))
        name = line.replace(f"{setting.folder}/", "")
        rows.append(Row(f"`{name}`", command, app, (goals[line],) if line in goals else ()))
    return rows


def several_rows(setting: Setting) -> list[Row]:
    """Compare a trace of all catalog models in one process and a trace of one."""
    one = "`trace sd15`"
    return [
        Row(one, setting.unetinspect(*trace_words("sd15"))),
        Row(f"`trace` of all {len(MODELS)} catalog models", setting.unetinspect("trace", *MODELS, "--device", "meta"), one),
    ]


def field_rows(setting: Setting) -> list[Row]:
    """Compare other tools with unetinspect, on the same UNets and inputs."""
    identify, header = "unetinspect identify", setting.header("sd15")
    hf_mem = setting.script("peers.py", "hf-mem", "sd15", setting.inputs("sd15"), header, other=True)
    rows = [
        Row(
            "diffusers-cli env",
            Command([str(setting.python.parent / "diffusers-cli"), "env"]),
            "unetinspect: sd15",
            note="versions; no model",
        ),
        Row(identify, setting.unetinspect("identify", header), note="from the header of sd15's weights: model, config, parameters, bytes"),
        Row("hf-mem", hf_mem, identify, note="from the same header: parameters, bytes"),
    ]
    gives = {
        "print(unet)": "modules and their arguments; no shapes",
        "FlopCounterMode": "MACs per module; no shapes",
        "torchinfo": "modules, output shapes, parameters, MACs",
        "torchview": "a graph with shapes, as source code for graphviz",
    }
    for model in _FIELD_MODELS:
        base = f"unetinspect: {model}"
        trace = setting.unetinspect(*trace_words(model), "--json")
        rows.append(Row(base, trace, note="`trace --json`: shapes, skips, attention, MACs, memory, modules"))
        for tool, note in gives.items():
            command = setting.script("peers.py", tool, model, setting.inputs(model), header, other=True)
            rows.append(Row(f"{tool}: {model}", command, base, note=note))
    return rows


def fresh(rows: list[Row], rounds: int, *, warm_up: bool = True) -> str:
    """Run the rows' commands in fresh processes and write the table."""
    return results(rows, run_rounds(commands_of(rows), rounds, warm_up=warm_up))


def measure_warm(setting: Setting) -> str:
    """Measure warm commands, and note which of them import torch."""
    rows = warm_rows(setting)
    runs = run_rounds(commands_of(rows), setting.rounds)
    found = []
    for row, command in zip(rows, commands_of(rows).values(), strict=True):
        imported = run_once(replace(command, environment={"PYTHONPROFILEIMPORTTIME": "1"})).errors.splitlines()
        found.append(replace(row, note="yes" if any(line.rpartition("|")[2].strip() == "torch" for line in imported) else "no"))
    return results(found, runs, note="imports torch")


def measure_field(setting: Setting) -> str:
    """Measure other tools, and compare the MACs that they count."""
    rows = field_rows(setting)
    runs = run_rounds(commands_of(rows), setting.few_rounds, warm_up=False)
    macs = {name: json.loads(runs[name][0].output) for name in runs if name.partition(":")[0] in _COUNTERS}
    cells = []
    for tool in _COUNTERS:
        counts = [macs[f"{tool}: {model}"] for model in _FIELD_MODELS]
        right = [macs[f"FlopCounterMode: {model}"]["macs"] for model in _FIELD_MODELS]
        cells.append([tool, *(verdict(count.get("totals", count)["macs"], total) for count, total in zip(counts, right, strict=True))])
    return f"{results(rows, runs, note='what it gives')}\n\n{table(['MACs counted by', *_FIELD_MODELS], cells)}"


def measure_passes(setting: Setting) -> str:
    """Measure the pass alone, within one process."""
    found = _within(setting, "pass", setting.rounds)
    return results(
        *_side_by_side(found, "bare pass", lambda what, name: Goal("wall", 0.65, ratio=True) if what == "observed pass" else None)
    )


def measure_growth(setting: Setting) -> str:
    """Measure traces of more and more modules within one process."""
    found = _within(setting, "growth", setting.few_rounds)
    rows, runs = _side_by_side(found, "bare", lambda what, name: Goal("wall", 2.0) if what == "trace" and "110" in name else None)
    each = {name: 1000 * median_of(runs[f"trace: {name}"], "wall") / row["modules"] for name, row in found.items()}
    lines = [f"- {name}: {row['modules']:,} modules, {each[name]:.2f} ms of a trace per module" for name, row in found.items()]
    growth = each["narrow, 110 layers per block"] / each["narrow, 10 layers per block"]
    lines.append(f"- with 110 layers per block, a module takes {growth:.2f} times what it takes with 10")
    return "\n\n".join([results(rows, runs), "\n".join(lines)])


def commands_of(rows: Iterable[Row]) -> dict[str, Command]:
    """Return the commands of rows by name."""
    return {row.name: row.command for row in rows if row.command is not None}


def _within(setting: Setting, kind: str, rounds: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run_once(setting.script("passes.py", kind, str(rounds))).output)
    return found


def _side_by_side(
    found: Mapping[str, Any], base: str, goal_of: Callable[[str, str], Goal | None]
) -> tuple[list[Row], dict[str, list[Run]]]:
    """Return passes of one process as rows with their bases, and their runs."""
    rows, runs = [], {}
    for name, measured in found.items():
        for what, times in measured["times"].items():
            goal = goal_of(what, name)
            rows.append(Row(f"{what}: {name}", base="" if what == base else f"{base}: {name}", goals=() if goal is None else (goal,)))
            runs[rows[-1].name] = [Run(wall, cpu) for wall, cpu in times]
    return rows, runs


SECTIONS: dict[str, Callable[[Setting], str]] = {
    "cold": lambda setting: fresh(cold_rows(setting), setting.rounds),
    "crowded": lambda setting: fresh(crowded_rows(setting), setting.rounds),
    "first": lambda setting: fresh(first_rows(setting), 1 + setting.rounds // 4, warm_up=False),
    "warm": measure_warm,
    "several": lambda setting: fresh(several_rows(setting), 1 + setting.rounds // 4, warm_up=False),
    "pass": measure_passes,
    "growth": measure_growth,
    "capture": lambda setting: run_once(setting.script("capture.py", "--rounds", str(setting.few_rounds))).output.strip(),
    "field": measure_field,
}
