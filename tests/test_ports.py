"""What a UNet takes from outside: its ports against diffusers' own forward and loader, and the UNet with something in them."""

from __future__ import annotations

from functools import cache
from typing import Any

import diffusers
import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from tests.kinds_plugs import CONTROLNET, adapter, controlnet
from tests.kinds_video import KINDS as VIDEO
from tests.kinds_video import MOTION
from tests.tiny import CONDITION, condition, traced
from unetinspect import Trace, trace
from unetinspect.errors import UsageError
from unetinspect.record import Port, Shape, Totals
from unetinspect.run.fit import find_fit, to_fit
from unetinspect.run.resolve import resolve_config
from unetinspect.unets.request import Request

SD15_ADAPTER = {"_class_name": "T2IAdapter"}
DOWN, MID = "down_block_additional_residuals", "mid_block_additional_residual"


def ports(record: Trace, kind: str) -> list[Port]:
    """Return the ports of one kind."""
    return [port for port in record.ports if port.kind == kind]


@cache
def tiny() -> diffusers.UNet2DConditionModel:
    """Build the small conditioned UNet with weights, so that what is added to it can be seen in what it returns."""
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel.from_config(CONDITION).eval()


def run(unet: Any, **more: Any) -> Tensor:
    """Run it on the CPU as the record of `CONDITION` says."""
    with torch.no_grad():
        return unet(torch.zeros(2, 4, 16, 16), torch.zeros(()), encoder_hidden_states=torch.zeros(2, 77, 24), **more).sample


def with_residuals(shapes: dict[str, Shape]) -> Tensor:
    """Run it with ones in its ports."""
    given = {name: torch.ones(shape) for name, shape in shapes.items()}
    lists = {name.partition(".")[0] for name in given if "." in name}
    arguments = {name: [tensor for port, tensor in given.items() if port.startswith(f"{name}.")] for name in lists}
    return run(tiny(), **arguments, **{name: tensor for name, tensor in given.items() if "." not in name})


def one_channel_more(shape: Shape) -> Shape:
    """Return the shape of a tensor with one channel too many."""
    return (shape[0], shape[1] + 1, *shape[2:])


@pytest.mark.parametrize("kind", ["controlnet", "t2i-adapter"])
def test_diffusers_takes_tensors_of_the_ports_shapes_and_no_others(kind: str) -> None:
    """All together run and change the output; with one channel too many in any of them the pass fails."""
    shapes = {port.name: port.shape for port in ports(traced("conditioned"), kind)}

    assert len(shapes) == {"controlnet": 5, "t2i-adapter": 3}[kind]
    assert not torch.equal(with_residuals(shapes), run(tiny()))
    for name, shape in shapes.items():
        if name == "down_intrablock_additional_residuals.2":
            continue
        with pytest.raises(RuntimeError, match="must match the size"):
            with_residuals({**shapes, name: one_channel_more(shape)})


def test_the_feature_that_is_left_over_goes_to_the_mid_block_if_it_has_its_shape() -> None:
    """diffusers passes over one of another shape, without a word."""
    shapes = {port.name: port.shape for port in ports(traced("conditioned"), "t2i-adapter")}
    last = "down_intrablock_additional_residuals.2"
    without = with_residuals({name: shape for name, shape in shapes.items() if name != last})

    assert not torch.equal(with_residuals(shapes), without)
    assert torch.equal(with_residuals({**shapes, last: one_channel_more(shapes[last])}), without)


def ip_adapter(shapes: dict[str, Shape]) -> dict[str, Any]:
    """Return an IP-Adapter's state dict: weights of these shapes, and a projection that makes the image's tokens."""
    _, tokens, width = shapes["image_tokens"]
    projection = {"proj.weight": (tokens * width, 12), "proj.bias": (tokens * width,), "norm.weight": (width,), "norm.bias": (width,)}
    return {
        "image_proj": {name: torch.zeros(shape) for name, shape in projection.items()},
        "ip_adapter": {f"{name}.weight": torch.zeros(shape) for name, shape in shapes.items() if name != "image_tokens"},
    }


def test_diffusers_loads_an_ip_adapter_of_the_ports_keys_and_shapes_and_runs() -> None:
    """Its loader takes the state dict as it is, and its projection makes the tokens of the port."""
    shapes = {port.name: port.shape for port in ports(traced("conditioned"), "ip-adapter")}
    unet = diffusers.UNet2DConditionModel.from_config(CONDITION).eval()
    unet._load_ip_adapter_weights([ip_adapter(shapes)], low_cpu_mem_usage=False)
    made: list[Shape] = []
    unet.encoder_hid_proj.image_projection_layers[0].register_forward_hook(lambda _, __, output: made.append(tuple(output.shape)))

    assert run(unet, added_cond_kwargs={"image_embeds": [torch.zeros(2, 1, 12)]}).shape == (2, 4, 16, 16)
    assert made == [shapes["image_tokens"]]


