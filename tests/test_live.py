"""A live module traces, and is left exactly as it was."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, PAGCFGIdentitySelfAttnProcessor2_0
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from msgspec.structs import replace
from torch import nn

import unetinspect
from tests.test_ports import ip_adapter
from tests.tiny import ALL, CONDITION, KINDS, OF_EACH_CLASS, some, traced, traced_once
from unetinspect import ConfigError, ForwardError, UsageError
from unetinspect.run.build import build_unet
from unetinspect.run.failures import SizeError
from unetinspect.run.live import FreshCopy
from unetinspect.run.resolve import resolve_config


@pytest.fixture
def unet() -> UNet2DConditionModel:
    """A small UNet with real weights, partly in training mode."""
    unet = UNet2DConditionModel.from_config(CONDITION)
    unet.train()
    unet.mid_block.eval()
    return unet


def snapshot(module: nn.Module) -> dict[str, Any]:
    """Return everything that a module's tree holds: attributes, modes, hooks, weights with their values; and torch's random state."""
    state = {path: {key: value for key, value in vars(child).items() if key != "_modules"} for path, child in module.named_modules()}
    plain = {path: {key: repr(value) for key, value in attributes.items() if "param" not in key} for path, attributes in state.items()}
    parameters = list(module.parameters())
    return {
        "attributes": plain,
        "modules": [id(child) for child in module.modules()],
        "weights": [id(parameter) for parameter in parameters],
        "values": [parameter.detach().numpy().tobytes() for parameter in parameters if not parameter.is_meta],
        "gradients": [parameter.grad for parameter in parameters],
        "random": torch.random.get_rng_state().numpy().tobytes(),
    }


def test_a_live_module_that_fails_is_left_as_it_was(unet: Any) -> None:
    """After a forward pass that raised, hooks, modes and parameters are as before."""
    unet.register_to_config(cross_attention_dim=25)
    before = snapshot(unet)
    with pytest.raises(unetinspect.ForwardError):
        unetinspect.trace(unet)

    assert snapshot(unet) == before


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


def test_a_processor_of_another_library_is_not_passed_over_in_silence(unet: Any) -> None:
    """Attention modules that ran without a product that can be seen are named in a note."""

    class Kernel:
        def __call__(self, attn: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            return attn.to_q(hidden_states)

    unet.set_attn_processor(Kernel())
    record = unetinspect.trace(unet)

    assert record.totals.attention.total == 0
    assert record.run.notes == (
        "traced as it is: Kernel instead of AttnProcessor2_0 (8 modules)",
        "8 attention modules ran on a kernel that cannot be observed (Kernel) and are not listed",
    )


def test_a_subclass_is_traced_as_the_class_it_is_made_of() -> None:
    """A UNet that somebody derived keeps the inputs of its base class."""

    class Mine(UNet2DConditionModel):
        pass

    record = unetinspect.trace(Mine.from_config(CONDITION))

    assert record.model.name == "Mine"
    assert record.run.notes == ("traced as it is: Mine instead of UNet2DConditionModel (1 module)",)


@pytest.mark.parametrize(
    ("prepare", "dtype"),
    [
        (lambda unet: unet.half(), "float16"),
        (lambda unet: unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16), "bfloat16"),
    ],
    ids=["half", "layerwise casting"],
)
def test_the_inputs_have_the_dtype_that_the_module_computes_in(unet: Any, prepare: Any, dtype: str) -> None:
    """Its own; with layerwise casting, weights are stored in another, in which no kernel runs."""
    prepare(unet)
    record = unetinspect.trace(unet)

    assert record.run.dtype == record.output.dtype == dtype


def test_other_modules_and_types_are_refused() -> None:
    """Another module, another type, and overrides of what is built already each get their sentence."""
    with pytest.raises(ConfigError, match="Linear is not a diffusers UNet that can be traced"):
        unetinspect.trace(nn.Linear(1, 1))
    with pytest.raises(UsageError, match="a model cannot be a int"):
        unetinspect.trace(7)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a module that is already built"):
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
    expected = [layer.path for layer in traced("conditioned").attentions]
    assert list(dict.fromkeys(layer.path for layer in record.attentions if layer.kind != "joint")) == expected
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


def pass_of(record: unetinspect.Trace) -> unetinspect.Trace:
    """Return a record without its model and notes."""
    return replace(record, model=traced("conditioned").model, run=replace(record.run, notes=()))


@pytest.mark.parametrize(
    "kind",
    [
        *some(OF_EACH_CLASS.values(), 2),
        *("k-blocks", "own-hidden-states-on-the-way-up", "text-image", "gligen", "class-concat", "skip-blocks"),
    ],
)
def test_the_record_of_a_live_module_is_that_of_its_config(kind: str) -> None:
    """To the last byte, whatever the class and whatever the config asks for: each module of the copy is like the other."""
    resolved = resolve_config(ALL[kind])
    module = build_unet(resolved, device=torch.device("meta"), dtype=torch.float32, name="live")
    record, expected = unetinspect.trace(module, device="meta"), traced_once(ALL[kind])

    assert pass_of(record) == pass_of(expected)
    assert (record.model.config, record.model.params) == (expected.model.config, expected.model.params)
    assert not any("traced as it is" in note for note in record.run.notes)


def refuse(*args: Any, **kwargs: Any) -> Any:
    """Stand for a user's code that must not run."""
    raise AssertionError("a hook of the user's ran")


