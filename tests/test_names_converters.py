"""The names in other layouts, held against diffusers' own converters: every tensor arrives at its own place."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders import lora_conversion_utils
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint, convert_ldm_unet_checkpoint

from tests import checkpoints
from tests.test_weights import built, catalog, shapes_of
from tests.tiny import KINDS, condition, traced, traced_once
from unetinspect.checkpoint.original import original_to_diffusers
from unetinspect.naming import names_of
from unetinspect.naming.all_names import _PEFT_CLASSES, _WITHOUT_PROCESSORS
from unetinspect.record import Trace
from unetinspect.record.checkpoint import Name

ORIGINALS = ["sd15", "sd15-inpaint", "sd21", "sd21-unclip", "sd-x4-upscaler", "sdxl", "sdxl-refiner"]
TEXT_TIME = condition(addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=80)
SMALL = {
    "one-layer": condition(),
    "three-layers": condition(layers_per_block=3),
    "attention-inside": condition(
        block_out_channels=[32, 32, 64],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        transformer_layers_per_block=[1, 2, 3],
    ),
    "one-level": condition(block_out_channels=[32], down_block_types=["CrossAttnDownBlock2D"], up_block_types=["CrossAttnUpBlock2D"]),
    "classes": condition(num_class_embeds=10),
    "class-timestep": condition(class_embed_type="timestep"),
    "class-projection": condition(class_embed_type="projection", projection_class_embeddings_input_dim=12),
    "text-time": TEXT_TIME,
}


def tensors_of(trace: Trace) -> list[Name]:
    """Return the names of the tensors alone."""
    return [name for name in names_of(trace) if name.kind == "tensor"]


def converts_to_itself(trace: Trace) -> None:
    """Give each tensor the name that it has in a checkpoint, convert them all, and find each one where it was."""
    names = tensors_of(trace)
    given = {name.path: torch.empty(name.shape or (), device="meta") for name in names}
    checkpoint = {str(name.comfyui): given[name.path] for name in names}
    assert len(checkpoint) == len(given)

    converted = convert_ldm_unet_checkpoint(checkpoint, trace.model.config)

    assert converted.keys() == given.keys()
    assert [path for path, tensor in converted.items() if tensor is not given[path]] == []


@pytest.mark.parametrize("model", ORIGINALS)
def test_a_published_unet_goes_through_diffusers_converter_to_the_last_tensor(model: str) -> None:
    """Every tensor of the UNet has an original name, and the converter brings that very tensor back to its place."""
    converts_to_itself(traced(model))


@pytest.mark.parametrize("model", ["sd15", "sd21", "sdxl"])
def test_every_tensor_of_the_built_unet_has_a_name(model: str) -> None:
    """What is named is what the UNet's `state_dict` holds, no key more or less."""
    names = tensors_of(traced(model))

    assert {name.path: name.shape for name in names} == shapes_of(catalog(model))
    assert all(name.original and name.comfyui == f"model.diffusion_model.{name.original}" for name in names)


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)
def test_any_config_of_these_blocks_goes_through_the_converter(config: dict[str, Any]) -> None:
    """The map follows from the config: levels, layers, transformers and embeddings that no published model has."""
    converts_to_itself(traced_once(config))


@pytest.mark.parametrize("model", ORIGINALS)
def test_the_original_names_are_those_of_the_published_code(model: str) -> None:
    """An independent generator, written after the original constructor, gives the same names with the same shapes."""
    assert {name.original: name.shape for name in tensors_of(traced(model))} == checkpoints.original_unet(checkpoints.ORIGINALS[model])


@pytest.mark.parametrize("model", [*ORIGINALS, "ssd-1b", "koala-700m", "bk-sdm-tiny", "bk-sdm-small"])
def test_the_other_direction_undoes_it(model: str) -> None:
    """What reads files in the original layout gives back each path: also of UNets that no converter of diffusers reads."""
    record = traced(model)
    paths = {str(name.original): name.path for name in tensors_of(record)}
    added = record.model.config.get("addition_embed_type") == "text_time"

    assert original_to_diffusers(paths, added=added) == paths


def test_lists_of_layers_are_counted_on() -> None:
    """Where each level has layers of its own, which diffusers' converter cannot read, the flat lists go on without a gap."""
    names = [name.original or "" for name in tensors_of(traced("per-block-lists"))]
    places = {int(name.split(".")[1]) for name in names if name.startswith("input_blocks.")}

    # conv_in; one resnet and a downsampler; two resnets
    assert sorted(places) == [0, 1, 2, 3, 4]
    assert {name.split(".")[1] for name in names if name.startswith("output_blocks.")} == {"0", "1", "2", "3", "4"}


