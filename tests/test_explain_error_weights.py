"""Weights that do not fit: texts as people paste them, and the errors that torch and diffusers really raise."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import yaml
from diffusers import UNet2DConditionModel
from torch import nn

from tests.test_explain_error import only
from tests.test_explain_error_genuine import raised_by, unet
from tests.tiny import some
from unetinspect.catalog import load_catalog
from unetinspect.checkpoint.catalog_tensors import tensors_of
from unetinspect.errors import UsageError
from unetinspect.explain import explain_error
from unetinspect.record import ErrorExplanation

CASES: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("failed_loads.yaml").read_text(encoding="utf-8"))
MISMATCH = "copying a param with shape torch.Size({}) from checkpoint, the shape in current model is torch.Size({})"
IN_LOADING = "Error(s) in loading state_dict for "
KINDS = {"checkpoint", "lora_checkpoint", "ip_adapter_checkpoint"}
IN_FILE, IN_MODEL = "has the file's shapes", "has the shapes of the model that was built"


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_text_is_explained(case: dict[str, Any]) -> None:
    """Its first change is the one to make, and only models that fit are named."""
    try:
        found = [one for one in explain_error(case["text"]).explanations if one.kind in KINDS]
    except UsageError:
        found = []

    assert [one.kind for one in found] == ([case["kind"]] if "kind" in case else [])
    for one in found:
        assert all(words in one.meaning for words in case.get("says", ()))
        assert one.changes[0].startswith(case.get("change", ""))
        assert len(one.changes) <= 3
        assert len(one.numbers) <= 4
        assert set(case.get("file", ())) <= named(one, IN_FILE)
        assert set(case.get("model", ())) <= named(one, IN_MODEL)
        assert not {model.name for model in one.models} & set(case.get("never", ()))
        assert not (case.get("none") and one.models)


def named(found: ErrorExplanation, role: str) -> set[str]:
    """Return the models that are named in this role."""
    return {model.name for model in found.models if model.role == role}


def test_models_that_differ_in_full_are_both_named() -> None:
    """One model's tensors are loaded into another, for many pairs: who is named has every tensor that the error names."""
    names = list(load_catalog())
    pairs = Random(0).sample([(file, model) for file in names for model in names if tensors_of(file) != tensors_of(model)], 60)
    for file, model in some(pairs, 6):
        found = only(mismatched(file, model))
        in_file, in_model = named(found, IN_FILE), named(found, IN_MODEL)
        assert not in_file or file in in_file, (file, model)
        assert not in_model or model in in_model, (file, model)
        ours, theirs = tensors_of(file), tensors_of(model)
        for own, ones in ((ours, in_file), (theirs, in_model)):
            for tensors in map(tensors_of, ones):
                assert all((name in tensors) == (name in own) for name in ours.keys() ^ theirs.keys()), (file, model)
                assert all(tensors[name] == own[name] for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]), (file, model)
        assert in_file or in_model, (file, model)


def mismatched(file: str, model: str) -> str:
    """Write the error of torch where the tensors of one model of the catalog are loaded into another."""
    ours, theirs = tensors_of(file), tensors_of(model)
    lacks = ", ".join(f'"{name}"' for name in theirs if name not in ours)
    has = ", ".join(f'"{name}"' for name in ours if name not in theirs)
    both = [name for name in ours if name in theirs and ours[name] != theirs[name]]
    lines = [f"size mismatch for {name}: {MISMATCH.format([*ours[name]], [*theirs[name]])}." for name in both]
    lists = [f"Missing key(s) in state_dict: {lacks}. "] * bool(lacks) + [f"Unexpected key(s) in state_dict: {has}. "] * bool(has)
    return f"{IN_LOADING}{load_catalog()[model].class_name}:\n\t" + "\n\t".join([*lists, *lines])


