"""A motion adapter alone: the UNet that it is put into is the one that diffusers' own `from_unet2d` builds."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel

from tests.tiny import traced_once
from unetinspect import trace
from unetinspect.catalog import load_catalog
from unetinspect.errors import ConfigError, UsageError
from unetinspect.run.resolve import keys_of, resolve_config
from unetinspect.unets import builder_for

DEFAULTS = keys_of("MotionAdapter")
# Published adapters, and what else the class has keys for.
ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "v1-4": ("sd15", {"motion_max_seq_length": 24, "use_motion_mid_block": True}),
    "pia": ("sd15", {"conv_in_channels": 9}),
    "sdxl-beta": ("sdxl", {"block_out_channels": [320, 640, 1280], "use_motion_mid_block": False}),
    "deeper": (
        "sd15",
        {
            "motion_transformer_layers_per_block": [1, 2, 1, 3],
            "motion_transformer_layers_per_mid_block": [2],
            "motion_num_attention_heads": [2, 4, 8, 8],
            "motion_norm_num_groups": 16,
        },
    ),
}
MISFITS: list[tuple[str, Any, str]] = [
    ("motion_layers_per_block", 3, "sd15 has 2 layers in each block"),
    ("motion_mid_block_layers_per_block", 2, "the mid block of a UNetMotionModel has 1 layer"),
    ("motion_transformer_layers_per_mid_block", [1, 1], ""),  # the UNet refuses these two when it is built
    ("motion_transformer_layers_per_block", [[1, 1], 1, 1, 1], ""),
    ("motion_num_attention_heads", [8, 8, 8, 8, 8], "a list has one for each block (4)"),
    ("motion_norm_num_groups", 24, "it must divide the block_out_channels [320, 640, 1280, 1280]"),
    ("conv_in_channels", 3, "it must be at least 4, the in_channels of sd15"),
]
IN_ITS_UNET = "trace it in its UNet, in Python: unetinspect.trace(UNetMotionModel.from_unet2d(unet, adapter))"


def from_unet2d(host: str, adapter: dict[str, Any]) -> Any:
    """Build a bundled UNet and an adapter on meta, and let diffusers put the one into the other, weights and all."""
    with torch.device("meta"):
        return UNetMotionModel.from_unet2d(bundled(host), MotionAdapter(**adapter))


@cache
def bundled(host: str) -> Any:
    """Build a bundled UNet on meta, once: `from_unet2d` only reads it."""
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(load_catalog()[host].config)


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_unet_is_the_one_that_diffusers_makes_of_the_adapter(name: str) -> None:
    """The config key for key, and a note on where the adapter was put."""
    host, adapter = ADAPTERS[name]
    config, unet = resolve_config({"_class_name": "MotionAdapter", **adapter}), from_unet2d(host, adapter)

    built = {key: list(value) if isinstance(value, tuple) else value for key, value in unet.config.items() if not key.startswith("_")}
    assert (config.class_name, config.values, config.ignored) == ("UNetMotionModel", built, ())
    assert config.notes == (
        f"a MotionAdapter has no forward of its own: it was put into {host}, the bundled UNet with its block_out_channels",
    )


def test_the_record_is_that_of_the_unet_with_the_adapter() -> None:
    """PIA's 9 channels are 4 of the sample, 5 of the picture and its mask; 21 motion modules of two layers stand beside SD 1.5's own."""
    record = traced_once({"_class_name": "MotionAdapter", **ADAPTERS["pia"][1]}, latent=8, frames=2)
    counts, alone = record.totals.attention, traced_once("sd15").totals.attention

    assert (record.model.class_name, record.run.inputs[0].shape) == ("UNetMotionModel", (2, 9, 2, 8, 8))
    assert record.totals.params == sum(parameter.numel() for parameter in from_unet2d(*ADAPTERS["pia"]).parameters())
    assert (counts.self_, counts.cross, counts.temporal) == (alone.self_, alone.cross, 2 * 21)
    assert "it was put into sd15" in record.run.notes[0]


def test_the_unet_gives_every_key_that_an_adapter_has_not() -> None:
    """Every key that the image UNet and the video UNet share comes from the UNet of the catalog that the adapter fits."""
    both = set.intersection(*({*inspect.signature(unet.__init__).parameters} for unet in (UNet2DConditionModel, UNetMotionModel)))
    changes = builder_for("MotionAdapter").adapted({**DEFAULTS, "block_out_channels": [320, 640, 1280]}).changes

    assert {key for key in both - {"self"} if key in load_catalog()["sdxl"].config} <= {*changes}


@pytest.mark.parametrize(("key", "value", "sentence"), MISFITS, ids=[row[0] for row in MISFITS])
def test_what_cannot_be_put_into_the_unet_is_named(key: str, value: Any, sentence: str) -> None:
    """One sentence in the adapter's own words; diffusers raises somewhere on the way, and does not where the change is made."""
    with pytest.raises(ConfigError) as refused:
        trace({"_class_name": "MotionAdapter", key: value}, device="meta")

    (mistake,) = refused.value.mistakes
    assert mistake.keys == (key,)
    assert sentence in mistake.what
    assert builder_for("MotionAdapter").adapted({**DEFAULTS, key: value, **mistake.change}).notes
    with pytest.raises((ValueError, RuntimeError, TypeError, IndexError)):
        from_unet2d("sd15", {key: value})


@pytest.mark.parametrize("channels", [[8, 8], "320", None])
def test_an_adapter_for_another_unet_names_those_it_could_be_for(channels: Any) -> None:
    """The bundled UNets with their channels, and the way to trace it in its own."""
    with pytest.raises(ConfigError) as refused:
        trace({"_class_name": "MotionAdapter", "block_out_channels": channels}, device="meta")

    assert refused.value.problems == (
        f"block_out_channels is {channels!r}; the bundled UNets have [320, 640, 1280, 1280] (sd15) or [320, 640, 1280] (sdxl)",
    )
    assert refused.value.hint == IN_ITS_UNET


def test_a_live_adapter_is_refused_with_what_works() -> None:
    """It cannot be run, whatever is asked of it; in its UNet it is traced."""
    with torch.device("meta"):
        adapter: Any = MotionAdapter(block_out_channels=(8, 8), motion_norm_num_groups=4, motion_num_attention_heads=2)
        unet: Any = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 8),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=8,
            attention_head_dim=2,
            norm_num_groups=4,
        )
        live: Any = UNetMotionModel.from_unet2d(unet, adapter)
        record = trace(live, frames=3)
    options: Any
    for options in ({}, {"frames": 8}, {"res": 512}, {"cfg": True, "batch": 2}):
        with pytest.raises(ConfigError) as refused:
            trace(adapter, **options)
        assert (refused.value.message, refused.value.hint) == ("a MotionAdapter has no forward of its own", IN_ITS_UNET)

    assert record.output.shape == (2, 4, 3, 8, 8)
    assert record.totals.attention.temporal == 2 * (2 * 2 + 1 + 2 * 3)


def test_overrides_are_of_the_adapter() -> None:
    """`--set` takes the adapter's keys, and no others."""
    config = {"_class_name": "MotionAdapter"}

    assert resolve_config(config, {"motion_max_seq_length": 6}).values["motion_max_seq_length"] == 6
    with pytest.raises(UsageError, match="MotionAdapter has no config key layers_per_block"):
        resolve_config(config, {"layers_per_block": 2})
