"""What a pass costs, in words: multiply-accumulates by every convention that is printed elsewhere, and memory."""

from __future__ import annotations

from collections.abc import Iterator

from unetinspect.record import Run, Totals, Trace
from unetinspect.units import format_bytes, format_si


def cost_lines(trace: Trace) -> list[str]:
    """Say the multiply-accumulates, what is left out of them, and the peak of the activations; nothing for old records."""
    totals = trace.totals
    lines = [*mac_lines(totals, trace.run.forward_batch), *_uncounted(totals), *memory_lines(totals)]
    return [*lines, *(f"        {line}" for line in beside_lines(trace.run) if lines)]


def beside_lines(run: Run) -> Iterator[str]:
    """Yield that what is plugged in is not in the costs."""
    if run.plugged is not None:
        yield f"of the UNet alone: what {run.plugged} costs itself comes on top"


def mac_lines(totals: Totals, batch: int) -> Iterator[str]:
    """Yield the whole with what it is made of, and the number that papers print: of one sample, without attention products."""
    if totals.macs is None or totals.macs_by_kind is None:
        return
    kinds = totals.macs_by_kind
    parts = [("conv", kinds.conv), ("linear", kinds.linear), ("attention products", kinds.attention)]
    split = " + ".join(f"{format_si(macs)} {name}" for name, macs in parts if macs)
    of_batch = f" for the batch of {batch}" if batch > 1 else ""
    whole = f"{format_si(totals.macs, 'MACs')}{of_batch} ({format_si(totals.flops, 'FLOPs')})"
    yield f"MACs:   {whole}: {split}" if split else f"MACs:   {whole}"
    per_sample = f"{format_si(totals.macs / batch, 'MACs')} per sample" if batch > 1 and totals.macs else ""
    without = f"{format_si((totals.macs - kinds.attention) / batch, 'MACs')} without attention products" if kinds.attention else ""
    usual = f"{without}, as most papers and counters print it" if without else ""
    if per_sample or usual:
        yield f"        {'; '.join(filter(None, [per_sample, usual]))}"


def memory_lines(totals: Totals) -> Iterator[str]:
    """Yield the peak of the live activation bytes, and what it would be if every attention map were held."""
    if totals.peak_activation_bytes is None:
        return
    fused, held = totals.peak_activation_bytes, totals.peak_activation_bytes_with_maps
    yield f"peak:   {format_bytes(fused)} of activations, in {_module(totals.peak_activation_in)}"
    if held is not None and held > fused:
        yield f"        {format_bytes(held)} if attention held its maps, in {_module(totals.peak_activation_in_with_maps)}"


def _uncounted(totals: Totals) -> Iterator[str]:
    if totals.uncounted:
        operations = ", ".join(f"{operation.calls} {operation.op.removeprefix('aten.')}" for operation in totals.uncounted)
        yield f"        not counted, for want of a formula: {operations}"


def _module(path: str | None) -> str:
    return path or "the UNet itself"
