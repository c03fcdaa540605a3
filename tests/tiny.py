"""Small UNet configs, one for each thing that a config can ask for, and records that are traced once."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from msgspec import Struct
from msgspec.structs import replace

from unetinspect import Trace, trace
from unetinspect.run.cache import RecordCache, code_state, record_key
from unetinspect.run.resolve import ResolvedConfig
from unetinspect.source.loaded import LoadedModel
from unetinspect.unets.request import Request

Config = dict[str, Any]

CONDITION: Config = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
PLAIN: Config = {
    "_class_name": "UNet2DModel",
    "sample_size": 16,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [16, 32],
    "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": 8,
    "norm_num_groups": 8,
}


def condition(**keys: Any) -> Config:
    """Return the small conditioned config with some keys replaced."""
    return {**CONDITION, **keys}


def plain(**keys: Any) -> Config:
    """Return the small unconditional config with some keys replaced."""
    return {**PLAIN, **keys}


def _simple(**keys: Any) -> Config:
    return condition(
        down_block_types=["SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"],
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=["ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"],
        attention_head_dim=8,
        **keys,
    )


KINDS: dict[str, Config] = {
    "conditioned": CONDITION,
    "plain": PLAIN,
    "simple-cross-attention": _simple(),
    "only-cross-attention": condition(only_cross_attention=[True, False]),
    "k-blocks": condition(
        down_block_types=["KDownBlock2D", "KCrossAttnDownBlock2D", "KCrossAttnDownBlock2D", "KCrossAttnDownBlock2D"],
        up_block_types=["KCrossAttnUpBlock2D", "KCrossAttnUpBlock2D", "KCrossAttnUpBlock2D", "KUpBlock2D"],
        mid_block_type=None,
        norm_num_groups=None,
        layers_per_block=2,
        block_out_channels=[32, 32, 64, 64],
        attention_head_dim=8,
        resnet_time_scale_shift="scale_shift",
        time_embedding_type="fourier",
        time_cond_proj_dim=160,
        conv_in_kernel=1,
        conv_out_kernel=1,
        act_fn="gelu",
        timestep_post_act="gelu",
    ),
    "no-mid-block": condition(mid_block_type=None),
    "one-resnet-mid-block": condition(mid_block_type="UNetMidBlock2D"),
    "per-block-lists": condition(layers_per_block=[1, 2], attention_head_dim=[2, 4], cross_attention_dim=[24, 24]),
    "transformer-depths": condition(transformer_layers_per_block=[3, 2]),
    "nested-transformer-depths": condition(
        layers_per_block=2,
        transformer_layers_per_block=[[2, 3], 1],
        reverse_transformer_layers_per_block=[1, [3, 2, 1]],
    ),
    "own-hidden-states": condition(cross_attention_dim=[32, 64]),
    "linear-projection": condition(use_linear_projection=True),
    "text": condition(addition_embed_type="text", addition_embed_type_num_heads=2),
    "text-time": condition(addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=80),
    "text-image": condition(addition_embed_type="text_image", encoder_hid_dim_type="text_image_proj", encoder_hid_dim=12),
    "image": condition(addition_embed_type="image", encoder_hid_dim_type="image_proj", encoder_hid_dim=12),
    "image-hint": condition(addition_embed_type="image_hint", encoder_hid_dim_type="image_proj", encoder_hid_dim=12, in_channels=8),
    "text-time-and-image": condition(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64,
        encoder_hid_dim_type="image_proj",
        encoder_hid_dim=20,
    ),
    "text-time-and-text-image": condition(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64,
        encoder_hid_dim_type="text_image_proj",
        encoder_hid_dim=20,
    ),
    "text-and-image": condition(
        addition_embed_type="text", addition_embed_type_num_heads=4, encoder_hid_dim_type="image_proj", encoder_hid_dim=20
    ),
    "cross-attention-on-the-way-up-alone": condition(
        down_block_types=["DownBlock2D", "DownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        mid_block_type=None,
        cross_attention_dim=[None, 24],
    ),
    "own-hidden-states-on-the-way-up": condition(
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"], mid_block_type=None, cross_attention_dim=[32, 64]
    ),
    "no-cross-attention": condition(
        down_block_types=["DownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "UpBlock2D"],
        mid_block_type=None,
        cross_attention_dim=[None, None],
    ),
    "depths-beyond-the-blocks": condition(transformer_layers_per_block=[1, 1, 2]),
    "dual-without-transformers": _simple(dual_cross_attention=True),
    "no-layers": condition(block_out_channels=[32, 32], layers_per_block=0),
    "k-blocks-with-prefix": condition(
        down_block_types=["UNetResKDownBlock2D", "UNetResKDownBlock2D"],
        up_block_types=["UNetResKUpBlock2D", "UNetResKUpBlock2D"],
        mid_block_type=None,
        block_out_channels=[32, 48],
        norm_num_groups=32,
    ),
    "text-proj": condition(encoder_hid_dim_type="text_proj", encoder_hid_dim=12),
    "text-proj-by-default": condition(encoder_hid_dim=12),
    "classes": condition(num_class_embeds=10),
    "class-timestep": condition(class_embed_type="timestep"),
    "class-identity": condition(class_embed_type="identity"),
    "class-identity-fourier": condition(class_embed_type="identity", time_embedding_type="fourier"),
    "class-projection": condition(class_embed_type="projection", projection_class_embeddings_input_dim=12),
    "class-simple-projection": condition(class_embed_type="simple_projection", projection_class_embeddings_input_dim=12),
    "class-concat": condition(class_embed_type="projection", projection_class_embeddings_input_dim=12, class_embeddings_concat=True),
    "timestep-cond": condition(time_cond_proj_dim=12),
    "gligen": condition(attention_type="gated"),
    "gligen-text-image": condition(attention_type="gated-text-image"),
    "dual-sizes": condition(sample_size=[8, 16]),
    "skip-blocks": plain(
        down_block_types=["SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"],
        up_block_types=["SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D"],
        block_out_channels=[32, 64, 64],
        layers_per_block=1,
        norm_num_groups=None,
        time_embedding_type="fourier",
        mid_block_scale_factor=1.414,
    ),
    "plain-no-mid-block": plain(mid_block_type=None),
    "plain-mid-without-attention": plain(add_attention=False),
    "plain-resnet-sampling": plain(
        down_block_types=["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
        up_block_types=["AttnUpBlock2D", "ResnetUpsampleBlock2D"],
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
    ),
    "plain-classes": plain(num_class_embeds=10),
    "plain-class-timestep": plain(class_embed_type="timestep"),
    "plain-class-identity": plain(class_embed_type="identity"),
    "plain-learned-time": plain(time_embedding_type="learned", num_train_timesteps=1000),
    "plain-one-block": plain(block_out_channels=[16], down_block_types=["DownBlock2D"], up_block_types=["UpBlock2D"]),
    "plain-old-prefix": plain(down_block_types=["UNetResDownBlock2D", "UNetResAttnDownBlock2D"]),
}


# The folder where a run of the tests keeps the records that its workers share; `conftest.py` makes it.
SHARED_RECORDS = "UNETINSPECT_TEST_RECORDS"
_known: dict[str, Trace] = {}


class SharedRecords(RecordCache):
    """The records of a run of the tests. Each is held against its JSON form, so one that is read is the one that was traced."""

    def __init__(self) -> None:
        super().__init__(Path(os.environ[SHARED_RECORDS]), limit=2**40)

    def put(self, key: str, record: Struct) -> None:
        assert not isinstance(record, Trace) or Trace.from_json(record.to_json()) == record
        super().put(key, record)


def traced(name: str, **options: Any) -> Trace:
    """Trace a bundled model, or one of `KINDS`, on meta, once for each set of options."""
    return traced_once(KINDS.get(name, name), **options)


def traced_once(model: str | Config, **options: Any) -> Trace:
    """Trace a model on meta, once for each set of options in a whole run: what one worker traced, or `cli`, the others read."""
    options = {"device": "meta", **options}
    key = repr((model, sorted(options.items())))
    if key not in _known:
        _known[key] = _shared_or_traced(model, options) if SHARED_RECORDS in os.environ else trace(model, **options)
    return _known[key]


def _shared_or_traced(model: str | Config, options: dict[str, Any]) -> Trace:
    with (
        mock.patch("unetinspect.api.open_cache", lambda *, wanted: SharedRecords() if wanted else None),
        mock.patch("unetinspect.run.cache.code_state", code_of_this_run),
    ):
        return trace(model, **options)


# No code changes during a run, whatever a test pretends: it is looked through once.
code_of_this_run = cache(code_state)


def key_of_this_run(model: LoadedModel, config: ResolvedConfig, request: Request, *arguments: Any, **more: Any) -> str | None:
    """Return the key of a record: without a GPU, "auto" is meta, and its record the same."""
    if request.device == "auto" and not torch.cuda.is_available():
        request = replace(request, device="meta")
    return record_key(model, config, request, *arguments, **more)
