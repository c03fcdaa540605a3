"""That a config key which is said to have no effect has none, and that one which has an effect is not said to have none."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest

from tests import kinds_other, kinds_plugs, kinds_video, tiny
from tests.config_effects import Seen, differs, seen
from unetinspect.check.config import find_in_config
from unetinspect.check.effects import Probes
from unetinspect.record import Source
from unetinspect.run.resolve import class_keys, resolve_config
from unetinspect.source.loaded import LoadedModel
from unetinspect.unets.request import make_request

Config = dict[str, Any]

KINDS: dict[str, Config] = {
    **tiny.KINDS,
    **kinds_other.KINDS,
    **kinds_video.KINDS,
    **kinds_plugs.KINDS,
    "unknown-classes": tiny.condition(class_embed_type="unknown", num_class_embeds=5),
    "plain-unknown-classes": tiny.plain(class_embed_type="projection", num_class_embeds=5),
    "unknown-attention-type": tiny.condition(attention_type="unknown"),
}
# Another value for keys that have no effect in some UNet, of a kind that diffusers could take.
OTHER: Config = {
    "act_fn": "gelu",
    "add_attention": False,
    "addition_embed_type": "unknown",
    "addition_embed_type_num_heads": 2,
    "addition_time_embed_dim": 6,
    "attention_head_dim": 2,
    "attention_type": "other",
    "attn_norm_num_groups": 2,
    "class_embed_type": "other",
    "conditioning_embedding_out_channels": [4, 8],
    "cross_attention_dim": 20,
    "cross_attention_norm": "layer_norm",
    "downsample_each_block": True,
    "downsample_padding": 0,
    "downsample_type": "resnet",
    "dual_cross_attention": True,
    "encoder_hid_dim": 7,
    "flip_sin_to_cos": False,
    "freq_shift": 2,
    "layers_per_block": 3,
    "mid_block_only_cross_attention": True,
    "mid_block_scale_factor": 2,
    "mid_block_type": "unknown",
    "norm_num_groups": 4,
    "num_attention_heads": 1,
    "num_class_embeds": 6,
    "num_train_timesteps": 9,
    "num_trans_head": 4,
    "only_cross_attention": True,
    "out_block_type": "other",
    "projection_class_embeddings_input_dim": 88,
    "resnet_out_scale_factor": 2.0,
    "resnet_skip_time_act": True,
    "resnet_time_scale_shift": "default",
    "reverse_motion_num_attention_heads": 2,
    "reverse_transformer_layers_per_block": [2, 2, 2, 2],
    "temporal_transformer_layers_per_mid_block": 2,
    "time_embedding_dim": 24,
    "transformer_layers_per_block": 2,
    "upcast_attention": True,
    "upsample_type": "resnet",
    "use_linear_projection": True,
}
# Kinds whose keys without effect are changed all at once.
CHANGED = (
    *("conditioned", "simple-cross-attention", "k-blocks", "no-cross-attention", "unknown-classes", "unknown-attention-type"),
    *("plain-no-mid-block", "skip-blocks", "plain-unknown-classes", "unet1d-audio", "unet1d-temporal", "dreamlite", "i2vgen"),
    *("motion-plain-mid-block", "motion-other-addition", "sparse-controlnet", "controlnet-without-text", "controlnet-heads"),
    *("controlnet-union-without-transformer", "controlnet-xs"),
)
# Kinds of which every key that is not said to be unread is changed alone.
HELD_AGAINST = ("conditioned",)


def trials_of(config: Config) -> Probes:
    """Return what compares other configs with this one, as `check` does."""
    model = LoadedModel(name="small", config=config, source=Source(kind="dict", location="small"))
    return Probes(model, resolve_config(config), make_request(batch=2))


@cache
def without_effect(name: str) -> Config:
    """Return the keys of the table that are said to have no effect in a kind, changed all at once, with their values there."""
    trials, values = trials_of(KINDS[name]), resolve_config(KINDS[name]).values
    found: Config = {}
    for key, other in OTHER.items():
        if key in values and values[key] != other and trials.same({**values, **found, key: other}):
            found[key] = other
    return found


@cache
def base_of(name: str) -> tuple[Seen, Seen]:
    """Build and run a kind as it is, once."""
    return seen(KINDS[name])


@pytest.mark.parametrize("name", CHANGED)
def test_keys_that_are_said_to_have_no_effect_have_none(name: str) -> None:
    """With all of them changed at once, diffusers builds the same modules and tensors, and computes the same to the last bit."""
    unread = without_effect(name)

    assert unread
    assert seen({**KINDS[name], **unread}) == base_of(name)


@pytest.mark.parametrize("name", HELD_AGAINST)
def test_keys_that_have_an_effect_are_not_said_to_have_none(name: str) -> None:
    """Every key of the table that is said to have one changes what is built or computed, or is refused."""
    config = KINDS[name]
    values = resolve_config(config).values
    tried = {key: other for key, other in OTHER.items() if key in values and key not in without_effect(name) and values[key] != other}

    assert [key for key, other in tried.items() if not differs({**config, key: other}, base_of(name))] == []


@pytest.mark.parametrize("name", ["conditioned", "plain-no-mid-block", "unet1d-audio", "motion-other-addition", "controlnet-heads"])
def test_every_key_without_effect_is_found_where_it_is_given(name: str) -> None:
    """A finding for each, which names the key and the value; those at their default are passed over."""
    config = {**KINDS[name], **without_effect(name)}
    resolved = resolve_config(config)
    report = find_in_config(resolved, config, classes=class_keys(), diffusers_version="0.42.1", same=trials_of(config).same)
    defaults = class_keys()[resolved.class_name]
    found = {finding.where[0]: finding for finding in report.findings if finding.kind in ("ignored", "unusual")}

    assert set(found) >= {key for key, value in without_effect(name).items() if value != defaults[key]}
    assert all(finding.what.startswith(key) and not finding.stops for key, finding in found.items())


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("classes", "class_embed_type", "other"),  # null would read num_class_embeds
        ("unet1d-audio", "out_block_type", "other"),  # null builds another last block
    ],
)
def test_a_word_that_diffusers_does_not_know_is_found(name: str, key: str, value: str) -> None:
    """Where it has an effect, and any other word the same."""
    config = {**KINDS[name], key: value}
    resolved = resolve_config(config)
    report = find_in_config(resolved, config, classes=class_keys(), diffusers_version="0.42.1", same=trials_of(config).same)
    (finding,) = [finding for finding in report.findings if finding.where == (key,)]

    assert finding.kind == "unusual"
    assert finding.what == f'{key} is "{value}": diffusers does not know this value, and runs with it'
    assert seen({**config, key: "yet another"}) == seen(config)
    assert seen(KINDS[name]) != seen(config)


@pytest.mark.parametrize("name", ["conditioned", "simple-cross-attention", "per-block-lists", "plain", "no-mid-block"])
def test_heads_and_resnets_are_said_as_they_are_traced(name: str) -> None:
    """The heads and the channels of each block's attention, and the number of its resnets, are those of a real forward pass."""
    record, config = tiny.traced(name), resolve_config(KINDS[name])
    report = find_in_config(config, {}, classes=class_keys(), diffusers_version="0.42.1", record=record)
    said = {meaning.key: meaning.meaning for meaning in report.meanings}
    heads = re.findall(r"(\d+) heads? of (\d+) channels? in (.+?)(?=, \d|$)", said["attention_head_dim"])
    by_block = {path: (int(number), int(width)) for number, width, paths in heads for path in re.findall(r"\w+_blocks?(?:\.\d+)?", paths)}
    resnets = [module.path.rpartition(".resnets.")[0] for module in record.modules if re.search(r"\.resnets\.\d+$", module.path)]
    counts = [[str(resnets.count(path)) for path in dict.fromkeys(resnets) if path.startswith(way)] for way in ("down", "up")]

    assert by_block == {_block_of(each.path): (each.heads, each.head_dim) for each in record.attentions}
    assert re.findall(r"((?:\d+ and )?\d+)(?: resnets?)? per", said["layers_per_block"]) == [
        " and ".join(dict.fromkeys(numbers)) for numbers in counts
    ]


def _block_of(path: str) -> str:
    return re.match(r"(?:down|up)_blocks\.\d+|mid_block", path)[0]  # type: ignore[index]  # every attention of these is in a block
