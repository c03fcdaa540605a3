"""What a UNet takes from outside: its ports against diffusers' own forward and loader, and passes with something attached."""

from __future__ import annotations

from functools import cache
from typing import Any

import diffusers
import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from tests.tiny import CONDITION, VIDEO, condition, config_of, traced, traced_once
from unetinspect import Trace, trace
from unetinspect.errors import UsageError
from unetinspect.record import Port, Shape, Totals
from unetinspect.run.attach import find_fit, request_to_fit
from unetinspect.run.resolve import resolve_config
from unetinspect.unets.request import Request

DOWN, MID, FEATURES = "down_block_additional_residuals", "mid_block_additional_residual", "down_intrablock_additional_residuals"
FREEU = (1.2, 1.4, 0.9, 0.2)


def ports(record: Trace, kind: str) -> list[Port]:
    """Return the ports of one kind."""
    return [port for port in record.ports if port.kind == kind]


def shapes_of(kind: str) -> dict[str, Shape]:
    """Return the shapes of the ports of one kind in the small UNet."""
    return {port.name: port.shape for port in ports(traced("conditioned"), kind)}


@cache
def tiny() -> Any:
    """Build the small conditioned UNet with weights, so that what is added to it can be seen in what it returns."""
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel.from_config(CONDITION).eval()


def run(unet: Any, **more: Any) -> Tensor:
    """Run it on the CPU as the record of `CONDITION` says."""
    with torch.no_grad():
        return unet(torch.zeros(2, 4, 16, 16), torch.zeros(()), encoder_hidden_states=torch.zeros(2, 77, 24), **more).sample


@cache
def alone() -> Tensor:
    """Return the output of the small UNet without anything in its ports."""
    return run(tiny())


def with_residuals(shapes: dict[str, Shape]) -> Tensor:
    """Run it with ones in its ports."""
    arguments: dict[str, Any] = {}
    for name, shape in shapes.items():
        if name == MID:
            arguments[name] = torch.ones(shape)
        else:
            arguments.setdefault(name.partition(".")[0], []).append(torch.ones(shape))
    return run(tiny(), **arguments)


def one_channel_more(shape: Shape) -> Shape:
    """Return the shape of a tensor with one channel too many."""
    return (shape[0], shape[1] + 1, *shape[2:])


@pytest.mark.parametrize(("kind", "count"), [("controlnet", 5), ("t2i-adapter", 3)])
def test_diffusers_takes_tensors_of_the_ports_shapes_and_no_others(kind: str, count: int) -> None:
    """All together run and change the output; with one channel too many in any of them the pass fails.

    Only the last feature of a T2I-Adapter, for the mid block, is left out in silence if it has another shape.
    """
    shapes = shapes_of(kind)
    changed = with_residuals(shapes)

    assert len(shapes) == count
    assert not torch.equal(changed, alone())
    for name, shape in shapes.items():
        wrong = {**shapes, name: one_channel_more(shape)}
        if name == f"{FEATURES}.2":
            without = with_residuals({other: shape for other, shape in shapes.items() if other != name})
            assert torch.equal(with_residuals(wrong), without)
            assert not torch.equal(changed, without)
        else:
            with pytest.raises(RuntimeError, match="must match the size"):
                with_residuals(wrong)


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
    shapes = shapes_of("ip-adapter")
    unet = diffusers.UNet2DConditionModel.from_config(CONDITION).eval()
    unet._load_ip_adapter_weights([ip_adapter(shapes)], low_cpu_mem_usage=False)
    made: list[Shape] = []
    unet.encoder_hid_proj.image_projection_layers[0].register_forward_hook(lambda _, __, output: made.append(tuple(output.shape)))

    assert run(unet, added_cond_kwargs={"image_embeds": [torch.zeros(2, 1, 12)]}).shape == (2, 4, 16, 16)
    assert made == [shapes["image_tokens"]]


