"""Sizes that do not run, or whose output has another size: where, why, and the nearest sizes that do run. Imports torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, takewhile
from math import ceil
from traceback import walk_tb
from typing import Any, Literal, NamedTuple

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from unetinspect.errors import ForwardError
from unetinspect.observe import ForwardRaisedError
from unetinspect.observe.meta_kernels import Operations
from unetinspect.record import NearSize, SizeCheck
from unetinspect.run.build import first_line, is_overflow, make_inputs, named_tensors, quiet_diffusers
from unetinspect.run.resolve import PlannedPass, ResolvedConfig
from unetinspect.source.loaded import LoadedModel
from unetinspect.unets import Plan
from unetinspect.unets.request import Size
from unetinspect.unets.sizes import image_of, returned_size, written_size
from unetinspect.units import format_shape

# A UNet of a thousand modules runs in about a second: no sizes are named for one that takes longer. Seconds of this process alone:
# what else the machine does must not decide which sizes are named.
_SEARCH_SECONDS = 10.0
_SIZES_SECONDS = 3.0


class Runner(NamedTuple):
    """A UNet that is ready to run: its model and config, how to call it, what is trained, and the device and dtype of its inputs."""

    model: LoadedModel
    config: ResolvedConfig
    unet: nn.Module
    call: Callable[[Mapping[str, Any]], Any]
    trained: Sequence[Tensor]
    device: torch.device
    dtype: torch.dtype


class SizeError(ForwardError):
    """Raised when a pass failed; `size` is what was found out about it."""

    def __init__(self, message: str, *, size: SizeCheck, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.size = size


def explain_failure(failure: ForwardRaisedError, planned: PlannedPass, runner: Runner) -> SizeError:
    """Say where the pass failed and, where other sizes run, which: then the size is the reason."""
    name, run = runner.model.name, planned.run
    size = f"{name} at sample {written_size(run.sample_size)}"
    is_meta = runner.device.type == "meta"
    too_large = is_overflow(failure.error)
    nearest = nearest_sizes(planned, runner, failed=failure.error) if is_meta and not too_large else ()
    message = f"the forward pass of {size} failed{f' in {failure.path}' if failure.path else ''}: {_reason(failure)}"
    hint = "try --device meta, where nothing is allocated"
    if isinstance(failure.error, torch.OutOfMemoryError):
        message = f"{size} does not fit the memory of {runner.device}"
        hint = "try a smaller --res or --batch, or --device meta, where nothing is allocated"
    elif too_large:
        message = f"{size} is too large: a tensor has more bytes than torch can count"
        hint = "try a smaller --res, --latent or --batch"
    elif nearest:
        in_pixels = run.sample_size_from == "--res" and isinstance(run.vae_scale_factor, int)
        which = "the nearest sizes that run" if len(nearest) > 1 else "the nearest size that runs"
        option, side = ("--res", "image_size") if in_pixels else ("--latent", "sample_size")
        hint = f"{which}: {' or '.join(f'{option} {written_size(getattr(size, side))}' for size in nearest)}"
    elif is_meta:
        hint = "`unetinspect inputs MODEL` shows the inputs of the forward pass"
    check = SizeCheck(
        image_size=run.image_size,
        sample_size=run.sample_size,
        runs=False,
        failed_in=failure.path or None,
        shapes=tuple(operand.shape for operand in failure.operands),
        reason=_reason(failure),
        nearest=nearest,
    )
    return SizeError(message, size=check, hint=hint)


def _reason(failure: ForwardRaisedError) -> str:
    """Say which shapes do not match, or what was raised."""
    if failure.operation == "cat" and len(failure.operands) == 2:
        hidden, skip = failure.operands
        is_rounded = all(abs(side - other) <= 1 for side, other in zip(hidden.shape[2:], skip.shape[2:], strict=False))
        why = ": an odd side is rounded when halved, so doubling it gives a different size" if is_rounded else ""
        source = skip.source or "the down path"
        return f"hidden_states are {format_shape(hidden.shape)}, but the skip from {source} is {format_shape(skip.shape)}{why}"
    return first_line(failure.error)


def reason_of(error: BaseException) -> tuple[object, ...]:
    """Return what two errors with the same cause have in common: the type, and the lines of diffusers' code that raised."""
    places = places_in(error)
    return type(error), places, "" if places else str(error)


def places_in(error: BaseException) -> list[tuple[str, int]]:
    """List the functions of diffusers in a traceback, outermost first, with the line in each."""
    frames = [(frame.f_code.co_qualname, line, str(frame.f_globals.get("__name__"))) for frame, line in walk_tb(error.__traceback__)]
    return [(function, line) for function, line, module in frames if module.startswith("diffusers.")]


