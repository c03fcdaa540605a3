"""Attention maps, and what others compute of them, by processors and patches of a copy of the UNet: nothing of this package."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from diffusers.models import attention_processor as processors
from diffusers.models.embeddings import AttentionPooling
from diffusers.models.unets.unet_1d_blocks import SelfAttention1d
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

Floats = NDArray[np.float64]
Edit = Callable[[nn.Module, Tensor], Tensor]


class Reference:
    """A copy of a UNet that computes attention in three steps, and keeps every map.

    Attributes:
        unet: The copy, with diffusers' own unfused processors where there are such, and torch's documented formula elsewhere.
        maps: (batch * heads, queries, keys) of each product of each pass, by the path of the layer, in order.
    """

    def __init__(self, unet: nn.Module, edit: Edit = lambda _, probs: probs) -> None:
        self.unet: Any = deepcopy(unet)
        self.maps: dict[str, list[Tensor]] = defaultdict(list)
        for path, module in self.unet.named_modules():
            keep = partial(self._keep, path, module, edit)
            own = vars(module)
            if isinstance(module, processors.Attention):
                module.set_processor(_unfused(module.processor))
                own["get_attention_scores"] = _followed_by(module.get_attention_scores, keep)
                patch = partial(mock.patch.object, functional, "scaled_dot_product_attention", partial(_attend, keep))
                own["forward"] = _within(patch, module.forward)
            elif isinstance(module, AttentionPooling | SelfAttention1d):
                own["forward"] = _within(partial(mock.patch, "torch.softmax", _followed_by(torch.softmax, keep)), module.forward)

    def _keep(self, path: str, module: nn.Module, edit: Edit, probs: Tensor) -> Tensor:
        edited = edit(module, probs)
        self.maps[path].append(probs.flatten(0, -3))
        return edited


def _unfused(processor: Any) -> Any:
    name = type(processor).__name__
    if name not in ("AttnProcessor2_0", "AttnAddedKVProcessor2_0", "IPAdapterAttnProcessor2_0"):
        return processor
    kind = getattr(processors, name.removesuffix("2_0"))
    if not isinstance(processor, nn.Module):
        return kind()
    unfused = kind(processor.hidden_size, processor.cross_attention_dim, processor.num_tokens, processor.scale)
    unfused.load_state_dict(processor.state_dict())
    return unfused


def _followed_by(function: Callable[..., Tensor], then: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda *args, **kwargs: then(function(*args, **kwargs))


def _within(patch: Callable[[], Any], function: Callable[..., Any]) -> Callable[..., Any]:
    def patched(*args: Any, **kwargs: Any) -> Any:
        with patch():
            return function(*args, **kwargs)

    return patched


def _attend(
    keep: Callable[[Tensor], Tensor], query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any
) -> Tensor:
    scores = query @ key.mT / query.shape[-1] ** 0.5
    return keep((scores if attn_mask is None else scores + attn_mask).softmax(-1)) @ value


def word_swap(module: Any, probs: Tensor) -> Tensor:
    """Edit as prompt-to-prompt does: in cross-attention, the last of four rows takes the maps of the row before it."""
    if not module.is_cross_attention:
        return probs
    rows = probs.unflatten(0, (4, -1))
    return torch.cat([rows[:3], rows[2:3]]).flatten(0, 1)


def attend_and_excite(maps: list[Tensor], token: int) -> Tensor:
    """Return the loss of Attend-and-Excite: 1 less the maximum of a token's smoothed map, averaged over layers.

    maps  each (queries, tokens) of a square grid, the mean over heads of the conditional row
    """
    mean = torch.stack(maps).mean(0)[:, token]
    side = int(len(mean) ** 0.5)
    x = torch.arange(3.0) - 1
    kernel = torch.exp(-(x[:, None] ** 2 + x**2) / (2 * 0.5**2))
    padded = functional.pad(mean.reshape(1, 1, side, side), (1, 1, 1, 1), mode="reflect")
    return 1 - functional.conv2d(padded, (kernel / kernel.sum())[None, None]).max()


def without_skip(skip_channels: int) -> Callable[..., Any]:
    """Return a forward pre-hook that ablates the skip of a resnet: the last channels of its input."""

    def zero(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        kept = args[0].clone()
        kept[:, -skip_channels:] = 0
        return (kept, *args[1:])

    return zero


def daam(maps: Sequence[Floats], grids: Sequence[tuple[int, int]], tokens: Sequence[int], *, size: tuple[int, int]) -> Floats:
    """Return DAAM's heat map: the maps of tokens, scaled up and clipped at 0, averaged over layers and tokens.

    maps  each (queries, tokens), the mean over steps and heads; `grids` are theirs, (height, width)
    """
    scaled = []
    for each, (height, width) in zip(maps, grids, strict=True):
        rows, columns = _cubic(height, size[0]), _cubic(width, size[1])
        scaled += [(rows @ each[:, token].reshape(height, width) @ columns.T).clip(min=0) for token in tokens]
    return np.mean(scaled, axis=0)


def _cubic(old: int, new: int) -> Floats:
    """Return the matrix (new, old) of Keys' cubic convolution, a = -1/2; weights of places outside go to those inside."""
    distance = abs((np.arange(new)[:, None] + 0.5) * old / new - 0.5 - np.arange(old))
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return weights / weights.sum(1, keepdims=True)