def test_weights_of_another_family() -> None:
    """A state dict with other text is told from one with other input channels, and from one with linear projections."""
    wider = only(raised_by(lambda: unet().load_state_dict(unet(cross_attention_dim=40).state_dict()))[1])
    inpaint = only(raised_by(lambda: unet().load_state_dict(unet(in_channels=9).state_dict()))[1])
    linear = only(raised_by(lambda: unet().load_state_dict(unet(use_linear_projection=True).state_dict()))[1])

    assert {wider.kind, inpaint.kind, linear.kind} == {"checkpoint"}
    assert wider.changes[0] == "set cross_attention_dim: 40 in the config"
    assert [number.value for number in wider.numbers][:2] == [(32, 40), (32, 24)]
    assert inpaint.changes[0] == "set in_channels: 9 in the config"
    assert linear.changes[0] == "set use_linear_projection: true in the config"
    assert not [*wider.models, *linear.models]


def test_missing_and_unexpected_tensors_are_counted() -> None:
    """What a state dict lacks and what it has too much is counted, tensor by tensor."""
    model = unet()
    weights = model.state_dict()
    without = {name: tensor for name, tensor in weights.items() if not name.startswith("mid_block.")}

    found = only(raised_by(lambda: model.load_state_dict({**without, "motion_modules.0.weight": torch.zeros(1)}))[1])

    assert {len(weights) - len(without), 1} <= {number.value for number in found.numbers}
    assert "In the model and not in the file: the mid block" in found.meaning
    assert "motion modules" in found.meaning


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.diffusion_model.", "student."])
def test_a_prefix_is_found_whoever_adds_it(prefix: str) -> None:
    """The file's names have it, or those of the model that is wrapped; nothing else is listed."""
    model = unet("meta")
    weights = model.state_dict()
    wrapped: Any = nn.ModuleDict({"module": model}) if prefix == "module." else None

    found = only(raised_by(lambda: model.load_state_dict({prefix + name: tensor for name, tensor in weights.items()}))[1])

    assert found.changes[0] == f"state_dict = {{name.replace({prefix!r}, '', 1): tensor for name, tensor in state_dict.items()}}"
    assert not found.models
    if wrapped is not None:
        turned = only(raised_by(lambda: wrapped.load_state_dict(weights))[1].replace("ModuleDict", "UNet2DConditionModel"))
        assert turned.changes[0] == "load the file into what is wrapped: model.module.load_state_dict(state_dict)"


def test_a_folder_whose_weights_do_not_fit_its_config(tmp_path: Path) -> None:
    """`from_pretrained` raises the same, with an advice of its own."""
    unet(in_channels=9).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "in_channels": 4}))

    found = only(raised_by(lambda: UNet2DConditionModel.from_pretrained(tmp_path))[1])

    assert found.kind == "checkpoint"
    assert (32, 9, 3, 3) in {number.value for number in found.numbers}
    assert found.changes[0] == "set in_channels: 9 in the config"


def test_warnings_of_a_folder_whose_config_has_other_parts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`from_pretrained` only warns of tensors that one side lacks."""
    unet(time_cond_proj_dim=16).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "time_cond_proj_dim": None, "encoder_hid_dim": 12}))

    UNet2DConditionModel.from_pretrained(tmp_path)
    found = explain_error(caplog.text).explanations

    meaning = " ".join(one.meaning for one in found)
    assert {one.kind for one in found} == {"checkpoint"}
    assert "In the file and not in the model: LCM's embedding" in meaning
    assert "In the model and not in the file: encoder_hid_proj" in meaning


def test_a_model_that_agrees_in_all_but_one_tensor_does_not_have_the_shapes() -> None:
    """It is said in how many tensors it agrees."""
    sizes = {
        "add_embedding.linear_1.weight": ([1280, 2816], [1536, 2560]),
        "conv_norm_out.weight": ([320], [384]),
        "conv_out.weight": ([4, 320, 3, 3], [5, 384, 3, 3]),
    }
    lines = [f"\tsize mismatch for {name}: {MISMATCH.format(*shapes)}." for name, shapes in sizes.items()]

    found = only("\n".join([f"{IN_LOADING}UNet2DConditionModel:", *lines]))

    roles = {model.role for model in found.models if model.name == "sdxl-refiner"}
    assert roles == {"agrees with the model that was built in 2 of 3 tensors named"}
