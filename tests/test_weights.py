"""A checkpoint against a UNet: every tensor that differs is told once, by its cause."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.checkpoints import built_shapes
from tests.tiny import CONDITION, PLAIN, Config, condition
from unetinspect.catalog import load_catalog
from unetinspect.check.weights import WeightsReport, compare_weights, tensor_shapes, verify_weights
from unetinspect.checkpoint.header import Header, TensorSpec
from unetinspect.checkpoint.identify import identify
from unetinspect.errors import ConfigError
from unetinspect.record import Shape
from unetinspect.record.check import Finding
from unetinspect.record.checkpoint import Checkpoint, CheckpointPart
from unetinspect.run.build import build_unet
from unetinspect.run.resolve import resolve_config

Shapes = dict[str, Shape]


def built(config: Config) -> tuple[nn.Module, Config]:
    """Build the UNet of a config on meta, once for all tests, and return it with its whole config."""
    return _built(json.dumps(config))


@cache
def _built(written: str) -> tuple[nn.Module, Config]:
    resolved = resolve_config(json.loads(written))
    return build_unet(resolved, device=torch.device("meta"), dtype=torch.float32, name="it"), resolved.values


def shapes_of(config: Config) -> Shapes:
    """Return the tensors of a config's UNet."""
    return tensor_shapes(built(config)[0])


def header_of(tensors: Mapping[str, Shape]) -> Header:
    """Return the header of a file with these tensors."""
    return Header(name="file.safetensors", tensors={name: TensorSpec(shape, "F16") for name, shape in tensors.items()})


def told(config: Config | None = None, class_name: str | None = None, prefix: str = "", **fields: Any) -> Checkpoint:
    """Return what a header is said to be, of the config that it was made of."""
    whole = None if config is None else {"_class_name": config["_class_name"], **built(config)[1]}
    part = CheckpointPart(name="unet", prefix=prefix, tensors=0, params=0, bytes_by_dtype={})
    values: dict[str, Any] = {
        "name": "file.safetensors",
        "files": 1,
        "bytes": 0,
        "tensors": 0,
        "params": 0,
        "content": "unet",
        "layout": "diffusers",
        "class_name": config["_class_name"] if config else class_name,
        "family": None,
        "models": (),
        "summary": "",
        "evidence": (),
        "parts": (part,),
        "config": whole,
    }
    return Checkpoint(**(values | fields))


def against(config: Config, tensors: Mapping[str, Shape], checkpoint: Checkpoint) -> WeightsReport:
    """Compare tensors with a config's UNet, and check what must hold of every comparison."""
    unet, values = built(config)
    report = compare_weights(unet, values, header_of(tensors), checkpoint)
    check = report.check

    assert check.missing + check.unexpected + check.mismatched == sum(finding.count or 0 for finding in report.findings)
    assert check.tensors in (0, check.matched + check.mismatched + check.unexpected)
    assert len(tensor_shapes(unet)) == check.matched + check.mismatched + check.missing
    assert all(finding.about == "weights" and 1 <= len(finding.examples) <= 3 for finding in report.findings if check.tensors)
    return report


def only(report: WeightsReport) -> Finding:
    """Return the one finding."""
    (finding,) = report.findings
    return finding


def catalog(name: str) -> Config:
    """Return a bundled config."""
    return load_catalog()[name].config


def test_a_checkpoint_of_the_same_config_fits() -> None:
    """Every tensor is matched, nothing is found, and the note says so."""
    tensors = shapes_of(CONDITION)
    report = against(CONDITION, tensors, told(CONDITION, models=("sd15",)))

    assert report.findings == ()
    assert len(tensors) == report.check.matched == report.check.tensors
    assert report.check.fits == ()
    note = verify_weights(*built(CONDITION), header_of(tensors), told(CONDITION))
    assert f"{len(tensors)} tensors of file.safetensors are those of this UNet, name for name and shape for shape" == note


CHANGES: Config = {
    "in_channels": 9,
    "out_channels": 8,
    "cross_attention_dim": 32,
    "use_linear_projection": True,
    "time_cond_proj_dim": 12,
    "layers_per_block": 2,
    "transformer_layers_per_block": 2,
    "block_out_channels": [32, 48],
    "mid_block_type": None,
    "num_class_embeds": 10,
    "conv_in_kernel": 1,
    "attention_type": "gated",
    "encoder_hid_dim": 12,
    "time_embedding_dim": 64,
    "resnet_time_scale_shift": "scale_shift",
}


