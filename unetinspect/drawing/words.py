"""The words that every text form of a drawing shares: its links, and what a box says of itself."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from unetinspect.drawing.outline import Box, Outline, mark_text, sum_text
from unetinspect.record import Run, Skip
from unetinspect.units import plural, visible
from unetinspect.views.words import inside, place_text, skip_label, step_text


class Link(Struct, frozen=True):
    """A skip, from the module that made it to one that takes it.

    Attributes:
        number: Its place among the links of the drawing, from 0.
        skip: The first time that it was taken there.
        source: The box that made it, by name.
        target: The box that takes it, by name.
        times: How often its target ran and took it.
    """

    number: int
    skip: Skip
    source: str
    target: str
    times: int

    @property
    def channels(self) -> str:
        """What to write on its line: "320 (sum, filter)"."""
        return skip_label(self.skip)

    def sum(self, arrow: str) -> str:
        """Write "640 + 320 -> 320": what its target makes of the channels from below and those of the skip."""
        return f"{sum_text(self.skip, arrow=arrow)}{self._times}"

    @property
    def _times(self) -> str:
        return "" if self.times == 1 else f", {self.times} times"


def links_of(outline: Outline) -> tuple[Link, ...]:
    """Return the links in the order in which their skips are first taken; one that is taken again in the same way is one."""
    alike: dict[tuple[object, ...], list[Skip]] = {}
    for skip in outline.trace.skips:
        alike.setdefault((skip.index, skip.source, skip.target, sum_text(skip)), []).append(skip)
    return tuple(
        Link(number, skips[0], outline.box_of(skips[0].source_stage).name, outline.box_of(skips[0].target_stage).name, len(skips))
        for number, skips in enumerate(alike.values())
    )


def below(path: str, stage: str) -> str:
    """Write where a module stands in its stage; "output" for the stage itself, the whole path for what has but a number.

    >>> below("down_blocks.0.attentions.1", "down_blocks.0"), below("conv_in", "conv_in"), below("up_blocks.2.0", "up_blocks.2")
    ('attentions.1', 'output', 'up_blocks.2.0')
    """
    return "output" if path == stage else inside(path, stage)


def channels_text(box: Box) -> str:
    """Write "320 channels"; "" where they are not known."""
    return "" if box.channels is None else plural(box.channels, "channel")


def mark_texts(box: Box) -> list[str]:
    """Write the attention layers of a box, those that are alike together: "2 self 4096x4096"."""
    return [mark_text(mark) for mark in box.marks]


def way_text(box: Box, arrow: str) -> str:
    """Write what goes in and what comes out: "(2, 320, 64, 64) -> (2, 320, 32, 32)", once where they are the same."""
    return step_text(box.in_shape, box.out_shape, arrow)


def shown(text: str, *, unicode: bool) -> str:
    r"""Write control characters, and without Unicode all but ASCII, as Python writes them.

    >>> shown("\x1b[31mü", unicode=False)
    '\\x1b[31m\\xfc'
    """
    safe = visible(text)
    return safe if unicode else safe.encode("ascii", "backslashreplace").decode("ascii")


def words_of(box: Box, run: Run, *, marks: bool = True) -> Iterator[str]:
    """Yield the lines of a box that stands alone: its size and channels, then its attention layers where `marks` asks."""
    sizes = ", ".join(text for text in (place_text(box.size, run), channels_text(box)) if text)
    if sizes:
        yield sizes
    yield from mark_texts(box) if marks else ()
