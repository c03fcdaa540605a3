"""Video UNets: attention along the frames and attention in space, frames."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tiny import VIDEO, some, traced
from unetinspect import Trace

# Modules of diffusers that attend along the frames, with both of their attentions.
_ALONG_FRAMES = ("motion_modules", "temp_attentions", "transformer_in", "image_latents_temporal_encoder")


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


@pytest.mark.parametrize(
    ("kind", "frames", "latent", "batch"),
    [
        *((kind, None, None, 1) for kind in some(VIDEO, 3)),
        # As many frames as pixels, or as the batch, or a single pixel: shapes alone are ambiguous.
        *(("unet3d", 4, "2x2", 4), ("motion", 2, "1x2", 1), ("svd", 6, "3x2", 1), ("unet3d", 2, "1x1", 2), ("motion", 7, "5x7", 1)),
        # One frame, and one video without guidance: every axis but the channels and the pixels has length 1.
        *(("unet3d", 1, "4x6", 1), ("i2vgen", 1, "4x6", 2), ("motion", 1, "4x6", 1), ("svd", 1, "4x6", 2)),
        ("sparse-controlnet", 1, "4x6", 1),
        # Also where the picture shrinks to one row or one pixel; in Stable Video Diffusion that is ambiguous in the data itself.
        *(("unet3d", 1, "1x4", 1), ("i2vgen", 1, "2x2", 1), ("motion", 1, "1x1", 1), ("sparse-controlnet", 1, "1x1", 1)),
    ],
)
def test_attention_along_the_frames_is_distinguished_from_attention_in_space(
    kind: str, frames: int | None, latent: str | None, batch: int
) -> None:
    """The record, which follows the data, agrees with the names of diffusers' modules."""
    record = traced(kind) if frames is None else traced(kind, frames=frames, latent=latent, batch=batch, cfg=False)

    assert [layer.kind for layer in record.attentions] == [named_kind(layer.path, record.model.config) for layer in record.attentions]
    assert {layer.kind for layer in record.attentions} >= {"self", "temporal"} or "only-cross" in kind


@pytest.mark.parametrize("kind", some((kind for kind in VIDEO if not kind.startswith("sparse")), 3))
def test_every_skip_holds_the_frames_of_all_videos_as_one_batch(kind: str) -> None:
    """(batch * frames) comes first, and the output has the sample's frames and size again."""
    record = traced(kind)
    sample = dict(zip(record.run.inputs[0].axes, record.run.inputs[0].shape or (), strict=True))

    assert {skip.shape[0] for skip in record.skips} == {sample["batch"] * sample["frames"]}
    assert [skip.changes for skip in record.skips] == [()] * len(record.skips)
    swapped = {**sample, "in_channels": record.model.config["out_channels"]}
    assert record.output.shape == tuple(swapped.values())


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
    """(batch * frames) texts run: see the pass by hand in test_against_torch.py."""
    given = {spec.name: spec.shape for spec in traced(kind, frames=2, latent=4, tokens=5).run.inputs}

    assert given["encoder_hidden_states"] == (2 * 2, 5, 24)
