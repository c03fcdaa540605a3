"""Configs as people have them: training configs, LDM's and guided-diffusion's files, what Python prints; and what is none of a UNet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.convert_from_ckpt import create_unet_diffusers_config

from tests.tiny import ALL, CONDITION, OF_EACH_CLASS, condition
from unetinspect import trace
from unetinspect.catalog import load_catalog
from unetinspect.errors import ConfigError, SourceError, UnetInspectError, UsageError
from unetinspect.run.resolve import class_keys, diffusers_class, resolve_config
from unetinspect.source import LoadedModel, read_model
from unetinspect.unets.unknown_keys import explain_key

Config = dict[str, Any]

OPENAI = "ldm.modules.diffusionmodules.openaimodel.UNetModel"
SGM = "sgm.modules.diffusionmodules.openaimodel.UNetModel"
SD1 = yaml.safe_load("""{image_size: 32, in_channels: 4, out_channels: 4, model_channels: 320, attention_resolutions: [4, 2, 1],
    num_res_blocks: 2, channel_mult: [1, 2, 4, 4], num_heads: 8, use_spatial_transformer: True, transformer_depth: 1, context_dim: 768,
    use_checkpoint: True, legacy: False}""")
SD2 = yaml.safe_load("""{use_checkpoint: True, use_fp16: True, image_size: 32, in_channels: 4, out_channels: 4, model_channels: 320,
    attention_resolutions: [4, 2, 1], num_res_blocks: 2, channel_mult: [1, 2, 4, 4], num_head_channels: 64,
    use_spatial_transformer: True, use_linear_in_transformer: True, transformer_depth: 1, context_dim: 1024, legacy: False}""")
XL = yaml.safe_load("""{adm_in_channels: 2816, num_classes: sequential, use_checkpoint: True, in_channels: 4, out_channels: 4,
    model_channels: 320, attention_resolutions: [4, 2], num_res_blocks: 2, channel_mult: [1, 2, 4], num_head_channels: 64,
    use_linear_in_transformer: True, transformer_depth: [1, 2, 10], context_dim: 2048,
    spatial_transformer_attn_type: softmax-xformers}""")
REFINER = XL | yaml.safe_load("""{adm_in_channels: 2560, model_channels: 384, channel_mult: [1, 2, 4, 4], transformer_depth: 4,
    context_dim: [1280, 1280, 1280, 1280]}""")
UPSCALER = yaml.safe_load("""{use_checkpoint: True, num_classes: 1000, image_size: 128, in_channels: 7, out_channels: 4,
    model_channels: 256, attention_resolutions: [2, 4, 8], num_res_blocks: 2, channel_mult: [1, 2, 2, 4],
    disable_self_attentions: [True, True, True, False], disable_middle_self_attn: False, num_heads: 8, use_spatial_transformer: True,
    transformer_depth: 1, context_dim: 1024, legacy: False, use_linear_in_transformer: True}""")
FACES = yaml.safe_load("""{image_size: 64, in_channels: 3, out_channels: 3, model_channels: 224, attention_resolutions: [8, 4, 2],
    num_res_blocks: 2, channel_mult: [1, 2, 3, 4], num_head_channels: 32}""")
SVD = yaml.safe_load("""{adm_in_channels: 768, num_classes: sequential, use_checkpoint: True, in_channels: 8, out_channels: 4,
    model_channels: 320, attention_resolutions: [4, 2, 1], num_res_blocks: 2, channel_mult: [1, 2, 4, 4], num_head_channels: 64,
    use_linear_in_transformer: True, transformer_depth: 1, context_dim: 1024, spatial_transformer_attn_type: softmax-xformers,
    extra_ff_mix_layer: True, use_spatial_context: True, merge_strategy: learned_with_images, video_kernel_size: [3, 1, 1]}""")
# As published: the arguments of the UNet, their class, and the same UNet in the catalog.
LDM = {
    "v1-inference.yaml": (SD1, OPENAI, "sd15"),
    "v2-inference-v.yaml": (SD2, OPENAI, "sd21"),
    "v2-midas-inference.yaml": ({**SD2, "in_channels": 5}, OPENAI, "sd2-depth"),
    "v2-1-stable-unclip-h-inference.yaml": ({**SD2, "num_classes": "sequential", "adm_in_channels": 2048}, OPENAI, "sd21-unclip"),
    "txt2img-1p4B-eval.yaml": ({**SD1, "context_dim": 1280}, OPENAI, "ldm-text2im-large-256"),
    "x4-upscaling.yaml": (UPSCALER, OPENAI, "sd-x4-upscaler"),
    "sd_xl_base.yaml": (XL, SGM, "sdxl"),
    "sd_xl_refiner.yaml": (REFINER, SGM, "sdxl-refiner"),
    "celebahq-ldm-vq-4.yaml": (FACES, OPENAI, "ldm-celebahq-256"),
    "svd.yaml": (SVD, "sgm.modules.diffusionmodules.video_model.VideoUNet", "svd-xt"),
}
# Neither the size nor the precision is in an LDM file, nor a factor of 1, nor another way to write the same heads.
NOT_IN_LDM = {"sample_size", "upcast_attention", "mid_block_scale_factor", "num_frames", "_diffusers_version", "act_fn"}


def write(folder: Path, name: str, content: Any) -> LoadedModel:
    """Write a file, and read it as MODEL."""
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return read_model(path)


def of_ldm(params: Config, target: str) -> Config:
    """Return a whole file of LDM, or of SGM."""
    unet = {"target": target, "params": params}
    autoencoder = {"target": "ldm.models.autoencoder.AutoencoderKL", "params": {"embed_dim": 4, "ddconfig": {"ch_mult": [1, 2, 4, 4]}}}
    inner = {"network_config" if target.startswith("sgm.") else "unet_config": unet, "first_stage_config": autoencoder}
    return {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": {"image_size": 64, "timesteps": 1000, **inner}}}


# What diffusers' converter decides instead of the file: Stable Diffusion XL, and 2 where it predicts the velocity.
SAMPLE_SIZES = {"sd_xl_base.yaml": 128, "sd_xl_refiner.yaml": 128, "v2-inference-v.yaml": 96}


def values_of(config: Config) -> Config:
    """Return every key with its value, defaults filled in."""
    resolved = resolve_config(config)
    return {"_class_name": resolved.class_name, **resolved.values}


@pytest.mark.parametrize("name", LDM)
def test_an_ldm_file_is_the_unet_that_it_describes(tmp_path: Path, name: str) -> None:
    """Key by key it is the published config; where diffusers' own converter reads the file, it says the same."""
    params, target, published = LDM[name]
    whole = of_ldm(params, target)
    whole["model"]["params"] |= {"parameterization": "v"} if name in ("v2-inference-v.yaml", "x4-upscaling.yaml") else {}
    found = write(tmp_path, name, whole)
    values, expected = values_of(found.config), values_of(load_catalog()[published].config)

    assert {key for key in expected if values[key] != expected[key]} <= NOT_IN_LDM
    assert (found.vae_scale_factor, values["sample_size"]) == (8, SAMPLE_SIZES.get(name, 64))
    assert name not in SAMPLE_SIZES or values["sample_size"] == expected["sample_size"]
    assert found.notes[1] == f"{target} translated to diffusers: `unetinspect config` shows the result"
    assert any(note.startswith("sample_size ") for note in found.notes) == (name in SAMPLE_SIZES)
    assert not any("not translated" in note for note in found.notes)
    if "transformer_depth" in params and "VideoUNet" not in target:
        converted = create_unet_diffusers_config(whole, 8 * values["sample_size"])
        assert {key: list(value) if isinstance(value, tuple) else value for key, value in converted.items()} == {
            # The converter leaves what it does not know at null, where diffusers reads its default.
            key: values[key] if value is not None or values[key] is None else None
            for key, value in converted.items()
        }


