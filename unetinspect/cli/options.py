"""The options that commands share, each declared once, and the decorator that gives them to a command."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache, wraps
from typing import Annotated, Any, Literal

import typer
from msgspec import Struct

_SIZE, _PLUGS, _RUN, _MODEL, _OUTPUT = "Size and batch", "Added to the pass", "Device", "Model", "Output"


More = Annotated[
    list[str] | None,
    typer.Argument(metavar="MODEL", help="More models, answered one after another: one JSON document each; CSV gets a column model."),
]


class OutputOptions(Struct, frozen=True, kw_only=True):
    """Where and how to print."""

    json: Annotated[bool, typer.Option("--json", help="Print one JSON document: --format json.", rich_help_panel=_OUTPUT)] = False
    format: Annotated[
        Literal["table", "json", "md", "csv", "tsv"] | None,
        typer.Option(help="How to print; default: table.", rich_help_panel=_OUTPUT, show_default=False),
    ] = None
    no_truncate: Annotated[bool, typer.Option("--no-truncate", help="Never shorten module paths.", rich_help_panel=_OUTPUT)] = False
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Write to FILE instead.", rich_help_panel=_OUTPUT)
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notes or hints on stderr.", rich_help_panel=_OUTPUT)] = False


class SourceOptions(OutputOptions, frozen=True, kw_only=True):
    """Where to read from."""

    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.", rich_help_panel=_MODEL)] = None
    subfolder: Annotated[str | None, typer.Option(help="Folder that holds the config.", rich_help_panel=_MODEL)] = None
    token: Annotated[str | None, typer.Option(help="Hub token; default: the one you logged in with.", rich_help_panel=_MODEL)] = None
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network: cache and catalog only.", rich_help_panel=_MODEL)] = (
        False
    )


class ModelOptions(SourceOptions, frozen=True, kw_only=True):
    """Which model, and where from."""

    model: Annotated[
        str,
        typer.Argument(
            help="A catalog name, a config file, a folder, a .safetensors file, a saved trace, a hub ID, or - for stdin.", show_default=True
        ),
    ] = "sd15"
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a config key; may be repeated.", rich_help_panel=_MODEL),
    ] = None


class PassOptions(ModelOptions, frozen=True, kw_only=True):
    """How to run a forward pass, but for its size."""

    cfg: Annotated[
        bool | None,
        typer.Option("--cfg/--no-cfg", help="Classifier-free guidance; default: where the UNet is conditioned.", rich_help_panel=_SIZE),
    ] = None
    tokens: Annotated[int | None, typer.Option(metavar="N", help="Tokens of encoder_hidden_states.", rich_help_panel=_SIZE)] = None
    frames: Annotated[int | None, typer.Option(metavar="N", help="Frames of a video UNet.", rich_help_panel=_SIZE)] = None
    vae_scale: Annotated[int | None, typer.Option(metavar="N", help="Pixels per sample cell along one side.", rich_help_panel=_SIZE)] = None
    freeu: Annotated[
        str | None, typer.Option(metavar="B1,B2,S1,S2", help="Switch FreeU on with these factors.", rich_help_panel=_PLUGS)
    ] = None
    plugged: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="MODEL", help="Plug a ControlNet or T2I-Adapter in; named as MODEL is.", rich_help_panel=_PLUGS),
    ] = None
    device: Annotated[str, typer.Option(help="auto, meta, cpu, cuda or cuda:N; auto is CUDA if there is one.", rich_help_panel=_RUN)] = (
        "auto"
    )
    dtype: Annotated[str | None, typer.Option(help="float32, float16, bfloat16 or float64; default: float32.", rich_help_panel=_RUN)] = None
    no_cache: Annotated[
        bool,
        typer.Option("--no-cache", help="Trace afresh, and keep no record of it.", rich_help_panel=_RUN),
    ] = False
    force: Annotated[bool, typer.Option("--force", help="Lift the size limits.", rich_help_panel=_RUN)] = False


class TraceOptions(PassOptions, frozen=True, kw_only=True):
    """How to run one forward pass."""

    res: Annotated[str | None, typer.Option(metavar="N|HxW", help="Image size in pixels.", rich_help_panel=_SIZE)] = None
    latent: Annotated[
        str | None, typer.Option(metavar="N|HxW", help="Size of the sample itself; the length of a signal.", rich_help_panel=_SIZE)
    ] = None
    batch: Annotated[int, typer.Option(metavar="N", help="Images; CFG doubles it.", rich_help_panel=_SIZE)] = 1


class CheckOptions(PassOptions, frozen=True, kw_only=True):
    """How to run forward passes at several sizes."""

    res: Annotated[list[str] | None, typer.Option(metavar="N|HxW,...", help="Image sizes in pixels.", rich_help_panel=_SIZE)] = None
    latent: Annotated[
        list[str] | None, typer.Option(metavar="N|HxW,...", help="Sizes of the sample itself; default: its own.", rich_help_panel=_SIZE)
    ] = None
    batch: Annotated[int, typer.Option(metavar="N", help="Images; CFG doubles it.", rich_help_panel=_SIZE)] = 1


class SweepOptions(PassOptions, frozen=True, kw_only=True):
    """How to run forward passes at several sizes and batches."""

    res: Annotated[list[str] | None, typer.Option(metavar="N|HxW,...", help="Image sizes in pixels.", rich_help_panel=_SIZE)] = None
    latent: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N|HxW,...", help="Sizes of the sample itself; default: half, once, 1.5 and 2 times its own.", rich_help_panel=_SIZE
        ),
    ] = None
    batch: Annotated[
        list[str] | None, typer.Option(metavar="N,...", help="Numbers of images, default 1; CFG doubles each.", rich_help_panel=_SIZE)
    ] = None


class DiffOptions(PassOptions, frozen=True, kw_only=True):
    """How to run one forward pass of each of two UNets."""

    model: Annotated[str, typer.Argument(metavar="A", help="Whatever MODEL may be elsewhere.", show_default=True)] = "sd15"
    res: Annotated[
        str | None, typer.Option(metavar="N|HxW[,...]", help="Image size in pixels; A,B: of each its own.", rich_help_panel=_SIZE)
    ] = None
    latent: Annotated[
        str | None,
        typer.Option(metavar="N|HxW[,...]", help="Size of the sample itself; A,B: of each its own.", rich_help_panel=_SIZE),
    ] = None
    batch: Annotated[str, typer.Option(metavar="N[,N]", help="Images; CFG doubles them.", rich_help_panel=_SIZE)] = "1"


def takes(options: type[OutputOptions]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the fields of `options` as command-line options; it receives them as one record, first."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        _, *own = inspect.signature(command, eval_str=True).parameters.values()
        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        shared = _parameters(options)

        @wraps(command)
        def run(**given: Any) -> None:
            picked = {parameter.name: given.pop(parameter.name) for parameter in shared}
            command(options(**picked), **given)

        parameters = [*(p for p in shared if p.name == "model"), *own, *(p for p in shared if p.name != "model")]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


@cache
def _parameters(options: type[OutputOptions]) -> list[inspect.Parameter]:
    """List the fields as parameters, those of the most special record first: help shows them in that order."""
    hints: dict[str, Any] = {}
    for base in options.__mro__[:-2]:
        hints |= {name: hint for name, hint in inspect.get_annotations(base, eval_str=True).items() if name not in hints}
    defaults = dict(zip(options.__struct_fields__, options.__struct_defaults__, strict=True))
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=hint) for name, hint in hints.items()
    ]
