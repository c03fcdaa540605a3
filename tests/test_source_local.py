"""Reading from this machine: files, folders, standard input, the catalog; and what is not a model."""

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

from tests.tiny import traced
from unetinspect.errors import SourceError, UnetInspectError, UsageError
from unetinspect.record import Source
from unetinspect.source import LoadedModel, read_model
from unetinspect.source.pipeline import NoUnetError

UNET = {"_class_name": "UNet2DConditionModel", "block_out_channels": [32, 64], "sample_size": 8}
VAE = {"_class_name": "AutoencoderKL", "block_out_channels": [8, 8, 8, 8]}
FLUX = {
    "_class_name": "FluxPipeline",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
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


@pytest.mark.parametrize("name", ["my.json", "my.yaml", "my.yml", "my-config", "./my.json"])
def test_config_files(here, name):
    """A config file is read as JSON or YAML, by its name or, without one that says, by its first character."""
    (here / name).write_text(yaml.safe_dump(UNET) if "y" in name.rpartition(".")[2] else json.dumps(UNET), encoding="utf-8")
    bare = name.removeprefix("./")
    assert read_model(name) == LoadedModel(name=bare, config=UNET, source=Source(kind="file", location=bare))


def test_path_objects_are_paths(here):
    """A `Path` is read as a path, and never as a name or an ID."""
    (here / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(UNET).encode())  # with the mark that some editors put first
    assert read_model(here / "a.json").config == UNET
    assert refusal(here / "sd15")[:2] == (SourceError, f"there is no file or folder '{here / 'sd15'}'")


@pytest.mark.parametrize("text", [yaml.safe_dump(UNET), "\n  " + json.dumps(UNET, indent=2)], ids=["yaml", "indented json"])
def test_standard_input(text):
    """`-` reads a config from standard input, from a text stream or from the binary one below it."""
    expected = LoadedModel(name="stdin", config=UNET, source=Source(kind="stdin", location="-"))
    assert read_model("-", stdin=io.StringIO(text)) == expected
    assert read_model("-", stdin=io.TextIOWrapper(io.BytesIO(text.encode()), encoding="ascii")) == expected


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_named_pipe(here):
    """A pipe, as `<(command)` gives it, is read as a file is."""
    os.mkfifo("pipe")
    threading.Thread(target=(here / "pipe").write_text, args=(json.dumps(UNET),), daemon=True).start()
    assert read_model("pipe").config == UNET


SD = {"sd/unet/config.json": UNET, "sd/vae/config.json": VAE}
FOLDERS = {
    "pipeline": (SD, "sd", ("folder", "unet"), (8, "vae/config.json")),
    "its unet folder": (SD, "sd/unet", ("folder", None), (8, "vae/config.json")),
    "its unet config": (SD, "sd/unet/config.json", ("file", None), (8, "vae/config.json")),
    "index": ({**SD, "sd/model_index.json": INDEX}, "sd/model_index.json", ("folder", "unet"), (8, "vae/config.json")),
    "vq model": (
        {"sd/unet/config.json": UNET, "sd/vqvae/config.json": {"block_out_channels": [1, 2, 3]}},
        "sd",
        ("folder", "unet"),
        (4, "vqvae/config.json"),
    ),
    "tiny vae": (
        {**SD, "sd/vae/config.json": {"_class_name": "AutoencoderTiny", "encoder_block_out_channels": [64] * 4}},
        "sd",
        ("folder", "unet"),
        (8, "vae/config.json"),
    ),
    "no vae": ({"sd/unet/config.json": UNET}, "sd", ("folder", "unet"), (None, "")),
    "bare unet": ({"sd/config.json": UNET}, "sd", ("folder", None), (None, "")),
    "its config": ({"sd/config.json": UNET}, "sd/config.json", ("file", None), (None, "")),
    "other component": (
        {"sd/model_index.json": {"_class_name": "P", "prior": ["diffusers", "UNet2DModel"]}, "sd/prior/config.json": UNET},
        "sd",
        ("folder", "prior"),
        (None, ""),
    ),
}


@pytest.mark.parametrize(("files", "model", "source", "vae"), FOLDERS.values(), ids=FOLDERS)
def test_folders(here, files, model, source, vae):
    """A pipeline, a component of one and a folder with a UNet are read, with the factor of the pipeline's VAE."""
    write(here, files)
    found = read_model(model)
    assert (found.name, found.config) == ("sd", UNET)
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
    assert refusal("sd/unet/config.json", subfolder="x")[1] == "--subfolder does not apply to a file: sd/unet/config.json"
    assert refusal("sd", subfolder="uent") == (SourceError, "sd has no folder 'uent'", "folders with a config: ema, unet, vae")


def test_index_says_the_class_that_a_config_leaves_out(here):
    """A component's config without `_class_name` gets the class that model_index.json names; without an index it stays as it is."""
    bare = {"sample_size": 8}
    write(here, {"sd/model_index.json": INDEX, "sd/unet/config.json": bare, "other/unet/config.json": bare})
    for model in ("sd", "sd/unet", "sd/unet/config.json"):
        assert read_model(model).config == {"_class_name": "UNet2DConditionModel", "sample_size": 8}
    assert read_model("other").config == bare
    write(here, {"third/config.json": {"block_out_channels": [32]}})  # known by its keys
    assert read_model("third").config == {"block_out_channels": [32]}


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
        ({"x/config.json": {"architectures": ["BertModel"], "model_type": "bert"}}, "no UNet here: the config.json of x is of BertModel"),
        ({"x/model_index.json": FLUX}, "no UNet here: x is a pipeline whose `transformer` is FluxTransformer2DModel"),
        (
            {"x/model_index.json": {"_class_name": "P", "s": ["diffusers", "DDIMScheduler"]}},
            "no UNet here: x is a P, and its model_index.json lists no UNet",
        ),
        (
            {"x/model_index.json": INDEX},
            "no UNet here: x is a pipeline whose `unet` is UNet2DConditionModel, and unet/config.json is missing",
        ),
    ],
    ids=["nothing", "another model", "a language model", "another pipeline", "nothing that denoises", "component missing"],
)
def test_folders_without_a_unet(here, files, message):
    """A folder without a UNet says what there is instead."""
    write(here, files)
    kind, found, hint = refusal("./x")
    assert (kind, found) == (NoUnetError, message)
    assert "`unetinspect models --classes`" in str(hint)


