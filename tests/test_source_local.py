"""Reading from this machine: files, folders, standard input, the catalog; and what is none of them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from typing import Any

import pytest
import yaml

from unetinspect.errors import SourceError, UnetInspectError, UsageError
from unetinspect.record import AttentionCounts, ModelInfo, Run, SkipCounts, Source, TensorInfo, Totals, Trace
from unetinspect.source import LoadedModel, read_model
from unetinspect.source.pipeline import NoUnetError

UNET = {"_class_name": "UNet2DConditionModel", "block_out_channels": [32, 64], "sample_size": 8}
VAE = {"_class_name": "AutoencoderKL", "block_out_channels": [8, 8, 8, 8]}
INDEX = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Return an empty folder to work in; the catalog's names are looked up from there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder, files: dict[str, Any]) -> None:
    """Write each value as JSON under its path."""
    for path, value in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def refusal(model, **options) -> tuple[type[UnetInspectError], str, str | None]:
    """Return the error that reading MODEL ends in: its class, sentence and hint."""
    with pytest.raises(UnetInspectError) as caught:
        read_model(model, **options)
    return type(caught.value), caught.value.message, caught.value.hint


def saved_trace() -> Trace:
    """Return the smallest whole record."""
    return Trace(
        model=ModelInfo(
            name="acme/sd", class_name="UNet2DConditionModel", params=1, source=Source(kind="hub", location="acme/sd"), config=UNET
        ),
        run=Run(
            device="meta",
            dtype="float32",
            batch=1,
            cfg=False,
            cfg_reason="",
            forward_batch=1,
            image_size=(32, 32),
            sample_size=(8, 8),
            sample_size_from="",
            vae_scale_factor=4,
            vae_scale_from="vqvae/config.json",
            inputs=(),
            versions={},
        ),
        output=TensorInfo(shape=(1, 3, 8, 8), dtype="float32"),
        totals=Totals(params=1, weight_bytes=4, attention=AttentionCounts(), skips=SkipCounts(produced=0, consumed=0)),
        stages=(),
        skips=(),
        attentions=(),
        modules=(),
    )


@pytest.mark.parametrize("name", ["my.json", "my.yaml", "my.yml", "my-config", "./my.json"])
def test_config_files(here, name):
    """A config file is read as JSON or YAML, by its name or, without one that says, by its first character."""
    (here / name).write_text(yaml.safe_dump(UNET) if "y" in name.rpartition(".")[2] else json.dumps(UNET), encoding="utf-8")
    bare = name.removeprefix("./")
    assert read_model(name) == LoadedModel(name=bare, config=UNET, source=Source(kind="file", location=bare))


def test_path_objects_are_paths(here):
    """A `Path` is read as a path, and never as a name or an ID."""
    write(here, {"a.json": UNET})
    assert read_model(here / "a.json").config == UNET
    kind, message, _ = refusal(here / "sd15")
    assert (kind, message) == (SourceError, f"there is no file or folder '{here / 'sd15'}'")


def test_byte_order_mark_is_no_error(here):
    """Editors that put a mark before UTF-8 are forgiven."""
    (here / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(UNET).encode())
    assert read_model("a.json").config == UNET


@pytest.mark.parametrize(
    "text", [json.dumps(UNET), yaml.safe_dump(UNET), "\n  " + json.dumps(UNET, indent=2)], ids=["json", "yaml", "indented"]
)
def test_standard_input(text):
    """`-` reads a config from standard input, of a text stream or of a binary one below it."""
    expected = LoadedModel(name="stdin", config=UNET, source=Source(kind="stdin", location="-"))
    assert read_model("-", stdin=io.StringIO(text)) == expected
    assert read_model("-", stdin=io.TextIOWrapper(io.BytesIO(text.encode()), encoding="ascii")) == expected


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_named_pipe(here):
    """A pipe, as `<(command)` gives it, is read as a file is."""
    os.mkfifo("pipe")
    threading.Thread(target=(here / "pipe").write_text, args=(json.dumps(UNET),), daemon=True).start()
    assert read_model("pipe").config == UNET


@pytest.mark.parametrize(
    ("files", "model", "name", "source", "vae"),
    [
        ({"sd/unet/config.json": UNET, "sd/vae/config.json": VAE}, "sd", "sd", ("folder", "unet"), (8, "vae/config.json")),
        ({"sd/unet/config.json": UNET, "sd/vae/config.json": VAE}, "sd/unet", "sd", ("folder", None), (8, "vae/config.json")),
        ({"sd/unet/config.json": UNET, "sd/vae/config.json": VAE}, "sd/unet/config.json", "sd", ("file", None), (8, "vae/config.json")),
        (
            {"sd/unet/config.json": UNET, "sd/vqvae/config.json": {"block_out_channels": [1, 2, 3]}},
            "sd",
            "sd",
            ("folder", "unet"),
            (4, "vqvae/config.json"),
        ),
        ({"sd/unet/config.json": UNET}, "sd", "sd", ("folder", "unet"), (None, "")),
        ({"my/config.json": UNET}, "my", "my", ("folder", None), (None, "")),
        ({"my/config.json": UNET}, "my/config.json", "my", ("file", None), (None, "")),
        (
            {"k/model_index.json": {"_class_name": "P", "prior": ["diffusers", "UNet2DModel"]}, "k/prior/config.json": UNET},
            "k",
            "k",
            ("folder", "prior"),
            (None, ""),
        ),
        (
            {"sd/model_index.json": INDEX, "sd/unet/config.json": UNET, "sd/vae/config.json": VAE},
            "sd/model_index.json",
            "sd",
            ("folder", "unet"),
            (8, "vae/config.json"),
        ),
        (
            {"sd/unet/config.json": UNET, "sd/vae/config.json": {"_class_name": "AutoencoderTiny", "encoder_block_out_channels": [64] * 4}},
            "sd",
            "sd",
            ("folder", "unet"),
            (8, "vae/config.json"),
        ),
    ],
    ids=[
        "pipeline",
        "its unet folder",
        "its unet config",
        "vq model",
        "no vae",
        "bare unet",
        "its config",
        "other component",
        "index",
        "tiny vae",
    ],
)
def test_folders(here, files, model, name, source, vae):
    """A pipeline, a component of one and a folder with a UNet are read, with the factor of the pipeline's VAE."""
    write(here, files)
    found = read_model(model)
    assert (found.name, found.config) == (name, UNET)
    assert (found.source.kind, found.source.subfolder) == source
    assert (found.vae_scale_factor, found.vae_scale_from) == vae
    assert found.notes == ()


