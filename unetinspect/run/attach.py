"""What is added to a pass from outside: the ports of a UNet, what a ControlNet or T2I-Adapter returns into them, and FreeU.

Imports no torch: ports are read off a pass that was observed, and whether something fits, off two records.
Source: `forward` of diffusers' UNets ("additional_residuals"), and `_convert_ip_adapter_attn_to_diffusers` of its loaders.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from msgspec.structs import replace

from unetinspect.checkpoint.adapters import IpAdapter
from unetinspect.errors import UsageError
from unetinspect.record import Attention, Fit, InputInfo, Port, PortFit, PortKind, Run, Shape, Trace
from unetinspect.run.resolve import ResolvedConfig
from unetinspect.unets import builder_for, plug_classes
from unetinspect.unets.request import FreeU, Request
from unetinspect.units import format_shape

if TYPE_CHECKING:
    from torch import nn

    from unetinspect.observe import Observation
    from unetinspect.record.stages import StageOf

FREEU_FACTORS = ("b1", "b2", "s1", "s2")
_IMAGE_TOKENS = 4  # of the first IP-Adapter; IP-Adapter Plus has 16
# What a pipeline computes once and gives to both: the text, SDXL's pooled text and sizes. Not the sample, whose
# channels may differ (an inpainting UNet has 9, its ControlNet 4).
_SHARED = ("encoder_hidden_states", "added_cond_kwargs.")
_ASSUMED_VAE_SCALE = 8


def make_ports(root: nn.Module, seen: Observation, attentions: Iterable[Attention], stage_of: StageOf) -> tuple[Port, ...]:
    """List what this UNet accepts from outside, residuals in the order of their lists."""
    parameters = inspect.signature(type(root).forward).parameters
    shapes = {call.path: call.out_shape for call in seen.calls}

    def residual(kind: PortKind, name: str, path: str, shape: Shape | None) -> Iterator[Port]:
        if shape is not None:
            yield Port(kind=kind, name=name, shape=shape, joins=path, stage=stage_of(path) or path)

    ports: list[Port] = []
    if "down_block_additional_residuals" in parameters:
        for place, (sources, shape) in enumerate(seen.produced.items()):
            ports += residual("controlnet", f"down_block_additional_residuals.{place}", sources[-1].path, shape)
        ports += residual("controlnet", "mid_block_additional_residual", "mid_block", shapes.get("mid_block"))
    if "down_intrablock_additional_residuals" in parameters:
        for place, path in enumerate(_t2i_adapter_paths(root)):
            ports += residual("t2i-adapter", f"down_intrablock_additional_residuals.{place}", path, shapes.get(path))
    if hasattr(root, "_load_ip_adapter_weights"):
        ports += _ip_adapter_ports(root, {layer.path: layer for layer in attentions if layer.kind == "cross"})
    return tuple(ports)


def _t2i_adapter_paths(root: nn.Module) -> Iterator[str]:
    """Yield the module that each feature is added to.

    In a down block with cross-attention that is the last attention, before the downsampler; otherwise the whole block. A feature
    that is left over is added to the mid block, if it has its shape (T2I-Adapter for SDXL).
    """
    for place, block in enumerate(root.get_submodule("down_blocks").children()):
        path = f"down_blocks.{place}"
        has_attention = getattr(block, "has_cross_attention", False)
        yield f"{path}.attentions.{len(block.attentions) - 1}" if has_attention else path  # type: ignore[arg-type]
    yield "mid_block"


def _ip_adapter_ports(root: nn.Module, cross: dict[str, Attention]) -> Iterator[Port]:
    """Yield image tokens beside the text, and the two weights of each cross-attention layer.

    The keys of the weights count the layers of `attn_processors`, self-attention included: 1, 3, 5, ...
    """
    names = [name.removesuffix(".processor") for name in getattr(root, "attn_processors", {})]
    paths = [name for name in names if not name.endswith("attn1") and "motion_modules" not in name]
    # An IP-Adapter's processors call to_k. A layer that attends only to the text, through added projections, has none.
    if not paths or not cross.keys() >= set(paths) or any(root.get_submodule(path).to_k is None for path in paths):
        return
    widths = {path: int(root.get_submodule(f"{path}.to_k").in_features) for path in paths}  # type: ignore[arg-type]
    first = cross[paths[0]]
    tokens = (first.query_shape[0], _IMAGE_TOKENS, widths[first.path])
    yield Port(kind="ip-adapter", name="image_tokens", shape=tokens, joins=first.path, stage=first.stage)
    for place, path in enumerate(paths):
        layer = cross[path]
        for name in ("to_k_ip", "to_v_ip"):
            shape = (layer.heads * layer.head_dim, widths[path])
            yield Port(kind="ip-adapter", name=f"{2 * place + 1}.{name}", shape=shape, joins=path, stage=layer.stage)


def request_to_fit(run: Run, request: Request, config: ResolvedConfig) -> Request:
    """Return the request that traces a ControlNet or T2I-Adapter at the UNet's own size: the same batch, frames and pixels.

    A class without frames gets all frames as one batch, as in the pipelines.

    Raises:
        UsageError: The outputs of its class go into no UNet.
    """
    builder = builder_for(config.class_name)
    if not builder.plugs_into:
        raise UsageError(f"--with: {config.class_name} cannot be attached to a UNet", hint=f"these can: {', '.join(plug_classes())}")
    pixels = run.image_size or tuple(_ASSUMED_VAE_SCALE * side for side in run.sample_size)
    has_frames = builder.frames(config.values) is not None
    return replace(
        request,
        res=None,
        vae_scale=None,
        latent=pixels if builder.assumed_vae_scale(config.values) == 1 else run.sample_size,
        cfg=False,
        batch=run.forward_batch if has_frames or run.frames is None else run.forward_batch * run.frames,
        frames=run.frames if has_frames else None,
        tokens=None if builder.condition(config.values) is None else request.tokens,
        freeu=None,
        training=False,
        optimizer=None,
        gradient_checkpointing=False,
    )


def find_fit(unet: Trace, attached: Trace) -> Fit:
    """Compare each output of a ControlNet or T2I-Adapter with the UNet's port for it, and the inputs that both share."""

    def list_of(name: str) -> str:
        return name.partition(".")[0]

    given = dict(_residuals(attached))
    ports = [port for port in unet.ports if list_of(port.name) in set(map(list_of, given))]
    takes = {port.name: port.shape for port in ports}
    required = {port.name for port in ports if port.kind != "t2i-adapter"}  # an adapter may return fewer features
    names = [name for name in {**takes, **given} if name in given or name in required]
    lists = list(dict.fromkeys(map(list_of, names)))
    names.sort(key=lambda name: lists.index(list_of(name)))  # what one side has more of follows the rest of its list
    rows = (*(_row(name, takes.get(name), given.get(name), attached.model.name) for name in names), *_shared(unet, attached))
    model = attached.model
    return Fit(name=model.name, class_name=model.class_name, fits=bool(takes) and all(row.fits for row in rows), rows=rows)


