"""`sweep`: what a UNet costs at each of many sizes and batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from unetinspect.record import ModelInfo, SweepPoint, Trace
from unetinspect.units import format_bytes, format_shape, format_si, format_size
from unetinspect.views.header import added_lines, header
from unetinspect.views.stages import attached_lines
from unetinspect.views.table import Column, Table


def sweep_table(model: ModelInfo, points: Sequence[SweepPoint], record: Trace | None) -> Table:
    """Show a line for each size and batch; `record` is that of one that ran, None where none did."""
    return Table(
        columns=(
            Column("image", lambda point: format_size(point.image_size), right=True),
            Column("sample", lambda point: format_size(point.sample_size), right=True),
            Column("batch", lambda point: str(point.batch), right=True),
            Column("tokens", lambda point: "" if point.tokens is None else str(point.tokens), right=True, drop=1),
            Column("MACs", lambda point: "fails" if point.error else format_si(point.macs), right=True),
            Column("attention", _attention_share, right=True, drop=4),
            Column("peak", lambda point: "" if point.error else format_bytes(point.peak_activation_bytes), right=True),
            Column(
                "maps held",
                lambda point: "" if point.error else format_bytes(point.peak_activation_bytes_with_maps),
                right=True,
                drop=2,
            ),
            Column("largest map", _largest_bytes, right=True),
            Column("of", lambda point: point.largest_map.path if point.largest_map else "", path=True, drop=9),
        ),
        rows=points,
        above=[*header(model), *_pass(record)],
        below=[*_weights(record), *_failures(points), *_other_sizes(points), *_meanings(points)],
    )


def _pass(record: Trace | None) -> Iterator[str]:
    if record is not None:
        run = record.run
        doubled = f"doubled for CFG ({run.cfg_reason})" if run.cfg else f"no CFG ({run.cfg_reason})"
        frames = f"; {run.frames} frames ({run.frames_from})" if run.frames is not None else ""
        yield f"batch:  {doubled}{frames}; {run.dtype} on {run.device}"
        yield from added_lines(run)


def _attention_share(point: SweepPoint) -> str:
    if point.macs_by_kind is None or not point.macs:
        return ""
    return f"{point.macs_by_kind.attention / point.macs:.1%}"


def _largest_bytes(point: SweepPoint) -> str:
    return format_bytes(point.largest_map.bytes) if point.largest_map else ""


def _weights(record: Trace | None) -> Iterator[str]:
    if record is not None:
        yield f"weights: {format_bytes(record.totals.weight_bytes)} in {record.run.dtype}, the same at every size"
        yield from (f"all {line}" for line in attached_lines(record.run))


def _failures(points: Sequence[SweepPoint]) -> Iterator[str]:
    failed = [point for point in points if point.error]
    if failed:
        yield f"{len(failed)} of {len(points)} fail:"
    for error, hint in dict.fromkeys((point.error, point.hint) for point in failed):
        yield f"  {error}" + (f" ({hint})" if hint else "")


def _other_sizes(points: Sequence[SweepPoint]) -> Iterator[str]:
    for point in points:
        size, shape = point.sample_size, point.output_shape
        if size and shape and tuple(shape[-len(size) :]) != tuple(size):
            yield f"the sample {format_size(size)} comes back in another size: {format_shape(shape)}"


def _meanings(points: Sequence[SweepPoint]) -> Iterator[str]:
    if any(point.largest_map for point in points):
        yield "tokens: query tokens of the largest attention map; maps held: the peak if attention held its maps"
