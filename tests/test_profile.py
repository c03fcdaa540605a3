"""A UNet is built, filled and run as it was asked for, and its profile says what was measured: here on the CPU."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import pytest
import torch
from host_clock import HostClock
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.test_timing import has_hooks
from tests.tiny import ALL, condition, config_of, plain, traced_once
from unetinspect import ForwardError, Trace, UsageError
from unetinspect.api import _load
from unetinspect.profile.profiling import ProfileOptions, called_in_stages, make_profile, profile_model
from unetinspect.profile.timing import Memory, StageMemory, Times
from unetinspect.record import Profile
from unetinspect.run.build import build_unet, named_tensors
from unetinspect.unets.request import make_request

_SIDES = {"conditioned": 8, "skip-blocks": 8, "cascade-prior": 4}
SMALL = plain(block_out_channels=[8], down_block_types=["DownBlock2D"], up_block_types=["UpBlock2D"], layers_per_block=1, sample_size=4)


def on_host(model: Any, how: ProfileOptions | None = None, attached: Any = None, **request: Any) -> tuple[Trace, Profile]:
    """Profile a config, or a bundled model, on the CPU."""
    how = how or ProfileOptions(repeats=3, warmup=1)
    attached = None if attached is None else _load(attached, {})
    return profile_model(_load(model, {}), make_request(**request), {}, how, attached, clock=HostClock())


@cache
def measured(kind: str) -> tuple[Trace, Profile]:
    """Profile one of the small configs, once."""
    return on_host(ALL[kind], latent=_SIDES.get(kind))


@cache
def known() -> tuple[Trace, Profile]:
    """Return a profile whose every time and byte is given: stage number n takes n ms, and the pass 4 ms more than all of them."""
    record, _ = measured("conditioned")
    stages = {stage.name: [float(number)] * 5 for number, stage in enumerate(record.stages, 1)}
    whole = sum(range(1, len(stages) + 1))
    times = Times(forward=[whole + 4.0 + late for late in (2, 0, 1, 3, 4)], hooked=[whole + 7.0] * 5, stages=stages)
    memory = Memory(
        allocated=5 << 20, peak=3 << 20, activations=2 << 20, stages={name: StageMemory(allocated=1 << 10, peak=2 << 20) for name in stages}
    )
    how = ProfileOptions(repeats=5, warmup=2)
    return record, make_profile(record, how, HostClock(), times, memory, matrix_rate=0.25, input_bytes=77)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Keep each UNet that is built on a device."""
    unets: list[nn.Module] = []

    def build(*args: Any, **options: Any) -> nn.Module:
        unets.append(build_unet(*args, **options))
        return unets[-1]

    monkeypatch.setattr("unetinspect.profile.profiling.build_unet", build)
    return unets


