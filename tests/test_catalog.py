"""The bundled catalog: every model traces, and its numbers are the published ones."""

from __future__ import annotations

import ast
import json
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import msgspec
import pytest
import yaml
from msgspec.structs import replace

from tests.tiny import traced
from unetinspect import unets
from unetinspect.catalog import CATALOG, Entry, find_entry, find_hub_id, load_catalog, nearest_entries
from unetinspect.record import ModelInfo
from unetinspect.run.resolve import plan_pass, resolve_config
from unetinspect.source import read_model
from unetinspect.unets import builder_for, supported_classes
from unetinspect.unets.request import make_request
from unetinspect.views.header import header

CONFIGS = Path(__file__).parent.parent / "configs"
NAMES = sorted(load_catalog())
# What is pushed on the way down goes to another UNet, or nowhere.
WITHOUT_A_WAY_UP = {"controlnet-sd15-canny", "controlnet-canny-sdxl", "hopper-medium-v2-value-function"}
# Its up blocks run several times, and the first one in each reads its skip again: 3 skips, 3 + 2 + 2 reads.
READS = {"stable-cascade-decoder": 7}


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_model_has_the_numbers_that_its_entry_and_others_say(name: str) -> None:
    """Parameters are counted on the built UNet, attention layers by their products, memory in the same pass at the model's own size.

    A published number of parameters with all its digits is the entry's own; a rounded one is within 6 %.
    """
    entry = load_catalog()[name]
    record = traced(name)

    assert entry.params == record.totals.params
    assert entry.attention_layers == record.totals.attention.total
    assert entry.inference_bytes == record.totals.inference_bytes
    assert record.totals.skips.consumed == len({skip.sources for skip in record.skips})
    assert len(record.skips) == READS.get(name, record.totals.skips.consumed)
    if name in WITHOUT_A_WAY_UP:
        assert not record.skips
    else:
        assert record.totals.skips.produced == record.totals.skips.consumed
    assert all(skip.adds_up for skip in record.skips)
    assert record.model.class_name == entry.class_name
    units = {"M": 10**6, "B": 10**9}
    for value in (figure.value for figure in entry.published if figure.figure == "params"):
        if value[-1] in units:
            assert float(value[:-1]) * units[value[-1]] == pytest.approx(entry.params, rel=0.06)
        else:
            assert int(value.replace(",", "")) == entry.params


def test_the_header_the_list_and_the_record_say_which_configs_are_verbatim(cli: Any) -> None:
    """As the YAML files do; what is not bundled, and a record of an earlier version, claims neither."""
    said = {"verbatim": "bundled copy of ", "reconstructed": "bundled reconstruction of "}
    listed = [line.split("  ")[0] for line in cli("models")[1].splitlines()]
    for name in NAMES:
        confidence = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))["confidence"]
        source = read_model(name).source
        info = ModelInfo(name=name, class_name="", params=None, source=source, config={})

        assert source.confidence == confidence
        assert header(info)[1].startswith(f"config: {said[confidence]}{source.location}")
        assert (name if confidence == "verbatim" else f"{name} *") in listed
    old = replace(info, source=replace(source, confidence=None))
    assert header(old)[1].startswith(f"config: bundled config of {source.location}")
    assert read_model(CONFIGS / "sdxl.yaml").source.confidence is None


@pytest.mark.parametrize(
    ("name", "options", "sample"),
    [
        ("audioldm-s-full-v2", {"res": (512, 64)}, (8, 128, 16)),
        ("controlnet-sd15-canny", {"res": 512}, (4, 64, 64)),
        ("controlnet-canny-sdxl", {"res": 1024}, (4, 128, 128)),
        ("stable-cascade-prior", {"res": 1024}, (16, 24, 24)),
        ("stable-cascade-decoder", {"res": 1024}, (4, 256, 256)),
        ("amused-512", {"res": 512}, (32, 32)),
        ("kandinsky-3", {"res": 1024}, (4, 128, 128)),
        ("text-to-video-ms-1.7b", {"res": 256}, (4, 16, 32, 32)),
        ("animatediff-sd15-v3", {"res": 512}, (4, 16, 64, 64)),
        ("i2vgen-xl", {"res": (704, 1280), "frames": 16}, (4, 16, 88, 160)),
        ("svd-xt", {"res": (576, 1024)}, (25, 8, 72, 128)),
    ],
)
def test_a_size_in_pixels_is_the_sample_that_the_pipeline_runs(name: str, options: dict[str, Any], sample: tuple[int, ...]) -> None:
    """diffusers' pipelines divide a size by what the VAE makes into one cell: these are the samples that theirs run."""
    config = resolve_config(load_catalog()[name].config)
    planned = plan_pass(read_model(name), config.class_name, config.values, make_request(**options))

    assert (planned.run.inputs[0].shape or ())[1:] == sample


