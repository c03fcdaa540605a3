"""What is wrong, unknown, unusual, without effect or deprecated in a config, all at once, and what its keys mean. Imports diffusers."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from math import gcd
from typing import Any, NamedTuple

import diffusers

from unetinspect.checking.meanings import say_meanings
from unetinspect.errors import Problem
from unetinspect.record import Trace
from unetinspect.record.check import Finding, KeyMeaning
from unetinspect.run.resolve import ResolvedConfig, class_keys, diffusers_class
from unetinspect.run.suspects import unknown_keys, wrong_types
from unetinspect.unets.builder import is_count, is_list
from unetinspect.unets.unknown_keys import harmless_keys
from unetinspect.units import format_value, joined

Same = Callable[[Mapping[str, Any]], bool]
"""Whether diffusers makes the same UNet from other values."""

# Pipelines read them, so they are fine in a UNet that ignores them.
_NOT_OF_THE_UNET = ("sample_size", "sample_rate", "num_frames", "out_channels")


class ConfigReport(NamedTuple):
    """What was found in a config.

    Attributes:
        findings: Everything that is wrong with it or has no effect.
        meanings: What keys with misleading names do in this UNet.
    """

    findings: tuple[Finding, ...]
    meanings: tuple[KeyMeaning, ...]


def find_in_config(
    config: ResolvedConfig,
    given: Mapping[str, Any],
    *,
    mistakes: Sequence[Problem] = (),
    same: Same | None = None,
    record: Trace | None = None,
) -> ConfigReport:
    """Find everything that is wrong with a config, and what its keys mean.

    `given` is the config as it was written, `mistakes` keep the UNet from running. `same` compares UNets, `record` is a pass of
    this one; without them less is found.
    """
    harmless = harmless_keys(config.ignored)
    found = [*map(_mistake, mistakes), *_unknown(config, given, harmless)]

    def add(findings: Iterator[Finding]) -> None:
        """Add findings on keys that have none yet."""
        known = {key for finding in found for key in finding.where}
        found.extend(finding for finding in findings if not known & set(finding.where))

    add(_unusual(config))
    if record is not None:
        add(_rounded_down(config.values, record))
    if same is not None:
        add(_without_effect(given, config.values, class_keys()[config.class_name], same))
        add(_old_names(config.values, record, same))
    unread = [KeyMeaning(key=key, value=given.get(key), meaning=meaning) for key, meaning in harmless.items()]
    return ConfigReport(tuple(found), (*say_meanings(config.class_name, config.values, record), *unread))


def _mistake(problem: Problem) -> Finding:
    kind: Any = "contradiction" if len(problem.keys) > 1 else "wrong"
    return Finding(about="config", kind=kind, what=problem.what, where=problem.keys, advice=problem.options or None, stops=True)


def _unknown(config: ResolvedConfig, given: Mapping[str, Any], harmless: Container[str]) -> Iterator[Finding]:
    """Find keys that this diffusers' class ignores, each with its origin and the key that it may be meant for."""
    saved, installed = given.get("_diffusers_version"), diffusers.__version__
    numbers = [[int(number) for number in re.findall(r"\d{1,9}", str(each))[:3]] for each in (saved, installed)]
    newer = saved if isinstance(saved, str) and numbers[0] > numbers[1] else None
    for unknown in unknown_keys(config, given):
        if unknown.key in harmless:
            continue
        what, advice = unknown._replace(meant=None).sentence(config.class_name), unknown.advice(given)
        if newer and not unknown.origin:
            what += f" in diffusers {installed}; the config is from diffusers {newer}"
            advice += f", or install diffusers {newer}"
        yield Finding(about="config", kind="unknown", what=what, where=(unknown.key,), advice=advice)


def _unusual(config: ResolvedConfig) -> Iterator[Finding]:
    """Find odd values that diffusers runs: of another type, or a sample_size of more than two sides."""
    sentences = wrong_types(diffusers_class(config.class_name).__init__, config.values)
    size = config.values.get("sample_size")
    if is_list(size) and len(size) != 2:
        sentences.setdefault("sample_size", f"sample_size is {format_value(size)}: diffusers expects an integer or a list of 2")
    for key, sentence in sentences.items():
        yield Finding(about="config", kind="unusual", what=f"{sentence}, and runs with this", where=(key,))


