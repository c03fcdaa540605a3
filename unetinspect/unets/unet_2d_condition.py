"""The name under which `unetinspect.check` imports `text_time`, until it takes `conditional.text_time_widths`."""

from __future__ import annotations

from unetinspect.unets import conditional
from unetinspect.unets.base import Config, InputSpec


def text_time(config: Config, batch: int) -> list[InputSpec]:
    """Return SDXL's pooled text and size ids."""
    return [row.spec({**config, **row.lengths, "batch": batch}) for row in conditional.text_time(config)]
