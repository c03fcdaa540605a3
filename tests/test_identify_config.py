"""Configs that are inferred from names and shapes build the same names and shapes again, to the last key."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.checkpoints import ORIGINALS, Shapes, built_shapes, catalog_shapes, header_of, original_unet, specs
from tests.tiny import KINDS, condition, plain, some
from unetinspect.catalog import load_catalog
from unetinspect.checking.weights import compare_weights
from unetinspect.checkpoint.catalog_tensors import tensors_of
from unetinspect.checkpoint.config_from_shapes import INFERRED, defaults_of
from unetinspect.checkpoint.identify import identify
from unetinspect.checkpoint.infer import infer_config, infer_from_shapes
from unetinspect.checkpoint.original_layout import diffusers_tensors
from unetinspect.run.build import build_unet
from unetinspect.run.resolve import resolve_config

TWO_D = [name for name, entry in load_catalog().items() if entry.class_name in INFERRED]
# One model for each structure: others have the same names and shapes.
STRUCTURES = list({id(tensors_of(name)): name for name in TWO_D}.values())


def inferred(shapes: Shapes) -> dict[str, Any]:
    """Return the config of names and shapes in diffusers' layout, without the catalog to look things up in."""
    config = infer_from_shapes(shapes).config
    assert config is not None
    return config


@pytest.mark.parametrize("name", some(STRUCTURES, 2))
def test_the_config_of_a_published_unet_is_inferred(name: str) -> None:
    """Without the catalog it builds the same tensors; with it, all models like it are found, and the first gives the other keys."""
    shapes = catalog_shapes(name)
    config = inferred(shapes)
    found = infer_config(specs(shapes), "diffusers")
    first = load_catalog()[found.models[0]]
    defaults = defaults_of(first.class_name)

    assert built_shapes(config) == shapes
    of_this_size = [each for each in TWO_D if load_catalog()[each].params == first.params]
    assert set(found.models) == {each for each in of_this_size if catalog_shapes(each) == shapes}
    assert {**defaults, **(found.config or {})} == {key: {**defaults, **first.config}[key] for key in ("_class_name", *defaults)}


@pytest.mark.parametrize("name", [name for name in load_catalog() if name not in TWO_D])
def test_unets_of_other_classes_are_found_by_class_and_size(name: str) -> None:
    """Video, audio and aMUSEd UNets and ControlNets: the class by their names, the config by their number of parameters."""
    entry = load_catalog()[name]
    found = identify(header_of(catalog_shapes(name)))
    of_a_unet = {"controlnet-sd15-canny": "Stable Diffusion 1", "controlnet-canny-sdxl": "Stable Diffusion XL"}

    assert (found.class_name, found.models, found.config) == (entry.class_name, (name,), entry.config)
    assert found.family == of_a_unet.get(name, entry.family)


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_original_layout_leads_to_the_same_unet(name: str) -> None:
    """An independent generator, diffusers' own converter, the built model and the names given here: all say the same tensors.

    diffusers has no converter for Stable Video Diffusion.
    """
    header = header_of(original_unet(ORIGINALS[name]), prefix="model.diffusion_model.")
    found = identify(header)
    config, entry = found.config or {}, load_catalog()[name]
    tensors = {key: torch.empty(tensor.shape, device="meta") for key, tensor in header.tensors.items()}
    converted = {} if name == "svd-xt" else convert_ldm_unet_checkpoint(tensors, {"layers_per_block": 2, **config})
    named = diffusers_tensors(specs(original_unet(ORIGINALS[name])), "original")

    assert {new: tensor.shape for new, tensor in named.items()} == catalog_shapes(name)
    assert not converted or {key: tuple(tensor.shape) for key, tensor in converted.items()} == catalog_shapes(name)
    assert built_shapes(config) == catalog_shapes(name)
    assert (found.models[0], found.family, found.params) == (name, entry.family, entry.params)


# Without a resnet, from which a level's channels are read, nothing is inferred: that config is left out.
SMALL = {
    **{name: config for name, config in KINDS.items() if config["_class_name"] in INFERRED and name != "no-layers"},
    "guidance": condition(time_cond_proj_dim=256, time_embedding_dim=80),
    "a simple projection": condition(
        class_embed_type="simple_projection", projection_class_embeddings_input_dim=40, class_embeddings_concat=True
    ),
    "kernels": condition(conv_in_kernel=1, conv_out_kernel=5),
    "depths that mirror": condition(
        down_block_types=["CrossAttnDownBlock2D"] * 2, up_block_types=["CrossAttnUpBlock2D"] * 2, transformer_layers_per_block=[1, 2]
    ),
    "scale, shift and a norm": plain(resnet_time_scale_shift="scale_shift", attn_norm_num_groups=4),
}


@pytest.mark.parametrize("name", SMALL)
def test_each_thing_that_a_config_can_ask_for_is_found(name: str) -> None:
    """One small UNet for each: the inferred config builds the same names and shapes."""
    shapes = built_shapes(SMALL[name])

    assert built_shapes(inferred(shapes)) == shapes


