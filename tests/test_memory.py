"""The memory of a pass and of a training step, compared with torch on the CPU, and the largest batch that fits in it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from bitsandbytes.optim import AdamW8bit  # type: ignore[attr-defined]
from diffusers import UNet2DConditionModel
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves

from tests.tiny import ALL, CONDITION, model_of, some, traced
from tests.witness import LiveBytes, by_hand
from unetinspect import UnetInspectError, UsageError, trace
from unetinspect.observe.training import optimizer_bytes, step_bytes
from unetinspect.record import Optimizer, SweepPoint
from unetinspect.run.cache import Recorder
from unetinspect.run.sweep import _largest_batch, sweep
from unetinspect.unets.request import Request, make_request

OPTIMIZERS: dict[Optimizer, Any] = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, foreach=True),  # as by default on CUDA
    "sgd": torch.optim.SGD,
    "adafactor": torch.optim.Adafactor,
}


def difference(kind: str) -> float:
    """How far meta may be from the CPU, which computes a few things otherwise.

    Its convolutions keep channels last, which saves a copy after some attention layers; in torch's `MultiheadAttention`, it fuses
    attention; and in a backward pass over a signal it makes fewer copies.
    """
    known = {"plain": 0.011, "k-blocks": 0.002, "controlnet-union": 1e-4, "unet1d-temporal-layers": 0.06}
    return next((most for name, most in known.items() if kind.startswith(name)), 0)


def trained_by_hand(kind: str, *, checkpointing: bool) -> tuple[int, int]:
    """Run a training step on the CPU; returns what autograd saved with the output, and the peak of live bytes."""
    model, run = by_hand(traced(kind, cfg=False))
    model.train()
    if checkpointing:
        model.enable_gradient_checkpointing()  # type: ignore[operator]
    known: list[Any] = [*model.parameters(), *model.buffers()]
    model.register_forward_pre_hook(lambda _, args, named: known.extend(tree_leaves((args, named))), with_kwargs=True)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    storages = {}

    def save(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with LiveBytes() as live:
        with saved_tensors_hooks(save, lambda tensor: tensor):
            outputs = [leaf for leaf in tree_leaves(run(grad=True)) if isinstance(leaf, Tensor)]
        for tensor in outputs:
            save(tensor)
        torch.autograd.backward(outputs, [torch.zeros_like(tensor) for tensor in outputs])
    for tensor in known:
        if isinstance(tensor, Tensor):
            storages.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(storages.values()), live.peak


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of diffusers' own imports
@pytest.mark.parametrize("kind", list(dict.fromkeys(["conditioned", "plain", *some(ALL, 48)])))
def test_a_training_step_keeps_and_creates_what_one_on_the_cpu_does(kind: str, *, checkpointing: bool) -> None:
    """To the byte in float32: what saved-tensor hooks see, and the peak of both passes; without CFG, from the same forward pass."""
    try:
        kept, peak = trained_by_hand(kind, checkpointing=checkpointing)
    except Exception:  # diffusers has no gradient checkpointing for the class, or it fails
        assert checkpointing
        with pytest.raises(UnetInspectError):
            traced(kind, training=True, gradient_checkpointing=True)
        return
    record = traced(kind, training=True, gradient_checkpointing=checkpointing)
    found = record.totals.training

    assert found is not None
    assert kept <= found.kept_bytes <= kept * (1 + difference(kind))
    assert peak <= found.peak_activation_bytes <= peak * (1 + difference(kind))
    assert record.totals.inference_bytes == traced(kind, cfg=False).totals.inference_bytes
    weights = record.totals.weight_bytes
    assert found.total_bytes == weights + found.gradient_bytes + found.optimizer_bytes + max(found.peak_activation_bytes, found.step_bytes)


@pytest.mark.parametrize("kind", ["gligen"])
def test_gradients_and_optimizers_take_what_those_of_torch_do(kind: str) -> None:
    """After a real step: a parameter without a gradient has no state, a step counter is on the host, AdamW's step copies once."""
    model, run = by_hand(traced(kind))
    torch.stack([tensor.sum() for tensor in tree_leaves(run(grad=True))]).sum().backward()
    trained = [parameter for parameter in model.parameters() if parameter.grad is not None]
    found = traced(kind, training=True).totals.training

    assert found is not None
    assert found.gradient_bytes == sum(parameter.nbytes for parameter in trained)
    for name, make in OPTIMIZERS.items():
        optimizer = make(model.parameters())
        optimizer.step()
        state = [value for own in optimizer.state.values() for key, value in own.items() if key != "step"]
        with LiveBytes() as live:
            optimizer.step()
        assert optimizer_bytes(name, trained) == sum(value.nbytes for value in state)
        assert step_bytes(name, trained) == (live.peak if name == "adamw" else 0)
    assert (found.optimizer, found.optimizer_bytes) == ("adamw", optimizer_bytes("adamw", trained))


def test_8bit_is_the_state_of_bitsandbytes() -> None:
    """Bytes and a scale for each block of a large tensor, float32 for a small one; its two tables of 1 KiB are not counted."""
    trained = [nn.Parameter(torch.zeros(size)) for size in (4095, 4096, 4097, 100_000)]
    optimizer = AdamW8bit(trained)
    for place, parameter in enumerate(trained):
        optimizer.init_state(optimizer.param_groups[0], parameter, 0, place)
    state = [value for own in optimizer.state.values() for name, value in own.items() if isinstance(value, Tensor) and "qmap" not in name]

    assert optimizer_bytes("8bit", trained) == sum(value.nbytes for value in state)
    assert set(get_args(Optimizer)) == {*OPTIMIZERS, "8bit"}