@pytest.mark.parametrize("model", ["controlnet-sd15-canny", "controlnet-canny-sdxl"])
def test_a_controlnet_goes_through_its_converter(model: str) -> None:
    """So do a ControlNet's tensors; of SDXL's the converter leaves out the added embedding, which has SDXL's own name."""
    record = traced(model)
    names = tensors_of(record)
    given = {name.path: torch.empty(name.shape or (), device="meta") for name in names}
    converted = convert_controlnet_checkpoint({str(name.comfyui): given[name.path] for name in names}, record.model.config)
    left_out = {path for path in given if path.startswith("add_embedding.")}

    assert len(left_out) == (4 if "sdxl" in model else 0)
    assert converted.keys() == given.keys() - left_out
    assert all(tensor is given[path] for path, tensor in converted.items())
    assert {name.original for name in names if name.path in left_out} == (
        {f"label_emb.0.{place}.{own}" for place in (0, 2) for own in ("weight", "bias")} if left_out else set()
    )


def path_of_lora(key: str) -> str:
    """Return the module that a key of diffusers' converted LoRA belongs to."""
    module = re.sub(r"(_lora|\.lora)\.(down|up)\.weight$", "", key.removeprefix("unet.")).replace(".processor", "")
    return f"{module}.0" if module.endswith("to_out") else module


@pytest.mark.parametrize("model", ["sd15", "sd21", "sdxl"])
def test_a_lora_of_kohya_goes_through_diffusers_converter_to_the_last_layer(model: str) -> None:
    """Each layer's key leads diffusers to that layer: SD's keys are in diffusers' layout, SDXL's in the original one."""
    layers = {str(name.kohya): name.path for name in names_of(traced(model)) if name.kohya}
    downs = {f"{key}.lora_down.weight": torch.empty(1, device="meta") for key in layers}
    ups = {f"{key}.lora_up.weight": torch.empty(1, device="meta") for key in layers}
    expected = {id(tensor): layers[key.partition(".")[0]] for key, tensor in (downs | ups).items()}
    mapped = lora_conversion_utils._maybe_map_sgm_blocks_to_diffusers(downs | ups, SimpleNamespace(layers_per_block=2))

    converted, _ = lora_conversion_utils._convert_non_diffusers_lora_to_diffusers(mapped)

    assert len(converted) == 2 * len(layers)
    wrong = {key: expected[id(tensor)] for key, tensor in converted.items() if path_of_lora(key) != expected[id(tensor)]}
    assert wrong == {}
    assert any("input_blocks" in key for key in layers) == (model == "sdxl")


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_processors_and_ip_adapter_numbers_are_those_of_diffusers(model: str) -> None:
    """The keys are those of `attn_processors`; the number of a cross-attention layer is its place among them."""
    keys: list[str] = list(built(catalog(model))[0].attn_processors)  # type: ignore[arg-type]
    names = names_of(traced(model))

    assert {name.processor for name in names if name.processor} == set(keys)
    assert {name.processor: name.ip_adapter for name in names if name.ip_adapter is not None} == {
        key: place for place, key in enumerate(keys) if not key.endswith("attn1.processor")
    }


@pytest.mark.parametrize("kind", ["conditioned", "simple-cross-attention", "k-blocks", "plain", "gligen", "text"])
def test_any_unet_has_the_processors_that_it_has(kind: str) -> None:
    """Also a UNet of other blocks, and one without any."""
    keys = getattr(built(KINDS[kind])[0], "attn_processors", {})

    assert {name.processor for name in names_of(traced(kind)) if name.processor} == set(keys)


@pytest.mark.parametrize("name", _WITHOUT_PROCESSORS)
def test_some_classes_have_no_processors_to_set(name: str) -> None:
    """Their layers have no key, since the class has no such mapping; those of Stable Diffusion have."""
    assert not hasattr(getattr(diffusers, name), "attn_processors")
    assert hasattr(diffusers.UNet2DConditionModel, "attn_processors")


def test_diffusers_can_load_loras_where_a_peft_key_is_told() -> None:
    """The classes that have such keys are classes that PEFT's adapters go into."""
    assert all(issubclass(getattr(diffusers, name), PeftAdapterMixin) for name in _PEFT_CLASSES)
