"""What stands below a drawing: the totals of the pass that it shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from unetinspect.record import Trace
from unetinspect.units import format_bytes, format_shape, format_si, format_size, plural
from unetinspect.views.attention import attention_lines
from unetinspect.views.header import added_lines
from unetinspect.views.skips import returned_text


def caption(trace: Trace) -> Iterator[str]:
    """Yield the lines below a drawing: sizes, skips and attention layers, costs."""
    run, totals = trace.run, trace.totals
    image = f"{run.medium} {format_size(run.image_size)}, " if run.image_size is not None and run.vae_scale_factor != 1 else ""
    frames = f", {run.frames} frames" if run.frames is not None else ""
    batch = f"batch {run.forward_batch} = 2 x {run.batch} for CFG" if run.cfg else f"batch {run.forward_batch}"
    sample = next((given.shape for given in run.inputs if given.shape is not None), None)
    returned = returned_text(trace) if len(trace.outputs) > 1 else format_shape(trace.output.shape)
    yield f"{image}sample {format_shape(sample)} -> {returned}, {batch}{frames}"
    yield from (" ".join(line.split()) for line in added_lines(run))
    skips = plural(totals.skips.consumed, "skip") if trace.skips else "no skips"
    yield f"{skips}; {_attention_text(trace)}"
    if totals.macs is not None:
        peak = f"; activations {format_bytes(totals.peak_activation_bytes)} at their peak" if totals.peak_activation_bytes else ""
        yield f"{format_si(totals.macs, 'MACs')}{peak} in {run.dtype}"


def _attention_text(trace: Trace) -> str:
    counts = trace.totals.attention
    if counts.total or not counts.without_processor:
        return attention_lines(trace)[0]
    kinds = Counter(kind for _, kind in {(layer.path, layer.kind) for layer in trace.attentions if layer.processor is None})
    layers = plural(counts.without_processor, "attention layer")
    return f"{layers}: {' + '.join(f'{count} {kind}' for kind, count in kinds.items())}, without attention processors"
