"""`check`: what would go wrong with a UNet, one finding under the other."""

from __future__ import annotations

from collections.abc import Iterator

from unetinspect.record import Check, Finding, ModelInfo, SizeCheck, TensorDifference, WeightsCheck
from unetinspect.units import format_shape, format_size, plural
from unetinspect.views.header import header
from unetinspect.views.table import Table

_TITLES = {"config": "Config", "size": "Sizes", "weights": "Weights", "expectation": "Expectations"}


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
    """Say what was checked, and what is fine."""
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
