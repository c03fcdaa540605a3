"""What is found in a config, and what its keys are said to mean."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kinds_other import KINDS as DREAMLITE_KINDS
from tests.tiny import KINDS, condition, plain, traced_once
from unetinspect.check.config import ConfigReport, find_in_config
from unetinspect.check.effects import Probes
from unetinspect.cli.run import parse_pairs
from unetinspect.errors import Problem
from unetinspect.record import Source
from unetinspect.record.check import Finding
from unetinspect.run.resolve import class_keys, resolve_config
from unetinspect.source.loaded import LoadedModel
from unetinspect.unets import supported_classes
from unetinspect.unets.request import make_request

CONFIGS = Path(__file__).parent.parent / "configs"
SD15: dict[str, Any] = yaml.safe_load((CONFIGS / "sd15.yaml").read_text())["config"]


def report_on(config: dict[str, Any], *mistakes: Problem, class_name: str = "UNet2DConditionModel", **more: Any) -> ConfigReport:
    """Check a config as `check` does: defaults filled in, keys that the class does not know named."""
    resolved = resolve_config({**config, "_class_name": class_name}, adapt=False)
    return find_in_config(resolved, config, classes=class_keys(), diffusers_version="0.42.1", mistakes=mistakes, **more)


def only_finding(report: ConfigReport) -> Finding:
    """Return the one finding."""
    (finding,) = report.findings
    return finding


def meanings_of(model: str | dict[str, Any]) -> dict[str, str]:
    """Return what each key is said to mean, with a pass of the model."""
    record = traced_once(model)
    report = report_on(record.model.config, class_name=record.model.class_name, record=record)
    return {meaning.key: meaning.meaning for meaning in report.meanings}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_published_configs_are_clean(path: Path) -> None:
    """No config of the catalog holds an unknown, unread, old or wrong key."""
    config = yaml.safe_load(path.read_text())["config"]

    assert report_on(config, class_name=config["_class_name"]).findings == ()


@pytest.mark.parametrize(
    ("key", "said", "advice"),
    [
        ("num_res_blocks", ": the name of layers_per_block in the UNet of OpenAI and LDM", "remove it: layers_per_block is set too"),
        ("context_dim", ": the name of cross_attention_dim in", "remove it: cross_attention_dim is set too"),
        ("transformer_depth", ": the name of transformer_layers_per_block in", "did you mean transformer_layers_per_block?"),
        ("channel_mult", "channel_mult times model_channels is block_out_channels", "remove it"),
        ("ch", ": a key of the original DDPM code", "remove it"),
        ("num_train_timesteps", ": a key of UNet2DModel", "remove it"),
        ("scaling_factor", ": a key of the VAE", "remove it"),
        ("use_linear_projecton", "use_linear_projecton is not a key of UNet2DConditionModel", "did you mean use_linear_projection?"),
        ("zzz", "zzz is not a key of UNet2DConditionModel", "remove it"),
    ],
)
def test_an_unknown_key_is_said_to_be_what_it_is_elsewhere(key: str, said: str, advice: str) -> None:
    """Each is a finding with its name, its origin where it is known, and what to do."""
    found = only_finding(report_on({**SD15, key: 1}))

    assert (found.kind, found.where, found.advice) == ("unknown", (key,), advice)
    assert said in found.what


def test_everything_is_found_at_once() -> None:
    """Wrong, contradictory, unknown and unusual keys of one config are all there, and which of them stop the UNet from running."""
    mistakes = (
        Problem(("in_channels",), "in_channels is 0; 4 runs", {"in_channels": 4}),
        Problem(("addition_embed_type", "encoder_hid_dim"), "addition_embed_type is image, which needs encoder_hid_dim"),
    )
    types = {"flip_sin_to_cos": 'flip_sin_to_cos is "yes": diffusers expects true or false', "in_channels": "named already"}
    found = report_on({**SD15, "upblocks": 1, "sample_size": [64, 64, 64]}, *mistakes, wrong_types=types).findings

    assert [(finding.kind, finding.stops) for finding in found] == [
        *(("wrong", True), ("contradiction", True), ("unknown", False)),
        *(("unusual", False), ("unusual", False)),
    ]
    assert [finding.where for finding in found[:2]] == [("in_channels",), ("addition_embed_type", "encoder_hid_dim")]
    assert found[3].what == 'flip_sin_to_cos is "yes": diffusers expects true or false, and runs with this'
    assert found[4].what == "sample_size is [64, 64, 64]: diffusers expects an integer or a list of 2, and runs with this"


@pytest.mark.parametrize("value", ["silu", None, True, [1, [2, "a b"]], 0.5, "it's"])
def test_the_advice_on_a_mistake_can_be_typed(value: Any) -> None:
    """A shell and `--set` read the value back as it is."""
    advice = str(only_finding(report_on(SD15, Problem(("act_fn",), "act_fn is wrong", {"act_fn": value, "x": 1}))).advice)
    option, first, *others = shlex.split(advice)

    assert (option, others) == ("--set", ["--set", "x=1"])
    assert parse_pairs([first], option="--set", example="") == {"act_fn": value}


@pytest.mark.parametrize(
    ("config", "class_name", "advice"),
    [
        (condition(down_block_types=["UNetResCrossAttnDownBlock2D", "DownBlock2D"]), "UNet2DConditionModel", "use CrossAttnDownBlock2D"),
        (DREAMLITE_KINDS["dreamlite-old-names"], "DreamLiteUNetModel", "use DreamLiteCrossAttnNoSelfAttnDownBlock2D, "),
    ],
    ids=["prefix", "dreamlite"],
)
def test_block_types_under_old_names_are_found(config: dict[str, Any], class_name: str, advice: str) -> None:
    """What diffusers builds under another name, which it takes as well."""
    record = traced_once(config)
    model = LoadedModel(name="small", config=config, source=Source(kind="dict", location="small"))
    same = Probes(model, resolve_config(config), make_request()).same
    found = [each for each in report_on(config, class_name=class_name, record=record, same=same).findings if each.kind == "deprecated"]

    assert found[0].where == ("down_block_types",)
    assert str(found[0].advice).startswith(advice)


def test_a_newer_version_is_named_only_where_a_key_is_unknown() -> None:
    """A config saved by a newer diffusers is clean by itself; an unknown key in it may be that version's."""
    newer = {**SD15, "_diffusers_version": "0.50.0"}

    assert report_on(newer).findings == ()
    found = only_finding(report_on({**newer, "attention_sinks": 4}))
    assert found.what.endswith("in diffusers 0.42.1; the config is from diffusers 0.50.0")
    assert found.advice is not None
    assert found.advice.endswith("install diffusers 0.50.0")
    assert "0.6.0" not in only_finding(report_on({**SD15, "attention_sinks": 4})).what


