"""Texts that errors stand in: logs, boxed and coloured tracebacks, several at once, anything at all, and a great deal of it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.error_messages import IN_LOADING, MESSAGES, MISMATCH
from unetinspect.errors import UsageError
from unetinspect.explain import explain_error
from unetinspect.record import ErrorExplanation, ErrorExplanations
from unetinspect.views.explanations import explanations_table
from unetinspect.views.render import Screen, render_table


def only(text: str) -> ErrorExplanation:
    """Explain a text with one error."""
    found = explain_error(text).explanations
    assert len(found) == 1, [one.error for one in found]
    return found[0]


@pytest.mark.parametrize(("text", "kind", "word"), MESSAGES[::6])
def test_decoration_changes_nothing(text: str, kind: str, word: str) -> None:
    """Colours, quotes, log prefixes and Windows line ends lead to the same explanation."""
    plain = only(text)
    logged = "\n".join(
        f"2024-09-16 23:24:39,507 - root - ERROR - {line}" if place == 0 else line for place, line in enumerate(text.split("\n"))
    )

    for decorated in (f"\x1b[31m\x1b[1m{text}\x1b[0m", f'  "{text}"  ', f"```\n{text}\n```", logged, text.replace("\n", "\r\n") + "\r\n"):
        assert msgspec.structs.replace(only(decorated), error=plain.error) == plain


@pytest.mark.parametrize(
    "frames",
    [
        '  File "C:\\v\\Lib\\site-packages\\diffusers\\models\\attention_processor.py", line 1023, in __call__\n',
        (
            "File ~/v/lib/python3.10/site-packages/diffusers/models/attention_processor.py:1023, in AttnProcessor.__call__(self, attn)\n-> "
            "1023 key\n"
        ),
        ("│ /home/u/v/site-packages/diffusers/models/attention_processor.py:1023 in __call__       │\n│ ❱ 1023 │   key            │\n"),
        "│ /home/u/v/site-packages/diffusers/m │\n│ odels/attention_processor.py:1023 in __call__       │\n",
    ],
    ids=["python on Windows", "IPython", "boxed", "boxed and broken"],
)
def test_the_module_is_read_from_every_kind_of_traceback(frames: str) -> None:
    """Paths of Windows, of notebooks, and of boxes that break them."""
    one = only(f"{frames}RuntimeError: mat1 and mat2 shapes cannot be multiplied (154x2048 and 768x320)")

    assert one.module in (
        "diffusers.models.attention_processor.__call__, line 1023",
        "diffusers.models.attention_processor.AttnProcessor.__call__, line 1023",
    )


def test_a_message_before_its_traceback() -> None:
    """Where a tool prints the message first and does not repeat it, the frames behind it are its own."""
    text = (
        "Error occurred when executing KSampler:\n\nmat1 and mat2 shapes cannot be multiplied (154x2048 and 768x320)\n\n"
        'File "D:\\ComfyUI\\execution.py", line 151, in recursive_execute\nout = 1\n'
        'File "D:\\ComfyUI\\comfy\\ldm\\modules\\attention.py", line 327, in forward\nk = self.to_k(context)\n'
    )

    assert only(text).module == "ldm.modules.attention.forward, line 327"


def test_several_errors_are_told_last_first_and_once() -> None:
    """Each error of a log is explained once, that raised last first, each with its own traceback."""
    attention, unet = 'attention_processor.py", line 9, in __call__', 'unets/unet_2d.py", line 297, in forward'
    first = f'File "/x/diffusers/models/{unet}\nValueError: class_labels should be provided when doing class conditioning\n'
    second = f'File "/x/diffusers/models/{attention}\n{MESSAGES[0][0]}\n'

    found = explain_error(first + second * 3).explanations

    assert [one.kind for one in found] == ["cross_attention_width", "class_labels"]
    assert [one.module for one in found] == [
        "diffusers.models.attention_processor.__call__, line 9",
        "diffusers.models.unets.unet_2d.forward, line 297",
    ]


def test_a_failed_load_is_one_error_and_others_beside_it_stay() -> None:
    """All lines of a state dict's error belong to one explanation; what stands behind it is another."""
    lines = "".join(
        f"\tsize mismatch for up_blocks.1.attentions.{n}.proj_in.weight: {MISMATCH.format([4, 4], [4, 4, 1, 1])}.\n" for n in range(500)
    )
    text = f"{IN_LOADING}UNet2DConditionModel:\n{lines}done\nmat1 and mat2 must have the same dtype\n"

    found = explain_error(text).explanations

    assert [one.kind for one in found] == ["dtype", "checkpoint"]
    assert found[1].numbers[0].value == 500


@given(st.text(max_size=400))
@settings(max_examples=60, deadline=None)
def test_any_text_is_answered(text: str) -> None:
    """Random text is explained or refused; nothing else is raised."""
    answered(text)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_mutated_messages_are_answered(data: st.DataObject) -> None:
    """Messages with pieces cut out, repeated, swapped for others or for odd numbers are explained or refused."""
    pieces = [data.draw(st.sampled_from(MESSAGES))[0] for _ in range(data.draw(st.integers(1, 3)))]
    text = data.draw(st.sampled_from(["\n", " ", "", "\r\n"])).join(pieces)
    for _ in range(data.draw(st.integers(0, 6))):
        start, stop = sorted(data.draw(st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))))
        piece = data.draw(st.sampled_from(["", "0", "-1", "99999999999", "1x1", "[]", "(", "{", "\x1b[31m", "٣", text[start:stop]]))
        text = text[:start] + piece + text[min(stop, start + 6) :]
    answered(text)


def answered(text: str) -> None:
    """Explain a text or see it refused, and show what is said."""
    try:
        found = explain_error(text)
    except UsageError:
        return
    assert msgspec.json.decode(msgspec.json.encode(found), type=ErrorExplanations) == found
    render_table(explanations_table(found), Screen(width=80))


@pytest.mark.parametrize(
    "unit",
    [
        "size mismatch for ",
        'File "',
        "Block",
        "Sizes of tensors ",
        ".py:1",
        "\x1b[",
        MESSAGES[0][0] + "\n",
        "Error(s) in loading state_dict for ",
    ],
    ids=repr,
)
def test_two_megabytes_are_read(unit: str) -> None:
    """A log of 2 MB of one thing over and over is read to its end, where the error is."""
    text = unit * (2_000_000 // len(unit)) + "\n\nclass_labels should be provided when num_class_embeds > 0\n"

    assert explain_error(text).explanations[0].kind == "class_labels"


def test_a_log_of_many_errors_is_cut() -> None:
    """Of thousands of different errors the last twenty are explained."""
    text = "\n".join(f"mat1 and mat2 shapes cannot be multiplied (154x{n} and 768x320)" for n in range(1000, 4000))

    found = explain_error(text).explanations

    assert len(found) == 20
    assert "154x3999" in found[0].error
