"""Checkpoints in the original layout against a UNet: diffusers' own converters give the names, and nothing is lost on the way."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests import checkpoints
from tests.test_weights import Shapes, against, built, catalog, header_of, only, shapes_of, told
from tests.tiny import CONDITION, Config, condition
from unetinspect.check.weights import compare_weights, verify_weights
from unetinspect.check.weights_tensors import FileTensor
from unetinspect.checkpoint.identify import identify
from unetinspect.record.checkpoint import CheckpointPart

TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "class_embedding": "label_emb",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "controlnet_cond_embedding.conv_in": "input_hint_block.0",
    "controlnet_cond_embedding.conv_out": "input_hint_block.14",
    "controlnet_mid_block": "middle_block_out.0",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}


def original_name(name: str, layers: int, *, attends: set[int]) -> str:  # noqa: PLR0911  one for each pattern
    """Return what the original code calls a tensor; `layers` are those of a block, `attends` the up blocks that have attention."""
    module, _, tensor = name.rpartition(".")
    if module in TOP:
        return f"{TOP[module]}.{tensor}"
    match module.split("."):
        case ["controlnet_down_blocks", block]:
            return f"zero_convs.{block}.0.{tensor}"
        case ["controlnet_cond_embedding", "blocks", block]:
            return f"input_hint_block.{2 * (int(block) + 1)}.{tensor}"
        case ["mid_block", "resnets", index, part]:
            return f"middle_block.{2 * int(index)}.{RESNET[part]}.{tensor}"
        case ["mid_block", "attentions", "0", *rest]:
            return ".".join(["middle_block.1", *rest, tensor])
        case ["down_blocks", block, "downsamplers", "0", "conv"]:
            return f"input_blocks.{(int(block) + 1) * (layers + 1)}.0.op.{tensor}"
        case ["up_blocks", block, "upsamplers", "0", "conv"]:
            return f"output_blocks.{int(block) * (layers + 1) + layers}.{2 if int(block) in attends else 1}.conv.{tensor}"
        case [way, block, "resnets", index, part]:
            return f"{_item(way, block, index, layers)}.0.{RESNET[part]}.{tensor}"
        case [way, block, "attentions", index, *rest]:
            return ".".join([_item(way, block, index, layers), "1", *rest, tensor])
    raise AssertionError(name)


def _item(way: str, block: str, index: str, layers: int) -> str:
    place = int(block) * (layers + 1) + int(index)
    return f"input_blocks.{place + 1}" if way == "down_blocks" else f"output_blocks.{place}"


def original(config: Config, prefix: str = "model.diffusion_model.") -> Shapes:
    """Return the tensors of a config's UNet, named as in the original layout."""
    types = config.get("up_block_types", ())
    attends = {index for index, name in enumerate(types) if "Attn" in name}
    layers = config.get("layers_per_block", 2)
    return {prefix + original_name(name, layers, attends=attends): shape for name, shape in shapes_of(config).items()}


TEXT_TIME = condition(addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=80)


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "", "diffusion_model."])
@pytest.mark.parametrize(
    "config",
    [CONDITION, condition(layers_per_block=2), condition(num_class_embeds=10), TEXT_TIME],
    ids=["conditioned", "two-layers", "classes", "text-time"],
)
def test_an_original_checkpoint_fits_to_the_last_tensor(config: Config, prefix: str) -> None:
    """Whatever prefix its names have: all tensors are taken, and all are the UNet's."""
    tensors = original(config, prefix)
    report = against(config, tensors, told(config, prefix=prefix, layout="original"))

    assert report.findings == ()
    assert len(tensors) == report.check.matched


@pytest.mark.parametrize("name", ["sd15", "sd21-unclip", "sdxl"])
def test_the_config_that_a_header_tells_builds_the_unet_of_its_tensors(name: str) -> None:
    """From the published code's names and shapes to a config, to a UNet, and back by diffusers' converter: every tensor is there."""
    header = checkpoints.header_of(checkpoints.original_unet(checkpoints.ORIGINALS[name]), prefix="model.diffusion_model.")
    checkpoint = identify(header)
    assert checkpoint.config is not None
    note = verify_weights(*built(checkpoint.config), header, checkpoint)

    assert note.startswith(f"{len(header.tensors)} tensors of some.safetensors are those of this UNet")


def test_a_controlnet_and_its_unet_in_one_file_are_kept_apart() -> None:
    """What is compared is what the file is taken for; the other one is no surprise."""
    parts = tuple(
        CheckpointPart(name=name, prefix=prefix, tensors=0, params=0, bytes_by_dtype={})
        for name, prefix in (("unet", "model.diffusion_model."), ("controlnet", "control_model."))
    )
    tensors = original(CONDITION) | original(CONTROLNET, "control_model.")

    for config, content in ((CONDITION, "unet"), (CONTROLNET, "controlnet")):
        assert against(config, tensors, told(config, parts=parts, content=content, layout="original")).findings == ()


def test_a_tensor_is_told_by_both_its_names() -> None:
    """Where the file has another name than diffusers, an example has both."""
    report = against(CONDITION, original(condition(in_channels=9)), told(condition(in_channels=9), layout="original"))
    (example,) = only(report).examples

    assert (example.name, example.original_name) == ("conv_in.weight", "model.diffusion_model.input_blocks.0.0.weight")


