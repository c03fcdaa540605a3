"""ControlNets, T2I-Adapters and the UNet with a ControlNet in it: against diffusers itself, and against the UNets they are made for."""

from __future__ import annotations

from collections import Counter
from typing import Any

import diffusers
import msgspec
import pytest
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from tests.kinds_plugs import KINDS, adapter
from tests.tiny import Config, traced, traced_once
from unetinspect import Trace, trace
from unetinspect.errors import ForwardError
from unetinspect.run.build import make_inputs
from unetinspect.unets import InputSpec

SD15_ADAPTER: Config = {"_class_name": "T2IAdapter"}  # the class's own values are those of Stable Diffusion 1.5's adapters
SDXL_ADAPTER: Config = {"_class_name": "T2IAdapter", "adapter_type": "full_adapter_xl", "downscale_factor": 16}


# Of each class, the kind with the most inputs or blocks of its own.
ONE_OF_EACH = ["controlnet-text-time", "controlnet-k-block", "controlnet-union-text-time", "controlnet-xs-text-time", "t2i-adapter-xl"]


def small(kind: str, **options: Any) -> Trace:
    """Trace one of `KINDS` on meta, at a size that all of them can take."""
    return traced_once(KINDS[kind], **{"latent": 48 if kind.startswith("t2i") else 16, **options})


def shapes(record: Trace) -> list[tuple[int, ...]]:
    """Return the shape of every output, in order."""
    return [output.shape for output in record.outputs]


def run_by_hand(config: Config, record: Trace) -> tuple[torch.nn.Module, Any, list[Any], set[str]]:
    """Run a model on the CPU with the inputs that the record says, watched by nothing of this package.

    Returns the model, what it returned, the operands of every fused attention, and the paths of the modules that ran.
    """
    operands: list[Any] = []
    ran: set[str] = set()

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is functional.scaled_dot_product_attention:
                operands.append(tuple(tuple(tensor.shape) for tensor in args[:3]))
            return func(*args, **(kwargs or {}))

    with torch.no_grad():
        model = getattr(diffusers, config["_class_name"]).from_config(config).eval()
        for path, module in model.named_modules():
            module.register_forward_hook(lambda *_, path=path: ran.add(path))
        specs = [InputSpec.of(given) for given in record.run.inputs]
        with Watch():
            returned = model(**make_inputs(specs, device=torch.device("cpu"), dtype=torch.float32))
    return model, returned, operands, ran


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_agrees_with_a_run_by_hand(kind: str) -> None:
    """Parameters, outputs, attention operands and which modules ran are those of a run that this package does not watch."""
    record = small(kind)
    model, returned, operands, ran = run_by_hand(KINDS[kind], record)

    flat = returned if isinstance(returned, list) else [part for value in returned.values() for part in _each(value)]
    assert [tuple(tensor.shape) for tensor in flat] == shapes(record)
    assert sum(parameter.numel() for parameter in model.parameters()) == record.totals.params
    # Union's own transformer is a torch.nn.MultiheadAttention, which has no processor.
    with_processor = [layer for layer in record.attentions if layer.processor]
    assert operands == [(layer.query_shape, layer.key_shape, layer.value_shape) for layer in with_processor]
    assert ran == {module.path for module in record.modules if module.calls}