IMAGENET = (
    "--attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --dropout 0.1 --image_size 64 --learn_sigma False"
    " --noise_schedule cosine --num_channels 192 --num_head_channels 64 --num_res_blocks 3 --resblock_updown True"
    " --use_new_attention_order True --use_fp16 True --use_scale_shift_norm True"
)


@pytest.mark.parametrize("written", ["flags", "yaml"])
def test_flags_of_guided_diffusion_are_the_unet_that_they_make(tmp_path: Path, written: str) -> None:
    """The flags of ImageNet 64, on a command line and in a file, are the published UNet of the consistency model with the same."""
    words = IMAGENET.split()
    flags = {key.removeprefix("--"): yaml.safe_load(value) for key, value in zip(words[::2], words[1::2], strict=True)}
    found = write(tmp_path, "f.txt", f'MODEL_FLAGS="{IMAGENET}"' if written == "flags" else {"model": {**flags, "channel_mult": ""}})
    values, expected = values_of(found.config), values_of(load_catalog()["cd-imagenet64"].config)

    assert {key for key in expected if values[key] != expected[key]} == {"dropout"}  # which inference leaves out


NESTED: dict[str, Any] = {
    "class beside the keys": {"seed": 1, "model": {"name": "UNet2DConditionModel", **CONDITION}, "training": {"lr": 1e-4}},
    "hydra": {"model": {"unet": {"_target_": "diffusers.UNet2DConditionModel", "_convert_": "all", **CONDITION}}},
    "lightning": {"model": {"class_path": "my.Module", "init_args": {"net": {"class_path": "diffusers.UNet2DConditionModel"}}}},
    "class around the keys": {"config": {"eps_model": {"class_name": "diffusers.UNet2DConditionModel", "config": CONDITION}}},
    "class as the key": {"models": [{"UNet2DConditionModel": CONDITION}]},
    "no class": {"unet": CONDITION, "vae": {"block_out_channels": [8], "down_block_types": ["DownEncoderBlock2D"]}},
    "a controlnet beside it": {"control": {"_class_name": "ControlNetModel", "conditioning_channels": 3}, "unet": CONDITION},
}
NESTED["lightning"]["model"]["init_args"]["net"]["init_args"] = CONDITION