class CpuCalls(TorchDispatchMode):
    """Counts the operations that run on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if all(tensor.device.type == "cpu" for _, tensor in named_tensors(output)):
            self.calls[func.overloadpacket.__name__] += 1
        return output


@pytest.mark.parametrize("kind", ["conditioned", "cascade-prior"])
def test_a_profile_is_of_the_stages_of_its_trace(kind: str) -> None:
    """Each stage of the record, in order, took time; they add up to no more than the pass that they were timed in."""
    record, profile = measured(kind)

    assert [(stage.name, stage.role, stage.class_name, stage.macs) for stage in profile.stages] == [
        (stage.name, stage.role, stage.class_name, stage.macs) for stage in record.stages
    ]
    assert all(0 < stage.ms.low <= stage.ms.median <= stage.ms.high for stage in profile.stages)
    assert sum(stage.share for stage in profile.stages) == pytest.approx(1)
    assert 0 < profile.stages_sum_ms <= profile.hooked_forward_ms.median
    assert record.run.device == profile.device == "cpu"
    assert (profile.macs, profile.flops, profile.weight_bytes) == (record.totals.macs, record.totals.flops, record.totals.weight_bytes)
    assert profile.estimate_error is None


def test_rates_and_shares_follow_from_the_times() -> None:
    """2 MACs per ms in 10^9 are 10^12 FLOPs per second; the matrix rate is 1/4 of those; medians, deciles and sums by hand."""
    record, profile = known()
    whole = sum(range(1, len(record.stages) + 1))

    assert (profile.forward_ms.median, profile.forward_ms.low, profile.forward_ms.high) == pytest.approx(
        (whole + 6, whole + 4.4, whole + 7.6)
    )
    assert profile.stages_sum_ms == whole
    assert profile.hooks_cost_ms == 1
    assert profile.tflops == pytest.approx(2 * (record.totals.macs or 0) / (whole + 6) / 1e9)
    assert profile.matrix_share == pytest.approx(4 * profile.tflops)
    for number, stage in enumerate(profile.stages, 1):
        assert stage.share == pytest.approx(number / whole)
        assert stage.tflops == pytest.approx(2 * stage.macs / number / 1e9)
        assert stage.matrix_share == pytest.approx(4 * stage.tflops)
        assert (stage.allocated_bytes, stage.peak_bytes) == (1 << 10, 2 << 20)
        assert stage.activation_bytes == record.stages[number - 1].activation_bytes
    assert profile.estimated_peak_bytes == record.totals.peak_activation_bytes
    assert profile.estimate_error == pytest.approx((record.totals.peak_activation_bytes or 0) / (3 << 20) - 1)


def test_the_estimate_is_that_of_the_attention_that_ran() -> None:
    """Math attention holds maps, which the trace estimates for the whole; slicing is not estimated."""
    record, _ = known()
    times = Times(forward=[1.0], hooked=[1.0], stages={stage.name: [1.0] for stage in record.stages})
    memory = Memory(allocated=0, peak=1, activations=None, stages={stage.name: StageMemory() for stage in record.stages})
    math, slicing = (
        make_profile(record, ProfileOptions(attention=attention), HostClock(), times, memory, matrix_rate=1, input_bytes=0)
        for attention in ("math", "slicing")
    )

    assert math.estimated_peak_bytes == record.totals.peak_activation_bytes_with_maps
    assert (math.estimated_peak_bytes or 0) > (record.totals.peak_activation_bytes or 0)
    assert (slicing.estimated_peak_bytes, slicing.estimate_error) == (None, None)
    assert {stage.activation_bytes for stage in (*math.stages, *slicing.stages)} == {None}


@pytest.mark.parametrize("kind", ["conditioned", "cascade-decoder", "uvit"])
def test_every_module_that_runs_is_in_what_is_timed(kind: str) -> None:
    """The called modules of a stage hold every module that was called in it, and none stands in another."""
    record = traced_once(ALL[kind])
    paths = [path for inside in called_in_stages(record).values() for path in inside]

    assert all(called_in_stages(record).values())
    for module in record.modules:
        around = [path for path in paths if f"{module.path}.".startswith(f"{path}.")]
        assert len(around) == 1 if module.calls and module.path else len(around) <= 1


@pytest.mark.parametrize("kind", ["skip-blocks"])
def test_the_pass_is_of_numbers_that_are_neither_equal_nor_nan(kind: str, built: list[nn.Module]) -> None:
    """A pass of zeros or of NaN would run faster on a GPU than a real one; this class computes the logarithm of its timestep."""
    returned: list[Any] = []

    def keep(module: nn.Module, given: Any, output: Any) -> None:
        if built and module is built[0]:
            returned.append(output.to_tuple()[0])

    with torch.nn.modules.module.register_module_forward_hook(keep):
        on_host(ALL[kind], ProfileOptions(repeats=1, warmup=1), latent=8)
    first, *others = returned

    assert len(returned) == 7  # two turns of two, and three for the memory
    assert first.isfinite().all()
    assert first.std() > 0
    assert all(torch.equal(first, other) for other in others)
    assert all(weight.std() > 0 for weight in built[0].parameters() if weight.numel() > 1)


@pytest.mark.parametrize(("attention", "fused", "maps"), [("sdpa", True, False), ("math", False, True), ("slicing", False, True)])
def test_attention_runs_as_asked(attention: Any, fused: bool, maps: bool) -> None:
    """Fused attention has no softmax of its own; math attention and slicing have no fused kernel."""
    with CpuCalls() as log:
        _, profile = on_host(condition(), ProfileOptions(attention=attention, repeats=1, warmup=0), latent=8)
    names = log.calls.keys()

    assert any("scaled_dot_product" in name and "math" not in name for name in names) is fused
    assert any("softmax" in name for name in names) is maps
    assert ("baddbmm" in names) is (attention == "slicing")
    assert profile.attention == attention


@pytest.mark.parametrize("kind", ["conditioned", "svd"])
def test_channels_last_is_how_weights_and_samples_lie(kind: str, built: list[nn.Module]) -> None:
    """Convolutions of two and of three dimensions, images and videos, have their channels last."""
    seen: dict[str, torch.Tensor] = {}
    frames = None if kind == "conditioned" else 2

    def keep(module: nn.Module, given: Any) -> None:
        if built and given:
            seen.setdefault(type(module).__name__, given[0])

    with torch.nn.modules.module.register_module_forward_pre_hook(keep):
        on_host(ALL[kind], ProfileOptions(channels_last=True, repeats=1, warmup=0), latent=4, frames=frames)
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    kernels = [weight for weight in built[0].parameters() if weight.dim() in formats]

    assert all(weight.is_contiguous(memory_format=formats[weight.dim()]) for weight in kernels)
    assert not all(weight.is_contiguous() for weight in kernels)
    assert seen["Conv2d"].is_contiguous(memory_format=torch.channels_last)
    assert not seen["Conv2d"].is_contiguous()
    assert {weight.dim() for weight in kernels} == ({4} if kind == "conditioned" else {4, 5})


def assert_is_clean(unet: nn.Module) -> None:
    """Check that no hook is left, and no compiled forward."""
    assert not has_hooks(unet)
    assert not any("forward" in vars(module) for module in unet.modules())


def test_stages_are_compiled_one_by_one_and_nothing_stays_so(built: list[nn.Module]) -> None:
    """The backend gets each stage once, before the repeats."""
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    how = ProfileOptions(compile=True, backend=backend, repeats=2, warmup=1)
    record, profile = on_host(SMALL, how)

    assert len(graphs) == len(record.stages)
    assert profile.compiled
    assert_is_clean(built[0])


def test_a_pass_that_raises_is_one_sentence_and_leaves_nothing_behind(built: list[nn.Module]) -> None:
    """Also if the compiler fails."""

    def backend(graph: Any, inputs: Any) -> Any:
        raise NotImplementedError

    with pytest.raises(ForwardError) as raised:
        on_host(SMALL, ProfileOptions(compile=True, backend=backend))

    assert raised.value.message.startswith("the forward pass of UNet2DModel failed on cpu: ")
    assert raised.value.hint == "leave --compile out"
    assert_is_clean(built[0])


def test_too_little_memory_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the device runs out of it."""

    def fail(*args: Any, **options: Any) -> nn.Module:
        raise torch.OutOfMemoryError

    monkeypatch.setattr("unetinspect.profile.profiling.build_unet", fail)
    with pytest.raises(ForwardError) as raised:
        on_host(SMALL)

    assert raised.value.message == "UNet2DModel at sample 4x4 in float32 does not fit the memory of cpu"
    assert raised.value.exit_code == 4
    assert "--dtype float16" in (raised.value.hint or "")


