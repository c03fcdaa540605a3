"""A motion adapter alone: the UNet that it is put into is the one that diffusers' own `from_unet2d` builds."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel

from tests.tiny import traced_once
from unetinspect import Trace, trace
from unetinspect.catalog import find_entry
from unetinspect.errors import ConfigError, UsageError
from unetinspect.run.resolve import resolve_config

# Published adapters, and what the class has keys for besides.
ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "defaults": ("sd15", {}),
    "v1-4": ("sd15", {"motion_max_seq_length": 24, "use_motion_mid_block": True}),
    "v1-5-3": ("sd15", {"use_motion_mid_block": False}),
    "pia": ("sd15", {"conv_in_channels": 9}),
    "deeper": ("sd15", {"motion_transformer_layers_per_block": [1, 2, 1, 3], "motion_transformer_layers_per_mid_block": [2]}),
    "heads": ("sd15", {"motion_num_attention_heads": [2, 4, 8, 8], "motion_norm_num_groups": 16}),
    "sdxl-beta": ("sdxl", {"block_out_channels": [320, 640, 1280], "use_motion_mid_block": False}),
}
# What the bundled UNet or the adapter's own class rules out.
MISFITS: list[tuple[dict[str, Any], str]] = [
    ({"motion_layers_per_block": 3}, "motion_layers_per_block is 3; sd15 has 2 layers in each block"),
    ({"motion_layers_per_block": [2, 2, 2]}, "motion_layers_per_block is [2, 2, 2]; sd15 has 2 layers in each block"),
    (
        {"motion_mid_block_layers_per_block": 2},
        "motion_mid_block_layers_per_block is 2; the mid block of a UNetMotionModel has 1 layer",
    ),
    (
        {"motion_num_attention_heads": [8, 8, 8, 8, 8]},
        "motion_num_attention_heads is [8, 8, 8, 8, 8]; a list has one for each block (4)",
    ),
    ({"motion_norm_num_groups": 24}, "motion_norm_num_groups is 24; it must divide the block_out_channels [320, 640, 1280, 1280]"),
    ({"conv_in_channels": 3}, "conv_in_channels is 3; it must be at least 4, the in_channels of sd15"),
]
# What UNetMotionModel refuses, which shows when it is built.
NOT_BUILT: list[dict[str, Any]] = [
    {"motion_transformer_layers_per_mid_block": [1, 1]},
    {"motion_transformer_layers_per_block": [[1, 1], 1, 1, 1]},
]


def from_unet2d(host: str, adapter: dict[str, Any]) -> Any:
    """Build a bundled UNet and an adapter on meta, and let diffusers put the one into the other, weights and all."""
    with torch.device("meta"):
        return UNetMotionModel.from_unet2d(bundled(host), MotionAdapter(**adapter))


@cache
def bundled(host: str) -> Any:
    """Build a bundled UNet on meta, once: `from_unet2d` reads it alone."""
    entry = find_entry(host)
    assert entry is not None
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(entry.config)


def traced(name: str) -> Trace:
    """Trace an adapter at a small size, once."""
    return traced_once({"_class_name": "MotionAdapter", **ADAPTERS[name][1]}, latent=8, frames=2)


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_unet_is_the_one_that_diffusers_makes_of_the_adapter(name: str) -> None:
    """The config key for key, and a note on where the adapter was put; where it is traced, its every parameter and that note."""
    host, adapter = ADAPTERS[name]
    config, unet = resolve_config({"_class_name": "MotionAdapter", **adapter}), from_unet2d(host, adapter)

    assert config.class_name == "UNetMotionModel"
    built = {key: list(value) if isinstance(value, tuple) else value for key, value in unet.config.items() if not key.startswith("_")}
    assert config.values == built
    assert config.notes == (
        f"a MotionAdapter has no forward of its own: it was put into {host}, the bundled UNet with its block_out_channels",
    )
    assert config.ignored == ()
    if name in ("pia", "sdxl-beta"):
        record = traced(name)
        assert record.model.class_name == "UNetMotionModel"
        assert record.totals.params == sum(parameter.numel() for parameter in unet.parameters())
        assert record.run.notes == config.notes


def test_what_the_adapter_adds_is_all_along_the_frames() -> None:
    """SD 1.5's own attention stays as it is, and 21 motion modules of two layers each stand beside it."""
    counts, alone = traced("defaults").totals.attention, traced_once("sd15").totals.attention

    assert (counts.self_, counts.cross) == (alone.self_, alone.cross)
    assert counts.temporal == counts.total - alone.total == 2 * 21


def test_pia_takes_the_condition_as_channels_of_the_sample() -> None:
    """PIA's adapter brings a first convolution of 9 channels, 4 of the sample and 5 of the picture and its mask."""
    assert traced("pia").run.inputs[0].shape == (2, 9, 2, 8, 8)
    assert traced("defaults").run.inputs[0].shape == (2, 4, 2, 8, 8)


