"""Pairs the stages of two UNets and the modules in them, and finds which were added, removed or changed."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from unetinspect.compare.align import Pair, Place, align, merged
from unetinspect.record import Module, Role, Stage, Trace
from unetinspect.record.diff import LayerDiff, LayerSide

# Stages of these roles are paired by their place; embeddings have the same name everywhere.
_IN_ORDER: tuple[Role, ...] = ("in", "down", "mid", "up", "out")
_LISTS = ("ModuleList", "ModuleDict")
_SAMPLERS = ("downsamplers", "downscalers")


def pair_stages(a: Trace, b: Trace) -> list[Pair[Stage]]:
    """Return every stage of both, in A's order; those only in B follow the stage that they follow there."""
    partner: dict[str, str] = {}
    for role in _IN_ORDER:
        pairs = align(_placed(a, role), _placed(b, role))
        partner |= {mine.name: other.name for mine, other in pairs if mine is not None and other is not None}
    # Embeddings, and what has another role in the other U, are paired by name.
    left = {stage.name: stage.role for stage in b.stages if stage.name not in partner.values()}
    for stage in a.stages:
        if stage.name in left and stage.name not in partner and (stage.role == "embed" or left[stage.name] != stage.role):
            partner[stage.name] = stage.name
    stages_a, stages_b = ({stage.name: stage for stage in trace.stages} for trace in (a, b))
    return merged(stages_a, stages_b, partner)


def _placed(trace: Trace, role: Role) -> list[Place]:
    stages = [stage for stage in trace.stages if stage.role == role]
    # Levels go from the inside, so corresponding stages on the way up are counted from the end.
    first = 1 - len(stages) if role == "up" else 0
    return [Place.of(stage, trace.run.sample_size, name=stage.name, number=first + place) for place, stage in enumerate(stages)]


class Modules:
    """The modules of one UNet by path, without lists: the items of a list are children of the module with the list.

    Attributes:
        children: The modules in each, in the order of `named_modules()`.
    """

    def __init__(self, trace: Trace) -> None:
        self.by_path = {module.path: module for module in trace.modules}
        self.children: dict[str, list[Module]] = {}
        self._size = trace.run.sample_size
        stages = {stage.name for stage in trace.stages}
        for module in trace.modules:
            if module.class_name not in _LISTS and module.path:
                holder = module.path.rpartition(".")[0]
                while holder not in stages and holder and self.by_path[holder].class_name in _LISTS:
                    holder = holder.rpartition(".")[0]
                self.children.setdefault(holder, []).append(module)
        self._skip_from: dict[str, str] = {}
        for skip in trace.skips:
            # What ends a level, and what comes before the first, is not like the layers between: `resnets`, or `attentions` after them.
            parts = skip.source.split(".")
            kind = "conv" if len(parts) == 1 else "sampler" if any(part in _SAMPLERS for part in parts) else "layer"
            self._skip_from.setdefault(skip.target, kind)

    def lists(self, inside: Module) -> dict[str, list[Module]]:
        """Group the children of a module by their lists, in the order in which they ran; a child in no list is a group of its own."""
        lists: dict[str, list[Module]] = {}
        for child in self.children.get(inside.path, []):
            name, _, last = _within(child, inside).rpartition(".")
            lists.setdefault(name if last.isdigit() else _within(child, inside), []).append(child)
        return dict(sorted(lists.items(), key=lambda item: min(inf if module.step is None else module.step for module in item[1])))

    def places(self, layers: list[Module], inside: Module) -> list[Place]:
        """Return the place of each of some children of a module, numbered in their order."""
        return [
            Place.of(layer, self._size, name=_within(layer, inside), number=number, skip_from=self._skip_from.get(layer.path, ""))
            for number, layer in enumerate(layers)
        ]

    def own_params(self, module: Module) -> int:
        """Return the parameters of a module without those of its children."""
        return module.params - sum(child.params for child in self.children.get(module.path, []))


def compare_layers(a: Modules, b: Modules, path_a: str, path_b: str, paths: dict[str, str]) -> tuple[LayerDiff, ...]:
    """Return what differs in two paired stages; adds to `paths`, for each module of A with a partner, its path in B."""
    stage = a.by_path[path_a], b.by_path[path_b]
    differs = tuple(name for name in _differs(*stage) if name != "class_name")
    paths[path_a] = path_b
    own = [_changed(a, b, *stage, differs)] if differs else []
    return (*own, *_inside(a, b, *stage, paths))


def _inside(a: Modules, b: Modules, in_a: Module, in_b: Module, paths: dict[str, str]) -> Iterator[LayerDiff]:
    for mine, other in _paired(a, b, in_a, in_b):
        if mine is None or other is None:
            params = (other.params if other else 0) - (mine.params if mine else 0)
            yield LayerDiff(change="removed" if mine else "added", a=_side(mine), b=_side(other), differs=(), params=params)
            continue
        paths[mine.path] = other.path
        differs = _differs(mine, other)
        inside = list(_inside(a, b, mine, other, paths))
        if differs or _within(mine, in_a) != _within(other, in_b):
            yield _changed(a, b, mine, other, differs)
        if "class_name" not in differs:
            yield from inside


def _paired(a: Modules, b: Modules, in_a: Module, in_b: Module) -> Iterator[Pair[Module]]:
    """Pair the children of two modules, list by list. Lists as long as `resnets` run beside it and are paired in the same way."""
    lists_a, lists_b = a.lists(in_a), b.lists(in_b)
    resnets = lists_a.get("resnets", []), lists_b.get("resnets", [])
    for name in dict.fromkeys((*lists_a, *lists_b)):
        sides = lists_a.get(name, []), lists_b.get(name, [])
        beside = name and all(resnets) and [len(side) for side in sides] == [len(side) for side in resnets]
        by = resnets if beside else sides
        for one, two in align(a.places(by[0], in_a), b.places(by[1], in_b)):
            yield None if one is None else sides[0][one.number], None if two is None else sides[1][two.number]


def _within(module: Module, inside: Module) -> str:
    return module.path[len(inside.path) + 1 :]


def _differs(a: Module, b: Module) -> tuple[str, ...]:
    return tuple(name for name in ("class_name", "detail", "tensors") if getattr(a, name) != getattr(b, name))


def _changed(a: Modules, b: Modules, mine: Module, other: Module, differs: tuple[str, ...]) -> LayerDiff:
    params = other.params - mine.params if "class_name" in differs else b.own_params(other) - a.own_params(mine)
    return LayerDiff(change="changed" if differs else "renamed", a=_side(mine), b=_side(other), differs=differs, params=params)


def _side(module: Module | None) -> LayerSide | None:
    return None if module is None else LayerSide.of(module)
