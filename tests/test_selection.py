"""Which layers, skips and modules are picked, against what defines them, and in how many rows, columns and levels they are shown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import ALL, CONDITION, traced
from unetinspect import UsageError
from unetinspect.record.selection import KINDS, Selection, no_match, pick_skips, with_grids
from unetinspect.views.attention import attention_table
from unetinspect.views.render import Screen, render_table
from unetinspect.views.tree import tree_table

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
    layers = with_grids(traced(VIDEO))
    said, meant = no_match(layers)

    places = [f"{layer.query_shape[2]} query tokens" if grid is None else f"{grid[0]}x{grid[1]}" for layer, grid in layers]
    assert {place[-6:] == "tokens" for place in places} == {True, False}
    assert all(word in said for (layer, _), place in zip(layers, places, strict=True) for word in (layer.kind, layer.stage, place))
    assert meant is None
    assert no_match(()) == ("no layer matches; this UNet has no attention layers", None)


@pytest.mark.parametrize(
    ("kind", "words", "wanted"),
    [
        ("conditioned", "attn", "maps()"),
        ("conditioned", "attn --kind cross --tokens-at 8", "maps(kind='cross', tokens_at='8')"),
        ("svd", "attn --kind=temporal,cross --stage=mid_block", "maps(kind=['temporal', 'cross'], stage='mid_block')"),
        ("k-blocks", "skips", "skips()"),
        ("plain", "skips --source conv_in,down_blocks.0.resnets.0", "skips(source=['conv_in', 'down_blocks.0.resnets.0'])"),
        ("conditioned", "skips --stage=conv_in", "skips(target='up_blocks.1.resnets.1')"),
    ],
)
def test_code_captures_the_rows_with_the_words_that_were_typed(
    cli: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, words: str, wanted: str
) -> None:
    """The script selects as the command did; run on meta, it prints the rows: paths, and shapes of which heads are folded."""
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(ALL[kind]))
    command, *options = words.split()
    rows = json.loads(cli(command, str(path), *options, "--json")[1])
    code, out, err = cli(command, str(path), *options, "--code")
    exec(compile(out, "code", "exec"), {})

    assert (code, err) == (0, "")
    assert f"wanted = {wanted}\n" in out
    assert "# with capture(pipe, wanted) as seen:\n" in out
    captured = [re.split(r" \(.*?\) ", line) for line in capsys.readouterr().out.splitlines()]
    if command == "attn":
        shapes = [(f"{row['path']} {row['kind']}", (row["query_shape"][0], *row["map_shape"][1:])) for row in rows["attentions"]]
    else:
        shapes = [(f"{row['source']} {row['target']}", (1, *row["shape"])) for row in rows["skips"]]
    assert sorted(captured) == sorted([name, str(shape)] for name, shape in shapes) != []


@given(
    stages=st.lists(st.sampled_from(["up_blocks", "up_blocks.1", "mid_block", "down_blocks.0", "conv_in"])),
    sources=st.lists(st.deferred(lambda: st.sampled_from(traced("plain").skips)).map(lambda skip: skip.source)),
    targets=st.lists(st.deferred(lambda: st.sampled_from(traced("plain").skips)).map(lambda skip: skip.target)),
)
def test_the_skips_that_are_picked_match_every_field(stages: list[str], sources: list[str], targets: list[str]) -> None:
    """A stage is that of either end."""
    record = traced("plain")

    assert pick_skips(record, stages=stages, sources=sources, targets=targets) == tuple(
        skip
        for skip in record.skips
        if (not stages or {part for end in (skip.source_stage, skip.target_stage) for part in (end, end.partition(".")[0])} & {*stages})
        and (not sources or skip.source in sources)
        and (not targets or skip.target in targets)
    )


@pytest.mark.parametrize(
    ("words", "jq_names"),
    [
        ("attn TINY --kind cross", ".attentions[].path"),
        ("attn TINY --kind cross --columns processor_key", '.attentions[].path + ".processor"'),
        ("attn TINY --columns heads", ".attentions[].heads | tostring"),
        ("skips TINY --stage up_blocks.1", ".skips[].target"),
        ("tree TINY mid_block.attentions.0", ".modules[].path"),
        ("tree TINY --depth 1", '.modules[].path | select(. != "")'),
        ("models", ".models[].name"),
        ("models --classes", ".classes[].class_name"),
        ("models --from .", ".models[].path"),
    ],
)
def test_names_are_those_of_the_json(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, jq_names: str) -> None:
    """One a line, and nothing else, on stdout and in a file."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.json").write_text(json.dumps(CONDITION))
    typed = words.replace("TINY", "tiny.json").split()
    whole = words.replace("TINY", "tiny.json").partition(" --columns")[0].split()  # JSON has every field
    names = list(dict.fromkeys(jq.compile(jq_names).input_text(cli(*whole, "--json")[1]).all()))

    assert names
    assert cli(*typed, "--format", "names") == (0, "".join(f"{name}\n" for name in names), "")
    assert cli(*typed, "--format", "names", "-o", "names.txt") == (0, "", "")
    assert Path("names.txt").read_text().splitlines() == names


