"""Folds maps as they are computed, so that no whole map is ever held unless it is asked for. Imports torch."""

from __future__ import annotations

import torch
from torch import Tensor

from unetinspect.capturing.products import Product
from unetinspect.capturing.taps import MapTap
from unetinspect.errors import UsageError

# Alive at once of a chunk, in float32: its scores, their softmax, and what is folded of it.
_COPIES = 3


def axes_of(tap: MapTap) -> tuple[str, ...]:
    """Return the names of the axes of `folded`."""
    names = {"image": True, "head": tap.heads is None, "query": tap.queries != "mean", "token": True}
    return tuple(name for name, kept in names.items() if kept)


def folded(product: Product, rows: range, tap: MapTap, tokens: tuple[int, ...] | None, grid: tuple[int, int] | None, budget: int) -> Tensor:
    """Return the probabilities of some rows of a product, folded, with the axes of `axes_of`, in float32.

    They are computed for a few queries at a time, of all heads, in chunks of `budget` bytes.

    Raises:
        UsageError: A query is not in the map.
    """
    _, heads, queries, keys = product.shape
    places = _places(tap, grid)
    chosen_tokens = slice(None) if tokens is None else torch.tensor(tokens, device=product.query.device)
    count = queries if places is None else len(places)
    at_once = max(1, budget // (heads * keys * 4 * _COPIES))  # queries
    images = max(1, at_once // count)
    kept: list[Tensor] = []
    for first in range(0, len(rows), images):
        image = slice(rows[first], rows[min(first + images, len(rows)) - 1] + 1)
        for start in range(0, count, at_once):
            query = slice(start, min(start + at_once, count))
            chosen = query if places is None else torch.tensor(places[query], device=product.query.device)
            chunk = product.probabilities(image, chosen)[..., chosen_tokens]
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


def kept_tokens(tap: MapTap, product: Product, number: int) -> tuple[int, ...] | None:
    """Return the positions of the keys to keep; None: all, as of image adapters, to whose keys the tokens of a text do not apply.

    Raises:
        UsageError: A token is not in the map.
    """
    keys = product.shape[3]
    if number > 0 or tap.tokens == slice(None):
        return None
    tokens = tuple(range(keys))[tap.tokens] if isinstance(tap.tokens, slice) else tap.tokens
    outside = next((token for token in tokens if token not in range(keys)), None)
    if outside is not None:
        raise UsageError(f"token {outside} is not one of the {keys} of a layer", hint='kind="cross" selects the layers that read the text')
    return tokens