def test_the_defaults_are_those_of_the_class() -> None:
    """An adapter's config that says nothing gives what one that says every default gives."""
    parameters = list(inspect.signature(MotionAdapter.__init__).parameters.values())[1:]
    spelled_out = {parameter.name: parameter.default for parameter in parameters}

    assert resolve_config({"_class_name": "MotionAdapter"}).values == resolve_config({"_class_name": "MotionAdapter", **spelled_out}).values
    assert len(spelled_out) == 10


@pytest.mark.parametrize(
    ("adapter", "sentence"), MISFITS, ids=["-".join(adapter) + str(place) for place, (adapter, _) in enumerate(MISFITS)]
)
def test_what_cannot_be_put_into_the_unet_is_named(adapter: dict[str, Any], sentence: str) -> None:
    """One sentence in the adapter's own words; diffusers raises somewhere on the way, and does not with the change."""
    with pytest.raises(ConfigError) as refused:
        resolve_config({"_class_name": "MotionAdapter", **adapter})

    (mistake,) = refused.value.mistakes
    assert (mistake.what, mistake.keys) == (sentence, tuple(adapter))
    assert resolve_config({"_class_name": "MotionAdapter", **adapter, **mistake.change}).notes
    with pytest.raises((ValueError, RuntimeError, TypeError, IndexError)):
        from_unet2d("sd15", adapter)


@pytest.mark.parametrize("adapter", NOT_BUILT, ids=",".join)
def test_what_unet_motion_model_refuses_is_blamed_on_the_adapter(adapter: dict[str, Any]) -> None:
    """By trial, as in any config: the adapter's key, and a value that runs."""
    with pytest.raises(ConfigError, match="cannot build MotionAdapter: 1 config error") as refused:
        trace({"_class_name": "MotionAdapter", **adapter}, device="meta", cache=False)

    (mistake,) = refused.value.mistakes
    assert {*mistake.change} == {*adapter}


@pytest.mark.parametrize("channels", [[8, 8], [320, 640], "320", None])
def test_an_adapter_for_another_unet_is_told_which_it_could_be_for(channels: Any) -> None:
    """The bundled UNets that it could be for are named with their channels, and the way to trace it in its own."""
    with pytest.raises(ConfigError) as refused:
        trace({"_class_name": "MotionAdapter", "block_out_channels": channels}, device="meta")

    assert refused.value.problems == (
        f"block_out_channels is {channels!r}; the bundled UNets have [320, 640, 1280, 1280] (sd15) or [320, 640, 1280] (sdxl)",
    )
    assert refused.value.hint == "trace it in its UNet, in Python: unetinspect.trace(UNetMotionModel.from_unet2d(unet, adapter))"


@pytest.mark.parametrize("options", [{}, {"frames": 8}, {"res": 512}, {"tokens": 4}, {"cfg": True, "batch": 2}], ids=str)
def test_a_live_adapter_is_told_what_to_do(options: dict[str, Any]) -> None:
    """It cannot be run, whatever is asked of it, and the hint says what can."""
    with torch.device("meta"):
        adapter: Any = MotionAdapter(block_out_channels=(8, 8), motion_norm_num_groups=4, motion_num_attention_heads=2)

    with pytest.raises(ConfigError) as refused:
        trace(adapter, **options)
    assert refused.value.message == "a MotionAdapter has no forward of its own"
    assert refused.value.hint == "trace it in its UNet, in Python: unetinspect.trace(UNetMotionModel.from_unet2d(unet, adapter))"


def test_a_live_adapter_in_its_unet_is_traced() -> None:
    """What the hint says works."""
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 8),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=8,
            attention_head_dim=2,
            norm_num_groups=4,
        )
        adapter: Any = MotionAdapter(block_out_channels=(8, 8), motion_norm_num_groups=4, motion_num_attention_heads=2)
        live: Any = UNetMotionModel.from_unet2d(unet, adapter)
        record = trace(live, frames=3)

    assert record.output.shape == (2, 4, 3, 8, 8)
    assert record.totals.attention.temporal == 2 * (2 * 2 + 1 + 2 * 3)


def test_overrides_are_of_the_adapter() -> None:
    """`--set` takes the adapter's keys, and the positions that it sets are the most frames."""
    config = {"_class_name": "MotionAdapter"}

    assert resolve_config(config, {"motion_max_seq_length": 6}).values["motion_max_seq_length"] == 6
    with pytest.raises(UsageError, match="--frames 7 does not run on MotionAdapter"):
        trace(config, device="meta", latent=4, frames=7, overrides={"motion_max_seq_length": 6})
    with pytest.raises(UsageError, match="MotionAdapter has no config key layers_per_block"):
        trace(config, device="meta", overrides={"layers_per_block": 2})
