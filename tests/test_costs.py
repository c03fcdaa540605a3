"""What a pass costs, against torch's own counter, a CPU pass that is watched by other means, published figures, and laws."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from tests.test_against_torch import OTHER_CLASSES, assert_macs_are_half_of, small_pass
from tests.tiny import KINDS, traced, traced_once
from unetinspect import Trace
from unetinspect.observe import watch_forward
from unetinspect.observe.macs import attention_macs
from unetinspect.run.build import make_inputs
from unetinspect.run.resolve import diffusers_class, resolve_config
from unetinspect.unets import InputSpec

PASSES: dict[str, dict[str, Any]] = {**KINDS, **OTHER_CLASSES}
# Those whose operations differ; the others differ in what they embed, or in how many blocks there are.
ON_THE_CPU = [
    *("conditioned", "plain", "simple-cross-attention", "k-blocks", "no-mid-block", "own-hidden-states", "linear-projection", "text"),
    *("text-image", "image-hint", "class-concat", "gligen-text-image", "dual-sizes", "skip-blocks", "plain-resnet-sampling"),
    *OTHER_CLASSES,
]
COUNTED = {"aten.convolution", "aten.addmm", "aten.mm", "aten._scaled_dot_product_flash_attention_for_cpu"}
MOVES = {
    *("aten.arange", "aten.cat", "aten.clone", "aten._to_copy", "aten._unsafe_view", "aten.view", "aten.expand", "aten.unsqueeze"),
    *("aten.t", "aten.transpose", "aten.slice", "aten.permute", "aten.split", "aten.alias", "aten.detach"),
}


def by_hand(config: dict[str, Any], record: Trace, device: str) -> Callable[[], Any]:
    """Build the UNet of a config; return how to run it with the inputs that the record says, watched by nothing of this package."""
    resolved = resolve_config(config)
    with torch.device(device):
        unet = diffusers_class(resolved.class_name)(**resolved.values).to(device).eval()
    specs = [InputSpec.of(given) for given in record.run.inputs]
    inputs = make_inputs(specs, device=torch.device(device), dtype=torch.float32)

    def run() -> Any:
        with torch.no_grad():
            return unet(**inputs)

    return run


class LiveBytes(TorchDispatchMode):
    """Adds up the bytes of what operations make as long as it lives, told by finalizers of the storages."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = [
            tensor.untyped_storage() for tensor in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(tensor, torch.Tensor)
        ]
        output = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(output):
            if isinstance(tensor, torch.Tensor) and not any(tensor.untyped_storage() is storage for storage in before):
                self._born(tensor.untyped_storage())
        del before
        self.peak = max(self.peak, self.now)
        return output

    def _born(self, storage: torch.UntypedStorage) -> None:
        if storage in self.known:
            return
        self.known.add(storage)
        self.now += storage.nbytes()
        weakref.finalize(storage, self._died, storage.nbytes())

    def _died(self, size: int) -> None:
        self.now -= size


