"""What differs between two UNets as flat rows, for CSV; and the totals by the names that people know them by."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from unetinspect.record.diff import Diff, Quantity
from unetinspect.units import format_bytes, format_count, format_shape, format_si

# What each row says; the header of the CSV.
FIELDS = ("section", "change", "name_a", "name_b", "differs", "a", "b", "difference")


class Total(NamedTuple):
    """One of the totals: its field in `totals`, what people call it, its two numbers, and how they are written."""

    key: str
    name: str
    quantity: Quantity
    show: Callable[[int | None], str]


def all_totals(diff: Diff) -> list[Total]:
    """Return every total, in the order in which they are shown; "..." in front is a part of the one above."""
    totals = diff.totals
    kinds = [(kind, number) for kind, number in totals.attention.items() if kind not in ("total", "without_processor")]
    return [
        Total("params", "params", totals.params, format_count),
        Total("weight_bytes", "weights", totals.weight_bytes, format_bytes),
        Total("macs", "MACs", totals.macs, format_si),
        Total("peak_activation_bytes", "peak activations", totals.peak_activation_bytes, format_bytes),
        Total("peak_activation_bytes_with_maps", "... with attention maps", totals.peak_activation_bytes_with_maps, format_bytes),
        Total("resnets", "resnets", totals.resnets, format_count),
        Total("transformer_blocks", "transformer blocks", totals.transformer_blocks, format_count),
        Total("attention.total", "attention layers", totals.attention["total"], format_count),
        *(Total(f"attention.{kind}", f"... {kind}", number, format_count) for kind, number in kinds),
        Total("attention.without_processor", "... without a processor", totals.attention["without_processor"], format_count),
        Total("skips_consumed", "skips", totals.skips_consumed, format_count),
    ]


def diff_records(diff: Diff) -> Iterator[dict[str, Any]]:
    """Yield each thing that differs as a flat record.

    What the values are depends on the section: of a config key its value, of a total the number, of a stage or a layer its
    parameters, of a skip the module that made it, of an attention layer the shape of its map, of an input its shape.
    """
    for row in (*_value_rows(diff), *_part_rows(diff)):
        yield dict(zip(FIELDS, row, strict=True))


def _value_rows(diff: Diff) -> Iterator[tuple[Any, ...]]:
    for key in diff.config:
        values = (json.dumps(value) if origin != "absent" else None for value, origin in ((key.a, key.a_origin), (key.b, key.b_origin)))
        yield ("config", "changed", key.key, key.key, "", *values, None)
    for total in all_totals(diff):
        if total.quantity.difference:
            yield ("total", "changed", total.key, total.key, "", total.quantity.a, total.quantity.b, total.quantity.difference)
    for info in diff.inputs:
        yield ("input", info.change, info.name if info.change != "added" else "", info.name if info.change != "removed" else "", "",
               _shape(info.a), _shape(info.b), None)  # fmt: skip


def _part_rows(diff: Diff) -> Iterator[tuple[Any, ...]]:
    for stage in differing_parts(diff.stages):
        yield _record("stage", stage, "name", "params", stage.params)
        for layer in stage.layers:
            yield _record("layer", layer, "path", "params", layer.params)
    for skip in differing_parts(diff.skips):
        yield _record("skip", skip, "target", "source", None)
    for attention in differing_parts(diff.attentions):
        yield _record("attention", attention, "path", "map_shape", None)


def _record(section: str, part: Any, name: str, value: str, number: int | None) -> tuple[Any, ...]:
    names, values = ([getattr(side, field) if side else None for side in (part.a, part.b)] for field in (name, value))
    return (section, part.change, *names, " ".join(part.differs), *map(_shape, values), number)


def _shape(value: Any) -> Any:
    return format_shape(value) if isinstance(value, tuple) else value


def differing_parts(parts: Iterable[Any]) -> list[Any]:
    """Return the parts that are not the same on both sides."""
    return [part for part in parts if part.change != "same"]
