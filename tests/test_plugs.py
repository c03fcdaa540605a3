"""ControlNets, T2I-Adapters and the UNet with a ControlNet in it: against diffusers itself, and against the UNets they are made for."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import diffusers
import msgspec
import pytest
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from tests.kinds_plugs import KINDS, Config, adapter, controlnet, union, xs
from tests.tiny import traced
from unetinspect import Trace, trace
from unetinspect.build import make_inputs
from unetinspect.errors import ConfigError, UsageError
from unetinspect.inputs import InputSpec, Plan, builder_for
from unetinspect.resolve import check_config, resolve_config

SD15_ADAPTER: Config = {"_class_name": "T2IAdapter"}  # the class's own values are those of Stable Diffusion 1.5's adapters
SDXL_ADAPTER: Config = {"_class_name": "T2IAdapter", "adapter_type": "full_adapter_xl", "downscale_factor": 16}


@cache
def small(kind: str, **options: Any) -> Trace:
    """Trace one of `KINDS` on meta, at a size that all of them can take."""
    return trace(KINDS[kind], **{"device": "meta", "latent": 48 if kind.startswith("t2i") else 16, **options})


def shapes(record: Trace) -> list[tuple[int, ...]]:
    """Return the shape of every output, in order."""
    return [output.shape for output in record.outputs]


def run_by_hand(config: Config, record: Trace) -> tuple[torch.nn.Module, Any, list[Any], set[str]]:
    """Run a model on meta with the inputs that the record says, watched by nothing of this package.

    Returns the model, what it returned, the operands of every fused attention, and the paths of the modules that ran.
    """
    operands: list[Any] = []
    ran: set[str] = set()

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is functional.scaled_dot_product_attention:
                operands.append(tuple(tuple(tensor.shape) for tensor in args[:3]))
            return func(*args, **(kwargs or {}))

    with torch.device("meta"), torch.no_grad():
        model = getattr(diffusers, config["_class_name"]).from_config(config).eval()
        for path, module in model.named_modules():
            module.register_forward_hook(lambda *_, path=path: ran.add(path))
        specs = [
            InputSpec(given.name, given.shape, dtype="int64" if given.dtype == "int64" else "float", value=given.value)
            for given in record.run.inputs
        ]
        with Watch():
            returned = model(**make_inputs(specs, device=torch.device("meta"), dtype=torch.float32))
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


@pytest.mark.parametrize("kind", KINDS)
def test_cpu_and_meta_give_the_same_record(kind: str) -> None:
    """A real forward pass with real memory differs from the weight-less one in the device's name alone."""
    on_cpu, on_meta = (msgspec.to_builtins(small(kind, device=device)) for device in ("cpu", "meta"))

    assert on_cpu["run"].pop("device") == "cpu"
    assert on_meta["run"].pop("device") == "meta"
    assert on_cpu == on_meta


@pytest.mark.parametrize(
    ("name", "params", "attention"),
    [("controlnet-sd15-canny", 361_279_120, 14), ("controlnet-canny-sdxl", 1_251_014_160, 68)],
)
def test_published_controlnets_have_the_published_parameters(name: str, params: int, attention: int) -> None:
    """7 transformer blocks in Stable Diffusion 1.5's, 34 in SDXL's: a self- and a cross-attention in each."""
    totals = traced(name, cfg=False).totals

    assert totals.params == params
    assert (totals.attention.self_, totals.attention.cross, totals.attention.total) == (attention // 2, attention // 2, attention)


def test_the_residuals_of_sd15s_controlnet_are_12_and_1() -> None:
    """At 512 px: what conv_in and each layer on the way down give, three, two or one of a width and size."""
    assert shapes(traced("controlnet-sd15-canny", cfg=False)) == [
        *[(1, 320, 64, 64)] * 3,
        (1, 320, 32, 32),
        *[(1, 640, 32, 32)] * 2,
        (1, 640, 16, 16),
        *[(1, 1280, 16, 16)] * 2,
        *[(1, 1280, 8, 8)] * 3,
        (1, 1280, 8, 8),
    ]
    names = [output.name for output in traced("controlnet-sd15-canny", cfg=False).outputs]
    assert names == [*(f"down_block_res_samples.{place}" for place in range(12)), "mid_block_res_sample"]


def test_the_residuals_of_sdxls_controlnet_are_9_and_1() -> None:
    """At 1024 px, which is the size taken for granted for SDXL."""
    assert shapes(traced("controlnet-canny-sdxl", cfg=False)) == [
        *[(1, 320, 128, 128)] * 3,
        (1, 320, 64, 64),
        *[(1, 640, 64, 64)] * 2,
        (1, 640, 32, 32),
        *[(1, 1280, 32, 32)] * 2,
        (1, 1280, 32, 32),
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
    features = shapes(trace(config, device="meta", res=pixels))
    ports = [port.shape for port in traced(unet, cfg=False).ports if port.kind == "t2i-adapter"]

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
    assert all("taken for granted" in run.sample_size_from for run in (*sizes.values(), *adapters))
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
    assert small(kind).skips == ()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("controlnet-xs")])
