"""What happens to a skip between the module that pushed it and the concatenation."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from diffusers.utils.torch_utils import apply_freeu
from torch import Tensor, nn

from tests.tiny import KINDS, traced
from unetinspect.observe import watch_forward
from unetinspect.observe.assemble import make_skips
from unetinspect.record import Skip
from unetinspect.record.stages import stage_finder
from unetinspect.views.skips import skip_lines
from unetinspect.views.words import skip_way

Way = Callable[[Tensor, Tensor], Tensor]


class OneSkip(nn.Module):
    """One level: what `conv_in` pushes is changed in some way and concatenated at half the size, outside any block."""

    def __init__(self, way: Way, channels: int) -> None:
        super().__init__()
        self.way = way
        self.conv_in = nn.Conv2d(4, 8, 1)
        self.mid_block = nn.Conv2d(8, 8, 2, stride=2)
        self.up_blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(8 + channels, 8, 1))])

    def forward(self, sample: Tensor, other: Tensor) -> Tensor:
        pushed = self.conv_in(sample)
        hidden = self.mid_block(pushed)
        return self.up_blocks[0](torch.cat([hidden, self.way(pushed, other)[..., :4, :4]], dim=1))


def fold(skip: Tensor) -> Tensor:
    """Fold 2x2 pixels into channels: (2, 8, 8, 8) becomes (2, 32, 4, 4)."""
    return skip.reshape(2, 8, 4, 2, 4, 2).permute(0, 1, 3, 5, 2, 4).reshape(2, 32, 4, 4)


def in_place(skip: Tensor, other: Tensor) -> Tensor:
    """Add to the tensor itself, as diffusers does with a T2I-Adapter's features."""
    skip += other
    return skip


WAYS: dict[str, tuple[Way, list[tuple[str, tuple[str, ...]]]]] = {
    "untouched": (lambda skip, _: skip, []),
    "copied": (lambda skip, _: skip.clone(), []),
    "there and back": (lambda skip, _: skip.flatten(2).transpose(1, 2).transpose(1, 2).unflatten(2, (8, 8)), []),
    "sum": (lambda skip, other: skip + other, [("sum", ("other",))]),
    "sum in place": (in_place, [("sum", ("other",))]),
    "two sums": (lambda skip, other: skip + other + other, [("sum", ("other",)), ("sum", ("other",))]),
    "sum with a number": (lambda skip, _: skip + 1.0, [("other", ())]),
    "scaled": (lambda skip, _: skip * 0.5, [("other", ())]),
    "filtered": (lambda skip, _: torch.fft.ifftn(torch.fft.fftn(skip, dim=(-2, -1)), dim=(-2, -1)).real, [("filter", ())]),
    "cast": (lambda skip, _: skip.half().float(), [("cast", ())]),
    "cast and added to": (lambda skip, other: skip.half() + other.half(), [("cast", ()), ("sum", ("other",))]),
    "folded": (lambda skip, _: fold(skip), [("reshape", ())]),
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("way", WAYS)
def test_what_happens_to_a_skip_on_its_way(way: str, device: str) -> None:
    """Each kind of change in its order; the slice to the hidden states' size comes last, if there is one."""
    go, expected = WAYS[way]
    if way == "cast and added to":
        go, expected = (lambda skip, other: (skip.half() + other.half()).float()), [*expected, ("cast", ())]
    channels = 32 if way == "folded" else 8
    skip = observed(OneSkip(go, channels).to(device))

    changes = [(change.kind, change.with_) for change in skip.changes if change.kind != "slice"]
    assert changes == expected
    is_cut = way not in ("filtered", "folded")  # all of the first is one filter; the second has that size already
    assert [change.kind for change in skip.changes].count("slice") == is_cut
    assert (skip.source, skip.target, skip.concat_in) == ("conv_in", "up_blocks.0.0", "")
    assert (skip.hidden_channels, skip.skip_channels, skip.conv_channels) == (8, channels, 8 + channels)


def observed(module: nn.Module) -> Skip:
    """Return the one skip of a module."""
    device = next(module.parameters()).device
    given = {"sample": torch.zeros(2, 4, 8, 8, device=device), "other": torch.zeros(2, 8, 8, 8, device=device)}
    stage_of = stage_finder(("up_blocks",))
    (skip,) = make_skips(watch_forward(lambda: module(**given), module, given, stage_of), stage_of)
    return skip


def test_a_sum_in_a_blocks_own_body_names_both_of_its_modules() -> None:
    """NCSN++: a skip block adds the picture, projected to its width, to what its resnet downsampled."""
    skips = {skip.source: skip for skip in traced("skip-blocks").skips}

    for block in (0, 1):
        skip = skips[f"down_blocks.{block}.skip_conv"]
        assert skip.sources == (f"down_blocks.{block}.resnet_down", f"down_blocks.{block}.skip_conv")
        assert [(change.kind, change.with_) for change in skip.changes] == [("sum", (f"down_blocks.{block}.resnet_down",))]
    assert [len(skip.changes) for skip in skips.values()].count(0) == len(skips) - 2


def test_a_k_block_reads_the_last_of_the_skips_that_it_is_given() -> None:
    """Each block is given two and concatenates the last: that of the last layer, not of the downsampler."""
    record = traced("k-blocks")

    assert (record.totals.skips.produced, record.totals.skips.consumed) == (6, 3)
    assert [skip.source.split(".")[1:] for skip in record.skips] == [
        ["2", "attentions", "1"],
        ["1", "attentions", "1"],
        ["0", "resnets", "1"],
    ]
    assert [skip.index for skip in record.skips] == [5, 3, 1]


def test_the_factors_of_a_filtered_skip_are_those_that_diffusers_applies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spy on the running UNet divides what comes out by what went in: s is that of the skip's mean, b that of the first channel."""
    factors = (1.2, 1.4, 0.9, 0.2)
    applied: list[list[float]] = []

    def spy(block: int, hidden: Tensor, skip: Tensor, **given: float) -> tuple[Tensor, Tensor]:
        before = hidden[0, 0].clone(), skip.mean()
        hidden, skip = apply_freeu(block, hidden, skip, **given)
        ratios = skip.mean() / before[1], (hidden[0, 0] / before[0]).mean()
        applied.append([round(ratio.item(), 3) for ratio in ratios])
        return hidden, skip

    record = traced("conditioned", freeu=factors)
    monkeypatch.setattr("diffusers.models.unets.unet_2d_blocks.apply_freeu", spy)
    config = {key: value for key, value in KINDS["conditioned"].items() if key != "_class_name"}
    unet: Any = diffusers.UNet2DConditionModel(**config)
    unet.enable_freeu(s1=factors[2], s2=factors[3], b1=factors[0], b2=factors[1])
    unet(torch.randn(1, 4, 64, 64), 1, torch.randn(1, 7, config["cross_attention_dim"]))
    scaled = re.findall(r"b\d ([\d.]+) \(([\w.]+)\)", " ".join(skip_lines(record)))
    b = {stage: float(number) for number, stage in scaled}
    s = [float(number) for skip in record.skips for number in re.findall(r"s\d ([\d.]+)", skip_way(skip, record.run)) or ["1"]]

    assert [[factor, b.get(skip.target_stage, 1)] for factor, skip in zip(s, record.skips, strict=True)] == applied
    assert len({*map(tuple, applied)}) == min(3, len(config["up_block_types"]))
