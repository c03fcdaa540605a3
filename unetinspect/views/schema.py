"""`schema`: JSON Schema of everything that `--json` prints, from the records themselves."""

from __future__ import annotations

from typing import Any

import msgspec

from unetinspect.record import Envelope
from unetinspect.views.models import ClassList, ModelList


def json_schema() -> dict[str, Any]:
    """Return one schema that every `--json` document of this version matches."""
    references, components = msgspec.json.schema_components([Envelope, ModelList, ClassList], ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "unetinspect --json",
        "description": "Sections of one trace (trace --json has all of them), the catalog, or the classes.",
        "anyOf": list(references),
        "$defs": components,
    }
