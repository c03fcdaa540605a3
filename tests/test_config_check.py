"""What is found in a config, and what its keys are said to mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from unetinspect.check.config import ConfigReport, find_in_config
from unetinspect.record.check import Finding
from unetinspect.run.resolve import class_keys
from unetinspect.unets import supported_classes

CONFIGS = Path(__file__).parent.parent / "configs"
SD15: dict[str, Any] = yaml.safe_load((CONFIGS / "sd15.yaml").read_text())["config"]
SDXL: dict[str, Any] = yaml.safe_load((CONFIGS / "sdxl.yaml").read_text())["config"]


def report_on(config: dict[str, Any], *problems: str, class_name: str = "UNet2DConditionModel") -> ConfigReport:
    """Check a config as `check` does: defaults filled in, keys that the class does not know named."""
    known = class_keys()[class_name]
    values = {key: config.get(key, default) for key, default in known.items()}
    unknown = [key for key in config if key not in known and not key.startswith("_")]
    return find_in_config(class_name, config, values, ignored=unknown, problems=problems, classes=class_keys(), diffusers_version="0.42.1")


def only_finding(report: ConfigReport) -> Finding:
    """Return the one finding."""
    (finding,) = report.findings
    return finding


def meanings_of(config: dict[str, Any], class_name: str = "UNet2DConditionModel") -> dict[str, str]:
    """Return what each key is said to mean."""
    return {meaning.key: meaning.meaning for meaning in report_on(config, class_name=class_name).meanings}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_published_configs_are_clean(path: Path) -> None:
    """No config of the catalog holds an unknown, unread, old or wrong key."""
    config = yaml.safe_load(path.read_text())["config"]

    assert report_on(config, class_name=config["_class_name"]).findings == ()


@pytest.mark.parametrize(
    ("key", "said", "advice"),
    [
        ("num_res_blocks", "called layers_per_block so", "leave it out: layers_per_block is there too"),
        ("context_dim", "called cross_attention_dim so", "leave it out: cross_attention_dim is there too"),
        ("transformer_depth", "called transformer_layers_per_block so", "did you mean transformer_layers_per_block?"),
        ("channel_mult", "times model_channels it is block_out_channels", "leave it out"),
        ("ch", "the first DDPM code", "leave it out"),
        ("num_train_timesteps", "it is a key of UNet2DModel", "leave it out"),
        ("scaling_factor", "the VAE", "leave it out"),
        ("use_linear_projecton", "drops it", "did you mean use_linear_projection?"),
        ("zzz", "drops it", "leave it out"),
    ],
)
def test_an_unknown_key_is_said_to_be_what_it_is_elsewhere(key: str, said: str, advice: str) -> None:
    """Each is a finding with its name, its origin where it is known, and what to do."""
    found = only_finding(report_on({**SD15, key: 1}))

    assert (found.kind, found.where, found.advice) == ("unknown", (key,), advice)
    assert said in found.what


def test_everything_is_found_at_once() -> None:
    """Wrong, contradictory, unknown, unread and old keys of one config are all there."""
    config = {**SD15, "upblocks": 1, "addition_time_embed_dim": 256, "down_block_types": ["UNetResDownBlock2D", *["DownBlock2D"] * 3]}
    problems = ("in_channels is 0, and must be a whole number above 0", "addition_embed_type is 'image', which needs encoder_hid_dim")
    found = report_on(config, *problems).findings

    assert [finding.kind for finding in found] == ["wrong", "contradiction", "unknown", "ignored", "deprecated"]
    assert [finding.where for finding in found[:2]] == [("in_channels",), ("addition_embed_type", "encoder_hid_dim")]
    assert found[-1].advice == "write DownBlock2D"


def test_a_key_that_is_refused_is_wrong_and_no_contradiction() -> None:
    """The key that its sentence recommends is not at fault."""
    problem = "num_attention_heads is set, which diffusers refuses: attention_head_dim holds the number of heads here"
    found = only_finding(report_on({**SD15, "num_attention_heads": 8}, problem))

    assert (found.kind, found.where, found.what) == ("wrong", ("num_attention_heads",), problem)


def test_what_a_mistyped_block_reads_is_not_guessed_at() -> None:
    """Where a block type is a mistake, nothing is said to be read by no block."""
    problem = "up_block_types holds 'CrosAttnUpBlock2D', which is no block for this class"
    config = {**SD15, "down_block_types": ["DownBlock2D"] * 4, "mid_block_type": None, "up_block_types": ["CrosAttnUpBlock2D"] * 4}

    assert [finding.kind for finding in report_on(config, problem).findings] == ["wrong"]
    assert {finding.where[0] for finding in report_on(config).findings} == {"cross_attention_dim"}


def test_a_newer_version_is_named_only_where_a_key_is_unknown() -> None:
    """A config saved by a newer diffusers is clean by itself; an unknown key in it may be that version's."""
    newer = {**SD15, "_diffusers_version": "0.50.0"}

    assert report_on(newer).findings == ()
    found = only_finding(report_on({**newer, "attention_sinks": 4}))
    assert "diffusers 0.50.0, which may know it" in found.what
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