@pytest.mark.parametrize(
    ("here", "there", "keys"),
    [
        (CONDITION, condition(layers_per_block=2), {"layers_per_block"}),
        (condition(layers_per_block=2), CONDITION, {"layers_per_block"}),
        (condition(layers_per_block=[1, 2]), CONDITION, {"layers_per_block"}),
        (TEXT_TIME, CONDITION, {"addition_embed_type"}),
        (condition(class_embed_type="timestep"), CONDITION, {"class_embed_type"}),
        (CONDITION, condition(use_linear_projection=True, cross_attention_dim=32), {"use_linear_projection", "cross_attention_dim"}),
    ],
    ids=["fewer-layers", "more-layers", "a-list-of-layers", "added-embedding", "class-embedding", "two-keys"],
)
def test_a_config_that_the_converter_cannot_read_the_file_with_is_told_by_its_keys(here: Config, there: Config, keys: set[str]) -> None:
    """The converter fails, or gives wrong names, with another config than the file's; the file's own config gives the right ones."""
    report = against(here, original(there), told(there, layout="original"))

    assert keys == {key for finding in report.findings for key in finding.where}


def test_tensors_that_the_converter_has_no_name_for_are_unexpected_under_their_own() -> None:
    """Nothing of the UNet's part of the file is lost: what nobody took is told."""
    extra = "model.diffusion_model.input_hint_block.0.weight"
    checkpoint = told(CONDITION, prefix="model.diffusion_model.", layout="original")
    finding = only(against(CONDITION, original(CONDITION) | {extra: (16, 3, 3, 3)}, checkpoint))

    assert finding.what == "1 tensor is unexpected, as this UNet has none of that name: input_hint_block (a ControlNet's)"
    assert (finding.examples[0].name, finding.examples[0].original_name) == ("input_hint_block.0.weight", extra)


def test_a_file_in_the_original_layout_without_a_config_is_told_all_the_same() -> None:
    """Nothing is known of its config, and the UNet's own cannot read it: the file's tensors are told by their own names."""
    report = against(condition(layers_per_block=[1, 2]), original(CONDITION), told(class_name="UNet2DConditionModel", layout="original"))

    assert report.check.matched == 0
    assert {"missing", "unexpected"} == {finding.kind for finding in report.findings}


CONTROLNET = {
    **{key: value for key, value in CONDITION.items() if key not in ("_class_name", "sample_size", "up_block_types", "out_channels")},
    "_class_name": "ControlNetModel",
}


@pytest.mark.parametrize("prefix", ["control_model.", ""])
def test_an_original_controlnet_fits(prefix: str) -> None:
    """A ControlNet's names go through diffusers' converter for ControlNets."""
    tensors = original(CONTROLNET, prefix)
    report = against(CONTROLNET, tensors, told(CONTROLNET, prefix=prefix, layout="original", content="controlnet"))

    assert report.findings == ()
    assert len(tensors) == report.check.matched


def test_a_cascade_checkpoint_has_queries_keys_and_values_in_one_tensor() -> None:
    """diffusers splits it in three; each piece is matched, and the file has fewer tensors than the UNet."""
    config = catalog("stable-cascade-decoder")
    fused: dict[str, list[Any]] = {}
    for name, shape in shapes_of(config).items():
        to, _, kind = name.rpartition(".")
        if to.endswith((".to_q", ".to_k", ".to_v")):
            fused.setdefault(f"{to[:-5]}.attn.in_proj_{kind}", []).append(shape)
        elif to.endswith(".to_out.0"):
            fused[f"{to[:-9]}.attn.out_proj.{kind}"] = [shape]
        else:
            fused[name.replace("clip_txt_pooled_mapper", "clip_mapper")] = [shape]
    tensors = {name: (sum(shape[0] for shape in shapes), *shapes[0][1:]) for name, shapes in fused.items()}
    unet, values = built(config)
    checkpoint = told(class_name="StableCascadeUNet", layout="original")
    report = compare_weights(unet, values, header_of(tensors), checkpoint)

    assert report.findings == ()
    assert report.check.matched == len(shapes_of(config)) > len(tensors)


@pytest.mark.parametrize(("shape", "pieces", "axis"), [((96, 32), 3, 0), ((7, 4), 3, 0), ((5, 9), 2, 1), ((3,), 3, 0)])
def test_a_tensor_of_a_file_is_split_as_torch_does(shape: tuple[int, ...], pieces: int, axis: int) -> None:
    """`chunk` gives the shapes that torch's gives."""
    split = FileTensor("in_proj_weight", shape).chunk(pieces, axis)

    assert [tuple(part.shape) for part in torch.empty(shape, device="meta").chunk(pieces, axis)] == [part.shape for part in split]
    assert list(range(len(split))) == [part.piece for part in split]


def test_an_endless_row_of_blocks_is_not_converted() -> None:
    """diffusers' converter looks at every name for every block; beyond what any UNet has, names stay as they are."""
    names = [f"model.diffusion_model.input_blocks.{number}.0.in_layers.0.weight" for number in range(1000)]
    tensors: Shapes = dict.fromkeys(names, (1,))
    report = against(CONDITION, tensors, told(CONDITION, prefix="model.diffusion_model.", layout="original"))

    assert (report.check.matched, report.check.unexpected) == (0, 1000)
    unexpected = next(finding for finding in report.findings if finding.kind == "unexpected")
    assert [example.original_name for example in unexpected.examples] == names[:3]
