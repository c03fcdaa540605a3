"""`check`, `identify` and `explain-error`: findings, the content of a checkpoint, the meaning of an error, in paragraphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap
from typing import Any, cast

from unetinspect.checkpoint.file_parts import CONTENT_WORDS
from unetinspect.checkpoint.lora import group_words
from unetinspect.record import (
    Check,
    Checkpoint,
    ErrorExplanation,
    ErrorExplanations,
    Finding,
    ModelInfo,
    ModelMatch,
    Shape,
    SizeCheck,
    TensorDifference,
    WeightsCheck,
)
from unetinspect.units import format_bytes, format_count, format_shape, format_size, largest, plural, visible
from unetinspect.views.header import header
from unetinspect.views.table import Column, Line, Table

_CONTENTS = {"unet": "UNet", "pipeline": "whole checkpoint"} | {key: words.partition(" ")[2] for key, words in CONTENT_WORDS.items()}
_IN_MESSAGES = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A"})
_IN_PROPERTIES = _IN_MESSAGES | str.maketrans({":": "%3A", ",": "%2C"})
_SHOWN_METADATA = 6
_LONGEST = 60
# What an explanation takes without --verbose, of a screen.
_MOST_LINES, _MOST_BEFORE, _COLUMNS, _MODELS_SHOWN, _OTHERS_SHOWN, _ERROR_SHOWN = 18, 4, 74, 6, 2, 180
_PARTS = {"text_encoder": "text encoder", "vae": "VAE", "unet": "UNet", "ema": "EMA weights", "image_proj": "image projection"}


def check_table(model: ModelInfo, check: Check, *, name: str = "", explain: bool = False) -> Table:
    """Show the verdict, then each finding with its advice; with `explain`, also the model, and what keys with misleading names mean here.

    `name` is what to call the model, if that is not its name. What follows from a finding is counted, unless `explain` lists it.
    """
    lines: list[str] = [check_verdict(name or model.name, check)]
    if check.weights is not None:
        lines += [f"  {_weights(check.weights)}", *(f"    {note}" for note in check.weights.notes)]
    for finding in check.findings:
        lines += _finding(finding) if explain or not finding.follows else ()
    follow = [finding.count or 0 for finding in check.findings if finding.follows]
    if follow and not explain:
        # A LoRA has a summary, and its layers are counted; the first of them are the finding that the others follow from.
        noun = "more layer" if check.weights is not None and check.weights.summary else "tensor"
        lines.append(f"  {plural(sum(follow), noun)} {'differs' if sum(follow) == 1 else 'differ'} because of this (--explain lists them)")
    if explain:
        lines += ["", *header(model)]
        if check.meanings:
            lines += ["", Line("What keys mean in this UNet", "heading"), *(f"  {one.key}: {one.meaning}" for one in check.meanings)]
    return Table(columns=(), rows=(), above=lines, records=check.findings, fields=Finding.__struct_fields__)


def check_verdict(name: str, check: Check) -> Line:
    """Write in one line whether anything was found in the model of that name, which sizes run, and what was measured."""
    problems = sum(not finding.follows for finding in check.findings)
    said = [f"{name} {_sizes(check.sizes)}"]
    if check.weights is not None:
        fits = not any(finding.about == "weights" for finding in check.findings)
        said.insert(len(said) if fits else 0, _fit(name, check.weights, fits=fits))
    if check.clean:
        said += [
            f"{one.key} {one.found}" + ("" if one.comparison == "=" else f" {one.comparison} {one.expected}") for one in check.expectations
        ]
        return Line("OK", "good", f": {'; '.join(said)}")
    return Line(plural(problems, "problem"), "bad", f": {'; '.join(said)}")


def _sizes(sizes: Sequence[SizeCheck]) -> str:
    """Write which sizes run, which return another size, and which fail."""
    found: dict[str, list[str]] = {}
    for size in sizes:
        same = size.output_size in (None, size.sample_size)
        found.setdefault(("runs at" if same else "returns another size at") if size.runs else "fails at", []).append(_size(size))
    texts = [f"{result} {', '.join(found[result])}" for result in ("runs at", "returns another size at", "fails at") if result in found]
    if not sizes:
        return "does not run; only its config was checked"
    return ", ".join(texts) + ("" if any(size.runs for size in sizes) else "; no pass ran")


def _size(size: SizeCheck) -> str:
    image, sample = format_size(size.image_size), f"sample {format_size(size.sample_size)}"
    if size.image_size is None:
        return sample
    return image if size.sample_size in (None, size.image_size) else f"{image} ({sample})"


def _fit(name: str, weights: WeightsCheck, *, fits: bool) -> str:
    """Write whether a checkpoint fits; if not, what it does fit: most often that is why."""
    if fits:
        return f"{weights.name} fits"
    family = f" ({weights.family})" if weights.family else ""
    if weights.fits:
        return f"{weights.name} fits {weights.fits[0]}{family}, not {name}"
    return f"{weights.name}{family} does not fit {name}"


def _weights(weights: WeightsCheck) -> str:
    if weights.summary:
        return f"{weights.name}: {weights.summary}"
    layout = f", {weights.layout} layout" if weights.layout else ""
    wrong = {"missing": weights.missing, "unexpected": weights.unexpected, "of another shape": weights.mismatched}
    if not any(wrong.values()):
        return f"{weights.name}{layout}: all {plural(weights.matched, 'tensor')} match in name and shape"
    counts = ", ".join(f"{count} {what}" for what, count in wrong.items() if count)
    fits = f"; it fits {', '.join(weights.fits)}" if weights.fits else ""
    return f"{weights.name}{layout}: {weights.matched} of {plural(weights.tensors, 'tensor')} match, {counts}{fits}"


def _finding(finding: Finding) -> Iterator[str]:
    stops = " (does not run)" if finding.stops else ""
    yield Line(f"  {finding.kind.replace('_', ' ')}", "bad", f"{stops}: {finding.what}")
    for example in finding.examples[:1]:  # --json has more
        yield f"      {_example(example)}"
    if finding.advice:
        yield f"    -> {finding.advice}"


def _example(example: TensorDifference) -> str:
    original = f" ({example.original_name})" if example.original_name and example.original_name != example.name else ""
    if example.expected is None and example.found is None:
        return f"{example.name}{original}"
    if example.expected is None:
        return f"{example.name}{original}: {format_shape(example.found)}"
    if example.found is None:
        return f"{example.name}{original}: {format_shape(example.expected)} in the UNet"
    return f"{example.name}{original}: {format_shape(example.found)} in the file, {format_shape(example.expected)} in the UNet"


def github_annotations(name: str, check: Check, *, file: str, lines: Mapping[str, int]) -> Iterator[str]:
    """Write the verdict, and a command of GitHub Actions for each finding, which marks `file` in the line of the key that it is about."""
    yield visible(check_verdict(name, check))
    for finding in check.findings:
        if not finding.follows:
            # The name of a module, or of what is expected, is in no line, even if a key of the file has that name.
            keys = finding.where if finding.about == "config" else ()
            line = next((lines[key] for key in keys if key in lines), None)
            yield github_error("\n".join(filter(None, (finding.what, finding.advice))), file=file, line=line)


def github_error(message: str, *, file: str, line: int | None) -> str:
    r"""Write a command of GitHub Actions, escaped as GitHub's own toolkit does.

    >>> github_error("50% of\nit", file="a,b.json", line=3)
    '::error file=a%2Cb.json,line=3::50%25 of%0Ait'
    """
    properties = {"file": file, "line": str(line or "")}
    written = ",".join(f"{key}={visible(value, keep_lines=True).translate(_IN_PROPERTIES)}" for key, value in properties.items() if value)
    return f"::error{' ' if written else ''}{written}::{visible(message, keep_lines=True).translate(_IN_MESSAGES)}"


def checkpoint_table(checkpoint: Checkpoint) -> Table:
    """Show the summary first, then a row for each model in the file, then the evidence and what the header does not contain.

    A LoRA has a row for each resnet, transformer and sampler that it changes instead.
    """
    above, below, lora = list(_content(checkpoint)), list(_evidence(checkpoint)), checkpoint.lora
    if lora and lora.blocks:
        columns: tuple[Column, ...] = (
            Column("block", lambda block: block.block or "-"),
            Column("module", lambda block: block.path, path=True),
            Column("layers", lambda block: str(block.layers), right=True),
            Column("types", lambda block: _counts(block.types), wrap=16),
        )
        return Table(columns=columns, rows=lora.blocks, above=above, below=below, records=(checkpoint,))
    columns = (
        Column("part", lambda part: _PARTS.get(part.name, part.name.replace("_", " "))),
        Column("tensors", lambda part: f"{part.tensors:,}", right=True),
        Column("params", lambda part: format_count(part.params), right=True),
        Column("bytes", lambda part: format_bytes(sum(part.bytes_by_dtype.values())), right=True),
        Column("dtype", lambda part: ", ".join(part.bytes_by_dtype), drop=2, wrap=8),
        Column("prefix", lambda part: part.prefix or "-", drop=1, wrap=16),
    )
    return Table(columns=columns, rows=checkpoint.parts, above=above, below=below, records=(checkpoint,))


def _counts(types: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in types.items())


def checkpoints_table(checkpoints: Sequence[Checkpoint], unread: Mapping[str, str]) -> Table:
    """Show one row for each of several files; those that could not be read, with the reason, come last and only in the table."""
    nothing: dict[str, Any] = dict.fromkeys(("layout", "class_name", "family"))
    nothing |= dict.fromkeys(("files", "bytes", "tensors", "params"), 0) | dict.fromkeys(("models", "parts", "evidence"), ())
    rows = [Checkpoint(name=name, content=cast(Any, f"unreadable: {why}"), summary=why, **nothing) for name, why in unread.items()]
    return Table(
        columns=(
            Column("file", lambda one: one.name, wrap=30, file=True),
            Column("contains", lambda one: _CONTENTS.get(one.content, one.content), wrap=18),
            Column("family", lambda one: one.family or "-", wrap=12),
            Column("layout", lambda one: one.layout or (one.lora and one.lora.format) or "-", drop=2),
            Column("dtype", _stored_as, drop=1, wrap=8),
            Column("rank", lambda one: str(one.lora.rank or "-") if one.lora else "-", right=True, drop=3),
            Column("size", lambda one: format_bytes(one.bytes) if one.bytes else "-", right=True),
        ),
        rows=(*checkpoints, *rows),
        records=checkpoints,
        fields=Checkpoint.__struct_fields__,
    )


def _stored_as(checkpoint: Checkpoint) -> str:
    """Write how the weights are quantized, or else the dtypes that take a hundredth of the bytes or more."""
    sizes: Counter[str] = Counter()
    for part in checkpoint.parts:
        sizes.update({part.quantization: sum(part.bytes_by_dtype.values())} if part.quantization else part.bytes_by_dtype)
    return ", ".join(largest(sizes)) or "-"


def _content(checkpoint: Checkpoint) -> Iterator[str]:
    files = f" in {plural(checkpoint.files, 'file')}" if checkpoint.files > 1 else ""
    yield Line(f"{checkpoint.name}:", "bad" if checkpoint.content == "unknown" else "good", f" {checkpoint.summary}")
    tensors = plural(checkpoint.tensors, "tensor")
    yield f"size:    {format_bytes(checkpoint.bytes)}{files}, {tensors}, {format_count(checkpoint.params)} params"
    if checkpoint.class_name:
        yield f"class:   {checkpoint.class_name}"
    if checkpoint.family:
        yield f"family:  {checkpoint.family}"
    if checkpoint.models:
        yield f"catalog: {', '.join(checkpoint.models)}"
    if lora := checkpoint.lora:
        yield f"format:  {lora.format or 'unknown'}"
        for group in lora.groups:
            name, kind = _PARTS.get(group.part, group.part.replace("_", " ")), "" if group.form == "norm" else f"{group.kind} "
            yield f"layers:  {name}: {', '.join(filter(None, [plural(group.layers, f'{kind}layer'), group.form, group_words(group)]))}"
        if lora.types:
            yield f"types:   {_counts(lora.types)}"
        yield from (Line("problem:", "bad", f" {fault}") for fault in lora.faults)


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
        yield Line(title, "heading")
        yield from (f"  {line}" for line in lines)


def explanations_table(explanations: ErrorExplanations, *, verbose: bool = False) -> Table:
    """Show the error raised last, what to change first; CSV and TSV have one record for each error.

    Without `verbose` it is what fits into a screen of 80 columns, and of the errors before it the message and the first change, or how
    many there are.
    """
    first, *before = explanations.explanations
    if verbose:
        earlier = [line for one in before for line in ("", *_error_lines(one, verbose=True))]
    else:
        alike = sum(one.kind == first.kind for one in before)
        earlier = ["", f"{alike} more of this kind before it"] if alike else []
        for one in before:
            if one.kind != first.kind:
                earlier += ["", f"before: {_short(one.error)}", *(f"  -> {change}" for change in one.changes[:1])]
        if _screen_lines(earlier) > _MOST_BEFORE:
            earlier = ["", f"{plural(len(before), 'error')} before it, which --verbose explains"]
    lines = [*_error_lines(first, verbose=verbose, most=_MOST_LINES - _screen_lines(earlier)), *earlier]
    return Table(columns=(), rows=(), above=lines, records=explanations.explanations)


def _error_lines(one: ErrorExplanation, *, verbose: bool, most: int = 0) -> list[str]:
    error = one.error if verbose or len(one.error) <= _ERROR_SHOWN else f"{one.error[:_ERROR_SHOWN].removesuffix(' ...')} ..."
    raised = [f"raised: {one.module}"] if one.module else []
    head = [Line("error:", "bad", f"  {error}"), f"kind:   {one.kind}", *raised, "", Line("What to change", "heading")]
    meaning = ["", Line("What it means", "heading"), f"  {one.meaning}"]
    changes = [f"  {place}. {change}" for place, change in enumerate(one.changes, 1)]
    while not verbose and len(changes) > 1 and _screen_lines([*head, *changes, *meaning]) > most:
        changes.pop()
    lines = [*head, *changes, *meaning]
    others = "If it is a diffusion UNet, perhaps" if one.decided_by == "nothing" else "Or"
    more = [
        ["", Line(others, "heading"), *(f"  {other.meaning}" for other in one.others[: None if verbose else _OTHERS_SHOWN])]
        if one.others
        else [],
        ["", Line("Its numbers", "heading"), *(f"  {_written(number.value)}: {number.meaning}" for number in one.numbers)]
        if one.numbers
        else [],
        ["", Line("In the catalog", "heading"), *_models(one.models, verbose=verbose)] if one.models else [],
    ]
    for section in filter(None, more):
        if not verbose and _screen_lines(lines + section) > most:
            return [*lines, "", "--verbose shows the rest"]
        lines += section
    return [*lines, *(["", "--verbose shows the rest"] if len(changes) < len(one.changes) else [])]


def _screen_lines(lines: Sequence[str]) -> int:
    return sum(max(1, len(wrap(line, _COLUMNS))) for line in lines)


def _written(value: int | Shape) -> str:
    return str(value) if isinstance(value, int) else format_shape(value)


def _models(models: Sequence[ModelMatch], *, verbose: bool) -> Iterator[str]:
    """Yield the models under what they have in common: a line for each role, and with `verbose` one for each set of places."""
    roles: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for model in models:
        roles.setdefault(model.role, {}).setdefault(model.where, []).append(model.name)
    for role, places in roles.items():
        names = [name for own in places.values() for name in own]
        if verbose and any(places):
            yield f"  {role}"
            yield from (f"    {', '.join(own)}: {', '.join(where)}" for where, own in places.items())
        else:
            left = 0 if verbose else len(names[_MODELS_SHOWN:])
            yield f"  {role}: {', '.join(names if verbose else names[:_MODELS_SHOWN])}{f' and {left} more' if left else ''}"
