"""Attention products as they are computed inside a layer, and their probabilities beside them. Imports torch.

Fused, a product is one call of `scaled_dot_product_attention`. In three steps (legacy and sliced processors) it is a batched
product, a softmax over it, and a product of that with the values. The very same calls go through; only a change replaces
their result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from unetinspect.errors import UsageError
from unetinspect.observe.tensors import TensorTable

# What is called with a product; it returns what changes its probabilities, or None.
OnProduct: TypeAlias = "Callable[[Product], Callable[[Tensor], Tensor] | None]"

_PRODUCTS = {torch.bmm, torch.Tensor.bmm, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.baddbmm, torch.Tensor.baddbmm}
_SOFTMAXES = {torch.softmax, torch.Tensor.softmax, functional.softmax}
_CASTS = {torch.Tensor.to, torch.Tensor.float, torch.Tensor.type}


@contextmanager
def own_arithmetic(device: torch.device, *, grad: bool) -> Iterator[None]:
    """Compute in float32 and unseen by other captures, with results that can be changed outside inference mode."""
    with (
        torch._C.DisableTorchFunction(),
        torch.inference_mode(mode=False),
        torch.autocast(device.type if torch.amp.is_autocast_available(device.type) else "cpu", enabled=False),
        torch.set_grad_enabled(grad),
    ):
        yield


@dataclass(frozen=True)
class Product:
    """The operands of one attention product, or its scores, where something was done to them before the softmax.

    Attributes:
        query: (batch, heads, queries, head_dim).
        key: (batch, heads, keys, head_dim).
        scale: The factor of Q Kᵀ.
        mask: What is added to the scores, or, if boolean, which of them count; of a shape that expands to
            (batch, heads, queries, keys).
        scores: (batch, heads, queries, keys); None: they are those of the operands.
    """

    query: Tensor
    key: Tensor
    scale: float = 1.0
    mask: Tensor | None = None
    scores: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, heads, queries, keys)."""
        batch, heads, queries, keys = (*self.query.shape[:3], self.key.shape[2]) if self.scores is None else self.scores.shape
        return batch, heads, queries, keys

    def probabilities(self, images: slice = slice(None), queries: slice | Tensor = slice(None)) -> Tensor:
        """Return the probabilities of some images and queries, (images, heads, queries, keys), in float32."""
        if self.scores is not None:
            return self.scores[images, :, queries].float().softmax(-1)
        # The scale goes into the queries: they are far fewer numbers than the scores.
        scores = self.query[images, :, queries].float() * self.scale @ self.key[images].float().transpose(-1, -2)
        if self.mask is not None:
            mask = self.mask.expand(self.shape)[images, :, queries]
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.float()
        return scores.softmax(-1)


