"""`profile`: what a device took for a pass, stage by stage, beside what the trace estimates."""

from __future__ import annotations

from collections.abc import Iterator

from unetinspect.record import Profile, Spread, Trace
from unetinspect.units import format_bytes, format_si, plural
from unetinspect.views.header import header
from unetinspect.views.table import Column, Table


def profile_table(trace: Trace, profile: Profile) -> Table:
    """Show each stage with its time, rate and memory; the whole pass below, and what the hooks did to it."""
    return Table(
        columns=(
            Column("stage", lambda stage: stage.name, path=True),
            Column("class", lambda stage: stage.class_name, drop=9),
            Column("time", lambda stage: format_ms(stage.ms.median), right=True),
            Column("spread (ms)", lambda stage: _range(stage.ms), right=True, drop=8),
            Column("share", lambda stage: format_percent(stage.share), right=True),
            Column("MACs", lambda stage: format_si(stage.macs) if stage.macs else "", right=True, drop=7),
            Column("TFLOP/s", lambda stage: format_rate(stage.tflops) if stage.macs else "", right=True, drop=5),
            Column("of matrix rate", lambda stage: format_percent(stage.matrix_share) if stage.macs else "", right=True, drop=6),
            Column("peak", lambda stage: format_bytes(stage.peak_bytes), right=True, drop=1),
            Column("estimate", lambda stage: format_bytes(stage.activation_bytes), right=True, drop=2),
        ),
        rows=profile.stages,
        above=[*header(trace.model, trace.run), f"chip:   {profile.device_name}; {', '.join(_ways(profile))}"],
        below=[*time_lines(profile), *rate_lines(profile), *memory_lines(profile), *_notes(profile)],
    )


def time_lines(profile: Profile) -> Iterator[str]:
    """Yield the pass beside the sum of its stages, and what the hooks cost."""
    forward, hooked = profile.forward_ms, profile.hooked_forward_ms
    yield f"forward: {format_ms(forward.median)} ({_range(forward)} ms), without hooks"
    off = profile.stages_sum_ms / forward.median - 1
    more = "more" if off > 0 else "less"
    yield f"sum of the stages: {format_ms(profile.stages_sum_ms)}, {format_percent(abs(off))} {more} than the forward"
    yield f"forward with the hooks that time them: {format_ms(hooked.median)} ({_range(hooked)} ms)"
    yield f"  the hooks cost {_signed_ms(profile.hooks_cost_ms)}"


def rate_lines(profile: Profile) -> Iterator[str]:
    """Yield the rate of the whole pass, beside that of a matrix product."""
    yield f"{format_si(profile.macs, 'MACs')}: {format_rate(profile.tflops)} TFLOP/s achieved"
    yield (
        f"  {format_percent(profile.matrix_share)} of the {format_rate(profile.matrix_tflops)} TFLOP/s "
        f"that a large matrix product reached here in {profile.dtype}"
    )


def memory_lines(profile: Profile) -> Iterator[str]:
    """Yield the measured peak beside the estimate, and what was allocated before."""
    if profile.peak_allocated_bytes is None:
        return
    measured, estimate = profile.peak_activation_bytes or profile.peak_allocated_bytes, profile.estimated_peak_bytes
    beside = f"; estimated {format_bytes(estimate)} ({(estimate / measured - 1) * 100:+.1f} %)" if estimate and measured else ""
    yield f"peak of activations: measured {format_bytes(measured)}{beside}"
    if profile.peak_activation_bytes:
        yield f"  with what kernels use while they run: {format_bytes(profile.peak_allocated_bytes)}"
    yield f"  allocated before: {format_bytes(profile.allocated_bytes)}, weights {format_bytes(profile.weight_bytes)}"


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
    return f"{tflops:.{3 if tflops < 1 else 2 if tflops < 10 else 1 if tflops < 100 else 0}f}"


def format_percent(part: float) -> str:
    """Write a part of a whole in percent.

    >>> format_percent(0.0523)
    '5.2 %'
    """
    return f"{part * 100:.1f} %"


def _plain_ms(ms: float) -> str:
    return f"{ms:.{3 if ms < 10 else 2 if ms < 100 else 1 if ms < 1000 else 0}f}"


def _signed_ms(ms: float) -> str:
    return f"{'-' if ms < 0 else ''}{format_ms(abs(ms))}"


def _range(spread: Spread) -> str:
    return f"{_plain_ms(spread.low)} to {_plain_ms(spread.high)}"


def _ways(profile: Profile) -> Iterator[str]:
    yield f"{profile.attention} attention"
    yield "each stage compiled" if profile.compiled else "not compiled"
    if profile.channels_last:
        yield "channels last"


def _notes(profile: Profile) -> Iterator[str]:
    yield (
        f"times are medians of {plural(profile.repeats, 'repeat')} after {plural(profile.warmup, 'warm-up')}, "
        "spreads their 10th to 90th percentile; weights and inputs are random numbers"
    )
    if profile.dtype == "float32":
        products, convolutions = ("on" if on else "off" for on in (profile.matmul_allow_tf32, profile.cudnn_allow_tf32))
        yield f"TF32 is {products} in matrix products, also in the one whose rate is compared with, and {convolutions} in convolutions"
    if profile.compiled and profile.estimated_peak_bytes is not None:
        yield "estimates are of a pass that is not compiled"
    if profile.attention == "math":
        yield "the estimate of the whole holds attention maps; stages have no such estimate"