def test_defaults_and_nulls_say_nothing() -> None:
    """A saved config holds every key; one at its default is no finding, read or not."""
    assert report_on({**SD15, "addition_time_embed_dim": None, "cross_attention_norm": None, "resnet_out_scale_factor": 1}).findings == ()


def test_heads_are_said_block_by_block() -> None:
    """Stable Diffusion 1.5 has 8 heads everywhere: of 320 / 8, 640 / 8 and 1280 / 8 channels."""
    meaning = meanings_of(SD15)["attention_head_dim"]

    assert "the number of heads here" in meaning
    assert f"8 heads of {320 // 8} channels in down_blocks.0 and up_blocks.3" in meaning
    assert f"8 heads of {1280 // 8} channels in down_blocks.2, mid_block and up_blocks.1" in meaning


def test_heads_in_other_blocks_are_channels() -> None:
    """In a UNet2DModel, and in SimpleCrossAttn blocks, the same key holds the channels of one head."""
    plain = {"block_out_channels": [32, 64], "down_block_types": ["DownBlock2D", "AttnDownBlock2D"]}
    plain |= {"up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "attention_head_dim": 8}
    simple = {
        **SD15,
        "down_block_types": ["DownBlock2D"] * 3 + ["SimpleCrossAttnDownBlock2D"],
        "mid_block_type": None,
        "attention_head_dim": 64,
    }
    simple |= {"up_block_types": ["UpBlock2D"] * 4}

    assert meanings_of(plain, "UNet2DModel")["attention_head_dim"].endswith(
        "8 heads of 8 channels in down_blocks.1, mid_block and up_blocks.0"
    )
    assert meanings_of(simple)["attention_head_dim"].endswith("20 heads of 64 channels in down_blocks.3")


def test_a_list_of_head_channels_is_not_turned_round_on_the_way_up() -> None:
    """diffusers hands up blocks the list as it is: up_blocks.0 has the first entry, 64 / 16 heads."""
    config: dict[str, Any] = {"block_out_channels": [32, 64], "attention_head_dim": [16, 8], "mid_block_type": None}
    config |= {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["SimpleCrossAttnUpBlock2D", "UpBlock2D"]}

    assert meanings_of(config)["attention_head_dim"].endswith("4 heads of 16 channels in up_blocks.0")


def test_numbers_of_other_keys_are_computed_from_the_config() -> None:
    """SDXL: 1280 + 6 x 256 = 2816; 2 and 3 resnets; 3 up blocks of 3 take 9 skips; 128 cells are 1024 px."""
    said = meanings_of(SDXL)

    assert "2816 = 1280 of text_embeds, the pooled text, and 6 x 256 of time_ids" in said["projection_class_embeddings_input_dim"]
    assert said["layers_per_block"].startswith("2 resnets in each down block, and 3 resnets in each up block")
    assert f"{3 * 3} skips" in said["layers_per_block"]
    assert f"128 is {128 * 8} px" in said["sample_size"]
    assert "(batch, tokens, 2048)" in said["cross_attention_dim"]
    assert "entry 0 says nothing" in said["transformer_layers_per_block"]


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
    report = report_on(config, "in_channels is odd", "must be of one length: down_block_types has 1", class_name=class_name)

    assert all(finding.about == "config" and finding.what for finding in report.findings)
