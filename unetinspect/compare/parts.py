"""Skips and attention layers of two UNets, paired through the modules that they belong to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from msgspec import Struct

from unetinspect.compare.align import merged
from unetinspect.record import Attention, Skip
from unetinspect.record.diff import AttentionDiff, AttentionSide, Change, SkipDiff, SkipSide

Part = TypeVar("Part")
_Key = tuple[str, int, int]
_SKIP_FIELDS = ("shape", "hidden_channels", "skip_channels", "concat_channels", "out_channels", "combine", "changes")
_ATTENTION_FIELDS = ("path", "kind", "processor", "heads", "head_dim", "query_tokens", "key_tokens", "map_shape", "macs")


def compare_skips(a: Sequence[Skip], b: Sequence[Skip], paths: Mapping[str, str]) -> tuple[SkipDiff, ...]:
    """Pair skips whose targets are partners, and say in what they differ."""
    sides = [{key: _skip_side(skip) for key, skip in _keyed((skip.target, skip.call, skip) for skip in skips)} for skips in (a, b)]
    found = []
    for mine, other in _pairs(sides[0], sides[1], paths):
        differs = () if mine is None or other is None else _skip_differs(mine, other, paths)
        found.append(SkipDiff(change=change_of(mine, other, differs, "names"), a=mine, b=other, differs=differs))
    return tuple(found)


def compare_attentions(a: Sequence[Attention], b: Sequence[Attention], paths: Mapping[str, str]) -> tuple[AttentionDiff, ...]:
    """Pair attention layers that are partners, and say in what they differ."""
    sides = [
        {key: _attention_side(layer) for key, layer in _keyed((layer.path, layer.call, layer) for layer in layers)} for layers in (a, b)
    ]
    found = []
    for mine, other in _pairs(sides[0], sides[1], paths):
        differs = () if mine is None or other is None else differing(mine, other, _ATTENTION_FIELDS)
        found.append(AttentionDiff(change=change_of(mine, other, differs, "path"), a=mine, b=other, differs=differs))
    return tuple(found)


def change_of(a: object | None, b: object | None, differs: tuple[str, ...], name: str) -> Change:
    """Name the change of a pair; `name` is what differs in a pair that is merely called otherwise."""
    if a is None:
        return "added"
    if b is None:
        return "removed"
    return "same" if not differs else "renamed" if differs == (name,) else "changed"


def differing(a: Struct, b: Struct, names: Iterable[str]) -> tuple[str, ...]:
    """Return the fields that differ; a cost that one side did not count does not."""
    sides = ((name, getattr(a, name), getattr(b, name)) for name in names)
    return tuple(name for name, mine, other in sides if mine != other and not (name == "macs" and None in (mine, other)))


def _skip_differs(a: SkipSide, b: SkipSide, paths: Mapping[str, str]) -> tuple[str, ...]:
    elsewhere = paths.get(a.source) != b.source
    renamed = a.target != b.target or (a.source != b.source and not elsewhere)
    found = [name for name, is_so in (("names", renamed), ("source", elsewhere)) if is_so]
    return (*found, *differing(a, b, _SKIP_FIELDS))


def _keyed(parts: Iterable[tuple[str, int, Part]]) -> Iterator[tuple[_Key, Part]]:
    """Give each part a key: the module, its call, and how many of this call came before."""
    seen: Counter[Hashable] = Counter()
    for path, call, part in parts:
        yield (path, call, seen[path, call]), part
        seen[path, call] += 1


def _pairs(a: Mapping[_Key, Part], b: Mapping[_Key, Part], paths: Mapping[str, str]) -> list[tuple[Part | None, Part | None]]:
    keys = {key: (paths[key[0]], *key[1:]) for key in a if key[0] in paths}
    order = merged(list(a), list(b), {key: other for key, other in keys.items() if other in b})
    return [(None if mine is None else a[mine], None if other is None else b[other]) for mine, other in order]


def _skip_side(skip: Skip) -> SkipSide:
    return SkipSide.of(skip, changes=tuple(change.kind for change in skip.changes))


def _attention_side(layer: Attention) -> AttentionSide:
    return AttentionSide.of(layer, query_tokens=layer.query_shape[2], key_tokens=layer.key_shape[2])
