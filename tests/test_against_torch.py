"""The record of every small config against a pass by hand, against its own sums, and on every device."""

from __future__ import annotations

from math import prod
from typing import Any

import msgspec
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.tiny import ALL, KINDS, OF_EACH_CLASS, OTHER, VIDEO, Config, some, traced, traced_once
from tests.witness import LiveBytes, Witness, by_hand
from unetinspect import Trace, trace
from unetinspect.errors import ForwardError

# Those whose operations differ; the others differ in what they embed, or in the number of blocks.
ON_THE_CPU = [
    *("conditioned", "plain", "simple-cross-attention", "k-blocks", "own-hidden-states", "linear-projection", "gligen-text-image"),
    *("text-image", "skip-blocks", "plain-resnet-sampling", *OF_EACH_CLASS.values()),
]
# A pass by hand takes longer than all else.
ON_THE_CPU = list(dict.fromkeys(ON_THE_CPU))
BY_HAND = list(dict.fromkeys([*ON_THE_CPU, *some(ALL, 8)]))
# There torch runs other operations on the CPU than on meta, and single modules have slightly other peaks: a group norm keeps
# channels-last there and copies it on meta, a linear layer adds its bias separately on meta, a constant is copied to the device.
OTHER_OPERATIONS_ON_THE_CPU = {"plain", "simple-cross-attention", "plain-resnet-sampling", "k-blocks", "skip-blocks", "uvit"}
# There a convolution on a GPU returns another layout than on meta, and the pass has 128 more bytes alive.
OTHER_PEAK_ON_A_GPU = {"simple-cross-attention", "dual-without-transformers"}
# Modules with weights that `forward` never runs: it ignores text_image, projections of the text, a text without an image
# (get_clip_embeddings), and the port for timestep_cond; a K-block pushes one skip fewer than there are convolutions.
NEVER_RUN = {
    "cascade-prior-text-alone": ["clip_txt_mapper"],
    "controlnet-k-block": ["controlnet_down_blocks.3"],
    "controlnet-text-image": ["add_embedding.image_proj", "add_embedding.text_norm", "add_embedding.text_proj"],
    "controlnet-text-proj": ["encoder_hid_proj"],
    "controlnet-text-alone": ["encoder_hid_proj"],
    "controlnet-xs-own-time": ["base_time_embedding.cond_proj"],
}


def options_of(kind: str) -> dict[str, Any]:
    """Return the options of a pass that a CPU runs at once."""
    if kind in KINDS or kind.startswith("unet1d"):
        return {}
    if kind in VIDEO:
        return {"latent": 4}
    return {"latent": 8 if kind in OTHER else 48 if kind.startswith("t2i") else 16}


def options_on_devices(kind: str) -> dict[str, Any]:
    """Return the options of the pass that is compared between devices."""
    if kind in VIDEO:
        return {"latent": "5x7", "frames": 2, "tokens": 3}  # no level halves it evenly
    return {} if kind in KINDS or kind.startswith("unet1d") else {"latent": 8}


def small(kind: str) -> Trace:
    """Trace a kind on meta at that size."""
    return traced_once(ALL[kind], **options_of(kind))


@pytest.mark.parametrize("kind", BY_HAND)
def test_every_kind_agrees_with_a_pass_by_hand(kind: str) -> None:
    """Parameters, outputs, which modules ran and what they returned, attention operands, skip channels, MACs."""
    record = small(kind)
    witness = Witness(record)
    ran = {module.path: module for module in record.modules if module.calls}
    fused = [layer for layer in record.attentions if layer.processor and not layer.materialised]

    assert record.totals.params == sum(parameter.numel() for parameter in witness.model.parameters())
    assert tuple(output.shape for output in record.outputs) == witness.returned
    assert {path: module.calls for path, module in ran.items()} == witness.calls
    assert {path: ran[path].out_shape for path in ran} == {path: next(iter(shapes), None) for path, shapes in witness.shapes.items()}
    assert [(layer.query_shape, layer.key_shape, layer.value_shape) for layer in fused] == witness.operands
    if kind in KINDS:
        assert [(skip.hidden_channels, skip.skip_channels) for skip in record.skips] == witness.concats
    if kind in OTHER:
        assert [(layer.path, layer.kind) for layer in record.attentions if layer.processor] == witness.kinds
    assert {skip.source: skip.shape for skip in record.skips} == {skip.source: witness.shapes[skip.source][0] for skip in record.skips}
    flops = {str(operation): count for operation, count in witness.flops.get_flop_counts()["Global"].items()}
    kinds = record.totals.macs_by_kind
    assert kinds is not None
    assert record.totals.flops == witness.flops.get_total_flops()
    assert 2 * kinds.conv == sum(count for operation, count in flops.items() if "conv" in operation)
    assert 2 * kinds.attention == sum(count for operation, count in flops.items() if "bmm" in operation)