def fit_of_ip_adapter(unet: Trace, name: str, adapter: IpAdapter) -> Fit:
    """Compare the weights and the tokens of an IP-Adapter's file with the UNet's ports for them."""
    takes = {port.name: port.shape for port in unet.ports if port.kind == "ip-adapter"}
    tokens = takes.pop("image_tokens", None)
    rows = [_row(key, takes.get(key), adapter.weights.get(key), name) for key in {**takes, **adapter.weights}]
    if tokens and adapter.width:  # of any number
        given = (tokens[0], adapter.tokens or tokens[1], adapter.width)
        rows.append(_row("image_tokens", (*tokens[:1], given[1], *tokens[2:]), given, name))
    return Fit(
        name=name, class_name=adapter.kind, family=adapter.family, fits=bool(takes) and all(row.fits for row in rows), rows=tuple(rows)
    )


def residual_specs(attached: Trace) -> tuple[InputInfo, ...]:
    """Return the arguments that a UNet receives from a ControlNet or T2I-Adapter."""
    option = f"--with {attached.model.name}"
    return tuple(InputInfo(name=name, shape=shape, dtype="float", config_key=option) for name, shape in _residuals(attached))


def _residuals(attached: Trace) -> Iterator[tuple[str, Shape]]:
    """Yield each output under the name of the UNet's argument for it."""
    plugs_into = builder_for(attached.model.class_name).plugs_into
    for output in attached.outputs:
        field, _, place = output.name.partition(".")
        if "" in plugs_into:
            yield f"{plugs_into['']}.{output.name}", output.shape
        elif field in plugs_into:
            yield ".".join(part for part in (plugs_into[field], place) if part), output.shape


