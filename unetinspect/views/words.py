"""Words that tables and drawings share: of a skip, of a place in the U, of a size."""

from __future__ import annotations

from collections.abc import Iterator

from unetinspect.record import Role, Run, Shape, Skip, SkipChange
from unetinspect.record.diff import SkipSide
from unetinspect.units import format_shape, format_size

ROLES: dict[Role, str] = {
    "embed": "embedding",
    "in": "input",
    "down": "down path",
    "mid": "bottom of the U",
    "up": "up path",
    "out": "output",
}
CHANGES = {"filter": "filtered in the Fourier domain", "cast": "cast to another dtype"}


def skip_label(skip: Skip) -> str:
    """Write what a skip carries: its channels, and the kinds of the changes on its way: "320 (sum, filter)"."""
    kinds = ", ".join(dict.fromkeys(change.kind for change, _ in skip_changes(skip)))
    return f"{skip.skip_channels} ({kinds})" if kinds else str(skip.skip_channels)


def skip_way(skip: Skip, run: Run) -> str:
    """Write the changes of a skip between its source and the concatenation: "+ NAME; filtered in the Fourier domain"."""
    return "; ".join(f"{text}{freeu_factor(skip, change, run)}" for change, text in skip_changes(skip))


def freeu_factor(skip: Skip, change: SkipChange, run: Run) -> str:
    """Write the factor with which FreeU filters a skip: ", s1 0.9"; "" of other changes."""
    place = freeu_place(skip.target_stage)
    if run.freeu is None or change.kind != "filter" or place is None:
        return ""
    return f", s{place + 1} {run.freeu[place + 2]:g}"


def freeu_place(stage: str) -> int | None:
    """Return which of its two factors of each kind FreeU has for an up block: 0, 1; None: it leaves the others as they are."""
    block = stage.rpartition(".")[2]
    return int(block) if block in ("0", "1") else None


def skip_changes(skip: Skip) -> Iterator[tuple[SkipChange, str]]:
    """Yield the changes of a skip in words, except sums of its own sources, which are listed as sources."""
    for change in skip.changes:
        added = [name for name in change.with_ if name not in skip.sources]
        if change.kind == "sum":
            text = f"+ {' + '.join(added)}" if added else ""
        elif change.kind == "reshape":
            text = f"reshaped to {format_shape(change.shape)}"
        elif change.kind == "slice":
            text = f"a part of it, {format_shape(change.shape)}"
        else:
            text = CHANGES.get(change.kind) or ", ".join(change.ops)
        if text:
            yield change, text


def skip_sum(skip: Skip, *, arrow: str = "->", with_concat: bool = True) -> str:
    """Write "1280 + 640 = 1920 -> 1280": hidden + skip = concat -> out; if they disagree, with what the first convolution takes.

    Without the concatenation it is "1280 + 640 -> 1280", unless the channels do not add up to it.
    """
    text = channel_sum(skip, arrow=arrow)
    if with_concat:
        return text if skip.adds_up else f"{text} (MISMATCH: its first convolution takes {skip.conv_channels})"
    fits = skip.hidden_channels + skip.skip_channels == skip.concat_channels
    return text.replace(f" = {skip.concat_channels}", "" if fits else f" = {skip.concat_channels} (MISMATCH)")


def channel_sum(skip: Skip | SkipSide, *, arrow: str = "->") -> str:
    """Write "1280 + 640 = 1920 -> 1280": hidden + skip = concat -> out, as observed."""
    out = "?" if skip.out_channels is None else skip.out_channels
    return f"{skip.hidden_channels} + {skip.skip_channels} = {skip.concat_channels} {arrow} {out}"


def with_call(path: str, call: int) -> str:
    """Write a path with the number of the module's execution, unless it is the first: "down_blocks.0 (call 1)"."""
    return f"{path} (call {call})" if call else path


def inside(path: str, stage: str) -> str:
    """Write a module's name inside its stage; the whole path if that is only a number.

    >>> inside("down_blocks.0.attentions.1", "down_blocks.0"), inside("up_blocks.2.0", "up_blocks.2")
    ('attentions.1', 'up_blocks.2.0')
    """
    name = path.removeprefix(f"{stage}.")
    return path if name.replace(".", "").isdigit() else name


def place_text(size: Shape | None, run: Run) -> str:
    """Write the size of a place in the U: "64x64", "length 1024", "256 tokens"; "" where it has none."""
    if size is None:
        return ""
    if len(size) > 1:
        return format_size(size)
    return f"length {size[0]}" if run.medium == "signal" else f"{size[0]} tokens"


def step_text(before: Shape | None, after: Shape | None, arrow: str = "->") -> str:
    """Write two shapes with an arrow between them, or one where they are the same.

    >>> step_text((2, 4), (2, 8)), step_text((2, 4), (2, 4))
    ('(2, 4) -> (2, 8)', '(2, 4)')
    """
    return format_shape(after) if before == after else f"{format_shape(before)} {arrow} {format_shape(after)}"
