"""A checkpoint against a UNet: every tensor that differs is counted once, under its cause; in both layouts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_stable_cascade_unet_single_file_to_diffusers
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from torch import nn

from tests.checkpoints import Original, header_of, original_unet, specs
from tests.tiny import CONDITION, PLAIN, Config, condition, traced, traced_once
from unetinspect.catalog import load_catalog
from unetinspect.checking.weights import WeightsReport, compare_weights, tensor_shapes, verify_weights
from unetinspect.checkpoint.identify import identify
from unetinspect.checkpoint.original_layout import diffusers_tensors
from unetinspect.errors import ConfigError
from unetinspect.naming import names_of
from unetinspect.record import Shape
from unetinspect.record.check import Check, Finding
from unetinspect.run.build import build_unet
from unetinspect.run.resolve import resolve_config
from unetinspect.views.checks import check_table

Shapes = dict[str, Shape]
CONTROLNET = {
    **{key: value for key, value in CONDITION.items() if key not in ("_class_name", "sample_size", "up_block_types", "out_channels")},
    "_class_name": "ControlNetModel",
}


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


def against(here: Config, tensors: Mapping[str, Shape], **said: Any) -> WeightsReport:
    """Compare tensors with a config's UNet, as what they are identified or `said` to be, and check what must hold of every comparison."""
    unet, values = built(here)
    header = header_of(tensors)
    report = compare_weights(unet, values, header, structs.replace(identify(header), **said))
    check = report.check

    assert check.missing + check.unexpected + check.mismatched == sum(finding.count or 0 for finding in report.findings)
    assert check.tensors == check.matched + check.mismatched + check.unexpected
    assert len(tensor_shapes(unet)) == check.matched + check.mismatched + check.missing
    assert all(finding.about == "weights" and 1 <= len(finding.examples) <= 3 for finding in report.findings if finding.where)
    return report


def only(report: WeightsReport) -> Finding:
    """Return the one finding."""
    (finding,) = report.findings
    return finding


def keys_of(report: WeightsReport) -> set[str]:
    """Return the config keys, or the modules, that the findings name."""
    return {key for finding in report.findings for key in finding.where}


def catalog(name: str) -> Config:
    """Return a bundled config."""
    return load_catalog()[name].config


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
    report = against(here, shapes_of(there))

    assert keys_of(report) == set(keys)
    assert report.check.missing + report.check.unexpected + report.check.mismatched > 0


