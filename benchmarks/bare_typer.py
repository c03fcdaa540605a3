"""A bare Typer app: one command, a few options, one Rich table. No command line built on the two starts faster."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

COLUMNS = ("stage", "class", "in", "out", "params", "MACs")
ROWS = 12


class Format(StrEnum):
    """How to print the table."""

    table = "table"
    json = "json"


app = typer.Typer(add_completion=False)


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="A name.")] = "sd15",
    res: Annotated[int | None, typer.Option(help="Image size in pixels.")] = None,
    batch: Annotated[int, typer.Option(help="Images.")] = 1,
    device: Annotated[str, typer.Option(help="A device.")] = "auto",
    format: Annotated[Format, typer.Option(help="How to print.")] = Format.table,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notes.")] = False,
) -> None:
    """Print a table of fixed text."""
    table = Table(title=f"{model} {res} {batch} {device} {format} {quiet}")
    for column in COLUMNS:
        table.add_column(column)
    for number in range(ROWS):
        table.add_row(f"down_blocks.{number}", "CrossAttnDownBlock2D", "(2, 320, 64, 64)", "(2, 320, 32, 32)", "10.52 M", "109.6 G")
    Console().print(table)


if __name__ == "__main__":
    app()
