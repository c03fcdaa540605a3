"""A live module traces, and is left exactly as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from torch import nn

import unetinspect
from tests.test_ports import ip_adapter
from tests.tiny import CONDITION, KINDS, traced
from unetinspect import ConfigError, UsageError


@pytest.fixture
def unet() -> UNet2DConditionModel:
    """A small UNet with real weights, partly in training mode."""
    unet = UNet2DConditionModel.from_config(CONDITION)
    unet.train()
    unet.mid_block.eval()
    return unet


def snapshot(module: nn.Module) -> dict[str, Any]:
    """Return everything that a module's tree holds: attributes, modes, hooks, weights."""
    state = {path: {key: value for key, value in vars(child).items() if key != "_modules"} for path, child in module.named_modules()}
    plain = {path: {key: repr(value) for key, value in attributes.items() if "param" not in key} for path, attributes in state.items()}
    return {"attributes": plain, "modules": [id(child) for child in module.modules()], "weights": [id(p) for p in module.parameters()]}


@pytest.mark.parametrize("device", ["auto", "meta", "cpu"])
@pytest.mark.parametrize("dtype", [None, "float64"])
def test_a_live_module_gives_the_record_of_its_config_and_is_left_as_it_was(unet: Any, device: str, dtype: str | None) -> None:
    """Shapes and skips equal those of the config; modes, hooks, parameters and their values are untouched."""
    before, weights = snapshot(unet), [parameter.detach().clone() for parameter in unet.parameters()]
    random_state = torch.random.get_rng_state()
    record = unetinspect.trace(unet, device=device, dtype=dtype)
    expected = traced("conditioned", dtype=dtype) if dtype else traced("conditioned")

    assert list(record.skips) == list(expected.skips)
    assert [layer.map_shape for layer in record.attentions] == [layer.map_shape for layer in expected.attentions]
    assert record.stages == expected.stages
    assert record.model.source.kind == "module"
    assert record.run.dtype == (dtype or "float32")
    assert snapshot(unet) == before
    assert all(torch.equal(one, other) for one, other in zip(weights, unet.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in unet.parameters())
    assert torch.equal(random_state, torch.random.get_rng_state())


def test_a_live_module_that_fails_is_left_as_it_was(unet: Any) -> None:
    """After a forward pass that raised, hooks, modes and parameters are as before."""
    unet.register_to_config(cross_attention_dim=25)
    before = snapshot(unet)
    with pytest.raises(unetinspect.ForwardError):
        unetinspect.trace(unet)

    assert snapshot(unet) == before


def test_half_precision_modules_are_traced_in_their_own_dtype(unet: Any) -> None:
    """Without a dtype the inputs have the module's."""
    record = unetinspect.trace(unet.half())

    assert record.run.dtype == "float16"
    assert record.output.dtype == "float16"


@pytest.mark.parametrize("prepare", [lambda unet: unet.set_attn_processor(AttnProcessor()), lambda unet: unet.set_attention_slice(1)])
def test_legacy_and_sliced_processors_show_the_same_layers_with_maps_in_memory(unet: Any, prepare: Any) -> None:
    """Processors that compute the map in steps, whole or slice by slice, give each layer once, with the same shapes."""
    expected = traced("conditioned").attentions
    prepare(unet)
    layers = unetinspect.trace(unet).attentions

    assert [(x.path, x.kind, x.query_shape, x.key_shape, x.value_shape, x.map_shape) for x in layers] == [
        (x.path, x.kind, x.query_shape, x.key_shape, x.value_shape, x.map_shape) for x in expected
    ]
    assert all(layer.materialised for layer in layers)
    assert not any(layer.materialised for layer in expected)


def test_a_processor_that_is_a_module_is_named_by_its_attention_module(unet: Any) -> None:
    """IP-Adapter's processors hold weights and run as modules of their own: the layer is still `attn2`."""

    class Processor(nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner, self.scale = inner, nn.Parameter(torch.ones(()))

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.inner(*args, **kwargs)

    unet.set_attn_processor({name: Processor(processor) for name, processor in unet.attn_processors.items()})
    layers = unetinspect.trace(unet).attentions

    assert [(layer.path, layer.kind) for layer in layers] == [(layer.path, layer.kind) for layer in traced("conditioned").attentions]
    assert {layer.processor for layer in layers} == {"Processor"}


def test_a_processor_of_another_library_is_not_passed_over_in_silence(unet: Any) -> None:
    """Attention modules that ran without a product that can be seen are named in a note."""

    class Kernel:
        def __call__(self, attn: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            return attn.to_q(hidden_states)

    unet.set_attn_processor(Kernel())
    record = unetinspect.trace(unet)

    assert record.totals.attention.total == 0
    assert record.run.notes == ("8 attention modules ran on a kernel that cannot be watched (Kernel) and are not listed",)


def test_free_u_changes_no_skip(unet: Any) -> None:
    """FreeU filters skips on their way: they still come from the same modules."""
    expected = [(skip.source, skip.target, skip.concat_channels) for skip in traced("conditioned").skips]
    unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)

    assert [(skip.source, skip.target, skip.concat_channels) for skip in unetinspect.trace(unet).skips] == expected


def test_a_subclass_is_traced_as_the_class_it_is_made_of() -> None:
    """A UNet that somebody derived keeps the inputs of its base class."""

    class Mine(UNet2DConditionModel):
        pass

    assert unetinspect.trace(Mine.from_config(CONDITION)).model.name == "Mine"


def test_what_is_no_unet_is_refused() -> None:
    """Another module, another type, and overrides of what is built already each get their sentence."""
    with pytest.raises(ConfigError, match="Linear is no diffusers UNet that can be traced"):
        unetinspect.trace(nn.Linear(1, 1))
    with pytest.raises(UsageError, match="a model cannot be a int"):
        unetinspect.trace(7)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="this module is built already"):
        unetinspect.trace(UNet2DConditionModel.from_config(CONDITION), overrides={"in_channels": 8})


@pytest.mark.parametrize("plus", [False, True], ids=["whole image", "patches"])
def test_a_unet_with_an_ip_adapter_in_it_is_traced(unet: Any, plus: bool) -> None:
    """The adapter's image is an input, and each of its layers attends to the text and to the image: one layer, two products."""
    shapes = {port.name: port.shape for port in traced("conditioned").ports if port.kind == "ip-adapter"}
    unet._load_ip_adapter_weights([ip_adapter(shapes)], low_cpu_mem_usage=False)
    if plus:
        unet.encoder_hid_proj.image_projection_layers[0] = IPAdapterPlusImageProjection(12, 24, 8, 1, 8, 1, 4)
    before = snapshot(unet)
    record = unetinspect.trace(unet)
    embeds = next(given.shape for given in record.run.inputs if given.name == "added_cond_kwargs.image_embeds.0")
    on_cpu = unetinspect.trace(unet, device="cpu")

    assert embeds == ((2, 1, 257, 12) if plus else (2, 1, 12))
    assert [layer.key_shape[2] for layer in record.attentions if layer.kind == "cross"] == [77, 4] * 4
    assert (record.totals.attention.self_, record.totals.attention.cross) == (4, 4)
    assert record.totals.attention.joint == plus  # the projection's own layer reads patches and queries together
    assert on_cpu.attentions == record.attentions
    assert snapshot(unet) == before


def test_a_projected_text_stays_projected_beside_an_ip_adapter() -> None:
    """As in Kolors: the text keeps the width of `encoder_hid_dim`, since its own projection runs before the adapter's."""
    unet = UNet2DConditionModel.from_config(KINDS["text-proj"])
    shapes = {port.name: port.shape for port in traced("text-proj").ports if port.kind == "ip-adapter"}
    unet._load_ip_adapter_weights([ip_adapter(shapes)], low_cpu_mem_usage=False)
    given = {spec.name: spec.shape for spec in unetinspect.trace(unet).run.inputs}

    assert given["encoder_hidden_states"] == (2, 77, KINDS["text-proj"]["encoder_hid_dim"])
