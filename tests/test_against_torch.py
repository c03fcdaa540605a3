"""The record against independent witnesses: our own hooks and modes here, `numel()`, a real forward on the CPU."""

from __future__ import annotations

from typing import Any

import diffusers
import msgspec
import pytest
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from tests import kinds_other, kinds_plugs, kinds_video
from tests.tiny import KINDS, traced, traced_once
from unetinspect import Trace, trace
from unetinspect.errors import ForwardError
from unetinspect.run.build import make_inputs
from unetinspect.unets import InputSpec

# The first config of each class that is no image UNet.
OTHER_CLASSES = {
    config["_class_name"]: config
    for kinds in (kinds_video.KINDS, kinds_plugs.KINDS, kinds_other.KINDS)
    for config in reversed(kinds.values())
}


# Where torch runs other operations on the CPU than on meta, of which single modules hold a little more or less at once: a group norm
# keeps channels-last there and copies it on meta, a linear layer adds its bias apart on meta, a constant is copied to the device.
OTHERWISE_ON_THE_CPU = {
    *("plain", "plain-no-mid-block", "plain-mid-without-attention", "plain-resnet-sampling", "plain-classes", "plain-class-timestep"),
    *("plain-class-identity", "plain-learned-time", "plain-old-prefix", "simple-cross-attention", "dual-without-transformers"),
    *("k-blocks", "skip-blocks", "UVit2DModel"),
}

# There a convolution returns another layout than on meta, and 128 bytes more live in the pass.
OTHER_PEAK_ON_A_GPU = {"simple-cross-attention", "dual-without-transformers"}