@pytest.mark.parametrize("form", NESTED)
def test_the_unet_of_a_training_config_is_found(tmp_path: Path, form: str) -> None:
    """In whatever section, with its class wherever it is named, and guessed where it is not; a note says where it was."""
    text = yaml.safe_dump(NESTED[form]).replace("_class_name: UNet2DConditionModel\n", "X: 0\n")
    found = write(tmp_path, "train.yaml", "\n".join(line for line in text.splitlines() if not line.endswith("X: 0")))

    assert values_of(found.config) == values_of(CONDITION)
    assert found.notes[0].startswith("config read from the section ")
    assert any("guessed UNet2DConditionModel" in note for note in found.notes) == (form in ("no class", "a controlnet beside it"))


def test_interpolations_are_looked_up_or_named(tmp_path: Path) -> None:
    """OmegaConf's, absolute and relative; those that other files or the environment decide must be set."""
    unet = {**CONDITION, "cross_attention_dim": "${text.width}", "sample_size": "${.out_channels}", "in_channels": "${oc.env:CHANNELS}"}
    found = write(tmp_path, "run.yaml", {"text": {"width": "${text.own}", "own": 24}, "unet": unet, "loop": "${loop}"})
    values = values_of({**found.config, "in_channels": 4})

    assert (values["cross_attention_dim"], values["sample_size"]) == (24, CONDITION["out_channels"])
    with pytest.raises(ConfigError, match=r"^in_channels is \$\{oc\.env:CHANNELS\}, which this file does not resolve\nhint: "):
        resolve_config(found.config)
    assert resolve_config(found.config, {"in_channels": 4}).values["in_channels"] == 4


