"""`maps`: what is in the file of a capture."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from unetinspect.capturing.captured import Captured, Captures
from unetinspect.units import format_shape, format_size, plural
from unetinspect.views.table import Column, Table


def _axes(seen: Captured) -> str:
    return f"({', '.join(seen.axes)})"


def _tokens(seen: Captured) -> str:
    if seen.tokens is None:
        return "all"
    first, last = seen.tokens[0], seen.tokens[-1]
    in_a_row = first < last and seen.tokens == tuple(range(first, last + 1))
    return f"{first}-{last}" if in_a_row else ", ".join(map(str, seen.tokens))


_COLUMNS = (
    Column("layer", lambda seen: seen.path, path=True),
    Column("kind", lambda seen: seen.kind),
    Column("source", lambda seen: seen.source, path=True, drop=4),
    Column("product", lambda seen: str(seen.product), right=True, drop=3),
    Column("execution", lambda seen: str(seen.execution), right=True, drop=2),
    Column("shape", lambda seen: format_shape(seen.tensor.shape)),
    Column("axes", _axes),
    Column("grid", lambda seen: format_size(seen.grid), drop=1),
    Column("tokens", _tokens, drop=5),
    Column("queries", lambda seen: "all" if seen.queries is None else str(len(seen.queries)), right=True, drop=6),
    Column("calls", lambda seen: str(len(seen.calls)), right=True, drop=7),
)
# What a column says where it has nothing to say.
_BLANK = ("", "-", "0", "all")


def captures_tables(captures: Captures, maps: Sequence[Captured]) -> list[Table]:
    """Show maps of a capture, all or a selection, and its features and skips; its tensors may be those of `read_capture`."""
    groups = {"maps": maps, "features": captures.features, "skips": captures.skips}
    shown = {name: group for name, group in groups.items() if group} or {"maps": ()}
    first, *more = (_table(group, title=name.capitalize() if len(shown) > 1 else "") for name, group in shown.items())
    calls = {call for group in shown.values() for seen in group for call in seen.calls}
    prompts = (f'prompt {number}: "{prompt.text}"' for number, prompt in enumerate(captures.prompts))
    selected = [f"{len(maps)} of {len(captures.maps)} maps shown"] if len(maps) < len(captures.maps) else []
    return [replace(first, above=[*prompts, f"captured: {plural(len(calls), 'UNet call')}"], below=[*selected, *first.below]), *more]


def _table(group: Sequence[Captured], *, title: str) -> Table:
    axes = {_axes(seen) for seen in group}
    return Table(
        columns=[
            column
            for column in _COLUMNS
            if any(column.show(seen) not in _BLANK for seen in group) and (column.header != "axes" or len(axes) > 1)
        ],
        rows=group,
        below=[f"axes: {axes.pop()}"] if len(axes) == 1 else [],
        group=lambda seen: seen.stage,
        title=title,
    )
