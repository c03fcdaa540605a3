"""What is no model, given as one: each says in one sentence what it is, and costs no more than its reading."""

from __future__ import annotations

import json

import pytest

from unetinspect.errors import ConfigError, SourceError, UnetInspectError
from unetinspect.source import read_model

UNET = {"_class_name": "UNet2DConditionModel", "sample_size": 8}
INDEX = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"], "vae": [None, None]}
A_CONFIG = "give the config.json of a UNet: {...} in JSON, or the same in YAML"
MISTAKES = {
    "": (SourceError, "MODEL is empty", "give a path, a hub ID or a name that `unetinspect models` lists"),
    "./no.json": (
        SourceError,
        "there is no file or folder './no.json'",
        "check the path; `unetinspect models` lists the names that need none",
    ),
    "no/config.json": (
        SourceError,
        "there is no file or folder 'no/config.json'",
        "check the path; `unetinspect models` lists the names that need none",
    ),
    '{"sample_size": 8}': (
        SourceError,
        "MODEL is a config itself: pass it as a file or on standard input",
        "echo '{...}' | unetinspect trace -",
    ),
    "w.safetensors": (
        SourceError,
        "w.safetensors has 0 bytes, and is no safetensors file",
        "download it again, and compare its size with the page that it is from",
    ),
    "empty.json": (ConfigError, "empty.json is empty", A_CONFIG),
    "list.json": (ConfigError, "list.json contains a list; a config is a mapping of keys to values", A_CONFIG),
    "text.yaml": (ConfigError, "text.yaml contains a text; a config is a mapping of keys to values", A_CONFIG),
    "cut.json": (
        ConfigError,
        "cut.json is not valid JSON: Expecting value at line 2, column 16",
        "fix it there; JSON allows no comments and no trailing comma (YAML does: name the file .yaml)",
    ),
    "cut.yaml": (ConfigError, "cut.yaml is not valid YAML: did not find expected ',' or ']' at line 2, column 1", A_CONFIG),
    "utf16.json": (
        SourceError,
        "utf16.json is not UTF-8 text: byte 0 is 0xff",
        "save it as UTF-8 (PowerShell's `>` writes UTF-16), or give the config.json of a UNet",
    ),
    "big.json": (SourceError, "big.json is bigger than 8 MB, too big for a config", A_CONFIG),
    "deep.json": (ConfigError, "deep.json is nested too deeply to be a config", A_CONFIG),
    "deep.yaml": (ConfigError, "deep.yaml is nested too deeply to be a config", A_CONFIG),
    "bomb.yaml": (ConfigError, "bomb.yaml contains aliases that expand to a million values", "write them out without `&` and `*`"),
    "loop.yaml": (ConfigError, "loop.yaml contains aliases that expand to a million values", "write them out without `&` and `*`"),
    "index.json": (
        SourceError,
        "index.json is a pipeline's model_index.json: it lists components and has no config",
        "give the folder that it lies in, or the config.json in its unet folder",
    ),
}


@pytest.fixture
def mistakes(tmp_path, monkeypatch):
    """Write each file that `MISTAKES` names into an empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    texts = {
        "w.safetensors": "",
        "empty.json": " \n",
        "list.json": "[1]",
        "text.yaml": "just words",
        "cut.json": '{\n"sample_size": ',
        "cut.yaml": "a: [1\n",
        "big.json": " " * (8 * 1024**2 + 1),
        "deep.json": "[" * 100_000,
        "deep.yaml": "a: " + "[" * 200_000,
        "bomb.yaml": "\n".join(levels),
        "loop.yaml": "a: &a [*a]",
        "index.json": json.dumps(INDEX),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "utf16.json").write_bytes(b"\xff\xfe" + json.dumps(UNET).encode("utf-16-le"))


@pytest.mark.usefixtures("mistakes")
@pytest.mark.parametrize(("model", "said"), MISTAKES.items(), ids=[name or "empty" for name in MISTAKES])
def test_mistakes(model, said):
    """Each thing that is no model says in one sentence what it is, with what to give instead."""
    with pytest.raises(UnetInspectError) as caught:
        read_model(model)
    assert (type(caught.value), caught.value.message, caught.value.hint) == said


def test_yaml_runs_nothing(tmp_path, monkeypatch):
    """A YAML file that asks for a Python object is refused, and nothing runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.yaml").write_text("a: !!python/object/apply:pathlib.Path.touch [pwned]")
    with pytest.raises(ConfigError, match=r"^evil\.yaml is not valid YAML: could not determine a constructor for the tag"):
        read_model("evil.yaml")
    assert not (tmp_path / "pwned").exists()