def test_keys_that_diffusers_own_tools_leave_behind_are_explained_and_no_findings() -> None:
    """EMAModel's keys and those of quantized weights do no harm; "power" alone is unknown."""
    left = {"decay": 0.9999, "optimization_step": 3, "power": 0.75, "quantization_config": {}}
    report = report_on({**SD15, **left})

    assert report.findings == ()
    assert set(left) <= {meaning.key for meaning in report.meanings}
    assert only_finding(report_on({**SD15, "power": 0.75})).where == ("power",)


def test_defaults_and_nulls_are_not_tried() -> None:
    """A saved config holds every key: one at its default is no finding, and costs nothing."""
    defaults = {"addition_time_embed_dim": None, "cross_attention_norm": None, "resnet_out_scale_factor": 1, "sample_size": 32}
    tried = []

    def same(values: Mapping[str, Any]) -> bool:
        tried.append(values)
        return True

    assert report_on(defaults, same=same).findings == ()
    assert tried == []


def test_what_another_key_stands_in_for_is_not_found_twice() -> None:
    """Of two keys that hold the same, each has no effect beside the other: one is found, since without both there is one."""
    config = {"num_attention_heads": 4, "attention_head_dim": 4}
    report = report_on(config, same=lambda values: 4 in (values["num_attention_heads"], values["attention_head_dim"]))

    assert len(report.findings) == 1


def test_heads_are_said_block_by_block() -> None:
    """Stable Diffusion 1.5 has 8 heads everywhere: of 320 / 8, 640 / 8 and 1280 / 8 channels."""
    meaning = meanings_of("sd15")["attention_head_dim"]

    assert meaning.startswith("the number of heads here: ")
    assert f"8 heads of {320 // 8} channels in down_blocks.0 and up_blocks.3" in meaning
    assert f"8 heads of {1280 // 8} channels in down_blocks.2, mid_block and up_blocks.1" in meaning


def test_heads_in_other_blocks_are_channels() -> None:
    """In a UNet2DModel, and in SimpleCrossAttn blocks, the same key holds the channels of one head; where both are 8, it says so."""
    assert meanings_of(plain())["attention_head_dim"].startswith("the channels of one head: 4 heads of 8 channels in down_blocks.1")
    assert meanings_of(KINDS["simple-cross-attention"])["attention_head_dim"].startswith("the channels of one head: 4 heads of 8 channels")
    both = plain(block_out_channels=[16, 64])
    assert meanings_of(both)["attention_head_dim"].startswith("heads and channels of each: 8 heads of 8 channels in down_blocks.1")


def test_numbers_of_other_keys_are_those_of_the_pass() -> None:
    """SDXL: 1280 + 6 x 256 = 2816; 2 and 3 resnets; 3 up blocks of 3 take 9 skips; 128 cells are 1024 px."""
    said = meanings_of("sdxl")

    assert said["projection_class_embeddings_input_dim"] == "2816 = 1280 of text_embeds (pooled text) + 6 x 256 of time_ids"
    assert said["layers_per_block"].startswith(f"2 resnets per down block, 3 per up block to consume {3 * 3} skips")
    assert f"128x128 is {128 * 8}x{128 * 8} px" in said["sample_size"]
    assert "(batch, tokens, 2048)" in said["cross_attention_dim"]
    assert said["transformer_layers_per_block"].endswith("unused on the way down: entry 0")


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_NAMES = st.sampled_from(
    ["DownBlock2D", "CrossAttnDownBlock2D", "UNetResUpBlock2D", "KUpBlock2D", "AttnUpBlock2D", "text_time", "projection"]
)
_SMALL = st.integers(-3, 64)
_VALUES = st.recursive(
    _SCALARS | _NAMES | _SMALL,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=6,
)


@settings(max_examples=10, deadline=None)
@given(st.data())
@pytest.mark.parametrize("class_name", supported_classes())
def test_whatever_the_values_every_class_gets_an_answer(class_name: str, data: st.DataObject) -> None:
    """Values of any type under real keys, and unknown keys beside them, end in findings that can be written down."""
    keys = st.sampled_from([*class_keys()[class_name], "_diffusers_version", "num_res_blocks", "decay", "optimization_step"])
    config = data.draw(st.dictionaries(keys | st.text(max_size=6), _VALUES, max_size=8))
    report = report_on(config, Problem(("in_channels",), "in_channels is odd"), class_name=class_name, same=lambda values: True)

    assert all(finding.about == "config" and finding.what for finding in report.findings)
