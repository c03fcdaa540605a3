"""What is found in a config and what its keys are said to mean; and, by building and running, that this is so."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from functools import cache
from typing import Any

import diffusers
import pytest
from diffusers import UNet2DConditionModel, UNet2DModel
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.config_effects import Seen, differs, seen
from tests.tiny import ALL, condition, model_of, plain, some, traced_once
from unetinspect.catalog import Entry, load_catalog
from unetinspect.checking.config import ConfigReport, find_in_config
from unetinspect.checking.effects import Probes
from unetinspect.cli.run import parse_overrides
from unetinspect.errors import Problem
from unetinspect.record.check import Finding
from unetinspect.run.resolve import class_keys, resolve_config
from unetinspect.unets import supported_classes
from unetinspect.unets.builder import is_count
from unetinspect.unets.request import make_request

Config = dict[str, Any]

SD15 = load_catalog()["sd15"].config
KINDS: dict[str, Config] = {
    **ALL,
    "unknown-classes": condition(class_embed_type="unknown", num_class_embeds=5),
}


# Kinds whose keys without effect are changed all at once.
CHANGED = (
    *("conditioned", "simple-cross-attention", "k-blocks", "unknown-classes", "plain-no-mid-block", "unet1d-audio", "dreamlite"),
    *("motion-other-addition", "controlnet-heads", "controlnet-xs"),
)


def report_of(config: Config, *mistakes: Problem, adapt: bool = False, **more: Any) -> ConfigReport:
    """Check a config as `check` does: defaults filled in, unknown keys named."""
    resolved = resolve_config({"_class_name": "UNet2DConditionModel", **config}, adapt=adapt)
    return find_in_config(resolved, config, mistakes=mistakes, **more)


def only_finding(report: ConfigReport) -> Finding:
    """Return the one finding."""
    (finding,) = report.findings
    return finding


def meanings_of(model: str | Config) -> dict[str, str]:
    """Return what each key is said to mean, with a pass of the model."""
    record = traced_once(model)
    report = report_of({**record.model.config, "_class_name": record.model.class_name}, record=record)
    return {meaning.key: meaning.meaning for meaning in report.meanings}


@pytest.mark.parametrize("entry", load_catalog().values(), ids=lambda entry: entry.name)
def test_published_configs_are_clean(entry: Entry) -> None:
    """No config of the catalog has an unknown, unread, deprecated or wrong key."""
    assert report_of(entry.config).findings == ()


@pytest.mark.parametrize(
    ("key", "said", "advice"),
    [
        ("use_gated_attention", 'not a key of UNet2DConditionModel: true is attention_type: "gated"', "remove it"),
        ("num_res_blocks", ": the name of layers_per_block in the UNet of OpenAI and LDM", "remove it: layers_per_block is set too"),
        ("transformer_depth", ": the name of transformer_layers_per_block in", "did you mean transformer_layers_per_block?"),
        ("ch", ": a key of the original DDPM code; block_out_channels has multiples of it", "remove it"),
        ("num_train_timesteps", ": a key of UNet2DModel", "remove it"),
        ("attn_head_dim", "attn_head_dim is not a key of UNet2DConditionModel", "attention_head_dim is similar, and set too"),
        ("use_linear_projecton", "use_linear_projecton is not a key of UNet2DConditionModel", "diffusers ignores it"),  # of another type
        ("zzz", "zzz is not a key of UNet2DConditionModel", "diffusers ignores it"),
    ],
)
def test_an_unknown_key_is_explained(key: str, said: str, advice: str) -> None:
    """Each is a finding with its name, its origin where it is known, and what to do."""
    found = only_finding(report_of({**SD15, key: 1}))

    assert (found.kind, found.where, found.advice) == ("unknown", (key,), advice)
    assert said in found.what


def test_everything_is_found_at_once() -> None:
    """Wrong, contradictory, unknown and unusual keys of one config are all there, and which of them stop the UNet from running."""
    mistakes = (
        Problem(("in_channels",), "in_channels is 0; 4 runs", {"in_channels": 4}),
        Problem(("addition_embed_type", "encoder_hid_dim"), "addition_embed_type is image, which needs encoder_hid_dim"),
    )
    wrong = {"flip_sin_to_cos": "yes", "in_channels": "0", "upblocks": 1, "sample_size": [64, 64, 64]}
    found = report_of({**SD15, **wrong}, *mistakes).findings

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
    advice = str(only_finding(report_of(SD15, Problem(("act_fn",), "act_fn is wrong", {"act_fn": value, "x": 1}))).advice)
    option, first, *others = shlex.split(advice)

    assert (option, others) == ("--set", ["--set", "x=1"])
    assert parse_overrides([first]) == {"act_fn": value}


@pytest.mark.parametrize(
    ("config", "advice"),
    [
        (condition(down_block_types=["UNetResCrossAttnDownBlock2D", "DownBlock2D"]), "use CrossAttnDownBlock2D"),
        (KINDS["dreamlite-old-names"], "use DreamLiteCrossAttnNoSelfAttnDownBlock2D, "),
    ],
    ids=["prefix", "dreamlite"],
)
def test_block_types_under_old_names_are_found(config: Config, advice: str) -> None:
    """What diffusers builds under another name, which it reads as well."""
    report = report_of(config, record=traced_once(config), same=trials_of(config).same)
    found = [finding for finding in report.findings if finding.kind == "deprecated"]

    assert found[0].where == ("down_block_types",)
    assert str(found[0].advice).startswith(advice)


def test_a_newer_version_is_named_only_where_a_key_is_unknown() -> None:
    """A config saved by a newer diffusers is clean by itself; an unknown key in it may be that version's."""
    newer = {**SD15, "_diffusers_version": "99.5.0"}

    assert report_of(newer).findings == ()
    found = only_finding(report_of({**newer, "attention_sinks": 4}))
    assert found.what.endswith(f"in diffusers {diffusers.__version__}; the config is from diffusers 99.5.0")
    assert found.advice is not None
    assert found.advice.endswith("install diffusers 99.5.0")
    assert "0.6.0" not in only_finding(report_of({**SD15, "attention_sinks": 4})).what


