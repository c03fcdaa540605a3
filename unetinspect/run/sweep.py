"""One UNet at many sizes and batches: what each costs, and which fail. Imports no torch; the UNet is built at most once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

from msgspec.structs import replace

from unetinspect.errors import ForwardError, UsageError
from unetinspect.record import LargestMap, Run, SweepPoint, Trace
from unetinspect.source.loaded import LoadedModel
from unetinspect.unets.request import Request, Size


def sweep(
    record: Callable[[Request, LoadedModel | None], Trace],
    request: Request,
    *,
    res: Sequence[Size] = (),
    latent: Sequence[Size] = (),
    batch: Sequence[int] = (1,),
    attached: LoadedModel | None = None,
    fit: int | None = None,
) -> tuple[tuple[SweepPoint, ...], Trace | None]:
    """`record` a pass at each size and each batch; returns the costs of each, and the record of the last that ran.

    `res` are sizes of the image, `latent` of the sample; the default is half, once, one and a half times and twice the UNet's own
    sample size. `request` has all other options of a pass. `fit`, in bytes, asks for the largest batch of each size that fits.

    Raises:
        UsageError: Every size is refused because of an option.
        UnetInspectError: The config cannot be built.
    """
    if not res and not latent:
        own = record(replace(request, batch=batch[0]), attached).run.sample_size
        around = [tuple(max(side * halves // 2, 1) for side in (own[0], own[-1])) for halves in (1, 2, 3, 4)]
        latent = list(dict.fromkeys(around))
    requests = [
        *(replace(request, res=size, batch=number) for size, number in product(res, batch)),
        *(replace(request, latent=size, batch=number) for size, number in product(latent, batch)),
    ]
    last: Trace | None = None
    refusals = {}

    def run(asked: Request) -> SweepPoint:
        nonlocal last
        try:
            last = record(asked, attached)
            return _cost(last)
        except (UsageError, ForwardError) as error:
            if isinstance(error, UsageError):
                refusals[asked] = error
            return _failed(asked, error, attached)

    points = [run(asked) if fit is None else _largest_batch(run, asked, fit) for asked in requests]
    if refusals.keys() >= set(requests):
        raise refusals[requests[0]]
    return tuple(points if last is None else [_with_both_sizes(point, last.run) for point in points]), last


def _largest_batch(run: Callable[[Request], SweepPoint], asked: Request, limit: int) -> SweepPoint:
    """Find the largest batch whose total is within `limit` bytes, by passes: that of the answer fits, and that of one more does not.

    The total grows with the batch, mostly on a line, so the next batch to try is where a line through two passes meets the limit.
    A batch of 1 is returned if even that does not fit.
    """

    def fits(point: SweepPoint) -> bool:
        return point.total_bytes is not None and point.total_bytes <= limit

    below = best = run(replace(asked, batch=1))
    if not fits(best):
        return replace(best, fit_bytes=limit, fits=None if best.error else False)
    above: SweepPoint | None = None
    batch = 2
    while above is None or above.batch - best.batch > 1:
        point = run(replace(asked, batch=batch))
        if fits(point):
            below, best = best, point
        else:
            above = point
        one, other = (below, best) if above is None else (best, above)
        gap, growth = other.batch - one.batch, (other.total_bytes or 0) - (one.total_bytes or 0)
        blindly = 2 * gap if above is None else gap // 2  # where the optimizer's step decides, or the larger batch failed
        more = (limit - (best.total_bytes or 0)) * gap // growth if growth > 0 else blindly
        batch = best.batch + max(more, 1)
        batch = batch if above is None else min(batch, above.batch - 1)
    return replace(best, fit_bytes=limit, fits=True)


def _cost(record: Trace) -> SweepPoint:
    largest = max(record.attentions, key=lambda layer: layer.map_bytes, default=None)
    return SweepPoint.of(
        record.run,
        record.totals,
        tokens=largest.query_shape[2] if largest else None,
        largest_map=LargestMap.of(largest, shape=largest.map_shape, bytes=largest.map_bytes) if largest else None,
        output_shape=record.output.shape,
    )


def _failed(asked: Request, error: UsageError | ForwardError, attached: LoadedModel | None) -> SweepPoint:
    return SweepPoint(
        image_size=asked.res,
        sample_size=asked.latent,
        batch=asked.batch,
        device=asked.device,
        dtype=asked.dtype or "float32",
        freeu=asked.freeu,
        plugged=attached.name if attached else None,
        error=error.message,
        hint=error.hint,
    )


def _with_both_sizes(point: SweepPoint, run: Run) -> SweepPoint:
    """Add to a point that failed the size that was not asked for, with as many sides as in a pass that ran."""
    if point.error is None:
        return point
    image, sample, factor = point.image_size, point.sample_size, run.vae_scale_factor
    if sample is not None:
        sample = sample[: len(run.sample_size)]
        if run.image_size is not None and factor is not None:
            image = tuple(int(side * factor) for side in sample)
    elif image is not None and isinstance(factor, int) and not any(side % factor for side in image):
        sample = tuple(side // factor for side in image)
    return replace(point, image_size=image, sample_size=sample, device=run.device)
