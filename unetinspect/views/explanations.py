"""`explain-error`: the meaning of each error in a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from unetinspect.record import ErrorExplanation, ErrorExplanations, ModelMatch
from unetinspect.units import format_shape, plural
from unetinspect.views.table import Table


def explanations_table(explanations: ErrorExplanations) -> Table:
    """Show every explanation as paragraphs, the error that was raised last first; CSV and TSV have one record each."""
    found = explanations.explanations
    lines = [line for place, one in enumerate(found, 1) for line in (*_heading(place, len(found)), *_lines(one), "")]
    return Table(columns=(), rows=(), above=lines[:-1], records=found)


def _heading(place: int, count: int) -> Iterator[str]:
    if count > 1:
        yield f"Error {place} of {count}{', the last in the text' if place == 1 else ''}"


def _lines(one: ErrorExplanation) -> Iterator[str]:
    yield f"error:  {one.error}"
    yield f"kind:   {one.kind}"
    if one.module is not None:
        yield f"raised: {one.module}"
    yield from ("", "What it means", f"  {one.meaning}")
    if one.numbers:
        yield from ("", "Its numbers")
        yield from (f"  {_value(number.value)}: {number.meaning}" for number in one.numbers)
    if one.models:
        yield from ("", "In the catalog")
        yield from _models(one.models)
    if one.changes:
        yield from ("", "What to change, most likely first")
        yield from (f"  {place}. {change}" for place, change in enumerate(one.changes, 1))


def _value(value: int | Sequence[int]) -> str:
    return str(value) if isinstance(value, int) else format_shape(value)


def _models(models: Sequence[ModelMatch]) -> Iterator[str]:
    """Yield the models by role, and by the places where they have it."""
    roles: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for model in models:
        roles.setdefault(model.role, {}).setdefault(model.where, []).append(model.name)
    for role, places in roles.items():
        yield f"  {role}: {plural(sum(map(len, places.values())), 'model')}"
        for where, names in places.items():
            yield f"    {', '.join(names)}"
            yield from (f"      {part}" for part in where)
