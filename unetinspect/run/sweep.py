"""One UNet at many sizes and batches: what each costs, and which fail. Knows no torch; the UNet is built at most once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from msgspec.structs import replace

from unetinspect.errors import ForwardError, UsageError
from unetinspect.record import LargestMap, Run, Shape, SweepPoint, Trace
from unetinspect.run.cache import Recorder
from unetinspect.source.loaded import LoadedModel
from unetinspect.unets.request import Request, Size


def sweep(
    recorder: Recorder,
    request: Request,
    *,
    res: Sequence[Size] = (),
    latent: Sequence[Size] = (),
    batch: Sequence[int] = (1,),
    plugged: LoadedModel | None = None,
) -> tuple[tuple[SweepPoint, ...], Trace | None]:
    """Run a pass at each size and each batch; returns what each cost, and the record of the last that ran.

    `res` are sizes of the image, `latent` of the sample; without either, half, once, one and a half times and twice the
    sample that the UNet has of its own. `request` is everything else that decides a pass.

    Raises:
        UsageError: No size at all can be run, and what the user asked for is the reason.
        UnetInspectError: The config cannot be built.
    """
    if not res and not latent:
        latent = _around(recorder.record(replace(request, batch=batch[0]), plugged).run.sample_size)
    requests = [
        *(replace(request, res=size, batch=number) for size, number in product(res, batch)),
        *(replace(request, latent=size, batch=number) for size, number in product(latent, batch)),
    ]
    points, last, refusals = [], None, []
    for asked in requests:
        try:
            last = recorder.record(asked, plugged)
            points.append(_cost(last))
        except (UsageError, ForwardError) as error:
            refusals += [error] if isinstance(error, UsageError) else []
            points.append(_failed(asked, error, plugged))
    if len(refusals) == len(requests):
        raise refusals[0]
    return tuple(points if last is None else [_with_both_sizes(point, last.run) for point in points]), last


def _around(size: Shape) -> list[Size]:
    """Return half, once, one and a half times and twice a sample size."""
    whole = [tuple(max(side * halves // 2, 1) for side in (size[0], size[-1])) for halves in (1, 2, 3, 4)]
    return list(dict.fromkeys(whole))


def _cost(record: Trace) -> SweepPoint:
    largest = max(record.attentions, key=lambda layer: layer.map_bytes, default=None)
    return SweepPoint.of(
        record.run,
        record.totals,
        tokens=largest.query_shape[2] if largest else None,
        largest_map=LargestMap.of(largest, shape=largest.map_shape, bytes=largest.map_bytes) if largest else None,
        output_shape=record.output.shape,
    )


def _failed(asked: Request, error: UsageError | ForwardError, plugged: LoadedModel | None) -> SweepPoint:
    return SweepPoint(
        image_size=asked.res,
        sample_size=asked.latent,
        batch=asked.batch,
        device=asked.device,
        dtype=asked.dtype or "float32",
        freeu=asked.freeu,
        plugged=plugged.name if plugged else None,
        error=error.message,
        hint=error.hint,
    )


def _with_both_sizes(point: SweepPoint, run: Run) -> SweepPoint:
    """Give a point that failed the size that was not asked for, and a signal its one length, as a pass that ran shows them."""
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
