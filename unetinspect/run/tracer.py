"""From a model that was read to its `Trace`: build, make inputs, run, observe, record. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

import diffusers
import torch
from msgspec.structs import replace
from torch import nn

from unetinspect.errors import ConfigError, ForwardError, UnetInspectError, UsageError
from unetinspect.observe import ForwardRaisedError, Observation, watch_forward
from unetinspect.observe.assemble import (
    make_attentions,
    make_modules,
    make_skips,
    make_stages,
    make_totals,
    make_training,
    stage_finder_of,
)
from unetinspect.observe.tensors import dtype_name
from unetinspect.observe.training import watch_training
from unetinspect.record import NearSize, OutputInfo, TensorInfo, Trace, TrainingMemory
from unetinspect.run.attach import find_fit, freeu, make_ports, request_to_fit, residual_specs
from unetinspect.run.build import (
    build_unet,
    built_values,
    collector_paused,
    first_line,
    make_inputs,
    named_tensors,
    pick_device,
    quiet_diffusers,
)
from unetinspect.run.failures import Runner, explain_failure, most_that_run, nearest_sizes, passes_to_try
from unetinspect.run.live import LiveModule, raised_outside
from unetinspect.run.resolve import PlannedPass, RefusedError, described, model_info, plan_pass, resolve_config
from unetinspect.run.trial import Trial
from unetinspect.source.loaded import LoadedModel
from unetinspect.unets.request import Request
from unetinspect.units import format_size
from unetinspect.version import __version__


class Tracer:
    """Traces one model that was read, at any number of sizes. The UNet is built once, when a pass first needs it.

    If the model is a checkpoint, its tensors are compared with those of the UNet. `force` lifts the size limits. `say` is called
    with each step as it begins.

    Raises:
        ConfigError: The config names no class that can be traced.
        UsageError: An override is of a key that the class does not have.
    """

    def __init__(
        self,
        model: LoadedModel,
        overrides: Mapping[str, Any] = MappingProxyType({}),
        *,
        force: bool = False,
        say: Callable[[str], None] = lambda step: None,
    ) -> None:
        self._model = model
        self._config = resolve_config(model.config, overrides)
        self._overrides = dict(overrides)
        self._force = force
        self._notes: tuple[str, ...] = ()
        self._runners: dict[tuple[torch.device, torch.dtype], Runner] = {}
        self._say = say

    @collector_paused()
    @torch.inference_mode(mode=False)  # the caller's: in it, torch shows a mode whole layers, which have no formula
    def observe(self, request: Request, attached: LoadedModel | None = None) -> Trace:
        """Trace one forward pass, with the notes of the pass alone: `described` adds the model's own.

        `attached`, a ControlNet or T2I-Adapter, is traced first, and the UNet receives its outputs.

        Raises:
            ConfigError: diffusers cannot build or run the config, it is too large, or the checkpoint does not match the UNet.
            UsageError: The request does not fit the UNet, or `attached` does not.
            ForwardError: The pass failed.
        """
        planned, runner = self._ready(request)
        self._say(f"running {self._model.name} at sample {format_size(planned.run.sample_size)} on {runner.device}")
        try:
            record = _trace_first(planned, runner, attached)
        except RefusedError as error:
            raise self._mistaken(error) from error
        except ForwardRaisedError as failure:
            explained = self._explained(failure, planned, runner, attached)
            raise explained from explained.__cause__ or failure
        return replace(record, run=replace(record.run, notes=(*self._notes, *record.run.notes)))

    def nearest_sizes(self, request: Request) -> tuple[NearSize, ...]:
        """Find the sizes nearest to that of a request which run and return their own size, by running them."""
        return nearest_sizes(*self._ready(request))

    def _ready(self, request: Request) -> tuple[PlannedPass, Runner]:
        device, dtype = pick_device(request.device), getattr(torch, request.dtype or "float32")
        try:
            planned = plan_pass(self._model, self._config.class_name, self._config.values, request)
            if (device, dtype) not in self._runners:
                self._say(f"building {self._model.name}")
                unet = build_unet(self._config, device=device, dtype=dtype, name=self._model.name, force=self._force)
                self._notes = (*self._notes, *self._verified(unet))
                trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
                self._runners[device, dtype] = Runner(
                    self._model, self._config, unet, lambda inputs: unet(**inputs), trained, device, dtype
                )
            return planned, self._runners[device, dtype]
        except RefusedError as error:
            raise self._mistaken(error) from error

    def _explained(
        self, failure: ForwardRaisedError, planned: PlannedPass, runner: Runner, attached: LoadedModel | None
    ) -> UnetInspectError:
        """Say why a pass failed: because of its size, another option, the config, or the device."""
        if runner.device.type != "meta":
            try:  # what is not the device's fault fails on meta too
                self.observe(replace(planned.request, device="meta"), attached)
            except UnetInspectError as cause:
                return cause
            return explain_failure(failure, planned, runner)
        error = explain_failure(failure, planned, runner)
        if error.size.nearest or attached is not None:
            return error
        options: tuple[Literal["frames", "tokens"], ...] = ("frames", "tokens")
        for option in options:
            asked = getattr(planned.request, option)
            if asked is not None and (most := most_that_run(planned, runner, option)):
                what = f"--{option} {asked} does not run on {self._model.name}: {first_line(failure.error)}"
                return UsageError(what, hint=f"--{option} {most} is the most that runs")
        return self._mistaken(error)

    def _mistaken(self, error: UnetInspectError) -> UnetInspectError:
        """Return what is wrong with the config, found by trial, with the error as its cause; the error itself if the config runs."""
        self._say(f"looking for what is wrong with {self._model.name}")
        if self._fault is None:
            return error
        self._fault.__cause__ = error
        return self._fault

    @cached_property
    def _fault(self) -> ConfigError | None:
        return Trial(self._model, self._overrides, force=self._force).explained()

    def _verified(self, unet: nn.Module) -> Iterator[str]:
        weights = self._model.weights
        if weights is None or self._notes:
            return
        if self._config.overridden:
            yield f"the tensors of {self._model.name} were not compared with the UNet: --set changed its config"
            return
        from unetinspect.checking.weights import verify_weights

        yield verify_weights(unet, self._config.values, weights.header, weights.checkpoint)


def trace_module(module: nn.Module, request: Request, attached: LoadedModel | None = None) -> Trace:
    """Trace one forward pass of a live module, and leave it exactly as it was. `attached` is as in `Tracer.observe`.

    Raises:
        ConfigError: It is not a UNet that can be traced.
        UsageError: The request does not fit the UNet.
        ForwardError: The pass failed.
    """
    live = LiveModule(module)
    device, dtype = live.device(request.device), live.dtype(request.dtype)
    config = resolve_config(live.model.config, adapt=False)
    planned = plan_pass(live.model, config.class_name, config.values, request)
    planned = planned.with_inputs(live.added_specs(planned.plan.batch))
    with collector_paused(), torch.inference_mode(mode=False), live.ready(config, device, request) as (unet, call, trained, notes):
        runner = Runner(live.model, config, unet, call, trained, device, dtype)
        try:
            record = _trace_first(planned, runner, attached)
        except ForwardRaisedError as failure:
            raise raised_outside(failure, live.model.name, config.class_name) or explain_failure(failure, planned, runner) from failure
    return described(record, replace(live.model, notes=notes), config, request, attached)


def _trace_first(planned: PlannedPass, runner: Runner, attached: LoadedModel | None) -> Trace:
    """Trace the UNet at the first of its sizes that runs, unless a size is asked for; most classes have one size."""
    failures: list[ForwardRaisedError] = []
    for each in passes_to_try(runner.config.values, planned):
        try:
            record = _trace(each, runner)
            return record if attached is None else _trace(_attach(each, record, attached), runner)
        except ForwardRaisedError as failure:
            failures.append(failure)
    raise failures[0]


def _attach(planned: PlannedPass, record: Trace, attached: LoadedModel) -> PlannedPass:
    """Trace what is attached; returns the pass with its outputs, which must fit the ports in the record of the UNet alone."""
    to_fit = request_to_fit(record.run, planned.request, resolve_config(attached.config))
    given = Tracer(attached).observe(to_fit)
    fit = find_fit(record, given)
    if not fit.fits:
        reason = next(row.reason for row in fit.rows if not row.fits)
        raise UsageError(
            f"{attached.name} does not fit {record.model.name}: {reason}",
            hint=f"`unetinspect ports {record.model.name} --with {attached.name}` shows each tensor",
        )
    return planned.with_inputs(residual_specs(given), attached=attached.name)


def _trace(planned: PlannedPass, runner: Runner) -> Trace:
    stage_of = stage_finder_of(runner.unet)
    inputs = make_inputs(planned.run.inputs, device=runner.device, dtype=runner.dtype)
    frame_axes = {spec.name: spec.axes.index("frames") for spec in planned.run.inputs if "frames" in spec.axes}
    with quiet_diffusers(), freeu(runner.unet, planned.request.freeu):
        seen = watch_forward(lambda: runner.call(inputs), runner.unet, dict(named_tensors(inputs)), stage_of, frame_axes)
    attentions = make_attentions(runner.unet, seen, stage_of)
    modules = make_modules(runner.unet, seen)
    training = _train(planned, runner, inputs) if planned.request.training else None
    totals = make_totals(runner.unet, seen, attentions, modules[0], training)
    outputs = tuple(
        OutputInfo(name=name, shape=tuple(tensor.shape), dtype=dtype_name(tensor.dtype)) for name, tensor in named_tensors(seen.returned)
    )
    dtype = dtype_name(runner.dtype)
    run = replace(
        planned.run,
        device=str(runner.device),
        dtype=dtype,
        inputs=tuple(replace(given, dtype=dtype) if given.dtype == "float" else given for given in planned.run.inputs),
        versions={"unetinspect": __version__, "torch": str(torch.__version__), "diffusers": diffusers.__version__},
        notes=(*planned.run.notes, *_unseen_attention(seen)),
    )
    return Trace(
        model=replace(model_info(runner.model, runner.config, params=totals.params), config=built_values(runner.unet, runner.config)),
        run=run,
        output=TensorInfo(shape=outputs[0].shape, dtype=outputs[0].dtype),
        totals=totals,
        stages=make_stages(modules, seen, attentions, stage_of),
        skips=make_skips(seen, stage_of),
        attentions=attentions,
        modules=modules,
        outputs=outputs,
        ports=make_ports(runner.unet, seen, attentions, stage_of),
    )


def _train(planned: PlannedPass, runner: Runner, inputs: Mapping[str, Any]) -> TrainingMemory:
    """Run a training step of the UNet; returns its memory."""
    request, name = planned.request, runner.model.name
    if not runner.trained:
        raise UsageError(f"no parameter of {name} requires a gradient", hint="unet.requires_grad_(True) trains all of them")
    try:
        with quiet_diffusers(), freeu(runner.unet, request.freeu):
            checkpointing = request.gradient_checkpointing
            step = watch_training(lambda: runner.call(inputs), runner.unet, runner.trained, checkpointing=checkpointing)
    except UnetInspectError:
        raise
    except Exception as error:  # as in the forward pass, anything
        raise ForwardError(
            f"the training step of {name} failed: {first_line(error)}", hint="without --training, the forward pass runs"
        ) from error
    return make_training(runner.unet, step, request.optimizer or "adamw", checkpointing=checkpointing)


def _unseen_attention(seen: Observation) -> list[str]:
    """Note attention modules that ran on a kernel of another library, whose products cannot be observed."""
    owners = {product.owner.path for product in seen.attentions}
    unseen = {call.path: type(call.module.processor).__name__ for call in seen.calls if hasattr(type(call.module), "get_processor")}
    processors = [unseen[path] for path in unseen.keys() - owners]
    if not processors:
        return []
    names = ", ".join(sorted(set(processors)))
    return [f"{len(processors)} attention modules ran on a kernel that cannot be observed ({names}) and are not listed"]
