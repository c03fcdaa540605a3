"""Sections of a record as pandas DataFrames. pandas is the user's own: it is imported where it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from unetinspect.errors import UsageError, nearest_names
from unetinspect.record import Attention, InputInfo, Module, OutputInfo, Port, Skip, Stage, Trace

if TYPE_CHECKING:
    import pandas as pd

SECTIONS: dict[str, type[msgspec.Struct]] = {
    "stages": Stage,
    "skips": Skip,
    "attentions": Attention,
    "modules": Module,
    "ports": Port,
    "outputs": OutputInfo,
    "inputs": InputInfo,
}


def to_dataframe(trace: Trace, section: str) -> pd.DataFrame:
    """Return one section of a record, a row for each of its records.

    Raises:
        UsageError: There is no such section, or no pandas.
    """
    if section not in SECTIONS:
        close = nearest_names(str(section), list(SECTIONS), count=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise UsageError(f"a trace has no section {section!r} of many records", hint=f"{meant}it has {', '.join(SECTIONS)}")
    try:
        import pandas as pd
    except ModuleNotFoundError as error:
        if error.name != "pandas":
            raise
        raise UsageError("a DataFrame takes pandas, which is not installed", hint="pip install pandas") from None
    records: Sequence[Any] = trace.run.inputs if section == "inputs" else getattr(trace, section)
    if not records:
        return pd.DataFrame(columns=[field.encode_name for field in msgspec.structs.fields(SECTIONS[section])])
    return pd.json_normalize([_with_tuples(msgspec.to_builtins(record)) for record in records])


def _with_tuples(value: Any) -> Any:
    """Make lists tuples again, which can be compared, sorted and grouped by."""
    if isinstance(value, dict):
        return {name: _with_tuples(inner) for name, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list | tuple) else value