def _row(name: str, takes: Shape | None, given: Shape | None, attached: str) -> PortFit:
    reason = None
    if takes is None:
        reason = f"{attached} returns {name}, which the UNet does not have"
    elif given is None:
        reason = f"{attached} returns no {name}; the UNet expects {format_shape(takes)}"
    elif not _adds_up(takes, given):
        reason = f"{name} is {format_shape(given)}; the UNet expects {format_shape(takes)}"
    return PortFit(name=name, takes=takes, given=given, fits=reason is None, reason=reason)


def _adds_up(takes: Shape, given: Shape) -> bool:
    """Tell whether one can be added to the other: equal channels; other axes equal, or 1 (global_pool_conditions)."""
    return len(takes) == len(given) and takes[1:2] == given[1:2] and all(has in (1, side) for side, has in zip(takes, given, strict=True))


def _shared(unet: Trace, attached: Trace) -> Iterator[PortFit]:
    own = {spec.name: spec.shape for spec in unet.run.inputs}
    for spec in attached.run.inputs:
        if not spec.name.startswith(_SHARED) or spec.shape is None:
            continue
        takes = own.get(spec.name)
        same = takes is not None and takes[1:-1] == spec.shape[1:-1] and takes[-1] in _widths(spec.name, spec.shape, attached)
        expects = f"expects {format_shape(takes)}" if takes else "has none"
        reason = f"both receive the same {spec.name}: the UNet {expects}, {attached.model.name} {format_shape(spec.shape)}"
        yield PortFit(name=spec.name, takes=takes, given=spec.shape, fits=same, reason=None if same else reason)


def _widths(name: str, shape: Shape, attached: Trace) -> set[int]:
    """Return how wide a shared input may be: as in `forward`; a text also as it is before the model's own projection.

    diffusers' ControlNets have an `encoder_hid_proj` that their forward leaves to the pipeline to call (Kolors).
    """
    config = attached.model.config
    projects = name == "encoder_hidden_states" and config.get("encoder_hid_dim_type") in (None, "text_proj")
    before = config.get("encoder_hid_dim") if projects else None
    return {shape[-1], before} if isinstance(before, int) else {shape[-1]}


@contextmanager
def freeu(unet: nn.Module, factors: FreeU | None) -> Iterator[None]:
    """Switch FreeU on with the factors (b1, b2, s1, s2) while the block runs; None leaves it as it is.

    Two up blocks then scale half of their hidden states and filter their skips.
    Source: Si et al., "FreeU: Free Lunch in Diffusion U-Net" (arXiv 2309.11497); `enable_freeu` of diffusers' UNets.

    Raises:
        UsageError: The class has no FreeU.
    """
    if factors is None:
        yield
        return
    if not hasattr(unet, "enable_freeu"):
        raise UsageError(f"--freeu: {type(unet).__name__} has no FreeU in diffusers", hint="leave --freeu out")
    before = [(module, {name: vars(module)[name] for name in FREEU_FACTORS if name in vars(module)}) for module in unet.modules()]
    try:
        unet.enable_freeu(**dict(zip(FREEU_FACTORS, factors, strict=True)))  # type: ignore[operator]
        yield
    finally:
        for module, own in before:
            for name in FREEU_FACTORS:
                vars(module).pop(name, None)
            vars(module).update(own)