def test_subfolder_of_a_folder(here):
    """--subfolder reads the folder's own config, or the pipeline in it."""
    write(here, {"sd/unet/config.json": {}, "sd/vae/config.json": VAE, "sd/ema/config.json": UNET, "sd/v2/unet/config.json": UNET})
    assert read_model("sd", subfolder="ema/") == LoadedModel(
        name="sd",
        config=UNET,
        source=Source(kind="folder", location="sd", subfolder="ema"),
        vae_scale_factor=8,
        vae_scale_from="vae/config.json",
    )
    assert read_model("sd", subfolder="v2").source.subfolder == "v2/unet"
    assert refusal("sd", subfolder="uent") == (SourceError, "sd has no folder 'uent'", "folders with a config: ema, unet, vae")


def test_index_says_the_class_that_a_config_leaves_out(here):
    """A component's config without `_class_name` gets the class that model_index.json names; without an index it stays as it is."""
    bare = {"sample_size": 8}
    write(here, {"sd/model_index.json": INDEX, "sd/unet/config.json": bare, "other/unet/config.json": bare})
    for model in ("sd", "sd/unet", "sd/unet/config.json"):
        assert read_model(model).config == {"_class_name": "UNet2DConditionModel", "sample_size": 8}
    assert read_model("other").config == bare


def test_several_unets_in_a_pipeline(here):
    """The first of several is read, and a note names the others."""
    index = {"_class_name": "P", "decoder": ["diffusers", "UNet2DModel"], "super_res": ["diffusers", "UNet2DModel"]}
    write(here, {"k/model_index.json": index, "k/decoder/config.json": UNET, "k/super_res/config.json": UNET})
    found = read_model("k")
    assert found.source.subfolder == "decoder"
    assert found.notes == ("k contains several UNets; this is decoder, for the others use --subfolder super_res",)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"x/readme": "hello"}, "no UNet here: x has no unet/config.json, config.json or model_index.json"),
        ({"x/config.json": VAE}, "no UNet here: the config.json of x is of AutoencoderKL"),
        (
            {"x/model_index.json": {"_class_name": "FluxPipeline", "t": ["diffusers", "FluxTransformer2DModel"]}},
            "no UNet here: in x, `t` is FluxTransformer2DModel",
        ),
        (
            {"x/model_index.json": {"_class_name": "P", "s": ["diffusers", "DDIMScheduler"]}},
            "no UNet here: x is a P, and its model_index.json lists no UNet",
        ),
        ({"x/model_index.json": INDEX}, "no UNet here: in x, `unet` is UNet2DConditionModel, and unet/config.json is missing"),
    ],
    ids=["nothing", "another model", "another pipeline", "nothing that denoises", "component missing"],
)
def test_folders_without_a_unet(here, files, message):
    """A folder without a UNet says what there is instead."""
    write(here, files)
    kind, found, hint = refusal("./x")
    assert (kind, found) == (NoUnetError, message)
    assert "UNet2DConditionModel" in str(hint)