def test_keys_that_diffusers_own_tools_leave_behind_are_explained_and_are_not_findings() -> None:
    """EMAModel's keys and those of quantized weights do no harm; "power" alone is unknown."""
    left = {"decay": 0.9999, "optimization_step": 3, "power": 0.75, "quantization_config": {}}
    report = report_of({**SD15, **left})

    assert report.findings == ()
    assert set(left) <= {meaning.key for meaning in report.meanings}
    assert only_finding(report_of({**SD15, "power": 0.75})).where == ("power",)


def test_defaults_and_nulls_are_not_tried() -> None:
    """A saved config has every key: one at its default is not a finding, and costs nothing."""
    defaults = {"addition_time_embed_dim": None, "cross_attention_norm": None, "resnet_out_scale_factor": 1, "sample_size": 32}
    tried = []

    def same(values: Mapping[str, Any]) -> bool:
        tried.append(values)
        return True

    assert report_of(defaults, same=same).findings == ()
    assert tried == []


def test_two_keys_that_hold_the_same_are_one_finding() -> None:
    """Of two keys that hold the same, each has no effect beside the other: one is found, since without both there is one."""
    config = {"num_attention_heads": 4, "attention_head_dim": 4}
    report = report_of(config, same=lambda values: 4 in (values["num_attention_heads"], values["attention_head_dim"]))

    assert len(report.findings) == 1


@pytest.mark.parametrize(
    ("model", "key", "said"),
    [
        # 8 heads everywhere: of 320 / 8, 640 / 8 and 1280 / 8 channels.
        ("sd15", "attention_head_dim", f"the number of heads here: 8 heads of {320 // 8} channels in down_blocks.0 and up_blocks.3, "),
        ("sd15", "attention_head_dim", f", 8 heads of {1280 // 8} channels in down_blocks.2, mid_block and up_blocks.1"),
        # In these blocks the key has the channels of one head; where both are 8, that is said.
        (plain(), "attention_head_dim", "the channels of one head: 4 heads of 8 channels in down_blocks.1"),
        (KINDS["simple-cross-attention"], "attention_head_dim", "the channels of one head: 4 heads of 8 channels"),
        (plain(block_out_channels=[16, 64]), "attention_head_dim", "heads and channels of each: 8 heads of 8 channels in down_blocks.1"),
        ("sdxl", "projection_class_embeddings_input_dim", "2816 = 1280 of text_embeds (pooled text) + 6 x 256 of time_ids"),
        ("sdxl", "layers_per_block", f"2 resnets per down block, 3 per up block to consume {3 * 3} skips"),
        ("sdxl", "sample_size", f"128x128 is {128 * 8}x{128 * 8} px"),
        ("sdxl", "cross_attention_dim", "(batch, tokens, 2048)"),
        ("sdxl", "transformer_layers_per_block", "unused on the way down: entry 0"),
    ],
)
def test_what_a_key_means_has_the_numbers_of_the_pass(model: str | Config, key: str, said: str) -> None:
    """Heads block by block, the parts of a sum, the skips that are consumed, pixels."""
    assert said in meanings_of(model)[key]


def test_heads_that_memory_efficient_attention_refuses_are_said() -> None:
    """64 heads of Stable Diffusion 1.5 have 320 / 64 = 5, 10 and 20 channels, none a multiple of 8; its own have 40, 80 and 160."""
    said = " channels per head: not multiples of 8, which memory-efficient attention needs in half precision"

    assert meanings_of({**SD15, "attention_head_dim": 64})["attention_head_dim"].endswith(f"; 5, 10 and 20{said}")
    assert said not in meanings_of("sd15")["attention_head_dim"]


def trials_of(config: Config) -> Probes:
    """Return what compares other configs with this one, as `check` does."""
    return Probes(model_of(config), resolve_config(config), make_request(batch=2))


