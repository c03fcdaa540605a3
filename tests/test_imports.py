"""What costs seconds is imported only by what needs it, and one way only."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "unetinspect"
HEAVY = ("torch", "diffusers", "huggingface_hub")
# They take no seconds, but longer than all else that a light command does.
SLOW = ("rich", "yaml")
COMMANDS = tuple(f"unetinspect.cli.{name}" for name in ("compare", "inspect", "lookup", "measure"))
# Left of the record, where torch and diffusers are at work.
LEFT = ("capturing", "checking", "observe", "profile", "run")
# The rooms of the package in the order in which data flows: each imports only those before it.
ROOMS = (
    *(("deferred_imports", "errors", "terminal", "version"), ("units",), ("streams",), ("record",), ("catalog",), ("unets",)),
    *(("checkpoint",), ("source",), ("observe",), ("run",), ("naming",), ("capturing", "checking", "compare", "explain", "profile")),
    *(("views",), ("drawing",), ("api",), ("cli",), ("__init__",), ("__main__",)),
)
# Two methods of a record draw it, and where a checkpoint is MODEL, its tensors are compared with those of the UNet.
LAZY = {("record", "views"), ("record", "drawing"), ("run", "checking")}


def imported_after_each(*steps: str) -> list[set[str]]:
    """Run pieces of code one after another in a fresh interpreter; returns which of the modules are imported after each."""
    report = f"print(*sorted({ {*HEAVY, *SLOW, *COMMANDS} } & sys.modules.keys()), file=sys.stderr)"
    code = "\n".join(["import os, sys", "from contextlib import redirect_stderr", *(f"{step}\n{report}" for step in steps)])
    # Without `env` the child would also get what readline, where pytest has loaded it, has put beside Python's os.environ: COLUMNS.
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True, env=dict(os.environ))
    return [set(line.split()) for line in ran.stderr.splitlines()]


def imported_after(code: str, names: tuple[str, ...] = HEAVY) -> set[str]:
    """Run code in a fresh interpreter and return which of the modules it has imported."""
    return imported_after_each(code)[0] & {*names}


def run(*commands: str) -> str:
    """Return code that runs commands, whatever their exit codes."""
    return f"for words in {commands}:\n    with redirect_stderr(open(os.devnull, 'w')): main(words.split())"


def test_light_commands_import_nothing_heavy_and_this_test_can_fail(tmp_path: Path) -> None:
    """Help, the catalog, mistakes and every view of a saved trace do without torch, diffusers, the hub's client, Rich and YAML.

    A command's module is imported when the command is named; `import unetinspect`, and even `unetinspect.trace`, cost nothing heavy.
    """
    from tests.tiny import traced

    path = tmp_path / "saved.json"
    path.write_text(traced("conditioned").to_json())
    lookup, looking = "unetinspect.cli.lookup", "unetinspect.cli.inspect"
    views = ("trace", "skips", "skips --explain", "attn", "tree", "inputs", "inputs --code", "ports")
    shown = [f"{view} {path}" for view in (*views, "config", "names", "draw", "draw --as svg", f"diff {path}")]

    assert imported_after_each(
        "import unetinspect",
        "from unetinspect.cli.main import main",
        run("--help", "--version"),
        run("models"),
        run("models --classes", "schema", "trace --help", "trace sdlx", "trace --res x"),
        run(*shown),
        "import unetinspect\nunetinspect.trace, unetinspect.Trace",
        "import huggingface_hub",
    ) == [
        *(set(), set(), set(), {lookup}, {lookup, looking}),
        *({lookup, looking, "unetinspect.cli.compare"},) * 2,
        {lookup, looking, "unetinspect.cli.compare", "huggingface_hub"},
    ]
    assert {"torch", "diffusers"} <= set(runtime_imports(PACKAGE / "run" / "tracer.py"))


def test_views_and_records_never_import_torch_even_lazily() -> None:
    """No module outside the left side names torch or diffusers in an import at run time."""
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] in LEFT:
            continue
        for name in runtime_imports(path):
            allowed = path.name == "api.py" and name in ("torch", "torch.nn")  # to recognize a module
            assert allowed or name.partition(".")[0] not in ("torch", "diffusers"), f"{path} imports {name}"


def test_imports_go_one_way() -> None:
    """A room of the package imports from those before it alone, in the order in which data flows."""
    place = {room: order for order, rooms in enumerate(ROOMS) for room in rooms}
    wrong = set()
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for name in runtime_imports(path):
            if name.startswith("unetinspect."):
                other = name.split(".")[1]
                if other != room and (room, other) not in LAZY and place[other] >= place[room]:
                    wrong.add(f"{room} imports {other} ({path.name})")
    assert wrong == set()


def test_no_module_imports_itself_by_way_of_others() -> None:
    """There is no circle of modules, but for the methods of `Trace` that draw it: only `record/trace.py` imports views and drawings."""
    graph = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(("unetinspect", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        lazy = ("unetinspect.views", "unetinspect.drawing") if name == "unetinspect.record.trace" else ()
        # What a module imports from its own package are the modules beside it.
        imported = {found for found in runtime_imports(path) if not name.startswith(f"{found}.")}
        graph[name] = {found for found in imported if found.startswith("unetinspect.") and not found.startswith(lazy)}
    order = list(TopologicalSorter(graph).static_order())

    assert order.index("unetinspect.record.trace") < order.index("unetinspect.views.table") < order.index("unetinspect.drawing.outline")


def runtime_imports(path: Path) -> list[str]:
    """List what a module imports, anywhere but under `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    skipped = {id(inner) for block in typing_only for inner in ast.walk(block)}
    nodes = [node for node in ast.walk(tree) if id(node) not in skipped]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    return [*names, *(node.module or "" for node in froms), *(f"{node.module}.{alias.name}" for node in froms for alias in node.names)]
