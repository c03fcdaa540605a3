"""UNets of other kinds: one-dimensional, Kandinsky 3, Stable Cascade, aMUSEd, DreamLite, AudioLDM 2: their skips, sizes and inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.tiny import CONDITION, OTHER, PLAIN, Config, config_of, some, traced, traced_once
from unetinspect import Trace, trace
from unetinspect.errors import ForwardError
from unetinspect.run.resolve import diffusers_class, resolve_config
from unetinspect.unets import builder_for

TEXT_TIME = {"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": 80}


def small(kind: str, **options: Any) -> Trace:
    """Trace one of `OTHER`, at the size of the passes by hand."""
    return traced_once(OTHER[kind], **options if options or kind.startswith("unet1d") else {"latent": 8})


@pytest.mark.parametrize("kind", some((kind for kind in OTHER if kind.startswith("unet1d")), 3))
def test_attention_without_a_processor_is_listed_and_counted_separately(kind: str) -> None:
    """UNet1DModel's SelfAttention1d computes attention itself: each is found, with as many queries as the sample has places there."""
    record = small(kind)
    own = [(module.path, (module.out_shape or ())[-1]) for module in record.modules if module.class_name == "SelfAttention1d"]

    assert sorted((layer.path, layer.query_shape[2]) for layer in record.attentions) == sorted(own)
    assert {(layer.kind, layer.processor) for layer in record.attentions} <= {("self", None)}
    assert (record.totals.attention.without_processor, record.totals.attention.total) == (len(own), 0)


def test_kandinsky_3_concatenates_between_its_blocks() -> None:
    """One skip for each level but the lowest, joined in forward itself: the first resnet behind it is what reads it."""
    skips = small("kandinsky3").skips

    assert [(skip.source, skip.target) for skip in skips] == [
        (f"down_blocks.{level}.resnets_out.1", f"up_blocks.{3 - level}.resnets_in.0") for level in (2, 1, 0)
    ]
    assert [skip.concat_channels for skip in skips] == [64, 32, 32]
    assert [(skip.concat_in, skip.target_stage) for skip in skips] == [("", f"up_blocks.{3 - level}") for level in (2, 1, 0)]


@pytest.mark.parametrize(
    ("kind", "repeats"), [("cascade-decoder", (3, 2)), ("cascade-decoder-repeats-down", (1, 1)), ("cascade-prior", (1,))]
)
def test_stable_cascade_reads_a_skip_as_often_as_it_repeats_the_level(kind: str, repeats: tuple[int, ...]) -> None:
    """up_blocks_repeat_mappers run the blocks of a level again, and its first block reads the same skip each time."""
    record = small(kind)
    skips, counts = record.skips, record.totals.skips

    calls = [call for count in repeats for call in range(count)]
    targets = [f"up_blocks.{level}.0" for level, count in enumerate(repeats, start=1) for _ in range(count)]
    assert [(skip.target, skip.call) for skip in skips] == list(zip(targets, calls, strict=True))
    assert len({(skip.source, skip.index, skip.skip_channels) for skip in skips}) == len(repeats) == counts.consumed == counts.produced
    assert all(skip.concat_in == skip.target for skip in skips)


@pytest.mark.parametrize("kind", ["uvit", "uvit-sampled", "unet1d-value-function", "unet1d-no-way-up", "kandinsky3-one-level"])
def test_some_have_no_skips(kind: str) -> None:
    """A transformer, a way down alone, a single level."""
    assert small(kind).skips == ()


def test_audioldm_2_reads_two_texts() -> None:
    """Of 3 transformers behind each resnet, the first reads neither, the second GPT-2's 8 tokens, the third T5's."""
    layers = [layer for layer in small("audioldm2").attentions if layer.path.endswith("attn2")]
    read = {int(layer.path.split(".")[-4]) % 3: (layer.kind, layer.key_shape[2]) for layer in layers if not layer.path.startswith("mid")}

    assert (read[1], read[2]) == (("cross", 8), ("cross", 77))
    assert read[0][0] == "self"


@pytest.mark.parametrize("kind", ["kandinsky3-two-levels", "cascade-prior", "cascade-decoder", "uvit-sampled", "dreamlite", "audioldm2"])
def test_the_output_is_as_large_as_the_sample(kind: str) -> None:
    """At a size that is no square, and another batch."""
    record = small(kind, latent="8x24", batch=3, cfg=False)

    assert (record.output.shape[0], *record.output.shape[2:]) == (3, 8, 24)
    assert record.run.sample_size == (8, 24)


def test_dance_diffusion_has_the_parameters_that_it_was_trained_with() -> None:
    """Its first block expects 16 channels of time, from 8 weights; without the adaptation diffusers makes 128, and cannot run."""
    record = traced("maestro-150k")
    with torch.device("meta"):
        published = {**record.model.given_config, "time_embedding_dim": None}
        unadapted = diffusers_class("UNet1DModel").from_config(published)

    assert unadapted.time_proj.weight.numel() == 128
    assert sum(parameter.numel() for parameter in unadapted.parameters()) - record.totals.params == 128 - 8
    assert record.totals.attention.without_processor == 36


