"""Whether what a ControlNet or T2I-Adapter returns fits the ports of a UNet. No torch: two records are held together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from unetinspect.errors import UsageError
from unetinspect.record import Fit, PortFit, Run, Shape, Trace
from unetinspect.unets import InputSpec, builder_for, plug_classes
from unetinspect.unets.request import Request
from unetinspect.units import format_shape

# What a pipeline computes once and gives to both: the text, SDXL's pooled text and sizes. Not the sample, whose
# channels may differ (an inpainting UNet has 9, its ControlNet 4).
_SHARED = ("encoder_hidden_states", "added_cond_kwargs.")
_LATENT_FACTOR = 8  # where nothing says how many pixels a cell of the sample stands for


def to_fit(run: Run, request: Request, class_name: str, config: Mapping[str, Any]) -> Request:
    """Return the request that traces what is plugged in at the UNet's own size: the same batch, frames and pixels.

    One that knows no frames is given all frames as one batch, as the pipelines do.

    Raises:
        UsageError: The class gives nothing that a UNet takes.
    """
    builder = builder_for(class_name)
    if not builder.plugs_into:
        raise UsageError(
            f"--with: a {class_name} gives nothing that is plugged into a UNet",
            hint=f"--with takes a {', '.join(plug_classes())}",
        )
    pixels = run.image_size or tuple(_LATENT_FACTOR * side for side in run.sample_size)
    size = pixels if builder.assumed_vae_scale(config) == 1 else run.sample_size
    has_frames = builder.frames(config) is not None
    batch = run.forward_batch if has_frames or run.frames is None else run.forward_batch * run.frames
    return replace(
        request,
        res=None,
        vae_scale=None,
        latent=size,
        cfg=False,
        batch=batch,
        frames=run.frames if has_frames else None,
        tokens=None if builder.condition(config) is None else request.tokens,
        freeu=None,
    )


def find_fit(unet: Trace, plugged: Trace) -> Fit:
    """Hold each output of what is plugged in against the UNet's port for it, and the inputs that both share."""
    given = dict(_residuals(plugged))
    lists = {name.partition(".")[0] for name in given}
    takes = {port.name: port.shape for port in unet.ports if port.name.partition(".")[0] in lists}
    optional = {port.name for port in unet.ports if port.kind == "t2i-adapter"}  # an adapter may give fewer features
    names = [name for name in dict.fromkeys((*takes, *given)) if name in given or name not in optional]
    firsts = list(dict.fromkeys(name.partition(".")[0] for name in names))
    names.sort(key=lambda name: firsts.index(name.partition(".")[0]))  # what one side has more of stands behind its like
    rows = [_row(name, takes.get(name), given.get(name), plugged) for name in names]
    rows += _shared(unet, plugged)
    return Fit(
        name=plugged.model.name, class_name=plugged.model.class_name, fits=bool(takes) and all(row.fits for row in rows), rows=tuple(rows)
    )


def residual_specs(plugged: Trace) -> tuple[InputSpec, ...]:
    """Return the arguments that a UNet is given in place of nothing when something is plugged in."""
    return tuple(InputSpec(name, shape, (), f"--with {plugged.model.name}") for name, shape in _residuals(plugged))


def _residuals(plugged: Trace) -> Iterator[tuple[str, Shape]]:
    """Yield each output under the name of the argument that takes it."""
    plugs_into = builder_for(plugged.model.class_name).plugs_into
    for output in plugged.outputs:
        field, _, place = output.name.partition(".")
        if "" in plugs_into:
            yield f"{plugs_into['']}.{output.name}", output.shape
        elif field in plugs_into:
            yield ".".join(part for part in (plugs_into[field], place) if part), output.shape


def _row(name: str, takes: Shape | None, given: Shape | None, plugged: Trace) -> PortFit:
    reason = None
    if takes is None:
        reason = f"{plugged.model.name} gives {name}, which the UNet does not take"
    elif given is None:
        reason = f"{plugged.model.name} gives no {name}, and the UNet takes {format_shape(takes)}"
    elif not _adds_up(takes, given):
        reason = f"{name} is {format_shape(given)}, and the UNet takes {format_shape(takes)}"
    return PortFit(name=name, takes=takes, given=given, fits=reason is None, reason=reason)


def _adds_up(takes: Shape, given: Shape) -> bool:
    """Tell whether one can be added: the same channels, and every other axis as long, or 1 and spread out (global_pool_conditions)."""
    return len(takes) == len(given) and takes[1:2] == given[1:2] and all(has in (1, side) for side, has in zip(takes, given, strict=True))


def _shared(unet: Trace, plugged: Trace) -> Iterator[PortFit]:
    own = {spec.name: spec.shape for spec in unet.run.inputs}
    for spec in plugged.run.inputs:
        if not spec.name.startswith(_SHARED) or spec.shape is None:
            continue
        takes = own.get(spec.name)
        same = takes is not None and takes[1:-1] == spec.shape[1:-1] and takes[-1] in _widths(spec.name, spec.shape, plugged)
        takes_text = "takes none" if takes is None else f"takes {format_shape(takes)}"
        words = f"both are given one {spec.name}: the UNet {takes_text}, {plugged.model.name} {format_shape(spec.shape)}"
        reason = None if same else words
        yield PortFit(name=spec.name, takes=takes, given=spec.shape, fits=same, reason=reason)


def _widths(name: str, shape: Shape, plugged: Trace) -> set[int]:
    """Return how wide a shared input may be: as forward takes it, and the text also as it was before its own projection.

    diffusers' ControlNets have an `encoder_hid_proj` that their forward leaves to the pipeline to call (Kolors).
    """
    config = plugged.model.config
    projects = name == "encoder_hidden_states" and config.get("encoder_hid_dim_type") in (None, "text_proj")
    before = config.get("encoder_hid_dim") if projects else None
    return {shape[-1], before} if isinstance(before, int) else {shape[-1]}