def test_saved_trace(here):
    """A saved trace is read whole from a file or standard input, with its own name, config and VAE factor."""
    record = traced("conditioned")
    write(here, {"t.json": record.to_json()})
    found = read_model("t.json")
    assert found == LoadedModel(
        name=record.model.name,
        config=record.model.given_config,
        source=Source(kind="trace", location="t.json"),
        vae_scale_factor=record.run.vae_scale_factor,
        vae_scale_from=record.run.vae_scale_from,
        medium=record.run.medium,
        trace=record,
    )
    assert read_model("-", stdin=io.StringIO(record.to_json())).trace == record
    whole = json.loads(record.to_json())
    del whole["totals"]
    write(here, {"t.json": whole})
    assert "totals" in refusal("t.json")[1]


@pytest.mark.parametrize("kept", [("schema", "model", "run"), ("model",)])
def test_json_of_another_command(here, kept):
    """The JSON of a command that shows a part of the record is its config, without the keys that were filled in."""
    model = {"class_name": "UNet2DModel", "source": {}, "config": {"act_fn": "silu", "sample_size": 8}, "config_defaults": ["act_fn"]}
    whole = {"schema": "unetinspect.trace/1", "model": model, "run": {}}
    write(here, {"s.json": {name: whole[name] for name in kept}})
    found = read_model("s.json")
    assert (found.trace, found.source) == (None, Source(kind="file", location="s.json"))
    assert found.config == {"_class_name": "UNet2DModel", "sample_size": 8}


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
    place = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert found.source == Source(kind="catalog", location=place, subfolder="unet", confidence="verbatim")
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


