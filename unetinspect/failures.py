"""What a failed forward pass says to its user: where, and which sizes would have run. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from msgspec.structs import replace
from torch import nn

from unetinspect.build import first_line, make_inputs, quiet_diffusers
from unetinspect.errors import ForwardError, UnetInspectError
from unetinspect.observe import ForwardRaisedError
from unetinspect.plan import Work
from unetinspect.request import Size
from unetinspect.resolve import ResolvedConfig
from unetinspect.sizes import written_size


class Runner(NamedTuple):
    """A UNet that is ready to run: how to call it, and what to give it."""

    unet: nn.Module
    call: Callable[[Mapping[str, Any]], Any]
    device: torch.device
    dtype: torch.dtype


def explain_failure(failure: ForwardRaisedError, name: str, config: ResolvedConfig, work: Work, runner: Runner) -> ForwardError:
    """Say where the pass failed; and, where other sizes run, that it was the size, and which do."""
    where = f" in {failure.path}" if failure.path else ""
    size = written_size(work.sizes.sample_size)
    message = f"the forward pass of {name} at sample {size} failed{where}: {first_line(failure.error)}"
    if runner.device.type != "meta":
        return ForwardError(message, hint="try --device meta, where nothing is allocated")
    sizes = _nearest_sizes(partial(_runs, config, work, runner), work.builder.halvings(config.values), work.sizes.sample_size)
    if not sizes:
        return ForwardError(message, hint="`unetinspect inputs MODEL` shows what the forward pass was given")
    factor = work.sizes.vae_scale.factor if work.sizes.sample_size_from == "--res" else None
    shown = [f"--res {_scaled(size, factor)}" if isinstance(factor, int) else f"--latent {written_size(size)}" for size in sizes]
    return ForwardError(message, hint=f"the nearest sizes that run: {' or '.join(shown)}")


def _scaled(size: Size, factor: int) -> str:
    return written_size([side * factor for side in size])


def _nearest_sizes(runs: Callable[[Size], bool], halvings: int, size: Size) -> list[Size]:
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


def _runs(config: ResolvedConfig, work: Work, runner: Runner, size: Size) -> bool:
    """Tell whether the UNet runs at another size, by running it."""
    plan = replace(work.plan, size=size)
    try:
        inputs = make_inputs(work.builder.inputs(config.values, plan), device=runner.device, dtype=runner.dtype)
        with torch.no_grad(), quiet_diffusers():
            runner.call(inputs)
    except UnetInspectError:
        return False
    except Exception:  # whatever it raises, it does not run
        return False
    return True
