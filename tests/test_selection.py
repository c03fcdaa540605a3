"""Which layers a selection takes, against what defines it: kinds, stages and paths of the record, grids of the pass."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import unetinspect
from tests.tiny import CONDITION, traced
from unetinspect import UsageError
from unetinspect.record.selection import KINDS, Selection, no_match

VIDEO = "svd"  # self, cross and temporal layers in down, mid and up blocks
LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1"


@given(
    kinds=st.lists(st.sampled_from(KINDS)),
    stages=st.lists(st.sampled_from(["up_blocks", "up_blocks.1", "mid_block", "down_blocks.0", "conv_in"])),
    paths=st.lists(st.deferred(lambda: st.sampled_from(traced(VIDEO).attentions)).map(lambda layer: layer.path)),
)
def test_what_is_picked_matches_every_field(kinds: list[Any], stages: list[str], paths: list[str]) -> None:
    """In the record's order; a list and its words with commas are the same."""
    record = traced(VIDEO)
    picked = Selection.of(kinds or None, stages or None, None, paths or None).pick(record)

    assert picked == tuple(
        layer
        for layer in record.attentions
        if (not kinds or layer.kind in kinds)
        and (not stages or {layer.stage, layer.stage.partition(".")[0]} & {*stages})
        and (not paths or layer.path in paths)
    )
    assert Selection.of(",".join(kinds) or None, tuple(stages) or None, paths=", ".join(paths) or None).pick(record) == picked


@pytest.mark.parametrize(("kind", "latent"), [("conditioned", (8, 16)), ("conditioned", (11, 8)), ("k-blocks", (32, 16))])
def test_a_resolution_is_a_grid_and_not_only_a_number_of_tokens(kind: str, latent: tuple[int, int]) -> None:
    """Each stage's own height and width pick its layers; the same number of tokens as width x height picks none of them."""
    record = traced(kind, latent=latent)
    sizes = {stage.name: stage.in_shape[2:] for stage in record.stages if stage.attention.total and stage.in_shape is not None}

    for height, width in {*sizes.values()}:
        picked = Selection.of(tokens_at=f"{height}x{width}").pick(record)
        assert picked == tuple(layer for layer in record.attentions if sizes[layer.stage] == (height, width)) != ()
        assert Selection.of(tokens_at=(width, height)).pick(record) == ()
        assert Selection.of(tokens_at=(width, height)).takes_size(height * width)  # where no grid is known


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ({"kind": "crss"}, "unknown attention kind 'crss'", "did you mean cross? use self, cross, joint, temporal or pooling"),
        ({"kind": ["self", ""]}, "unknown attention kind ''", "use self, cross, joint, temporal or pooling"),
        ({"kind": 3}, "kind: 3 is not a word or a list of words", "leave kind out to match all"),
        ({"paths": []}, "paths: [] is not a word or a list of words", "leave paths out to match all"),
        ({"tokens_at": 0}, "--tokens-at: 0 is not a size from 1 to 1048576", "--tokens-at 512x768"),
        ({"stage": "mid_block,mid"}, "UNetSpatioTemporalConditionModel has no stage 'mid'", "did you mean mid_block?"),
        ({"paths": f"{LAYER}1"}, f"UNetSpatioTemporalConditionModel has no attention layer '{LAYER}1'", LAYER),
    ],
)
def test_words_that_mean_nothing_are_named(words: dict[str, Any], message: str, hint: str) -> None:
    """Nothing that was typed is left out of a selection in silence."""
    with pytest.raises(UsageError) as raised:
        Selection.of(**words).pick(traced(VIDEO))

    assert raised.value.message == message
    assert hint in str(raised.value.hint)


def test_no_match_says_what_there_is() -> None:
    """The kinds, numbers of tokens and stages of the layers; or that there is none."""
    layers = traced(VIDEO).attentions
    said = no_match(layers)

    assert all(word in said for layer in layers for word in (layer.kind, layer.stage, str(layer.query_shape[2])))
    assert no_match(()) == "no layer matches; this UNet has no attention layers"


@pytest.mark.parametrize(
    ("command", "arguments", "tap", "words"),
    [
        ("attn", [], "maps", {}),
        ("attn", ["--kind", "cross", "--tokens-at", "8"], "maps", {"kind": "cross", "tokens_at": "8"}),
        ("attn", ["--kind=cross,self", "--stage=mid_block"], "maps", {"kind": ["cross", "self"], "stage": "mid_block"}),
        ("skips", [], "skips", {}),
        ("skips", ["--source", "conv_in,down_blocks.0.downsamplers.0"], "skips", {"source": ["conv_in", "down_blocks.0.downsamplers.0"]}),
        ("skips", ["--stage=down_blocks.0", "--target=up_blocks.1.resnets.0"], "skips", {"target": "up_blocks.1.resnets.0"}),
        ("skips", ["--stage=conv_in"], "skips", {"target": "up_blocks.1.resnets.1"}),
    ],
)  # fmt: skip
def test_code_captures_with_the_words_that_were_typed(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, arguments: list[str], tap: str, words: dict[str, Any]
) -> None:
    """The script runs: it builds the UNet and calls it while `capture` is open, with the selection as it was typed."""
    entered = []

    @contextmanager
    def capture(unet: torch.nn.Module, wanted: dict[str, Any]) -> Iterator[SimpleNamespace]:
        calls: list[Any] = []
        unet.register_forward_hook(lambda *_: calls.append(wanted))
        yield SimpleNamespace(maps=(), skips=())
        entered.extend(calls)

    monkeypatch.setattr(unetinspect, "capture", capture, raising=False)
    monkeypatch.setattr(unetinspect, tap, dict, raising=False)
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(CONDITION))
    code, out, err = cli(command, str(path), *arguments, "--code")
    exec(compile(out, "code", "exec"), {})

    assert (code, err, entered) == (0, "", [words])
    assert "capture(pipe, wanted)" in out