def test_what_python_prints_is_read(tmp_path: Path) -> None:
    """`print(unet.config)` of this diffusers and of older ones, and a dict; null, true and tuples are Python's."""
    config = dict(UNet2DConditionModel.from_config(CONDITION).config)
    expected = {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}
    items = ", ".join(f"({key!r}, {value!r})" for key, value in config.items())

    for text in (str(UNet2DConditionModel.from_config(CONDITION).config), f"FrozenDict([{items}])", f"FrozenDict({config})", str(config)):
        for name in ("printed.txt", "printed.json", "printed.yaml"):
            found = write(tmp_path, name, text).config
            assert {key: found.get(key, "absent") for key in expected} == expected
    for around in (">>> print(unet.config)\n{}", ">>> unet.config\n{}\n>>> ", "In [3]: unet.config\nOut[3]: {}"):
        assert write(tmp_path, "console.txt", around.format(config)).config == found
    with pytest.raises(ConfigError, match=r"is what print\(unet\) prints"):
        write(tmp_path, "modules.txt", str(UNet2DConditionModel.from_config(CONDITION)))
    with pytest.raises(ConfigError, match="is not a dict of plain values"):
        write(tmp_path, "shortened.txt", "FrozenDict([('sample_size', 64), ..., ('in_channels', 4)])")
    with pytest.raises(ConfigError):
        write(tmp_path, "code.txt", "{'sample_size': __import__('os').getpid()}")


@pytest.mark.parametrize("number", ["1e-05", "1E5", "-2.5e+3", ".5e1"])
def test_numbers_with_an_exponent_are_numbers(tmp_path: Path, cli: Any, number: str) -> None:
    """In YAML, as in JSON, and after `--set`; in quotes they stay text."""
    found = write(tmp_path, "c.yaml", f"_class_name: UNet2DModel\nnorm_eps: {number}\nact_fn: '{number}'\n")
    shown = json.loads(
        cli("config", str(tmp_path / "c.yaml"), "--set", f"norm_eps={number}", "--set", f"freq_shift=[{number}, x]", "--json")[1]
    )

    assert found.config == {"_class_name": "UNet2DModel", "norm_eps": float(number), "act_fn": number}
    assert (shown["model"]["config"]["norm_eps"], shown["model"]["config"]["freq_shift"]) == (float(number), [float(number), "x"])