@pytest.mark.parametrize(
    ("config", "how", "message"),
    [
        (SMALL, {"attention": "slicing"}, "--attention slicing: UNet2DModel has no attention slicing in diffusers"),
        (
            ALL["unet1d-temporal"],
            {"channels_last": True},
            "--channels-last: the sample of UNet1DModel is a signal, not an image or video",
        ),
    ],
    ids=["slicing", "channels-last"],
)
def test_what_a_class_cannot_do_is_refused(config: Any, how: dict[str, Any], message: str) -> None:
    """Before anything is built on the device."""
    with pytest.raises(UsageError) as raised:
        on_host(config, ProfileOptions(**how))

    assert raised.value.message == message
    assert raised.value.hint


def test_what_is_added_to_the_pass_is_measured_with_it(built: list[nn.Module]) -> None:
    """A ControlNet's residuals are among the inputs, and FreeU is on."""
    with CpuCalls() as log:
        record, profile = on_host(
            condition(), ProfileOptions(repeats=1, warmup=0), attached=config_of("controlnet"), latent=8, freeu=(1.2, 1.4, 0.9, 0.2)
        )
    sizes = {"float32": 4, "int64": 8}
    inputs = {
        given.name: torch.Size(given.shape).numel() * sizes[given.dtype or ""] for given in record.run.inputs if given.shape is not None
    }

    assert record.run.plugged == "ControlNetModel"
    assert len([name for name in inputs if "residual" in name]) == 4 + 1
    assert log.calls["_fft_c2c"] > 0
    assert profile.input_bytes == sum(inputs.values())
