"""The program: its commands, their help, and the one place where an error becomes a sentence and an exit code."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from unetinspect.errors import UnetInspectError, nearest_names
from unetinspect.streams import INTERRUPTED, ReaderGoneError, interrupted, print_error
from unetinspect.version import __version__

# The base of Typer's own errors; Typer has its own copy of Click, so the class is reached through a public one.
_ClickError: Any = typer.BadParameter.__mro__[2]

# Group of the help -> its commands, each with its module and a line of help; examples are in the docstring of its function.
_GROUPS = {
    "Inspect": {
        "trace": ("inspect", "Show the shapes, layers, MACs and memory of every stage"),
        "skips": ("inspect", "List the skip connections: hidden + skip = concat"),
        "attn": ("inspect", "List the attention layers: heads, Q, K, V and map shapes"),
        "tree": ("inspect", "Show the module tree with observed shapes"),
        "inputs": ("inspect", "Show the arguments of forward: shapes, dtypes, config keys"),
        "ports": ("inspect", "Show where a ControlNet, T2I-Adapter or IP-Adapter attaches"),
    },
    "Measure": {
        "sweep": ("measure", "Compare sizes and batches: MACs, memory, which fail"),
        "profile": ("measure", "Measure time and memory per stage on a CUDA device"),
    },
    "Compare and draw": {
        "diff": ("compare", "Compare two UNets; exits 1 if they differ"),
        "draw": ("compare", "Draw the U as text, SVG, HTML, PNG, Mermaid or DOT"),
        "names": ("compare", "Translate names between diffusers, LDM, ComfyUI and LoRA"),
    },
    "Check": {
        "check": ("measure", "Find config errors and sizes that fail; exits 1 on findings"),
        "identify": ("lookup", "Identify a checkpoint from its header"),
        "explain-error": ("lookup", "Explain an error: what it means and what to change"),
    },
    "Catalog and cache": {
        "config": ("lookup", "Show a config with diffusers' defaults filled in"),
        "models": ("lookup", "List the bundled UNets, or those of a folder"),
        "cache": ("lookup", "Show or clear the cache of records"),
        "schema": ("lookup", "Print the JSON Schema of --json output"),
    },
}
COMMANDS = {name: command for commands in _GROUPS.values() for name, command in commands.items()}


def _write_sections(formatter: Any, sections: dict[str, list[tuple[str, str]]]) -> None:
    """Write titled lists of names and texts, all texts in one column."""
    width = max(len(name) for rows in sections.values() for name, _ in rows)
    for title, rows in sections.items():
        with formatter.section(title):
            formatter.write_dl([(name.ljust(width), " ".join(text.split())) for name, text in rows], col_max=width)


def _option_sections(command: Any, context: Any) -> dict[str, list[tuple[str, str]]]:
    """List the arguments and options of a command by the title that they are under."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        name, text = parameter.get_help_record(context)
        title = getattr(parameter, "rich_help_panel", None) or "Options"
        if parameter.param_type_name == "argument":
            name, title = parameter.metavar, "Arguments"
        elif parameter.name == "help" and sections:
            title = list(sections)[-1]
        sections.setdefault(title, []).append((name, text.rstrip(".").replace("x>=", "at least ")))
    return sections


class _Command(TyperCommand):
    """A command whose help is plain text, with its options in sections."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_sections(formatter, _option_sections(self, ctx))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Examples"):  # not wrapped, so that they can be copied
            formatter.write("".join(f"  {line.strip()}\n" for line in (self.epilog or "").strip().splitlines()))


class _Commands(TyperGroup):
    """The group of commands: a command's module is imported when the command is named."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections = {title: [(name, line) for name, (_, line) in commands.items()] for title, commands in _GROUPS.items()}
        _write_sections(formatter, {**sections, **_option_sections(self, ctx)})


def load_command(name: str) -> Any:
    """Return a command of `COMMANDS` with its options, as Typer makes it from its function."""
    module, line = COMMANDS[name]
    function = getattr(import_module(f"unetinspect.cli.{module}"), name.replace("-", "_"))
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name, cls=_Command, help=line, epilog=function.__doc__)(function)
    return typer.main.get_command(alone)


app = typer.Typer(
    name="unetinspect",
    cls=_Commands,
    help="See how a diffusers UNet is built: shapes, skip connections and attention layers, from one forward pass "
    "without weights or a GPU.",
    epilog="Try `unetinspect trace sd15`, and `unetinspect COMMAND --help` for the options and examples of a command.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"unetinspect {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version")] = False,
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
        print_error(error.message, error.hint)
        return error.exit_code
    except _ClickError as error:
        print_error(_usage_message(error), _usage_hint(error, given))
        return 2
    except (KeyboardInterrupt, typer.Abort):
        return interrupted()
    except ReaderGoneError:
        return 0


def _usage_message(error: Any) -> str:
    """Return Typer's message in our form, without its guesses: the hint has them."""
    text: str = error.format_message()
    for guess in (" (Possible options:", " Did you mean"):
        text = text.partition(guess)[0]
    text = text.replace("Got unexpected extra argument(s)", "unexpected argument").replace("Value error, ", "").rstrip(".")
    return text[:1].lower() + text[1:]


def _usage_hint(error: Any, given: list[str]) -> str:
    """Say what to type instead of an option or a command that does not exist."""
    option = getattr(error, "option_name", None) or ""
    parameters = error.ctx.command.get_params(error.ctx) if option.startswith("--") else ()
    known = [name[2:] for parameter in parameters for name in parameter.opts if name.startswith("--")]
    close = [name for name in known if option[2:].startswith(name)] or nearest_names(option[2:], known, count=1)
    meant = f"did you mean --{close[0]}? " if close else ""
    command = next((word for word in given if word in COMMANDS), None)
    if option and command and given[0].startswith("-"):
        return f"put options after the command: unetinspect {command} {option}"
    if given[0] in COMMANDS:
        return f"{meant}`unetinspect {given[0]} --help` lists the options"
    if not option:
        from unetinspect.catalog import find_entry

        is_model = find_entry(given[0]) is not None or {".", "/"} & {*given[0]}
        close = nearest_names(given[0], COMMANDS, count=1) or ([f"trace {given[0]}"] if is_model else [])
        meant = f"did you mean `unetinspect {close[0]}`? " if close else ""
    return f"{meant}`unetinspect --help` lists the commands"