@pytest.mark.parametrize("kind", list(dict.fromkeys([*BY_HAND, *some(ALL, 4)])))
def test_every_record_adds_up(kind: str) -> None:
    """Stages share out the whole, no child has or costs more than its parent, every skip fits, and all that has weights runs."""
    record = small(kind)
    totals, modules = record.totals, {module.path: module for module in record.modules}
    by_kind, root = totals.macs_by_kind, modules[""]
    holders, stages = {path.rpartition(".")[0] for path in modules}, {stage.name for stage in record.stages}
    idle = [path for path, module in modules.items() if module.params and not module.calls and path not in holders]
    in_no_stage = [path for path in idle if not any(f"{path}.".startswith(f"{stage}.") for stage in stages)]

    # MultiheadAttention multiplies with the weights of its out_proj itself.
    assert sorted(path for path in idle if not path.endswith("attn.out_proj")) == NEVER_RUN.get(kind, [])
    outside = sum(modules[path].params for path in in_no_stage) + sum(prod(shape) for shape in root.tensors.values())
    assert sum(stage.params for stage in record.stages) + outside == totals.params == root.params
    assert sum(stage.macs or 0 for stage in record.stages) == totals.macs == root.macs
    assert by_kind is not None
    assert by_kind.conv + by_kind.linear + by_kind.attention == totals.macs
    assert sum(layer.macs or 0 for layer in record.attentions) == by_kind.attention
    assert totals.flops == 2 * (totals.macs or 0)
    assert root.activation_bytes == totals.peak_activation_bytes
    assert (totals.peak_activation_bytes or 0) <= (totals.peak_activation_bytes_with_maps or 0)
    assert totals.peak_activation_in in modules
    assert sum((totals.weight_bytes_by_dtype or {}).values()) == totals.weight_bytes == 4 * totals.params
    for path, module in modules.items():
        parent = modules[path.rpartition(".")[0]]
        assert module.params <= parent.params
        assert (module.macs or 0) <= (parent.macs or 0)
        assert (module.activation_bytes or 0) <= (parent.activation_bytes or 0)
        assert module.flops == 2 * (module.macs or 0)
    for stage in record.stages:
        assert modules[stage.name].calls != 1 or stage.out_shape == modules[stage.name].out_shape
    for skip in record.skips:
        assert skip.hidden_channels + skip.skip_channels == skip.concat_channels
        assert skip.adds_up
        # The first convolution in a block of Stable Cascade is depthwise over the hidden states alone.
        assert skip.conv_channels == skip.concat_channels or kind.startswith("cascade")


@pytest.mark.parametrize("kind", ON_THE_CPU)
def test_a_pass_on_the_cpu_gives_the_same_record_and_has_the_same_peaks(kind: str) -> None:
    """Real memory changes only the device's name; by hand, to the last byte, with fused attention and with torch's math attention."""
    options = options_on_devices(kind)
    on_meta, on_cpu = traced_once(ALL[kind], **options), trace(ALL[kind], device="cpu", cache=False, **options)
    _, run = by_hand(on_meta)
    with LiveBytes() as fused:
        run()
    with LiveBytes() as math, sdpa_kernel(SDPBackend.MATH):
        run()

    assert on_cpu.run.device == "cpu"
    is_other = kind in OTHER_OPERATIONS_ON_THE_CPU
    assert _without_device(on_cpu, other_operations=is_other) == _without_device(on_meta, other_operations=is_other)
    assert on_meta.totals.peak_activation_bytes == fused.peak
    assert on_meta.totals.peak_activation_bytes_with_maps == math.peak


@pytest.mark.cuda
@pytest.mark.parametrize("kind", list(dict.fromkeys([*KINDS, *OF_EACH_CLASS.values()])))
def test_cuda_and_meta_give_the_same_record(kind: str) -> None:
    """A forward pass on a GPU differs from the weight-less one in the device's name alone."""
    options = options_on_devices(kind)
    on_cuda, on_meta = trace(ALL[kind], device="cuda", **options), traced_once(ALL[kind], **options)

    assert on_cuda.run.device == "cuda:0"
    same, expected = _without_device(on_cuda, other_operations=True), _without_device(on_meta, other_operations=True)
    if kind in OTHER_PEAK_ON_A_GPU:
        assert same["totals"].pop("peak_activation_bytes") == pytest.approx(expected["totals"].pop("peak_activation_bytes"), rel=1e-3)
        del same["totals"]["peak_activation_in"], expected["totals"]["peak_activation_in"]
    assert same == expected


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["sd15", "sdxl", "ddpm-cat-256"])
def test_cuda_is_what_auto_takes_and_agrees_with_meta(name: str) -> None:
    """`--device auto` is the GPU, in half precision too, and a published model has the same record there."""
    on_cuda, on_meta = trace(name, dtype="float16"), traced(name, dtype="float16")

    assert on_cuda.run.device == "cuda:0"
    assert _without_device(on_cuda, other_operations=True) == _without_device(on_meta, other_operations=True)


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
    with pytest.raises(ForwardError, match=r"^UNet2DModel at sample 16 does not fit the memory of cpu\nhint: ") as raised:
        trace(KINDS["plain"], device="cpu", cache=False)

    assert raised.value.hint == "try a smaller --res or --batch, or --device meta, where nothing is allocated"


def _without_device(record: Trace, *, other_operations: bool) -> Config:
    """Return the record as data without the device's name and, if torch runs other operations there, without what those change."""
    fields: Config = msgspec.to_builtins(record)
    del fields["run"]["device"]
    if other_operations:
        del fields["totals"]["uncounted"]
        for row in (*fields["stages"], *fields["modules"]):
            del row["activation_bytes"]
    return fields
