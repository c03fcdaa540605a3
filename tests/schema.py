"""The JSON Schema of what `--json` prints, looked through once in a process."""

from __future__ import annotations

from functools import cache
from typing import Any

import jsonschema

from unetinspect.views.schema import json_schema


def assert_fits_the_schema(document: Any) -> None:
    """Hold that a document is what `schema` says.

    Raises:
        jsonschema.ValidationError: It is not.
    """
    _validator().validate(document)


@cache
def _validator() -> Any:
    schema = json_schema()
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    return kind(schema)