def _rounded_down(values: Mapping[str, Any], record: Trace) -> Iterator[Finding]:
    """Find heads that do not divide the channels of a block: diffusers rounds down, and the channels that are left have no part in it."""
    modules = {module.path: module for module in record.modules}
    stages: dict[tuple[int, int], dict[str, None]] = {}
    counts: set[int] = set()
    for layer in record.attentions:
        used, path = layer.heads * layer.head_dim, layer.path
        while path not in ("", layer.stage):  # the layer, or the transformer around it
            shape = modules[path].in_shape or (used,)
            channels = shape[1] if len(shape) > 3 else shape[-1]
            if 0 < channels - used < max(layer.heads, layer.head_dim):
                stages.setdefault((used, channels), {})[layer.stage] = None
                counts |= {layer.heads, layer.head_dim}
            path = path.rpartition(".")[0]
    if stages:
        numbers = {key: value if is_list(value) else [value] for key, value in values.items() if "head" in key}
        keys = [key for key, own in numbers.items() if any(count in own for count in counts)]
        found = ", ".join(f"{used} of {channels} channels in {joined(names)}" for (used, channels), names in stages.items())
        subject = f"{keys[0]} is {format_value(values[keys[0]])}: " if keys else ""
        widths = list(dict.fromkeys(channels for _, channels in stages))
        advice = f"use a divisor of {joined(widths)}"
        if keys and is_count(given := values[keys[0]]):
            shared = gcd(*widths)
            advice += f", such as {min((n for n in range(1, shared + 1) if shared % n == 0), key=lambda n: abs(n - given))}"
        yield Finding(about="config", kind="unusual", what=f"{subject}attention uses only {found}", where=tuple(keys), advice=advice)


def _without_effect(given: Mapping[str, Any], values: Mapping[str, Any], defaults: Mapping[str, Any], same: Same) -> Iterator[Finding]:
    """Find keys whose default makes the same UNet as their value does, all together; and words that any other word can replace."""
    left = dict(values)
    for key, default in defaults.items():
        value = values.get(key)
        if key not in given or key in _NOT_OF_THE_UNET or _is_default(value, default) or _is_default(value, None):
            continue
        if same({**left, key: default}):
            left[key] = default
            what = f"{key} is {format_value(value)}, which has no effect: the UNet is the same without it"
            yield Finding(about="config", kind="ignored", what=what, where=(key,), advice=f"remove {key}")
        elif isinstance(value, str) and same({**left, key: f"not {value}"}):
            what = f"{key} is {format_value(value)}: diffusers does not know this value, and runs with it"
            yield Finding(about="config", kind="unusual", what=what, where=(key,))


def _is_default(value: Any, default: Any) -> bool:
    """Whether a value says no more than the default: it is equal, or a list of nothing else.

    >>> _is_default(2, 2), _is_default([False, False], False)
    (True, True)
    """
    return all(item == default for item in value) if is_list(value) and not is_list(default) else bool(value == default)


def _old_names(values: Mapping[str, Any], record: Trace | None, same: Same) -> Iterator[Finding]:
    """Find block types under deprecated names: diffusers builds the same under another."""
    built = {} if record is None else {module.path: module.class_name for module in record.modules}
    for key in ("down_block_types", "mid_block_type", "up_block_types"):
        value, stage = values.get(key), key.partition("_block")[0] + "_block"
        names = value if is_list(value) else [value]
        today = [built.get(f"{stage}s.{place}" if is_list(value) else stage) for place in range(len(names))]
        changed = {old: new for old, new in zip(names, today, strict=True) if old != new and isinstance(old, str)}
        if changed and None not in today and same({**values, key: today if is_list(value) else today[0]}):
            names = joined(dict.fromkeys(changed.values()))
            what = f"{key} has {joined(changed)}, which diffusers reads as {names}"
            yield Finding(about="config", kind="deprecated", what=what, where=(key,), advice=f"use {names}")