def hooked(unet: Any) -> None:
    """Give every module hooks that must not run."""
    for module in unet.modules():
        module.register_forward_pre_hook(refuse)
        module.register_forward_hook(refuse)


def offloaded(unet: Any) -> None:
    """Wrap every module as accelerate's `add_hook_to_module` does."""

    def new_forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return refuse()

    new_forward.__module__ = "accelerate.hooks"
    for module in unet.modules():
        module._hf_hook, module._old_forward = object(), module.forward
        module.forward = functools.update_wrapper(functools.partial(new_forward, module), module.forward)


def compiled(unet: Any) -> None:
    """Compile one block into a wrapper, and the whole UNet in place."""
    unet.down_blocks[0] = torch.compile(unet.down_blocks[0], backend=refuse)
    unet.compile(backend=refuse)


def with_freeu(unet: Any) -> None:
    """Switch FreeU on: its factors are attributes of up blocks, not config keys."""
    unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)


@pytest.mark.parametrize(
    ("prepare", "options"),
    [
        (lambda unet: unet, {"device": "auto"}),
        (lambda unet: unet, {"dtype": "float64"}),
        (hooked, {"device": "cpu"}),
        (offloaded, {}),
        (compiled, {}),
        (lambda unet: unet.enable_gradient_checkpointing(), {}),
        (lambda unet: unet.requires_grad_(False), {}),
        (lambda unet: unet.to(memory_format=torch.channels_last), {}),
        (lambda unet: unet.to("meta"), {"device": "cpu"}),
        (with_freeu, {"freeu": (1.2, 1.4, 0.9, 0.2)}),
    ],
    ids=["as it is", "dtype", "hooks", "accelerate", "compiled", "checkpointing", "frozen", "channels-last", "meta", "FreeU"],
)
def test_the_state_of_a_module_gives_the_record_of_its_config(unet: Any, prepare: Callable[[Any], Any], options: dict[str, Any]) -> None:
    """Hooks, wrappers and modes are left alone and do not run; FreeU is that of the option."""
    prepare(unet)
    before = snapshot(unet)
    record = unetinspect.trace(unet, device=options.get("device", "meta"), dtype=options.get("dtype"))
    expected = traced("conditioned", **options)

    assert replace(pass_of(record), run=expected.run) == replace(pass_of(expected), run=expected.run)
    assert (record.run.notes, record.model.source.kind) == ((), "module")
    assert record.run.dtype == options.get("dtype", "float32")
    assert snapshot(unet) == before


def test_the_callers_inference_mode_does_not_change_the_record(unet: Any) -> None:
    """In it, torch shows a mode whole layers instead of their products, so that no MACs would be counted."""
    with torch.inference_mode():
        live, built = unetinspect.trace(unet), unetinspect.trace(CONDITION, device="meta", cache=False)

    assert pass_of(live) == pass_of(built) == pass_of(traced("conditioned"))


def test_the_copy_has_the_tensors_of_the_live_module_and_no_memory_of_its_own(unet: Any) -> None:
    """On the device where the module is, nothing is copied."""
    copy = FreshCopy(unet, resolve_config(unet.config))
    copy.take_tensors(lambda tensor: tensor)

    assert copy.unet is not None
    assert [tensor.data_ptr() for tensor in copy.unet.parameters()] == [tensor.data_ptr() for tensor in unet.parameters()]


