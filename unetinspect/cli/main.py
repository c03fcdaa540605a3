"""The program: its commands, their help, and the one place where an error becomes a sentence and an exit code."""

from __future__ import annotations

import re
import sys
from collections import Counter
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import unetinspect
from unetinspect.errors import UnetInspectError, UsageError, nearest_names
from unetinspect.streams import INTERRUPTED, SUFFIXES, ReaderGoneError, interrupted, print_error
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
        "maps": ("lookup", "Show the attention maps that capture() saved, also as pictures"),
    },
    "Measure": {
        "sweep": ("measure", "Compare sizes and batches: MACs, memory, which fail"),
        "profile": ("measure", "Measure time and memory per stage on a CUDA device"),
    },
    "Compare and draw": {
        "diff": ("compare", "Compare two UNets; exits 1 if they differ"),
        "draw": ("compare", "Draw the U as text, SVG, PDF, PNG, HTML, Mermaid or DOT"),
        "names": ("compare", "Translate names between diffusers, LDM, ComfyUI and LoRA"),
    },
    "Check": {
        "check": ("measure", "Find config errors and sizes that fail; exits 1 on findings"),
        "identify": ("lookup", "Identify a checkpoint from its header"),
        "explain-error": ("lookup", "Explain an error: what it means and what to change"),
    },
    "Catalog and cache": {
        "config": ("lookup", "Show a config with its defaults; -o FILE.json saves it"),
        "models": ("lookup", "List the bundled UNets, or those of a folder"),
        "cache": ("lookup", "Show or clear the cache of records"),
        "schema": ("lookup", "Print the JSON Schema of --json output"),
    },
}
COMMANDS = {name: command for commands in _GROUPS.values() for name, command in commands.items()}
# Commands of other tools that mean an option of ours, and what people type for a command or an option.
_OPTION_OF = {"help": "--help", "version": "--version"}
_MEANT = {
    **dict.fromkeys(("info", "show", "summary"), "trace"),
    **dict.fromkeys(("plot", "render"), "draw"),
    **dict.fromkeys(("--size", "--resolution", "--height"), "--res"),
    "compare": "diff",
}


# The sections of a command's help that come last, in this order.
_LAST = ("Training", "Device and cache", "Model source", "Output")


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
    return dict(sorted(sections.items(), key=lambda section: _LAST.index(section[0]) if section[0] in _LAST else -1))


class _Command(TyperCommand):
    """A command whose help is plain text, with its options in sections; of an option that is given twice, neither value wins."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        parser: Any = self.make_parser(ctx)
        values, _, order = parser.parse_args([*args])
        single = [each for each in order if each.param_type_name == "option" and not each.multiple]
        given = ["/".join([each.opts[0], *each.secondary_opts]) for each in single if not each.is_flag or each.secondary_opts]
        pairs = [(each.opts[0], pair) for each in {*order} if each.metavar == "KEY=VALUE" for pair in values[each.name]]
        given += [f"{name} {pair.partition('=')[0].strip()}" for name, pair in pairs]
        twice = next((name for name, times in Counter(given).items() if times > 1), None)
        if twice is not None and not ctx.resilient_parsing:
            raise UsageError(f"{twice} can be given only once", hint="leave out all but one")
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.strip("{}").replace("...}...", "...") for piece in super().collect_usage_pieces(ctx)]

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
    version: Annotated[bool, typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version")] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] in _OPTION_OF:
        given = [*given[1:], _OPTION_OF[given[0]]]
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
    """Return Typer's message in our form, which its versions write differently, without its guesses: the hint has them."""
    text: str = error.format_message()
    for guess in (" (Possible options:", " (Did you mean", " Did you mean"):
        text = text.partition(guess)[0]
    text = re.sub(r"No such option:? '?([^\s'.]+)'?", r"no such option: \1", text.replace("Value error, ", "")).rstrip(".")
    text = re.sub(r"Got unexpected extra arguments?(?:\(s\))?", "unexpected argument", text)
    return text[:1].lower() + text[1:]


def _usage_hint(error: Any, given: list[str]) -> str:
    """Say what to type instead of an option, a command or a value that does not exist."""
    option = getattr(error, "option_name", None) or ""
    command = next((word for word in given if word in COMMANDS), None)
    if option and command and given[0].startswith("-"):
        return f"put options after the command: unetinspect {command} {option}"
    wrong, _, choices = error.message.replace("'", "").rstrip(".").partition(" is not one of ")
    wrong = wrong.removeprefix("Value error, ")
    close = nearest_names(wrong, filter(None, choices.split(", ")), count=1)
    extra = re.match(r"Got unexpected extra argument\(?s?\)? ?\((\w*(?:block|conv)\w*(?:\.\d+)?)([.\w]*)", error.message)
    if option.startswith("--") and error.ctx is not None:  # without: the option exists, and its value is missing
        known = [name[2:] for parameter in error.ctx.command.get_params(error.ctx) for name in parameter.opts if name.startswith("--")]
        alike = [name for name in known if option[2:].startswith(name) or f"--{name}" == _MEANT.get(option)]
        close = [f"--{name}" for name in alike or nearest_names(option[2:], known, count=1)]
    elif extra and error.ctx is not None and any("--stage" in parameter.opts for parameter in error.ctx.command.params):
        # A module's path, which `tree` takes as its PATH.
        of_skip = "--source" if extra[1].startswith("down") else "--target"
        close = [f"{of_skip} {extra[1]}{extra[2]}" if extra[2] and command == "skips" else f"--stage {extra[1]}"]
    elif given[0] == "draw":
        from unetinspect.drawing.drawing import FORMS

        form = SUFFIXES.get(f".{wrong.lower()}")
        close = [f"--as {form} (or -o FILE.{form})"] if form in FORMS else close
    elif not option and given[0] in {*unetinspect.__all__} - {*COMMANDS, "explain_error"}:
        return f"it is in Python: from unetinspect import {given[0]}"
    elif not option and given[0] not in COMMANDS:
        from unetinspect.catalog import find_entry

        is_model = find_entry(given[0]) is not None or {".", "/"} & {*given[0]}
        close = [_MEANT[given[0]]] if given[0] in _MEANT else nearest_names(given[0], COMMANDS, count=1)
        close = [f"`unetinspect {name}`" for name in close or ([f"trace {given[0]}"] if is_model else [])]
    meant = f"did you mean {close[0]}? " if close else ""
    listed = f"`unetinspect {given[0]} --help` lists the options" if given[0] in COMMANDS else "`unetinspect --help` lists the commands"
    return meant + listed
