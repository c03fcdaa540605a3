"""`check`, `identify` and `explain-error`: findings, the content of a checkpoint, the meaning of an error, in paragraphs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from unetinspect.record import (
    Check,
    Checkpoint,
    ErrorExplanation,
    ErrorExplanations,
    Finding,
    ModelInfo,
    ModelMatch,
    SizeCheck,
    TensorDifference,
    WeightsCheck,
)
from unetinspect.units import format_bytes, format_count, format_shape, format_size, plural
from unetinspect.views.header import header
from unetinspect.views.table import Column, Table

_TITLES = {"config": "Config", "size": "Sizes", "weights": "Weights", "expectation": "Expectations"}
_SHOWN_METADATA = 6
_LONGEST = 60
_PARTS = {"text_encoder": "text encoder", "vae": "VAE", "unet": "UNet", "ema": "EMA weights", "image_proj": "image projection"}


def check_table(model: ModelInfo, check: Check, *, with_meanings: bool = True) -> Table:
    """Show what was checked, what keys with misleading names mean here, and last each finding with its advice."""
    paragraphs = [header(model), list(_checked(check)), list(_meanings(check)) if with_meanings else []]
    for about, title in _TITLES.items():
        found = [finding for finding in check.findings if finding.about == about]
        paragraphs.append(
            [f"{title}: {plural(len(found), 'finding')}", *(line for finding in found for line in _finding(finding))] if found else []
        )
    paragraphs.append(list(_verdict(check)))
    lines = [line for paragraph in paragraphs if paragraph for line in (*paragraph, "")][:-1]
    return Table(columns=(), rows=(), above=lines, records=check.findings, fields=Finding.__struct_fields__)


def _verdict(check: Check) -> Iterator[str]:
    """Say whether anything was found, of what, and how much of it stops the UNet from running."""
    if check.clean:
        yield "all checks passed"
        return
    counts = {title.lower(): sum(finding.about == about for finding in check.findings) for about, title in _TITLES.items()}
    yield f"{plural(len(check.findings), 'finding')}: " + ", ".join(f"{title} {count}" for title, count in counts.items() if count)
    stops = sum(finding.stops for finding in check.findings)
    if stops:
        yield f"{stops} of them {'stops' if stops == 1 else 'stop'} the UNet from running"


def _checked(check: Check) -> Iterator[str]:
    """Write each check with its result."""
    wrong = sum(finding.about == "config" for finding in check.findings)
    yield f"config: {plural(wrong, 'finding')}" if wrong else "config: OK"
    if not check.sizes:
        yield "size:   not checked: the UNet does not run"
    for size in check.sizes:
        yield f"size:   {_size(size)}"
    if check.weights is not None:
        yield f"file:   {_weights(check.weights)}"
    for expectation in check.expectations:
        result = "OK" if expectation.holds else "NO" if any(size.runs for size in check.sizes) else "not checked"
        yield f"expect: {expectation.key} {expectation.expected}: {result}"


def _size(size: SizeCheck) -> str:
    parts = [f"image {format_size(size.image_size)}"] if size.image_size else []
    parts += [f"sample {format_size(size.sample_size)}"] if size.sample_size else []
    if not size.runs:
        result = "FAILS"
    elif size.output_size is None:
        result = "OK"
    elif size.output_size == size.sample_size:
        result = "OK, output has the same size"
    else:
        result = f"output has ANOTHER size, {format_size(size.output_size)}"
    return f"{', '.join(parts)}: {result}"


def _weights(weights: WeightsCheck) -> str:
    layout = f", {weights.layout} layout" if weights.layout else ""
    wrong = {"missing": weights.missing, "unexpected": weights.unexpected, "of another shape": weights.mismatched}
    if not any(wrong.values()):
        return f"{weights.name}{layout}: OK, all {plural(weights.matched, 'tensor')} match in name and shape"
    counts = ", ".join(f"{count} {what}" for what, count in wrong.items() if count)
    fits = f"; it fits {', '.join(weights.fits)}" if weights.fits else ""
    return f"{weights.name}{layout}: {weights.matched} of {plural(weights.tensors, 'tensor')} match, {counts}{fits}"


def _finding(finding: Finding) -> Iterator[str]:
    yield f"  {finding.kind}{' (does not run)' if finding.stops else ''}: {finding.what}"
    for example in finding.examples[:1]:  # --json has more
        yield f"      {_example(example)}"
    if finding.advice:
        yield f"    -> {finding.advice}"


def _example(example: TensorDifference) -> str:
    original = f" ({example.original_name})" if example.original_name and example.original_name != example.name else ""
    if example.expected is None:
        return f"{example.name}{original}: {format_shape(example.found)}"
    if example.found is None:
        return f"{example.name}{original}: {format_shape(example.expected)} in the UNet"
    return f"{example.name}{original}: {format_shape(example.found)} in the file, {format_shape(example.expected)} in the UNet"


def _meanings(check: Check) -> Iterator[str]:
    if check.meanings:
        yield "What keys mean in this UNet"
    for meaning in check.meanings:
        yield f"  {meaning.key}: {meaning.meaning}"


def checkpoint_table(checkpoint: Checkpoint) -> Table:
    """Show the summary first, then a row for each model in the file, then the evidence and what the header does not contain."""
    return Table(
        columns=(
            Column("part", lambda part: _PARTS.get(part.name, part.name.replace("_", " "))),
            Column("tensors", lambda part: f"{part.tensors:,}", right=True),
            Column("params", lambda part: format_count(part.params), right=True),
            Column("bytes", lambda part: format_bytes(sum(part.bytes_by_dtype.values())), right=True),
            Column("dtype", lambda part: ", ".join(part.bytes_by_dtype), drop=2, wrap=8),
            Column("prefix", lambda part: part.prefix or "-", drop=1, wrap=16),
        ),
        rows=checkpoint.parts,
        above=list(_content(checkpoint)),
        below=list(_evidence(checkpoint)),
        records=(checkpoint,),
    )


def _content(checkpoint: Checkpoint) -> Iterator[str]:
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


def _evidence(checkpoint: Checkpoint) -> Iterator[str]:
    yield from _listed("evidence:", checkpoint.evidence)
    yield from _listed("not in the header (assumed):", checkpoint.untold)
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


def explanations_table(explanations: ErrorExplanations) -> Table:
    """Show every explanation as paragraphs, the error raised last first; CSV and TSV have one record for each."""
    found = explanations.explanations
    lines = [line for place, one in enumerate(found, 1) for line in (*_error_heading(place, len(found)), *_error_lines(one), "")]
    return Table(columns=(), rows=(), above=lines[:-1], records=found)


def _error_heading(place: int, count: int) -> Iterator[str]:
    if count > 1:
        yield f"Error {place} of {count}{', the last in the text' if place == 1 else ''}"


def _error_lines(one: ErrorExplanation) -> Iterator[str]:
    yield f"error:  {one.error}"
    yield f"kind:   {one.kind}"
    if one.module is not None:
        yield f"raised: {one.module}"
    yield from ("", "What it means", f"  {one.meaning}")
    if one.numbers:
        yield from ("", "Its numbers")
        values = [str(one.value) if isinstance(one.value, int) else format_shape(one.value) for one in one.numbers]
        yield from (f"  {value}: {number.meaning}" for value, number in zip(values, one.numbers, strict=True))
    if one.models:
        yield from ("", "In the catalog")
        yield from _models(one.models)
    if one.changes:
        yield from ("", "What to change, most likely first")
        yield from (f"  {place}. {change}" for place, change in enumerate(one.changes, 1))


def _models(models: Sequence[ModelMatch]) -> Iterator[str]:
    """Yield the models under what they have in common: one line for a role, one for each set of places."""
    roles: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for model in models:
        roles.setdefault(model.role, {}).setdefault(model.where, []).append(model.name)
    for role, places in roles.items():
        yield f"  {role}: {plural(sum(map(len, places.values())), 'model')}"
        for where, names in places.items():
            yield f"    {', '.join(names)}"
            yield from (f"      {part}" for part in where)
