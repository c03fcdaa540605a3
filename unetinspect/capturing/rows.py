"""Which rows of a pass are captured: by place, or by what a pipeline put there. Imports no torch."""

from __future__ import annotations

from typing import Any

from unetinspect.errors import UsageError

# The parts of the batch that a pipeline gives its UNet with guidance, in their order; each has a row for each image.
# Only pipelines that are tested: the order is not written anywhere else than in their `__call__`.
_DEFAULT = ("uncond", "cond")
_ORDERS = {
    "StableDiffusionPipeline": _DEFAULT,
    "StableDiffusionImg2ImgPipeline": _DEFAULT,
    "StableDiffusionInpaintPipeline": _DEFAULT,
    "StableDiffusionControlNetPipeline": _DEFAULT,
    "StableDiffusionXLPipeline": _DEFAULT,
    "StableDiffusionXLImg2ImgPipeline": _DEFAULT,
    "StableDiffusionXLInpaintPipeline": _DEFAULT,
    "StableDiffusionXLControlNetPipeline": _DEFAULT,
    "StableDiffusionPAGPipeline": _DEFAULT,
    "StableDiffusionXLPAGPipeline": _DEFAULT,
    "StableDiffusionInstructPix2PixPipeline": ("cond", "image", "uncond"),
}


def check_rows(rows: Any, pipeline: Any) -> str | slice:
    """Return the rows that are asked for: "all", "cond", "uncond" or a slice.

    Raises:
        UsageError: They are none of these, or the pipeline's order is not known.
    """
    if isinstance(rows, slice) and rows.step in (None, 1):
        return rows
    if rows not in ("all", "cond", "uncond"):
        raise UsageError(f"unknown rows {rows!r}", hint='rows="all", "cond", "uncond" or a slice: rows=slice(1, 2)')
    if rows != "all" and type(pipeline).__name__ not in _ORDERS:
        of = "a UNet" if pipeline is None else type(pipeline).__name__
        raise UsageError(f"the order of the rows of {of} is not known: rows={rows!r} cannot be used", hint="rows=slice(1, 2)")
    return str(rows)


def rows_of(rows: str | slice, pipeline: Any, batch: int) -> range:
    """Return which rows of a pass with a batch of that many are a slice of them, or "cond" or "uncond".

    Raises:
        UsageError: There is no such row: without guidance, no row is "uncond".
    """
    if isinstance(rows, slice):
        found = range(*rows.indices(batch))
    else:
        parts = _ORDERS[type(pipeline).__name__] if pipeline.do_classifier_free_guidance else ("cond",)
        # Perturbed-attention guidance adds a second conditional part at the end.
        count = len(parts) + bool(getattr(pipeline, "do_perturbed_attention_guidance", False))
        images = batch // count
        start = parts.index(rows) * images if rows in parts else batch
        found = range(start, min(start + images, batch))
    if not found:
        why = "; it runs without guidance" if rows == "uncond" else f" of a batch of {batch}"
        raise UsageError(f"no row is rows={rows!r}{why}", hint='rows="all"')
    return found
