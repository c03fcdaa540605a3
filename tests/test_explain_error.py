"""What people paste: messages of several versions of torch and diffusers, logs, boxed and coloured tracebacks, anything at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.error_messages import MESSAGES, MUST_MATCH
from unetinspect.catalog import load_catalog
from unetinspect.errors import UsageError
from unetinspect.explain import explain_error
from unetinspect.record import ErrorExplanation, ErrorExplanations, to_json
from unetinspect.views.checks import explanations_table
from unetinspect.views.render import Screen, render_csv, render_markdown, render_table
from unetinspect.views.table import Table


def only(text: str) -> ErrorExplanation:
    """Explain a text with one error."""
    found = explain_error(text).explanations
    assert len(found) == 1, [one.error for one in found]
    return found[0]


def words_of(one: ErrorExplanation) -> str:
    """Return everything that an explanation says."""
    return to_json(ErrorExplanations(explanations=(one,)))


@pytest.mark.parametrize(("text", "kind", "word"), MESSAGES, ids=[f"{place}-{kind}" for place, (_, kind, _) in enumerate(MESSAGES)])
def test_messages_of_public_threads(text: str, kind: str, word: str) -> None:
    """Each is told as what it is, names what it must, and says what to change."""
    one = only(text)

    assert one.kind == kind
    assert word in words_of(one)
    assert len(one.meaning) > 60
    assert one.changes


def test_the_numbers_of_cross_attention() -> None:
    """154 = 2 x 77 tokens; 2048 came in, 768 is taken; in blocks of 320 channels of the models whose config says so."""
    one = only("mat1 and mat2 shapes cannot be multiplied (154x2048 and 768x320)")
    takers = {model.name for model in one.models if "768" in model.role}
    by_config = {
        name
        for name, entry in load_catalog().items()
        if entry.config.get("cross_attention_dim") == 768
        and entry.config["block_out_channels"][0] == 320
        and "CrossAttn" in entry.config["down_block_types"][0]
    }

    assert [number.value for number in one.numbers] == [154, 2048, 768, 320]
    assert "2 x 77 tokens" in one.numbers[0].meaning
    assert takers == by_config
    sd15 = next(model for model in one.models if model.name == "sd15")
    assert sd15.where == (
        "cross_attention_dim",
        "down_blocks.0.attentions.*.transformer_blocks.*.attn2.to_k",
        "up_blocks.3.attentions.*.transformer_blocks.*.attn2.to_k",
    )


def test_a_traceback_decides_between_layers_of_the_same_size() -> None:
    """768 to 1280 is cross-attention of a deep block in Stable Diffusion 1.x, and what Stable Video Diffusion adds to its time."""
    message = "RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x512 and 768x1280)"
    frame = '  File "/x/diffusers/models/unets/unet_spatio_temporal_condition.py", line 400, in forward\n    self.add_embedding(time)\n'

    assert only(frame + message).kind == "added_cond_width"
    assert {model.name for model in only(frame + message).models} >= {"svd-xt"}
    assert only(message.replace("2x512", "154x1024")).kind == "cross_attention_width"


@pytest.mark.parametrize(
    "text", ["", "  \n\t", "hello", "RuntimeError: CUDA error", "mat1 and mat2 shapes cannot be multiplied (1x and 2)", "\ud800\x00"]
)
def test_what_is_not_known_is_a_usage_error(text: str) -> None:
    """A text without an error of a UNet is refused in one sentence with a hint."""
    with pytest.raises(UsageError) as raised:
        explain_error(text)

    assert raised.value.hint


@pytest.mark.parametrize(
    "text",
    [MESSAGES[0][0], f"{MESSAGES[0][0]}\n{MUST_MATCH}Expected size 24 but got size 25 for tensor number 1 in the list"],
    ids=["one", "two"],
)
def test_the_view_says_all_in_80_columns(text: str) -> None:
    """Every number, model, place and change is shown, no line is wider than 80 columns; CSV has a record for each error."""
    found = explain_error(text)
    table = explanations_table(found)
    shown, _ = render_table(table, Screen(width=80))
    said = " ".join(shown.split())

    assert max(map(len, shown.splitlines())) <= 80
    for one in found.explanations:
        for part in (
            one.error,
            one.meaning,
            *one.changes,
            *(number.meaning for number in one.numbers),
            *(model.role for model in one.models),
        ):
            assert " ".join(part.split()) in said
        assert all(part in said for model in one.models for part in (model.name, *model.where))
    assert len(render_csv(table, delimiter=",").splitlines()) == 1 + len(found.explanations)
    assert "What it means" in render_markdown(table)
    assert isinstance(table, Table)


def test_nothing_here_imports_torch(tmp_path: Path) -> None:
    """A message is explained without torch, diffusers or the hub's client."""
    from tests.test_imports import imported_after

    code = f"from unetinspect.explain import explain_error\nfor text in {[text for text, _, _ in MESSAGES[:30]]!r}: explain_error(text)"

    assert imported_after(code) == set()