@pytest.mark.parametrize("change", ["shape", "key"])
def test_diffusers_refuses_an_ip_adapter_of_other_keys_or_shapes(change: str) -> None:
    """One weight of another width, or under the number of a self-attention layer."""
    shapes = {port.name: port.shape for port in ports(traced("conditioned"), "ip-adapter")}
    last = list(shapes)[-1]
    shape = shapes.pop(last)
    shapes[last if change == "shape" else "0.to_v_ip"] = one_channel_more(shape) if change == "shape" else shape
    unet = diffusers.UNet2DConditionModel.from_config(CONDITION)

    with pytest.raises((RuntimeError, KeyError)):
        unet._load_ip_adapter_weights([ip_adapter(shapes)], low_cpu_mem_usage=False)


def test_the_ports_of_stable_diffusion_15() -> None:
    """At 512 px: conv_in, then two layers of each width, with a halving behind all but the last; a feature for each down block."""
    record = traced("sd15", cfg=False)
    widths, side = (320, 640, 1280, 1280), 64
    expected = [(1, 320, side, side)]
    for level, width in enumerate(widths):
        expected += [(1, width, side >> level, side >> level)] * 2
        expected += [(1, width, side >> level + 1, side >> level + 1)] * (level < 3)
    taken = ports(record, "controlnet")

    assert [port.name for port in taken] == [*(f"{DOWN}.{place}" for place in range(12)), MID]
    assert [port.shape for port in taken] == [*expected, (1, 1280, 8, 8)]
    assert [port.joins for port in taken] == [
        *(skip.source for skip in sorted(record.skips, key=lambda skip: skip.index)),
        "mid_block",
    ]
    assert [port.shape for port in ports(record, "t2i-adapter")][:4] == [
        (1, width, 64 >> level, 64 >> level) for level, width in enumerate(widths)
    ]


@pytest.mark.parametrize(("name", "layers", "text"), [("sd15", 16, 768), ("sdxl", 70, 2048)])
def test_the_keys_of_an_ip_adapter_are_the_odd_numbers(name: str, layers: int, text: int) -> None:
    """Two weights for each cross-attention layer, whose number counts self-attention layers too."""
    tokens, *weights = ports(traced(name, cfg=False), "ip-adapter")

    assert tokens.shape == (1, 4, text)
    assert [port.name for port in weights] == [f"{2 * layer + 1}.{to}" for layer in range(layers) for to in ("to_k_ip", "to_v_ip")]
    assert {port.shape for port in weights} == {(width, text) for width in ((640, 1280) if name == "sdxl" else (320, 640, 1280))}


def test_the_ports_of_stable_diffusion_xl() -> None:
    """9 residuals and that of the mid block, at 1024 px."""
    taken = ports(traced("sdxl", cfg=False), "controlnet")
    sides = [(320, 128)] * 3 + [(320, 64)] + [(640, 64)] * 2 + [(640, 32)] + [(1280, 32)] * 2

    assert [port.shape[1:3] for port in taken] == [*sides, (1280, 32)]
    assert [port.name for port in taken] == [*(f"{DOWN}.{place}" for place in range(9)), MID]


@pytest.mark.parametrize("plug_in", ["controlnet-sd15-canny", "t2i-adapter"])
def test_residuals_are_seen_in_the_skips_that_they_are_added_to(plug_in: str) -> None:
    """A ControlNet adds one to each of 12 skips; a T2I-Adapter to the last skip of each block before it is halved, once in place."""
    config: Any = SD15_ADAPTER if plug_in == "t2i-adapter" else plug_in
    alone, record = traced("sd15", latent=16), trace("sd15", device="meta", latent=16, plug_in=config)
    added = {skip.index: [(change.kind, change.with_) for change in skip.changes] for skip in record.skips}
    ops = {skip.index: change.ops for skip in record.skips for change in skip.changes}

    if plug_in == "t2i-adapter":
        features = {2: 0, 5: 1, 8: 2, 11: 3}
        assert ops == {2: ("add",), 5: ("add",), 8: ("add",), 11: ("add_",)}
        name = "down_intrablock_additional_residuals"
    else:
        features, name = {place: place for place in range(12)}, DOWN
    assert added == {place: [("sum", (f"{name}.{features[place]}",))] if place in features else [] for place in range(12)}
    assert [skip.source for skip in record.skips] == [skip.source for skip in alone.skips]
    assert _but_for_sums(record) == _but_for_sums(alone)


