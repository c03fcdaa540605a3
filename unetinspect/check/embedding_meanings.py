"""What the keys of the time embedding, and of what is added to it, mean in this UNet."""

from __future__ import annotations

from collections.abc import Callable

from unetinspect.check.heads import Meanings
from unetinspect.unets.base import Config, is_count, is_list
from unetinspect.unets.unet_2d_condition import text_time

_PROJECTION = "projection_class_embeddings_input_dim"


def _added(class_name: str, values: Config) -> Meanings:
    """Take the projection's input apart: SDXL's pooled text and size ids, Stable Video Diffusion's ids."""
    total, width = values.get(_PROJECTION), values.get("addition_time_embed_dim")
    if not is_count(total) or not is_count(width):
        return
    if class_name == "UNetSpatioTemporalConditionModel":
        yield (
            _PROJECTION,
            f"{total // width} x {width} of added_time_ids: frame rate, motion and noise, each in addition_time_embed_dim channels",
        )
    elif values.get("addition_embed_type") == "text_time" and total >= width:
        pooled, ids = (spec.shape[1] for spec in text_time(values, 1) if spec.shape)
        parts = f"{pooled} of text_embeds, the pooled text, and {ids} x {width} of time_ids"
        yield _PROJECTION, f"what added_cond_kwargs make up together: {total} = {parts}"


def _classes(class_name: str, values: Config) -> Meanings:
    """Say what class_labels have to be."""
    kind, classes = values.get("class_embed_type"), values.get("num_class_embeds")
    if kind is None and is_count(classes):
        yield "num_class_embeds", f"class_labels are needed: (batch,) whole numbers below {classes}"
    if kind == "projection" and is_count(values.get(_PROJECTION)):
        yield _PROJECTION, f"the width of class_labels: (batch, {values[_PROJECTION]})"
    if kind == "timestep":
        yield "class_embed_type", "class_labels are embedded as timesteps are: a number for each image"
    if kind == "identity":
        yield "class_embed_type", "class_labels are added to the time embedding as they come, and must be as wide"


def _time(class_name: str, values: Config) -> Meanings:
    width, channels = values.get("time_cond_proj_dim"), values.get("block_out_channels")
    if is_count(width):
        yield "time_cond_proj_dim", f"of a distilled model (LCM): timestep_cond, (batch, {width}), carries the guidance scale"
    given = values.get("time_embedding_dim")
    if (
        is_count(given)
        and class_name in ("UNet2DConditionModel", "UNet2DModel")
        and is_list(channels)
        and channels
        and is_count(channels[0])
    ):
        yield "time_embedding_dim", f"the width of the time embedding, {4 * channels[0]} where it is null: 4 x block_out_channels[0]"


EMBEDDINGS: tuple[Callable[[str, Config], Meanings], ...] = (_added, _classes, _time)