def test_of_a_live_module_only_what_requires_a_gradient_is_trained() -> None:
    """A LoRA: its own gradients and state, less kept for the frozen layers, and every module, gradient and flag is as it was."""
    unet = UNet2DConditionModel.from_config(CONDITION).train()
    whole = trace(unet, training=True).totals.training
    unet.requires_grad_(requires_grad=False)
    with pytest.raises(UsageError, match="no parameter of UNet2DConditionModel requires a gradient"):
        trace(unet, training=True)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"]))
    unet.enable_gradient_checkpointing()
    before = [({**vars(module)}, {**module._parameters}) for module in unet.modules()]
    adapters = sum(parameter.nbytes for parameter in unet.parameters() if parameter.requires_grad)
    kept = []
    for checkpointing in (False, True):
        found = trace(unet, training=True, gradient_checkpointing=checkpointing).totals.training
        assert found is not None
        assert (found.gradient_bytes, found.optimizer_bytes) == (adapters, 2 * adapters)
        kept.append(found.kept_bytes)

    assert whole is not None
    assert whole == traced("conditioned", training=True).totals.training
    assert whole.kept_bytes > kept[0] > 2 * kept[1]
    assert [({**vars(module)}, {**module._parameters}) for module in unet.modules()] == before
    assert all(parameter.grad is None for parameter in unet.parameters())


@given(
    fixed=st.integers(0, 1000),
    lines=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 90)), min_size=1, max_size=3),
    limit=st.integers(1, 10**7),
    most=st.integers(1, 3000) | st.just(10**9),
)
def test_the_batch_that_fits_is_the_largest(fixed: int, lines: list[tuple[int, int]], limit: int, most: int) -> None:
    """Whatever decides the peak (the largest of several lines), and even if larger batches fail; within a few passes."""
    asked = []

    def run(request: Request) -> SweepPoint:
        asked.append(request.batch)
        assert len(asked) <= 100  # a search of one batch after the other would not end
        total = fixed + max(base + slope * request.batch for base, slope in [*lines, (0, 1)])
        total_bytes = total if request.batch <= most else None
        return SweepPoint(
            image_size=None, sample_size=None, batch=request.batch, device="meta", dtype="float32", inference_bytes=total_bytes
        )

    found = _largest_batch(run, Request(), limit)
    best = max((min(most, *((limit - fixed - base) // slope for base, slope in [*lines, (0, 1)] if slope)), 0))
    best = 0 if any(fixed + base > limit for base, _ in lines) else best

    assert (found.batch, found.fits, found.fit_bytes) == (max(best, 1), best > 0, limit)
    assert best == 0 or {best, best + 1} <= set(asked)
    assert len(asked) == len(set(asked)) <= 12 + max(asked).bit_length()


@pytest.mark.parametrize("training", [False, True])
def test_sweep_finds_the_batch_by_passes(training: bool) -> None:
    """With exactly the memory of three images, three fit; with a byte less, two; with less than one needs, none."""
    record = Recorder(None, model_of(CONDITION)).record
    request = make_request(device="meta", training=training)
    points, _ = sweep(record, request, latent=[(8, 16)], batch=[1, 3])
    one, three = (point.total_bytes or 0 for point in points)
    for limit, batch, fits in ((three, 3, True), (three - 1, 2, True), (one - 1, 1, False)):
        (point,), _ = sweep(record, request, latent=[(8, 16)], fit=limit)
        assert (point.batch, point.fits, point.fit_bytes) == (batch, fits, limit)


def test_the_table_shows_the_batch_or_that_none_fits(cli: Any, tmp_path: Path) -> None:
    """The weights alone take more than 1 MB."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONDITION))
    shown = [cli("sweep", str(path), "--latent", "8", "--device", "meta", "--training", "--fit", size)[1] for size in ("1 MB", "32MiB")]

    assert re.search(r"8x8 +- ", shown[0])
    assert re.search(r"8x8 +\d+ ", shown[1])
    assert "batch: the largest whose total is within 32 MiB; -: not even 1" in shown[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trace", "sd15", "--optimizer", "sgd"), "error: --optimizer is an option of training\nhint: add --training"),
        (("trace", "sd15", "--gradient-checkpointing"), "error: --gradient-checkpointing is an option of training"),
        (("trace", "sd15", "--training", "--cfg"), "error: --cfg and --training exclude each other"),
        (("trace", "sd15", "--training", "--optimizer", "adam"), "error: invalid value for '--optimizer': 'adam'"),
        (("sweep", "sd15", "--fit", "24"), "error: --fit: '24' is not an amount of memory\nhint: write a number and its unit: --fit 24GiB"),
        (("sweep", "sd15", "--fit", "0GiB"), "error: --fit: '0GiB' is not an amount of memory"),
        (("sweep", "sd15", "--fit", "1GiB", "--batch", "2"), "error: --fit and --batch exclude each other"),
    ],
)
def test_options_that_contradict_each_other_are_refused(cli: Any, arguments: tuple[str, ...], message: str) -> None:
    """Before anything runs, with what to type instead."""
    code, out, err = cli(*arguments)

    assert (code, out) == (2, "")
    assert message in err