@pytest.mark.parametrize("change", ["shape", "key"])
def test_diffusers_refuses_an_ip_adapter_of_other_keys_or_shapes(change: str) -> None:
    """One weight of another width, or under the number of a self-attention layer."""
    shapes = shapes_of("ip-adapter")
    last, shape = shapes.popitem()
    shapes[last if change == "shape" else "0.to_v_ip"] = one_channel_more(shape) if change == "shape" else shape
    unet = diffusers.UNet2DConditionModel.from_config(CONDITION)

    with pytest.raises((RuntimeError, KeyError)):
        unet._load_ip_adapter_weights([ip_adapter(shapes)], low_cpu_mem_usage=False)


def test_the_ports_of_stable_diffusion_15() -> None:
    """At 512 px: conv_in, then two layers of each width, with a downsampler after all but the last; a feature for each down block.

    An IP-Adapter has two weights for each cross-attention layer, whose numbers count self-attention layers too.
    """
    record = traced("sd15", cfg=False)
    widths, side = (320, 640, 1280, 1280), 64
    expected = [(1, 320, side, side)]
    for level, width in enumerate(widths):
        expected += [(1, width, side >> level, side >> level)] * 2
        expected += [(1, width, side >> level + 1, side >> level + 1)] * (level < 3)
    residuals = ports(record, "controlnet")
    tokens, *weights = ports(record, "ip-adapter")

    assert [port.name for port in residuals] == [*(f"{DOWN}.{place}" for place in range(12)), MID]
    assert [port.shape for port in residuals] == [*expected, (1, 1280, 8, 8)]
    assert [port.joins for port in residuals] == [*(skip.source for skip in sorted(record.skips, key=lambda skip: skip.index)), "mid_block"]
    assert [port.shape[1:3] for port in ports(record, "t2i-adapter")][:4] == [(width, 64 >> level) for level, width in enumerate(widths)]
    assert tokens.shape == (1, 4, 768)
    assert [port.name for port in weights] == [f"{2 * layer + 1}.{to}" for layer in range(16) for to in ("to_k_ip", "to_v_ip")]
    assert {port.shape for port in weights} == {(width, 768) for width in widths}


@pytest.mark.parametrize("attached", ["controlnet-sd15-canny", {"_class_name": "T2IAdapter"}], ids=["controlnet", "t2i-adapter"])
def test_residuals_are_seen_in_the_skips_that_they_are_added_to(attached: Any) -> None:
    """A ControlNet adds one to each of 12 skips; a T2I-Adapter to the last skip of each block before it is halved, once in place."""
    before, record = traced("sd15", latent=16), trace("sd15", device="meta", latent=16, plug_in=attached)
    added = {skip.index: [(change.kind, change.with_) for change in skip.changes] for skip in record.skips}
    ops = {skip.index: change.ops for skip in record.skips for change in skip.changes}

    if isinstance(attached, dict):
        places, name = {2: 0, 5: 1, 8: 2, 11: 3}, FEATURES
        assert ops == {2: ("add",), 5: ("add",), 8: ("add",), 11: ("add_",)}
    else:
        places, name = {place: place for place in range(12)}, DOWN
    assert added == {place: [("sum", (f"{name}.{places[place]}",))] if place in places else [] for place in range(12)}
    assert [skip.source for skip in record.skips] == [skip.source for skip in before.skips]
    assert _but_for_sums(record) == _but_for_sums(before)


def test_freeu_filters_the_skips_of_the_first_two_up_blocks_alone() -> None:
    """Their hidden states are scaled in place; channels, parameters and layers stay what they were."""
    before, record = traced("sd15", latent=16), traced("sd15", latent=16, freeu=FREEU)
    changed = {skip.target_stage: [change.kind for change in skip.changes] for skip in record.skips}

    assert changed == {"up_blocks.0": ["filter"], "up_blocks.1": ["filter"], "up_blocks.2": [], "up_blocks.3": []}
    channels = [[(skip.source, skip.hidden_channels, skip.conv_channels) for skip in each.skips] for each in (record, before)]
    assert channels[0] == channels[1]
    assert _but_for_sums(record) == _but_for_sums(before)


