"""Video UNets: attention along the frames and attention in space, sizes, frames."""

from __future__ import annotations

from typing import Any

import diffusers
import msgspec
import pytest
import torch

from tests.kinds_video import KINDS
from tests.tiny import some, traced_once
from unetinspect import Trace, trace
from unetinspect.run.build import make_inputs
from unetinspect.unets import InputSpec

# Modules of diffusers that attend along the frames, with both of their attentions.
_ALONG_FRAMES = ("motion_modules", "temp_attentions", "transformer_in", "image_latents_temporal_encoder")
ONE_OF_EACH = ["unet3d", "i2vgen", "motion", "svd", "sparse-controlnet"]


def traced(name: str, **options: Any) -> Trace:
    """Trace a bundled UNet, or one of `KINDS`, on meta, once for each set of options."""
    return traced_once(KINDS.get(name, name), **options)


def named_kind(path: str, config: dict[str, Any]) -> str:
    """Return the kind of an attention layer by the names of diffusers' modules, which the package does not use."""
    if any(name in path for name in _ALONG_FRAMES):
        return "temporal"
    if path.endswith("attn2"):
        return "cross"
    only = config.get("only_cross_attention") or [False]
    if path.startswith("down_blocks") and only[int(path.split(".")[1]) % len(only)]:
        return "cross"
    return "temporal" if "temporal_transformer_blocks" in path else "self"


def wrong_kinds(record: Trace) -> list[tuple[str, str]]:
    """List the attention layers whose kind in the record is not that of their names."""
    config = record.model.config
    return [(layer.path, layer.kind) for layer in record.attentions if layer.kind != named_kind(layer.path, config)]


@pytest.mark.parametrize("kind", some(KINDS, 3))
def test_attention_along_the_frames_is_distinguished_from_attention_in_space(kind: str) -> None:
    """The record, which follows the data, agrees with the names of diffusers' modules."""
    record = traced(kind)

    assert wrong_kinds(record) == []
    assert {layer.kind for layer in record.attentions} >= {"self", "temporal"} or "only-cross" in kind


@pytest.mark.parametrize(
    ("kind", "frames", "latent", "batch"),
    [("unet3d", 4, "2x2", 4), ("motion", 2, "1x2", 1), ("svd", 6, "3x2", 1), ("unet3d", 2, "1x1", 2), ("motion", 7, "5x7", 1)],
)
def test_frames_and_pixels_that_are_as_many_are_not_mixed_up(kind: str, frames: int, latent: str, batch: int) -> None:
    """As many frames as pixels, or as the batch, or a single pixel: shapes alone are ambiguous."""
    assert wrong_kinds(traced(kind, frames=frames, latent=latent, batch=batch, cfg=False)) == []


@pytest.mark.parametrize(("kind", "batch"), [*zip(ONE_OF_EACH, (1, 2, 1, 2, 1), strict=True)])
def test_a_single_frame_is_still_attended_along(kind: str, batch: int) -> None:
    """One frame, and one video without guidance: every axis but the channels and the pixels has length 1."""
    assert wrong_kinds(traced(kind, frames=1, latent="4x6", batch=batch, cfg=False)) == []


@pytest.mark.parametrize(("kind", "latent"), [("unet3d", "1x4"), ("i2vgen", "2x2"), ("motion", "1x1"), ("sparse-controlnet", "1x1")])
def test_a_single_frame_of_a_single_pixel_is_attended_along(kind: str, latent: str) -> None:
    """Also where the picture shrinks to one row or one pixel; in Stable Video Diffusion that is ambiguous in the data itself."""
    assert wrong_kinds(traced(kind, frames=1, latent=latent, batch=1, cfg=False)) == []


@pytest.mark.parametrize("kind", some((kind for kind in KINDS if not kind.startswith("sparse")), 3))
def test_every_skip_holds_the_frames_of_all_videos_as_one_batch(kind: str) -> None:
    """(batch * frames) comes first, and the output has the sample's frames and size again."""
    record = traced(kind)
    sample = dict(zip(record.run.inputs[0].axes, record.run.inputs[0].shape or (), strict=True))

    assert {skip.shape[0] for skip in record.skips} == {sample["batch"] * sample["frames"]}
    assert [skip.changes for skip in record.skips] == [()] * len(record.skips)
    swapped = {**sample, "in_channels": record.model.config["out_channels"]}
    assert record.output.shape == tuple(swapped.values())


@pytest.mark.parametrize(
    ("kind", "latent"), [("unet3d", "1x3"), ("i2vgen", "5x7"), ("motion", "5x7"), ("svd", "9x4"), ("sparse-controlnet", "5x7")]
)
def test_odd_sizes_and_frames_are_the_same_on_the_cpu(kind: str, latent: str) -> None:
    """A real pass at a size that no level halves evenly differs from the weight-less one in the device's name alone."""
    on_meta, on_cpu = (trace(KINDS[kind], device=device, latent=latent, frames=2, tokens=3) for device in ("meta", "cpu"))
    fields = [msgspec.to_builtins(record) for record in (on_meta, on_cpu)]

    assert [field["run"].pop("device") for field in fields] == ["meta", "cpu"]
    assert fields[0] == fields[1]


@pytest.mark.parametrize("kind", ["unet3d", "i2vgen", "motion", "svd"])
def test_frames_change_what_they_must(kind: str) -> None:
    """Attention along the frames has as many queries, attention in space as many maps; parameters and layers stay."""
    few, many = traced(kind, frames=2, latent=4), traced(kind, frames=6, latent=4)

    assert (few.run.frames, few.run.frames_from) == (2, "--frames")
    assert [{layer.query_shape[2] for layer in record.attentions if layer.kind == "temporal"} for record in (few, many)] == [{2}, {6}]
    assert [3 * texts for texts in texts_in_space(few)] == texts_in_space(many)
    assert few.totals.params == many.totals.params
    assert [layer.path for layer in few.attentions] == [layer.path for layer in many.attentions]


def texts_in_space(record: Trace) -> list[int]:
    """List for how many pictures each attention in space reads the text."""
    return [layer.key_shape[0] for layer in record.attentions if layer.kind == "cross" and "temporal" not in layer.path]


@pytest.mark.parametrize("kind", ["motion", "sparse-controlnet"])
def test_text_is_given_for_every_frame_where_the_class_does_not_repeat_it(kind: str) -> None:
    """(batch * frames) texts run; one for each video does not run in diffusers."""
    record = traced(kind, frames=2, latent=4, tokens=5)
    given = {spec.name: InputSpec(spec.name, spec.shape) for spec in record.run.inputs}

    assert given["encoder_hidden_states"].shape == (2 * 2, 5, 24)
    assert _runs(KINDS[kind], list(given.values()))
    given["encoder_hidden_states"] = InputSpec("encoder_hidden_states", (2, 5, 24))
    assert not _runs(KINDS[kind], list(given.values()))


def _runs(config: dict[str, Any], specs: list[InputSpec]) -> bool:
    with torch.device("meta"), torch.no_grad():
        unet = getattr(diffusers, config["_class_name"]).from_config(config)
        try:
            unet(**make_inputs(specs, device=torch.device("meta"), dtype=torch.float32))
        except RuntimeError:
            return False
    return True
