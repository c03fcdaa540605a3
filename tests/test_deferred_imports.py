"""What diffusers imports and a trace never uses stays out of the program's own process, and comes back whole when it is used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.tiny import CONDITION, PLAIN, traced
from unetinspect.unets import builder_for, supported_classes

PACKAGE = Path(__file__).parent.parent / "unetinspect"
# The folder comes first: an installed package of these names would be hidden all the same.
BEGIN = """
import json, sys
sys.path.insert(0, {folder!r})
from unetinspect.deferred_imports import defer_imports
defer_imports()
"""

TRACED = """
asked = set()
from unetinspect import deferred_imports
ask = deferred_imports._StandIn.__getattribute__
deferred_imports._StandIn.__getattribute__ = lambda self, name: asked.add(name) or ask(self, name)
from unetinspect.cli.main import main
for words in {commands!r}:
    assert main(words) == 0
unused = ("sympy", "torch._dynamo.eval_frame", "transformers", "peft", "accelerate", "bitsandbytes", "requests.api")
loaded = [name for name in unused if sys.modules.get(name)]
from importlib import import_module
for module, name in {classes!r}:
    getattr(import_module(module), name)
print(json.dumps([sorted(name for name in asked if name != "calls" and not name.startswith("__")), loaded]))
"""

USED = """
import diffusers, torch
from diffusers import UNet2DModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.hooks.taylorseer_cache import TaylorSeerState
stand_in = sys.modules["torch._dynamo"]
assert type(stand_in).__name__ == "_StandIn" and torch._dynamo is stand_in and stand_in.calls
plain_calls = []
disabled = torch.compiler.disable(lambda value: plain_calls.append(torch.compiler.is_compiling()) or value + 1)
assert disabled(1) == 2

import torch._dynamo.utils as utils  # a submodule, first
assert utils is sys.modules["torch._dynamo.utils"] is sys.modules["torch._dynamo"].utils
assert utils.__spec__.origin == utils.__file__
dynamo = sys.modules["torch._dynamo"]
assert dynamo is torch._dynamo and dynamo is not stand_in and stand_in.config is dynamo.config
assert id(BasicTransformerBlock) in dynamo.trace_rules._allowed_callable_ids

graphs = []
def backend(graph, inputs):
    graphs.append(graph)
    return graph.forward
compiled = torch.compile(lambda value: disabled(value * 2) * 3, backend=backend)
assert compiled(torch.ones(2)).tolist() == [9, 9]
assert len(graphs) == 2 and plain_calls == [False, False]  # before and behind what the compiler must not look into

package = diffusers.models.transformers
assert "diffusers.models.transformers.transformer_flux" not in sys.modules
assert package.FluxTransformer2DModel is sys.modules["diffusers.models.transformers.transformer_flux"].FluxTransformer2DModel
assert package.Transformer2DModel is sys.modules["diffusers.models.transformers.transformer_2d"].Transformer2DModel
assert package.__spec__.loader.__class__.__name__ == "SourceFileLoader"
import requests
assert requests.get is requests.api.get

from unetinspect.api import _load
sys.path.append({benchmarks!r})
from host_clock import HostClock
from unetinspect.profile.profiling import ProfileOptions, profile_model
from unetinspect.unets.request import make_request
graphs.clear()
how = ProfileOptions(compile=True, backend=backend, repeats=1, warmup=1)
record, profile = profile_model(_load({config!r}, {{}}), make_request(), {{}}, how, clock=HostClock())
print(json.dumps([profile.compiled, len(graphs), len(record.stages)]))
"""


def run(code: str, folder: Path, **values: Any) -> Any:
    """Run code in a process that begins as the program does; returns what it prints last. The folder has a package called peft."""
    (folder / "peft").mkdir()
    (folder / "peft" / "__init__.py").write_text("raise AssertionError('peft is imported')")
    (folder / "peft-9.9.dist-info").mkdir()
    (folder / "peft-9.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 9.9\n")
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BEGIN.format(folder=str(folder)) + code.format(**values)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=folder,
        env=dict(os.environ),
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return json.loads(ran.stdout.splitlines()[-1])


def test_a_trace_loads_no_compiler_and_diffusers_asks_two_things_of_it(tmp_path: Path, cli: Any) -> None:
    """The records are those of a process that defers nothing, and no UNet class asks for more: where one does, this fails."""
    commands = []
    for name, config in {"plain": PLAIN, "conditioned": CONDITION}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(config))
        words = ["trace", str(tmp_path / f"{name}.json"), "--device", "meta", "--no-cache", "--json"]
        commands.append([*words, "-o", f"{name}-out.json"])
    commands.append([*words, "--dtype", "float16", "-o", "half"])
    classes = [(builder_for(name).module, name) for name in supported_classes()]
    asked, loaded = run(TRACED, tmp_path, classes=classes, commands=commands)

    assert asked == ["allow_in_graph", "disable"]
    assert loaded == []
    for name in ("plain", "conditioned"):
        printed = cli("trace", str(tmp_path / f"{name}.json"), "--device", "meta", "--json")[1]
        assert (tmp_path / f"{name}-out.json").read_text(encoding="utf-8") == printed


def test_what_is_used_comes_back_whole(tmp_path: Path) -> None:
    """Compiling after it, alone and in a profile: the real module takes its place, gets the calls, and is there once."""
    compiled, graphs, stages = run(USED, tmp_path, config=PLAIN, benchmarks=str(PACKAGE.parent / "benchmarks"))

    assert compiled
    assert graphs == stages


def test_only_the_program_itself_defers_anything() -> None:
    """A program that imports unetinspect keeps its imports: nothing but `__main__`, and the processes it starts, name the module."""
    naming = {path.name for path in PACKAGE.rglob("*.py") if "deferred_imports import" in path.read_text(encoding="utf-8")}

    assert naming == {"__main__.py", "many.py"}


def test_the_process_ends_at_once_but_for_what_was_to_run_at_its_end(tmp_path: Path) -> None:
    """Functions of `atexit` run, the streams are flushed, the code is kept; a profiler gets the code back."""
    code = "import atexit, sys; from unetinspect.__main__ import main; atexit.register(print, 'at exit'); sys.argv[1:] = {}\n"
    code += "print('before', end=' ')\ncode = main()\nprint('returned', code)"

    def ended(arguments: list[str], before: str = "") -> tuple[int, str]:
        ran = subprocess.run(
            [sys.executable, "-c", before + code.format(arguments)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=dict(os.environ),
        )
        return ran.returncode, ran.stdout

    version = traced("plain").run.versions["unetinspect"]
    assert ended(["--version"]) == (0, f"before unetinspect {version}\nat exit\n")
    assert ended(["trace", "--res", "x"]) == (2, "before at exit\n")
    profiled = "import sys; sys.setprofile(lambda *_: None)\n"
    assert ended(["trace", "--res", "x"], profiled) == (0, "before returned 2\nat exit\n")
