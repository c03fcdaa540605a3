"""Compares what is paired by its modules (skips, attention layers) and by name (config, inputs, tensors, ports)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import UNSET, Struct

from unetinspect.compare.align import Pair, Part, merged
from unetinspect.record import Attention, InputInfo, ModelInfo, Shape, Skip, Trace
from unetinspect.record.diff import (
    AttentionDiff,
    AttentionSide,
    Change,
    ConfigDiff,
    InputDiff,
    NameCounts,
    Origin,
    SkipDiff,
    SkipSide,
    TensorsDiff,
)
from unetinspect.record.stages import paths_above

_SKIP_FIELDS = ("shape", "hidden_channels", "skip_channels", "concat_channels", "out_channels", "combine", "changes")
_ATTENTION_FIELDS = ("path", "kind", "processor", "heads", "head_dim", "query_tokens", "key_tokens", "map_shape", "macs")


def change_of(a: object | None, b: object | None, differs: tuple[str, ...], name: str) -> Change:
    """Name the change of a pair; it is renamed if only the field `name` differs."""
    if a is None:
        return "added"
    if b is None:
        return "removed"
    return "same" if not differs else "renamed" if differs == (name,) else "changed"


def differing(a: Struct, b: Struct, names: Iterable[str]) -> tuple[str, ...]:
    """Return the fields that differ, without costs that one side did not count."""
    sides = ((name, getattr(a, name), getattr(b, name)) for name in names)
    return tuple(name for name, mine, other in sides if mine != other and not (name == "macs" and None in (mine, other)))


def compare_skips(a: Sequence[Skip], b: Sequence[Skip], paths: Mapping[str, str]) -> tuple[SkipDiff, ...]:
    """Pair skips whose targets are partners, and find what differs."""
    found = []
    sides = ([SkipSide.of(skip, changes=tuple(change.kind for change in skip.changes)) for skip in skips] for skips in (a, b))
    for mine, other in _pairs(sides, paths, lambda skip: (skip.target, skip.call)):
        differs: tuple[str, ...] = ()
        if mine is not None and other is not None:
            elsewhere = paths.get(mine.source) != other.source
            renamed = mine.target != other.target or (mine.source != other.source and not elsewhere)
            names = [name for name, is_so in (("names", renamed), ("source", elsewhere)) if is_so]
            differs = (*names, *differing(mine, other, _SKIP_FIELDS))
        found.append(SkipDiff(change=change_of(mine, other, differs, "names"), a=mine, b=other, differs=differs))
    return tuple(found)


def compare_attentions(a: Sequence[Attention], b: Sequence[Attention], paths: Mapping[str, str]) -> tuple[AttentionDiff, ...]:
    """Pair attention layers that are partners, and find what differs."""
    found = []
    sides = (
        [AttentionSide.of(layer, query_tokens=layer.query_shape[2], key_tokens=layer.key_shape[2]) for layer in layers] for layers in (a, b)
    )
    for mine, other in _pairs(sides, paths, lambda layer: (layer.path, layer.call)):
        differs = () if mine is None or other is None else differing(mine, other, _ATTENTION_FIELDS)
        found.append(AttentionDiff(change=change_of(mine, other, differs, "path"), a=mine, b=other, differs=differs))
    return tuple(found)


def _pairs(sides: Iterable[Sequence[Part]], paths: Mapping[str, str], call_of: Callable[[Part], tuple[str, int]]) -> list[Pair[Part]]:
    """Pair parts by their module and call, and by their order within the call."""
    keyed: list[dict[tuple[str, int, int], Part]] = []
    for parts in sides:
        seen: Counter[tuple[str, int]] = Counter()
        keyed.append({})
        for part in parts:
            path, call = call_of(part)
            keyed[-1][path, call, seen[path, call]] = part
            seen[path, call] += 1
    mine, other = keyed
    keys = {key: (paths[key[0]], *key[1:]) for key in mine if key[0] in paths}
    return merged(mine, other, {key: partner for key, partner in keys.items() if partner in other})


def compare_configs(a: ModelInfo, b: ModelInfo) -> tuple[ConfigDiff, ...]:
    """Return the keys whose values differ.

    In one class, a key that one side lacks and the other has at its default differs only by diffusers' version: it is left out.
    """
    found = []
    for key in dict.fromkeys((*a.config, *b.config)):
        if not key.startswith("_") and a.config.get(key, UNSET) != b.config.get(key, UNSET):
            origins = _origin(key, a), _origin(key, b)
            if a.class_name != b.class_name or {*origins} != {"absent", "default"}:
                found.append(ConfigDiff(key=key, a=a.config.get(key), b=b.config.get(key), a_origin=origins[0], b_origin=origins[1]))
    return tuple(found)


def _origin(key: str, model: ModelInfo) -> Origin:
    if key not in model.config:
        return "absent"
    return "override" if key in model.config_overrides else "default" if key in model.config_defaults else "given"


def compare_inputs(a: Trace, b: Trace) -> tuple[InputDiff, ...]:
    """Return the arguments that only one side has, and those with different shapes, dtypes or values."""
    mine, other = ({info.name: info for info in trace.run.inputs} for trace in (a, b))
    found = (_input(name, mine.get(name), other.get(name)) for name in dict.fromkeys((*mine, *other)))
    return tuple(diff for diff in found if diff is not None)


def _input(name: str, a: InputInfo | None, b: InputInfo | None) -> InputDiff | None:
    if a is not None and b is not None and (a.shape, a.dtype, a.value) == (b.shape, b.dtype, b.value):
        return None
    return InputDiff(
        name=name,
        change="added" if a is None else "removed" if b is None else "changed",
        a=a.shape if a else None,
        b=b.shape if b else None,
        a_dtype=a.dtype if a else None,
        b_dtype=b.dtype if b else None,
    )


def compare_tensors(a: Trace, b: Trace) -> TensorsDiff:
    """Compare the two `state_dict()`s key by key, and count the result by stage."""
    names = dict.fromkeys([*(stage.name for trace in (a, b) for stage in trace.stages), ""])
    groups: dict[str, tuple[dict[str, Shape], dict[str, Shape]]] = {name: ({}, {}) for name in names}
    sides: tuple[dict[str, Shape], dict[str, Shape]] = ({}, {})
    for place, trace in enumerate((a, b)):
        for module in trace.modules:
            for own, shape in module.tensors.items():
                name = f"{module.path}.{own}".removeprefix(".")
                stage = next((path for path in paths_above(name) if path in groups), "")
                sides[place][name] = groups[stage][place][name] = shape
    counts = {stage: _count_names(*pair) for stage, pair in groups.items() if any(pair)}
    return TensorsDiff(total=_count_names(*sides), stages=counts)


def compare_ports(a: Trace, b: Trace) -> dict[str, NameCounts]:
    """Count the ports of each kind: the same, with a different shape, only on one side."""
    found: dict[str, NameCounts] = {}
    for kind in dict.fromkeys(port.kind for trace in (a, b) for port in trace.ports):
        found[kind] = _count_names(*({port.name: port.shape for port in trace.ports if port.kind == kind} for trace in (a, b)))
    return found


def _count_names(a: Mapping[str, Shape], b: Mapping[str, Shape]) -> NameCounts:
    both = a.keys() & b.keys()
    same = sum(a[name] == b[name] for name in both)
    return NameCounts(same=same, changed=len(both) - same, added=len(b) - len(both), removed=len(a) - len(both))
