"""ControlNets, T2I-Adapters and the UNet that contains a ControlNet, against the UNets that they are made for."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.tiny import PLUGS, Config, config_of, traced, traced_once
from unetinspect import Trace, trace
from unetinspect.errors import ForwardError

SD15_ADAPTER: Config = {"_class_name": "T2IAdapter"}  # the class's own values are those of Stable Diffusion 1.5's adapters
SDXL_ADAPTER: Config = {"_class_name": "T2IAdapter", "adapter_type": "full_adapter_xl", "downscale_factor": 16}


def small(kind: str, **options: Any) -> Trace:
    """Trace one of `PLUGS` on meta, at a size that all of them can take."""
    return traced(kind, **{"latent": 48 if kind.startswith("t2i") else 16, **options})


def shapes(record: Trace) -> list[tuple[int, ...]]:
    """Return the shape of every output, in order."""
    return [output.shape for output in record.outputs]


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


@pytest.mark.parametrize(
    ("controlnet", "unet", "size"),
    [
        ("controlnet-sd15-canny", "sd15", {}),
        ("controlnet-sd15-canny", "sd15-inpaint", {"latent": (40, 72)}),
        ("controlnet-canny-sdxl", "sdxl", {}),
        ("controlnet-canny-sdxl", "ssd-1b", {"latent": 64}),
    ],
)
def test_each_residual_has_the_shape_of_the_port_of_its_number(controlnet: str, unet: str, size: dict[str, Any]) -> None:
    """The nth skip takes the nth residual, and the mid block the last one."""
    ports = [port.shape for port in traced(unet, **size).ports if port.kind == "controlnet"]

    assert shapes(traced(controlnet, **size)) == ports


@pytest.mark.parametrize(("config", "unet", "pixels"), [(SD15_ADAPTER, "sd15", 512), (SDXL_ADAPTER, "sdxl", 1024)])
def test_each_feature_has_the_shape_of_the_port_of_its_number(config: Config, unet: str, pixels: int) -> None:
    """Four features each: one for every down block of Stable Diffusion 1.5; in SDXL the fourth is for the mid block."""
    features = shapes(traced_once(config, res=pixels, batch=2))  # the UNet takes two, under guidance
    ports = [port.shape for port in traced(unet).ports if port.kind == "t2i-adapter"]

    assert len(features) == 4
    assert features == ports[:4]


def test_the_sizes_that_are_assumed() -> None:
    """No config of these classes has a size: that of the UNet that they are made for is assumed."""
    sizes = {name: traced(name).run for name in ("controlnet-sd15-canny", "controlnet-canny-sdxl")}
    adapters = [traced_once(config).run for config in (SD15_ADAPTER, SDXL_ADAPTER, config_of("t2i-adapter", downscale_factor=3))]

    assert {name: run.sample_size for name, run in sizes.items()} == {
        "controlnet-sd15-canny": (64, 64),
        "controlnet-canny-sdxl": (128, 128),
    }
    assert [run.sample_size for run in adapters] == [(512, 512), (1024, 1024), (510, 510)]
    assert all("assumed" in run.sample_size_from for run in (*sizes.values(), *adapters))
    assert all(run.image_size is None and not run.cfg for run in adapters)


@pytest.mark.parametrize(("kind", "factor"), [("controlnet-small-image", 1), ("controlnet", 2), ("controlnet-large-image", 8)])
def test_the_image_that_conditions_is_halved_once_for_each_further_width(kind: str, factor: int) -> None:
    """conditioning_embedding_out_channels contains one width more than there are halvings."""
    image = small(kind, latent=(9, 12)).run.inputs[3]

    assert image.name == "controlnet_cond"
    assert (image.shape or ())[2:] == (9 * factor, 12 * factor)


def test_a_controlnet_reads_the_text_behind_its_projection() -> None:
    """The pipeline calls encoder_hid_proj: forward is given the text in the width that the blocks read."""
    text = small("controlnet-text-proj").run.inputs[2]

    assert text.axes == ("batch", "tokens", "cross_attention_dim")
    assert text.shape == (2, 77, 24)


def test_union_is_given_one_image_of_the_first_kind() -> None:
    """The list of images is of tensors, that of their kinds of numbers."""
    given = {spec.name: spec for spec in small("controlnet-union").run.inputs}

    assert given["controlnet_cond.0"].shape == (2, 3, 32, 32)
    assert given["control_type"].shape == (2, 3)
    assert (given["control_type_idx"].shape, given["control_type_idx"].value) == (None, (0,))


@pytest.mark.parametrize("kind", [kind for kind in PLUGS if kind.startswith("controlnet-xs")])
def test_the_skips_of_a_unet_with_a_controlnet_are_those_of_the_unet(kind: str) -> None:
    """Three in each up block; the concatenation that gives the control stream the UNet's data is not a skip."""
    record = small(kind)
    blocks = len(PLUGS[kind]["up_block_types"])

    assert Counter(skip.target_stage for skip in record.skips) == {f"up_blocks.{block}": 3 for block in range(blocks)}
    assert record.totals.skips.produced == record.totals.skips.consumed == 3 * blocks
    assert sorted(skip.index for skip in record.skips) == list(range(3 * blocks))


def test_stable_diffusion_xl_with_a_controlnet_has_its_9_skips_named_by_the_unets_own_modules() -> None:
    """Of each sum, what the UNet made names the skip, and what the control stream adds is among its changes."""
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
