"""What every drawing is made from: each stage, skip, attention layer and parameter of a record once, where it belongs."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from tests.drawn import DRAWN, LEVELS, outlined
from tests.tiny import traced
from unetinspect.drawing.outline import mark_text, outline_of, sum_text


@pytest.mark.parametrize("name", DRAWN)
def test_an_outline_has_everything_of_the_record_once(name: str) -> None:
    """Stages in their order, each in one box; parameters, MACs, skips and attention layers add up; layers as they ran, none nested."""
    outline = outlined(name)
    record = outline.trace
    layers = {(layer.path, layer.kind, *layer.map_shape[1:]) for layer in record.attentions}
    boxes = {box.name: box for box in outline.boxes}

    assert [stage for box in outline.boxes for stage in box.stages] == list(record.stages)
    assert len(boxes) == len(outline.boxes)
    assert sum(box.params for box in outline.boxes) == sum(stage.params for stage in record.stages)
    assert sum(box.macs or 0 for box in outline.boxes) == sum(stage.macs or 0 for stage in record.stages)
    assert Counter(skip.order for box in outline.boxes for skip in box.consumed) == Counter(skip.order for skip in record.skips)
    assert Counter(skip.index for box in outline.boxes for skip in box.produced) == Counter({skip.index for skip in record.skips})
    assert sum(mark.count for box in outline.boxes for mark in box.marks) == len(layers)
    assert sum(link.times for link in outline.links) == len(record.skips)
    for box in outline.boxes:
        paths = [layer.module.path for layer in box.layers]
        steps = [layer.module.step for layer in box.layers if layer.module.step is not None]
        assert steps == sorted(steps)
        assert len(steps) == len(paths)
        assert not any(path.startswith(f"{other}.") for path in paths for other in paths)
        if box.layers and not any(skip.target in {stage.name for stage in box.stages} for skip in box.consumed):
            assert [skip for layer in box.layers for skip in layer.consumed] == list(box.consumed)
        if box.after is not None and box.in_shape is not None:  # as many values as the box before it made, or those and a skip's
            made = box.after.out_shape
            assert made is not None
            assert box.in_shape[1] - made[1] in [0, *(skip.skip_channels for skip in box.consumed)] or len(box.in_shape) != len(made)
        for level in LEVELS:
            of_layers, rest = outline.ends(box, level)
            assert [layer for layer, _ in of_layers] == (list(box.layers) if level == "layer" else [])
            every = [*(ends for _, ends in of_layers), rest]
            assert Counter(link for ends in every for link in ends.produced) == Counter(o for o in outline.links if o.source is box)
            assert Counter(link for ends in every for link in ends.consumed) == Counter(o for o in outline.links if o.target is box)
            for layer, ends in of_layers:
                assert all(link.skip.target.startswith(layer.module.path) for link in ends.consumed)
                assert all(link.skip.source.startswith(layer.module.path) for link in ends.produced)


def test_the_u_of_sd15() -> None:
    """The picture that everybody knows: sides, sizes, channels, and the chain from conv_in to conv_out."""
    outline = outlined("sd15")
    chain = ["conv_in", *(f"down_blocks.{i}" for i in range(4)), "mid_block", *(f"up_blocks.{i}" for i in range(4))]
    chain += ["conv_norm_out", "conv_act", "conv_out"]
    sizes = [((64, 64), 320), ((64, 64), 320), ((32, 32), 640), ((16, 16), 1280), ((8, 8), 1280)]

    assert [(box.name, box.after and box.after.name) for box in outline.chain] == list(zip(chain, [None, *chain[:-1]], strict=True))
    assert [(box.size, box.channels) for box in outline.on("left")] == sizes
    assert [mark_text(mark) for mark in outline.box_of("up_blocks.1").marks] == ["3 self 256x256", "3 cross 256x77"]
    assert [sum_text(skip) for skip in outline.box_of("up_blocks.1").consumed] == ["1280 + 1280 -> 1280"] * 2 + ["1280 + 640 -> 1280"]
    layers = [layer.name for layer in outline.box_of("down_blocks.0").layers]
    assert layers == ["resnets.0", "attentions.0", "resnets.1", "attentions.1", "downsamplers.0"]


def test_stages_that_are_alike_are_one_box_and_branches_are_not_a_chain() -> None:
    """aMUSEd's 22 transformer layers are one box, with all their attention; a ControlNet's zero convolutions follow none."""
    box = outlined("amused-512").box_of("transformer_layers.7")
    branches = outlined("controlnet-sd15-canny").on("right")

    assert (box.name, len(box.stages)) == ("transformer_layers.0-21", 22)
    assert [mark_text(mark) for mark in box.marks] == ["22 self 256x256", "22 cross 256x77"]
    assert (box.size, box.cells, box.channels) == ((256,), 256, 1024)
    assert all(box.after is None for box in branches)
    assert sum(len(box.stages) for box in branches) == 13


def test_names_are_printable_and_ascii_where_asked() -> None:
    """What could move a cursor or end a line is escaped in every name, and without Unicode all but ASCII too."""
    record = traced("conditioned")
    evil = msgspec.structs.replace(record, model=msgspec.structs.replace(record.model, name="a\x1b[31m\n\ud800é"))

    assert outline_of(evil).trace.model.name == r"a\x1b[31m\n\ud800é"
    assert outline_of(evil, ascii_only=True).trace.model.name == r"a\x1b[31m\n\ud800\xe9"
    live = msgspec.structs.replace(evil, model=msgspec.structs.replace(evil.model, config={"act_fn": object()}))
    assert outline_of(live).title.startswith(r"a\x1b[31m\n")
    assert outline_of(record).trace is record