A_CONFIG = "give the config.json of a UNet: {...} in JSON, or the same in YAML"
A_PATH = "check the path; `unetinspect models` lists the names that need none"
NO_COMMENTS = "fix it there; JSON allows no comments and no trailing commas: delete them"
NO_ALIASES = "write them out without `&` and `*`"
NESTED = [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 9)]
BOMB = "\n".join(["a0: &a0 [x, x, x, x, x, x, x, x, x, x]", *NESTED])
TOUCH = "python/object/apply:pathlib.Path.touch"
# By the name of the file: what is in it, the exit code, what is said of it, and the hint.
BAD_FILES = {
    "w.onnx": (
        "",
        3,
        "is not a supported weights file: only .safetensors and .gguf are read",
        "give the .safetensors file of the same weights, or ",
    ),
    "code.py": ("import os", 3, "is Python code, which is never executed", "save the UNet's config: "),
    "comment.json": ('{\n// mine\n"a": 1}', 2, "is not valid JSON: Expecting property name ", NO_COMMENTS),
    "empty.json": (" \n", 2, "is empty", A_CONFIG),
    "list.json": ("[1]", 2, "contains a list; a config is a mapping of keys to values", A_CONFIG),
    "text.yaml": ("just words", 2, "contains a string; a config is a mapping of keys to values", A_CONFIG),
    "cut.json": ('{\n"sample_size": ', 2, "is not valid JSON: Expecting value at line 2, column 16", NO_COMMENTS),
    "comma.json": (
        '{"a": 1,\n"b": [1]\n\n  "c": 2}',
        2,
        "is not valid JSON: Expecting ',' delimiter at line 4, column 3",
        "a comma may be missing at the end of line 2",
    ),
    "cut.yaml": ("a: [1\n", 2, "is not valid YAML: did not find expected ',' or ']' at line 2, column 1", "fix it there"),
    "tag.yaml": (f"a: !!{TOUCH} [pwned]", 2, "is not valid YAML: could not determine a constructor for the tag ", "fix it there"),
    "utf16.json": (b"\xff\xfe{\x00}\x00", 3, "is not UTF-8 text: byte 0 is 0xff", "save it as UTF-8 (PowerShell's `>` writes UTF-16), or "),
    "big.json": (" " * (8 * 1024**2 + 1), 3, "is bigger than 8 MB, too big for a config", A_CONFIG),
    "long.json": ('{"a": ' + "9" * 5000 + "}", 2, "contains a number that cannot be read: ", A_CONFIG),
    "long.yaml": ("a: 0x" + "f" * 5000, 2, "contains a number of more than a thousand digits", A_CONFIG),
    "deep.json": ("[" * 100_000, 2, "is nested too deeply to be a config", A_CONFIG),
    "nested.json": ('{"a":' * 900 + "1" + "}" * 900, 2, "is nested too deeply to be a config", "give the config.json of a UNet"),
    "deep.yaml": ("a: " + "[" * 100_000, 2, "is nested too deeply to be a config", A_CONFIG),
    "bomb.yaml": (BOMB, 2, "contains aliases that expand to a million values", NO_ALIASES),
    "loop.yaml": ("a: &a [*a]", 2, "contains aliases that expand to a million values", NO_ALIASES),
    "index.json": (json.dumps(INDEX), 3, "is a pipeline's model_index.json: it lists components and has no config", "give its folder, or "),
    "models.json": (
        '{"schema": "unetinspect.models/1"}',
        3,
        "is a list printed by this program, not a model",
        "name one of the models in it",
    ),
}


@pytest.mark.parametrize(("name", "content", "code", "said", "hint"), [(name, *rest) for name, rest in BAD_FILES.items()], ids=BAD_FILES)
def test_files_that_are_not_models(here, name, content, code, said, hint):
    """What is not a model says in one sentence what it is, with what to give instead; nothing in it is executed."""
    (here / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    kind, message, found = refusal(name)
    assert kind.exit_code == code
    assert message.startswith(f"{name} {said}")
    assert str(found).startswith(hint)
    assert not (here / "pwned").exists()


@pytest.mark.parametrize(
    ("model", "message", "hint"),
    [
        ("", "MODEL is empty", "give a path, a hub ID or a name that `unetinspect models` lists"),
        ("no/config.json", "there is no file or folder 'no/config.json'", A_PATH),
        (
            "a/b/unet/x.safetensors",
            "there is no file or folder 'a/b/unet/x.safetensors'",
            "for a file of a hub repository: hf://a/b/unet/x.",
        ),
        ('{"a": 8}', "MODEL is a config itself: pass it as a file or on standard input", "echo '{...}' | unetinspect trace -"),
        ("sdlx", "no model called 'sdlx'", "did you mean sdxl"),
    ],
)
def test_names_of_nothing(here, model, message, hint):
    """What names nothing says why, with the nearest name or what to type."""
    kind, found, said = refusal(model)
    assert (kind, found) == (SourceError, message)
    assert str(said).startswith(hint)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_file_that_may_not_be_read(here):
    """A file without permission is a sentence."""
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
