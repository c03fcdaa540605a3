"""What is wrong, unread or old in a config, everything at once, and what its keys mean in this UNet. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from unetinspect.check.deprecated import find_deprecated
from unetinspect.check.ignored import find_ignored
from unetinspect.check.meanings import say_meanings
from unetinspect.check.problems import sort_problems
from unetinspect.check.unknown import find_unknown, say_unread
from unetinspect.record.check import Finding, KeyMeaning

__all__ = ["ConfigReport", "find_in_config"]


class ConfigReport(NamedTuple):
    """What was found in a config.

    Attributes:
        findings: What is wrong with it, or has no effect, all of it.
        meanings: Keys whose names say something else than what they do in this UNet.
    """

    findings: tuple[Finding, ...]
    meanings: tuple[KeyMeaning, ...]


def find_in_config(
    class_name: str,
    given: Mapping[str, Any],
    values: Mapping[str, Any],
    *,
    ignored: Sequence[str],
    problems: Sequence[str],
    classes: Mapping[str, Mapping[str, Any]],
    diffusers_version: str,
) -> ConfigReport:
    """Find everything that there is to say of a config.

    `given` is the config as it was written, `values` every key of the class with the defaults filled in, `ignored` the given
    keys that the class does not know, `problems` the sentences on what diffusers cannot build or run; `classes` holds the keys
    of every class with their defaults, `diffusers_version` is the installed one. Values may be of any type: what nothing can be
    made of is passed over here, and is for `problems` to name.
    """
    findings = (
        *sort_problems(values, problems),
        *find_unknown(class_name, given, ignored, classes, diffusers_version),
        *find_ignored(class_name, given, values, classes.get(class_name, {}), problems),
        *find_deprecated(class_name, values, problems),
    )
    meanings = (*say_meanings(class_name, values), *say_unread(given, ignored))
    return ConfigReport(findings, meanings)