@st.composite
def small_configs(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a small conditioned UNet of two or three levels."""
    levels = draw(st.integers(2, 3))
    each: dict[str, Any] = {"min_size": levels, "max_size": levels}
    crossing = draw(st.lists(st.booleans(), **each))
    counts = st.integers(1, 2) | st.lists(st.integers(1, 2), **each)
    return condition(
        block_out_channels=draw(st.lists(st.sampled_from([16, 32, 48]), **each)),
        down_block_types=["CrossAttnDownBlock2D" if crosses else "DownBlock2D" for crosses in crossing],
        up_block_types=["CrossAttnUpBlock2D" if crosses else "UpBlock2D" for crosses in reversed(crossing)],
        layers_per_block=draw(counts),
        transformer_layers_per_block=draw(counts),
        mid_block_type=draw(st.sampled_from(["UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None])),
        cross_attention_dim=draw(st.sampled_from([16, 24, 40])),
        only_cross_attention=draw(st.booleans()),
        use_linear_projection=draw(st.booleans()),
        in_channels=draw(st.integers(1, 9)),
        out_channels=draw(st.integers(1, 8)),
        time_cond_proj_dim=draw(st.sampled_from([None, 8])),
        num_class_embeds=draw(st.sampled_from([None, 5])),
        class_embeddings_concat=False,
    )


@settings(max_examples=6, deadline=None)
@example(
    condition(
        down_block_types=["DownBlock2D"] * 2, up_block_types=["UpBlock2D"] * 2, mid_block_type=None, in_channels=1, time_cond_proj_dim=8
    )
)
@given(small_configs())
def test_any_small_conditioned_unet_is_found(config: dict[str, Any]) -> None:
    """Whatever its blocks, depths and widths are."""
    shapes = built_shapes(config)

    assert built_shapes(inferred(shapes)) == shapes


@settings(max_examples=4, deadline=None)
@given(st.data())
def test_any_small_unet_in_the_original_layout_is_found(data: st.DataObject) -> None:
    """The names of the generator lead to a config that builds as many tensors of the same shapes, each under its new name."""
    depths = data.draw(st.tuples(*[st.integers(0, 2)] * 3))
    model = replace(
        ORIGINALS[data.draw(st.sampled_from(["sd15", "sdxl", "sd21-unclip"]))],
        model_channels=32,
        channel_mult=(1, 2, 4),
        depths=depths,
        middle_depth=depths[-1] or 1,
        num_res_blocks=data.draw(st.integers(1, 3)),
        in_channels=data.draw(st.integers(1, 9)),
    )
    named = diffusers_tensors(specs(original_unet(model)), "original")
    config = identify(header_of(original_unet(model))).config

    assert config is not None
    assert built_shapes(config) == {new: tensor.shape for new, tensor in named.items()}


@pytest.mark.parametrize("class_name", INFERRED)
def test_defaults_are_those_of_diffusers(class_name: str) -> None:
    """Every key of the constructor, in its order, with its default."""
    parameters = list(inspect.signature(getattr(diffusers, class_name).__init__).parameters.values())[1:]
    defaults = {each.name: list(each.default) if isinstance(each.default, tuple) else each.default for each in parameters}

    assert list(defaults_of(class_name).items()) == list(defaults.items())


T2I: dict[str, dict[str, Any]] = {
    "color": {},
    "gray": {"in_channels": 1},
    "one resnet": {"num_res_blocks": 1, "channels": [32, 64, 64]},
    "XL": {"adapter_type": "full_adapter_xl", "downscale_factor": 16},
    "light": {"adapter_type": "light_adapter", "channels": [320, 640, 1280], "num_res_blocks": 4},
}


@pytest.mark.parametrize("layout", ["diffusers", "original"])
@pytest.mark.parametrize("name", T2I)
def test_the_config_of_a_t2i_adapter_is_inferred(name: str, layout: str) -> None:
    """Every key of it, and all tensors match; in the original layout the resnets of all levels are one list, but for the light one's."""
    defaults = {"in_channels": 3, "channels": [320, 640, 1280, 1280], "num_res_blocks": 2, "downscale_factor": 8}
    config = {"_class_name": "T2IAdapter", "adapter_type": "full_adapter", **defaults, **T2I[name]}
    shapes = built_shapes(config)
    if layout == "original":
        per_level = 1 if name == "light" else config["num_res_blocks"]

        def original(found: re.Match[str]) -> str:
            level, layer = int(found[1]) * per_level, int(found[2] or 0)
            return f"body.{level}." + (f"body.{layer}." if found[2] else "") if name == "light" else f"body.{level + layer}."

        whole = re.compile(r"adapter\.body\.(\d+)\.(?:resnets\.(\d+)\.)?")
        shapes = {whole.sub(original, key).removeprefix("adapter."): shape for key, shape in shapes.items()}
    header = header_of(shapes)
    found = identify(header)
    resolved = resolve_config(config)
    adapter = build_unet(resolved, device=torch.device("meta"), dtype=torch.float32, name="it")

    assert (found.content, found.layout, found.config) == ("t2i_adapter", layout, config)
    assert found.family == ("Stable Diffusion XL" if name == "XL" else None)
    assert compare_weights(adapter, resolved.values, header, found).check.matched == len(shapes)
    assert compare_weights(adapter, resolved.values, header, found).findings == ()


def test_the_config_of_a_controlnet_for_several_kinds_of_images_is_inferred() -> None:
    """The encoder is that of a UNet in the catalog, the rest is seen; what diffusers builds of it has the same tensors."""
    own = {"num_control_type": 8, "num_trans_channel": 64, "num_trans_layer": 2, "num_proj_channel": 320, "num_trans_head": 8}
    sdxl = load_catalog()["controlnet-canny-sdxl"].config
    shapes = built_shapes({**sdxl, "_class_name": "ControlNetUnionModel", **own, "conditioning_embedding_out_channels": [48, 96, 192, 384]})
    found = identify(header_of(shapes))

    assert (found.class_name, found.family) == ("ControlNetUnionModel", "Stable Diffusion XL")
    assert built_shapes(found.config or {}) == shapes