@pytest.mark.parametrize(
    ("config", "size", "said_by"),
    [
        (config_of("kandinsky3"), (128, 128), "assumed: the config has no sample_size"),
        (config_of("cascade-prior"), (24, 24), "assumed: Stable Cascade's size for 1024 px"),
        (config_of("cascade-decoder", patch_size=100), (400, 400), "assumed: Stable Cascade's size for 1024 px"),
        (config_of("cascade-decoder"), (256, 256), "assumed: Stable Cascade's size for 1024 px"),
        (config_of("dreamlite"), (8, 16), "config, twice as wide: the pipelines put two images side by side"),
        (config_of("audioldm2"), (16, 16), "config, 16 wide: the 64 mel bins that the pipeline runs it on"),
        (config_of("audioldm2", sample_size=[12, 20]), (12, 20), "config"),
        (config_of("unet1d-temporal"), (32,), "config"),
        (config_of("unet1d-temporal", sample_size=None), (65536,), "assumed: the config has no sample_size"),
        (config_of("unet1d-temporal", sample_size="32"), (65536,), "assumed: sample_size is '32'"),
        (config_of("dreamlite", sample_size=True), (128, 256), "assumed: sample_size is True"),
        (config_of("dreamlite", sample_size=[8, 9, 10]), (8, 20), "config, twice as wide: the pipelines put two images side by side"),
    ],
    ids=lambda value: value["_class_name"] if isinstance(value, dict) else "",
)
def test_the_size_where_nobody_says(config: Config, size: tuple[int, ...], said_by: str) -> None:
    """That of the config, of the class's pipeline, or the nearest that runs."""
    resolved = resolve_config(config)

    assert builder_for(resolved.class_name).sample_size(resolved.values) == (size, said_by)


@pytest.mark.parametrize(
    ("config", "length", "said_by", "fail"),
    [
        (config_of("unet1d-temporal"), 32, "config", ()),
        (config_of("unet1d-value-function"), 16, "the longest that runs; the config's sample_size, 65536, does not", (17, 32, 65536)),
        (config_of("unet1d-audio", sample_size=7), 24, "the shortest that runs; the config's sample_size, 7, does not", (7, 8, 16)),
    ],
)
def test_a_signal_has_the_nearest_length_that_runs(config: Config, length: int, said_by: str, fail: tuple[int, ...]) -> None:
    """Where nobody asks for one: the config's own if it runs. Those that are nearer to it fail in diffusers."""
    record = traced_once(config)

    assert (record.run.sample_size, record.run.sample_size_from) == ((length,), said_by)
    for nearer in fail:
        with pytest.raises(ForwardError):
            trace(config, device="meta", latent=nearer)


@pytest.mark.parametrize(
    ("config", "latent", "nearest"),
    [
        (config_of("cascade-decoder"), (9, 16), "--latent 8x16 or --latent 10x16"),
        (config_of("cascade-decoder"), 6, "--latent 8"),
        (config_of("unet1d-audio"), 62, "--latent 56 or --latent 64"),
    ],
)
def test_a_size_that_cannot_run_is_refused_with_the_nearest(config: Config, latent: Any, nearest: str) -> None:
    """Patches, levels and lengths that do not come out even."""
    with pytest.raises(ForwardError) as refused:
        trace(config, device="meta", latent=latent)

    which = "sizes that run" if " or " in nearest else "size that runs"
    assert refused.value.hint == f"the nearest {which}: {nearest}"


@pytest.mark.parametrize(
    ("config", "keys", "name", "shape"),
    [
        (CONDITION, {"time_cond_proj_dim": True}, "timestep_cond", (2, 1)),
        (CONDITION, {"cross_attention_dim": [24, 24]}, "encoder_hidden_states", (2, 77, 24)),
        (CONDITION, {**TEXT_TIME, "addition_time_embed_dim": 100}, "added_cond_kwargs.time_ids", (2, 0)),
        (PLAIN, {"class_embed_type": 8}, "class_labels", None),
        (PLAIN, {"num_class_embeds": 0}, "class_labels", (2,)),
        (config_of("motion"), {"addition_embed_type": "nonsense", "motion_max_seq_length": True}, "encoder_hidden_states", (32, 77, 24)),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) and "_class_name" not in value else "",
)
def test_odd_values_ask_for_what_diffusers_runs_with(config: Config, keys: Config, name: str, shape: tuple[int, ...] | None) -> None:
    """What diffusers takes for a number, or passes over, is no mistake."""
    record = trace({**config, **keys}, device="meta")

    assert {given.name: given.shape for given in record.run.inputs}.get(name) == shape