@pytest.mark.parametrize("model", ["sdxl", "nested-transformer-depths", "motion-depths"])
def test_folded_layers_unfolded_again_are_all_of_them(model: str) -> None:
    """A row with a range stands for as many layers as it says, each of which is what the row shows."""
    layers = traced(model).attentions
    table = attention_table(traced(model), layers, fold=True)
    shown = [column for column in table.columns if column.header not in ("attention layer", "layers", "index")]
    one_each = {row.path: [column.show(row) for column in shown] for row in attention_table(traced(model), layers).rows}
    unfolded = {}
    for row in table.rows:
        first, last = re.findall(r"(\d+)-(\d+)|$", row.path)[0]
        numbers = range(int(first), int(last) + 1) if first else range(1)
        assert len(numbers) == len(row.indices)
        for number in numbers:
            unfolded[re.sub(r"\d+-\d+", str(number), row.path)] = [column.show(row) for column in shown]

    assert len(table.rows) < len(layers)
    assert unfolded == one_each
    assert table.records == layers


@pytest.mark.parametrize("fold", [True, False])
def test_a_tree_is_cut_to_the_height_of_the_screen(fold: bool) -> None:
    """It has the most levels that fit, at least one, and says how many there are; a whole one says nothing."""
    record = traced("nested-transformer-depths")
    whole = tree_table(record, fold=fold)
    assert fold or len(whole.rows) == len(record.modules)
    assert "shown" not in "".join(whole.below)
    deepest = max(line.level for line in whole.rows)
    for height in (1, 24, 40, 80, 1000):
        table = tree_table(record, fold=fold, height=height)
        depth = max(line.level for line in table.rows)
        rooms = [
            len(render_table(tree_table(record, fold=fold, depth=level), Screen(width=80))[0].splitlines()) for level in (depth, depth + 1)
        ]
        assert rooms[0] < height or depth == 1
        assert rooms[1] >= height - 2 or depth == deepest
        assert (f"{depth} of {deepest} levels shown: --depth {deepest} shows all" in table.below) == (depth < deepest)


def test_a_text_as_long_as_a_grid_gets_the_option_that_selects_the_grid(cli: Any) -> None:
    """`--tokens 256` may be meant as the layers with 256 query tokens; with `--tokens-at`, or with 77 tokens, it is not."""
    said = "--tokens is the length of encoder_hidden_states; --tokens-at 16x16 selects by query tokens"
    noted = [said in cli("attn", "sd15", *words.split())[2] for words in ("--tokens 256", "--tokens 256 --tokens-at 8", "--tokens 77")]

    assert noted == [True, False, False]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--tokens-at 256", "for 256 query tokens, use --tokens-at 16x16 (256 is 256x256)"),
        ("--tokens-at 16x16 --stage mid_block --kind cross", "this UNet has cross attention at 8x8 in mid_block"),
    ],
)
def test_where_no_layer_matches_the_answer_is_about_what_was_asked(cli: Any, options: str, said: str) -> None:
    """A number of tokens is taken for a side; a stage has its own sizes."""
    assert said in " ".join(cli("attn", "sd15", *options.split())[1].split())
