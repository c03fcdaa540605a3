"""Weights that do not fit: the errors that torch and diffusers really raise for tiny UNets."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from tests.test_explain_error_genuine import explained, raised_by, unet


def test_weights_of_another_family() -> None:
    """A state dict with other text is told from one with other input channels, and each difference is counted."""
    wider = explained(raised_by(lambda: unet().load_state_dict(unet(cross_attention_dim=40).state_dict()))[1])
    inpaint = explained(raised_by(lambda: unet().load_state_dict(unet(in_channels=9).state_dict()))[1])
    linear = explained(raised_by(lambda: unet().load_state_dict(unet(use_linear_projection=True).state_dict()))[1])
    keys = sum(name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) for name in unet("meta").state_dict())

    assert {wider.kind, inpaint.kind, linear.kind} == {"checkpoint"}
    assert keys in {number.value for number in wider.numbers}
    assert "40 wide, and that of the model 24" in wider.meaning
    assert "takes 9 channels, and that of the model 4" in inpaint.meaning
    assert "use_linear_projection must be true" in linear.meaning


def test_missing_and_unexpected_tensors_are_counted() -> None:
    """What a state dict lacks and what it has too much is counted, tensor by tensor."""
    model = unet()
    weights = model.state_dict()
    without = {name: tensor for name, tensor in weights.items() if not name.startswith("mid_block.")}

    found = explained(raised_by(lambda: model.load_state_dict({**without, "motion_modules.0.weight": torch.zeros(1)}))[1])

    assert {len(weights) - len(without), 1} <= {number.value for number in found.numbers}
    assert "motion modules" in found.meaning


def test_a_folder_whose_weights_do_not_fit_its_config(tmp_path: Path) -> None:
    """`from_pretrained` raises the same, with an advice of its own."""
    unet(in_channels=9).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "in_channels": 4}))

    found = explained(raised_by(lambda: UNet2DConditionModel.from_pretrained(tmp_path))[1])

    assert found.kind == "checkpoint"
    assert (32, 9, 3, 3) in {number.value for number in found.numbers}
