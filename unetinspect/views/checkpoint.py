"""`identify`: what a checkpoint is, the models in it, and what in its header says so."""

from __future__ import annotations

from collections.abc import Iterator

from unetinspect.record import Checkpoint, CheckpointPart
from unetinspect.units import format_bytes, format_count, plural
from unetinspect.views.table import Column, Table

_NAMES = {"text_encoder": "text encoder", "vae": "VAE", "unet": "UNet", "ema": "EMA weights", "image_proj": "image projection"}
_SHOWN_METADATA = 6
_LONGEST = 60


def checkpoint_table(checkpoint: Checkpoint) -> Table:
    """Show the summary, a row for each model in the file, the evidence, and what is not in the header."""
    return Table(
        columns=(
            Column("part", lambda part: _NAMES.get(part.name, part.name.replace("_", " "))),
            Column("tensors", lambda part: f"{part.tensors:,}", right=True),
            Column("params", lambda part: format_count(part.params), right=True),
            Column("bytes", lambda part: format_bytes(sum(part.bytes_by_dtype.values())), right=True),
            Column("dtype", _dtypes, drop=2, wrap=8),
            Column("names start with", lambda part: part.prefix or "-", drop=1, wrap=16),
        ),
        rows=checkpoint.parts,
        above=list(_above(checkpoint)),
        below=list(_below(checkpoint)),
        records=(checkpoint,),
    )


def _dtypes(part: CheckpointPart) -> str:
    return ", ".join(part.bytes_by_dtype)


def _above(checkpoint: Checkpoint) -> Iterator[str]:
    files = f" in {plural(checkpoint.files, 'file')}" if checkpoint.files > 1 else ""
    yield f"{checkpoint.name}: {checkpoint.summary}"
    tensors = plural(checkpoint.tensors, "tensor")
    yield f"size:    {format_bytes(checkpoint.bytes)}{files}, {tensors}, {format_count(checkpoint.params)} params"
    if checkpoint.class_name:
        yield f"class:   {checkpoint.class_name}"
    if checkpoint.family:
        yield f"family:  {checkpoint.family}"
    if checkpoint.models:
        yield f"catalog: {', '.join(checkpoint.models)}"


def _below(checkpoint: Checkpoint) -> Iterator[str]:
    yield from _listed("evidence:", checkpoint.evidence)
    yield from _listed("not in the header (assumed):", checkpoint.untold)
    # What says what the file is, is in the evidence; here is the start of the rest.
    shown = list(checkpoint.metadata.items())[:_SHOWN_METADATA]
    left = len(checkpoint.metadata) - len(shown)
    lines = [f"{_short(key)}: {_short(value)}" for key, value in shown]
    yield from _listed("metadata:", (*lines, *([f"and {left} more: --json shows all"] if left else [])))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _listed(title: str, lines: tuple[str, ...]) -> Iterator[str]:
    if lines:
        yield title
        yield from (f"  {line}" for line in lines)