def nearest_sizes(planned: PlannedPass, runner: Runner, *, failed: BaseException | None = None) -> tuple[NearSize, ...]:
    """Find the nearest smaller and larger sizes that run and return their own size, by running them, as long as there is time.

    `failed` is what the pass raised at its own size. Where other sizes fail for the same reason, it is not the size, and none is
    returned. Where no output has the size of its sample, but the size of the config runs, those that run are returned.
    """
    give_up = time.process_time() + _SEARCH_SECONDS
    tried: dict[Size, Size | BaseException | None] = {}
    values = runner.config.values
    try:
        halvings, own = planned.builder.halvings(values), planned.run.sample_size
    except Exception:  # the config makes no sense
        return ()

    def returned(size: Size) -> Size | BaseException | None:
        if size not in tried:
            is_late = time.process_time() > give_up
            tried[size] = TimeoutError() if is_late else _returned(planned, runner, replace(planned.plan, size=size))
        return tried[size]

    def runs(size: Size) -> bool:
        return not isinstance(returned(size), BaseException)

    def fails_alike(size: Size) -> bool:
        outcome = returned(size)
        return isinstance(outcome, BaseException) and failed is not None and reason_of(outcome) == reason_of(failed)

    step = 2**halvings
    if all(map(fails_alike, (tuple((side // step + 1) * step for side in own), tuple(side + 1 for side in own)))):
        return ()
    found = _nearest(lambda size: returned(size) in (None, size), halvings, own)
    if not found and failed is not None and any(runs(size) for size, _ in planned.builder.sizes_to_try(values)):
        found = _nearest(runs, halvings, own)
    return tuple(NearSize(image_size=image_of(size, planned.run.vae_scale_factor), sample_size=size) for size in found)


def _nearest(runs: Callable[[Size], bool], halvings: int, own: Size) -> list[Size]:
    """Find the nearest smaller and larger sample sizes that run, by running them.

    A UNet halves its sample a few times, so multiples of powers of 2 are tried: sides are rounded to them or, where all are multiples
    already, one step away. The next size of all comes first: a convolution with an even kernel shifts the sizes that run.
    """

    def moved(way: int, step: int) -> Size:
        rounded = tuple((ceil(side / step) if way > 0 else side // step) * step for side in own)
        return tuple(side + way * step for side in own) if rounded == own else rounded

    steps = [2**power for power in range(1, halvings + 1)]
    # From the farthest on: where one fails, so do those nearer, of which a deep UNet has too many to try.
    above = list(takewhile(runs, (moved(1, step) for step in reversed(steps))))[-1:]
    above = [moved(1, 1)] if runs(moved(1, 1)) else above
    below = (size for size in (moved(-1, step) for step in (1, *steps)) if min(size) > 0)
    return list(dict.fromkeys((*islice(filter(runs, below), 1), *above)))


def most_that_run(planned: PlannedPass, runner: Runner, option: Literal["frames", "tokens"]) -> int:
    """Find the most frames, or tokens, up to the number asked for with which a pass runs, by bisection; 0: not even one does."""

    def fails(number: int) -> bool:
        return isinstance(_returned(planned, runner, replace(planned.plan, **{option: number})), BaseException)

    if fails(1):
        return 0
    least, most = 1, getattr(planned.plan, option)
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if fails(middle) else (middle, most)
    return least


def _returned(planned: PlannedPass, runner: Runner, plan: Plan) -> Size | BaseException | None:
    """Run the UNet by another plan; returns the size of the output, None where it has no such size, or what was raised."""
    try:
        inputs = make_inputs(planned.builder.inputs(runner.config.values, plan), device=runner.device, dtype=runner.dtype)
        with torch.no_grad(), quiet_diffusers(), Operations():
            returned = runner.call(inputs)
    except Exception as error:  # whatever it raises, it does not run
        return error
    name, tensor = next(iter(named_tensors(returned)), ("", torch.empty(0)))
    return returned_size(name, tuple(tensor.shape), plan.size)


def passes_to_try(values: Mapping[str, Any], planned: PlannedPass) -> Iterator[PlannedPass]:
    """Yield the pass and, where no size is asked for, the same pass at the other sizes of its builder: the first that runs counts."""
    yield planned
    give_up = time.process_time() + _SIZES_SECONDS
    if planned.request.latent is None and planned.request.res is None:
        for size, said_by in islice(planned.builder.sizes_to_try(values), 1, None):
            if time.process_time() > give_up:
                break
            moved = replace(planned, run=replace(planned.run, sample_size=size, sample_size_from=said_by, inputs=()))
            yield moved.with_inputs(moved.builder.inputs(values, moved.plan))