class ProductWatch(TorchFunctionMode):
    """Sees the attention products while one attention layer runs.

    `on_product` is called with each, and returns what changes its probabilities, or None. `batch` and `heads` are those of the
    layer: a softmax over fewer maps is one slice of a product. Probabilities are changed only as a whole.
    """

    def __init__(
        self, on_product: Callable[[Product], Callable[[Tensor], Tensor] | None], *, batch: int, heads: int, changes: bool
    ) -> None:
        super().__init__()
        self._on_product = on_product
        self._whole, self._heads = batch * heads, heads
        self._changes = changes
        self._operands: TensorTable[tuple[Any, ...]] = TensorTable()  # of the scores that a product returned
        self._slices: list[Product] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)  # always the very same call, which an outer capture sees too
        if func is functional.scaled_dot_product_attention:
            return self._fused(output, *args, **kwargs)
        if func in _SOFTMAXES:
            return self._softmax(output, args[0] if args else kwargs["input"], args[1] if len(args) > 1 else kwargs.get("dim"))
        if func in _PRODUCTS and output.ndim >= 3:
            add, left, right = args if len(args) == 3 else (None, *args)
            alpha, beta = kwargs.get("alpha", 1), kwargs.get("beta", 1)
            self._operands[output] = (_computed(left), _computed(right), alpha, None if add is None or beta == 0 else add * beta)
        elif func in _CASTS and (operands := self._operands.get(args[0])) is not None and output is not args[0]:
            self._operands[output] = operands
        return output

    def finish(self) -> None:
        """Hand over the slices that are left: perturbed-attention guidance attends in a part of the batch alone."""
        if self._slices:
            slices, self._slices = self._slices, []
            self._on_product(_joined(slices, self._heads))

    def _fused(
        self,
        output: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Watch `scaled_dot_product_attention`, whose arguments these are."""
        query, key, value = (_four_axes(_computed(operand), self._heads) for operand in (query, key, value))
        if enable_gqa:
            key, value = (operand.repeat_interleave(query.shape[1] // operand.shape[1], 1) for operand in (key, value))
        if is_causal:
            attn_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
        product = Product(query, key, query.shape[-1] ** -0.5 if scale is None else scale, attn_mask)
        change = self._on_product(product)
        if change is None:
            return output
        with own_arithmetic(query.device, grad=torch.is_grad_enabled()):
            changed = functional.dropout(change(product.probabilities()), dropout_p)
            return (changed @ value.float()).to(output.dtype).reshape(output.shape)

    def _softmax(self, output: Tensor, scores: Tensor, dim: int | None) -> Tensor:
        """Watch a softmax over scores: its result is the probabilities."""
        if scores.ndim < 3 or dim not in (-1, scores.ndim - 1):
            return output
        four = _four_axes(scores, self._heads)
        operands = self._operands.get(scores)
        if operands is None:
            product = Product(four, four, scores=four)
        else:
            left, right, scale, add = operands
            query, key = _four_axes(left, self._heads), _four_axes(right.transpose(-1, -2), self._heads)
            product = Product(query, key, scale, None if add is None else _four_axes(add, self._heads))
        if self._slices or four.shape[0] * four.shape[1] < self._whole:
            if self._changes:
                raise UsageError(
                    "probabilities can be changed only as a whole, not slice by slice", hint="pipe.disable_attention_slicing()"
                )
            self._slices.append(product)
            if sum(part.shape[0] * part.shape[1] for part in self._slices) >= self._whole:
                self.finish()
            return output
        change = self._on_product(product)
        if change is None:
            return output
        with own_arithmetic(output.device, grad=torch.is_grad_enabled()):
            return change(output.float().reshape(four.shape)).to(output.dtype).reshape(output.shape)


def _computed(operand: Tensor) -> Tensor:
    """Return an operand of a product in the dtype in which autocast computes it."""
    device = operand.device.type
    if device == "meta" or not torch.is_autocast_enabled(device) or not operand.is_floating_point():
        return operand
    return operand.to(torch.get_autocast_dtype(device))


def _four_axes(tensor: Tensor, heads: int) -> Tensor:
    """Return (batch, heads, tokens, dim) of (batch * heads, tokens, dim); a part of the heads of an image as (maps, 1, ...)."""
    if tensor.ndim == 4:
        return tensor
    maps = tensor.shape[0]
    return tensor.reshape(maps // heads, heads, *tensor.shape[1:]) if maps % heads == 0 else tensor.unsqueeze(1)


def _joined(slices: Sequence[Product], heads: int) -> Product:
    """Join the slices of one product, each of some of its maps."""

    def join(tensors: Sequence[Tensor | None]) -> Any:
        whole = [tensor.flatten(0, 1) for tensor in tensors if tensor is not None]
        return _four_axes(torch.cat(whole), heads) if whole else None

    with own_arithmetic(slices[0].query.device, grad=torch.is_grad_enabled()):
        query = join([part.query for part in slices])
        masks = [None if part.mask is None else part.mask.expand(part.shape) for part in slices]
        key, mask, scores = join([part.key for part in slices]), join(masks), join([part.scores for part in slices])
    return Product(query, key, slices[0].scale, mask, scores)
