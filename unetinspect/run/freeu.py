"""FreeU, switched on for one forward pass: two up blocks scale half of their hidden states and filter their skips.

Source: Si et al., "FreeU: Free Lunch in Diffusion U-Net" (arXiv 2309.11497); `enable_freeu` of diffusers' UNets.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from unetinspect.errors import UsageError
from unetinspect.unets.request import FreeU

_FACTORS = ("s1", "s2", "b1", "b2")


@contextmanager
def freeu(unet: nn.Module, factors: FreeU | None) -> Iterator[None]:
    """Switch FreeU on with the factors (b1, b2, s1, s2) while the block runs; None leaves it as it is.

    Raises:
        UsageError: The class has no FreeU.
    """
    if factors is None:
        yield
        return
    if not hasattr(unet, "enable_freeu"):
        raise UsageError(f"--freeu: {type(unet).__name__} has no FreeU in diffusers", hint="leave --freeu out")
    before = [(module, name, getattr(module, name)) for module in unet.modules() for name in _FACTORS if hasattr(module, name)]
    try:
        unet.enable_freeu(**dict(zip(("b1", "b2", "s1", "s2"), factors, strict=True)))  # type: ignore[operator]
        yield
    finally:
        _clear(unet)
        for module, name, value in before:
            setattr(module, name, value)


def _clear(unet: nn.Module) -> None:
    for module in unet.modules():
        for name in _FACTORS:
            module.__dict__.pop(name, None)
