"""The map of names against diffusers' own converters: every tensor arrives at its own place, in both directions."""

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
from msgspec.structs import replace

from tests import checkpoints
from tests.test_weights import built, catalog, shapes_of
from tests.tiny import KINDS, condition, traced, traced_once
from unetinspect.checkpoint.original_layout import diffusers_tensors
from unetinspect.naming import names_of
from unetinspect.naming.all_names import _PEFT_CLASSES, _WITHOUT_PROCESSORS
from unetinspect.record import Trace
from unetinspect.record.checkpoint import Name
from unetinspect.views.attention import attention_table
from unetinspect.views.table import flat_fields

# One model for each structure; the generator of `checkpoints` knows them all.
ORIGINALS = ["sd15", "sd21-unclip", "sd-x4-upscaler", "sdxl-refiner"]
SMALL = {
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
    "text-time": condition(addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=80),
}


def tensors_of(trace: Trace) -> list[Name]:
    """Return the names of the tensors alone."""
    return [name for name in names_of(trace) if name.kind == "tensor"]


def converts_to_itself(trace: Trace, convert: Any, left_out: str = "none") -> None:
    """Give each tensor the name that it has in a checkpoint, convert them all, and find each one where it was."""
    names = tensors_of(trace)
    given = {name.path: torch.empty(name.shape or (), device="meta") for name in names}
    checkpoint = {str(name.comfyui): given[name.path] for name in names}
    assert len(checkpoint) == len(given)

    converted = convert(checkpoint, trace.model.config)

    assert converted.keys() == {path for path in given if not path.startswith(left_out)}
    assert [path for path, tensor in converted.items() if tensor is not given[path]] == []


@pytest.mark.parametrize("model", ORIGINALS)
def test_the_names_of_a_published_unet_are_those_of_the_converter_and_of_the_original_code(model: str) -> None:
    """Every tensor has an original name, which an independent generator has too, and the converter brings it back to its place."""
    converts_to_itself(traced(model), convert_ldm_unet_checkpoint)
    shapes = {name.original: name.shape for name in tensors_of(traced(model))}

    assert shapes == checkpoints.original_unet(checkpoints.ORIGINALS[model])
    assert {name.path: name.shape for name in tensors_of(traced(model))} == shapes_of(catalog(model))


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)
def test_any_config_of_these_blocks_goes_through_the_converter(config: dict[str, Any]) -> None:
    """The map follows from the config: levels, layers, transformers and embeddings that no published model has."""
    converts_to_itself(traced_once(config), convert_ldm_unet_checkpoint)


@pytest.mark.parametrize("model", ["controlnet-sd15-canny", "controlnet-canny-sdxl"])
def test_a_controlnet_goes_through_its_converter(model: str) -> None:
    """Of SDXL's the converter leaves out the added embedding, which has SDXL's own name."""
    converts_to_itself(traced(model), convert_controlnet_checkpoint, left_out="add_embedding.")
    labels = {name.original for name in tensors_of(traced(model)) if name.path.startswith("add_embedding.")}

    assert labels == ({f"label_emb.0.{place}.{own}" for place in (0, 2) for own in ("weight", "bias")} if "sdxl" in model else set())


@pytest.mark.parametrize("model", ["koala-700m", "bk-sdm-tiny", "controlnet-canny-sdxl", "per-block-lists"])
def test_the_other_direction_undoes_it(model: str) -> None:
    """A file with these names gives back each path: also of UNets that no converter of diffusers reads."""
    names = tensors_of(traced(model))
    found = diffusers_tensors(checkpoints.specs({str(name.original): name.shape or () for name in names}), "original")

    assert {path: tensor.name for path, tensor in found.items()} == {name.path: name.original for name in names}


def test_lists_of_layers_are_counted_on() -> None:
    """Where each level has its own number of layers, which diffusers' converter cannot read, the flat lists go on without a gap."""
    names = [name.original or "" for name in tensors_of(traced("per-block-lists"))]

    # conv_in; one resnet and a downsampler; two resnets. Two, then three on the way up.
    for way in ("input_blocks", "output_blocks"):
        assert {int(name.split(".")[1]) for name in names if name.startswith(way)} == {0, 1, 2, 3, 4}


def path_of_lora(key: str) -> str:
    """Return the module that a key of diffusers' converted LoRA belongs to."""
    module = re.sub(r"(_lora|\.lora)\.(down|up)\.weight$", "", key.removeprefix("unet.")).replace(".processor", "")
    return f"{module}.0" if module.endswith("to_out") else module


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_a_lora_of_kohya_goes_through_diffusers_converter_to_the_last_layer(model: str) -> None:
    """Each layer's key leads diffusers to that layer: SD's keys are in diffusers' layout, SDXL's in the original one."""
    layers = {str(name.kohya): name.path for name in names_of(traced(model)) if name.kohya}
    downs = {f"{key}.lora_down.weight": torch.empty(1, device="meta") for key in layers}
    ups = {f"{key}.lora_up.weight": torch.empty(1, device="meta") for key in layers}
    expected = {id(tensor): layers[key.partition(".")[0]] for key, tensor in (downs | ups).items()}
    mapped = lora_conversion_utils._maybe_map_sgm_blocks_to_diffusers(downs | ups, SimpleNamespace(layers_per_block=2))

    converted, _ = lora_conversion_utils._convert_non_diffusers_lora_to_diffusers(mapped)

    assert len(converted) == 2 * len(layers)
    assert [key for key, tensor in converted.items() if path_of_lora(key) != expected[id(tensor)]] == []
    assert any("input_blocks" in key for key in layers) == (model == "sdxl")


@pytest.mark.parametrize("model", ["sd15", "sdxl", "simple-cross-attention", "k-blocks", "plain", "gligen"])
def test_processors_and_ip_adapter_numbers_are_those_of_diffusers(model: str) -> None:
    """The keys are those of `attn_processors`, if there are any; the number of a cross-attention layer is its place among them."""
    keys: list[str] = list(getattr(built(KINDS.get(model) or catalog(model))[0], "attn_processors", {}))
    names = names_of(traced(model))

    assert {name.processor for name in names if name.processor} == set(keys)
    _, rows = flat_fields(replace(attention_table(traced(model), traced(model).attentions), wanted=("index", "processor_key")))
    assert [key for _, key in sorted(row for row in rows if row[1])] == keys
    if model in ("sd15", "sdxl"):
        assert {name.processor: name.ip_adapter for name in names if name.ip_adapter is not None} == {
            key: place for place, key in enumerate(keys) if not key.endswith("attn1.processor")
        }


def test_the_classes_are_as_diffusers_has_them() -> None:
    """Some have no `attn_processors`; PEFT's adapters go into those that are said to have its keys."""
    assert not any(hasattr(getattr(diffusers, name), "attn_processors") for name in _WITHOUT_PROCESSORS)
    assert hasattr(diffusers.UNet2DConditionModel, "attn_processors")
    assert all(issubclass(getattr(diffusers, name), PeftAdapterMixin) for name in _PEFT_CLASSES)