@settings(max_examples=8, deadline=None, derandomize=True)
@given(keys=st.lists(st.sampled_from(sorted(CHANGES)), min_size=1, max_size=2, unique=True), swap=st.booleans())
def test_findings_name_the_keys_that_differ(keys: list[str], swap: bool) -> None:
    """Whatever keys differ, the findings name these, no others, and each tensor that differs counts for one of them."""
    sides = [CONDITION, condition(**{key: CHANGES[key] for key in keys})]
    here, there = reversed(sides) if swap else sides
    report = against(here, shapes_of(there), told(there))

    assert set(keys) == {key for finding in report.findings for key in finding.where}
    assert report.check.missing + report.check.unexpected + report.check.mismatched > 0


@pytest.mark.parametrize("key", sorted(CHANGES))
def test_what_differs_is_what_torch_refuses_to_load(key: str) -> None:
    """`load_state_dict` reports the same tensors missing, unexpected and of another size."""
    there = shapes_of(condition(**{key: CHANGES[key]}))
    check = against(CONDITION, there, told()).check
    state = {name: torch.empty(shape, device="meta") for name, shape in there.items()}
    with pytest.raises(RuntimeError) as refused:
        built(CONDITION)[0].load_state_dict(state, strict=True)
    lines = str(refused.value).splitlines()
    listed = {kind: next((line.count('"') // 2 for line in lines if kind in line), 0) for kind in ("Missing key(s)", "Unexpected key(s)")}

    assert listed == {"Missing key(s)": check.missing, "Unexpected key(s)": check.unexpected}
    assert check.mismatched == sum("size mismatch for" in line for line in lines)


def test_without_a_config_the_keys_that_one_tensor_tells_are_found() -> None:
    """Where nothing is told of the file's config, widths are read off the tensors themselves."""
    there = condition(in_channels=9, cross_attention_dim=32, time_cond_proj_dim=12)
    report = against(CONDITION, shapes_of(there), told(class_name="UNet2DConditionModel"))

    # Text is read by 4 attentions, 1 on the way down, 1 in the middle and 2 on the way up: as keys and as values.
    assert {finding.where: finding.count for finding in report.findings} == {
        ("in_channels",): 1,
        ("cross_attention_dim",): 8,
        ("time_cond_proj_dim",): 1,
    }


def test_stable_diffusion_2_against_1() -> None:
    """Two keys differ, told with both values; the model that the file does fit is verified."""
    linear = " (proj_in and proj_out are (C, C) in the file and (C, C, 1, 1) here)"
    report = against(catalog("sd15"), shapes_of(catalog("sd21")), told(catalog("sd21"), models=("sd21", "sd21-base", "sd15")))

    assert [finding.what for finding in report.findings] == [
        "32 tensors: cross_attention_dim 1024, expected 768",
        "32 tensors: use_linear_projection true, expected false" + linear,
    ]
    assert report.findings[0].kind == "mismatched"
    assert report.findings[0].advice == "`--set cross_attention_dim=1024` says what the file has"
    example = report.findings[0].examples[0]
    assert (
        example.name,
        example.original_name,
        example.found,
        example.expected,
    ) == ("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", None, (320, 1024), (320, 768))
    assert report.check.fits == ("sd21", "sd21-base")


def test_an_inpainting_checkpoint_is_told_by_its_channels() -> None:
    """Nine channels in are a latent, a mask and the masked image's latent."""
    report = against(catalog("sd15"), shapes_of(catalog("sd15-inpaint")), told(catalog("sd15-inpaint")))

    assert only(report).what == (
        "1 tensor: in_channels 9, expected 4 (an inpainting checkpoint: latent 4 + mask 1 + latent of the masked image 4)"
    )


def test_sdxl_against_stable_diffusion_1() -> None:
    """Blocks, text width, projections and the added embedding are four causes; no tensor is left without one."""
    report = against(catalog("sd15"), shapes_of(catalog("sdxl")), told(catalog("sdxl")))

    assert {
        ("block_out_channels", "down_block_types", "up_block_types", "transformer_layers_per_block"),
        ("cross_attention_dim",),
        ("use_linear_projection",),
        ("addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim"),
    } == {finding.where for finding in report.findings}


def test_another_class_is_one_finding() -> None:
    """A checkpoint of another class is told as that, not by the keys of this one."""
    finding = only(against(CONDITION, shapes_of(PLAIN), told(PLAIN)))

    assert finding.where == ("_class_name",)
    assert finding.what.endswith(" tensors: the file is of a UNet2DModel, and this UNet is a UNet2DConditionModel")


EXTRA = {
    "an IP-Adapter's": "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k_ip.weight",
    "a LoRA's": "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight",
    "motion modules, as AnimateDiff adds to a UNet": "down_blocks.0.motion_modules.0.proj_in.weight",
}


@pytest.mark.parametrize("what", EXTRA)
def test_tensors_of_what_is_put_into_a_unet_are_told_as_that(what: str) -> None:
    """They are told apart, with what loads them, and do not hide a config key that differs as well."""
    there = condition(in_channels=9)
    report = against(CONDITION, shapes_of(there) | {EXTRA[what]: (4, 4)}, told(there))
    finding = next(finding for finding in report.findings if finding.kind == "unexpected")

    assert (finding.count, f"({what})" in finding.what, finding.advice is not None) == (1, True, True)
    assert {("in_channels",), finding.where} == {finding.where for finding in report.findings}


def test_a_module_that_is_missing_is_told_by_its_own_name_with_stars() -> None:
    """What is missing as a whole is told as a whole, once for all blocks."""
    tensors = {name: shape for name, shape in shapes_of(CONDITION).items() if ".attn2." not in name}
    finding = only(against(CONDITION, tensors, told(CONDITION)))

    assert finding.kind == "missing"
    assert {f"{stage}.attentions.*.transformer_blocks.*.attn2" for stage in ("down_blocks.*", "mid_block", "up_blocks.*")} == set(
        finding.where
    )
    assert finding.count == len(shapes_of(CONDITION)) - len(tensors)


@pytest.mark.parametrize("content", ["lora", "vae", "text_encoder", "transformer", "ip_adapter", "textual_inversion", "unknown"])
def test_what_is_no_unet_is_told_in_one_sentence(content: Any) -> None:
    """Nothing matches, and one finding says what the file is instead."""
    report = against(CONDITION, {"lora_unet_x.lora_up.weight": (4, 4)}, told(content=content, layout=None))

    assert report.check.matched == report.check.tensors == 0
    assert ", and no UNet: all" in only(report).what


def test_old_names_of_attention_layers_are_those_of_today() -> None:
    """`query`, `key`, `value` and `proj_attn` are read as diffusers reads them on loading; the file's own names are kept."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = shapes_of(PLAIN)
    for new, name in old.items():
        tensors = {tensor.replace(f".{new}.", f".{name}."): shape for tensor, shape in tensors.items()}

    assert against(PLAIN, tensors, told(PLAIN)).findings == ()
    tensors["mid_block.attentions.0.query.weight"] = (2, 2)
    (example,) = only(against(PLAIN, tensors, told(PLAIN))).examples
    assert (example.name, example.original_name) == ("mid_block.attentions.0.to_q.weight", "mid_block.attentions.0.query.weight")


def test_other_models_in_the_file_are_left_alone() -> None:
    """Only the UNet's tensors are compared; what lies beside it is not unexpected."""
    tensors: Shapes = {f"unet.{name}": shape for name, shape in shapes_of(CONDITION).items()}
    beside: Shapes = {"vae.decoder.conv_in.weight": (4, 4, 3, 3), "betas": (1000,)}
    report = against(CONDITION, tensors | beside, told(CONDITION, prefix="unet.", content="pipeline"))

    assert report.findings == ()
    assert report.check.tensors == len(tensors)


def test_a_checkpoint_that_does_not_fit_is_refused_with_all_that_differs() -> None:
    """`verify_weights` raises, and its problems are the findings' sentences."""
    there = condition(in_channels=9, out_channels=8)
    with pytest.raises(ConfigError) as raised:
        verify_weights(*built(CONDITION), header_of(shapes_of(there)), told(there))

    assert "file.safetensors does not fit the UNet2DConditionModel" in raised.value.message
    assert {"1 tensor: in_channels 9, expected 4", "2 tensors: out_channels 8, expected 4"} == {
        problem.partition(" (")[0] for problem in raised.value.problems
    }


def test_names_that_nobody_gave_end_in_a_few_findings() -> None:
    """Thousands of foreign names, and one of a million parts, are told in few sentences and in little time."""
    names = [*(f"x{number}.y.weight" for number in range(3000)), "a." * 500_000, "b" * 1_000_000]
    tensors: Shapes = dict.fromkeys(names, (1,))
    report = against(CONDITION, shapes_of(CONDITION) | tensors, told(CONDITION))

    assert len(report.findings) <= 8
    assert all(len(finding.what) < 1000 for finding in report.findings)


def test_a_key_that_the_file_has_at_its_default_is_a_cause_too() -> None:
    """A config found from a header leaves defaults out: the UNet may have something else there."""
    checkpoint_header = header_of(built_shapes(CONDITION))
    here = condition(use_linear_projection=True, addition_embed_type="text", addition_embed_type_num_heads=2)
    resolved = resolve_config(here)
    unet = build_unet(resolved, device=torch.device("meta"), dtype=torch.float32, name="here")
    report = compare_weights(unet, resolved.values, checkpoint_header, identify(checkpoint_header))

    assert {key for finding in report.findings for key in finding.where} == {"use_linear_projection", "addition_embed_type"}
    assert sum(finding.count or 0 for finding in report.findings) == report.check.missing + report.check.mismatched
