"""The program: its commands, and the one place where an error becomes a sentence and an exit code."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from unetinspect.__main__ import INTERRUPTED, interrupted
from unetinspect.cli import checks, compare, look, measure, rest
from unetinspect.errors import UnetInspectError, nearest_names
from unetinspect.streams import ReaderGoneError, print_error
from unetinspect.version import __version__

# The base of Typer's own errors; Typer carries its own copy of Click, so the class is reached through a public one.
_ClickError: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="unetinspect",
    help="See how a diffusers UNet is built: every block's shapes, every skip connection, every attention layer. "
    "One dummy forward pass, no weights, no GPU needed.",
    epilog="Without MODEL: sd15. Try: unetinspect trace; unetinspect skips --res 128; unetinspect attn sdxl --json",
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
for _command in look.COMMANDS:
    app.command(rich_help_panel="Look")(_command)
for _command in measure.COMMANDS:
    app.command(rich_help_panel="Measure")(_command)
for _command in compare.COMMANDS:
    app.command(rich_help_panel="Compare and draw")(_command)
for _command in checks.COMMANDS:
    app.command(_command.__name__.replace("_", "-"), rich_help_panel="Check")(_command)
for _command in rest.COMMANDS:
    app.command(rich_help_panel="The rest")(_command)


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
    commands = (*look.COMMANDS, *measure.COMMANDS, *compare.COMMANDS, *checks.COMMANDS, *rest.COMMANDS)
    names = [command.__name__.replace("_", "-") for command in commands]
    first = next((word for word in given if not word.startswith("-")), "")
    if first in names:
        close = nearest_names(getattr(error, "option_name", None) or "", getattr(error, "possibilities", None) or (), count=1)
        meant = f"did you mean {close[0]}? " if close else ""
        return f"{meant}`unetinspect {first} --help` lists what it takes"
    close = nearest_names(first, names, count=1)
    if close:
        return f"did you mean `unetinspect {close[0]}`?"
    meant = f"did you mean `unetinspect trace {first}`? " if first else ""
    return f"{meant}the commands are {', '.join(names)}"
