"""The texts that diffusers' source raises, and the answers written by hand to the commonest of them."""

from __future__ import annotations

import re
from functools import cache

import pytest

from tests.atlas.raised import raised_rows
from tests.test_explain_tables import DIFFUSERS
from unetinspect.errors import UsageError
from unetinspect.explain import explain_error
from unetinspect.explain.atlas import Row

# An older diffusers said it, or the source puts it together in several branches.
_IN_NO_ONE_PLACE = {
    "It is deprecated to pass a pretrained model name or path to `from_config`.",
    "Loaded embeddings are of incorrect shape. Expected each textual inversion embedding to be of shape 768, but are 1024",
    "Loading adapter weights from state_dict led to unexpected keys found in the model: down_blocks.0.attentions.0.proj_in.lora_A.weight.",
}
_ANSWERED_STAGES = {"config", "forward", "processors"}


@cache
def rows() -> list[Row]:
    return raised_rows()


def says(row: Row, example: str) -> bool:
    """Tell whether a text of the source, its variable parts filled in, is the example."""
    pieces = re.split("[@#]", row.text)
    if max(pieces, key=len) not in example:
        return False
    fields = re.findall("[@#]", row.text)
    pattern = re.escape(pieces[0])
    for field, piece in zip(fields, pieces[1:], strict=True):
        pattern += (".{0,400}?" if field == "@" else "[0-9]{1,9}") + re.escape(piece)
    return re.fullmatch(pattern, example) is not None


def test_the_source_raises_what_a_user_can_meet():
    models = {row.text for row in rows() if row.axis in _ANSWERED_STAGES}
    pipelines = {row.text for row in rows() if row.axis == "pipeline"}
    loading = {row.text for row in rows() if row.axis == "load"}
    assert len(models) >= 150
    assert len(pipelines) >= 100
    assert len(loading) >= 150


@pytest.mark.parametrize(
    ("text", "stage", "about", "numbers"),
    [
        ("cross_attention_dim must be specified for CrossAttnDownBlock2D", "config", "cross_attention_dim", ()),
        ("slice_size # has to be smaller or equal to #.", "processors", "slice_size", ("slice_size", "self.sliceable_head_dim")),
        ("class_labels should be provided when num_class_embeds > 0", "forward", "class_labels num_class_embeds", ()),
        ("`height` and `width` have to be divisible by 8 but are # and #.", "pipeline", "height width", ("height", "width")),
        ("Required keys are (`image_proj` and `ip_adapter`) missing from the state dict.", "load", "", ()),
    ],
)
def test_a_text_is_read_with_where_it_is_raised(text: str, stage: str, about: str, numbers: tuple[str, ...]):
    found = [row for row in rows() if row.text == text]
    assert found
    assert {row.axis for row in found} == {stage}
    assert found[0].about == about
    assert found[0].numbers == numbers


def test_an_example_is_what_the_installed_diffusers_says():
    examples = {" ".join(row.example.split()) for row in DIFFUSERS}
    assert {example for example in examples if not any(says(row, example) for row in rows())} == _IN_NO_ONE_PLACE


def test_every_text_of_a_model_has_an_answer():
    """In a traceback of diffusers; a text with few words of its own says nothing without one."""
    asked = [row for row in rows() if row.axis in _ANSWERED_STAGES]
    unknown = []
    for row in asked:
        file, _, function = row.frames[-1].partition(".")
        frame = f'File "/x/site-packages/diffusers/models/{file}.py", line 1, in {function}\n    raise ValueError(\n'
        try:
            explain_error(f"{frame}ValueError: {row.text.replace('@', 'word').replace('#', '3')}")
        except UsageError:
            unknown.append(row.text)
    # Provoked in its two forms, which the word of this test is none of.
    assert unknown == [
        "`time_embedding_norm`=@ is not supported by `ResnetBlock2DDreamLite`. Use `diffusers.models.resnet.ResnetBlockCondNorm2D` instead."
    ]