class Witness(TorchFunctionMode):
    """Writes down every scaled-dot-product attention, and every `torch.cat` along dim 1 that is made inside an up block.

    `flops` is what torch's own counter counted in the same pass.
    """

    def __init__(self, unet: torch.nn.Module) -> None:
        super().__init__()
        self.attentions: list[tuple[Any, ...]] = []
        self.concats: list[tuple[int, int]] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.inside_up = 0
        self.flops = FlopCounterMode(display=False)
        for path, module in unet.named_modules():
            if path.startswith("up_blocks.") and path.count(".") == 1:
                module.register_forward_pre_hook(lambda *_: self._step(1))
                module.register_forward_hook(lambda *_: self._step(-1))
            module.register_forward_hook(lambda _, __, output, path=path: self._note(path, output))

    def _step(self, change: int) -> None:
        self.inside_up += change

    def _note(self, path: str, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output.get("sample") if isinstance(output, dict) else output
        if isinstance(first, torch.Tensor):
            self.shapes.setdefault(path, tuple(first.shape))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            self.attentions.append(tuple(tuple(tensor.shape) for tensor in args[:3]))
        if func is torch.cat and self.inside_up and (kwargs or {}).get("dim") == 1 and args[0][0].ndim == 4:
            hidden, skip = args[0]
            self.concats.append((hidden.shape[1], skip.shape[1]))
        return func(*args, **(kwargs or {}))


def witnessed(config: dict[str, Any], record: Trace) -> tuple[Witness, torch.nn.Module]:
    """Run the UNet of a config on the CPU with the inputs that the record says, watched by nothing of this package.

    Attention is taken apart into its two products there, which torch's counter knows.
    """
    unet = getattr(diffusers, config["_class_name"]).from_config(config)
    specs = [InputSpec.of(given) for given in record.run.inputs]
    inputs = make_inputs(specs, device=torch.device("cpu"), dtype=torch.float32)
    with torch.no_grad(), Witness(unet) as witness, witness.flops, sdpa_kernel(SDPBackend.MATH):
        unet(**inputs)
    return witness, unet


def assert_macs_are_half_of(counter: FlopCounterMode, record: Trace) -> None:
    """Compare a record's costs with what torch's own counter saw where it took attention apart into two products."""
    flops = {str(operation): count for operation, count in counter.get_flop_counts()["Global"].items()}
    kinds = record.totals.macs_by_kind

    assert record.totals.flops == counter.get_total_flops() == 2 * (record.totals.macs or 0)
    assert kinds is not None
    assert 2 * kinds.conv == sum(count for operation, count in flops.items() if "conv" in operation)
    assert 2 * kinds.attention == sum(count for operation, count in flops.items() if "bmm" in operation)
    assert kinds.conv + kinds.linear + kinds.attention == record.totals.macs


def small_pass(class_name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a small config of a class that is no image UNet, and the options of a pass that a CPU runs at once."""
    return OTHER_CLASSES[class_name], {} if class_name == "UNet1DModel" else {"latent": 8}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_config_agrees_with_the_witness(kind: str) -> None:
    """Attention operands, skip channels, parameters, output shapes and MACs are those that a separate run shows."""
    record = traced(kind)
    witness, unet = witnessed(KINDS[kind], record)

    fused = [layer for layer in record.attentions if not layer.materialised]
    assert witness.attentions == [(layer.query_shape, layer.key_shape, layer.value_shape) for layer in fused]
    assert witness.concats == [(skip.hidden_channels, skip.skip_channels) for skip in record.skips]
    assert record.totals.params == sum(parameter.numel() for parameter in unet.parameters())
    seen = {module.path: module.out_shape for module in record.modules if module.calls}
    assert {path: seen[path] for path in witness.shapes if path} == {path: shape for path, shape in witness.shapes.items() if path}
    assert_macs_are_half_of(witness.flops, record)


@pytest.mark.parametrize("kind", KINDS)
def test_skips_add_up_in_every_kind_of_config(kind: str) -> None:
    """hidden + skip is the concatenation, and what the first convolution of its resnet has weights for."""
    for skip in traced(kind).skips:
        assert skip.hidden_channels + skip.skip_channels == skip.concat_channels == skip.conv_channels
        assert skip.adds_up


@pytest.mark.parametrize("kind", KINDS)
def test_stages_and_modules_share_out_all_parameters(kind: str) -> None:
    """The stages' parameters add up to the total, and no child has more than its parent."""
    record = traced(kind)
    params = {module.path: module.params for module in record.modules}

    assert sum(stage.params for stage in record.stages) == record.totals.params == params[""]
    for path, count in params.items():
        assert count <= params[path.rpartition(".")[0]]


@pytest.mark.parametrize("kind", KINDS)
def test_cpu_and_meta_give_the_same_record(kind: str) -> None:
    """A real forward pass with real memory differs from the weight-less one in the device's name alone."""
    on_cpu = trace(KINDS[kind], device="cpu")
    on_meta = traced(kind)

    assert on_cpu.run.device == "cpu"
    assert _without_device(on_cpu, kind) == _without_device(on_meta, kind)


@pytest.mark.cuda
@pytest.mark.parametrize("kind", KINDS)
def test_cuda_and_meta_give_the_same_record(kind: str) -> None:
    """A forward pass on a GPU differs from the weight-less one in the device's name alone."""
    on_cuda = trace(KINDS[kind], device="cuda")

    assert on_cuda.run.device == "cuda:0"
    same, expected = _without_device(on_cuda, None), _without_device(traced(kind), None)
    if kind in OTHER_PEAK_ON_A_GPU:
        assert same["totals"].pop("peak_activation_bytes") == pytest.approx(expected["totals"].pop("peak_activation_bytes"), rel=1e-3)
        del same["totals"]["peak_activation_in"], expected["totals"]["peak_activation_in"]
    assert same == expected


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("class_name", OTHER_CLASSES)
def test_every_other_class_gives_the_same_record_on_every_device(class_name: str, device: str) -> None:
    """One config of each class; the files of those classes hold many more against a pass by hand."""
    config, size = small_pass(class_name)
    on_device, on_meta = trace(config, device=device, **size), traced_once(config, **size)

    assert on_device.run.device.partition(":")[0] == device
    kind = class_name if device == "cpu" else None
    assert _without_device(on_device, kind) == _without_device(on_meta, kind)


@pytest.mark.cuda
def test_what_does_not_fit_a_gpu_is_one_sentence() -> None:
    """The feature maps of 4,096 images take terabytes; the memory is free again afterwards."""
    with pytest.raises(ForwardError, match=r"^sd15 at sample 128 does not fit the memory of cuda:0$"):
        trace("sd15", res=1024, batch=4096, device="cuda")


def test_a_device_that_is_full_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever torch says of its allocator, the message is about the model and the device."""
    convolve = torch.nn.Conv2d.forward

    def is_full(conv: torch.nn.Conv2d, hidden_states: torch.Tensor) -> torch.Tensor:
        if hidden_states.is_meta:
            return convolve(conv, hidden_states)
        raise torch.OutOfMemoryError("Tried to allocate 160.00 GiB.")

    monkeypatch.setattr(torch.nn.Conv2d, "forward", is_full)
    with pytest.raises(ForwardError, match=r"^UNet2DModel at sample 16 does not fit the memory of cpu$") as raised:
        trace(KINDS["plain"], device="cpu", cache=False)

    assert raised.value.hint == "try a smaller --res or --batch, or --device meta, where nothing is allocated"


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["sd15", "sdxl", "ddpm-cat-256"])
def test_cuda_is_what_auto_takes_and_agrees_with_meta(name: str) -> None:
    """`--device auto` takes the GPU, in half precision too, and a published model has the same record there."""
    on_cuda = trace(name, dtype="float16")

    assert on_cuda.run.device == "cuda:0"
    assert _without_device(on_cuda, None) == _without_device(traced(name, dtype="float16"), None)


def _without_device(record: Trace, kind: str | None) -> Any:
    """Return the record as data without the device's name; and without what torch itself does otherwise there.

    `kind` None stands for a GPU, where kernels differ in every model. The totals' peaks are compared in any case.
    """
    fields = msgspec.to_builtins(record)
    del fields["run"]["device"]
    if kind is None or kind in OTHERWISE_ON_THE_CPU:
        del fields["totals"]["uncounted"]
        for row in (*fields["stages"], *fields["modules"]):
            del row["activation_bytes"]
    return fields
