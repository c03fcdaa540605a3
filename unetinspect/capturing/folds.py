"""Folds maps as they are computed, so that no whole map is ever held unless it is asked for; and joins the calls. Imports torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unetinspect.capturing.products import Product
from unetinspect.capturing.taps import MapTap, Steps
from unetinspect.errors import UsageError

# Alive at once of a chunk, in float32: its scores, their softmax, and what is folded of it.
_COPIES = 3


def axes_of(tap: MapTap) -> tuple[str, ...]:
    """Return the names of the axes of `folded`."""
    names = {"image": True, "head": tap.heads is None, "query": tap.queries != "mean", "token": True}
    return tuple(name for name, kept in names.items() if kept)


def folded(product: Product, rows: range, tap: MapTap, grid: tuple[int, int] | None, budget: int) -> Tensor:
    """Return the probabilities of some rows of a product, folded, with the axes of `axes_of`, in float32.

    They are computed for a few queries at a time, of all heads, in chunks of `budget` bytes.

    Raises:
        UsageError: A query or a token is not in the map.
    """
    _, heads, queries, keys = product.shape
    places = _places(tap, grid)
    tokens = _tokens(tap, keys, product.query.device)
    count = queries if places is None else len(places)
    at_once = max(1, budget // (heads * keys * 4 * _COPIES))  # queries
    images = max(1, at_once // count)
    kept: list[Tensor] = []
    for first in range(0, len(rows), images):
        image = slice(rows[first], rows[min(first + images, len(rows)) - 1] + 1)
        for start in range(0, count, at_once):
            query = slice(start, min(start + at_once, count))
            chosen = query if places is None else torch.tensor(places[query], device=product.query.device)
            chunk = product.probabilities(image, chosen)[..., tokens]
            if tap.heads is not None:
                chunk = chunk.mean(1) if tap.heads == "mean" else chunk.amax(1) if tap.heads == "max" else chunk.var(1, correction=0)
            if tap.queries == "mean":
                chunk, query = chunk.sum(-2, keepdim=True) / count, slice(None)
            if not kept:
                kept.append(chunk.new_zeros((len(rows), *chunk.shape[1:-2], 1 if tap.queries == "mean" else count, chunk.shape[-1])))
            kept[0][first : first + images, ..., query, :] += chunk
    return kept[0].squeeze(-2) if tap.queries == "mean" else kept[0]


def _places(tap: MapTap, grid: tuple[int, int] | None) -> list[int] | None:
    """Return the places of the queries to keep; None: all."""
    if tap.queries is None or tap.queries == "mean":
        return None
    if grid is None:
        raise UsageError(
            "queries=[(y, x), ...] needs queries that are a grid of pixels", hint='queries=None or "mean" goes for every layer'
        )
    height, width = grid
    for y, x in tap.queries:
        if not (0 <= y < height and 0 <= x < width):
            raise UsageError(
                f"query ({y}, {x}) is outside the {height}x{width} grid of a layer", hint="tokens_at= selects layers with one grid"
            )
    return [y * width + x for y, x in tap.queries]


def _tokens(tap: MapTap, keys: int, device: torch.device) -> Any:
    if isinstance(tap.tokens, slice):
        return tap.tokens
    outside = next((token for token in tap.tokens if not -keys <= token < keys), None)
    if outside is not None:
        raise UsageError(f"token {outside} is not one of the {keys} of a layer", hint='kind="cross" selects the layers that read the text')
    return torch.tensor(tap.tokens, device=device)


class Joined:
    """The tensors of several calls of a UNet, joined as they come."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._kept: list[Tensor] = []
        self._count = 0

    def add(self, tensor: Tensor) -> None:
        """Take the tensor of one more call."""
        self._count += 1
        if self._steps is None or not self._kept:
            self._kept.append(tensor)
        elif self._steps == "last":
            self._kept = [tensor]
        else:
            # In place, where no loss needs the earlier sum: two of a large map would be alive otherwise.
            self._kept = [self._kept[0] + tensor if tensor.requires_grad else self._kept[0].add_(tensor)]

    @property
    def tensor(self) -> Tensor:
        """What is kept, with the step axis first if each call is kept."""
        if self._steps is None:
            return torch.stack(self._kept)
        return self._kept[0] / self._count if self._steps == "mean" else self._kept[0]