def others_of(values: Mapping[str, Any]) -> Config:
    """Return another value for every key that a UNet may read; where diffusers cannot take it, the key has an effect."""
    read = {key: value for key, value in values.items() if key not in ("sample_size", "sample_rate", "num_frames", "out_channels")}
    return {key: not value if isinstance(value, bool) else 2 * value if is_count(value) else "other" for key, value in read.items()}


@cache
def without_effect(name: str) -> Config:
    """Return the keys that are said to have no effect in a kind, changed all at once, with their values there."""
    trials, values = trials_of(KINDS[name]), resolve_config(KINDS[name]).values
    found: Config = {}
    for key, other in others_of(values).items():
        if trials.same({**values, **found, key: other}):
            found[key] = other
    return found


@cache
def base_of(name: str) -> tuple[Seen, Seen]:
    """Build and run a kind as it is, once."""
    return seen(KINDS[name])


@pytest.mark.parametrize("name", some(CHANGED, 4))
def test_keys_that_are_said_to_have_no_effect_have_none(name: str) -> None:
    """With all of them changed at once, diffusers builds the same modules and tensors, and computes the same to the last bit."""
    unread = without_effect(name)

    is_same = seen({**KINDS[name], **unread}) == base_of(name)  # apart: pytest would write out how a million numbers differ

    assert unread
    assert is_same


def test_keys_that_have_an_effect_are_not_said_to_have_none() -> None:
    """Every key that is said to have one changes what is built or computed, or is refused."""
    config, unread = KINDS["conditioned"], without_effect("conditioned")
    values = resolve_config(config).values
    tried = {key: other for key, other in others_of(values).items() if key not in unread}

    assert [key for key, other in tried.items() if not differs({**config, key: other}, base_of("conditioned"))] == []


@pytest.mark.parametrize("name", ["conditioned", "plain-no-mid-block"])
def test_every_key_without_effect_is_found_where_it_is_given(name: str) -> None:
    """A finding for each, which names the key and the value; those at their default are passed over."""
    config = {**KINDS[name], **without_effect(name)}
    defaults = class_keys()[config["_class_name"]]
    findings = report_of(config, adapt=True, same=trials_of(config).same).findings
    found = {finding.where[0]: finding for finding in findings if finding.kind in ("ignored", "unusual")}

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
    (finding,) = [finding for finding in report_of(config, adapt=True, same=trials_of(config).same).findings if finding.where == (key,)]

    assert finding.kind == "unusual"
    assert finding.what == f'{key} is "{value}": diffusers does not know this value, and runs with it'
    assert seen({**config, key: "yet another"}) == seen(config)
    assert seen(KINDS[name]) != seen(config)


@pytest.mark.parametrize("name", ["conditioned", "simple-cross-attention", "per-block-lists", "plain", "no-mid-block"])
def test_heads_and_resnets_are_said_as_they_are_traced(name: str) -> None:
    """The heads and the channels of each block's attention, and the number of its resnets, are those of a real forward pass."""
    record, said = traced_once(KINDS[name]), meanings_of(KINDS[name])
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


@settings(max_examples=50, deadline=None)
@given(st.data(), st.sampled_from(supported_classes()))
def test_whatever_the_values_every_class_gets_an_answer(data: st.DataObject, class_name: str) -> None:
    """Values of any type under real keys, and unknown keys beside them, end in findings that can be written down."""
    keys = st.sampled_from([*class_keys()[class_name], "_diffusers_version", "num_res_blocks", "decay", "optimization_step"])
    config = data.draw(st.dictionaries(keys | st.text(max_size=6), _VALUES, max_size=8))
    config.setdefault(next(iter(class_keys()[class_name])), 1)  # a config with none of the class's keys is refused
    report = report_of({**config, "_class_name": class_name}, Problem(("in_channels",), "in_channels is odd"), same=lambda values: True)

    assert all(finding.about == "config" and finding.what for finding in report.findings)


@settings(max_examples=8)
@given(st.sampled_from([plain(), condition()]), st.integers(1, 16))
def test_heads_that_leave_channels_out_are_found(config: Config, heads: int) -> None:
    """As the built layers show: one whose input is wider than its queries, or a transformer that projects to fewer channels."""
    config = {**config, "attention_head_dim": heads}
    record = traced_once(config)
    unet: Any = (UNet2DModel if config["_class_name"] == "UNet2DModel" else UNet2DConditionModel).from_config(config)
    layers = [module for name, module in unet.named_modules() if name.endswith((".proj_in", ".attentions.0.to_q"))]
    pairs = {sides for layer in layers if (sides := (layer.weight.shape[0], layer.weight.shape[1]))[0] < sides[1]}
    found = [finding for finding in report_of(config, record=record).findings if finding.where == ("attention_head_dim",)]

    assert [finding.kind for finding in found] == ["unusual"] * bool(pairs)
    for finding in found:
        assert {(int(used), int(whole)) for used, whole in re.findall(r"(\d+) of (\d+) channels", finding.what)} == pairs
        *widths, such = map(int, re.findall(r"\d+", str(finding.advice)))
        assert all(width % such == 0 for width in widths)
