"""Configs that diffusers refuses: which keys are blamed, and that what is suggested runs; and odd ones that it runs, and so are traced."""

from __future__ import annotations

import json
import time
from pathlib import Path
from shlex import split
from typing import Any

import pytest

from tests.config_edits import SMALL, Edit, bare_runs, compare
from tests.tiny import ALL, CONDITION, PLAIN, condition, config_of, model_of, some
from unetinspect import ConfigError, ForwardError, UsageError, trace
from unetinspect.cli.run import parse_overrides
from unetinspect.errors import Problem
from unetinspect.run.resolve import resolve_config
from unetinspect.run.suspects import Suspect
from unetinspect.run.trial import Failure, Trial
from unetinspect.source.local import find_models
from unetinspect.unets import builder_for

Config = dict[str, Any]

# Small UNets with a mistake, one of each structure in each class.
MISTAKES: list[tuple[str, Config]] = [
    ("unet1d-audio", {"block_out_channels": [32, 32, 48, 64]}),
    ("unet1d-temporal", {"use_timestep_embedding": False}),
    ("unet1d-value-function", {"up_block_types": ["UpResnetBlock1D"]}),
    ("kandinsky3", {"layers_per_block": 1}),
    ("kandinsky3", {"groups": 3}),
    ("cascade-prior", {"num_attention_heads": [2, None]}),
    ("cascade-prior", {"dropout": 1}),
    ("cascade-prior", {"patch_size": -1}),
    ("cascade-decoder", {"up_num_layers_per_block": [2, 1]}),
    ("uvit", {"micro_cond_embed_dim": 18}),
    ("dreamlite", {"qk_norm": "rms_norm_across_heads"}),
    ("dreamlite", {"cross_attention_dim": [None, 24, 24]}),
    ("audioldm2", {"cross_attention_dim": [[12], [12, 12, 12, 12, 12]]}),
    ("audioldm2", {"mid_block_type": None}),
    ("class-concat", {"class_embed_type": "Foo"}),
    ("simple-cross-attention", {"attention_head_dim": 40}),
    ("k-blocks", {"down_block_types": ["DownBlock2D", "KCrossAttnDownBlock2D", "KCrossAttnDownBlock2D", "KCrossAttnDownBlock2D"]}),
    ("plain", {"attn_norm_num_groups": 3}),
    ("plain", {"time_embedding_type": "learned"}),
    ("skip-blocks", {"in_channels": 4}),
    ("unet3d", {"cross_attention_dim": None}),
    ("unet3d", {"norm_num_groups": 12}),
    ("i2vgen", {"norm_num_groups": None}),
    ("motion", {"encoder_hid_dim_type": "text_proj", "encoder_hid_dim": 12}),
    ("motion", {"num_attention_heads": [2, 33]}),
    ("motion", {"transformer_layers_per_block": [[1], 1]}),
    ("motion", {"temporal_transformer_layers_per_block": [[1], [1]], "reverse_temporal_transformer_layers_per_block": [[1], [1]]}),
    ("motion", {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}),
    ("svd", {"projection_class_embeddings_input_dim": 20}),
    ("svd", {"num_attention_heads": 3}),
    ("svd", {"layers_per_block": [1]}),
    ("sparse-controlnet", {"use_simplified_condition_embedding": False, "conditioning_embedding_out_channels": None}),
    ("sparse-controlnet", {"only_cross_attention": [True]}),
    ("controlnet", {"down_block_types": ["DownBlock2D"]}),
    ("controlnet", {"addition_embed_type": "text", "addition_embed_type_num_heads": 5}),
    ("controlnet", {"conditioning_embedding_out_channels": None}),
    ("controlnet", {"layers_per_block": 2, "transformer_layers_per_block": [[1], 1]}),
    ("controlnet-union", {"num_trans_head": 5}),
    ("controlnet-xs", {"ctrl_block_out_channels": [6]}),
    ("controlnet-xs", {"ctrl_max_norm_num_groups": 0}),
    ("controlnet-xs", {"time_embedding_mix": 0.5}),
    ("t2i-adapter", {"adapter_type": "heavy_adapter"}),
    ("t2i-adapter", {"channels": [3, 8], "adapter_type": "light_adapter"}),
    ("conditioned", {"layers_per_block": [1, None]}),
    ("conditioned", {"dropout": 1.5}),
    ("conditioned", {"time_embedding_dim": -1}),
    ("conditioned", {"resnet_time_scale_shift": "ada_group"}),
    ("conditioned", {"reverse_transformer_layers_per_block": 2}),
    ("conditioned", {"layers_per_block": 0}),
    ("conditioned", {"encoder_hid_dim": 12, "cross_attention_dim": [24, 24]}),
    ("conditioned", {"addition_embed_type": "text"}),
    ("conditioned", {"num_attention_heads": 8}),
    ("conditioned", {"up_block_types": [["UpBlock2D"], "UpBlock2D"]}),
    ("conditioned", {"class_embeddings_concat": True}),
    ("conditioned", {"cross_attention_dim": {}}),
    ("conditioned", {"dual_cross_attention": True}),
    ("conditioned", {"attention_head_dim": None}),
    ("conditioned", {"layers_per_block": [1, 2, 3]}),
    ("conditioned", {"block_out_channels": []}),
    ("conditioned", {"block_out_channels": ["32", 64]}),
]
# Small UNets with several mistakes.
SEVERAL: list[tuple[str, Config]] = [
    ("motion", {"in_channels": 0, "num_attention_heads": 40, "encoder_hid_dim_type": "ip_image_proj"}),
    ("controlnet-xs", {"num_attention_heads": [4, 80], "ctrl_num_attention_heads": 12}),
    ("conditioned", {"act_fn": "silo", "norm_num_groups": 24, "time_embedding_dim": -1}),
]
# Frequent mistakes in words.
SENTENCES: list[tuple[str, Config, str]] = [
    (
        "conditioned",
        {"norm_num_groups": 24},
        "block_out_channels contains 32, 64, not divisible by norm_num_groups (24); norm_num_groups 16 works",
    ),
    ("conditioned", {"attention_head_dim": [33, 4]}, "attention_head_dim contains 33 for a block of 32 channels; [32, 4] works"),
    ("plain", {"attention_head_dim": 48}, "attention_head_dim is 48, more than a block has channels; 32 works"),
    ("conditioned", {"act_fn": "silo"}, 'act_fn is "silo", which UNet2DConditionModel does not know; "silu" works'),
    (
        "unet3d",
        {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock3D"]},
        (
            'down_block_types contains "CrossAttnDownBlock2D", which UNet3DConditionModel does not know;'
            ' ["CrossAttnDownBlock3D", "DownBlock3D"] works'
        ),
    ),
    (
        "motion",
        {"motion_num_attention_heads": [4]},
        "these lists must have the same length: motion_num_attention_heads has 1, down_block_types has 2; [4, 4] works",
    ),
    (
        "conditioned",
        {"addition_embed_type": "text_time", "addition_time_embed_dim": 8},
        (
            'addition_embed_type is "text_time", which needs projection_class_embeddings_input_dim;'
            " projection_class_embeddings_input_dim 2816 works"
        ),
    ),
    ("conditioned", {"in_channels": "four"}, 'in_channels is "four": diffusers expects an integer; 4 works'),
    ("conditioned", {"layers_per_block": None}, "layers_per_block is null; 2 works"),
]
# Odd values that diffusers runs.
RUNS: list[tuple[Config, Config]] = [
    (PLAIN, {"time_embedding_type": "fourier", "freq_shift": None}),
    (PLAIN, {"downsample_padding": [1]}),
    (PLAIN, {"flip_sin_to_cos": "yes"}),
    (PLAIN, {"class_embed_type": 8}),
    (PLAIN, {"num_class_embeds": 0}),
    (PLAIN, {"down_block_types": ["DownBlock2D"] * 2, "downsample_type": "unread"}),
    (CONDITION, {"sample_size": "big"}),
    (CONDITION, {"addition_embed_type": "image_hint", "encoder_hid_dim": 8}),
    (CONDITION, {"time_cond_proj_dim": True}),
    (CONDITION, {"down_block_types": ["UNetResCrossAttnDownBlock2D", "DownBlock2D"]}),
    (CONDITION, {"time_embedding_dim": 0}),
    (ALL["unet3d"], {"sample_size": [64, 64, 64]}),
    (ALL["svd"], {"out_channels": 0}),
    (ALL["cross-attention-on-the-way-up-alone"], {"flip_sin_to_cos": False}),
    (ALL["cascade-prior"], {"num_attention_heads": [2, 4, None], "dropout": [0, 1, 7]}),
    (ALL["sparse-controlnet"], {"cross_attention_dim": [24, 24], "motion_num_attention_heads": [2, 4]}),
    (ALL["controlnet-xs"], {"block_out_channels": [32, 32, 32], "num_attention_heads": [4, 4, 4]}),
    (ALL["controlnet-xs"], {"up_block_types": ["CrossAttnUpBlock2D"], "block_out_channels": [32, 32]}),
    (ALL["controlnet-xs"], {"down_block_types": ["Plain", "SomeCrossAttn"], "transformer_layers_per_block": [1, 1, 1]}),
    (ALL["controlnet"], {"attention_head_dim": [4, None], "mid_block_type": "UNetMidBlock2D"}),
    (ALL["t2i-adapter"], {"adapter_type": "full_adapter_xl", "channels": [8, 16, 32, 64], "num_res_blocks": 0}),
]

# Class names in others' configs, and the hint.
NO_CLASS_OF_OURS = {
    "UNetUnconditionalModel": "diffusers calls it UNet2DModel today; also rename the keys of an old config: image_size to sample_size,",
    "NCSNpp": "diffusers calls it UNet2DModel today, with other keys: see `unetinspect config ncsnpp-church-256`",
    "UNetGLIDEModel": "diffusers no longer has it",
    "UNetFlatConditionModel": "it is the text UNet of Versatile Diffusion",
    "ControlNetXSAdapter": "it runs inside a UNet alone: trace the UNetControlNetXSModel",
    "InteractDiffusionUNet2DConditionModel": "if it is a UNet2DConditionModel with additions, that one is traced without them; supported:",
    "UNet2DConditonModel": "did you mean UNet2DConditionModel? supported:",
}


# Its layers have no to_k: they attend to the text alone, through projections of their own.
TEXT_ALONE: Config = condition(
    down_block_types=["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
    mid_block_type="UNetMidBlock2DSimpleCrossAttn",
    up_block_types=["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
    cross_attention_dim=32,
    attention_head_dim=16,
    only_cross_attention=True,
    cross_attention_norm="group_norm",
)


def _ids(rows: list[Any]) -> list[str]:
    return [f"{row[0] if isinstance(row[0], str) else row[0]['_class_name']}-{'-'.join(row[1])}" for row in rows]


def refused(config: Config, *, kind: str = "conditioned", overrides: Config | None = None) -> ConfigError:
    """Trace a config that diffusers refuses; returns the error. With what it suggests, bare diffusers runs the config."""
    with pytest.raises(ConfigError) as raised:
        trace(config, device="meta", overrides=overrides)
    changes = {key: value for problem in raised.value.mistakes for key, value in problem.change.items()}
    assert (raised.value.change, raised.value.hint) == (changes, f"overrides={changes} makes it run")
    assert bare_runs(kind, {**config, **(overrides or {}), **changes})
    return raised.value


@pytest.mark.parametrize(("kind", "edit"), some(MISTAKES, 3), ids=_ids(some(MISTAKES, 3)))
def test_a_mistake_is_blamed_and_what_is_suggested_runs(kind: str, edit: Config) -> None:
    """A key that was edited is to blame, alone; with the suggested value the UNet runs."""
    error = refused({**ALL[kind], **edit}, kind=kind)

    (mistake,) = error.mistakes
    assert {*mistake.keys} & {*edit} or {*mistake.change} & {*edit}
    assert error.problems == (mistake.what,)


@pytest.mark.parametrize(("kind", "edit"), some(SEVERAL, 2), ids=_ids(some(SEVERAL, 2)))
def test_all_mistakes_are_named_at_once(kind: str, edit: Config) -> None:
    """Nobody fixes a config one message at a time."""
    error = refused({**ALL[kind], **edit}, kind=kind)

    assert {key for mistake in error.mistakes for key in mistake.change} == {*edit}
    assert f"{len(edit)} config errors" in error.message


@pytest.mark.parametrize(("kind", "edit", "sentence"), SENTENCES, ids=_ids(SENTENCES))
def test_frequent_mistakes_are_said_in_words(kind: str, edit: Config, sentence: str) -> None:
    """What is wrong, and what works."""
    assert refused({**ALL[kind], **edit}, kind=kind).problems == (sentence,)


def test_a_key_that_the_class_does_not_know_is_a_likely_cause() -> None:
    """A misspelt key is to blame where its value, under the key that it was meant for, runs; else it is listed beside the others."""
    narrow = condition(block_out_channels=[16, 48], norm_num_group=8)
    del narrow["norm_num_groups"]
    meant = refused(narrow)
    assert meant.problems == ("norm_num_group is not a key of UNet2DConditionModel: did you mean norm_num_groups? norm_num_groups 8 works",)

    beside = refused(condition(act_fn="silo", tails=4))
    assert beside.problems[1] == "tails is not a key of UNet2DConditionModel"
    assert beside.message.startswith("cannot build UNet2DConditionModel: 2 config errors\n")
    elsewhere = refused(condition(act_fn="silo", num_frames=4, **{"3": 3}))
    assert elsewhere.problems[1] == "num_frames is not a key of UNet2DConditionModel: a key of UNetSpatioTemporalConditionModel"


def test_the_class_is_to_blame_where_the_blocks_are_those_of_another() -> None:
    """A config with all keys and blocks of another class has one mistake; a block that its own class knows is a mistake of its own."""
    (mistake,) = refused({**CONDITION, "_class_name": "UNet3DConditionModel"}).mistakes
    assert mistake.change == {"_class_name": "UNet2DConditionModel"}

    (mistake,) = refused({**ALL["unet3d"], "num_attention_heads": 8}, kind="unet3d").mistakes
    assert mistake.change == {"num_attention_heads": None}


def test_words_are_replaced_by_the_nearest_and_the_others_kept() -> None:
    """Several misspelt blocks at once, and one that diffusers complains of though it knows it."""
    (misspelt,) = refused(condition(down_block_types=["DwnBlock2D", "CrossAttnDownBlok2D"])).mistakes
    assert misspelt.change == {"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"]}

    plain = {**PLAIN, "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"]}
    (unfit,) = refused(plain, kind="plain").mistakes
    assert unfit.change == {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"]}


def test_numbers_that_are_written_as_text_are_read() -> None:
    """One of them, a list, and all numbers of a config at once."""
    assert refused(condition(cross_attention_dim="24")).mistakes[0].change == {"cross_attention_dim": 24}
    assert refused(condition(block_out_channels="32, 64")).mistakes[0].change == {"block_out_channels": [32, 64]}
    text = {key: str(value) if isinstance(value, int) and not isinstance(value, bool) else value for key, value in CONDITION.items()}
    (all_of_them,) = refused(text).mistakes
    assert all_of_them.change == {key: CONDITION[key] for key in all_of_them.keys}
    assert len(all_of_them.keys) > 3


def test_a_value_that_only_gets_further_is_changed_again() -> None:
    """A list that is cut to the right length does not run; no key that was right is blamed for it."""
    error = refused(condition(cross_attention_dim=[24, 16, 8], act_fn="gelou"))

    assert {key for mistake in error.mistakes for key in mistake.change} == {"cross_attention_dim", "act_fn"}
    assert (error.hint or "").endswith("makes it run")


def test_what_is_no_mistake_once_the_others_are_changed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A UNet that needs the last change alone: what only seemed to get further before it is not blamed."""
    first, last = Suspect(("dropout",), "", {"dropout": 0.5}), Suspect(("act_fn",), "", {"act_fn": "silu"})
    trial = Trial(model_of(CONDITION), {})
    monkeypatch.setattr(trial, "run", lambda change: None if "act_fn" in change else Failure("build", 0, ValueError()))

    assert trial._without_innocents([first, last]) == [last]
    monkeypatch.setattr(trial, "run", lambda change: None if len(change) == 2 else Failure("build", 0, ValueError()))
    assert trial._without_innocents([first, last]) == [first, last]


def test_the_same_error_of_a_later_block_is_progress_where_each_block_may_have_it() -> None:
    """After more modules, and only if asked for; another error counts by how far diffusers came."""
    early, late, other = (Failure("build", steps, error) for steps, error in ((3, ValueError()), (5, ValueError()), (4, TypeError())))

    assert early.comes_before(late, same=True)
    assert not early.comes_before(late, same=False)
    assert not late.comes_before(early, same=True)
    assert early.comes_before(other, same=False)
    assert not late.comes_before(other, same=False)


def test_what_does_not_run_is_not_said_to_work() -> None:
    """Where nothing makes the UNet run, the mistakes are named and no value is suggested; a long number is cut."""
    with pytest.raises(ConfigError) as raised:
        trace(condition(down_block_types=[], up_block_types=[], block_out_channels=[]), device="meta")
    assert not any("work" in problem for problem in raised.value.problems)
    assert not any(mistake.change for mistake in raised.value.mistakes)

    assert max(map(len, refused(condition(norm_num_groups=10**4000)).problems)) < 300


@pytest.mark.parametrize("edit", [{"norm_num_groups": 10**9 + 1}, {"attention_head_dim": 10**9}], ids=str)
def test_huge_numbers_are_not_searched_for_their_divisors(edit: Config) -> None:
    """A thousand million channels, groups and heads: an answer in seconds, of CPU time."""
    began = time.process_time()
    assert refused(condition(block_out_channels=[10**9, 10**9], **edit)).mistakes

    assert time.process_time() - began < 10


def test_what_was_overridden_is_suspected_first() -> None:
    """The value of the model itself is what runs in place of an override."""
    own = {"act_fn": "gelu", "transformer_layers_per_block": 2}
    error = refused(condition(**own), overrides={"transformer_layers_per_block": [1], "act_fn": "silo"})

    assert {key: problem.change[key] for problem in error.mistakes for key in problem.change} == own


def test_options_are_read_as_they_are_written() -> None:
    """What a hint says to type has the value that ran, whatever its type is."""
    for value in (None, True, "silu", "true", "no", "1", [320, None], ["a b", "c'd"], 0.5, 1e-05):
        option = split(Problem(("key",), "", {"key": value}).options)
        assert option[0] == "--set"
        assert parse_overrides(option[1:]) == {"key": value}


@pytest.mark.parametrize(("config", "edit"), RUNS, ids=_ids(RUNS))
def test_what_diffusers_runs_is_traced(config: Config, edit: Config) -> None:
    """Odd values."""
    assert trace({**config, **edit}, device="meta").model.params


@pytest.mark.parametrize("seed", some(range(4), 3))
def test_trace_refuses_what_diffusers_refuses_and_nothing_else(seed: int) -> None:
    """Of random edits, one key each, `trace` takes exactly those that diffusers builds and runs by itself."""
    counts, different = compare(20, seed, SMALL)

    assert not different
    assert min(counts["runs"], counts["raises"]) > 3


def test_the_oracle_can_fail() -> None:
    """An edit that runs and one that does not are distinguished."""
    assert bare_runs("plain", Edit("plain", "flip_sin_to_cos", "yes").config)
    assert not bare_runs("plain", Edit("plain", "norm_num_groups", 3).config)


def test_layers_without_keys_of_their_own_are_traced() -> None:
    """Attention to the text alone has no to_k, and takes no IP-Adapter."""
    record = trace(TEXT_ALONE, device="meta")

    assert record.totals.params == 745_892
    assert [layer.kind for layer in record.attentions] == ["cross"] * 4
    assert not [port for port in record.ports if port.kind == "ip-adapter"]


@pytest.mark.parametrize("key", ["layers_per_block", "transformer_layers_per_block"])
def test_what_is_too_large_is_stopped_as_it_is_built(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Building stops at the limit, whatever key asks for the modules; the message names what was being built."""
    monkeypatch.setattr("unetinspect.run.build.MAX_MODULES", 1000)
    with pytest.raises(ConfigError, match="UNet2DConditionModel has more than 1,000 modules: building was stopped at") as raised:
        trace({**CONDITION, key: 10**7}, device="meta")

    assert "--force builds it" in (raised.value.hint or "")


def test_a_build_that_does_not_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers looks for a factor of the channels in a loop that a negative number never ends."""
    monkeypatch.setattr("unetinspect.run.build._BUILD_SECONDS", 1.0)

    with pytest.raises(ConfigError, match="UNetControlNetXSModel has no end: building was stopped after 1 seconds"):
        trace(config_of("controlnet-xs", ctrl_max_norm_num_groups=-4), device="meta")


def test_force_lifts_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of modules is exact, and `force` builds what is beyond it."""
    record = trace(CONDITION, device="meta", cache=False)
    monkeypatch.setattr("unetinspect.run.build.MAX_MODULES", 100)

    with pytest.raises(ConfigError, match="more than 100 modules"):
        trace(CONDITION, device="meta", cache=False)
    assert trace(CONDITION, device="meta", cache=False, force=True) == record


def test_a_device_without_the_memory_refuses_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of the weights is compared with the free memory before any is allocated."""
    monkeypatch.setattr("unetinspect.run.build._free_memory", lambda device: 1000)

    with pytest.raises(ForwardError, match=r"the weights of \w+ take .* MiB, and cpu has 1000 B free"):
        trace(CONDITION, device="cpu", cache=False)


def test_inputs_beyond_what_torch_can_write_down() -> None:
    """An input of more than 2^63 bytes is refused by its shape."""
    with pytest.raises(UsageError, match=r"sample cannot have the shape \(2097152, 4, 1048576, 1048576\)"):
        trace(CONDITION, device="meta", batch=2**20, latent=2**20)


@pytest.mark.parametrize("key", ["motion", "sparse-controlnet"])
def test_more_frames_than_the_motion_modules_have_positions_for(key: str) -> None:
    """The most that there are positions for is what a pass has by default, and is found by running where more are asked for."""
    most = ALL[key]["motion_max_seq_length"]
    record = trace(ALL[key], device="meta", latent=4)

    assert (record.run.frames, record.run.frames_from, record.run.medium) == (most, "motion_max_seq_length", "video")
    assert most in (record.run.inputs[0].shape or ())
    with pytest.raises(UsageError, match=f"--frames {most + 3} does not run") as raised:
        trace(ALL[key], device="meta", latent=4, frames=most + 3)
    assert raised.value.hint == f"--frames {most} is the most that runs"


@pytest.mark.parametrize(
    ("config", "frames", "origin"),
    [
        (ALL["unet3d"], 16, "assumed: TextToVideoSDPipeline makes 16"),
        (ALL["i2vgen"], 16, "assumed: I2VGenXLPipeline makes 16"),
        ({**ALL["motion"], "motion_max_seq_length": 24}, 16, "assumed: AnimateDiffPipeline makes 16"),
        (
            ALL["sparse-controlnet"] | {"motion_max_seq_length": 1},
            16,
            "assumed: AnimateDiffSparseControlNetPipeline makes 16",
        ),
        (ALL["svd"], 3, "config"),
        ({**ALL["svd"], "num_frames": None}, 25, "assumed: the config has no num_frames"),
    ],
    ids=lambda value: value["_class_name"] if isinstance(value, dict) else "",
)
def test_the_default_number_of_frames(config: Config, frames: int, origin: str) -> None:
    """The number of diffusers' own pipelines, or of the config, and where it comes from."""
    assert builder_for(config["_class_name"]).frames(resolve_config(config).values) == (frames, origin)


@pytest.mark.parametrize("name", NO_CLASS_OF_OURS)
def test_a_class_that_cannot_be_traced_says_which_one_can(name: str) -> None:
    """Old names, parts of other classes, and variants of one; an unrelated class is not called misspelled."""
    with pytest.raises(ConfigError) as raised:
        trace({"_class_name": name}, device="meta")

    assert raised.value.message == f"{name} is not a UNet class that can be traced"
    assert (raised.value.hint or "").startswith(NO_CLASS_OF_OURS[name])


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("FluxTransformer2DModel", "a diffusion transformer"),
        ("SD3Transformer2DModel", "a diffusion transformer"),
        ("HunyuanDiT2DModel", "a diffusion transformer"),
        ("AutoencoderKLWan", "a VAE"),
        ("CLIPTextModel", "a text encoder"),
        ("DDIMScheduler", "a scheduler"),
    ],
)
def test_a_model_of_another_kind_is_named_for_what_it_is(name: str, what: str) -> None:
    """It is no misspelled UNet."""
    with pytest.raises(ConfigError) as raised:
        trace({"_class_name": name}, device="meta")

    assert raised.value.message == f"{name} is {what}, not a UNet"


def test_a_misspelled_class_in_a_folder_is_noted(tmp_path: Path) -> None:
    """Configs of other models are passed over in silence; one that is meant for a UNet is not."""
    for name in ("UNet2DConditionModel", "UNet2DConditonModel", "AutoencoderKL"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"_class_name": name}))
    notes: list[str] = []

    assert [path for path, _ in find_models(str(tmp_path), notes.append)] == [str(tmp_path / "UNet2DConditionModel.json")]
    assert notes == [
        f"{tmp_path / 'UNet2DConditonModel.json'} names no UNet class: UNet2DConditonModel: did you mean UNet2DConditionModel?"
    ]


def test_a_class_that_this_diffusers_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older diffusers has no DreamLite: that is said in a sentence, before anything is built."""
    monkeypatch.setattr(builder_for("DreamLiteUNetModel"), "module", "diffusers.utils")

    with pytest.raises(ConfigError, match="has no DreamLiteUNetModel"):
        trace(ALL["dreamlite"], device="meta")
