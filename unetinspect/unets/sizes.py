"""How one forward pass runs, decided from the user's sizes and the model's own, each with its origin. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from unetinspect.catalog import PipelineSize
from unetinspect.errors import UsageError
from unetinspect.record import Medium, Run, Shape
from unetinspect.unets.builder import Builder, Config, Given
from unetinspect.unets.request import Request, Size
from unetinspect.units import format_size

# Pixels per sample cell along one side; None: unknown. An integer, except where pipelines round up: Stable Cascade's is 42.67.
VaeScale = Given[int | float | None]


class UnevenSizeError(UsageError):
    """Raised when a size in pixels is not a multiple of the VAE factor; `nearest` are the sizes next to `size` that are."""

    def __init__(self, message: str, *, size: Size, nearest: Sequence[Size], hint: str) -> None:
        super().__init__(message, hint=hint)
        self.size = size
        self.nearest = tuple(nearest)


def decide_run(
    request: Request,
    config: Config,
    builder: Builder,
    known: VaeScale,
    *,
    medium: Medium | None = None,
    default: PipelineSize | None = None,
) -> Run:
    """Decide how a pass runs; what is known only once it ran, and its inputs, are left empty.

    The sample's size is from `--latent`, from `--res` and the VAE factor, from the pipeline's `default`, or from the config.
    `known` is the factor in the model's own files or in the catalog, `medium` and `default` are those of the catalog.

    Raises:
        UsageError: `--res` is not a multiple of the VAE factor, or the class has no such size, or no frames.
    """
    cfg, reason = _decide_cfg(request, builder.condition(config))
    frames = builder.frames(config)
    if request.frames is not None:
        if frames is None:
            raise UsageError(f"--frames: {builder.class_name} has no frames", hint="leave --frames out")
        frames = Given(request.frames, "--frames")
    is_signal = len(builder.size_axes) == 1
    if is_signal:
        _refuse_sides(request, builder.class_name)
    vae, notes = (Given(None, ""), ()) if is_signal else _vae_scale(request, config, builder, known)
    if request.res is not None and vae.value is not None:
        sample = Given(_divide(request.res, vae.value), "--res")
    elif request.latent is not None:
        sample = Given(request.latent[: len(builder.size_axes)], "--latent")
    elif default is not None and vae.value is not None and request.vae_scale is None:
        sample = Given(_divide(default.image, vae.value), f"{default.pipeline}'s default")
    else:
        sample = builder.sample_size(config)
    return Run(
        device=request.device,
        dtype=request.dtype or "float32",
        batch=request.batch,
        cfg=cfg,
        cfg_reason=reason,
        forward_batch=2 * request.batch if cfg else request.batch,
        medium=medium or builder.medium,
        sample_size=sample.value,
        sample_size_from=sample.said_by,
        image_size=request.res if sample.said_by == "--res" else image_of(sample.value, vae.value),
        vae_scale_factor=vae.value,
        vae_scale_from=vae.said_by,
        frames=frames.value if frames else None,
        frames_from=frames.said_by if frames else "",
        freeu=request.freeu,
        inputs=(),
        versions={},
        notes=notes,
    )


def _decide_cfg(request: Request, condition: str | None) -> tuple[bool, str]:
    """Decide whether classifier-free guidance doubles the batch, and why. `condition` is the input that it drops or swaps."""
    if request.training:
        return False, "training"
    if request.cfg is not None:
        unguided = "" if condition or not request.cfg else ", though the model is unconditional"
        return request.cfg, ("--cfg" if request.cfg else "--no-cfg") + unguided
    return condition is not None, f"conditioned on {condition}" if condition else "unconditional model"


def _refuse_sides(request: Request, class_name: str) -> None:
    """Refuse options that a signal, which has one axis and no pixels, does not have."""
    if request.res is not None or request.vae_scale is not None:
        option = "--res" if request.res is not None else "--vae-scale"
        raise UsageError(f"{option}: the sample of {class_name} is a signal and has no pixels", hint="--latent N sets its length")
    if request.latent is not None and request.latent[0] != request.latent[-1]:
        raise UsageError(f"--latent {written_size(request.latent)}: the sample of {class_name} has one length", hint="--latent N sets it")


def _vae_scale(request: Request, config: Config, builder: Builder, known: VaeScale) -> tuple[VaeScale, tuple[str, ...]]:
    if request.vae_scale is not None:
        return Given(request.vae_scale, "--vae-scale"), ()
    if known.value is not None or request.res is None:
        return known, ()
    factor = builder.assumed_vae_scale(config)
    if factor is None:
        raise UsageError(
            f"--res: the VAE scale factor of this {builder.class_name} is unknown",
            hint="give --latent, the size of the sample itself, or --vae-scale",
        )
    return Given(factor, "assumed"), (f"no VAE found; assuming a scale factor of {factor} (--vae-scale sets it)",)


def _divide(image: Size, factor: int | float) -> Size:
    if isinstance(factor, float):
        return tuple(ceil(side / factor) for side in image)  # as pipeline_stable_cascade_prior.py of diffusers does
    if not any(side % factor for side in image):
        return tuple(side // factor for side in image)
    below = tuple(max(factor, side // factor * factor) for side in image)
    above = tuple(-(-side // factor) * factor for side in image)
    nearest = list(dict.fromkeys((below, above)))
    raise UnevenSizeError(
        f"--res {written_size(image)} is not a multiple of the VAE scale factor {factor}",
        size=image,
        nearest=nearest,
        hint=f"the nearest sizes that are: {' or '.join(f'--res {written_size(size)}' for size in nearest)}",
    )


def image_of(sample: Size, factor: int | float | None) -> Size | None:
    """Return the size in pixels of a sample's size; None where no VAE factor is known."""
    return None if factor is None else tuple(int(side * factor) for side in sample)


def returned_size(name: str, shape: Shape, sample: Size) -> Size | None:
    """Return the size of a tensor that a pass returned; None where it is not a sample: a ControlNet's residual, a signal's value.

    `name` is its name in what was returned, "" the whole.

    >>> returned_size("sample", (2, 4, 64, 64), (64, 64)), returned_size("", (2, 1), (32,))
    ((64, 64), None)
    """
    is_sample = name in ("", "sample") and len(shape) >= 2 + len(sample)
    return shape[-len(sample) :] if is_sample else None


def written_size(size: Sequence[int]) -> str:
    """Write a size as `--res` and `--latent` take it.

    >>> written_size((512, 512)), written_size((512, 768)), written_size((65536,))
    ('512', '512x768', '65536')
    """
    return str(size[0]) if size[0] == size[-1] else format_size(size)
