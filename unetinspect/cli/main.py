"""The program: its commands, and the one place where an error becomes a sentence and an exit code."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from unetinspect.errors import UnetInspectError, nearest_names
from unetinspect.streams import INTERRUPTED, ReaderGoneError, interrupted, print_error
from unetinspect.version import __version__

# The base of Typer's own errors; Typer carries its own copy of Click, so the class is reached through a public one.
_ClickError: Any = typer.BadParameter.__mro__[2]

# (panel of the help, module) -> its commands, each with what help says of it; an example stands with the command itself.
_PANELS = {
    ("Look", "look"): {
        "trace": "Stage by stage: shapes in and out, resnets, attention layers, params, MACs, memory; totals.",
        "skips": "Every skip: produced by, consumed by, hidden + skip = concat -> out.",
        "attn": "Every attention layer: self or cross, heads, Q, K, V, map shape; counts per block.",
        "tree": "The module tree as print(unet) shows it, repeats folded, with observed shapes.",
        "inputs": "What forward needs: argument, shape, dtype, the config key that asks for it.",
        "ports": "What can be plugged in: ControlNet and T2I residuals, IP-Adapter tokens; --with MODEL: whether it fits.",
    },
    ("Measure", "measure"): {
        "sweep": "The same UNet at many sizes and batches: MACs, memory, the largest map, and which sizes fail.",
        "profile": "A CUDA device's time and memory per stage, beside what the trace estimates.",
    },
    ("Compare and draw", "compare"): {
        "diff": "Two UNets side by side: config, stages, skips, attention, costs; exit 1 where they differ.",
        "draw": "The U as a picture: in the terminal, or with -o as SVG, HTML, PNG, Mermaid or DOT.",
        "names": "Every name of a module or tensor: diffusers, LDM and ComfyUI, block numbers, LoRA keys, IP-Adapter.",
    },
    ("Check", "checks"): {
        "check": "What would go wrong: config mistakes, sizes, a checkpoint that does not fit; exit 1 where something would.",
        "identify": "What a checkpoint is, from its header alone: family, class, layout, dtype, and what says so.",
        "explain-error": "What a shape error means for a UNet, which models have its numbers, and what to change.",
    },
    ("The rest", "rest"): {
        "config": "The resolved config, with the defaults that diffusers fills in.",
        "models": "The bundled catalog: name, params, what it is; --from: the UNets of a folder; --classes: the supported classes.",
        "cache": "The cached records: where they are, how many; clear removes them.",
        "schema": "JSON Schema of everything that --json prints.",
    },
}
# name -> (panel, module, what help says of it)
COMMANDS = {name: (*place, line) for place, commands in _PANELS.items() for name, line in commands.items()}


class _Commands(TyperGroup):
    """The group of commands: imports one's module when it is named, since to be listed it needs no more than its line."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, _, others = super().resolve_command(ctx, args)
        return name, load_command(name or ""), others


def load_command(name: str) -> Any:
    """Return a command of `COMMANDS` with its options, as Typer makes it of its function."""
    _, module, line = COMMANDS[name]
    function = getattr(import_module(f"unetinspect.cli.{module}"), name.replace("-", "_"))
    alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
    alone.command(name, help=f"{line}\n\n{function.__doc__}")(function)
    return typer.main.get_command(alone)


app = typer.Typer(
    name="unetinspect",
    cls=_Commands,
    help="See how a diffusers UNet is built: every block's shapes, every skip connection, every attention layer. "
    "One dummy forward pass, no weights, no GPU needed.",
    epilog="Without MODEL: sd15. Try: unetinspect trace; unetinspect skips --res 128; unetinspect attn sdxl --json",
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
for _name, (_panel, _, _line) in COMMANDS.items():  # to be listed; `_Commands` puts what runs in their place
    app.command(_name, help=_line, rich_help_panel=_panel)(lambda: None)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"unetinspect {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        code = int(app(given, prog_name="unetinspect", standalone_mode=False) or 0)
        return interrupted() if code == INTERRUPTED else code
    except UnetInspectError as error:
        return _fail(error.message, error.hint, error.exit_code)
    except _ClickError as error:
        return _fail(_usage_message(error), _usage_hint(error, given), 2)
    except (KeyboardInterrupt, typer.Abort):
        return interrupted()
    except ReaderGoneError:
        return 0


def _fail(message: str, hint: str | None, code: int) -> int:
    print_error(message, hint)
    return code


def _usage_message(error: Any) -> str:
    """Return what Typer says is wrong, without the guesses that it adds: those go into the hint."""
    text: str = error.format_message()
    for guess in (" (Possible options:", " Did you mean"):
        text = text.partition(guess)[0]
    return text.replace("Value error, ", "").rstrip(".")


def _usage_hint(error: Any, given: list[str]) -> str:
    """Say what to type instead of an option or a command that does not exist."""
    first = next((word for word in given if not word.startswith("-")), "")
    if first in COMMANDS:
        close = nearest_names(getattr(error, "option_name", None) or "", getattr(error, "possibilities", None) or (), count=1)
        meant = f"did you mean {close[0]}? " if close else ""
        return f"{meant}`unetinspect {first} --help` lists what it takes"
    close = nearest_names(first, COMMANDS, count=1)
    if close:
        return f"did you mean `unetinspect {close[0]}`?"
    meant = f"did you mean `unetinspect trace {first}`? " if first else ""
    return f"{meant}the commands are {', '.join(COMMANDS)}"
