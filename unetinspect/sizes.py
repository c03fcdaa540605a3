"""From the user's sizes and the model's own to those of one forward pass, with the reason of each. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from unetinspect.errors import UsageError
from unetinspect.inputs import Builder
from unetinspect.inputs.base import Config, is_list
from unetinspect.request import Request, Size
from unetinspect.units import format_size


class VaeScale(Struct, frozen=True):
    """Pixels per sample cell along one side, None where nothing says; and what said so."""

    factor: int | None
    said_by: str


class Sizes(Struct, frozen=True, kw_only=True):
    """The sizes of one forward pass; the fields are those of `record.Run`."""

    sample_size: Size
    sample_size_from: str
    image_size: Size | None
    vae_scale: VaeScale
    notes: tuple[str, ...] = ()


def decide_sizes(request: Request, config: Config, builder: Builder, known: VaeScale) -> Sizes:
    """Decide the sample's size: from `--latent`, from `--res` and the VAE factor, or from the config.

    `known` is what the model's own files or the catalog say of its VAE.

    Raises:
        UsageError: `--res` is no multiple of the VAE factor.
    """
    vae, notes = _vae_scale(request, config, builder, known)
    if request.res is not None and vae.factor is not None:
        sample, said_by = _divide(request.res, vae.factor), "--res"
    elif request.latent is not None:
        sample, said_by = request.latent, "--latent"
    else:
        sample, said_by = _config_size(config, builder)
    image = None if vae.factor is None else (sample[0] * vae.factor, sample[1] * vae.factor)
    return Sizes(sample_size=sample, sample_size_from=said_by, image_size=image, vae_scale=vae, notes=notes)


def decide_cfg(request: Request, condition: str | None) -> tuple[bool, str]:
    """Decide whether classifier-free guidance doubles the batch, and say why. `condition` is what it would guide."""
    if request.cfg is not None:
        unguided = "" if condition or not request.cfg else ", though there is nothing to guide"
        return request.cfg, ("--cfg" if request.cfg else "--no-cfg") + unguided
    if condition is None:
        return False, "nothing to guide"
    return True, f"guides {condition}"


def _vae_scale(request: Request, config: Config, builder: Builder, known: VaeScale) -> tuple[VaeScale, tuple[str, ...]]:
    if request.vae_scale is not None:
        return VaeScale(request.vae_scale, "--vae-scale"), ()
    if known.factor is not None or request.res is None:
        return known, ()
    factor = builder.assumed_vae_scale(config)
    note = f"nothing says which VAE belongs to this UNet: --res takes a factor of {factor} for granted (--vae-scale sets it)"
    return VaeScale(factor, "assumed"), (note,)


def _divide(image: Size, factor: int) -> Size:
    uneven = [side for side in image if side % factor]
    if not uneven:
        return image[0] // factor, image[1] // factor
    below = [max(factor, side // factor * factor) for side in image]
    above = [-(-side // factor) * factor for side in image]
    shown = " or ".join(dict.fromkeys(f"--res {written_size(size)}" for size in (below, above)))
    raise UsageError(
        f"--res {written_size(image)} is no multiple of {factor}, the pixels that the VAE makes into one sample cell",
        hint=f"the nearest sizes that are: {shown}",
    )


def _config_size(config: Config, builder: Builder) -> tuple[Size, str]:
    size = config["sample_size"]
    if size is None:
        return (builder.default_size, builder.default_size), "taken for granted: the config has no sample_size"
    if is_list(size):
        return (size[0], size[-1]), "config"
    return (size, size), "config"


def written_size(size: Sequence[int]) -> str:
    """Write a size as `--res` and `--latent` take it.

    >>> written_size((512, 512)), written_size((512, 768))
    ('512', '512x768')
    """
    return str(size[0]) if size[0] == size[1] else format_size(size)
