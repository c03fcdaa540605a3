"""`sweep`: the costs of passes at many sizes; `profile`: the measured costs of one, stage by stage, beside the estimate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from unetinspect.record import ModelInfo, Profile, Spread, SweepPoint, Trace
from unetinspect.units import format_bytes, format_shape, format_si, format_size, plural
from unetinspect.views.header import added_lines, header
from unetinspect.views.stages import attached_lines
from unetinspect.views.table import Column, Table

_SWEEP_LEGEND = {"tokens": "query tokens of the largest attention map", "with maps": "the peak with materialized attention maps"}


def sweep_table(model: ModelInfo, points: Sequence[SweepPoint], record: Trace | None) -> Table:
    """Show a line for each size and batch; `record` is that of a pass that ran, or None."""
    return Table(
        columns=(
            Column("image", lambda point: format_size(point.image_size), right=True),
            Column("sample", lambda point: format_size(point.sample_size), right=True),
            Column("batch", lambda point: "-" if point.fits is False else str(point.batch), right=True),
            Column.number("tokens", lambda point: point.tokens, drop=1),
            Column("MACs", lambda point: "fails" if point.error else format_si(point.macs), right=True),
            Column(
                "attention",
                lambda point: f"{point.macs_by_kind.attention / point.macs:.1%}" if point.macs_by_kind and point.macs else "",
                right=True,
                drop=4,
            ),
            Column.number("peak", lambda point: point.peak_activation_bytes, format_bytes),
            Column.number("total", lambda point: point.total_bytes, format_bytes),
            Column.number("with maps", lambda point: point.peak_activation_bytes_with_maps, format_bytes, drop=2),
            Column("largest map", lambda point: format_bytes(point.largest_map.bytes) if point.largest_map else "", right=True),
            Column("in", lambda point: point.largest_map.path if point.largest_map else "", path=True, drop=9),
        ),
        rows=points,
        above=[*header(model), *_pass(record)],
        below=list(_sweep_lines(points, record)),
        legend=_SWEEP_LEGEND if any(point.largest_map for point in points) else {},
    )


def _pass(record: Trace | None) -> Iterator[str]:
    if record is not None:
        run = record.run
        doubled = f"doubled for CFG ({run.cfg_reason})" if run.cfg else f"no CFG ({run.cfg_reason})"
        frames = f"; {run.frames} frames ({run.frames_from})" if run.frames is not None else ""
        yield f"batch:  {doubled}{frames}; {run.dtype} on {run.device}"
        yield from added_lines(run)


def _sweep_lines(points: Sequence[SweepPoint], record: Trace | None) -> Iterator[str]:
    """Yield what is the same at every size, which sizes fail and which return another one, and what the columns mean."""
    if record is not None:
        yield f"weights: {format_bytes(record.totals.weight_bytes)} in {record.run.dtype}, the same at every size"
        yield from (f"costs {line}" for line in attached_lines(record.run))
    failed = [point for point in points if point.error]
    if failed:
        yield f"{len(failed)} of {len(points)} fail:"
    for error, hint in dict.fromkeys((point.error, point.hint) for point in failed):
        yield f"  {error}" + (f" ({hint})" if hint else "")
    for point in points:
        size, shape = point.sample_size, point.output_shape
        if size and shape and tuple(shape[-len(size) :]) != tuple(size):
            yield f"the output of sample {format_size(size)} has another size: {format_shape(shape)}"
    if any(point.total_bytes for point in points):
        training = any(point.training for point in points)
        yield f"total: {'of a training step: weights, gradients, optimizer, activations' if training else 'weights + peak'}"
    if limit := next((point.fit_bytes for point in points if point.fit_bytes), None):
        yield f"batch: the largest whose total is within {format_bytes(limit)}; -: not even 1"
        yield "not included: CUDA context, workspaces, fragmentation; reserve 1 GiB or more"


def profile_table(trace: Trace, profile: Profile) -> Table:
    """Show each stage with its time, rate and memory; the whole pass below, and the cost of the hooks."""
    ways = [f"{profile.attention} attention", "each stage compiled" if profile.compiled else "not compiled"]
    ways += ["channels last"] if profile.channels_last else []
    return Table(
        columns=(
            Column("stage", lambda stage: stage.name, path=True),
            Column("class", lambda stage: stage.class_name, drop=9),
            Column("time", lambda stage: format_ms(stage.ms.median), right=True),
            Column("spread (ms)", lambda stage: _range(stage.ms), right=True, drop=8),
            Column("share", lambda stage: format_percent(stage.share), right=True),
            Column.number("MACs", lambda stage: stage.macs, format_si, drop=7),
            Column("TFLOP/s", lambda stage: format_rate(stage.tflops) if stage.macs else "", right=True, drop=5),
            Column("of matrix rate", lambda stage: format_percent(stage.matrix_share) if stage.macs else "", right=True, drop=6),
            Column("peak", lambda stage: format_bytes(stage.peak_bytes), right=True, drop=1),
            Column("estimate", lambda stage: format_bytes(stage.activation_bytes), right=True, drop=2),
        ),
        rows=profile.stages,
        above=[*header(trace.model, trace.run), f"chip:   {profile.device_name}; {', '.join(ways)}"],
        below=list(_profile_lines(profile)),
    )


def _profile_lines(profile: Profile) -> Iterator[str]:
    """Yield the pass beside the sum of its stages, its rate beside that of a matrix product, its memory beside the estimate; notes."""
    forward, hooked = profile.forward_ms, profile.hooked_forward_ms
    yield f"forward: {format_ms(forward.median)} ({_range(forward)} ms), without hooks"
    off = profile.stages_sum_ms / forward.median - 1
    more = "more" if off > 0 else "less"
    yield f"sum of the stages: {format_ms(profile.stages_sum_ms)}, {format_percent(abs(off))} {more} than the forward"
    yield f"forward with the hooks that time them: {format_ms(hooked.median)} ({_range(hooked)} ms)"
    yield f"  the hooks cost {'-' if profile.hooks_cost_ms < 0 else ''}{format_ms(abs(profile.hooks_cost_ms))}"
    yield f"{format_si(profile.macs, 'MACs')}: {format_rate(profile.tflops)} TFLOP/s achieved"
    yield (
        f"  {format_percent(profile.matrix_share)} of the {format_rate(profile.matrix_tflops)} TFLOP/s "
        f"that a large matrix product reached here in {profile.dtype}"
    )
    measured, estimate = profile.peak_activation_bytes or profile.peak_allocated_bytes, profile.estimated_peak_bytes
    beside = f"; estimated {format_bytes(estimate)} ({(estimate / measured - 1) * 100:+.1f} %)" if estimate and measured else ""
    yield f"peak of activations: measured {format_bytes(measured)}{beside}"
    if profile.peak_activation_bytes:
        yield f"  with the kernels' workspaces: {format_bytes(profile.peak_allocated_bytes)}"
    yield f"  allocated before: {format_bytes(profile.allocated_bytes)}, weights {format_bytes(profile.weight_bytes)}"
    yield (
        f"times are medians of {plural(profile.repeats, 'repeat')} after {plural(profile.warmup, 'warm-up')}, "
        "spreads their 10th to 90th percentile; weights and inputs are random numbers"
    )
    if profile.dtype == "float32":
        products, convolutions = ("on" if on else "off" for on in (profile.matmul_allow_tf32, profile.cudnn_allow_tf32))
        yield f"TF32 is {products} in matrix products (the matrix rate included) and {convolutions} in convolutions"
    if profile.compiled and profile.estimated_peak_bytes is not None:
        yield "estimates are of a pass that is not compiled"
    if profile.attention == "math":
        yield "the estimate of the whole includes materialized attention maps; stages have no such estimate"


def format_ms(ms: float) -> str:
    """Write a time in milliseconds, to four digits but to no more than a microsecond.

    >>> [format_ms(ms) for ms in (0.0214, 1.5, 23.456, 1234.56)]
    ['0.021 ms', '1.500 ms', '23.46 ms', '1235 ms']
    """
    return f"{_plain_ms(ms)} ms"


def format_rate(tflops: float) -> str:
    """Write a rate in 10^12 per second, to three digits.

    >>> [format_rate(rate) for rate in (0.01234, 5.0, 61.25, 755.4)]
    ['0.012', '5.00', '61.2', '755']
    """
    return f"{tflops:.{sum(tflops < limit for limit in (1, 10, 100))}f}"


def format_percent(part: float) -> str:
    """Write a part of a whole in percent.

    >>> format_percent(0.0523)
    '5.2 %'
    """
    return f"{part * 100:.1f} %"


def _plain_ms(ms: float) -> str:
    return f"{ms:.{sum(ms < limit for limit in (10, 100, 1000))}f}"


def _range(spread: Spread) -> str:
    return f"{_plain_ms(spread.low)} to {_plain_ms(spread.high)}"
