"""What the record says of modules: their own tensors, and the order in which they first ran."""

from __future__ import annotations

import diffusers
import pytest
import torch
from torch import nn

from tests.tiny import KINDS, traced


@pytest.mark.parametrize("kind", ["conditioned", "plain"])
def test_modules_hold_the_tensors_of_the_state_dict(kind: str) -> None:
    """What the modules bring, their paths in front, is `state_dict()` to the last name and shape."""
    found = {f"{module.path}.{name}".lstrip("."): shape for module in traced(kind).modules for name, shape in module.tensors.items()}

    assert found == {name: tuple(tensor.shape) for name, tensor in _built(kind).state_dict().items()}


def test_steps_are_the_order_of_first_calls() -> None:
    """Modules that ran, sorted by step, are in the order in which PyTorch calls them; the UNet itself is the first."""
    unet, order = _built("plain"), []
    for path, module in unet.named_modules():
        module.register_forward_pre_hook(lambda *_, path=path: order.append(path))
    with torch.device("meta"):
        unet(torch.zeros(1, 3, 16, 16), torch.tensor(1))
    ran = [module for module in traced("plain").modules if module.step is not None]

    assert [module.path for module in sorted(ran, key=lambda module: module.step or 0)] == list(dict.fromkeys(order))
    assert all((module.step is None) == (module.calls == 0) for module in traced("plain").modules)


def _built(kind: str) -> nn.Module:
    with torch.device("meta"):
        return getattr(diffusers, KINDS[kind]["_class_name"]).from_config(KINDS[kind])
