"""`cache`: where records are kept, and how many."""

from __future__ import annotations

from unetinspect.run.cache import CacheInfo
from unetinspect.units import format_bytes, plural
from unetinspect.views.table import Table


def cache_table(info: CacheInfo) -> Table:
    """Show the state of the cache in a few lines."""
    lines = [f"records are kept in {info.folder}"]
    if info.removed is not None:
        lines.append(f"removed: {plural(info.removed, 'record')}")
    else:
        lines.append(f"{plural(info.records, 'record')}, {format_bytes(info.bytes)} of at most {format_bytes(info.limit_bytes)}")
    if not info.writable:
        lines.append("the folder cannot be written to: nothing is kept (UNETINSPECT_CACHE names another)")
    return Table(columns=(), rows=(), above=lines, records=(info,))
