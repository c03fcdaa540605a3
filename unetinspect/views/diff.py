"""`diff`: what differs between two UNets, section by section, or as flat rows for CSV; one line for what is the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from unetinspect.record.diff import Diff, DiffSide, InputDiff, NameCounts, Quantity
from unetinspect.units import format_bytes, format_count, format_shape, format_si, format_size, plural, visible
from unetinspect.views.diff_words import (
    attention_text,
    config_value,
    difference,
    overrides_text,
    ports_text,
    signed,
    skip_text,
    stage_text,
    weights_text,
)
from unetinspect.views.table import Column, Line, Table

# The widest name that heads a column as it is, and that a column of names shows in one line.
_WIDEST_NAME = 18
# As many stages are named at the top.
_MOST_NAMES = 8
# The header of the CSV.
_FIELDS = ("section", "change", "name_a", "name_b", "differs", "a", "b", "difference")


class _Layers(NamedTuple):
    a: str
    b: str
    layers: str
    what: str
    change: str


class _Total(NamedTuple):
    key: str
    name: str
    quantity: Quantity
    show: Callable[[int | None], str]


def diff_tables(diff: Diff) -> list[Table]:
    """Return the head of a comparison, whose records are the differences, and its sections, without those that have none.

    A record has the section, the names on both sides, and a value on both: the parameters of a stage or layer, the source of a
    skip, the shape of an attention map or input.
    """
    records = [dict(zip(_FIELDS, row, strict=True)) for row in _flat_rows(diff)]
    head = Table(columns=(), rows=(), above=list(_head(diff)), records=records, fields=_FIELDS)
    sections = [_config(diff), _totals(diff), _stages(diff), _skips(diff), _attentions(diff), _rest(diff)]
    return [head, *(section for section in sections if section.rows or section.below)]


def _both(diff: Diff, show: Callable[[Any, str], str], **how: Any) -> Iterator[Column]:
    """Yield a column for each side, "a" and "b", headed by its name, if the names are short and differ; else by A and B."""
    names = visible(diff.a.name), visible(diff.b.name)
    headers = names if names[0] != names[1] and max(map(len, names)) <= _WIDEST_NAME else ("A", "B")
    yield Column(headers[0], lambda row: show(row, "a"), **how)
    yield Column(headers[1], lambda row: show(row, "b"), **how)


def _head(diff: Diff) -> Iterator[str]:
    for letter, side in (("A", diff.a), ("B", diff.b)):
        yield f"{letter}: {side.name}{overrides_text(side.overrides)}, {side.class_name}, {_run(side)}"
    if diff.same:
        yield Line("the same", "good", f": {plural(len(diff.stages), 'stage')}, {plural(len(diff.skips), 'skip')}, config and totals")
        return
    words = (("removed", "removed"), ("added", "added"), ("changed", "changed"), ("renamed", "renamed"), ("same", "the same"))
    resized = sum(stage.resized for stage in diff.stages)
    texts = [*(_counted_stages(diff, *word) for word in words), f"{resized} the same {_size_word(diff)}" if resized else ""]
    yield f"stages: {', '.join(filter(None, texts))}"


def _counted_stages(diff: Diff, change: str, word: str) -> str:
    """Count the stages of a change; name those that only one side has."""
    found = [stage for stage in diff.stages if stage.change == change and not stage.resized]
    names = [side.name for stage in found if (side := stage.a or stage.b)]
    named = f" ({', '.join(names)})" if change in ("removed", "added") and len(names) <= _MOST_NAMES else ""
    return f"{len(names)} {word}{named}" if names else ""


def _size_word(diff: Diff) -> str:
    return "in another batch" if diff.a.sample_size == diff.b.sample_size else "at another size"


def _run(side: DiffSide) -> str:
    frames = f", {plural(side.frames, 'frame')}" if side.frames else ""
    added = (f", {name}" for name, present in (("FreeU", side.freeu), (f"with {side.plugged}", side.plugged)) if present)
    return f"sample {format_size(side.sample_size)}{frames}, batch {side.forward_batch}, {side.dtype} on {side.device}{''.join(added)}"


def _config(diff: Diff) -> Table:
    """Show the keys that differ, except those that only one of two classes has and that are at their default."""
    dull = [key for key in diff.config if {key.a_origin, key.b_origin} == {"absent", "default"}]
    columns = (
        Column("key", lambda key: key.key, wrap=12),
        *_both(diff, lambda key, side: config_value(getattr(key, side), getattr(key, f"{side}_origin")), wrap=20),
    )
    rows = [key for key in diff.config if key not in dull]
    below = [f"{plural(len(dull), 'key')} of only one class, at the default" + ("" if len(dull) == 1 else "s")] if dull else []
    return Table(title="Config", columns=columns, rows=rows, below=below)


def _totals(diff: Diff) -> Table:
    found = [total for total in _all_totals(diff) if total.quantity.a or total.quantity.b]
    rows = [total for total in found if total.quantity.difference]
    same = [f"{total.name.removeprefix('... ')} {total.show(total.quantity.a)}" for total in found if total.quantity.difference == 0]
    columns = (
        Column("total", lambda total: total.name),
        *_both(diff, lambda total, side: total.show(getattr(total.quantity, side)), right=True),
        Column("difference", lambda total: difference(total.quantity, total.show)),
    )
    return Table(title="Totals", columns=columns, rows=rows, below=[f"the same: {', '.join(same)}"] if same and rows else [])


def _all_totals(diff: Diff) -> list[_Total]:
    """Return every total, in the order in which they are shown; one that begins with "..." is a part of the one above."""
    totals = diff.totals
    kinds = [(kind, number) for kind, number in totals.attention.items() if kind not in ("total", "without_processor")]
    return [
        _Total("params", "params", totals.params, format_count),
        _Total("weight_bytes", "weights", totals.weight_bytes, format_bytes),
        _Total("macs", "MACs", totals.macs, format_si),
        _Total("peak_activation_bytes", "peak activations", totals.peak_activation_bytes, format_bytes),
        _Total("peak_activation_bytes_with_maps", "... with attention maps", totals.peak_activation_bytes_with_maps, format_bytes),
        _Total("resnets", "resnets", totals.resnets, format_count),
        _Total("transformer_blocks", "transformer blocks", totals.transformer_blocks, format_count),
        _Total("attention.total", "attention layers", totals.attention["total"], format_count),
        *(_Total(f"attention.{kind}", f"... {kind}", number, format_count) for kind, number in kinds),
        _Total("attention.without_processor", "... without a processor", totals.attention["without_processor"], format_count),
        _Total("skips_consumed", "skips", totals.skips_consumed, format_count),
    ]


def _stages(diff: Diff) -> Table:
    sizes = diff.a.sample_size, diff.b.sample_size
    rows = [stage for stage in diff.stages if stage.change != "same" and not stage.resized]
    wrap = _name_wrap(side.name for stage in rows for side in (stage.a, stage.b) if side)
    columns = (
        *_both(diff, lambda stage, side: getattr(getattr(stage, side), "name", "-"), path=True, wrap=wrap),
        Column("params", lambda stage: signed(stage.params, format_count), right=True, drop=1),
        Column("MACs", lambda stage: signed(stage.macs, format_si), right=True, drop=2),
        Column("what changed", lambda stage: stage_text(stage, sizes), wrap=31),
    )
    same = [stage.a.name for stage in diff.stages if stage.change == "same" and stage.a]
    resized = [stage.a.name for stage in diff.stages if stage.resized and stage.a]
    below = [*_listed("stage", same, "the same"), *_listed("stage", resized, f"the same {_size_word(diff)}")]
    return Table(
        title="Stages", columns=columns, rows=rows, below=below if rows or resized else [], style=lambda stage: _style(stage.change)
    )


def _style(change: str) -> str:
    """Return the style of what only one side has."""
    return change if change in ("added", "removed") else ""


def _name_wrap(names: Iterable[str]) -> int:
    """Let names of stages wrap if one is long: they would take room from the text beside them."""
    return _WIDEST_NAME if any(len(name) > _WIDEST_NAME for name in names) else 0


def _listed(noun: str, names: Sequence[str], word: str) -> Iterator[str]:
    if names:
        yield f"{plural(len(names), noun)} {'is' if len(names) == 1 else 'are'} {word}: {', '.join(names)}"


def _skips(diff: Diff) -> Table:
    """Show the skips that differ in more than their names and the size of the sample."""
    sizes = diff.a.sample_size, diff.b.sample_size
    resized = [skip for skip in diff.skips if "shape" in skip.differs and set(skip.differs) <= {"names", "shape"}]
    rows = [skip for skip in diff.skips if skip.change not in ("same", "renamed") and skip not in resized]
    columns = (
        *_both(diff, lambda skip, side: getattr(getattr(skip, side), "target", "-"), path=True),
        Column("what changed", lambda skip: skip_text(skip, sizes), wrap=28),
    )
    below = _counted("skip", diff.skips, len(resized), "only in shape") if rows or resized else []
    title = "Skips, by the modules that concatenate them"
    return Table(title=title, columns=columns, rows=rows, below=below, style=lambda skip: _style(skip.change))


def _attentions(diff: Diff) -> Table:
    """Show the attention layers that differ; those of one stage that differ in the same way share a line."""
    rows, resized = _attention_rows(diff)
    wrap = _name_wrap(name for row in rows for name in (row.a, row.b))
    columns = (
        *_both(diff, getattr, path=True, wrap=wrap),
        Column("layers", lambda row: row.layers, wrap=8),
        Column("what changed", lambda row: row.what, wrap=24),
    )
    below = _counted("attention layer", diff.attentions, resized, "only in map size") if rows or resized else []
    return Table(title="Attention", columns=columns, rows=rows, below=below, style=lambda row: _style(row.change))


def _counted(noun: str, parts: Sequence[Any], resized: int, how: str) -> list[str]:
    """Count the parts that are not shown: those that differ only as the sizes do, the renamed, the same."""
    counts = Counter(part.change for part in parts)
    differ = "differs" if resized == 1 else "differ"
    words = [(resized, f"{differ} {how}"), (counts["renamed"], "renamed, otherwise identical"), (counts["same"], "the same")]
    return [f"{plural(count, noun)} {word}" for count, word in words if count]


def _attention_rows(diff: Diff) -> tuple[list[_Layers], int]:
    """Return a row for the layers of a stage that differ alike, and the number of those that differ only as the samples do."""
    resized = any(getattr(diff.a, size) != getattr(diff.b, size) for size in ("sample_size", "forward_batch", "frames"))
    partner = {stage.a.name: stage.b.name for stage in diff.stages if stage.a and stage.b}
    back = {other: mine for mine, other in partner.items()}
    groups: dict[tuple[str, str, str, str], Counter[str]] = {}
    alike = 0
    for layer in diff.attentions:
        side = layer.a or layer.b
        if layer.change in ("same", "renamed") or side is None:
            continue
        text = attention_text(layer, resized=resized)
        alike += not text
        if text:
            stages = (layer.a.stage if layer.a else back.get(side.stage, "-"), layer.b.stage if layer.b else partner.get(side.stage, "-"))
            groups.setdefault((*stages, text, layer.change), Counter())[side.kind] += 1
    rows = [
        _Layers(one, two, ", ".join(f"{count} {kind}" for kind, count in kinds.items()), what, change)
        for (one, two, what, change), kinds in groups.items()
    ]
    return rows, alike


def _rest(diff: Diff) -> Table:
    """Show the inputs and ports that differ, whether weights fit, and notes on the two passes."""
    lines: list[str] = [Line(f"input {info.name}", _style(info.change), f": {_sides(info)}") for info in diff.inputs]
    lines += [ports_text(kind, counts) for kind, counts in diff.ports.items() if counts != NameCounts(same=counts.same)]
    lines += [weights_text(diff.tensors.total), *(f"note: {line}" for line in diff.notes)]
    return Table(title="" if diff.same else "Inputs, ports and weights", columns=(), rows=(), below=lines)


def _sides(info: InputDiff) -> str:
    if info.change != "changed":
        return f"only in {'B' if info.change == 'added' else 'A'}, {format_shape(info.b if info.change == 'added' else info.a)}"
    if info.a == info.b:
        return f"{info.a_dtype} -> {info.b_dtype}"
    return f"{format_shape(info.a)} -> {format_shape(info.b)}"


def _flat_rows(diff: Diff) -> Iterator[tuple[Any, ...]]:
    for key in diff.config:
        values = (json.dumps(value) if origin != "absent" else None for value, origin in ((key.a, key.a_origin), (key.b, key.b_origin)))
        yield ("config", "changed", key.key, key.key, "", *values, None)
    for total in _all_totals(diff):
        if total.quantity.difference:
            yield ("total", "changed", total.key, total.key, "", total.quantity.a, total.quantity.b, total.quantity.difference)
    for info in diff.inputs:
        names = info.name if info.change != "added" else "", info.name if info.change != "removed" else ""
        yield ("input", info.change, *names, "", _shape(info.a), _shape(info.b), None)
    for stage in diff.stages:
        yield from _rows("stage", [stage], "name", "params", stage.params)
        for layer in stage.layers:
            yield from _rows("layer", [layer], "path", "params", layer.params)
    yield from _rows("skip", diff.skips, "target", "source")
    yield from _rows("attention", diff.attentions, "path", "map_shape")


def _rows(section: str, parts: Iterable[Any], name: str, value: str, number: int | None = None) -> Iterator[tuple[Any, ...]]:
    for part in parts:
        if part.change != "same":
            names, values = ([getattr(side, field) if side else None for side in (part.a, part.b)] for field in (name, value))
            yield (section, part.change, *names, " ".join(part.differs), *map(_shape, values), number)


def _shape(value: Any) -> Any:
    return format_shape(value) if isinstance(value, tuple) else value