def test_a_default_size_is_the_pipelines_and_gives_way_to_what_is_asked_for() -> None:
    """The signature of its `__call__` in diffusers' source has it; --res, --latent, --vae-scale and another sample_size rule it out."""
    sources = [path.read_text(encoding="utf-8") for path in Path(diffusers.__path__[0]).rglob("pipeline_*.py")]
    found = {entry.name: entry.default_size for entry in load_catalog().values() if entry.default_size is not None}
    assert {"svd-xt", "i2vgen-xl"} <= set(found)
    for name, default in found.items():
        source = next(source for source in sources if f"class {default.pipeline}(" in source)
        (call,) = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef) and node.name == "__call__")
        values = dict(zip([arg.arg for arg in call.args.args][-len(call.args.defaults) :], call.args.defaults, strict=True))
        assert tuple(ast.literal_eval(values[side]) for side in ("height", "width")) == default.image

        model, config = read_model(name), resolve_config(load_catalog()[name].config)
        own = config.values["sample_size"]
        for options, changes, sample, said_by in (
            ({}, {}, tuple(side // 8 for side in default.image), f"{default.pipeline}'s default"),
            ({"res": 256}, {}, (32, 32), "--res"),
            ({"latent": 16}, {}, (16, 16), "--latent"),
            ({"vae_scale": 10}, {}, (own, own), "config"),
            ({}, {"sample_size": 40}, (40, 40), "config"),
        ):
            run = plan_pass(model, config.class_name, {**config.values, **changes}, make_request(**options)).run
            assert (run.sample_size, run.sample_size_from) == (sample, said_by)


def test_the_catalog_is_what_the_yaml_files_say(request: pytest.FixtureRequest) -> None:
    """What the program reads holds each of configs/*.yaml, by family and name."""
    files = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in CONFIGS.glob("*.yaml")}
    entries = sorted(msgspec.convert(list(files.values()), list[Entry]), key=lambda entry: (entry.family, entry.name))
    if request.config.getoption("--update-golden"):
        CATALOG.write_bytes(msgspec.json.Encoder().encode_lines(entries))
        load_catalog.cache_clear()

    assert files.keys() == {entry.name for entry in entries}
    assert list(load_catalog().values()) == entries, "configs/*.yaml have changed: run `make catalog`"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["SDXL"], lambda entry: "sdxl" in f"{entry['name']} {entry.get('aliases')} {entry['title']}".lower()),
        (["--family", "SDXL"], lambda entry: entry["family"] == "Stable Diffusion XL"),
        (["kandinsky 2"], lambda entry: entry["family"] == "Kandinsky 2"),
        (["--class", "unet2dmodel"], lambda entry: entry["config"]["_class_name"] == "UNet2DModel"),
        (
            ["turbo", "--family", "diffusion x", "--class", "UNet2DConditionModel"],
            lambda entry: "turbo" in entry["name"] and entry["family"] == "Stable Diffusion XL",
        ),
    ],
)
def test_models_are_selected_by_name_family_and_class(cli: Any, words: list[str], expected: Any) -> None:
    """In any case, and by all of them together, as the YAML files have them; of a typing error, what was meant."""
    entries = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in CONFIGS.glob("*.yaml"))
    wanted = {entry["name"] for entry in entries if expected(entry)}
    assert wanted
    code, out, err = cli("models", *words, "--json")
    assert (code, {model["name"] for model in json.loads(out)["models"]}, err) == (0, wanted, "")
    hint = "hint: did you mean Kandinsky 2? `unetinspect models` lists them all\n"
    assert cli("models", "kadninsky 2") == (2, "", f"error: no bundled model matches 'kadninsky 2'\n{hint}")


