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
    paragraphs.append([verdict(check)])
    lines = [line for paragraph in paragraphs if paragraph for line in (*paragraph, "")][:-1]
    return Table(columns=(), rows=(), above=lines, records=check.findings, fields=Finding.__struct_fields__)


def verdict(check: Check) -> str:
    """Say whether anything was found, and of what."""
    if check.clean:
        return "nothing found"
    counts = {title.lower(): sum(finding.about == about for finding in check.findings) for about, title in _TITLES.items()}
    return f"{plural(len(check.findings), 'finding')}: " + ", ".join(f"{title} {count}" for title, count in counts.items() if count)


def _checked(check: Check) -> Iterator[str]:
    """Say what was checked, and what is fine."""
    wrong = sum(finding.about == "config" for finding in check.findings)
    yield f"config: {plural(wrong, 'finding')}" if wrong else "config: no mistakes"
    if not check.sizes:
        yield "sizes:  not tried, because the UNet cannot be built"
    for size in check.sizes:
        yield f"size:   {_size(size)}"
    if check.weights is not None:
        yield f"file:   {_weights(check.weights)}"
    for expectation in check.expectations:
        yield f"expect: {expectation.key} {expectation.expected}: {'yes' if expectation.holds else 'NO'}"


def _size(size: SizeCheck) -> str:
    parts = [f"image {format_size(size.image_size)}"] if size.image_size else []
    parts += [f"sample {format_size(size.sample_size)}"] if size.sample_size else []
    if not size.runs:
        return f"{', '.join(parts)}: does NOT run"
    if size.output_size is None:
        return f"{', '.join(parts)}: runs"
    same = "the same size" if size.output_size == size.sample_size else f"ANOTHER size, {format_size(size.output_size)}"
    return f"{', '.join(parts)}: runs, and comes back in {same}"


def _weights(weights: WeightsCheck) -> str:
    layout = f", {weights.layout} layout" if weights.layout else ""
    wrong = {"missing": weights.missing, "unexpected": weights.unexpected, "of another shape": weights.mismatched}
    if not any(wrong.values()):
        return f"{weights.name}{layout}: all {plural(weights.matched, 'tensor')} fit, name for name and shape for shape"
    counts = ", ".join(f"{count} {what}" for what, count in wrong.items() if count)
    fits = f"; it fits {', '.join(weights.fits)}" if weights.fits else ""
    return f"{weights.name}{layout}: {weights.matched} of {plural(weights.tensors, 'tensor')} fit, {counts}{fits}"


def _finding(finding: Finding) -> Iterator[str]:
    yield f"  {finding.kind}: {finding.what}"
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
