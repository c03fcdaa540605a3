"""From a model that was read to its `Trace`: build, make inputs, run, observe, write down. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import diffusers
import torch
from msgspec.structs import replace
from torch import nn

from unetinspect.errors import UnetInspectError, UsageError
from unetinspect.observe import ForwardRaisedError, Observation, watch_forward
from unetinspect.observe.assemble import make_attentions, make_modules, make_skips, make_stages, make_totals, stage_finder_of
from unetinspect.observe.tensors import dtype_name
from unetinspect.record import InputInfo, NearSize, OutputInfo, Run, TensorInfo, Trace
from unetinspect.run.build import (
    BuildError,
    build_unet,
    collector_paused,
    first_line,
    make_inputs,
    named_tensors,
    pick_device,
    quiet_diffusers,
)
from unetinspect.run.described import described, model_info
from unetinspect.run.failures import Runner, explain_failure, most_that_run, nearest_sizes, works_to_try
from unetinspect.run.fit import find_fit, residual_specs, to_fit
from unetinspect.run.freeu import freeu
from unetinspect.run.live import LiveModule, raised_outside
from unetinspect.run.plan import InputsError, Work, plan_work
from unetinspect.run.ports import make_ports
from unetinspect.run.resolve import ResolvedConfig, resolve_config
from unetinspect.run.trial import Trial
from unetinspect.source.loaded import LoadedModel
from unetinspect.unets import InputSpec
from unetinspect.unets.request import Request
from unetinspect.units import format_size
from unetinspect.version import __version__


class Tracer:
    """Traces one model that was read, at as many sizes as are asked for; it is built when a pass first needs it, and once.

    Where the model is a checkpoint, its tensors are held against those of the UNet that was built. `force` builds what is
    huge all the same. `say` is told each step as it begins.

    Raises:
        ConfigError: The config names no class that can be traced.
        UsageError: An override is of a key that the class does not have.
    """

    def __init__(
        self, model: LoadedModel, overrides: Mapping[str, Any], *, force: bool = False, say: Callable[[str], None] = lambda step: None
    ) -> None:
        self._model = model
        self._config = resolve_config(model.config, overrides)
        self._overrides = dict(overrides)
        self._force = force
        self._notes: tuple[str, ...] = ()
        self._runners: dict[tuple[torch.device, torch.dtype], Runner] = {}
        self._say = say

    def trace(self, request: Request, plugged: LoadedModel | None = None) -> Trace:
        """Trace one forward pass.

        With `plugged`, a ControlNet or T2I-Adapter, that is traced first and the UNet is given what it returned.

        Raises:
            ConfigError: diffusers cannot build or run the config, it is huge, or the UNet is not that of the checkpoint.
            UsageError: The request does not fit the UNet, or what is plugged in does not.
            ForwardError: The pass failed.
        """
        return described(self.observe(request, plugged), self._model, self._config, request, plugged)

    @collector_paused()
    def observe(self, request: Request, plugged: LoadedModel | None = None) -> Trace:
        """Trace one forward pass as `trace` does, and note what the pass alone brings: `described` says the rest."""
        work, runner = self._ready(request)
        self._say(f"running {self._model.name} at sample {format_size(work.sizes.sample_size)} on {runner.device}")
        try:
            record = _trace_first(self._model, self._config, work, runner, plugged)
        except InputsError as error:
            raise self._mistaken(error) from error
        except ForwardRaisedError as failure:
            raise self._explained(failure, work, runner, plugged) from failure
        return replace(record, run=replace(record.run, notes=(*self._notes, *record.run.notes)))

    def nearest_sizes(self, request: Request) -> tuple[NearSize, ...]:
        """Find the sizes nearest to that of a request which run and return their own size, by running them."""
        return nearest_sizes(self._config, *self._ready(request))

    def _ready(self, request: Request) -> tuple[Work, Runner]:
        device, dtype = pick_device(request.device), getattr(torch, request.dtype or "float32")
        try:
            work = plan_work(self._model, self._config.class_name, self._config.values, request)
            return work, self._runner(device, dtype)
        except (BuildError, InputsError) as error:
            raise self._mistaken(error) from error

    def _explained(self, failure: ForwardRaisedError, work: Work, runner: Runner, plugged: LoadedModel | None) -> UnetInspectError:
        """Say why a pass failed: for its size, for something else that was asked for, for the config, or for the device."""
        if runner.device.type != "meta":
            try:  # whatever is not the device's fault fails on meta too
                self.observe(replace(work.request, device="meta"), plugged)
            except UnetInspectError as cause:
                return cause
            return explain_failure(failure, self._model.name, self._config, work, runner)
        error = explain_failure(failure, self._model.name, self._config, work, runner)
        if error.size.nearest or plugged is not None:
            return error
        options: tuple[Literal["frames", "tokens"], ...] = ("frames", "tokens")
        for option in options:
            asked = getattr(work.request, option)
            if asked is not None and (most := most_that_run(self._config, work, runner, option)):
                what = f"--{option} {asked} does not run on {self._model.name}: {first_line(failure.error)}"
                return UsageError(what, hint=f"--{option} {most} is the most that runs")
        return self._mistaken(error)

    def _mistaken(self, error: UnetInspectError) -> UnetInspectError:
        """Return what is wrong with the config, found by trial; the error itself where the config runs."""
        self._say(f"looking for what is wrong with {self._model.name}")
        return Trial(self._model, self._overrides, force=self._force).explained() or error

    def _runner(self, device: torch.device, dtype: torch.dtype) -> Runner:
        if (device, dtype) not in self._runners:
            self._say(f"building {self._model.name}")
            unet = build_unet(self._config, device=device, dtype=dtype, name=self._model.name, force=self._force)
            self._notes = (*self._notes, *self._verified(unet))
            self._runners[device, dtype] = Runner(unet, lambda inputs: unet(**inputs), device, dtype)
        return self._runners[device, dtype]

    def _verified(self, unet: nn.Module) -> Iterator[str]:
        weights = self._model.weights
        if weights is None or self._notes:
            return
        if self._config.overridden:
            yield f"the tensors of {self._model.name} were not held against the UNet: --set changed its config"
            return
        from unetinspect.check.weights import verify_weights

        yield verify_weights(unet, self._config.values, weights.header, weights.checkpoint)


def trace_model(
    model: LoadedModel, request: Request, overrides: Mapping[str, Any], plugged: LoadedModel | None = None, *, force: bool = False
) -> Trace:
    """Build a model that was read and trace one pass of it; raises what `Tracer` and its `trace` raise."""
    return Tracer(model, overrides, force=force).trace(request, plugged)


def trace_to_fit(plugged: LoadedModel, record: Trace, request: Request) -> Trace:
    """Trace a ControlNet or T2I-Adapter at the size of a UNet that was traced, so that the two can be held together.

    Raises:
        UsageError: Its class gives nothing that a UNet takes.
    """
    config = resolve_config(plugged.config)
    return Tracer(plugged, {}).trace(to_fit(record.run, request, config.class_name, config.values))


def trace_module(module: nn.Module, request: Request, plugged: LoadedModel | None = None) -> Trace:
    """Trace one forward pass of a live module, and leave it exactly as it was. `plugged` as for a model that was read.

    Raises:
        ConfigError: It is no UNet that can be traced.
        UsageError: The request does not fit the UNet.
        ForwardError: The pass failed.
    """
    live = LiveModule(module)
    device, dtype = live.device(request.device), live.dtype(request.dtype)
    config = resolve_config(live.model.config, adapt=False)
    work = plan_work(live.model, config.class_name, config.values, request)
    work = replace(work, specs=(*work.specs, *live.added_specs(work.plan.batch)))
    with collector_paused(), live.ready(config, device, request.dtype) as (unet, call, notes):
        runner = Runner(unet, call, device, dtype)
        try:
            record = _trace_first(live.model, config, work, runner, plugged)
        except ForwardRaisedError as failure:
            outside = raised_outside(failure, live.model.name, config.class_name)
            raise outside or explain_failure(failure, live.model.name, config, work, runner) from failure
    return described(record, replace(live.model, notes=notes), config, request, plugged)


def _trace_first(model: LoadedModel, config: ResolvedConfig, work: Work, runner: Runner, plugged: LoadedModel | None) -> Trace:
    """Trace the UNet at the first of its sizes that runs, where nobody asks for one; most classes have one."""
    failures: list[ForwardRaisedError] = []
    for each in works_to_try(config, work):
        try:
            return _trace_plugged(model, config, each, runner, plugged)
        except ForwardRaisedError as failure:
            failures.append(failure)
    raise failures[0]


def _trace_plugged(model: LoadedModel, config: ResolvedConfig, work: Work, runner: Runner, plugged: LoadedModel | None) -> Trace:
    """Trace the UNet; where something is plugged in, once more: what it returns must fit what the first pass showed."""
    record = _trace(model, config, work, runner)
    return record if plugged is None else _trace(model, config, _plug_in(work, record, plugged), runner)


def _plug_in(work: Work, record: Trace, plugged: LoadedModel) -> Work:
    given = trace_to_fit(plugged, record, work.request)
    fit = find_fit(record, given)
    if not fit.fits:
        wrong = next(row for row in fit.rows if not row.fits)
        raise UsageError(
            f"{plugged.name} does not fit {record.model.name}: {wrong.reason}",
            hint=f"`unetinspect ports {record.model.name} --with {plugged.name}` shows each tensor",
        )
    return replace(work, specs=(*work.specs, *residual_specs(given)), plugged=plugged.name)


def _trace(model: LoadedModel, config: ResolvedConfig, work: Work, runner: Runner) -> Trace:
    stage_of = stage_finder_of(runner.unet)
    inputs = make_inputs(work.specs, device=runner.device, dtype=runner.dtype)
    with quiet_diffusers(), freeu(runner.unet, work.request.freeu):
        seen = watch_forward(lambda: runner.call(inputs), runner.unet, dict(named_tensors(inputs)), stage_of, work.frame_axes)
    attentions = make_attentions(runner.unet, seen, stage_of)
    modules = make_modules(runner.unet, seen)
    totals = make_totals(runner.unet, seen, attentions, modules[0])
    outputs = tuple(_outputs(seen))
    return Trace(
        model=model_info(model, config, params=totals.params),
        run=_run_info(work, runner, seen),
        output=TensorInfo(shape=outputs[0].shape, dtype=outputs[0].dtype),
        totals=totals,
        stages=make_stages(modules, seen, attentions, stage_of),
        skips=make_skips(seen, stage_of),
        attentions=attentions,
        modules=modules,
        outputs=outputs,
        ports=make_ports(runner.unet, seen, attentions, stage_of),
    )


def _outputs(seen: Observation) -> Iterator[OutputInfo]:
    for name, tensor in named_tensors(seen.returned):
        yield OutputInfo(name=name, shape=tuple(tensor.shape), dtype=dtype_name(tensor.dtype))


def _run_info(work: Work, runner: Runner, seen: Observation) -> Run:
    sizes = work.sizes
    return Run(
        device=str(runner.device),
        dtype=dtype_name(runner.dtype),
        batch=work.request.batch,
        cfg=work.cfg,
        cfg_reason=work.cfg_reason,
        forward_batch=work.plan.batch,
        medium=sizes.medium,
        image_size=sizes.image_size,
        sample_size=sizes.sample_size,
        sample_size_from=sizes.sample_size_from,
        vae_scale_factor=sizes.vae_scale.factor,
        vae_scale_from=sizes.vae_scale.said_by,
        frames=sizes.frames.value if sizes.frames else None,
        frames_from=sizes.frames.said_by if sizes.frames else "",
        freeu=work.request.freeu,
        plugged=work.plugged,
        inputs=tuple(_input_info(spec, runner.dtype) for spec in work.specs),
        versions={"unetinspect": __version__, "torch": str(torch.__version__), "diffusers": diffusers.__version__},
        notes=(*sizes.notes, *_unseen_attention(seen)),
    )


def _input_info(spec: InputSpec, dtype: torch.dtype) -> InputInfo:
    given = spec.dtype if spec.dtype == "int64" else dtype_name(dtype)
    return InputInfo(
        name=spec.name,
        shape=spec.shape,
        dtype=given if spec.shape is not None else None,
        axes=spec.axes,
        config_key=spec.config_key,
        value=spec.value,
    )


def _unseen_attention(seen: Observation) -> list[str]:
    """Note attention modules that ran without a product that could be seen: a kernel of another library."""
    owners = {product.owner.path for product in seen.attentions}
    unseen = sorted({call.path for call in seen.calls if hasattr(type(call.module), "get_processor")} - owners)
    if not unseen:
        return []
    kinds = sorted({type(call.module.processor).__name__ for call in seen.calls if call.path in unseen})
    return [f"{len(unseen)} attention modules ran on a kernel that cannot be watched ({', '.join(kinds)}) and are not listed"]
