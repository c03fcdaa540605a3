"""Pairs the modules inside two stages, and says which were added, removed or changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf

from unetinspect.compare.align import Place, align, channels, level
from unetinspect.record import Module, Trace
from unetinspect.record.diff import LayerDiff, LayerSide

_LISTS = ("ModuleList", "ModuleDict")
_SAMPLERS = ("downsamplers", "downscalers")
LayerPair = tuple[Module | None, Module | None]


@dataclass(frozen=True, slots=True)
class Modules:
    """The modules of one UNet by path, lists of them left out: what is in a list is a child of what holds the list.

    Attributes:
        trace: The record.
        by_path: Every module.
        children: The modules in each, in the order of `named_modules()`.
        skip_from: What kind of module makes the skip that a module takes.
    """

    trace: Trace
    by_path: dict[str, Module]
    children: dict[str, list[Module]] = field(default_factory=dict)
    skip_from: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, trace: Trace) -> Modules:
        """Index a record's modules."""
        modules = cls(trace, {module.path: module for module in trace.modules})
        stages = {stage.name for stage in trace.stages}
        for module in trace.modules:
            if module.class_name not in _LISTS and module.path:
                holder = module.path.rpartition(".")[0]
                while holder not in stages and holder and modules.by_path[holder].class_name in _LISTS:
                    holder = holder.rpartition(".")[0]
                modules.children.setdefault(holder, []).append(module)
        for skip in trace.skips:
            modules.skip_from.setdefault(skip.target, _kind_of(skip.source))
        return modules


def _kind_of(source: str) -> str:
    """Tell what ends a level, and what stands before the first, from the layers between: `resnets`, or `attentions` behind them."""
    parts = source.split(".")
    return "conv" if len(parts) == 1 else "sampler" if any(part in _SAMPLERS for part in parts) else "layer"


def compare_layers(a: Modules, b: Modules, path_a: str, path_b: str, paths: dict[str, str]) -> tuple[LayerDiff, ...]:
    """Return what differs in two paired stages; into `paths` goes, for each module of A that has a partner, its path in B."""
    stage = a.by_path[path_a], b.by_path[path_b]
    differs = tuple(name for name in _differs(*stage) if name != "class_name")
    paths[path_a] = path_b
    own = [_changed(a, b, *stage, differs)] if differs else []
    return (*own, *_inside(a, b, *stage, paths))


def _inside(a: Modules, b: Modules, in_a: Module, in_b: Module, paths: dict[str, str]) -> Iterator[LayerDiff]:
    for mine, other in _paired(a, b, in_a, in_b):
        if mine is None or other is None:
            yield _alone(mine, other)
            continue
        paths[mine.path] = other.path
        differs = _differs(mine, other)
        inside = list(_inside(a, b, mine, other, paths))
        if differs or _within(mine, in_a) != _within(other, in_b):
            yield _changed(a, b, mine, other, differs)
        if "class_name" not in differs:
            yield from inside


def _paired(a: Modules, b: Modules, in_a: Module, in_b: Module) -> Iterator[LayerPair]:
    """Pair the children of two modules, list by list. Lists as long as `resnets` run beside it, so they are paired as it is."""
    lists_a, lists_b = _lists(a, in_a), _lists(b, in_b)
    resnets = lists_a.get("resnets", []), lists_b.get("resnets", [])
    for name in dict.fromkeys((*lists_a, *lists_b)):
        sides = lists_a.get(name, []), lists_b.get(name, [])
        beside = name and all(resnets) and [len(side) for side in sides] == [len(side) for side in resnets]
        by = resnets if beside else sides
        places = [_places(a, in_a, by[0]), _places(b, in_b, by[1])]
        for one, two in align(list(enumerate(places[0])), list(enumerate(places[1])), lambda item: item[1]):
            yield None if one is None else sides[0][one[0]], None if two is None else sides[1][two[0]]


def _lists(modules: Modules, inside: Module) -> dict[str, list[Module]]:
    """Group the children by the list that they stand in, in the order in which they ran; one in no list is a group of its own."""
    lists: dict[str, list[Module]] = {}
    for child in modules.children.get(inside.path, []):
        name, _, last = _within(child, inside).rpartition(".")
        lists.setdefault(name if last.isdigit() else _within(child, inside), []).append(child)
    return dict(sorted(lists.items(), key=lambda item: min(_step(module) for module in item[1])))


def _step(module: Module) -> float:
    return inf if module.step is None else module.step


def _within(module: Module, inside: Module) -> str:
    return module.path[len(inside.path) + 1 :]


def _places(modules: Modules, inside: Module, layers: Sequence[Module]) -> list[Place]:
    size = modules.trace.run.sample_size
    return [
        Place(
            name=_within(layer, inside),
            class_name=layer.class_name,
            in_level=level(layer.in_shape, size),
            out_level=level(layer.out_shape, size),
            in_channels=channels(layer.in_shape, size),
            out_channels=channels(layer.out_shape, size),
            skip_from=modules.skip_from.get(layer.path, ""),
            number=number,
        )
        for number, layer in enumerate(layers)
    ]


def _differs(a: Module, b: Module) -> tuple[str, ...]:
    return tuple(name for name in ("class_name", "detail", "tensors") if getattr(a, name) != getattr(b, name))


def _alone(a: Module | None, b: Module | None) -> LayerDiff:
    params = (b.params if b else 0) - (a.params if a else 0)
    return LayerDiff(change="removed" if a else "added", a=_side(a), b=_side(b), differs=(), params=params)


def _changed(a: Modules, b: Modules, mine: Module, other: Module, differs: tuple[str, ...]) -> LayerDiff:
    whole = "class_name" in differs
    params = other.params - mine.params if whole else _own(b, other) - _own(a, mine)
    return LayerDiff(change="changed" if differs else "renamed", a=_side(mine), b=_side(other), differs=differs, params=params)


def _own(modules: Modules, module: Module) -> int:
    return module.params - sum(child.params for child in modules.children.get(module.path, []))


def _side(module: Module | None) -> LayerSide | None:
    return None if module is None else LayerSide.of(module)