@pytest.mark.parametrize("key", sorted(CHANGES))
def test_what_differs_is_what_torch_refuses_to_load(key: str) -> None:
    """`load_state_dict` reports the same tensors missing, unexpected and of another size."""
    there = shapes_of(condition(**{key: CHANGES[key]}))
    check = against(CONDITION, there).check
    state = {name: torch.empty(shape, device="meta") for name, shape in there.items()}
    with pytest.raises(RuntimeError) as refused:
        built(CONDITION)[0].load_state_dict(state, strict=True)
    lines = str(refused.value).splitlines()
    listed = {kind: next((line.count('"') // 2 for line in lines if kind in line), 0) for kind in ("Missing key(s)", "Unexpected key(s)")}

    assert listed == {"Missing key(s)": check.missing, "Unexpected key(s)": check.unexpected}
    assert check.mismatched == sum("size mismatch for" in line for line in lines)


def test_without_a_config_the_keys_that_one_tensor_shows_are_found() -> None:
    """Widths are read off the tensors themselves."""
    there = condition(in_channels=9, cross_attention_dim=32, time_cond_proj_dim=12)
    report = against(CONDITION, shapes_of(there), config=None)

    # Text is read by 4 attentions, 1 on the way down, 1 in the middle and 2 on the way up: as keys and as values.
    assert {finding.where: finding.count for finding in report.findings} == {
        ("in_channels",): 1,
        ("cross_attention_dim",): 8,
        ("time_cond_proj_dim",): 1,
    }


def test_a_key_that_the_file_has_at_its_default_is_a_cause_too() -> None:
    """A config that is inferred leaves defaults out: the UNet may have something else there."""
    here = condition(use_linear_projection=True, addition_embed_type="text", addition_embed_type_num_heads=2)

    assert keys_of(against(here, shapes_of(CONDITION))) == {"use_linear_projection", "addition_embed_type"}


def test_keys_of_blocks_are_causes_of_their_own_where_both_have_as_many_blocks() -> None:
    """Only where there are more or fewer blocks do all their keys change together."""
    report = against(CONDITION, shapes_of(condition(layers_per_block=2, mid_block_type=None)))

    assert {finding.where for finding in report.findings} == {("layers_per_block",), ("mid_block_type",)}


def test_stable_diffusion_2_against_1() -> None:
    """Another model is the problem; two keys follow, each shown with both values. The models that the file does fit are verified."""
    report = against(catalog("sd15"), shapes_of(catalog("sd21")), models=("sd21", "sd21-base", "sd15"))
    first, *findings = report.findings
    example = findings[0].examples[0]

    assert (first.what, first.advice, first.count, first.follows) == (
        "a checkpoint of another model: sd21 (Stable Diffusion 2)",
        "use another file, or sd21 as MODEL",
        None,
        False,
    )
    assert all(finding.follows for finding in findings)
    assert [finding.what for finding in findings] == [
        "32 tensors: cross_attention_dim 1024, expected 768",
        "32 tensors: use_linear_projection true, expected false (proj_in and proj_out are (C, C) in the file, expected (C, C, 1, 1))",
    ]
    assert (findings[0].kind, findings[0].advice) == ("mismatched", "to match the file, use `--set cross_attention_dim=1024`")
    assert (example.name, example.original_name) == ("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", None)
    assert (example.found, example.expected) == ((320, 1024), (320, 768))
    assert report.check.fits == ("sd21", "sd21-base")


def test_another_model_is_one_problem_in_the_table() -> None:
    """What follows from it is counted in one line, in tensors; --explain lists it. A model of one cause is explained by that."""
    report = against(catalog("sd15"), shapes_of(catalog("sd21")))
    check = Check(clean=False, findings=report.findings, weights=report.check)
    info = traced("sd15").model
    lines, explained = (check_table(info, check, explain=explain).above for explain in (False, True))

    assert lines[0].startswith(f"1 problem: {report.check.name} fits sd21 (Stable Diffusion 2), not sd15")
    assert [line for line in lines[2:] if "--set" in line] == []
    assert lines[-1] == "  64 tensors differ because of this (--explain lists them)"
    assert sum("--set" in line for line in explained) == 2
    inpainting = only(against(catalog("sd15"), shapes_of(catalog("sd15-inpaint"))))
    assert (inpainting.where, inpainting.follows) == (("in_channels",), False)


def test_sdxl_against_stable_diffusion_2() -> None:
    """Blocks, of which there are fewer, text width and the added embedding are three causes; no tensor is left without one."""
    report = against(catalog("sd21"), shapes_of(catalog("sdxl")))

    assert {finding.where for finding in report.findings if finding.follows} == {
        ("block_out_channels", "down_block_types", "up_block_types", "transformer_layers_per_block"),
        ("cross_attention_dim",),
        ("addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim"),
    }


def test_an_inpainting_checkpoint_and_another_class_are_each_one_finding() -> None:
    """Nine input channels are a latent, a mask and the masked image; a class is not explained by the keys of another."""
    inpainting = only(against(condition(), shapes_of(condition(in_channels=9))))
    report = against(CONDITION, shapes_of(PLAIN))
    other, check = only(report), report.check
    kinds = {"missing": check.missing, "unexpected": check.unexpected, "mismatched": check.mismatched}

    assert inpainting.what == "1 tensor: in_channels 9, expected 4 (inpainting: latent 4 + mask 1 + masked image 4)"
    assert (other.where, other.what.partition(": ")[2]) == (("_class_name",), "class UNet2DModel, expected UNet2DConditionModel")
    assert {kind: int(count) for count, kind in re.findall(r"(\d+) (\w+ed|missing)", other.what)} == {k: n for k, n in kinds.items() if n}
    assert len(list(filter(None, kinds.values()))) > 1


EXTRA = {
    "IP-Adapter": "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k_ip.weight",
    "LoRA": "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight",
    "AnimateDiff's motion modules": "down_blocks.0.motion_modules.0.proj_in.weight",
}


@pytest.mark.parametrize("what", EXTRA)
def test_tensors_of_what_is_loaded_into_a_unet_are_a_finding_of_their_own(what: str) -> None:
    """With what loads them; they do not hide a config key that differs as well."""
    there = condition(in_channels=9)
    report = against(CONDITION, shapes_of(there) | {EXTRA[what]: (4, 4)}, class_name=None)
    finding = next(finding for finding in report.findings if finding.kind == "unexpected")

    assert (finding.count, f"({what})" in finding.what, finding.advice is not None) == (1, True, True)
    assert {finding.where for finding in report.findings} == {("in_channels",), finding.where}


def test_a_module_that_is_missing_everywhere_is_named_once_with_stars() -> None:
    """What is missing as a whole is named as a whole; where there is only one number, it is that."""
    tensors = {name: shape for name, shape in shapes_of(CONDITION).items() if ".attn2." not in name}
    finding = only(against(CONDITION, tensors))

    assert (finding.kind, finding.count) == ("missing", len(shapes_of(CONDITION)) - len(tensors))
    assert set(finding.where) == {
        f"{stage}.transformer_blocks.0.attn2"
        for stage in ("down_blocks.0.attentions.0", "mid_block.attentions.0", "up_blocks.1.attentions.*")
    }


SOME = {
    r"up_blocks\.3\.resnets\.2\.": ("up_blocks.3.resnets.2",),
    r"up_blocks\.3\.resnets\.[12]\.": ("up_blocks.3.resnets.1", "up_blocks.3.resnets.2"),
    r"up_blocks\.[23]\.attentions\.\d\.transformer_blocks\.0\.attn1\.": tuple(
        f"up_blocks.{stage}.attentions.*.transformer_blocks.0.attn1" for stage in (2, 3)
    ),
    r"(?:down|up)_blocks\.\d\.attentions\.\d\.norm\.": ("down_blocks.*.attentions.*.norm", "up_blocks.*.attentions.*.norm"),
    r"down_blocks\.[0-3]\.resnets\.0\.conv1\.bias": tuple(f"down_blocks.{stage}.resnets.0.conv1.bias" for stage in range(4)),
}


@pytest.mark.parametrize("pattern", SOME)
def test_only_what_is_missing_everywhere_has_stars(pattern: str) -> None:
    """A star stands for all numbers that the UNet has there; of a few, these are named. The patterns have exactly what is missing."""
    shapes = shapes_of(catalog("sd15"))
    tensors = {name: shape for name, shape in shapes.items() if not re.match(pattern, name)}
    finding = only(against(catalog("sd15"), tensors, class_name=None, config=None))
    names = [re.escape(where).replace(r"\*", "[0-9]+") for where in finding.where]
    stars = [re.compile(rf"{name}(?:\..+)?") for name in names]
    found = {name: sum(bool(star.fullmatch(name)) for star in stars) for name in shapes}

    assert found == {name: int(name not in tensors) for name in shapes}
    assert finding.where == SOME[pattern]


def test_what_is_unexpected_is_named_by_its_numbers_in_the_file() -> None:
    """One more module than the UNet has does not read as if all were too many."""
    shapes = shapes_of(catalog("sd15"))
    one = {"up_blocks.3.resnets.3.conv1.weight": (320, 640, 3, 3)}
    wrong = {"up_blocks.3.resnets.2.conv1.weight": (1, 1)}

    assert only(against(catalog("sd15"), shapes | one, class_name=None, config=None)).where == ("up_blocks.3.resnets.3",)
    assert only(against(catalog("sd15"), shapes | wrong, class_name=None, config=None)).where == ("up_blocks.3.resnets.2.conv1",)


NOT_A_UNET = {"lora": "a LoRA", "vae": "a VAE", "transformer": "a diffusion transformer", "unknown": "a file", "controlnet": "a ControlNet"}


@pytest.mark.parametrize(("content", "words"), NOT_A_UNET.items())
def test_what_is_not_a_unet_is_said_in_one_sentence(content: Any, words: str) -> None:
    """Nothing matches, and one finding says what the file is instead."""
    report = against(CONDITION, {"lora_unet_x.lora_up.weight": (4, 4)}, content=content)

    assert (report.check.matched, report.check.tensors) == (0, 1)
    assert only(report).what == f"{words} (1 tensor), not a UNet: all {len(shapes_of(CONDITION))} tensors of this UNet are missing"


def test_a_unet_is_not_compared_with_what_attaches_to_one_nor_the_other_way_round() -> None:
    """They share an encoder, but no `--set` makes one of the other: `ports` tells whether they fit."""
    controlnet = only(against(CONDITION, shapes_of(CONTROLNET)))
    unet = only(against(CONTROLNET, shapes_of(CONDITION)))

    assert controlnet.what.startswith(f"a ControlNet ({len(shapes_of(CONTROLNET))} tensors), not a UNet: all ")
    assert controlnet.advice == "`unetinspect ports MODEL --with FILE` checks whether it fits a UNet"
    assert unet.what.startswith(f"a UNet ({len(shapes_of(CONDITION))} tensors), not a ControlNetModel: all ")


def test_old_names_of_attention_layers_are_those_of_today() -> None:
    """`query`, `key`, `value` and `proj_attn` are read as diffusers reads them on loading; the file's own names are kept."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = shapes_of(PLAIN)
    for new, name in old.items():
        tensors = {tensor.replace(f".{new}.", f".{name}."): shape for tensor, shape in tensors.items()}
    renamed: dict[str, Any] = {name: name for name in tensors}
    built(PLAIN)[0]._fix_state_dict_keys_on_load(renamed)  # type: ignore[operator]

    assert {new: tensor.name for new, tensor in diffusers_tensors(specs(tensors), "diffusers").items()} == renamed
    tensors["mid_block.attentions.0.query.weight"] = (2, 2)
    (example,) = only(against(PLAIN, tensors)).examples
    assert (example.name, example.original_name) == ("mid_block.attentions.0.to_q.weight", "mid_block.attentions.0.query.weight")


def test_a_checkpoint_that_does_not_fit_is_refused_with_all_that_differs() -> None:
    """`verify_weights` raises, and its problems are the findings' sentences; of one that fits it says so."""
    there = condition(in_channels=9, out_channels=8)
    header = header_of(shapes_of(there))
    with pytest.raises(ConfigError) as raised:
        verify_weights(*built(CONDITION), header, identify(header))

    assert raised.value.message.startswith("some.safetensors does not fit the UNet2DConditionModel of its config: 3 tensors differ")
    assert {problem.partition(" (")[0] for problem in raised.value.problems} == {
        "1 tensor: in_channels 9, expected 4",
        "2 tensors: out_channels 8, expected 4",
    }
    note = verify_weights(*built(there), header, identify(header))
    assert note == f"all {len(header.tensors)} tensors of some.safetensors match this UNet in name and shape"


def test_hostile_names_give_a_few_findings() -> None:
    """Thousands of foreign names, one of a million parts, an endless row of blocks: few sentences, in little time."""
    names = [*(f"x{number}.y.weight" for number in range(3000)), "a." * 500_000, "b" * 1_000_000]
    report = against(CONDITION, shapes_of(CONDITION) | dict.fromkeys(names, (1,)))
    blocks = {f"model.diffusion_model.input_blocks.{number}.0.in_layers.0.weight": (1,) for number in range(1000)}

    assert len(report.findings) <= 8
    assert all(len(finding.what) < 1000 for finding in report.findings)
    assert against(CONDITION, blocks, layout="original").check.unexpected > 990


# The original code's UNet of the small config.
SMALL = Original(32, (1, 2), (1, 0), 24, 1, num_res_blocks=1)
TEXT_TIME = condition(addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=80)


@pytest.mark.parametrize(
    ("config", "model", "prefix"),
    [
        (CONDITION, SMALL, "model.diffusion_model."),
        (condition(layers_per_block=2), replace(SMALL, num_res_blocks=2), ""),
        (condition(num_class_embeds=10), replace(SMALL, num_classes=10), "diffusion_model."),
        (TEXT_TIME, replace(SMALL, adm_in_channels=80), ""),
        (condition(class_embed_type="timestep"), replace(SMALL, adm_in_channels=32), "model.diffusion_model."),
    ],
    ids=["conditioned", "two-layers", "classes", "text-time", "class-timestep"],
)
def test_an_original_checkpoint_fits_to_the_last_tensor(config: Config, model: Original, prefix: str) -> None:
    """Whatever prefix its names have: all tensors are those of the UNet, also next to other models."""
    tensors = original_unet(model, prefix)
    beside: Shapes = {"first_stage_model.decoder.conv_in.weight": (4, 4, 3, 3)} | ({"betas": (1000,)} if prefix else {})
    report = against(config, tensors | beside)

    assert report.findings == ()
    assert report.check.matched == report.check.tensors == len(tensors)


@pytest.mark.parametrize(
    ("here", "there", "keys"),
    [
        (CONDITION, replace(SMALL, num_res_blocks=2), {"layers_per_block"}),
        (condition(layers_per_block=[1, 2]), SMALL, {"layers_per_block"}),
        (TEXT_TIME, SMALL, {"addition_embed_type"}),
        (condition(class_embed_type="timestep"), SMALL, {"class_embed_type"}),
        (CONDITION, replace(SMALL, linear=True, context_dim=32), {"use_linear_projection", "cross_attention_dim"}),
    ],
    ids=["more-layers", "a-list-of-layers", "added-embedding", "class-embedding", "two-keys"],
)
def test_an_original_checkpoint_of_another_config_is_explained_by_keys(here: Config, there: Original, keys: set[str]) -> None:
    """The names follow from the file alone, and its config from them."""
    assert keys_of(against(here, original_unet(there, "model.diffusion_model."))) == keys


def test_an_example_has_both_names_and_tensors_without_one_keep_their_own() -> None:
    """Nothing of the UNet's part of the file is lost."""
    tensors = original_unet(replace(SMALL, in_channels=9), "model.diffusion_model.")
    extra = {"model.diffusion_model.input_hint_block.1.weight": (16, 3, 3, 3)}
    findings = against(CONDITION, tensors | extra).findings

    assert {finding.what for finding in findings} == {
        "1 tensor is unexpected: input_hint_block (ControlNet)",
        "1 tensor: in_channels 9, expected 4 (inpainting: latent 4 + mask 1 + masked image 4)",
    }
    assert {(example.name, example.original_name) for finding in findings for example in finding.examples} == {
        ("conv_in.weight", "model.diffusion_model.input_blocks.0.0.weight"),
        ("input_hint_block.1.weight", "model.diffusion_model.input_hint_block.1.weight"),
    }


def test_a_controlnet_and_its_unet_in_one_file_are_kept_apart() -> None:
    """What is compared is what the file is said to be; a ControlNet alone fits too."""
    names = names_of(traced_once(CONTROLNET))
    controlnet = {str(name.comfyui): name.shape or () for name in names if name.kind == "tensor"}
    tensors = original_unet(SMALL, "model.diffusion_model.") | controlnet

    for config, content in ((CONDITION, "unet"), (CONTROLNET, "controlnet")):
        report = against(config, tensors, content=content)
        assert (report.findings, report.check.matched) == ((), len(shapes_of(config)))
    alone = {name.removeprefix("control_model."): shape for name, shape in controlnet.items()}
    assert against(CONTROLNET, alone).findings == ()
    note = verify_weights(*built(CONTROLNET), header_of(alone), identify(header_of(alone)))
    assert note == f"all {len(alone)} tensors of some.safetensors match the ControlNetModel of its config in name and shape"


@pytest.mark.parametrize("name", ["stable-cascade-prior", "stable-cascade-decoder"])
def test_a_cascade_checkpoint_has_queries_keys_and_values_in_one_tensor(name: str) -> None:
    """It is split as diffusers' converter splits it; each piece is matched, and the file has fewer tensors than the UNet."""
    config = catalog(name)
    mapper = "clip_mapper" if name == "stable-cascade-decoder" else "clip_txt_pooled_mapper"
    fused: dict[str, list[Any]] = {}
    for tensor, shape in shapes_of(config).items():
        to, _, kind = tensor.rpartition(".")
        if to.endswith((".to_q", ".to_k", ".to_v")):
            fused.setdefault(f"{to[:-5]}.attn.in_proj_{kind}", []).append(shape)
        elif to.endswith(".to_out.0"):
            fused[f"{to[:-9]}.attn.out_proj.{kind}"] = [shape]
        else:
            fused[tensor.replace("clip_txt_pooled_mapper", mapper)] = [shape]
    tensors = {key: (sum(shape[0] for shape in shapes), *shapes[0][1:]) for key, shapes in fused.items()}
    converted = convert_stable_cascade_unet_single_file_to_diffusers(
        {key: torch.empty(shape, device="meta") for key, shape in tensors.items()}
    )
    found, report = identify(header_of(tensors)), against(config, tensors)

    assert {key: tensor.shape for key, tensor in diffusers_tensors(specs(tensors), "original").items()} == {
        key: tuple(tensor.shape) for key, tensor in converted.items()
    }
    assert (found.content, found.layout, found.class_name, found.models) == ("unet", "original", "StableCascadeUNet", (name,))
    assert (report.findings, report.check.matched) == ((), len(shapes_of(config)))
    assert len(tensors) < report.check.matched
