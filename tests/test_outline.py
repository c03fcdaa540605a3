"""What every drawing is made from: each stage, skip, attention layer and parameter of a record once, where it belongs."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.drawn import DRAWN, drawn
from tests.tiny import traced
from unetinspect.drawing.outline import Outline, mark_text, outline_of, sum_text


@pytest.fixture(params=DRAWN)
def outline(request: pytest.FixtureRequest) -> Outline:
    """The outline of a record."""
    return outline_of(drawn(request.param))


def test_boxes_hold_everything_once(outline: Outline) -> None:
    """Stages in their order, each in one box; parameters, MACs, skips and attention layers add up to the record's."""
    record = outline.trace
    stages = [stage for box in outline.boxes for stage in box.stages]

    assert stages == list(record.stages)
    assert len({box.name for box in outline.boxes}) == len(outline.boxes)
    assert sum(box.params for box in outline.boxes) == sum(stage.params for stage in record.stages)
    assert sum(box.macs or 0 for box in outline.boxes) == sum(stage.macs or 0 for stage in record.stages)
    assert Counter(skip.order for box in outline.boxes for skip in box.taken) == Counter(skip.order for skip in record.skips)
    assert Counter(skip.index for box in outline.boxes for skip in box.made) == Counter({skip.index for skip in record.skips})
    layers = {(layer.path, layer.kind, *layer.map_shape[1:]) for layer in record.attentions}
    assert sum(mark.count for box in outline.boxes for mark in box.marks) == len(layers)


def test_layers_are_in_order_and_hold_what_their_box_holds(outline: Outline) -> None:
    """Layers follow each other as they ran, none inside another; together they make and take the skips of their box."""
    for box in outline.boxes:
        steps = [layer.module.step for layer in box.layers if layer.module.step is not None]
        inside = {layer.module.path for layer in box.layers}
        assert steps == sorted(steps)
        assert len(steps) == len(box.layers)
        assert not any(path.startswith(f"{other}.") for path in inside for other in inside)
        if box.layers and not any(skip.target in {stage.name for stage in box.stages} for skip in box.taken):
            assert [skip for layer in box.layers for skip in layer.taken] == list(box.taken)


def test_who_follows_whom_agrees_in_shape(outline: Outline) -> None:
    """A box takes as many values as the one before it made, or those and the skips that are concatenated to them."""
    boxes = {box.name: box for box in outline.boxes}
    for box in outline.boxes:
        if box.after is not None and box.in_shape is not None:
            made = boxes[box.after].out_shape
            assert made is not None
            extra = [0, *(skip.skip_channels for skip in box.taken)]
            assert box.in_shape[1] - made[1] in extra or len(box.in_shape) != len(made)


def test_the_u_of_sd15() -> None:
    """The picture that everybody knows: sides, sizes, channels, and the chain from conv_in to conv_out."""
    outline = outline_of(traced("sd15"))
    chain = ["conv_in", *(f"down_blocks.{i}" for i in range(4)), "mid_block", *(f"up_blocks.{i}" for i in range(4))]
    chain += ["conv_norm_out", "conv_act", "conv_out"]
    path = [box for box in outline.boxes if box.side != "top"]

    assert [box.name for box in path] == chain
    assert [box.after for box in path] == [None, *chain[:-1]]
    assert [(box.size, box.channels) for box in outline.on("left")] == [
        ((64, 64), 320),
        ((64, 64), 320),
        ((32, 32), 640),
        ((16, 16), 1280),
        ((8, 8), 1280),
    ]
    assert [mark_text(mark) for mark in outline.box_of("up_blocks.1").marks] == ["3 self 256x256", "3 cross 256x77"]
    assert [sum_text(skip) for skip in outline.box_of("up_blocks.1").taken] == ["1280 + 1280 -> 1280"] * 2 + ["1280 + 640 -> 1280"]
    assert [layer.name for layer in outline.box_of("down_blocks.0").layers] == [
        *("resnets.0", "attentions.0", "resnets.1", "attentions.1", "downsamplers.0")
    ]
    assert [layer.kind for layer in outline.box_of("down_blocks.0").layers] == ["resnet", "attention"] * 2 + ["downsample"]


def test_stages_that_are_alike_are_one_box() -> None:
    """aMUSEd's 22 transformer layers stand as one, with all their attention; its tokens are its places."""
    box = outline_of(traced("amused-512")).box_of("transformer_layers.7")

    assert (box.name, len(box.stages)) == ("transformer_layers.0-21", 22)
    assert [mark_text(mark) for mark in box.marks] == ["22 self 256x256", "22 cross 256x77"]
    assert (box.size, box.cells, box.channels) == ((256,), 256, 1024)


def test_what_leaves_a_controlnet_is_no_chain() -> None:
    """Its zero convolutions are branches: none follows another, those of one width are one box."""
    boxes = outline_of(traced("controlnet-sd15-canny")).on("right")

    assert all(box.after is None for box in boxes)
    assert sum(len(box.stages) for box in boxes) == 13