VIDEO = "sgm.modules.diffusionmodules.video_model.SpatialUNetModelWithTime"
REFUSED: dict[str, tuple[Any, type[UnetInspectError], str]] = {
    "a model elsewhere": ({"pretrained_model_name_or_path": "org/model", "lr": 1}, SourceError, "loads org/model\nhint: "),
    "a model elsewhere, further in": (
        {"job": "extension", "config": {"process": [{"type": "sd_trainer", "model": {"name_or_path": "org/model"}}]}},
        SourceError,
        "loads org/model\nhint: ",
    ),
    "hydra, elsewhere": (
        {"unet": {"_target_": "diffusers.UNet2DModel.from_pretrained", "pretrained_model_name_or_path": "org/model"}},
        SourceError,
        "the section unet loads org/model\nhint: ",
    ),
    "a VAE of LDM": (
        {"model": {"target": "ldm.models.autoencoder.AutoencoderKL", "params": {"ddconfig": {"ch": 128}}}},
        ConfigError,
        "is a config of ldm.models.autoencoder.AutoencoderKL and has no UNet\nhint: ",
    ),
    "a UNet of another code": (of_ldm(SVD, VIDEO), ConfigError, f"network_config is a {VIDEO}, which no class"),
    "heads of many widths": (
        of_ldm({**FACES, "num_head_channels": -1, "num_heads": 8}, OPENAI),
        ConfigError,
        "8 attention heads at every level, 56, 84 and 112 channels wide",
    ),
    "arguments left out": (of_ldm({"model_channels": 320}, OPENAI), ConfigError, "not the arguments of a UNet: KeyError"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_unet_is_named(tmp_path: Path, kind: str) -> None:
    """Never a default UNet: the error says what the file is."""
    content, error, message = REFUSED[kind]
    with pytest.raises(error, match=message):
        write(tmp_path, "c.yaml", content)


def test_a_config_with_none_of_the_keys_of_its_class_is_refused(tmp_path: Path, cli: Any) -> None:
    """Not the class's default UNet, whatever class is asked for; a class with no keys at all is its default UNet."""
    write(tmp_path, "train.yaml", {"training": {"epochs": 3}, "optimizer": {"lr": 1e-4}})
    code, out, error = cli("trace", str(tmp_path / "train.yaml"), "--set", "_class_name=UNet2DConditionModel", "--set", "sample_size=8")

    assert (code, out) == (2, "")
    assert error.startswith("error: not a config of UNet2DConditionModel: it has none of its keys, but optimizer and training\nhint: ")
    assert resolve_config({"_class_name": "UNet2DModel"}).values == class_keys()["UNet2DModel"]


CASCADE = yaml.safe_load("""{_class_name: StableCascadeUnet, block_repeat: [[1, 1, 1, 1], [3, 3, 2, 2]],
    blocks: [[2, 6, 28, 6], [6, 28, 6, 2]], c_clip_img: null, c_clip_seq: 4, c_clip_text: null, c_clip_text_pooled: 1280, c_cond: 1280,
    c_effnet: 16, c_hidden: [320, 640, 1280, 1280], c_in: 4, c_out: 4, c_pixels: 3, c_r: 64, dropout: [0, 0, 0.1, 0.1],
    kernel_size: 3, level_config: [CT, CT, CTA, CTA], nhead: [-1, -1, 20, 20], patch_size: 2, self_attn: True, switch_level: null,
    t_conds: [sca]}""")


def test_the_first_stable_cascade_is_todays(tmp_path: Path) -> None:
    """Its config, in its own keys, is the published one of the decoder; under today's class each key is told what to set."""
    found, expected = write(tmp_path, "cascade.json", json.dumps(CASCADE)), values_of(load_catalog()["stable-cascade-decoder"].config)
    expected["num_attention_heads"] = CASCADE["nhead"]  # -1 at levels without attention, where the published config has 0
    given, own = {**CASCADE, "_class_name": "StableCascadeUNet"}, class_keys()["StableCascadeUNet"]
    advised = [explain_key(key, own, class_keys(), given=given) for key in resolve_config(given).ignored]
    change = {key: value for unknown in advised for key, value in unknown.change.items()}
    kept = {key: value for key, value in given.items() if key in (*own, "_class_name")}

    assert values_of(found.config) == expected
    assert {key for key in CASCADE if key not in own} - {"_class_name"} == {unknown.key for unknown in advised}
    assert values_of({**kept, **change}) == expected


def test_advice_on_a_switch_of_old_is_the_same_unet(cli: Any, tmp_path: Path) -> None:
    """GLIGEN's: what `check` says to type has the 209 M parameters that the key of 2023 asked for."""
    write(tmp_path, "gligen.json", json.dumps({**load_catalog()["sd15"].config, "use_gated_attention": True}))
    code, text, _ = cli("check", str(tmp_path / "gligen.json"), "--device", "meta", "--json")
    (finding,) = json.loads(text)["check"]["findings"]
    option, _, change = finding["advice"].partition(" ")
    key, _, value = change.partition("=")

    assert (code, finding["where"], option) == (1, ["use_gated_attention"], "--set")
    assert trace(str(tmp_path / "gligen.json"), overrides={key: value}, device="meta").totals.params == 1_068_623_204


@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [
        ("use_linear_projecton", True, "use_linear_projection"),
        ("use_linear_projecton", 3, None),  # another type
        ("norm_group", 8, "norm_num_groups"),
        ("gated_attention", True, None),  # shares a word with upcast_attention, and means another thing
        ("in_chanels", 4, "in_channels"),
        ("in_chanels", "four", None),
    ],
)
def test_a_suggestion_shares_words_and_type(key: str, value: Any, meant: str | None) -> None:
    """Most of the words, one of which may be misspelt."""
    explained = explain_key(key, class_keys()["UNet2DConditionModel"], class_keys(), given={key: value})

    assert (explained.meant, explained.advice(())) == (meant, f"did you mean {meant}?" if meant else "diffusers ignores it")
    with pytest.raises(UsageError) as refused:
        resolve_config(condition(), {key: value})
    assert (meant is not None) == (f"did you mean {meant}?" in str(refused.value.hint))


@pytest.mark.parametrize("kind", OF_EACH_CLASS.values(), ids=list(OF_EACH_CLASS))
def test_a_written_config_is_one_that_diffusers_builds_the_same_unet_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Any, kind: str
) -> None:
    """JSON or YAML, by the extension; what was overridden is in it. The `config` of a record is one, too, also in Python."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "given.json", json.dumps(ALL[kind]))

    def shapes(config: dict[str, Any]) -> dict[str, torch.Size]:
        with torch.device("meta"):
            unet = diffusers_class(config["_class_name"]).from_config(config)
        return {name: tensor.shape for name, tensor in unet.state_dict().items()}

    record = trace(ALL[kind], device="meta")
    for path in ("unet.json", "unet.yaml", "unet.yml"):
        assert cli("config", "given.json", "-o", path, "-q") == (0, "", "")
        text = (tmp_path / path).read_text()
        written = json.loads(text) if path == "unet.json" else yaml.safe_load(text)
        assert written == record.model.config
        assert written["_class_name"] == record.model.class_name
    built = shapes(written)
    if kind != "unet1d-audio":  # it has a width that diffusers cannot run, which is replaced
        assert built == shapes(ALL[kind])
    assert trace(record.model.config, device="meta").totals.params == record.totals.params


def test_a_written_config_has_what_was_overridden_and_the_record_stays_under_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Any
) -> None:
    """`--json` is the record, on stdout and in a file, where a note says what is not in it; both are models of this program."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "given.json", json.dumps(condition()))
    printed = cli("config", "given.json", "--json")[1]

    assert cli("config", "given.json", "--set", "layers_per_block=1", "-o", "one.json") == (0, "", "")
    assert json.loads((tmp_path / "one.json").read_text()) == {**json.loads(printed)["model"]["config"], "layers_per_block": 1}
    assert cli("config", "one.json", "-o", "again.yaml") == cli("config", "again.yaml", "-o", "again.json") == (0, "", "")
    assert (tmp_path / "again.json").read_text() == (tmp_path / "one.json").read_text()
    for option in ("--json", "--format json"):
        note = f"note: record.json is a record, not a config: save one with -o FILE.json without {option}\n"
        assert cli("config", "given.json", *option.split(), "-o", "record.json") == (0, "", note)
        assert (tmp_path / "record.json").read_text() == printed
    with (tmp_path / "redirected.json").open("w") as file, monkeypatch.context() as redirected:
        redirected.setattr("sys.stdout", file)
        assert cli("config", "given.json", "--json") == (
            0,
            "",
            "note: this is a record, not a config: save one with -o FILE.json\n",
        )
        assert cli("config", "given.json", "-q", "--json") == (0, "", "")
        assert cli("config", "given.json", "--format", "csv") == (0, "", "")
    assert (tmp_path / "redirected.json").read_text().startswith(printed * 2)
    assert cli("config", "record.json", "-o", "same.json") == (0, "", "")
    assert json.loads((tmp_path / "same.json").read_text()) == json.loads(printed)["model"]["config"]
    code, _, err = cli("config", "sd-turbo", "-o", "turbo.json")
    assert (code, err) == (0, "note: reconstructed from code and similar models, not a verbatim copy of the published config\n")


@pytest.mark.parametrize("kind", ["conditioned", "controlnet"])
def test_the_config_is_that_of_the_built_unet(tmp_path: Path, cli: Any, kind: str) -> None:
    """`encoder_hid_dim` without a type is text_proj to diffusers; a config that cannot be built is shown as it is given."""
    config = {**ALL[kind], "encoder_hid_dim": 12}
    path = str(tmp_path / "c.json")
    write(tmp_path, "c.json", json.dumps(config))
    built = diffusers_class(config["_class_name"]).from_config(config).config
    shown = json.loads(cli("config", path, "--json")[1])["model"]["config"]
    traced = json.loads(cli("trace", path, "--device", "meta", "--json")[1])["model"]["config"]

    assert shown == traced == {key: list(built[key]) if isinstance(built[key], tuple) else built[key] for key in shown}
    assert shown["encoder_hid_dim_type"] == "text_proj"
    assert json.loads(cli("config", path, "--set", "act_fn=zzz", "--json")[1])["model"]["config"]["act_fn"] == "zzz"
