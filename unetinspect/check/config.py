"""What is wrong, unknown, unusual, without effect or old in a config, all at once, and what its keys mean. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from unetinspect.check.meanings import say_meanings
from unetinspect.check.unknown import find_unknown, say_unread
from unetinspect.errors import Problem
from unetinspect.record import Trace
from unetinspect.record.check import Finding, KeyMeaning
from unetinspect.run.resolve import ResolvedConfig
from unetinspect.unets.base import is_list
from unetinspect.units import format_value, joined

Same = Callable[[Mapping[str, Any]], bool]
"""Tells whether diffusers makes the same UNet from other values."""

# They tell pipelines what the UNet is for: nobody need leave them out where it does not read them itself.
_NOT_OF_THE_UNET = ("sample_size", "sample_rate", "num_frames", "out_channels")


class ConfigReport(NamedTuple):
    """What was found in a config.

    Attributes:
        findings: What is wrong with it, or has no effect, all of it.
        meanings: Keys whose names say something else than what they do in this UNet.
    """

    findings: tuple[Finding, ...]
    meanings: tuple[KeyMeaning, ...]


def find_in_config(
    config: ResolvedConfig,
    given: Mapping[str, Any],
    *,
    classes: Mapping[str, Mapping[str, Any]],
    diffusers_version: str,
    mistakes: Sequence[Problem] = (),
    wrong_types: Mapping[str, str] | None = None,
    same: Same | None = None,
    record: Trace | None = None,
) -> ConfigReport:
    """Find everything that there is to say of a config.

    `given` is the config as it was written; `classes` holds the keys of every class with their defaults, `diffusers_version` is
    the installed one. `mistakes` are what keeps the UNet from running, `wrong_types` a sentence for each key whose value has not
    the type that diffusers declares. `same` compares UNets, `record` is a pass of this one; without them less is found.
    """
    found = [*map(_mistake, mistakes), *find_unknown(config.class_name, given, config.ignored, classes, diffusers_version)]

    def add(findings: Iterator[Finding]) -> None:
        """Add what is found of keys that are not known to be wrong in another way."""
        known = {key for finding in found for key in finding.where}
        found.extend(finding for finding in findings if not known & set(finding.where))

    add(_unusual(config.values, wrong_types or {}))
    if same is not None:
        add(_without_effect(given, config.values, classes[config.class_name], same))
        add(_old_names(config.values, record, same))
    return ConfigReport(tuple(found), (*say_meanings(config.class_name, config.values, record), *say_unread(given, config.ignored)))


def _mistake(problem: Problem) -> Finding:
    return Finding(
        about="config",
        kind="contradiction" if len(problem.keys) > 1 else "wrong",
        what=problem.what,
        where=problem.keys,
        advice=problem.options or None,
        stops=True,
    )


def _unusual(values: Mapping[str, Any], wrong_types: Mapping[str, str]) -> Iterator[Finding]:
    """Find values that diffusers runs with and hardly anybody means: of another type, or sides of a sample that has not as many."""
    sentences = dict(wrong_types)
    size = values.get("sample_size")
    if is_list(size) and len(size) != 2:
        sentences.setdefault("sample_size", f"sample_size is {format_value(size)}: diffusers expects an integer or a list of 2")
    for key, sentence in sentences.items():
        yield Finding(about="config", kind="unusual", what=f"{sentence}, and runs with this", where=(key,))


def _without_effect(given: Mapping[str, Any], values: Mapping[str, Any], defaults: Mapping[str, Any], same: Same) -> Iterator[Finding]:
    """Find keys that were given another value than the default, and whose default makes the same UNet, all of them together.

    And words of which diffusers makes no more than of any other word.
    """
    left = dict(values)
    for key, default in defaults.items():
        value = values.get(key)
        if key not in given or key in _NOT_OF_THE_UNET or is_default(value, default) or is_default(value, None):
            continue
        if same({**left, key: default}):
            left[key] = default
            what = f"{key} is {format_value(value)}, which has no effect: the UNet is the same without it"
            yield Finding(about="config", kind="ignored", what=what, where=(key,), advice=f"remove {key}")
        elif isinstance(value, str) and same({**left, key: f"not {value}"}):
            what = f"{key} is {format_value(value)}: diffusers does not know this value, and runs with it"
            yield Finding(about="config", kind="unusual", what=what, where=(key,))


def is_default(value: Any, default: Any) -> bool:
    """Tell whether a value says no more than the default: it is equal, or a list of nothing else.

    >>> is_default(2, 2), is_default([False, False], False)
    (True, True)
    """
    if is_list(value) and not is_list(default):
        return all(item == default for item in value)
    return bool(list(value) == list(default) if is_list(value) and is_list(default) else value == default)


def _old_names(values: Mapping[str, Any], record: Trace | None, same: Same) -> Iterator[Finding]:
    """Find block types that diffusers builds under another name, which it takes as well."""
    built = {} if record is None else {module.path: module.class_name for module in record.modules}
    for key in ("down_block_types", "mid_block_type", "up_block_types"):
        value, stage = values.get(key), key.partition("_block")[0] + "_block"
        names = value if is_list(value) else [value]
        today = [built.get(f"{stage}s.{place}" if is_list(value) else stage) for place in range(len(names))]
        changed = {old: new for old, new in zip(names, today, strict=True) if old != new and isinstance(old, str)}
        if changed and None not in today and same({**values, key: today if is_list(value) else today[0]}):
            names = joined(dict.fromkeys(changed.values()))
            what = f"{key} has {joined(changed)}, which diffusers takes for {names}"
            yield Finding(about="config", kind="deprecated", what=what, where=(key,), advice=f"use {names}")
