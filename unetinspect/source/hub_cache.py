"""The hub's cache on this machine, in the layout that its client and diffusers share.

models--org--name/refs/main                     the commit that the branch stood at
models--org--name/blobs/<etag>                  the contents
models--org--name/snapshots/<commit>/<path>     a link to them
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from unetinspect.files import replacing


def cached_file(repo_id: str, path: str, revision: str) -> Path | None:
    """Return the copy of a file at a revision; None where there is none."""
    from huggingface_hub import try_to_load_from_cache

    try:
        file = try_to_load_from_cache(repo_id, path, revision=revision)
    except (OSError, ValueError):  # a folder that may not be listed, a name that none could have
        return None
    return Path(file) if isinstance(file, str) else None


def commit_of(file: Path) -> str:
    """Return the commit of a copy: .../snapshots/<commit>/unet/config.json."""
    parts = file.parts
    return parts[len(parts) - parts[::-1].index("snapshots")]


def keep_file(repo_id: str, path: str, raw: bytes, *, revision: str, commit: str, etag: str) -> None:
    """Keep a file that was fetched whole. Nobody ever sees a half of it, and another run may do the same at the same time.

    Raises:
        OSError: The cache cannot be written.
    """
    from huggingface_hub import constants

    root = Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"
    blob = root / "blobs" / etag
    link = root / "snapshots" / commit / path
    if not blob.is_file():
        _write(blob, raw)
    if not link.is_file():
        _link(link, blob, raw, depth=len(PurePosixPath(path).parts) + 1)
    # Last: a branch is of use only when there is something at its commit.
    if revision != commit:
        _write(root / "refs" / revision, commit.encode())


def _write(path: Path, raw: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as (handle, beside):
        with os.fdopen(handle, "wb") as stream:
            stream.write(raw)
        # Temporary files are their owner's alone, and a cache may be shared: who may list the folder may read the file.
        beside.chmod(path.parent.stat().st_mode & 0o666)


def _link(link: Path, blob: Path, raw: bytes, *, depth: int) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    target = Path(*[".."] * depth, "blobs", blob.name)
    try:
        link.symlink_to(target)
    except FileExistsError:
        if not link.is_file():  # it points to nothing; else another run was as fast
            link.unlink(missing_ok=True)
            link.symlink_to(target)
    except OSError:  # a file system without links: the client, too, then keeps a copy
        _write(link, raw)
