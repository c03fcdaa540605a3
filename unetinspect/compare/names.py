"""What is paired by its name alone: config keys, arguments of `forward`, tensors of a checkpoint, ports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import UNSET

from unetinspect.record import InputInfo, ModelInfo, Port, Shape, Trace
from unetinspect.record.diff import ConfigDiff, InputDiff, NameCounts, Origin, TensorsDiff
from unetinspect.record.diff_parts import Change
from unetinspect.record.stages import paths_above


def compare_configs(a: ModelInfo, b: ModelInfo) -> tuple[ConfigDiff, ...]:
    """Return the keys whose values differ.

    Of one class, a key that one side does not know and the other has at its default is a matter of diffusers' version.
    """
    keys = [key for key in dict.fromkeys((*a.config, *b.config)) if not key.startswith("_")]
    found = [_config_key(key, a, b) for key in keys if _plain(a.config.get(key, UNSET)) != _plain(b.config.get(key, UNSET))]
    return tuple(diff for diff in found if a.class_name != b.class_name or {diff.a_origin, diff.b_origin} != {"absent", "default"})


def compare_inputs(a: Trace, b: Trace) -> tuple[InputDiff, ...]:
    """Return the arguments that one side alone takes, and those of another shape or dtype."""
    sides = [{info.name: info for info in trace.run.inputs} for trace in (a, b)]
    names = dict.fromkeys((*sides[0], *sides[1]))
    return tuple(diff for name in names if (diff := _input(name, sides[0].get(name), sides[1].get(name))) is not None)


def compare_tensors(a: Trace, b: Trace) -> TensorsDiff:
    """Compare what the two `state_dict()`s hold, key by key, and count it by stage."""
    sides = _tensors(a), _tensors(b)
    stages = list(dict.fromkeys(stage.name for trace in (a, b) for stage in trace.stages))
    groups: dict[str, tuple[dict[str, Shape], dict[str, Shape]]] = {name: ({}, {}) for name in (*stages, "")}
    for place, tensors in enumerate(sides):
        for name, shape in tensors.items():
            groups[_stage_of(name, groups)][place][name] = shape
    counts = {stage: count_names(*pair) for stage, pair in groups.items() if any(pair)}
    return TensorsDiff(total=count_names(*sides), stages=counts)


def compare_ports(a: Trace, b: Trace) -> dict[str, NameCounts]:
    """Count the ports of each kind that are the same, of another shape, or one side's alone."""
    kinds = dict.fromkeys(port.kind for trace in (a, b) for port in trace.ports)
    return {kind: count_names(_ports(a.ports, kind), _ports(b.ports, kind)) for kind in kinds}


def count_names(a: Mapping[str, Shape], b: Mapping[str, Shape]) -> NameCounts:
    """Count names by what became of them."""
    both = [name for name in a if name in b]
    same = sum(a[name] == b[name] for name in both)
    return NameCounts(same=same, changed=len(both) - same, added=len(b) - len(both), removed=len(a) - len(both))


def _config_key(key: str, a: ModelInfo, b: ModelInfo) -> ConfigDiff:
    return ConfigDiff(key=key, a=a.config.get(key), b=b.config.get(key), a_origin=_origin(key, a), b_origin=_origin(key, b))


def _origin(key: str, model: ModelInfo) -> Origin:
    if key not in model.config:
        return "absent"
    return "override" if key in model.config_overrides else "default" if key in model.config_defaults else "given"


def _plain(value: Any) -> Any:
    """Return a value as JSON would bring it back: a config that was read from a saved trace has lists for tuples."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _input(name: str, a: InputInfo | None, b: InputInfo | None) -> InputDiff | None:
    if a is not None and b is not None and (a.shape, a.dtype, a.value) == (b.shape, b.dtype, b.value):
        return None
    change: Change = "added" if a is None else "removed" if b is None else "changed"
    return InputDiff(
        name=name,
        change=change,
        a=a.shape if a else None,
        b=b.shape if b else None,
        a_dtype=a.dtype if a else None,
        b_dtype=b.dtype if b else None,
    )


def _tensors(trace: Trace) -> dict[str, Shape]:
    return {".".join(filter(None, (module.path, name))): shape for module in trace.modules for name, shape in module.tensors.items()}


def _stage_of(name: str, stages: Mapping[str, Any]) -> str:
    return next((path for path in paths_above(name) if path in stages), "")


def _ports(ports: tuple[Port, ...], kind: str) -> dict[str, Shape]:
    return {port.name: port.shape for port in ports if port.kind == kind}
