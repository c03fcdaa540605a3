"""The functions of `unetinspect` beside `trace`: the records that the commands print, and errors that say what to do."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from traceback import format_exception
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from safetensors.torch import save_file

import unetinspect
from tests.tiny import CONDITION, PLAIN, condition
from unetinspect import ConfigError, SourceError, Trace, UnetInspectError, UsageError
from unetinspect.record import to_json

PACKAGE = Path(__file__).parent.parent / "unetinspect"
ERROR = "mat1 and mat2 shapes cannot be multiplied (154x2048 and 768x320)"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three configs, and weights of the third, in the folder that the test runs in."""
    monkeypatch.chdir(tmp_path)
    Path("a.json").write_text(json.dumps(CONDITION))
    Path("b.json").write_text(json.dumps(condition(layers_per_block=2)))
    Path("plain.json").write_text(json.dumps(PLAIN))
    save_file(UNet2DModel.from_config(PLAIN).state_dict(), "plain.safetensors")


def test_dir_lists_what_is_public_and_no_module_hides_it() -> None:
    """Importing a module sets its name on the package: one called `check` would replace the function."""
    assert dir(unetinspect) == sorted(unetinspect.__all__)
    for name in dir(unetinspect):
        assert getattr(unetinspect, name) is not None
        assert not inspect.ismodule(getattr(unetinspect, name))
        assert not [*PACKAGE.glob(name), *PACKAGE.glob(f"{name}.py")]
    with pytest.raises(AttributeError):
        unetinspect.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("call", "words", "section"),
    [
        (lambda: unetinspect.diff("a.json", "b.json", device="meta"), "diff a.json b.json", None),
        (lambda: unetinspect.names("a.json", "conv_in", device="meta"), "names a.json conv_in", "names"),
        (
            lambda: unetinspect.sweep("a.json", latent=[8, (8, 16), "16"], batch=(1, 2), device="meta"),
            "sweep a.json --latent 8,8x16,16 --batch 1,2",
            "sweep",
        ),
        (lambda: unetinspect.sweep("a.json", latent=(8, 16), batch=2, device="meta"), "sweep a.json --latent 8x16 --batch 2", "sweep"),
        (
            lambda: unetinspect.check("plain.json", latent=[7, 8], weights="plain.safetensors", expect={"skips": 3}, device="meta"),
            "check plain.json --latent 7,8 --weights plain.safetensors --expect skips=3",
            "check",
        ),
        (lambda: unetinspect.check("plain.safetensors", device="meta"), "check plain.safetensors", "check"),
        (lambda: unetinspect.identify(Path("plain.safetensors")), "identify plain.safetensors", None),
        (lambda: unetinspect.explain_error(ERROR), f"explain-error {ERROR}", None),
    ],
)
def test_each_function_returns_what_its_command_prints(files: None, cli: Any, call: Any, words: str, section: str | None) -> None:
    """To the letter, as JSON."""
    device = [] if words.startswith(("identify", "explain")) else ["--device", "meta"]
    code, out, _ = cli(*words.split(), *device, "--json")
    document = json.loads(out)

    assert code in (0, 1)
    assert json.loads(to_json(call())) == (document if section is None else document[section])


def test_an_exception_is_explained_like_its_traceback() -> None:
    """What was caught need not be written as text: torch's own error, with the layer of diffusers that its traceback names."""
    unet: Any = UNet2DConditionModel.from_config(CONDITION)
    with pytest.raises(RuntimeError) as raised:
        unet(torch.zeros(1, 4, 8, 8), 0, encoder_hidden_states=torch.zeros(1, 77, 2048))
    explained = unetinspect.explain_error(raised.value)

    assert explained == unetinspect.explain_error("".join(format_exception(raised.value)))
    assert [one.kind for one in explained.explanations] == ["cross_attention_width"]
    assert explained.explanations[0].error == str(raised.value)


def test_a_record_is_compared_as_it_is_unless_there_are_options(files: None) -> None:
    """Given as a `Trace` or as the file that it was saved in; two sizes of one model are two traces."""
    small, large = (unetinspect.trace("a.json", latent=side, device="meta") for side in (8, 16))
    small.save("small.json")

    assert unetinspect.diff("small.json", large).b.sample_size == (16, 16)
    assert unetinspect.diff("small.json", large).a.sample_size == small.run.sample_size == (8, 8)
    assert unetinspect.diff(small, large, latent=32, device="meta").same
    assert unetinspect.names(small) == unetinspect.names("small.json") == unetinspect.names("a.json", device="meta")


