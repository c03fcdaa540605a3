"""Files that are written whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, *, suffix: str = "") -> Iterator[tuple[int, Path]]:
    """Give an open file beside `path`, as (descriptor, its path), that takes its place when the block has ended.

    So nobody ever sees `path` half-written; where the block raises, it stays as it was and nothing is left beside it. The
    block closes the descriptor.

    Raises:
        OSError: There is no file to be made there, or none to be replaced.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=suffix)
    beside = Path(name)
    try:
        yield handle, beside
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
