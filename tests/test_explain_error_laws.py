"""What explanations are made of, held against UNets that diffusers builds and against a U that is simulated."""

from __future__ import annotations

import re
from typing import Any

import diffusers
import pytest
import torch
from torch import nn

from tests.test_explain_error_genuine import raised_by
from unetinspect.catalog import load_catalog
from unetinspect.explain.layers import model_layers
from unetinspect.explain.skip_sides import rigid_models, sides_to
from unetinspect.explain.tensors import models_with
from unetinspect.explain.widths import added_width, rows_of


def test_sides_follow_from_halving() -> None:
    """A U is simulated: sides halve, rounded up or down, and double again; each side told fails there first, and no other does."""
    for halvings in (1, 2, 3, 4):
        for rounds_up in (True, False):
            for got in (3, 5, 9, 13, 25):
                expected = got + 1 if rounds_up else got - 1
                simulated = {side for side in range(1, 500) if first_failure(side, halvings, rounds_up=rounds_up) == (expected, got)}
                told = {side for sides in sides_to(expected, got, halvings) for side in range(sides.first, sides.last + 1)}

                assert {side for side in told if side < 500} == simulated
                for sides in sides_to(expected, got, halvings):
                    runs = [first_failure(side, halvings, rounds_up=rounds_up) for side in (sides.below, sides.above) if side]
                    assert set(runs) == {None}


def first_failure(side: int, halvings: int, *, rounds_up: bool) -> tuple[int, int] | None:
    """Run the sides of a U, and return the first (hidden states, skip) that differ on the way up."""
    sides = [side]
    for _ in range(halvings):
        sides.append((sides[-1] + rounds_up) // 2)
    hidden = sides[-1]
    for skip in reversed(sides[:-1]):
        if 2 * hidden != skip:
            return 2 * hidden, skip
        hidden = skip
    return None


def test_widths_taken_apart() -> None:
    """The widths of add_embedding in the catalog are sums of text_embeds and time_ids of 256; tokens are counted by 77."""
    for entry in load_catalog().values():
        if entry.config.get("addition_embed_type") == "text_time":
            total = entry.config["projection_class_embeddings_input_dim"]
            parts = added_width(total)
            assert parts is not None
            assert parts.text_embeds + 256 * parts.time_ids == total
    assert [rows_of(77 * count)[0] for count in (2, 3, 5)] == ["2", "3", "5"]


def test_models_that_a_tensor_fits() -> None:
    """Only models all of whose known tensors agree are named; a tensor that no config tells names none."""
    key = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"

    assert {name for name, _ in models_with({"conv_in.weight": (320, 9, 3, 3), key: (640, 768)})} == {"sd15-inpaint"}
    assert models_with({"conv_in.weight": (320, 9, 3, 3), key: (640, 1024)}) == []
    assert models_with({"conv_out.bias": (4,)}) == []


@pytest.mark.parametrize("name", ["kolors", "kandinsky-2-2", "koala-700m"])
def test_layers_of_the_catalog_are_those_that_diffusers_builds(name: str) -> None:
    """Each layer that is derived from a config exists, as wide as derived; and no key of cross-attention is forgotten."""
    entry = load_catalog()[name]

    with torch.device("meta"):
        model = getattr(diffusers, entry.class_name).from_config(dict(entry.config))
    linear = {path: (layer.in_features, layer.out_features) for path, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    covered = set()
    for layer in model_layers(entry):
        pattern = re.compile(re.escape(layer.path).replace(r"\*", "[0-9]+"))
        paths = {path for path in linear if pattern.fullmatch(path)}
        covered |= paths
        assert {linear[path] for path in paths} == {(layer.takes, layer.gives)}, layer
    keys = {path for path in linear if path.endswith(("attn2.to_k", "add_k_proj"))}
    own = {path for path in keys if linear[path][0] == linear[path][1]}

    assert keys - covered <= own
    assert covered


@pytest.mark.parametrize("name", ["cd-imagenet64"])
def test_sides_that_lead_to_an_error_are_those_that_raise_it(name: str) -> None:
    """A narrow UNet of the same blocks raises the very error at the first and the last side that are told, and runs beside them."""
    rigid = next(model for model in rigid_models() if model.entry.name == name)
    config = {**rigid.entry.config, "layers_per_block": 1, "norm_num_groups": rigid.entry.config.get("norm_num_groups", 32) and 8}
    config["block_out_channels"] = [32] * len(config["block_out_channels"])
    narrow = {
        "attention_head_dim": 8,
        "attn_norm_num_groups": 8,
        "cross_attention_dim": 16,
        "num_class_embeds": None,
        "class_embed_type": None,
    }
    config |= {key: value for key, value in narrow.items() if key in config}

    with torch.device("meta"):
        model: Any = getattr(diffusers, str(config.pop("_class_name"))).from_config(config)
    got = 3
    expected = got + 1 if rigid.rounds_up else got - 1
    found = sides_to(expected, got, rigid.halvings)

    assert found
    for sides in found:
        for side in {sides.first, sides.last}:
            message, _ = raised_by(lambda side=side: _run_square(model, config, side))  # type: ignore[misc]
            assert f"Expected {expected} in dimension 2 but got {got}" in message
        for side in {sides.below, sides.above} - {0}:
            _run_square(model, config, side)


def _run_square(model: Any, config: dict[str, Any], side: int) -> None:
    sample = torch.zeros(1, config["in_channels"], side, side, device="meta")
    states = [torch.zeros(1, 7, config["cross_attention_dim"], device="meta")] if "cross_attention_dim" in config else []
    model(sample, 1, *states)
