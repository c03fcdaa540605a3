"""Sizes that do not run, or that come back as another: where, why, and which sizes would do. Imports torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from traceback import walk_tb
from typing import Any, Literal, NamedTuple

import torch
from msgspec.structs import replace
from torch import nn

from unetinspect.errors import ForwardError
from unetinspect.observe import ForwardRaisedError
from unetinspect.record import NearSize, SizeCheck
from unetinspect.run.build import first_line, make_inputs, named_tensors, quiet_diffusers
from unetinspect.run.plan import Work
from unetinspect.run.resolve import ResolvedConfig
from unetinspect.unets import Plan
from unetinspect.unets.request import Size
from unetinspect.unets.sizes import image_of, returned_size, written_size
from unetinspect.units import format_shape

# A UNet of a thousand modules runs in about a second: what takes longer gets no sizes named rather than minutes of search. Seconds of
# this process alone: what else the machine does must not decide which sizes are named.
_SEARCH_SECONDS = 10.0
_SIZES_SECONDS = 3.0


class Runner(NamedTuple):
    """A UNet that is ready to run: how to call it, and what to give it."""

    unet: nn.Module
    call: Callable[[Mapping[str, Any]], Any]
    device: torch.device
    dtype: torch.dtype


class SizeError(ForwardError):
    """Raised when a pass failed; `size` is what was found out of it."""

    def __init__(self, message: str, *, size: SizeCheck, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.size = size


def explain_failure(failure: ForwardRaisedError, name: str, config: ResolvedConfig, work: Work, runner: Runner) -> SizeError:
    """Say where the pass failed; and, where other sizes run, that it was the size, and which do."""
    where = f" in {failure.path}" if failure.path else ""
    sizes = work.sizes
    message = f"the forward pass of {name} at sample {written_size(sizes.sample_size)} failed{where}: {first_line(failure.error)}"
    hint = "try --device meta, where nothing is allocated"
    if isinstance(failure.error, torch.OutOfMemoryError):
        message = f"{name} at sample {written_size(sizes.sample_size)} does not fit the memory of {runner.device}"
        hint = "try a smaller --res or --batch, or --device meta, where nothing is allocated"
    is_meta = runner.device.type == "meta"
    nearest = nearest_sizes(config, work, runner, failed=failure.error) if is_meta else ()
    size = SizeCheck(
        image_size=sizes.image_size,
        sample_size=sizes.sample_size,
        runs=False,
        failed_in=failure.path or None,
        shapes=tuple(operand.shape for operand in failure.operands),
        reason=_reason(failure),
        nearest=nearest,
    )
    if not is_meta:
        return SizeError(message, size=size, hint=hint)
    if not nearest:
        return SizeError(message, size=size, hint="`unetinspect inputs MODEL` shows what the forward pass was given")
    in_pixels = sizes.sample_size_from == "--res" and isinstance(sizes.vae_scale.factor, int)
    which = "the nearest size that runs" if len(nearest) == 1 else "the nearest sizes that run"
    return SizeError(message, size=size, hint=f"{which}: {' or '.join(_typed(nearest, in_pixels=in_pixels))}")


def reason_of(error: BaseException) -> tuple[object, ...]:
    """Return what two errors for one reason have in common, whatever they say: the type, and the lines of diffusers."""
    places = places_in(error)
    return type(error), places, "" if places else str(error)


def places_in(error: BaseException) -> list[tuple[str, int]]:
    """List the functions of diffusers that an error came through, outermost first, and their lines."""
    frames = [(frame.f_code.co_qualname, line, str(frame.f_globals.get("__name__"))) for frame, line in walk_tb(error.__traceback__)]
    return [(function, line) for function, line, module in frames if module.startswith("diffusers.")]


def nearest_sizes(config: ResolvedConfig, work: Work, runner: Runner, *, failed: BaseException | None = None) -> tuple[NearSize, ...]:
    """Find the nearest smaller and larger sizes that run and return their own size, by running them, as long as there is time.

    With `failed`, why the pass failed at its own size: where there are none, those that run and return another; and none at all
    where other sizes fail for the same reason, which is then no size.
    """
    give_up = time.process_time() + _SEARCH_SECONDS
    tried: dict[Size, Size | BaseException | None] = {}
    try:
        halvings, own = work.builder.halvings(config.values), work.sizes.sample_size
    except Exception:  # of a config that makes no sense, nothing follows
        return ()

    def returned(size: Size) -> Size | BaseException | None:
        if size not in tried:
            tried[size] = (
                TimeoutError() if time.process_time() > give_up else _returned(config, work, runner, replace(work.plan, size=size))
            )
        return tried[size]

    def fails_alike(size: Size) -> bool:
        outcome = returned(size)
        return isinstance(outcome, BaseException) and failed is not None and reason_of(outcome) == reason_of(failed)

    step = 2**halvings
    if all(map(fails_alike, (tuple((side // step + 1) * step for side in own), tuple(side + 1 for side in own)))):
        return ()
    found = _nearest(lambda size: returned(size) in (None, size), halvings, own)
    if not found and failed is not None:
        found = _nearest(lambda size: not isinstance(returned(size), BaseException), halvings, own)
    return tuple(NearSize(image_size=image_of(size, work.sizes.vae_scale.factor), sample_size=size) for size in found)


def most_that_run(config: ResolvedConfig, work: Work, runner: Runner, option: Literal["frames", "tokens"]) -> int:
    """Find the most frames, or tokens, up to the number asked for with which a pass runs, by halving the distance; 0: not even one does."""

    def fails(number: int) -> bool:
        return isinstance(_returned(config, work, runner, replace(work.plan, **{option: number})), BaseException)

    if fails(1):
        return 0
    least, most = 1, getattr(work.plan, option)
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if fails(middle) else (middle, most)
    return least


def works_to_try(config: ResolvedConfig, work: Work) -> Iterator[Work]:
    """Yield the work and, where nobody asks for a size, the same at the other sizes of its builder: the first that runs is meant."""
    yield work
    give_up = time.process_time() + _SIZES_SECONDS
    if work.request.latent is None and work.request.res is None:
        for size, said_by in islice(work.builder.sizes_to_try(config.values), 1, None):
            if time.process_time() > give_up:
                break
            plan = replace(work.plan, size=size)
            sizes = replace(work.sizes, sample_size=size, sample_size_from=said_by)
            yield replace(work, sizes=sizes, plan=plan, specs=tuple(work.builder.inputs(config.values, plan)))


def _typed(sizes: Iterable[NearSize], *, in_pixels: bool) -> list[str]:
    """Write sizes as the options take them."""
    if in_pixels:
        return [f"--res {written_size(size.image_size)}" for size in sizes if size.image_size]
    return [f"--latent {written_size(size.sample_size)}" for size in sizes if size.sample_size]


def _reason(failure: ForwardRaisedError) -> str:
    """Say in a sentence what met what."""
    error = first_line(failure.error)
    if failure.operation == "cat" and len(failure.operands) == 2:
        hidden, skip = failure.operands
        return (
            f"hidden_states are {format_shape(hidden.shape)}, and the skip of {skip.source or 'the way down'} that they are joined with"
            f" is {format_shape(skip.shape)}: an odd side is rounded when halved, so doubling it gives a different size"
        )
    return error


def _nearest(runs: Callable[[Size], bool], halvings: int, size: Size) -> list[Size]:
    """Find the nearest smaller and larger sample sizes that run, by running them.

    A U halves its sample a few times, so that multiples of ever higher powers of 2 are tried; before them the next size
    of all, since a convolution that makes the sample larger or smaller by one shifts those that fit.
    """
    steps = [2**power for power in range(1, halvings + 1)]
    below = [tuple(max(side - 1, 1) for side in size), *(tuple(max(side // step, 1) * step for side in size) for step in steps)]
    above = [tuple(side + 1 for side in size), *(tuple(-(-side // step) * step for side in size) for step in steps)]
    found: list[Size] = []
    for candidates in (below, above):
        untried = [candidate for candidate in dict.fromkeys(candidates) if candidate != size]
        found += [candidate for candidate in [next(filter(runs, untried), None)] if candidate is not None]
    return list(dict.fromkeys(found))


def _returned(config: ResolvedConfig, work: Work, runner: Runner, plan: Plan) -> Size | BaseException | None:
    """Run the UNet by another plan; returns the size of what comes back, None where that is nothing of that kind, or what was raised."""
    try:
        inputs = make_inputs(work.builder.inputs(config.values, plan), device=runner.device, dtype=runner.dtype)
        with torch.no_grad(), quiet_diffusers():
            returned = runner.call(inputs)
    except Exception as error:  # whatever it raises, it does not run
        return error
    name, tensor = next(iter(named_tensors(returned)), ("", torch.empty(0)))
    return returned_size(name, tuple(tensor.shape), plan.size)
