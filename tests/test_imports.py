"""What costs seconds is imported only by what needs it, and one way only."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "unetinspect"
HEAVY = ("torch", "diffusers", "huggingface_hub")
# They take no seconds, but longer than all else that a light command does.
SLOW = ("rich", "yaml")
# Left of the record, where torch and diffusers are at work.
LEFT = ("check", "observe", "profile", "run")
# The rooms of the package in the order in which data flows: each imports those before it, and none behind it.
ROOMS = (
    *(("deferred_imports", "errors", "terminal", "units", "version"), ("files", "streams"), ("record",), ("catalog",), ("unets",)),
    *(("checkpoint",), ("source",), ("observe",), ("run",), ("check", "compare", "explain", "naming", "profile")),
    *(("views",), ("drawing",), ("api",), ("cli",), ("__init__",), ("__main__",)),
)
# Two methods of a record draw it, and where a checkpoint is MODEL, its tensors are compared with those of the UNet.
LAZY = {("record", "views"), ("record", "drawing"), ("run", "check")}


def imported_after(code: str, names: tuple[str, ...] = HEAVY) -> set[str]:
    """Run code in a fresh interpreter and return which of the modules it has imported."""
    report = f"import sys\n{code}\nprint(*sorted(name for name in {names} if name in sys.modules), file=sys.stderr)"
    # Without `env` the child would also get what readline, where pytest has loaded it, has put beside Python's os.environ: COLUMNS.
    ran = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, timeout=120, check=True, env=dict(os.environ))
    return set(ran.stderr.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["trace", "--help"],
        ["models"],
        ["models", "--classes"],
        ["schema"],
        ["trace", "sdlx"],
        ["trace", "--res", "x"],
    ],
    ids=" ".join,
)
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    """Help, the catalog, the schema and mistakes are answered without torch, diffusers or the hub's client."""
    quiet = "import os; from contextlib import redirect_stderr; from unetinspect.cli.main import main"

    assert imported_after(f"{quiet}\nwith redirect_stderr(open(os.devnull, 'w')): main({arguments!r})") == set()


def test_a_command_is_imported_when_it_is_named() -> None:
    """The list of commands needs none of their modules, and a command none but its own."""
    run = "from unetinspect.cli.main import main\n"
    modules = ("unetinspect.cli.look", "unetinspect.cli.rest", "unetinspect.record", *SLOW)

    assert imported_after(f"{run}main(['--help'])", modules) == {"rich"}
    assert imported_after(f"{run}main(['models'])", modules) == {"unetinspect.cli.rest", "unetinspect.record"}


def test_a_saved_trace_is_shown_without_torch(tmp_path: Path) -> None:
    """Right of the record nothing heavy is imported: each view of a saved trace does without, and draws without Rich."""
    from tests.tiny import traced

    path = tmp_path / "saved.json"
    path.write_text(traced("conditioned").to_json())
    commands = [
        ["trace"],
        ["skips"],
        ["skips", "--explain"],
        ["attn"],
        ["tree"],
        ["inputs"],
        ["inputs", "--code"],
        ["ports"],
        ["config"],
        ["names"],
        ["draw"],
        ["draw", "--as", "svg"],
    ]
    code = f"from unetinspect.cli.main import main\nfor command in {commands!r}: assert main([*command, {str(path)!r}]) == 0"

    assert imported_after(code, (*HEAVY, *SLOW)) == set()


def test_importing_the_package_is_light_and_this_test_can_fail() -> None:
    """`import unetinspect` and even `unetinspect.trace` cost nothing heavy; importing the tracer does, and the hub's client is told."""
    assert imported_after("import unetinspect; unetinspect.trace; unetinspect.Trace") == set()
    assert imported_after("import huggingface_hub") == {"huggingface_hub"}
    assert {"torch", "diffusers"} <= set(runtime_imports(PACKAGE / "run" / "tracer.py"))


def test_views_and_records_never_import_torch_even_lazily() -> None:
    """No module outside the left side names torch or diffusers in an import at run time."""
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] in LEFT:
            continue
        for name in runtime_imports(path):
            allowed = path.name == "api.py" and name == "torch"  # to tell a module from what is none
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


def runtime_imports(path: Path) -> list[str]:
    """List what a module imports, anywhere but under `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    skipped = {id(inner) for block in typing_only for inner in ast.walk(block)}
    nodes = [node for node in ast.walk(tree) if id(node) not in skipped]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return names + [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