def _each(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


# forward has no use for them: it reads neither text_image nor any projection of the text, nor gives timestep_cond to the
# module that has room for it; a K-block pushes one skip fewer than there are convolutions. And MultiheadAttention
# multiplies with the weights of its out_proj itself.
NEVER_RUN = {
    "controlnet-k-block": ["controlnet_down_blocks.3"],
    "controlnet-text-image": ["add_embedding.image_proj", "add_embedding.text_norm", "add_embedding.text_proj"],
    "controlnet-text-proj": ["encoder_hid_proj"],
    "controlnet-text-alone": ["encoder_hid_proj"],
    "controlnet-xs-own-time": ["base_time_embedding.cond_proj"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_inputs_make_every_module_run_that_forward_can_reach(kind: str) -> None:
    """Nothing that has weights is left out for want of an input."""
    modules = small(kind).modules
    holders = {module.path.rpartition(".")[0] for module in modules}
    idle = [module.path for module in modules if module.params and not module.calls and module.path not in holders]

    assert sorted(path for path in idle if not path.endswith("attn.out_proj")) == NEVER_RUN.get(kind, [])


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_cpu_and_meta_give_the_same_record(kind: str) -> None:
    """A real forward pass with real memory differs from the weight-less one in the device's name alone."""
    on_cpu, on_meta = (msgspec.to_builtins(record) for record in (small(kind, device="cpu"), small(kind)))

    assert on_cpu["run"].pop("device") == "cpu"
    assert on_meta["run"].pop("device") == "meta"
    assert on_cpu == on_meta


@pytest.mark.parametrize(
    ("name", "params", "attention"),
    [("controlnet-sd15-canny", 361_279_120, 14), ("controlnet-canny-sdxl", 1_251_014_160, 68)],
)
def test_published_controlnets_have_the_published_parameters(name: str, params: int, attention: int) -> None:
    """7 transformer blocks in Stable Diffusion 1.5's, 34 in SDXL's: a self- and a cross-attention in each."""
    totals = traced(name).totals

    assert totals.params == params
    assert (totals.attention.self_, totals.attention.cross, totals.attention.total) == (attention // 2, attention // 2, attention)


def test_the_residuals_of_sd15s_controlnet_are_12_and_1() -> None:
    """At 512 px, two of each under guidance: what conv_in and each layer on the way down give, three, two or one of a width and size."""
    assert shapes(traced("controlnet-sd15-canny")) == [
        *[(2, 320, 64, 64)] * 3,
        (2, 320, 32, 32),
        *[(2, 640, 32, 32)] * 2,
        (2, 640, 16, 16),
        *[(2, 1280, 16, 16)] * 2,
        *[(2, 1280, 8, 8)] * 3,
        (2, 1280, 8, 8),
    ]
    names = [output.name for output in traced("controlnet-sd15-canny").outputs]
    assert names == [*(f"down_block_res_samples.{place}" for place in range(12)), "mid_block_res_sample"]


def test_the_residuals_of_sdxls_controlnet_are_9_and_1() -> None:
    """At 1024 px, which is the size assumed for SDXL."""
    assert shapes(traced("controlnet-canny-sdxl")) == [
        *[(2, 320, 128, 128)] * 3,
        (2, 320, 64, 64),
        *[(2, 640, 64, 64)] * 2,
        (2, 640, 32, 32),
        *[(2, 1280, 32, 32)] * 2,
        (2, 1280, 32, 32),
    ]


@pytest.mark.parametrize(
    ("plug", "unet", "size"),
    [
        ("controlnet-sd15-canny", "sd15", {}),
        ("controlnet-sd15-canny", "sd15-inpaint", {"latent": (40, 72)}),
        ("controlnet-canny-sdxl", "sdxl", {}),
        ("controlnet-canny-sdxl", "ssd-1b", {"latent": 64}),
    ],
)
def test_each_residual_has_the_shape_of_the_port_of_its_number(plug: str, unet: str, size: dict[str, Any]) -> None:
    """The nth skip takes the nth residual, and the mid block the last one."""
    ports = [port.shape for port in traced(unet, **size).ports if port.kind == "controlnet"]

    assert shapes(traced(plug, **size)) == ports


@pytest.mark.parametrize(("config", "unet", "pixels"), [(SD15_ADAPTER, "sd15", 512), (SDXL_ADAPTER, "sdxl", 1024)])
def test_each_feature_has_the_shape_of_the_port_of_its_number(config: Config, unet: str, pixels: int) -> None:
    """Four features each: one for every down block of Stable Diffusion 1.5; in SDXL the fourth is for the mid block."""
    features = shapes(trace(config, device="meta", res=pixels, batch=2))  # the UNet takes two, under guidance
    ports = [port.shape for port in traced(unet).ports if port.kind == "t2i-adapter"]

    assert len(features) == 4
    assert features == ports[:4]


def test_the_sizes_that_are_taken_for_granted() -> None:
    """No config of these classes has a size: they take that of the UNet they are made for, and say so."""
    sizes = {name: traced(name).run for name in ("controlnet-sd15-canny", "controlnet-canny-sdxl")}
    adapters = [trace(config, device="meta").run for config in (SD15_ADAPTER, SDXL_ADAPTER, adapter(downscale_factor=3))]

    assert {name: run.sample_size for name, run in sizes.items()} == {
        "controlnet-sd15-canny": (64, 64),
        "controlnet-canny-sdxl": (128, 128),
    }
    assert [run.sample_size for run in adapters] == [(512, 512), (1024, 1024), (510, 510)]
    assert all("assumed" in run.sample_size_from for run in (*sizes.values(), *adapters))
    assert all(run.image_size is None and not run.cfg for run in adapters)


@pytest.mark.parametrize(("kind", "factor"), [("controlnet-small-image", 1), ("controlnet", 2), ("controlnet-large-image", 8)])
def test_the_image_that_conditions_is_halved_once_for_each_further_width(kind: str, factor: int) -> None:
    """conditioning_embedding_out_channels holds one width more than there are halvings."""
    image = small(kind, latent=(9, 12)).run.inputs[3]

    assert image.name == "controlnet_cond"
    assert (image.shape or ())[2:] == (9 * factor, 12 * factor)


def test_pooled_conditions_leave_one_value_a_channel() -> None:
    """With global_pool_conditions, each residual is its mean over height and width, which the UNet spreads out again."""
    assert {output.shape[2:] for output in small("controlnet-pooled").outputs} == {(1, 1)}
    assert [output.shape[:2] for output in small("controlnet-pooled").outputs] == [
        output.shape[:2] for output in small("controlnet").outputs
    ]


def test_a_controlnet_reads_the_text_behind_its_projection() -> None:
    """encoder_hid_proj is the pipeline's to call: forward is given the text as wide as the blocks read it."""
    text = small("controlnet-text-proj").run.inputs[2]

    assert text.axes == ("batch", "tokens", "cross_attention_dim")
    assert text.shape == (2, 77, 24)


def test_union_is_given_one_image_of_the_first_kind() -> None:
    """The list of images is of tensors, that of their kinds of numbers."""
    given = {spec.name: spec for spec in small("controlnet-union").run.inputs}

    assert given["controlnet_cond.0"].shape == (2, 3, 32, 32)
    assert given["control_type"].shape == (2, 3)
    assert (given["control_type_idx"].shape, given["control_type_idx"].value) == (None, (0,))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("controlnet-xs")])
def test_nothing_that_is_plugged_in_has_skips_of_its_own(kind: str) -> None:
    """A way down without a way up concatenates nothing."""
    counts = small(kind).totals.skips

    assert small(kind).skips == ()
    assert (counts.produced, counts.consumed) == (0, 0)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("controlnet-xs")])
