"""`schema`: JSON Schema of everything that `--json` prints, from the records themselves."""

from __future__ import annotations

import re
from inspect import cleandoc
from typing import Any

import msgspec

from unetinspect.capturing.captured import Captures, StoredTensor
from unetinspect.record import Checkpoint, Diff, Envelope, ErrorExplanations
from unetinspect.record.run import Excerpt
from unetinspect.run.cache import CacheInfo
from unetinspect.views.models import ClassList, FoundModels, ModelList

# "    name: What it is," with what continues it on lines that are indented further.
_ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n {8,}.*)*)", re.MULTILINE)


def json_schema() -> dict[str, Any]:
    """Return one schema that every `--json` document of this version matches."""
    documents = [
        Envelope,
        Diff,
        Checkpoint,
        list[Checkpoint],
        ErrorExplanations,
        ModelList,
        FoundModels,
        ClassList,
        CacheInfo,
        Captures,
        StoredTensor,
    ]
    references, components = msgspec.json.schema_components(documents, ref_template="#/$defs/{name}")
    kinds = {kind.__name__: kind for kind in Excerpt.__subclasses__()}
    for name, component in components.items():
        _describe(component, kinds.get(name))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "unetinspect --json",
        "description": "Sections of one trace (trace --json has all of them), what two traces differ in, what a checkpoint is, "
        "what an error means, the catalog, the UNets of a folder, the classes, the state of the cache, or a capture.",
        "anyOf": list(references[:-1]),  # a stored tensor is only a part of a capture
        "$defs": components,
    }


def _describe(component: dict[str, Any], excerpt: type[Excerpt] | None) -> None:
    """Move the sentences of a record's docstring to where JSON Schema has them: the record and each property.

    An excerpt's other fields have those of the records that they are from. A field whose name is a keyword of Python ("with")
    ends in an underscore there.
    """
    summary, attributes = _docstring(component.get("description", ""))
    sources = list(excerpt.fields_of if excerpt else ())
    for source in sources:
        attributes = _docstring(cleandoc(source.__doc__ or ""))[1] | attributes
        sources += getattr(source, "fields_of", ())
    component["description"] = summary
    for name, text in attributes.items():
        if name in component["properties"]:
            component["properties"][name]["description"] = text


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    summary, _, attributes = cleandoc(text).partition("\n\nAttributes:\n")
    return _one_line(summary), {name.removesuffix("_"): _one_line(inside) for name, inside in _ATTRIBUTE.findall(attributes)}


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("None", "null")
