"""What people paste: messages, logs, boxed and coloured tracebacks, errors of other libraries, anything at all."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import some
from unetinspect.catalog import load_catalog
from unetinspect.cli import lookup
from unetinspect.errors import UsageError
from unetinspect.explain import explain_error
from unetinspect.record import ErrorExplanation, ErrorExplanations, to_json
from unetinspect.views.checks import explanations_table
from unetinspect.views.render import Screen, render_csv, render_markdown, render_table

CROSS = "mat1 and mat2 shapes cannot be multiplied (154x2048 and 768x320)"
CLASSES = "class_labels should be provided when num_class_embeds > 0"
PROJ_IN = (
    "size mismatch for up_blocks.1.attentions.{}.proj_in.weight: copying a param with shape torch.Size([4, 4]) from checkpoint, "
    "the shape in current model is torch.Size([4, 4, 1, 1])."
)


def texts(name: str) -> list[Any]:
    """Read texts with their right answers."""
    lines = (Path(__file__).parent / "explain_error" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


# Messages of several versions of torch and diffusers; what people paste, and what the right answer says: `kind`, and words.
KNOWN = {
    f"{name} {place}": row for name in ("messages", "cases", "threads", "threads_held_out") for place, row in enumerate(texts(name), 1)
}
# Errors of other libraries and other models.
FOREIGN = texts("foreign")


def only(text: str) -> ErrorExplanation:
    """Explain a text with one error."""
    found = explain_error(text).explanations
    assert len(found) == 1, [one.error for one in found]
    return found[0]


@pytest.mark.parametrize("name", KNOWN)
def test_what_people_paste(name: str) -> None:
    """Each is told as what it is; its answer has the facts that it must and none that are wrong, and says what to change.

    Without --verbose at most 20 lines of 80 columns, the changes before the meaning; with it every number, model and other cause.
    """
    row = KNOWN[name]
    explained = explain_error(row["text"])
    found = explained.explanations
    said = "".join(to_json(ErrorExplanations(explanations=(msgspec.structs.replace(one, error=""),))) for one in found).lower()

    assert found[0].kind == row["kind"]
    assert [word for word in row["must"] if word.lower() not in said] == []
    assert [word for word in row["must_not"] if word.lower() in said] == []
    assert all(one.changes for one in found)

    short, _ = render_table(explanations_table(explained), Screen(width=80))
    table = explanations_table(explained, verbose=True)
    shown = " ".join(render_table(table, Screen(width=80))[0].split())
    assert [line for line in short.splitlines() if len(line) > 80 and " " in line.strip()] == []
    assert len(short.splitlines()) <= 20
    assert 0 < short.index("What to change") < short.index("What it means")
    for one in found:
        with_meaning: list[Any] = [one, *one.numbers, *one.others]
        parts = [one.error, *one.changes, *(part.meaning for part in with_meaning)]
        assert [part for part in parts if " ".join(part.split()) not in shown] == []
        assert all(part in shown for model in one.models for part in (model.name, *model.where))
    assert len(render_csv(table, delimiter=",").splitlines()) == 1 + len(found)
    assert f"**What it means**  \n{found[0].meaning}".replace("*", "") in render_markdown(table).replace("*", "").replace("\\", "")


@pytest.mark.parametrize("row", FOREIGN, ids=lambda row: str(row["from"]))
def test_no_error_of_another_library_is_claimed(row: dict[str, Any]) -> None:
    """It is refused, or it is said that nothing in the text says which model it is, or that it is none of a UNet."""
    try:
        found = explain_error(row["text"]).explanations
    except UsageError:
        return
    for one in found:
        assert one.decided_by == "nothing" or "not a UNet" in one.meaning or "not the UNet" in one.meaning


def test_the_numbers_of_cross_attention() -> None:
    """154 = 2 x 77 tokens; 2048 came in, 768 is taken; in blocks of 320 channels of the models whose config says so."""
    one = only(CROSS)
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
    assert {model.name for model in one.models if "2048" in model.role} >= {"sdxl", "kolors"}
    assert one.decided_by == "numbers"


def test_a_traceback_decides_between_layers_of_the_same_size() -> None:
    """768 to 1280 is cross-attention of a deep block in Stable Diffusion 1.x, and what Stable Video Diffusion adds to its time."""
    message = "RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x512 and 768x1280)"
    frame = '  File "/x/diffusers/models/unets/unet_spatio_temporal_condition.py", line 400, in forward\n    self.add_embedding(time)\n'

    assert only(frame + message).kind == "added_cond_width"
    assert only(frame + message).decided_by == "traceback"
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


def test_a_model_that_the_text_names_is_in_the_commands_to_type() -> None:
    """By its hub ID, in any case."""
    memory = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.25 GiB"

    assert any(
        "unetinspect sweep sdxl " in change for change in only(f"loading StabilityAI/stable-diffusion-xl-base-1.0\n{memory}").changes
    )
    assert any("unetinspect sweep MODEL " in change for change in only(memory).changes)


def test_a_file_or_stdin_is_read_as_the_text(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With bytes that are not UTF-8, and up to the same limit; one sentence for a file without permission."""
    log = tmp_path / "train.log"
    log.write_bytes(b"epoch 1 \xff\n" + f"RuntimeError: {CROSS}\n".encode())
    alone = cli("explain-error", CROSS)
    with log.open(encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert cli("explain-error") == cli("explain-error", str(log)) == (0, alone[1], "")

    monkeypatch.setattr(lookup, "_MAX_TEXT", 20)
    assert cli("explain-error", str(log))[0] == 2
    monkeypatch.setattr(Path, "open", Mock(side_effect=PermissionError(13, "Permission denied")))
    assert cli("explain-error", str(log)) == (3, "", f"error: {log} cannot be read: permission denied\nhint: check that you may read it\n")


def test_nothing_here_imports_torch() -> None:
    """A message is explained without torch, diffusers or the hub's client."""
    from tests.test_imports import imported_after

    some_texts = [row["text"] for row in KNOWN.values()][::8]
    code = f"from unetinspect.explain import explain_error\nfor text in {some_texts!r}: explain_error(text)"

    assert imported_after(code) == set()


@pytest.mark.parametrize("name", some(KNOWN, 6))
def test_decoration_changes_nothing(name: str) -> None:
    """Colours, quotes, log prefixes and Windows line ends lead to the same explanation."""
    text = KNOWN[name]["text"]
    plain = explain_error(text).explanations[0]

    for decorated in (f"\x1b[31m\x1b[1m{text}\x1b[0m", f"```\n{text}\n```", f"2024-09-16 - ERROR - {text}", text.replace("\n", "\r\n")):
        assert msgspec.structs.replace(explain_error(decorated).explanations[0], error=plain.error) == plain


def test_a_transformer_below_a_script_is_not_a_unet() -> None:
    """Its frames are diffusers' too, and its numbers may be those of Stable Diffusion."""
    frames = 'File "/home/u/run.py", line 3, in <module>\nFile "/x/diffusers/models/transformers/transformer_flux.py", line 9, in forward\n'

    with pytest.raises(UsageError):
        explain_error(f"{frames}RuntimeError: {CROSS}")


def test_a_bare_message_does_not_take_the_traceback_of_an_earlier_one() -> None:
    """What stands before the earlier message is that message's alone."""
    frame = 'File "/x/diffusers/models/attention_processor.py", line 9, in __call__\n'

    found = explain_error(
        f"{frame}RuntimeError: {CROSS}\n\nRuntimeError: mat1 and mat2 shapes cannot be multiplied (128x128 and 256x128)\n"
    )

    assert [one.module for one in found.explanations] == [None, "diffusers.models.attention_processor.__call__, line 9"]


@pytest.mark.parametrize("before", ["    raise KeyError(f", "-> 74     f"], ids=["Python", "IPython"])
def test_a_message_in_a_line_of_code_is_no_second_error(before: str) -> None:
    """A traceback shows the line that raises, with the text in it."""
    frame = 'File "/x/diffusers/models/activations.py", line 74, in get_activation\n'
    code = f'{before}"activation function {{act_fn}} not found in ACT2FN mapping {{list(ACT2FN)}}")\n'

    assert only(f"{frame}{code}ValueError: activation function sulu not found in ACT2FN mapping ['swish', 'silu']").kind == "config"


def test_several_errors_are_told_last_first_and_once() -> None:
    """Each error of a log is explained once, that raised last first, each with its own traceback; of many the last twenty."""
    attention, unet = 'attention_processor.py", line 9, in __call__', 'unets/unet_2d.py", line 297, in forward'
    first = f'File "/x/diffusers/models/{unet}\nValueError: class_labels should be provided when doing class conditioning\n'
    second = f'File "/x/diffusers/models/{attention}\n{CROSS}\n'

    found = explain_error(first + second * 3).explanations
    many = explain_error("\n".join(CROSS.replace("2048", str(n)) for n in range(1000, 3000))).explanations

    assert [(one.kind, one.module) for one in found] == [
        ("cross_attention_width", "diffusers.models.attention_processor.__call__, line 9"),
        ("class_labels", "diffusers.models.unets.unet_2d.forward, line 297"),
    ]
    assert len(many) == 20
    assert "154x2999" in many[0].error


def test_a_failed_load_is_one_error_and_others_beside_it_stay() -> None:
    """All lines of a state dict's error belong to one explanation; what stands behind it is another."""
    lines = "".join(f"\t{PROJ_IN.format(n)}\n" for n in range(500))
    text = f"Error(s) in loading state_dict for UNet2DConditionModel:\n{lines}done\nmat1 and mat2 must have the same dtype\n"

    assert [one.kind for one in explain_error(text).explanations] == ["dtype", "checkpoint"]


@given(st.text(max_size=400))
@settings(max_examples=60, deadline=None)
def test_any_text_is_answered(text: str) -> None:
    """Random text is explained or refused; nothing else is raised."""
    answered(text)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_mutated_messages_are_answered(data: st.DataObject) -> None:
    """Messages with pieces cut out, repeated, swapped for others or for odd numbers are explained or refused."""
    known = [row["text"] for row in KNOWN.values()]
    pieces = [data.draw(st.sampled_from(known)) for _ in range(data.draw(st.integers(1, 3)))]
    text = data.draw(st.sampled_from(["\n", " ", "", "\r\n"])).join(pieces)
    for _ in range(data.draw(st.integers(0, 6))):
        start, stop = sorted(data.draw(st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))))
        piece = data.draw(st.sampled_from(["", "0", "-1", "99999999999", "1x1", "[]", "(", "{", "\x1b[31m", "٣", text[start:stop]]))
        text = text[:start] + piece + text[min(stop, start + 6) :]
    answered(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RuntimeError: The size of tensor a (32) must match the size of tensor b (33) at non-singleton dimension 3", None),
        ("RuntimeError: Input type (c10::Half) and bias type (float) should be the same", None),
        ("AttributeError: 'UNet2DConditionModel' object has no attribute 'in_channels'", None),
        ("2024-05-01 12:00:00,123 [ERROR] torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 9.00 GiB\nlater", None),
        (r'{"error": "CUDA out of memory. Tried to allocate 9.00 GiB", "id": 3}', "CUDA out of memory. Tried to allocate 9.00 GiB"),
    ],
)
def test_an_error_is_its_whole_message(text: str, message: str | None) -> None:
    """From the error's name, or the first word, to the end of the line or of a JSON string."""
    assert only(text).error == (message or text.partition("Error: ")[2].partition("\n")[0])


def answered(text: str) -> None:
    """Explain a text or see it refused, and show what is said."""
    try:
        found = explain_error(text)
    except UsageError:
        return
    assert msgspec.json.decode(msgspec.json.encode(found), type=ErrorExplanations) == found
    render_table(explanations_table(found), Screen(width=80))


UNITS = [
    "size mismatch for ",
    'File "',
    "Block",
    "Sizes of tensors ",
    ".py:1",
    "\x1b[",
    f"{CROSS}\n",
    "Error(s) in loading state_dict for ",
]


def test_two_megabytes_are_read() -> None:
    """A log of 2 MB of one thing over and over, then of another, is read to its end, where the error is."""
    text = "\n".join(unit * (2_000_000 // len(UNITS) // len(unit)) for unit in UNITS) + f"\n\n{CLASSES}\n"

    assert explain_error(text).explanations[0].kind == "class_labels"
