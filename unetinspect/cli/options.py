"""The options that commands share, each declared once, and the decorator that gives them to a command."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache, partial, wraps
from typing import Annotated, Any, Literal

import typer
from msgspec import Struct

from unetinspect.record.sections import Optimizer
from unetinspect.record.selection import KINDS
from unetinspect.unets.request import DTYPES

_size = partial(typer.Option, rich_help_panel="Size and batch")
_attached = partial(typer.Option, rich_help_panel="Attachments")
_run = partial(typer.Option, rich_help_panel="Device and cache")
_source = partial(typer.Option, rich_help_panel="Model source")
_train = partial(typer.Option, rich_help_panel="Training")
_output = partial(typer.Option, rich_help_panel="Output")

_MODEL = "Catalog name, config file, folder, .safetensors file, saved trace, hub ID, or - for stdin"
_BATCH = "Images per batch; CFG doubles it"

_Training = Annotated[bool, _train("--training", help="Run a training step too, and add up its memory (no CFG)")]
_Optimizer = Annotated[
    Optimizer | None, _train(metavar="NAME", help="adamw, sgd (no momentum), adafactor or 8bit (bitsandbytes' AdamW8bit) [default: adamw]")
]
_Checkpointing = Annotated[bool, _train("--gradient-checkpointing", help="Run blocks again in the backward pass to save memory")]


def catalog_names() -> list[str]:
    """Return what completes the name of a model; the shell completes files."""
    from unetinspect.catalog import load_catalog

    return list(load_catalog())


def _attachable_names() -> list[str]:
    from unetinspect.catalog import load_catalog
    from unetinspect.unets import builder_for

    return [name for name, entry in load_catalog().items() if builder_for(entry.class_name).plugs_into]


# For commands that take several models; the first is also in `options.model`.
Models = Annotated[
    list[str] | None,
    typer.Argument(metavar="MODEL", help=f"{_MODEL}; globs in quotes [default: sd15]", autocompletion=catalog_names),
]

# For commands that select attention layers.
Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--kind", metavar="KIND,...", help=f"Only layers of these kinds: {', '.join(KINDS)} [default: all]", autocompletion=lambda: KINDS
    ),
]
Stages = Annotated[
    list[str] | None,
    typer.Option("--stage", metavar="NAME,...", help="Only these stages: up_blocks.1, or up_blocks for all of them [default: all]"),
]
TokensAt = Annotated[
    str | None,
    typer.Option("--tokens-at", metavar="N|HxW", help="Only layers at this resolution: 16x16 is 256 query tokens [default: all]"),
]


class OutputOptions(Struct, frozen=True, kw_only=True):
    """Where and how to print."""

    json: Annotated[bool, _output("--json", help="Same as --format json")] = False
    format: Annotated[
        Literal["table", "json", "md", "csv", "tsv", "names"] | None,
        _output("--format", metavar="FORMAT", help="table, json, md, csv, tsv or names (one a line) [default: by FILE's extension]"),
    ] = None
    columns: Annotated[
        list[str] | None, _output("--columns", metavar="FIELD,...", help="Columns of the table, named as in JSON [default: what fits]")
    ] = None
    output: Annotated[str | None, _output("--output", "-o", metavar="FILE", help="Write to FILE instead of standard output")] = None
    width: Annotated[
        int | None, _output("--width", min=0, metavar="N", help="Columns of a table; 0: no limit [default: the terminal's]")
    ] = None
    no_truncate: Annotated[bool, _output("--no-truncate", help="Do not shorten module paths")] = False
    quiet: Annotated[bool, _output("--quiet", "-q", help="Do not print notes and hints")] = False


class SourceOptions(OutputOptions, frozen=True, kw_only=True):
    """Where to read from."""

    revision: Annotated[str | None, _source(metavar="REV", help="Branch, tag or commit on the hub")] = None
    subfolder: Annotated[str | None, _source(metavar="DIR", help="Folder that contains the config")] = None
    token: Annotated[str | None, _source("--token", metavar="TOKEN", help="Hub token [default: the stored login]")] = None
    offline: Annotated[bool, _source("--offline", help="Do not use the network, only the hub cache and the catalog")] = False

    @property
    def where(self) -> dict[str, Any]:
        """What the functions that read a model or a checkpoint take, beside its name."""
        return {"revision": self.revision, "subfolder": self.subfolder, "token": self.token, "offline": self.offline}


class ModelOptions(SourceOptions, frozen=True, kw_only=True):
    """Which model, and from where."""

    model: Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL, autocompletion=catalog_names)] = "sd15"
    overrides: Annotated[
        list[str] | None, _source("--set", metavar="KEY=VALUE", help="Override a config key; may be given several times")
    ] = None


class PassOptions(ModelOptions, frozen=True, kw_only=True):
    """How to run a forward pass, except its size."""

    cfg: Annotated[bool | None, _size("--cfg/--no-cfg", help="Classifier-free guidance [default: on for conditional models]")] = None
    tokens: Annotated[int | None, _size(metavar="N", help="Length of encoder_hidden_states [default: what the model is used with]")] = None
    frames: Annotated[int | None, _size(metavar="N", help="Frames of a video UNet [default: from the config]")] = None
    vae_scale: Annotated[int | None, _size(metavar="N", help="VAE downscaling factor [default: from the model's files, or 8]")] = None
    attached: Annotated[
        str | None,
        _attached(
            "--with",
            metavar="MODEL",
            help="Attach a ControlNet or T2I-Adapter; ports also takes an IP-Adapter",
            autocompletion=_attachable_names,
        ),
    ] = None
    freeu: Annotated[str | None, _attached(metavar="B1,B2,S1,S2", help="Enable FreeU with these factors")] = None
    device: Annotated[
        str,
        _run(
            "--device",
            metavar="DEVICE",
            help="auto, meta, cpu, cuda or cuda:N; auto is cuda if available, else meta",
            autocompletion=lambda: ["auto", "meta", "cpu", "cuda"],
        ),
    ] = "auto"
    dtype: Annotated[
        str | None,
        _run(
            "--dtype",
            metavar="DTYPE",
            help="float32, float16, bfloat16 or float64 [default: float32]",
            autocompletion=lambda: [*DTYPES],
        ),
    ] = None
    no_cache: Annotated[bool, _run("--no-cache", help="Ignore the cache")] = False
    force: Annotated[bool, _run("--force", help="Lift the size limits")] = False


class TraceOptions(PassOptions, frozen=True, kw_only=True):
    """How to run one forward pass."""

    res: Annotated[str | None, _size(metavar="N|HxW", help="Image size in pixels")] = None
    latent: Annotated[str | None, _size(metavar="N|HxW", help="Size of the sample, or length of a signal [default: from the config]")] = (
        None
    )
    batch: Annotated[int, _size(metavar="N", help=_BATCH)] = 1


class MemoryOptions(TraceOptions, frozen=True, kw_only=True):
    """How to run one forward pass, and a training step."""

    training: _Training = False
    optimizer: _Optimizer = None
    gradient_checkpointing: _Checkpointing = False


class CheckOptions(PassOptions, frozen=True, kw_only=True):
    """How to run forward passes at several sizes."""

    res: Annotated[list[str] | None, _size(metavar="N|HxW,...", help="Image sizes in pixels")] = None
    latent: Annotated[list[str] | None, _size(metavar="N|HxW,...", help="Sample sizes [default: from the config]")] = None
    batch: Annotated[int, _size(metavar="N", help=_BATCH)] = 1


class SweepOptions(PassOptions, frozen=True, kw_only=True):
    """How to run forward passes at several sizes and batches."""

    res: Annotated[list[str] | None, _size(metavar="N|HxW,...", help="Image sizes in pixels")] = None
    latent: Annotated[list[str] | None, _size(metavar="N|HxW,...", help="Sample sizes [default: 0.5, 1, 1.5 and 2 times the config's]")] = (
        None
    )
    batch: Annotated[list[str] | None, _size(metavar="N,...", help=f"{_BATCH} [default: 1]")] = None
    fit: Annotated[str | None, _size(metavar="BYTES", help="Find the largest batch that fits in this memory: 24GiB")] = None
    training: _Training = False
    optimizer: _Optimizer = None
    gradient_checkpointing: _Checkpointing = False


class DiffOptions(PassOptions, frozen=True, kw_only=True):
    """How to run one forward pass of each of two UNets."""

    model: Annotated[str, typer.Argument(metavar="A", help=_MODEL, autocompletion=catalog_names)] = "sd15"
    res: Annotated[str | None, _size(metavar="N|HxW[,...]", help="Image size in pixels, or one each for A and B")] = None
    latent: Annotated[str | None, _size(metavar="N|HxW[,...]", help="Sample size, or one each for A and B [default: from the config]")] = (
        None
    )
    batch: Annotated[str, _size(metavar="N[,N]", help=f"{_BATCH}, or one each for A and B")] = "1"


def takes(options: type[OutputOptions]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the fields of `options` as command-line options; it receives them as one record, first.

    A command with a parameter `models` gets all MODELs there, and the first as `options.model`.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        _, *own = inspect.signature(command, eval_str=True).parameters.values()
        several = any(parameter.name == "models" for parameter in own)
        shared = [parameter for parameter in _parameters(options) if not (several and parameter.name == "model")]

        @wraps(command)
        def run(**given: Any) -> None:
            picked = {parameter.name: given.pop(parameter.name) for parameter in shared}
            if several:
                given["models"] = given["models"] or ["sd15"]
                picked["model"] = given["models"][0]
            command(options(**picked), **given)

        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        parameters = [*(p for p in shared if p.name == "model"), *own, *(p for p in shared if p.name != "model")]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


@cache
def _parameters(options: type[OutputOptions]) -> list[inspect.Parameter]:
    """List the fields as parameters, those of the most specialized record first: the help shows them in that order."""
    hints: dict[str, Any] = {}
    for base in options.__mro__[:-2]:
        hints |= {name: hint for name, hint in inspect.get_annotations(base, eval_str=True).items() if name not in hints}
    defaults = dict(zip(options.__struct_fields__, options.__struct_defaults__, strict=True))
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=hint) for name, hint in hints.items()
    ]
