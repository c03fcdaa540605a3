"""From a model that was read to the profile of a pass on a device: trace on meta, build, run, measure. Imports torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from msgspec import Struct
from msgspec.structs import replace
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from unetinspect.errors import ForwardError, UsageError
from unetinspect.profile.timing import (
    Clock,
    Memory,
    Times,
    cuda_device,
    matrix_tflops,
    spread_of,
    tera_per_second,
    time_passes,
    watch_memory,
)
from unetinspect.record import AttentionMode, Profile, StageProfile, Trace
from unetinspect.record.stages import paths_above
from unetinspect.run.attach import freeu
from unetinspect.run.build import build_unet, first_line, make_inputs, named_tensors, quiet_diffusers
from unetinspect.run.cache import Recorder
from unetinspect.run.resolve import diffusers_class, resolve_config
from unetinspect.source.loaded import LoadedModel
from unetinspect.unets.request import Request
from unetinspect.units import format_size

_SEED = 0
_WEIGHT_STD = 0.02
# Every stage's forward is compiled separately, and all count towards torch's limit for one piece of code: beyond it, stages would
# silently run uncompiled.
_RECOMPILE_LIMITS = ("recompile_limit", "cache_size_limit")  # torch's name for it, and the one before 2.7
_NO_LIMIT = 1_000_000


class ProfileOptions(Struct, frozen=True, kw_only=True):
    """How to run the measured passes.

    Attributes:
        compile: Whether to compile each stage.
        channels_last: Whether weights and inputs have their channels last in memory.
        attention: torch's fused attention, its math attention, or diffusers' attention slicing.
        repeats: Timed passes, with and without hooks.
        warmup: Passes before those.
        backend: The backend of `torch.compile`.
        force: Whether to lift the size limits.
    """

    compile: bool = False
    channels_last: bool = False
    attention: AttentionMode = "sdpa"
    repeats: int = 20
    warmup: int = 5
    backend: Any = "inductor"
    force: bool = False


def profile_model(
    model: LoadedModel,
    request: Request,
    overrides: Mapping[str, Any],
    how: ProfileOptions,
    attached: LoadedModel | None = None,
    *,
    clock: Clock | None = None,
) -> tuple[Trace, Profile]:
    """Trace one pass of a UNet on meta, and measure that pass on a CUDA device, or on that of `clock`.

    Raises:
        ConfigError: The config cannot be built.
        UsageError: There is no such device, or an option does not fit the UNet.
        ForwardError: The pass failed, or did not fit the device's memory.
    """
    clock = clock or Clock(cuda_device(request.device))
    record = Recorder(None, model, overrides, force=how.force).record(replace(request, device="meta"), attached)
    # The reported pass is the one on the device; the rest of the trace does not depend on the device.
    record = replace(record, run=replace(record.run, device=str(clock.device)))
    class_name = record.model.class_name
    if how.attention == "slicing" and not hasattr(diffusers_class(class_name), "set_attention_slice"):
        raise UsageError(f"--attention slicing: {class_name} has no attention slicing in diffusers", hint="use --attention sdpa or math")
    if how.channels_last and len(record.run.sample_size) == 1:
        raise UsageError(
            f"--channels-last: the sample of {class_name} is a signal, not an image or video", hint="leave --channels-last out"
        )
    try:
        return record, _profile(model, record, overrides, how, clock)
    except torch.OutOfMemoryError as error:
        size = format_size(record.run.sample_size)
        raise ForwardError(
            f"{record.model.name} at sample {size} in {record.run.dtype} does not fit the memory of {clock.device}",
            hint="try a smaller --res or --batch, or --dtype float16; `unetinspect trace` estimates the memory",
        ) from error


def _profile(model: LoadedModel, record: Trace, overrides: Mapping[str, Any], how: ProfileOptions, clock: Clock) -> Profile:
    dtype: torch.dtype = getattr(torch, record.run.dtype)
    rate = matrix_tflops(clock, dtype)  # before the UNet takes its memory
    unet = build_unet(resolve_config(model.config, overrides), device=clock.device, dtype=dtype, name=model.name, force=how.force)
    inputs = make_inputs(record.run.inputs, device=clock.device, dtype=dtype)
    fill_with_numbers(unet, inputs, clock.device)
    if how.channels_last:
        put_channels_last(unet, record, inputs)
    if how.attention == "slicing":
        unet.set_attention_slice("auto")  # type: ignore[operator]
    stages = {name: [unet.get_submodule(path) for path in paths] for name, paths in called_in_stages(record).items()}

    def run() -> None:
        try:
            unet(**inputs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the device, its kernels or the compiler raise
            raise ForwardError(
                f"the forward pass of {record.model.name} failed on {clock.device}: {first_line(error)}",
                hint="leave --compile out" if how.compile else "try another --dtype, or --attention math",
            ) from error

    with ExitStack() as on:
        on.enter_context(torch.no_grad())
        on.enter_context(quiet_diffusers())
        on.enter_context(freeu(unet, record.run.freeu))
        if how.attention == "math":
            on.enter_context(sdpa_kernel(SDPBackend.MATH))
        if how.compile:
            on.enter_context(compiled(chain.from_iterable(stages.values()), how.backend))
        times = time_passes(run, stages, clock, warmup=how.warmup, repeats=how.repeats)
        memory = watch_memory(run, stages, clock, compiled=how.compile)
    input_bytes = sum(tensor.numel() * tensor.element_size() for _, tensor in named_tensors(inputs))
    return make_profile(record, how, clock, times, memory, matrix_rate=rate, input_bytes=input_bytes)


def make_profile(
    record: Trace, how: ProfileOptions, clock: Clock, times: Times, memory: Memory, *, matrix_rate: float, input_bytes: int
) -> Profile:
    """Combine the measured numbers with those of the trace. `matrix_rate` is in 10^12 FLOPs per second."""
    totals = record.totals
    forward, with_hooks = spread_of(times.forward), spread_of(times.hooked)
    flops = totals.flops or 0
    tflops = tera_per_second(flops, forward.median)
    estimates = {"sdpa": totals.peak_activation_bytes, "math": totals.peak_activation_bytes_with_maps, "slicing": None}
    estimate = estimates[how.attention]
    return Profile.of(
        how,
        record.run,
        totals,
        device_name=clock.device_name,
        compiled=how.compile,
        matmul_allow_tf32=torch.backends.cuda.matmul.allow_tf32,
        cudnn_allow_tf32=torch.backends.cudnn.allow_tf32,
        forward_ms=forward,
        hooked_forward_ms=with_hooks,
        # Of the sums, not a sum of medians: no pass is shorter than the sum of its own stages.
        stages_sum_ms=spread_of([sum(stages) for stages in zip(*times.stages.values(), strict=True)]).median,
        hooks_cost_ms=with_hooks.median - forward.median,
        macs=totals.macs or 0,
        flops=flops,
        tflops=tflops,
        matrix_tflops=matrix_rate,
        matrix_share=tflops / matrix_rate,
        input_bytes=input_bytes,
        allocated_bytes=memory.allocated,
        peak_allocated_bytes=memory.peak,
        peak_activation_bytes=memory.activations,
        estimated_peak_bytes=estimate,
        estimate_error=estimate / memory.peak - 1 if estimate is not None and memory.peak else None,
        stages=tuple(_stages(record, how, times, memory, matrix_rate)),
    )


def _stages(record: Trace, how: ProfileOptions, times: Times, memory: Memory, matrix_rate: float) -> Iterator[StageProfile]:
    spreads = {stage.name: spread_of(times.stages[stage.name]) for stage in record.stages}
    whole = sum(spread.median for spread in spreads.values())
    for stage in record.stages:
        spread, own = spreads[stage.name], memory.stages[stage.name]
        tflops = tera_per_second(stage.flops or 0, spread.median)
        yield StageProfile.of(
            stage,
            ms=spread,
            share=spread.median / whole,
            macs=stage.macs or 0,
            tflops=tflops,
            matrix_share=tflops / matrix_rate,
            allocated_bytes=own.allocated,
            peak_bytes=own.peak,
            activation_bytes=stage.activation_bytes if how.attention == "sdpa" else None,  # an estimate for fused attention
        )


def called_in_stages(record: Trace) -> dict[str, list[str]]:
    """Return for each stage the paths of its modules that are called from outside: the stage itself or, if it is a list, its items."""
    paths = [module.path for module in record.modules if module.calls and module.path]
    called = set(paths)
    outermost = [path for path in paths if called.isdisjoint(paths_above(path))]
    return {stage.name: [path for path in outermost if f"{path}.".startswith(f"{stage.name}.")] for stage in record.stages}


def fill_with_numbers(unet: nn.Module, inputs: Mapping[str, Any], device: torch.device) -> None:
    """Fill weights and inputs with random numbers, the same each time; integers among the inputs stay 0, the timestep is 1.

    A GPU that multiplies zeros draws less power, so it runs faster than with real weights. The inputs and the timestep are positive:
    some UNets compute the logarithm of a timestep, and a pass of NaN is as unreal as one of zeros.
    """
    generator = torch.Generator(device).manual_seed(_SEED)
    with torch.no_grad():
        for tensor in chain(unet.parameters(), unet.buffers()):
            if tensor.is_floating_point():
                tensor.normal_(std=_WEIGHT_STD, generator=generator)
        for name, tensor in named_tensors(inputs):
            if name == "timestep":
                tensor.fill_(1)
            elif tensor.is_floating_point():
                tensor.uniform_(generator=generator)


def put_channels_last(unet: nn.Module, record: Trace, inputs: Mapping[str, Any]) -> None:
    """Store the weights of convolutions, and the images and videos among the inputs, with their channels last."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in unet.parameters():  # not `unet.to(memory_format=...)`: it refuses a UNet with 2D and 3D convolutions
        if parameter.dim() in formats:
            parameter.data = parameter.data.to(memory_format=formats[parameter.dim()])
    axes = {given.name: given.axes for given in record.run.inputs}
    for name, tensor in named_tensors(inputs):
        if tensor.dim() in formats:
            channels = 2 if axes[name][1:2] == ("frames",) else 1
            tensor.data = tensor.movedim(channels, -1).contiguous().movedim(-1, channels)


@contextmanager
def compiled(modules: Iterable[nn.Module], backend: Any) -> Iterator[None]:
    """Compile the forward of each module while the block runs; its hooks are not compiled.

    All passes have the same shapes: `dynamic=False`.
    """
    from torch._dynamo import config

    modules = list(modules)
    limit = next(name for name in _RECOMPILE_LIMITS if hasattr(config, name))
    try:
        with config.patch({limit: _NO_LIMIT}):
            for module in modules:
                vars(module)["forward"] = torch.compile(module.forward, backend=backend, dynamic=False)
            yield
    finally:
        for module in modules:
            vars(module).pop("forward", None)
