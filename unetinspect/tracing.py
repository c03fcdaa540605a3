"""From a model that was read to its `Trace`: build, make inputs, run, observe, write down. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import diffusers
import torch
from msgspec.structs import replace
from torch import nn

from unetinspect.assemble import make_attentions, make_modules, make_skips, make_stages, make_totals, stage_finder_of
from unetinspect.build import (
    ResolvedConfig,
    build_unet,
    check_config,
    first_line,
    input_tensors,
    make_inputs,
    pick_device,
    quiet_diffusers,
    resolve_config,
)
from unetinspect.errors import ForwardError, UsageError
from unetinspect.inputs import Builder, InputSpec, Plan, builder_for
from unetinspect.live import LiveModule
from unetinspect.observe import ForwardRaisedError, Observation, watch_forward
from unetinspect.record import InputInfo, ModelInfo, Run, TensorInfo, Trace
from unetinspect.request import Request, Size
from unetinspect.sizes import Sizes, VaeScale, decide_cfg, decide_sizes, written_size
from unetinspect.source.base import LoadedModel
from unetinspect.version import __version__


class Runner(NamedTuple):
    """A UNet that is ready to run: how to call it, and what to give it."""

    unet: nn.Module
    call: Callable[[Mapping[str, Any]], Any]
    device: torch.device
    dtype: torch.dtype


def trace_model(model: LoadedModel, request: Request, overrides: Mapping[str, Any]) -> Trace:
    """Build the UNet that was read, without weights, and trace one forward pass of it.

    Raises:
        ConfigError: The config cannot be built.
        UsageError: The request does not fit the UNet.
        ForwardError: The pass failed.
    """
    config = resolve_config(model.config, overrides)
    check_config(config, name=model.name)
    dtype = getattr(torch, request.dtype or "float32")
    device = pick_device(request.device)
    work = _plan_work(model, config, request)
    unet = build_unet(config, device=device, dtype=dtype, name=model.name)
    return _trace(model, config, work, Runner(unet, lambda inputs: unet(**inputs), device, dtype))


def trace_module(module: nn.Module, request: Request) -> Trace:
    """Trace one forward pass of a live module, and leave it exactly as it was.

    Raises:
        ConfigError: It is no UNet that can be traced.
        UsageError: The request does not fit the UNet.
        ForwardError: The pass failed.
    """
    live = LiveModule(module)
    device, dtype = live.device(request.device), live.dtype(request.dtype)
    config = resolve_config(live.model.config)
    work = _plan_work(live.model, config, request)
    with live.ready(device, request.dtype) as call:
        return _trace(live.model, config, work, Runner(live.module, call, device, dtype))


def config_of(model: LoadedModel, overrides: Mapping[str, Any]) -> ModelInfo:
    """Return the model with its whole config, without building it."""
    return _model_info(model, resolve_config(model.config, overrides), params=None)


class _Work(NamedTuple):
    """One forward pass, decided."""

    builder: Builder
    request: Request
    sizes: Sizes
    cfg: bool
    cfg_reason: str
    plan: Plan
    specs: list[InputSpec]


def _plan_work(model: LoadedModel, config: ResolvedConfig, request: Request) -> _Work:
    builder = builder_for(config.class_name)
    cfg, reason = decide_cfg(request, builder.condition(config.values))
    sizes = decide_sizes(request, config.values, builder, VaeScale(model.vae_scale_factor, model.vae_scale_from))
    plan = Plan(batch=2 * request.batch if cfg else request.batch, size=sizes.sample_size, tokens=request.tokens, frames=request.frames)
    specs = builder.inputs(config.values, plan)
    if request.frames is not None and not builder.takes_frames:
        raise UsageError(f"--frames: {config.class_name} has no frames", hint="leave --frames out")
    if request.tokens is not None and not any("tokens" in spec.axes for spec in specs):
        raise UsageError(f"--tokens: {model.name} takes no encoder_hidden_states", hint="leave --tokens out")
    return _Work(builder, request, sizes, cfg, reason, plan, specs)


def _trace(model: LoadedModel, config: ResolvedConfig, work: _Work, runner: Runner) -> Trace:
    stage_of = stage_finder_of(runner.unet)
    inputs = make_inputs(work.specs, device=runner.device, dtype=runner.dtype)
    try:
        with quiet_diffusers():
            seen = watch_forward(lambda: runner.call(inputs), runner.unet, dict(input_tensors(inputs)), stage_of)
    except ForwardRaisedError as failure:
        raise _explain(failure, model, config, work, runner) from failure
    attentions = make_attentions(runner.unet, seen, stage_of)
    totals = make_totals(runner.unet, seen, attentions)
    return Trace(
        model=_model_info(model, config, params=totals.params),
        run=_run_info(model, work, runner, seen),
        output=TensorInfo(shape=tuple(seen.output.shape), dtype=_dtype_name(seen.output.dtype)),
        totals=totals,
        stages=make_stages(runner.unet, seen, attentions, stage_of),
        skips=make_skips(seen, stage_of),
        attentions=attentions,
        modules=make_modules(runner.unet, seen),
    )


def _model_info(model: LoadedModel, config: ResolvedConfig, *, params: int | None) -> ModelInfo:
    return ModelInfo(
        name=model.name,
        class_name=config.class_name,
        params=params,
        source=model.source,
        config=config.values,
        config_defaults=config.defaults,
        config_ignored=config.ignored,
        config_overrides=config.overridden,
    )


def _run_info(model: LoadedModel, work: _Work, runner: Runner, seen: Observation) -> Run:
    sizes = work.sizes
    return Run(
        device=str(runner.device),
        dtype=_dtype_name(runner.dtype),
        batch=work.request.batch,
        cfg=work.cfg,
        cfg_reason=work.cfg_reason,
        forward_batch=work.plan.batch,
        image_size=sizes.image_size,
        sample_size=sizes.sample_size,
        sample_size_from=sizes.sample_size_from,
        vae_scale_factor=sizes.vae_scale.factor,
        vae_scale_from=sizes.vae_scale.said_by,
        inputs=tuple(_input_info(spec, runner.dtype) for spec in work.specs),
        versions={"unetinspect": __version__, "torch": str(torch.__version__), "diffusers": diffusers.__version__},
        notes=(*model.notes, *sizes.notes, *_unseen_attention(seen)),
    )


def _input_info(spec: InputSpec, dtype: torch.dtype) -> InputInfo:
    given = spec.dtype if spec.dtype == "int64" else _dtype_name(dtype)
    return InputInfo(
        name=spec.name,
        shape=spec.shape,
        dtype=given if spec.shape is not None else None,
        axes=spec.axes,
        config_key=spec.config_key,
    )


def _unseen_attention(seen: Observation) -> list[str]:
    """Note attention modules that ran without a product that could be seen: a kernel of another library."""
    owners = {product.owner.path for product in seen.attentions}
    unseen = sorted({call.path for call in seen.calls if hasattr(call.module, "get_processor")} - owners)
    if not unseen:
        return []
    kinds = sorted({type(call.module.processor).__name__ for call in seen.calls if call.path in unseen})
    return [f"{len(unseen)} attention modules ran on a kernel that cannot be watched ({', '.join(kinds)}) and are not listed"]


def _explain(failure: ForwardRaisedError, model: LoadedModel, config: ResolvedConfig, work: _Work, runner: Runner) -> ForwardError:
    """Say where the pass failed; and, where other sizes run, that it was the size, and which do."""
    where = f" in {failure.path}" if failure.path else ""
    size = written_size(work.sizes.sample_size)
    message = f"the forward pass of {model.name} at sample {size} failed{where}: {first_line(failure.error)}"
    if runner.device.type != "meta":
        return ForwardError(message, hint="try --device meta, where nothing is allocated")
    sizes = _nearest_sizes(partial(_runs, config, work, runner), config, work.sizes.sample_size)
    if not sizes:
        return ForwardError(message, hint="`unetinspect inputs MODEL` shows what the forward pass was given")
    factor = work.sizes.vae_scale.factor if work.sizes.sample_size_from == "--res" else None
    shown = [f"--res {_scaled(size, factor)}" if factor else f"--latent {written_size(size)}" for size in sizes]
    return ForwardError(message, hint=f"the nearest sizes that run: {' or '.join(shown)}")


def _scaled(size: Size, factor: int) -> str:
    return written_size((size[0] * factor, size[1] * factor))


def _nearest_sizes(runs: Callable[[Size], bool], config: ResolvedConfig, size: Size) -> list[Size]:
    """Find the nearest smaller and larger sample sizes that run, by running them.

    A U halves its sample at most once per block but the last, so that multiples of ever higher powers of 2 are tried.
    """
    halvings = len(config.values.get("block_out_channels") or [])
    steps = [2**power for power in range(1, halvings + 1)]
    below = [(max(size[0] // step, 1) * step, max(size[1] // step, 1) * step) for step in steps]
    above = [(-(-size[0] // step) * step, -(-size[1] // step) * step) for step in steps]
    found: list[Size] = []
    for candidates in (below, above):
        untried = [candidate for candidate in dict.fromkeys(candidates) if candidate != size]
        found += [candidate for candidate in [next(filter(runs, untried), None)] if candidate is not None]
    return list(dict.fromkeys(found))


def _runs(config: ResolvedConfig, work: _Work, runner: Runner, size: Size) -> bool:
    """Tell whether the UNet runs at another size, by running it."""
    plan = replace(work.plan, size=size)
    inputs = make_inputs(work.builder.inputs(config.values, plan), device=runner.device, dtype=runner.dtype)
    try:
        with torch.no_grad(), quiet_diffusers():
            runner.call(inputs)
    except Exception:  # whatever it raises, it does not run
        return False
    return True


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
