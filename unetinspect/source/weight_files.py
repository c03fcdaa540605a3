"""Files of weights by their names: which are read, which are pickles, where diffusers puts a UNet's, what an index lists."""

from __future__ import annotations

from collections.abc import Mapping
from posixpath import join
from typing import Any

from unetinspect.errors import SourceError

INDEX_SUFFIX = ".safetensors.index.json"
# What torch writes, in a zip or not. Reading one runs what is in it.
PICKLES = (".ckpt", ".bin", ".pt", ".pth", ".pkl", ".pickle")

_MAX_SHARDS = 200
_UNET_NAMES = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    f"diffusion_pytorch_model{INDEX_SUFFIX}",
)
_ROOT_NAMES = (*_UNET_NAMES, "model.safetensors")


def is_weights(path: str) -> bool:
    """Return whether a path is by its name that of a safetensors file, or of an index of several.

    >>> is_weights("unet/x.safetensors"), is_weights("x.safetensors.index.json"), is_weights("x.ckpt")
    (True, True, False)
    """
    return path.lower().endswith((".safetensors", INDEX_SUFFIX))


def is_pickle(path: str) -> bool:
    """Return whether a path is by its name that of a pickle."""
    return path.lower().endswith(PICKLES)


def pickle_error(what: str, *, hint: str = "give the .safetensors of the same model") -> SourceError:
    """Return why a file that is a pickle is not opened."""
    return SourceError(f"{what} is a pickle; pickles can execute code, so they are never opened", hint=hint)


def weight_paths(folder: str | None) -> tuple[str, ...]:
    """Return where the weights of a UNet may lie, most likely first; `folder` None: in "unet" or at the root.

    >>> weight_paths("unet")[1]
    'unet/diffusion_pytorch_model.fp16.safetensors'
    """
    inside = tuple(join("unet" if folder is None else folder, name) for name in (_ROOT_NAMES if folder == "" else _UNET_NAMES))
    return inside + (_ROOT_NAMES if folder is None else ())


def shard_names(index: Mapping[str, Any], *, what: str) -> list[str]:
    """Return the files that an index lists, each by its name in the index's own folder.

    Raises:
        SourceError: It is not an index, or lists too many files or one in another folder.
    """
    mapping = index.get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise SourceError(
            f"{what} is not a weights index: it has no weight_map", hint="give the .safetensors.index.json, or one .safetensors"
        )
    names: list[Any] = sorted(dict.fromkeys(str(name) for name in mapping.values()))
    if len(names) > _MAX_SHARDS:
        raise SourceError(f"{what} lists {len(names)} files, and at most {_MAX_SHARDS} are read", hint="give one of its .safetensors files")
    for name in names:
        if any(mark in name for mark in ("/", "\\", ":", "\0")) or name in (".", "..", "") or len(name) > 255:
            raise SourceError(
                f"{what}: its index points out of its own folder, to {name[:80]!r}",
                hint="such an index is not followed; give one .safetensors",
            )
        if is_pickle(name):
            raise pickle_error(f"{name[:80]!r}, which {what} lists,")
        if not name.endswith(".safetensors"):
            raise SourceError(f"{what} lists {name[:80]!r}, which is not a .safetensors file", hint="give one .safetensors file")
    return names
