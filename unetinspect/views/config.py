"""`config`: every key of a UNet's config, given or filled in by diffusers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from unetinspect.record import ModelInfo
from unetinspect.units import plural
from unetinspect.views.header import header
from unetinspect.views.table import Column, Table

# A page; a cell of megabytes would take minutes to lay out.
_MOST_CHARACTERS = 4000


class ConfigKey(NamedTuple):
    """One key of a config, its value, and where that came from."""

    key: str
    value: Any
    origin: str


def config_table(model: ModelInfo, notes: Sequence[str] = ()) -> Table:
    """Show each key with its value; below, keys that the class does not know, and what the catalog notes of the config."""
    defaults = set(model.config_defaults)
    rows = [
        ConfigKey(key, value, "override" if key in model.config_overrides else "default" if key in defaults else "given")
        for key, value in model.config.items()
    ]
    below = [f"{plural(len(rows) - len(defaults), 'key')} given, {len(defaults)} filled in by diffusers"]
    if model.config_ignored:
        below.append(f"ignored, because {model.class_name} does not know them: {', '.join(model.config_ignored)}")
    below += [f"note: {note}" for note in notes]
    return Table(
        columns=(
            Column("key", lambda row: row.key),
            Column("value", lambda row: _written(row.value), wrap=24),
            Column("from", lambda row: row.origin),
        ),
        rows=rows,
        above=header(model),
        below=below,
        records=[{"key": row.key, "value": json.dumps(row.value), "from": row.origin} for row in rows],
    )


def _written(value: Any) -> str:
    """Write a value as JSON; what would fill pages, by its length."""
    text = json.dumps(value)
    if len(text) <= _MOST_CHARACTERS:
        return text
    return (
        f"{len(value)} entries, which --json writes out"
        if isinstance(value, list)
        else f"{len(text)} characters of JSON, which --json writes out"
    )