class Log(TorchDispatchMode):
    """Writes down how often each operation ran."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[str(func.overloadpacket)] += 1
        return func(*args, **(kwargs or {}))


class Attending(nn.Module):
    """Attends to itself, with a mask."""

    def __init__(self, mask: torch.Tensor | None) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, query: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(query, query, query, attn_mask=self.mask)


class Calling(nn.Module):
    """Runs one operation."""

    def __init__(self, operation: Any) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, sample: torch.Tensor) -> Any:
        return self.operation(sample)


def pass_of(name: str) -> tuple[dict[str, Any], Trace]:
    """Return a small config and its record, at a size that a CPU runs at once."""
    config, size = (KINDS[name], {}) if name in KINDS else small_pass(name)
    return config, traced_once(config, **size)


def published(name: str) -> Trace:
    """Trace a bundled UNet."""
    return traced(name, **({"tokens": 77} if name == "kandinsky-3" else {}))


@pytest.mark.parametrize("name", OTHER_CLASSES)
def test_macs_are_half_of_what_torchs_own_counter_counts(name: str) -> None:
    """FlopCounterMode on the CPU has the same total, and the same kinds, to the last digit; of image UNets, the witness counts as well."""
    config, record = pass_of(name)
    run = by_hand(config, record, "cpu")
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()

    assert_macs_are_half_of(counter, record)


@pytest.mark.parametrize("name", ON_THE_CPU)
def test_peaks_are_the_live_bytes_of_a_cpu_pass(name: str) -> None:
    """With the CPU's fused kernel, and with torch's math attention, which holds its maps: to the last byte."""
    config, record = pass_of(name)
    run = by_hand(config, record, "cpu")
    with LiveBytes() as fused:
        run()
    with LiveBytes() as math, sdpa_kernel(SDPBackend.MATH):
        run()

    assert record.totals.peak_activation_bytes == fused.peak
    assert record.totals.peak_activation_bytes_with_maps == math.peak


@pytest.mark.parametrize("name", PASSES)
def test_costs_add_up(name: str) -> None:
    """Stages share out the whole; no child costs more than what it stands in; what the parts hold peaks with the whole."""
    _, record = pass_of(name)
    modules = {module.path: module for module in record.modules}
    totals, root = record.totals, modules[""]

    assert sum(stage.macs or 0 for stage in record.stages) == totals.macs == root.macs
    assert sum(layer.macs or 0 for layer in record.attentions) == (totals.macs_by_kind and totals.macs_by_kind.attention)
    assert totals.peak_activation_bytes == root.activation_bytes
    assert totals.peak_activation_in in modules
    for path, module in modules.items():
        parent = modules[path.rpartition(".")[0]]
        assert (module.macs or 0) <= (parent.macs or 0)
        assert (module.activation_bytes or 0) <= (parent.activation_bytes or 0)
        assert module.flops == 2 * (module.macs or 0)
    assert (totals.peak_activation_bytes_with_maps or 0) >= (totals.peak_activation_bytes or 0)
    assert sum((totals.weight_bytes_by_dtype or {}).values()) == totals.weight_bytes


# GMACs at batch 1, computed with FlopCounterMode: convolutions, linear layers, attention products; beside them what papers print of
# convolutions and linear layers alone: DeepCache (arXiv 2312.00858) tables 1 to 3, T-GATE's table divided by its forward passes.
FIGURES = {
    "sd15": (222.0, 116.6, 63.0, 338.83),
    "bk-sdm-small": (148.9, 68.8, 37.8, 217.78),
    "bk-sdm-tiny": (136.2, 68.8, 37.8, 205.09),
    "sd21": (470.7, 289.8, 314.1, 760.82),
    "sdxl": (811.6, 2177.1, 392.0, 2988.76),
    "ssd-1b": (781.4, 1072.5, 250.1, None),
    "koala-700m": (514.6, 661.6, 174.6, None),
    "controlnet-sd15-canny": (68.5, 47.9, 25.2, None),
    "ddpm-cifar10-32": (5.7, 0.3, 0.2, 6.1),
    "ddpm-cat-256": (246.8, 1.4, 0.3, 248.7),
    "cd-imagenet64": (95.6, 7.8, 6.2, None),
    "if-i-xl": (1284.9, 129.4, 25.2, None),
    "kandinsky-3": (1413.8, 155.3, 35.2, None),
}


@pytest.mark.parametrize("name", FIGURES)
def test_macs_of_published_models_are_those_known_elsewhere(name: str) -> None:
    """Each kind to the digit that is known, and the published figure within 2 % of what it leaves out attention products of."""
    *known, printed = FIGURES[name]
    record = published(name)
    kinds, samples = record.totals.macs_by_kind, record.run.forward_batch  # which cost the same each: see test_laws.py

    assert kinds is not None
    conv, linear, attention = (macs / samples / 1e9 for macs in (kinds.conv, kinds.linear, kinds.attention))
    assert [round(macs, 1) for macs in (conv, linear, attention)] == known
    if printed is not None:
        assert conv + linear == pytest.approx(printed, rel=0.02)


@given(
    axes=st.tuples(*[st.integers(1, 5)] * 4, st.integers(1, 5), st.integers(1, 5)),
)
def test_attention_macs_are_torchs_formula(axes: tuple[int, ...]) -> None:
    """Q Kᵀ and the product with V, as torch counts its fused kernels; and as a loop over every scalar product would."""
    batch, heads, queries, keys, head_dim, value_dim = axes
    shapes = [(batch, heads, queries, head_dim), (batch, heads, keys, head_dim), (batch, heads, keys, value_dim)]

    assert 2 * attention_macs(*shapes) == sdpa_flop_count(*shapes)
    assert attention_macs(*shapes) == sum(head_dim + value_dim for _ in range(batch * heads * queries * keys))


def test_what_has_no_formula_is_listed_with_its_calls() -> None:
    """Every operation that computes something is counted or listed: a log of a CPU pass has no third kind."""
    config, record = pass_of("conditioned")
    run = by_hand(config, record, "cpu")
    with Log() as log:
        run()
    listed = {operation.op: operation.calls for operation in record.totals.uncounted}

    assert listed == {op: calls for op, calls in log.calls.items() if op not in COUNTED and op not in MOVES}
    resnets, transformers = 8, 4  # 1 + 1 on the way down, 2 in the mid block, 2 + 2 on the way up; 1, 1 and 2 of them with a transformer
    assert listed["aten.silu"] == 3 * resnets + 2  # two of features, one of the embedding; time_embedding and conv_act
    assert listed["aten.native_group_norm"] == 2 * resnets + transformers + 1


def test_a_masked_attention_costs_what_an_unmasked_one_does() -> None:
    """A mask is added to the scores: on meta its attention is fused too, and its map stays out of the peak."""
    query = torch.empty(2, 4, 32, 8, device="meta")
    peaks = []
    for mask in (None, torch.empty(2, 1, 1, 32, device="meta"), torch.empty(32, 32, device="meta", dtype=torch.bool)):
        module = Attending(mask)
        seen = watch_forward(partial(module, query), module, {"query": query}, lambda path: path or None)
        assert [count.macs for count in seen.macs] == [2 * 4 * 32 * 32 * 16]
        peaks.append(seen.peak.size)

    assert peaks == [2 * 4 * 32 * (8 + 1) * 4] * 3


def test_an_unknown_operation_is_never_counted_as_nothing() -> None:
    """An operation of another library has no formula here: its full name is listed."""
    with torch.library._scoped_library("unetinspect_test", "FRAGMENT") as library:
        library.define("double(Tensor x) -> Tensor")
        library.impl("double", lambda x: x * 2, "Meta")
        module = Calling(torch.ops.unetinspect_test.double.default)
        sample = torch.empty(3, device="meta")
        seen = watch_forward(partial(module, sample), module, {"sample": sample}, lambda path: path or None)

    assert seen.uncounted == {"unetinspect_test.double": 1}
    assert seen.macs == []


def test_a_tensor_that_has_no_storage_does_not_stop_the_pass() -> None:
    """A sparse tensor holds its values in others, which no operation shows: it counts for nothing, and the pass goes on."""

    class Sparse(nn.Module):
        def forward(self, sample: torch.Tensor) -> torch.Tensor:
            return sample.to_sparse().to_dense() + 1

    module, sample = Sparse(), torch.ones(4, 4)
    seen = watch_forward(partial(module, sample), module, {"sample": sample}, lambda path: path or None)

    assert seen.returned.shape == (4, 4)
    assert seen.peak.size >= 2 * 4 * 4 * 4  # the dense tensor, and the sum
