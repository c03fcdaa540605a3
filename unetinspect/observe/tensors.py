"""The tensors among the arguments of a call or an operation, and a table with an entry for each tensor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, TypeVar
from weakref import ref

import torch
from torch import Tensor

_Known = TypeVar("_Known")


def tensors_in(value: Any) -> list[Tensor]:
    """List the tensors in a value: itself, or inside tuples, lists and dicts (diffusers' outputs are dicts)."""
    if isinstance(value, Tensor):
        return [value]
    found: list[Tensor] = []
    _collect((value,), found)
    return found


def _collect(values: Iterable[Any], found: list[Tensor]) -> None:
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            _collect(value, found)
        elif isinstance(value, dict):
            _collect(value.values(), found)


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype's name without torch's: "float32"."""
    return str(dtype).removeprefix("torch.")


class TensorTable(Generic[_Known]):
    """An entry for each tensor, by identity, while it is alive. The table keeps no tensor alive.

    An id is used again after its tensor is gone, so each entry has a weak reference and counts only for the tensor that
    this still refers to. Entries of dead tensors remain until their ids are used again: there are never more of them than
    tensors were alive at once. (torch's own WeakTensorKeyDictionary does the same at several times the cost.)
    """

    def __init__(self) -> None:
        self._entries: dict[int, tuple[ref[Tensor], _Known]] = {}

    def get(self, tensor: Tensor) -> _Known | None:
        """Return the entry of a tensor, None if it has none."""
        entry = self._entries.get(id(tensor))
        return entry[1] if entry is not None and entry[0]() is tensor else None

    def __setitem__(self, tensor: Tensor, known: _Known) -> None:
        self._entries[id(tensor)] = (ref(tensor), known)