def test_freeu_filters_the_skips_of_the_first_two_up_blocks_alone() -> None:
    """Their hidden states are scaled in place; channels, parameters and layers stay what they were."""
    alone, record = traced("sd15", latent=16), trace("sd15", device="meta", latent=16, freeu=(1.2, 1.4, 0.9, 0.2))
    changed = {skip.target_stage: [change.kind for change in skip.changes] for skip in record.skips}

    assert changed == {"up_blocks.0": ["filter"], "up_blocks.1": ["filter"], "up_blocks.2": [], "up_blocks.3": []}
    channels = [[(skip.source, skip.hidden_channels, skip.conv_channels) for skip in each.skips] for each in (record, alone)]
    assert channels[0] == channels[1]
    assert _but_for_sums(record) == _but_for_sums(alone)


def test_an_sdxl_controlnet_does_not_fit_stable_diffusion_15_and_says_where() -> None:
    """Its nine residuals have the shapes of the first nine; the tenth is what is missing."""
    with pytest.raises(UsageError) as raised:
        trace("sd15", device="meta", latent=16, plug_in="controlnet-canny-sdxl")

    assert str(raised.value) == (
        f"controlnet-canny-sdxl does not fit sd15: controlnet-canny-sdxl gives no {DOWN}.9, and the UNet takes (2, 1280, 2, 2)"
    )


def fits(unet: dict[str, Any], plugged: dict[str, Any]) -> dict[str, bool]:
    """Say of each tensor whether it fits."""
    record = trace(unet, device="meta", cfg=False)
    request = to_fit(record.run, Request(device="meta"), plugged["_class_name"], resolve_config(plugged).values)
    given = trace(plugged, device="meta", batch=request.batch, latent=request.latent, frames=request.frames, cfg=False)
    return {row.name: row.fits for row in find_fit(record, given).rows}


def test_pooled_residuals_are_spread_out_over_the_picture() -> None:
    """With global_pool_conditions each residual is (batch, channels, 1, 1), which diffusers adds to every pixel."""
    pooled = {port.name: (*port.shape[:2], 1, 1) for port in ports(traced("conditioned"), "controlnet")}

    assert not torch.equal(with_residuals(pooled), run(tiny()))
    assert all(fits(CONDITION, controlnet(global_pool_conditions=True)).values())
    wider = fits(CONDITION, controlnet(global_pool_conditions=True, block_out_channels=[32, 96]))
    assert [name for name, fit in wider.items() if not fit] == [f"{DOWN}.3", MID]


def test_text_fits_before_the_controlnets_own_projection_and_behind_it() -> None:
    """Kolors: UNet and ControlNet are given one text of 12, and each projects it to the 24 that its blocks read."""
    projecting = condition(encoder_hid_dim=12)

    assert fits(projecting, controlnet(encoder_hid_dim=12, encoder_hid_dim_type="text_proj"))["encoder_hidden_states"]
    assert not fits(projecting, CONTROLNET)["encoder_hidden_states"]
    assert fits(CONDITION, CONTROLNET)["encoder_hidden_states"]
    assert not fits(CONDITION, controlnet(cross_attention_dim=12))["encoder_hidden_states"]


def _but_for_sums(record: Trace) -> Totals:
    """Return the totals without what adding a tensor, or filtering one, changes: operations that have no formula, and the peak."""
    peaks = {name: None for name in Totals.__struct_fields__ if "activation" in name}
    return replace(record.totals, uncounted=(), **peaks)


@pytest.mark.parametrize("kind", ["sparse-controlnet", "sparse-controlnet-pooled"])
@pytest.mark.parametrize("frames", [1, 2])
def test_a_sparse_controlnet_adds_a_residual_for_every_frame(kind: str, frames: int) -> None:
    """The UNet of a video takes (batch * frames) of them, and follows its frames through the sums."""
    alone, record = (trace(MOTION, device="meta", frames=frames, plug_in=plug_in) for plug_in in (None, VIDEO[kind]))

    assert [skip.changes[0].with_ for skip in record.skips] == [(f"{DOWN}.{skip.index}",) for skip in alone.skips]
    assert _but_for_sums(record) == _but_for_sums(alone)


def test_an_adapter_of_another_width_does_not_fit() -> None:
    """A T2I-Adapter whose features are narrower is refused by the first of them."""
    with pytest.raises(
        UsageError, match=r"down_intrablock_additional_residuals.0 is \(2, 8, 32, 32\), and the UNet takes \(2, 32, 16, 16\)"
    ):
        trace(CONDITION, device="meta", plug_in=adapter())