def self_attention(unet: Any) -> Any:
    """Return the self-attention layer of the mid block."""
    return unet.mid_block.attentions[0].transformer_blocks[0].attn1


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_perturbed_attention_guidance_is_left_out_with_a_note(unet: Any, is_wrapped: bool) -> None:
    """An interrupted pipeline leaves its processors behind, which split a batch that is not there; also in a module that differs."""
    if is_wrapped:
        unet.conv_in = nn.Sequential(unet.conv_in)
    self_attention(unet).processor = PAGCFGIdentitySelfAttnProcessor2_0()
    before = snapshot(unet)
    record = unetinspect.trace(unet)

    assert record.attentions == traced("conditioned").attentions
    assert record.run.notes[-1] == "traced without perturbed-attention guidance (PAG), which is set on 1 attention layer"
    assert len(record.run.notes) == 1 + is_wrapped
    assert snapshot(unet) == before


class Counting:
    """A processor that counts its calls, and fails at one of them."""

    def __init__(self, inner: Any, fails_at: int = 0) -> None:
        self.inner, self.calls, self.fails_at = inner, 0, fails_at

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls == self.fails_at:
            raise ValueError("no such step")
        return self.inner(*args, **kwargs)


def with_extra_and_offloading(unet: Any) -> None:
    """Add a module, as LoRA does, in a pipeline with offloading."""
    unet.extra = nn.SiLU()
    offloaded(unet)


@pytest.mark.parametrize(
    ("prepare", "what"),
    [
        (lambda unet: setattr(self_attention(unet), "processor", Counting(AttnProcessor())), "Counting instead of AttnProcessor2_0"),
        (lambda unet: unet.fuse_qkv_projections(), "Attention with to_qkv"),
        (lambda unet: setattr(unet, "conv_in", nn.Conv2d(4, 32, 3, padding=1, bias=False)), "Conv2d with other tensors"),
        (lambda unet: setattr(unet, "conv_act", type("SiLU", (nn.SiLU,), {})()), "tests.test_live.SiLU instead of torch.nn.modules.activ"),
        (with_extra_and_offloading, "UNet2DConditionModel with extra"),
        (lambda unet: setattr(unet, "forward", lambda *args, **kwargs: type(unet).forward(unet, *args, **kwargs)), "a replaced forward"),
    ],
    ids=["processor", "fused", "tensors", "class", "child", "forward"],
)
def test_a_module_that_differs_from_its_config_runs_itself_with_a_note(unet: Any, prepare: Callable[[Any], Any], what: str) -> None:
    """The module itself runs, without offloading, and is left as it was; the note says what differs."""
    prepare(unet)
    before = snapshot(unet)
    record = unetinspect.trace(unet)

    assert [(skip.source, skip.target, skip.shape) for skip in record.skips] == [
        (skip.source, skip.target, skip.shape) for skip in traced("conditioned").skips
    ]
    (note,) = record.run.notes
    assert note.startswith("traced as it is: ")
    assert what in note
    assert snapshot(unet) == before


def test_an_error_in_the_users_own_code_names_the_place(unet: Any) -> None:
    """The size is not to blame, and no size is searched for: the processor is called until it fails, and never again."""
    processor = Counting(AttnProcessor(), fails_at=3)
    unet.set_attn_processor(processor)
    with pytest.raises(ForwardError) as caught:
        unetinspect.trace(unet)

    assert not isinstance(caught.value, SizeError)
    assert "failed outside diffusers, in test_live.py:" in caught.value.message
    assert caught.value.message.endswith("(Counting.__call__): no such step")
    expression = (caught.value.hint or "").split("`")[1]
    assert eval(expression, {"unetinspect": unetinspect, "unet": unet}).skips == traced("conditioned").skips
    assert processor.calls == 3


def test_an_error_of_diffusers_in_a_subclass_is_not_the_users() -> None:
    """A pass that diffusers fails is a `SizeError`, also if a forward of the user's calls that of diffusers."""

    class Mine(UNet2DConditionModel):
        def forward(self, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            return UNet2DConditionModel.forward(self, sample[:, :3], *args, **kwargs)

    with pytest.raises(SizeError, match="failed in conv_in"):
        unetinspect.trace(Mine.from_config(CONDITION))
