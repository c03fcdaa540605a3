"""The commands that say what is wrong: check, identify, explain-error."""

from __future__ import annotations

import sys
from typing import Annotated, cast

import typer

from unetinspect.cli.options import CheckOptions, More, OutputOptions, SourceOptions, takes
from unetinspect.cli.output import Output
from unetinspect.cli.run import answer_models, checking
from unetinspect.errors import UsageError
from unetinspect.record import Check
from unetinspect.source import LoadedModel

_FOUND = 1
# A log of a whole training run has less; what is longer is no error message.
_MAX_TEXT = 16 * 1024 * 1024


@takes(CheckOptions)
def check(
    options: CheckOptions,
    more: More = None,
    weights: Annotated[
        str | None, typer.Option(metavar="FILE|ID", help="Check a checkpoint against the UNet; only its header is read.")
    ] = None,
    expect: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Expect a value in the record: attention.cross=16; may be repeated.")
    ] = None,
) -> None:
    """Example: unetinspect check ddpm-cat-256 --res 100 --expect skips=20"""
    from unetinspect.views.checks import check_table

    output = Output(options)
    run = checking(options, output, weights=weights, expect=expect or [])

    def answer(model: LoadedModel) -> int:
        found = run(model)
        check = cast(Check, found.check)
        output.show(check_table(found.model, check, with_meanings=not options.quiet), found)
        return 0 if check.clean else _FOUND

    answer_models(options, more, output, answer)


@takes(SourceOptions)
def identify(
    options: SourceOptions,
    file: Annotated[str, typer.Argument(metavar="FILE|ID", help="A .safetensors file, an index of several, a folder, a place on the hub.")],
) -> None:
    """Example: unetinspect identify v1-5-pruned-emaonly.safetensors"""
    from unetinspect.source.read import read_weights
    from unetinspect.views.checks import checkpoint_table

    output = Output(options)
    found = read_weights(file, revision=options.revision, subfolder=options.subfolder, token=options.token, offline=options.offline)
    output.note(*found.notes)
    output.show(checkpoint_table(found.checkpoint), found.checkpoint)


@takes(OutputOptions)
def explain_error(
    options: OutputOptions,
    text: Annotated[list[str] | None, typer.Argument(help="The message or the whole traceback; default: standard input.")] = None,
) -> None:
    """Example: unetinspect explain-error 'mat1 and mat2 shapes cannot be multiplied (154x2048 and 768x320)'"""
    from unetinspect.explain import explain_error as explain
    from unetinspect.views.checks import explanations_table

    output = Output(options)
    explanations = explain(_read_text(text))
    output.show(explanations_table(explanations), explanations)


def _read_text(given: list[str] | None) -> str:
    if given and given != ["-"]:
        return " ".join(given)
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("no error message given", hint="give its text, or pipe it: python train.py 2>&1 | unetinspect explain-error")
    raw = getattr(sys.stdin, "buffer", None)
    if raw is None:
        return sys.stdin.read(_MAX_TEXT)
    return bytes(raw.read(_MAX_TEXT)).decode("utf-8", "replace")
