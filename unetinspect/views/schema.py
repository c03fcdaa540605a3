"""`schema`: JSON Schema of everything that `--json` prints, from the records themselves."""

from __future__ import annotations

import re
from inspect import cleandoc
from typing import Any

import msgspec

from unetinspect.record import Checkpoint, Diff, Envelope, ErrorExplanations
from unetinspect.run.cache import CacheInfo
from unetinspect.views.models import ClassList, FoundModels, ModelList

# "    name: What it is," with what continues it on lines that are indented further.
_ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n {8,}.*)*)", re.MULTILINE)


def json_schema() -> dict[str, Any]:
    """Return one schema that every `--json` document of this version matches."""
    documents = [Envelope, Diff, Checkpoint, ErrorExplanations, ModelList, FoundModels, ClassList, CacheInfo]
    references, components = msgspec.json.schema_components(documents, ref_template="#/$defs/{name}")
    for component in components.values():
        _describe_properties(component)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "unetinspect --json",
        "description": "Sections of one trace (trace --json has all of them), what two traces differ in, what a checkpoint is, "
        "what an error means, the catalog, the UNets of a folder, the classes, or the state of the cache.",
        "anyOf": list(references),
        "$defs": components,
    }


def _describe_properties(component: dict[str, Any]) -> None:
    """Move what a record's docstring says of each field to the property that it speaks of, in JSON's words.

    A field that Python may not call so ("with") has an underscore behind it there.
    """
    summary, _, attributes = cleandoc(component.get("description", "")).partition("\n\nAttributes:\n")
    component["description"] = _one_line(summary)
    for name, text in _ATTRIBUTE.findall(attributes):
        component["properties"][name.removesuffix("_")]["description"] = _one_line(text)


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("None", "null")