def test_saved_trace(here):
    """A saved trace is read whole from a file or standard input, with its own name, config and VAE factor."""
    record = saved_trace()
    write(here, {"t.json": record.to_json()})
    found = read_model("t.json")
    assert found == LoadedModel(
        name="acme/sd",
        config=UNET,
        source=Source(kind="trace", location="t.json"),
        vae_scale_factor=4,
        vae_scale_from="vqvae/config.json",
        medium="image",
        trace=record,
    )
    assert read_model("-", stdin=io.StringIO(record.to_json())).trace == record


@pytest.mark.parametrize("kept", [("schema", "model", "run"), ("model",)])
def test_json_of_another_command(here, kept):
    """The JSON of a command that shows a part of the record is the config that it holds, without what was filled in."""
    whole = json.loads(saved_trace().to_json())
    whole["model"]["config_defaults"] = ["sample_size"]
    write(here, {"s.json": {name: whole[name] for name in kept}})
    found = read_model("s.json")
    assert (found.trace, found.source) == (None, Source(kind="file", location="s.json"))
    assert found.config == {
        **{key: value for key, value in UNET.items() if key != "sample_size"},
        "_class_name": whole["model"]["class_name"],
    }


def test_json_of_the_catalog_is_no_model(here):
    """What `models --json` prints names many models, and is none."""
    write(here, {"m.json": {"schema": "unetinspect.models/1", "models": []}})
    assert refusal("m.json") == (SourceError, "m.json is a list printed by this program, not a model", "name one of the models in it")


def test_damaged_trace(here):
    """A trace with a section missing says which."""
    whole = json.loads(saved_trace().to_json())
    del whole["totals"]
    write(here, {"t.json": whole})
    assert "totals" in refusal("t.json")[1]


def test_file_of_the_catalogs_form(here):
    """A file as the catalog has them is read as a model, so that a new one can be tried before it is added."""
    write(here, {"new.yaml": yaml.safe_dump({"name": "new", "vae_scale_factor": 4, "config": UNET})})
    found = read_model("new.yaml")
    assert (found.name, found.config, found.vae_scale_factor, found.source.kind) == ("new", UNET, 4, "file")


@pytest.mark.parametrize("model", ["sd15", "SD1.5"])
def test_catalog(here, model):
    """A catalog name or alias, in any case, is the bundled config with its VAE factor."""
    found = read_model(model)
    assert (found.name, found.vae_scale_factor, found.vae_scale_from, found.notes) == ("sd15", 8, "catalog", ())
    assert found.source == Source(kind="catalog", location="stable-diffusion-v1-5/stable-diffusion-v1-5", subfolder="unet")
    assert found.config["_class_name"] == "UNet2DConditionModel"


def test_path_goes_before_the_catalog(here):
    """A folder with a model hides a catalog name, with a note; one without does not."""
    (here / "sd15").mkdir()
    assert read_model("sd15").source.kind == "catalog"
    write(here, {"sd15/config.json": UNET})
    found = read_model("sd15")
    assert (found.config, found.notes) == (UNET, ("read sd15 on this machine, not the catalog's sd15",))


def test_catalog_takes_no_place(here):
    """--revision with a bundled config would be ignored, so it is refused with what to type instead."""
    assert refusal("sd15", revision="fp16") == (
        UsageError,
        "--revision does not apply to the bundled sd15",
        "leave it out, or name the hub's own: stable-diffusion-v1-5/stable-diffusion-v1-5 --revision fp16",
    )


def test_unknown_name(here):
    """A name that nothing has is answered with the nearest one."""
    kind, message, hint = refusal("sdlx")
    assert (kind, message) == (SourceError, "no model called 'sdlx'")
    assert str(hint).startswith("did you mean sdxl")
    assert str(hint).endswith("? `unetinspect models` lists the names; else give a path or a hub ID, org/name")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_file_that_may_not_be_read(here):
    """A file that is closed to the user is told as that."""
    write(here, {"a.json": UNET})
    (here / "a.json").chmod(0)
    assert refusal("a.json") == (SourceError, "a.json cannot be read: Permission denied", "check that you may read it")


def test_damaged_vae_costs_only_the_factor(here):
    """A VAE's config that cannot be read is a note, and no error."""
    write(here, {"sd/unet/config.json": UNET, "sd/vae/config.json": "{"})
    found = read_model("sd")
    assert (found.config, found.vae_scale_factor) == (UNET, None)
    assert found.notes[0].startswith("VAE scale factor unknown: sd/vae/config.json is not valid JSON")


def test_reading_a_file_imports_nothing_heavy(here):
    """Reading from this machine needs neither torch and diffusers nor the hub's client."""
    write(here, {"a.json": UNET})
    read = "import sys; from unetinspect.source import read_model; read_model('a.json')"
    code = f"{read}; print({{'torch', 'diffusers', 'huggingface_hub'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"