def test_a_saved_record_is_the_file_that_the_command_writes(files: None, cli: Any) -> None:
    """Byte for byte; a file that cannot be written is an error with a hint, and stays what it was."""
    record = unetinspect.trace("a.json", device="meta")
    record.save("saved.json")
    assert cli("trace", "a.json", "--device", "meta", "--json", "-o", "printed.json")[0] == 0

    assert Path("saved.json").read_bytes() == Path("printed.json").read_bytes()
    assert Trace.from_json(Path("saved.json").read_bytes()) == record
    with pytest.raises(UsageError, match=r"cannot write to nowhere/saved\.json: no such file") as refused:
        record.save("nowhere/saved.json")
    assert refused.value.hint == "choose a file in a writable folder"


@pytest.mark.parametrize(
    ("loaded_from", "name"),
    [
        (None, "UNet2DModel"),
        ("org/name", "org/name"),
        ("/data/runs/mine/unet", "mine"),
        ("C:\\runs\\mine", "mine"),
        ("/home/u/.cache/huggingface/hub/models--org--a-name/snapshots/0123abc/unet", "org/a-name"),
    ],
)
def test_a_modules_name_is_its_own(loaded_from: str | None, name: str) -> None:
    """What diffusers remembers of where it was loaded from, as short as the name of a folder or a hub ID is elsewhere."""
    unet: Any = UNet2DModel.from_config(PLAIN)
    unet.register_to_config(_name_or_path=loaded_from)

    assert unetinspect.trace(unet, latent=8).model.name == name


def test_a_module_and_its_folder_have_one_name(tmp_path: Path) -> None:
    """As diffusers writes and reads it."""
    unet: Any = UNet2DModel.from_config(PLAIN)
    unet.save_pretrained(tmp_path / "mine" / "unet")
    again: Any = UNet2DModel.from_pretrained(tmp_path / "mine" / "unet")

    assert unetinspect.sweep(unet, latent=8)[0].output_shape == (1, 3, 8, 8)
    assert unetinspect.trace(again, latent=8).model.name == unetinspect.trace(tmp_path / "mine", latent=8).model.name == "mine"


def test_a_traceback_ends_with_the_hint() -> None:
    """Once, also where the hint was replaced; without a hint there is no such line."""
    with pytest.raises(SourceError) as raised:
        unetinspect.trace("sdlx")
    error = raised.value
    assert "".join(format_exception(error)).endswith(f"no model called 'sdlx'\nhint: {error.hint}\n")

    error.hint = "another"
    assert "".join(format_exception(error)).endswith("no model called 'sdlx'\nhint: another\n")
    assert "hint" not in "".join(format_exception(UnetInspectError("wrong")))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: unetinspect.sweep(PLAIN, latent=[8], res=8), "both give a size"),
        (lambda: unetinspect.sweep(PLAIN, latent="8,x"), "is not a size"),
        (lambda: unetinspect.sweep(PLAIN, batch=[1, True]), "is not a comma-separated list of whole numbers"),
        (lambda: unetinspect.check(PLAIN, plug_in="sd15"), "check does not support plug_in"),
        (lambda: unetinspect.check(PLAIN, expect={"skps": 3}), "the record has nothing of that name"),
        (lambda: unetinspect.names(PLAIN, "nothing", device="meta"), "has nothing called 'nothing'"),
        (lambda: unetinspect.identify("nothing.safetensors"), "there is no file or folder 'nothing.safetensors'"),
        (lambda: unetinspect.explain_error("all is well"), "no known UNet error found"),
    ],
)
def test_what_cannot_be_answered_is_an_error_with_a_hint(call: Any, message: str) -> None:
    """As on the command line."""
    with pytest.raises(UnetInspectError, match=message) as raised:
        call()
    assert raised.value.hint


def test_a_config_error_suggests_what_python_takes(files: None, cli: Any) -> None:
    """An argument, where the command line has an option; and the values themselves, with which the UNet runs."""
    wrong = {**CONDITION, "attention_head_dim": 33, "act_fn": "silo"}
    Path("wrong.json").write_text(json.dumps(wrong))
    with pytest.raises(ConfigError) as raised:
        unetinspect.trace(wrong, device="meta")
    keywords, words = raised.value.change, cli("trace", "wrong.json", "--device", "meta")[2].splitlines()[-1]

    assert set(keywords) == {"attention_head_dim", "act_fn"}
    assert raised.value.hint == f"overrides={keywords} makes it run"
    assert all(f"--set {key}={value}" in words for key, value in keywords.items())
    assert unetinspect.trace(wrong, overrides=keywords, latent=8, device="meta").output.shape[-2:] == (8, 8)
