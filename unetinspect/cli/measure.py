"""The commands that measure a UNet: sweep."""

from __future__ import annotations

from collections.abc import Callable

from unetinspect.cli.options import SweepOptions, takes
from unetinspect.cli.output import Output
from unetinspect.cli.run import swept
from unetinspect.record import SCHEMA, Envelope
from unetinspect.views.sweep import sweep_table


@takes(SweepOptions)
def sweep(options: SweepOptions) -> None:
    """The same UNet at many sizes and batches: MACs, memory, the largest map, and which sizes fail.

    Example: unetinspect sweep sd15 --res 256,512,768,1024 --batch 1,2
    """
    output = Output(options)
    model, points, record = swept(options, output)
    output.show(sweep_table(model, points, record), Envelope(schema=SCHEMA, model=model, sweep=points))


COMMANDS: tuple[Callable[..., None], ...] = (sweep,)