def test_the_skips_of_a_unet_with_a_controlnet_are_those_of_the_unet(kind: str) -> None:
    """Three in each up block; that the control stream is given the UNet's data by a concatenation makes no skip."""
    record = small(kind)
    blocks = len(KINDS[kind]["up_block_types"])

    assert Counter(skip.target_stage for skip in record.skips) == {f"up_blocks.{block}": 3 for block in range(blocks)}
    assert all(skip.adds_up for skip in record.skips)
    assert record.totals.skips.produced == record.totals.skips.consumed == 3 * blocks
    assert sorted(skip.index for skip in record.skips) == list(range(3 * blocks))


def test_the_default_unet_with_a_controlnet_has_the_12_skips_of_stable_diffusion() -> None:
    """The same widths meet as in the UNet alone."""
    record = trace({"_class_name": "UNetControlNetXSModel"}, device="meta")

    assert [skip.concat_channels for skip in record.skips] == [skip.concat_channels for skip in traced("sd21").skips]
    assert len(record.skips) == 12
    assert all(skip.hidden_channels + skip.skip_channels == skip.concat_channels == skip.conv_channels for skip in record.skips)


def test_stable_diffusion_xl_with_a_controlnet_has_its_9_skips_named_by_the_unets_own_modules() -> None:
    """Of each sum, what the UNet made names the skip, and what the control stream adds stands among its changes."""
    sizes = {"block_out_channels": [320, 640, 1280], "transformer_layers_per_block": [1, 2, 10], "cross_attention_dim": 2048}
    blocks = {
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    }
    control = {"ctrl_block_out_channels": [32, 64, 128], "ctrl_num_attention_heads": 1, "num_attention_heads": [5, 10, 20]}
    record = trace({"_class_name": "UNetControlNetXSModel", **sizes, **blocks, **control}, device="meta", latent=16)
    alone = traced("sdxl").skips

    assert [skip.source.replace("base_", "") for skip in record.skips] == [skip.source.replace("samplers.0", "samplers") for skip in alone]
    assert [(skip.hidden_channels, skip.conv_channels) for skip in record.skips] == [
        (skip.hidden_channels, skip.conv_channels) for skip in alone
    ]
    for skip in record.skips:
        ((change),) = skip.changes
        assert (change.kind, change.with_) == ("sum", tuple(path for path in skip.sources if path != skip.source))
        assert all("to_base" in path for path in change.with_)


def test_a_size_that_an_adapter_cannot_fold_is_refused_with_the_nearest() -> None:
    """PixelUnshuffle folds whole blocks of pixels alone."""
    with pytest.raises(ForwardError, match=r"failed in adapter\.unshuffle") as raised:
        trace(SD15_ADAPTER, device="meta", res=(500, 512))

    assert raised.value.hint == "the nearest sizes that run: --res 496x512 or --res 504x512"