def test_an_error_names_the_first_tensor_that_does_not_fit() -> None:
    """An SDXL ControlNet's nine residuals have the shapes of the first nine of SD 1.5; an adapter's features are too narrow."""
    with pytest.raises(UsageError) as raised:
        trace("sd15", device="meta", latent=16, plug_in="controlnet-canny-sdxl")
    assert str(raised.value) == (
        f"controlnet-canny-sdxl does not fit sd15: controlnet-canny-sdxl returns no {DOWN}.9; the UNet expects (2, 1280, 2, 2)"
    )
    with pytest.raises(UsageError, match=rf"{FEATURES}.0 is \(2, 8, 32, 32\); the UNet expects \(2, 32, 16, 16\)"):
        trace(CONDITION, device="meta", plug_in=config_of("t2i-adapter"))


def fits(unet: dict[str, Any], attached: dict[str, Any]) -> dict[str, bool]:
    """Say of each tensor whether it fits."""
    record = traced_once(unet, cfg=False)
    request = request_to_fit(record.run, Request(device="meta"), resolve_config(attached))
    given = traced_once(attached, batch=request.batch, latent=request.latent, frames=request.frames, cfg=False)
    return {row.name: row.fits for row in find_fit(record, given).rows}


def test_pooled_residuals_are_spread_out_over_the_picture() -> None:
    """With global_pool_conditions each residual is (batch, channels, 1, 1), which diffusers adds to every pixel."""
    pooled = {name: (*shape[:2], 1, 1) for name, shape in shapes_of("controlnet").items()}

    assert not torch.equal(with_residuals(pooled), alone())
    assert all(fits(CONDITION, config_of("controlnet", global_pool_conditions=True)).values())
    wider = fits(CONDITION, config_of("controlnet", global_pool_conditions=True, block_out_channels=[32, 96]))
    assert [name for name, fit in wider.items() if not fit] == [f"{DOWN}.3", MID]


def test_text_fits_before_the_controlnets_own_projection_and_after_it() -> None:
    """Kolors: UNet and ControlNet receive one text of 12, and each projects it to the 24 that its blocks read."""
    projecting = condition(encoder_hid_dim=12)

    assert fits(projecting, config_of("controlnet", encoder_hid_dim=12, encoder_hid_dim_type="text_proj"))["encoder_hidden_states"]
    assert not fits(projecting, config_of("controlnet"))["encoder_hidden_states"]
    assert fits(CONDITION, config_of("controlnet"))["encoder_hidden_states"]
    assert not fits(CONDITION, config_of("controlnet", cross_attention_dim=12))["encoder_hidden_states"]


def _but_for_sums(record: Trace) -> Totals:
    """Return the totals without what adding a tensor, or filtering one, changes: operations that have no formula, and the peak."""
    peaks = {name: None for name in Totals.__struct_fields__ if "activation" in name or name == "inference_bytes"}
    return replace(record.totals, uncounted=(), **peaks)


@pytest.mark.parametrize(("kind", "frames"), [("sparse-controlnet", 2), ("sparse-controlnet-pooled", 2), ("sparse-controlnet", 1)])
def test_a_sparse_controlnet_adds_a_residual_for_every_frame(kind: str, frames: int) -> None:
    """The UNet of a video takes (batch * frames) of them, and its frames are followed through the sums."""
    before, record = traced("motion", frames=frames), trace(VIDEO["motion"], device="meta", frames=frames, plug_in=VIDEO[kind])

    assert [skip.changes[0].with_ for skip in record.skips] == [(f"{DOWN}.{skip.index}",) for skip in before.skips]
    assert _but_for_sums(record) == _but_for_sums(before)


def test_python_attaches_whatever_is_a_model() -> None:
    """A config, a module, a record: the same pass each time, and the same for a live UNet."""
    module = diffusers.ControlNetModel.from_config(config_of("controlnet"))
    given: list[Any] = [config_of("controlnet"), module, traced("controlnet")]
    records = [trace(CONDITION, device="meta", plug_in=attached) for attached in given]
    live = trace(tiny(), device="meta", plug_in=config_of("controlnet"))

    assert records[0] == records[1] == records[2]
    assert live.skips == records[0].skips
    assert [change.kind for skip in live.skips for change in skip.changes] == ["sum"] * 4
    with pytest.raises(UsageError, match="a model cannot be a int"):
        trace(CONDITION, device="meta", plug_in=3)  # type: ignore[arg-type]