def test_families_are_listed_for_one_that_there_is_not_and_a_hint_is_not_what_was_typed(cli: Any) -> None:
    """All of them, the nearest first; a family that has no model of a class is not one that was misspelled."""
    code, out, err = cli("models", "--family", "kadninsky 2")
    error, hint = err.splitlines()
    families = hint.removeprefix("hint: families: ").split(", ")

    assert (code, out, error) == (2, "", "error: no bundled model is of a family 'kadninsky 2'")
    assert (families[0], sorted(families)) == ("Kandinsky 2", sorted({entry.family for entry in load_catalog().values()}))
    _, _, err = cli("models", "--family", "DDPM", "--class", "UVit2DModel")
    assert err == "error: no bundled model matches 'DDPM', 'UVit2DModel'\nhint: `unetinspect models` lists them all\n"


def test_the_classes_are_those_of_the_installed_diffusers(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that can be imported from it; of another diffusers, found in its files, as many as it has."""

    def listed() -> list[str]:
        return [each["class_name"] for each in json.loads(cli("models", "--classes", "--json")[1])["classes"]]

    assert listed() == [name for name in supported_classes() if hasattr(import_module(builder_for(name).module), name)]
    (tmp_path / "__init__.py").write_text('_import_structure["models"].extend(["UNet2DModel", "UNet3DConditionModelOfOld"])')
    monkeypatch.setattr(unets, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    assert listed() == ["UNet2DModel"]


def test_a_bundled_config_holds_no_private_path() -> None:
    """Of the keys that say where a file came from, only two are bundled."""
    private = {key for entry in load_catalog().values() for key in entry.config if key.startswith("_")}

    assert private <= {"_class_name", "_diffusers_version"}


def test_the_promised_names_are_there() -> None:
    """Models that people ask for, under their own names and short ones."""
    stable_diffusion = {"sd15", "sd15-inpaint", "sd21-base", "sd21", "sdxl", "sdxl-refiner", "ssd-1b", "bk-sdm-tiny", "lcm-dreamshaper"}
    others = {"ddpm-cat-256", "ddpm-cifar10-32", "ldm-celebahq-256", "kandinsky-3", "stable-cascade-prior", "stable-cascade-decoder"}
    video_and_sound = {"svd-xt", "text-to-video-ms-1.7b", "i2vgen-xl", "audioldm2", "musicldm", "maestro-150k"}
    attached = {"controlnet-sd15-canny", "controlnet-canny-sdxl"}
    aliases = {
        "svd": "svd-xt",
        "animatediff": "animatediff-sd15-v3",
        "modelscope": "text-to-video-ms-1.7b",
        "controlnet-canny": "controlnet-sd15-canny",
        "dance-diffusion": "maestro-150k",
        "audioldm": "audioldm-s-full-v2",
        "amused": "amused-512",
    }

    assert stable_diffusion | others | video_and_sound | attached <= set(NAMES)
    assert {alias: entry.name for alias in aliases if (entry := find_entry(alias))} == aliases


def test_names_aliases_and_hub_ids_are_unique_and_found_in_any_case() -> None:
    """No two entries answer to one name or hub ID; one that is gone has what happened to it, and a folder picks among several."""
    entries = load_catalog().values()
    names = [name.lower() for entry in entries for name in (entry.name, *entry.aliases)]
    places = [(entry, place) for entry in entries for place in entry.hub]
    dead = [place for _, place in places if place.id.startswith(("runwayml/", "stabilityai/stable-diffusion-2"))]

    assert len(names) == len(set(names))
    assert all(find_entry(name.upper()) is not None for name in names)
    assert len(places) == len({place.id for _, place in places})
    for entry, place in places:
        folder = place.subfolder or ""
        assert find_hub_id(place.id.upper()) == find_hub_id(place.id, folder) == (entry, place)
        assert find_hub_id(place.id, f"{folder}x") is None
    assert {place.subfolder for _, place in places} >= {None, "unet"}
    assert all("stable-diffusion-v1-5/" in str(place.gone) or "sd2-community/" in str(place.gone) for place in dead)
    gone = find_hub_id("runwayml/stable-diffusion-v1-5") or pytest.fail("not found")
    assert gone[0].name == "sd15"
    assert gone[1].gone == "removed in 2024; the model lives at stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert find_hub_id("nobody/nothing") is None


def test_the_nearest_names_of_a_typo_come_first() -> None:
    """A mistyped name leads to the one that was meant, by its own name even where an alias is nearer."""
    assert nearest_entries("sdlx")[0] == "sdxl"
    assert nearest_entries("ddpm_cat_256")[0] == "ddpm-cat-256"
    assert nearest_entries("stable-diffusion-v1-6")[0] == "sd15"
