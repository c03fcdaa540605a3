"""The bundled catalog: every model traces, and its numbers are the published ones."""

from __future__ import annotations

import pytest

from tests.tiny import traced
from unetinspect.catalog import find_entry, find_hub_id, load_catalog, nearest_entries

NAMES = sorted(load_catalog())


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_model_has_the_params_and_attention_layers_that_its_entry_says(name: str) -> None:
    """Parameters are counted on the built UNet, attention layers by their products."""
    entry = load_catalog()[name]
    record = traced(name, latent=32 if entry.vae_scale_factor != 1 else 64)

    assert entry.params == record.totals.params
    assert entry.attention_layers == record.totals.attention.total
    assert record.totals.skips.produced == record.totals.skips.consumed == len(record.skips)
    assert all(skip.adds_up for skip in record.skips)
    assert record.model.class_name == entry.class_name


@pytest.mark.parametrize("name", NAMES)
def test_published_exact_parameter_counts_are_met(name: str) -> None:
    """A published figure with all its digits is the entry's own number; a rounded one is within 6 %."""
    entry = load_catalog()[name]
    units = {"M": 10**6, "B": 10**9}
    for figure in entry.published:
        if figure.figure != "params":
            continue
        if figure.value[-1] in units:
            rounded = float(figure.value[:-1]) * units[figure.value[-1]]
            assert rounded == pytest.approx(entry.params, rel=0.06)
        else:
            assert int(figure.value.replace(",", "")) == entry.params


def test_the_catalog_begins_with_the_models_that_people_ask_for() -> None:
    """The promised names are there."""
    stable_diffusion = {"sd15", "sd15-inpaint", "sd21-base", "sd21", "sdxl", "sdxl-refiner", "ssd-1b", "bk-sdm-tiny", "lcm-dreamshaper"}
    others = {"ddpm-cat-256", "ddpm-cifar10-32", "ldm-celebahq-256"}

    assert stable_diffusion | others <= set(NAMES)


def test_names_and_aliases_are_unique_and_found_in_any_case() -> None:
    """No two entries answer to one name, and each answers to its own."""
    names = [name.lower() for entry in load_catalog().values() for name in (entry.name, *entry.aliases)]

    assert len(names) == len(set(names))
    assert all(find_entry(name.upper()) is not None for name in names)


def test_hub_ids_are_unique_and_lead_to_their_entry() -> None:
    """A hub ID belongs to one entry; a dead one is known with what became of it."""
    ids = [location.id for entry in load_catalog().values() for location in entry.hub]

    assert len(ids) == len(set(ids))
    entry, location = find_hub_id("runwayml/stable-diffusion-v1-5") or pytest.fail("not found")
    assert entry.name == "sd15"
    assert location.gone == "removed in 2024; the model lives at stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert find_hub_id("nobody/nothing") is None


def test_the_nearest_names_of_a_typo_come_first() -> None:
    """A mistyped name leads to the one that was meant, by its own name even where an alias is nearer."""
    assert nearest_entries("sdlx")[0] == "sdxl"
    assert nearest_entries("ddpm_cat_256")[0] == "ddpm-cat-256"
    assert nearest_entries("stable-diffusion-v1-6")[0] == "sd15"