def test_the_skips_of_a_unet_with_a_controlnet_are_those_of_the_unet(kind: str) -> None:
    """Three in each up block; that the control stream is given the UNet's data by a concatenation makes no skip."""
    record = small(kind)
    blocks = len(KINDS[kind]["up_block_types"])

    assert Counter(skip.target_stage for skip in record.skips) == {f"up_blocks.{block}": 3 for block in range(blocks)}
    assert all(skip.adds_up for skip in record.skips)


def test_the_default_unet_with_a_controlnet_has_the_12_skips_of_stable_diffusion() -> None:
    """The same widths meet as in the UNet alone."""
    record = trace({"_class_name": "UNetControlNetXSModel"}, device="meta")

    assert [skip.concat_channels for skip in record.skips] == [skip.concat_channels for skip in traced("sd21").skips]
    assert len(record.skips) == 12
    assert all(skip.hidden_channels + skip.skip_channels == skip.concat_channels == skip.conv_channels for skip in record.skips)


MISTAKES = {
    "blocks": (controlnet(down_block_types=["DownBlock2D"]), ["must be of one length: down_block_types has 1, block_out_channels has 2"]),
    "skip-block": (
        controlnet(down_block_types=["SkipDownBlock2D", "DownBlock2D"]),
        ["down_block_types holds 'SkipDownBlock2D', which is no block for this class (did you mean KDownBlock2D?)"],
    ),
    "no-mid-block": (
        controlnet(mid_block_type=None),
        ["mid_block_type is None, and must be one of: UNetMidBlock2DCrossAttn, UNetMidBlock2D"],
    ),
    "image-proj": (
        controlnet(encoder_hid_dim_type="image_proj", encoder_hid_dim=8),
        ["encoder_hid_dim_type is 'image_proj', and must be one of: null, text_proj, text_image_proj"],
    ),
    "no-text-width": (
        controlnet(cross_attention_dim=None),
        ["cross_attention_dim is None, and must be a whole number above 0: CrossAttnDownBlock2D reads it"],
    ),
    "two-text-widths": (
        controlnet(addition_embed_type="text", addition_embed_type_num_heads=2, encoder_hid_dim=12),
        ["encoder_hid_dim is 12, and must be cross_attention_dim, 24: addition_embed_type 'text' reads the same text"],
    ),
    "text-heads": (
        controlnet(addition_embed_type="text", addition_embed_type_num_heads=5),
        ["addition_embed_type_num_heads is 5, and must divide the width of the text, 24"],
    ),
    "text-time-alone": (
        controlnet(addition_embed_type="text_time"),
        [
            "addition_embed_type is 'text_time', which needs addition_time_embed_dim",
            "addition_embed_type is 'text_time', which needs projection_class_embeddings_input_dim",
        ],
    ),
    "no-image-embedding": (
        controlnet(conditioning_embedding_out_channels=None),
        ["conditioning_embedding_out_channels is None, and must be a list of whole numbers above 0 with at least one entry"],
    ),
    "channel-order": (
        controlnet(controlnet_conditioning_channel_order="grb"),
        ["controlnet_conditioning_channel_order is 'grb', and must be one of: rgb, bgr"],
    ),
    "groups": (controlnet(norm_num_groups=24), ["block_out_channels holds 32, 64, which norm_num_groups 24 does not divide"]),
    "heads": (
        controlnet(attention_head_dim=[48, 80]),
        [
            "attention_head_dim holds 48 for the down block 0, and must be at most its 32 channels",
            "attention_head_dim holds 80 for the mid block, and must be at most its 64 channels",
        ],
    ),
    "depths": (
        controlnet(layers_per_block=2, transformer_layers_per_block=[[1], 1]),
        ["transformer_layers_per_block holds [1] for the down block 0, and must have an entry for each of 2 layers"],
    ),
    "short-depths": (
        controlnet(transformer_layers_per_block=[1]),
        ["transformer_layers_per_block has 1 entries, and must have one for each of the 2 down_block_types"],
    ),
    "no-layers": (
        controlnet(layers_per_block=0),
        ["layers_per_block is 0, and must be at least 1 where block_out_channels change: a resnet changes them"],
    ),
    "k-block-above": (
        controlnet(down_block_types=["KDownBlock2D", "DownBlock2D"]),
        ["down_block_types holds KDownBlock2D, whose skips fit a ControlNet only where all further block_out_channels are the same"],
    ),
    "k-block-below": (
        controlnet(down_block_types=["DownBlock2D", "KCrossAttnDownBlock2D"]),
        ["down_block_types ends with KCrossAttnDownBlock2D, which pushes no skips there that a ControlNet could take"],
    ),
    "union-order": (
        union(controlnet_conditioning_channel_order="bgr"),
        ["controlnet_conditioning_channel_order is 'bgr', and must be one of: rgb"],
    ),
    "union-kinds": (
        union(addition_time_embed_dim=None),
        ["addition_time_embed_dim is None, and must be a whole number above 0"],
    ),
    "union-widths": (
        union(num_trans_channel=16, num_proj_channel=64),
        [
            "num_trans_channel is 16, and must be the first of block_out_channels, 32",
            "num_proj_channel is 64, and must be the first of block_out_channels, 32",
        ],
    ),
    "union-heads": (union(num_trans_head=5), ["num_trans_head is 5, and must divide num_trans_channel, 32"]),
    "xs-lengths": (
        xs(ctrl_block_out_channels=[6], up_block_types=["UpBlock2D"]),
        ["must be of one length: down_block_types has 2, up_block_types has 1, block_out_channels has 2, ctrl_block_out_channels has 1"],
    ),
    "xs-heads": (
        xs(num_attention_heads=[4, 80], ctrl_num_attention_heads=12),
        [
            *(
                f"num_attention_heads holds 80 for the {block}, and must be at most its 64 channels"
                for block in ("down block 1", "mid block", "up block 0")
            ),
            *(
                f"ctrl_num_attention_heads holds 12 for the {block}, and must be at most its 10 channels"
                for block in ("down block 1", "mid block")
            ),
        ],
    ),
    "xs-depths": (
        xs(transformer_layers_per_block=[1, [1, 2]]),
        ["transformer_layers_per_block holds [1, 2] for the up block 0, and must have an entry for each of 3 layers"],
    ),
    "xs-groups": (xs(norm_num_groups=24), ["block_out_channels holds 32, 64, which norm_num_groups 24 does not divide"]),
    "xs-control-groups": (xs(ctrl_max_norm_num_groups=0), ["ctrl_max_norm_num_groups is 0, and must be a whole number above 0"]),
    "xs-mix": (xs(time_embedding_mix=0.5), ["time_embedding_mix is 0.5, which below 1 needs ctrl_learn_time_embedding"]),
    "xs-mix-above": (xs(time_embedding_mix=1.5), ["time_embedding_mix is 1.5, and must be from 0 to 1"]),
    "xs-image": (xs(addition_embed_type="image"), ["addition_embed_type is 'image', and must be one of: null, text_time"]),
    "xs-text": (xs(addition_embed_type="text"), ["addition_embed_type is 'text', and must be one of: null, text_time"]),
    "adapter-type": (
        adapter(adapter_type="heavy_adapter"),
        ["adapter_type is 'heavy_adapter', and must be one of: full_adapter, full_adapter_xl, light_adapter"],
    ),
    "adapter-xl": (
        adapter(adapter_type="full_adapter_xl", channels=[8, 16, 32, 64]),
        [
            "channels is [8, 16, 32, 64], and must have one width from the third on: there full_adapter_xl changes it no more",
        ],
    ),
    "adapter-light": (
        adapter(adapter_type="light_adapter", channels=[3, 8]),
        ["channels holds 3, and must hold numbers from 4 on: light_adapter works on a quarter of them"],
    ),
    "adapter-empty": (adapter(channels=[]), ["channels is [], and must be a list of whole numbers above 0 with at least one entry"]),
    "adapter-fold": (adapter(downscale_factor=0), ["downscale_factor is 0, and must be a whole number above 0"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_and_diffusers_stumbles_over_it(mistake: str) -> None:
    """Each sentence stands alone for its mistake, and the config builds or runs in no diffusers either."""
    config, sentences = MISTAKES[mistake]
    with pytest.raises(ConfigError) as raised:
        check_config(resolve_config(config), name="it")

    assert list(raised.value.problems) == sentences
    assert not _runs(config)


def test_all_mistakes_are_found_at_once() -> None:
    """One sentence for each of three keys."""
    config = controlnet(act_fn="tanh", conditioning_channels=0, addition_embed_type="image")
    with pytest.raises(ConfigError) as raised:
        check_config(resolve_config(config), name="it")

    assert sorted(problem.split()[0] for problem in raised.value.problems) == ["act_fn", "addition_embed_type", "conditioning_channels"]


@pytest.mark.parametrize(
    "config",
    [
        xs(block_out_channels=[32, 32, 32], num_attention_heads=[4, 4, 4]),
        xs(up_block_types=["CrossAttnUpBlock2D"], block_out_channels=[32, 32]),
        xs(down_block_types=["Plain", "SomeCrossAttn"], transformer_layers_per_block=[1, 1, 1]),
        controlnet(attention_head_dim=[4, None], mid_block_type="UNetMidBlock2D"),
        controlnet(transformer_layers_per_block=[1, 2, 3]),
        controlnet(act_fn="SiLU"),
        adapter(adapter_type="full_adapter_xl", channels=[8, 16, 32, 64], num_res_blocks=0),
        adapter(channels=[8]),
    ],
)
def test_what_diffusers_runs_is_not_refused(config: Config) -> None:
    """Odd configs that no published model has, and that run."""
    check_config(resolve_config(config), name="it")

    assert _runs(config)
    assert trace(config, device="meta", latent=16).outputs


def _runs(config: Config) -> bool:
    """Tell whether diffusers builds the config, and runs it with the inputs that its builder gives."""
    builder = builder_for(config["_class_name"])
    try:
        with torch.device("meta"), torch.no_grad():
            values = resolve_config(config).values
            specs = builder.inputs(values, Plan(batch=2, size=(48, 48)))
            model = getattr(diffusers, config["_class_name"]).from_config(config).eval()
            model(**make_inputs(specs, device=torch.device("meta"), dtype=torch.float32))
    except Exception:
        return False
    return True


def test_a_size_that_an_adapter_cannot_fold_is_refused_with_the_nearest() -> None:
    """PixelUnshuffle folds whole blocks of pixels alone."""
    with pytest.raises(UsageError) as raised:
        trace(SD15_ADAPTER, device="meta", res=(500, 512))

    assert str(raised.value) == "an image of 500x512 cannot be folded: each side must be a multiple of downscale_factor, 8"
    assert raised.value.hint == "the nearest sizes that are: --res 496x512 or --res 504x512"
