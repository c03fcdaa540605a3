"""Observation of modules made for it: one hazard each, with numbers that follow from the module's own sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unetinspect.observe import ForwardRaisedError, Observation, watch_forward
from unetinspect.observe.assemble import make_modules, make_skips, make_stages, make_totals
from unetinspect.record.stages import stage_finder


class Block(nn.Module):
    """A stage that convolves, and also returns a tuple of what it made, as diffusers' down blocks do."""

    def __init__(self, channels: int, *, as_sum: bool = False) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([nn.Conv2d(channels, channels, 3, padding=1)])
        self.other = nn.Conv2d(channels, channels, 1) if as_sum else None

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        made = self.resnets[0](hidden_states)
        if self.other is not None:
            made = self.other(hidden_states) + made
        return made, (made,)


class Up(nn.Module):
    """A stage that concatenates what it is given, and convolves."""

    def __init__(self, channels: int, skips: int, *, swapped: bool = False) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([nn.Conv2d(2 * channels, channels, 3, padding=1) for _ in range(skips)])
        self.swapped = swapped

    def forward(self, hidden_states: Tensor, skips: tuple[Tensor, ...]) -> Tensor:
        for resnet in self.resnets:
            skip, skips = skips[-1], skips[:-1]
            operands = [skip, hidden_states] if self.swapped else [hidden_states, skip]
            hidden_states = resnet(torch.cat(operands, dim=1))
        return hidden_states


class TinyU(nn.Module):
    """conv_in, down blocks, up block: a U of `depth` down blocks, all of one width."""

    def __init__(self, depth: int = 2, *, mid: bool = True, reads: int | None = None, as_sum: bool = False, swapped: bool = False) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(4, 8, 3, padding=1)
        self.down_blocks = nn.ModuleList([Block(8, as_sum=as_sum) for _ in range(depth)])
        self.mid_block = nn.Conv2d(8, 8, 1) if mid else None
        self.up_blocks = nn.ModuleList([Up(8, depth + 1 if reads is None else reads, swapped=swapped)])

    def forward(self, sample: Tensor) -> Tensor:
        sample = self.conv_in(sample)
        skips: tuple[Tensor, ...] = (sample,)
        for block in self.down_blocks:
            sample, made = block(sample)
            skips += made
        if self.mid_block is not None:
            sample = self.mid_block(sample)
        return self.up_blocks[0](sample, skips)


def seen(module: nn.Module, *inputs: Tensor, lists: tuple[str, ...] = ("down_blocks", "up_blocks")) -> Observation:
    """Observe one pass of a module."""
    names = {str(place): tensor for place, tensor in enumerate(inputs)}
    return watch_forward(lambda: module(*inputs), module, names, stage_finder(lists))


def pairs(module: nn.Module) -> list[tuple[tuple[str, ...], str]]:
    """Return (sources, target) of every skip."""
    found = seen(module, torch.zeros(2, 4, 8, 8))
    return [(tuple(call.path for call in link.sources), (link.target or link.executing).path) for link in found.skips]


@pytest.mark.parametrize("mid", [True, False], ids=["mid", "no-mid"])
@pytest.mark.parametrize("swapped", [False, True], ids=["hidden-first", "skip-first"])
def test_skips_are_found_by_data_whatever_the_order_and_without_a_mid_block(mid: bool, swapped: bool) -> None:
    """The last pushed is popped first; without a mid block hidden states and skip are one tensor."""
    assert pairs(TinyU(mid=mid, swapped=swapped)) == [
        (("down_blocks.1.resnets.0",), "up_blocks.0.resnets.0"),
        (("down_blocks.0.resnets.0",), "up_blocks.0.resnets.1"),
        (("conv_in",), "up_blocks.0.resnets.2"),
    ]


def test_a_skip_that_is_a_sum_names_all_that_were_added() -> None:
    """A tensor that a block's own body adds up comes from both modules; the one that returned last names it."""
    found = pairs(TinyU(depth=1, as_sum=True))

    assert found[0] == (("down_blocks.0.resnets.0", "down_blocks.0.other"), "up_blocks.0.resnets.0")


@pytest.mark.parametrize("swapped", [False, True], ids=["hidden-first", "skip-first"])
def test_two_streams_that_feed_each_other_on_the_way_down_make_no_skips(swapped: bool) -> None:
    """What a second stream concatenates beside the U (ControlNet-XS) is at the other place among the operands."""

    class Streams(TinyU):
        def __init__(self) -> None:
            super().__init__(swapped=swapped)
            self.beside = nn.ModuleList([nn.Conv2d(16, 8, 1) for _ in self.down_blocks])
            self.fed = nn.ModuleList([nn.Conv2d(8, 8, 1) for _ in self.down_blocks])

        def forward(self, sample: Tensor) -> Tensor:
            sample = self.conv_in(sample)
            stream, skips = self.fed[0](sample), (sample,)
            for block, beside, fed in zip(self.down_blocks, self.beside, self.fed, strict=True):
                sample, made = block(sample + stream)
                operands = [fed(sample), stream] if swapped else [stream, fed(sample)]
                stream = beside(torch.cat(operands, dim=1))
                skips += made
            assert self.mid_block is not None
            return self.up_blocks[0](self.mid_block(sample), skips)

    assert pairs(Streams()) == [
        (("down_blocks.1.resnets.0",), "up_blocks.0.resnets.0"),
        (("down_blocks.0.resnets.0",), "up_blocks.0.resnets.1"),
        (("conv_in",), "up_blocks.0.resnets.2"),
    ]


def test_skips_that_no_block_reads_are_counted_as_produced() -> None:
    """Three tensors are pushed and one is popped: 3 produced, 1 consumed."""
    unet = TinyU(reads=1)
    found = seen(unet, torch.zeros(2, 4, 8, 8))

    assert len(found.skips) == 1
    totals = make_totals(unet, found, [], make_modules(unet, found)[0])
    assert (totals.skips.produced, totals.skips.consumed) == (3, 1)


def test_a_concatenation_inside_one_stage_is_not_a_skip() -> None:
    """A dense block that concatenates its own output to its input is not a skip connection of the U."""

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, hidden_states: Tensor) -> Tensor:
            made = self.first(hidden_states)
            return torch.cat([self.second(made), made], dim=1)

    assert not seen(nn.Sequential(Dense()), torch.zeros(1, 4, 2, 2)).skips


def test_a_mismatch_is_shown_and_not_hidden() -> None:
    """If the first convolution in the target has another width than the concatenation, the record shows it."""

    class Resnet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(8, 8, 1)

        def forward(self, hidden_states: Tensor) -> Tensor:
            return self.conv1(hidden_states[:, :8])

    unet = TinyU(depth=1)
    unet.up_blocks.get_submodule("0.resnets").add_module("0", Resnet())
    stage_of = stage_finder(("down_blocks", "up_blocks"))
    skip, *_ = make_skips(seen(unet, torch.zeros(2, 4, 8, 8)), stage_of)

    assert (skip.hidden_channels, skip.skip_channels, skip.concat_channels, skip.conv_channels) == (8, 8, 16, 8)
    assert not skip.adds_up


def test_a_shared_module_is_one_module_and_its_weights_count_once() -> None:
    """Tied modules occur once in `named_modules()`."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.second = self.first

        def forward(self, hidden_states: Tensor) -> Tensor:
            return self.second(self.first(hidden_states))

    module = Tied()
    found = seen(module, torch.zeros(1, 3))

    assert [(entry.path, entry.calls) for entry in make_modules(module, found)] == [("", 1), ("first", 2)]
    assert make_totals(module, found, [], make_modules(module, found)[0]).params == 3 * 3 + 3


def test_a_module_that_never_runs_has_no_shapes() -> None:
    """What is not called is listed with 0 calls, and is not a stage."""
    module = nn.ModuleDict({"used": nn.Linear(2, 2), "idle": nn.Linear(2, 2)})
    module.forward = module["used"].__call__
    found = seen(module, torch.zeros(1, 2))
    idle = next(entry for entry in make_modules(module, found) if entry.path == "idle")

    assert (idle.calls, idle.in_shape, idle.out_shape) == (0, None, None)
    assert [stage.name for stage in make_stages(make_modules(module, found), found, [], stage_finder(()))] == ["used"]


@pytest.mark.parametrize("output", [None, (), {"sample": torch.zeros(1, 2)}, [torch.zeros(3), None]], ids=str)
def test_outputs_of_any_form_are_read(output: Any) -> None:
    """A module may return nothing, a dict, a list: its out_shape is that of its first tensor."""

    class Returns(nn.Module):
        def forward(self, _: Tensor) -> Any:
            return output

    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Returns()

        def forward(self, sample: Tensor) -> Tensor:
            self.inner(sample)
            return sample

    module = Root()
    (inner,) = [entry for entry in make_modules(module, seen(module, torch.zeros(1))) if entry.path == "inner"]
    expected = {"dict": (1, 2), "list": (3,)}.get(type(output).__name__)

    assert (inner.calls, inner.out_shape) == (1, expected)


class Failing(nn.Module):
    """Raises while `fails` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.fails = nn.Linear(2, 2), True

    def forward(self, sample: Tensor) -> Tensor:
        if self.fails:
            raise RuntimeError("as asked")
        return self.linear(sample)


def test_hooks_and_modes_are_gone_after_a_forward_that_raises() -> None:
    """The error names the module; no hook or mode is left, and the next pass is clean."""
    failing = Failing()
    module = nn.Sequential(nn.Identity(), failing)
    before = {path: {key: str(value) for key, value in vars(child).items()} for path, child in module.named_modules()}
    with pytest.raises(ForwardRaisedError) as raised:
        seen(module, torch.zeros(1, 2))

    assert raised.value.path == "1"
    assert str(raised.value.error) == "as asked"
    assert before == {path: {key: str(value) for key, value in vars(child).items()} for path, child in module.named_modules()}
    assert torch.overrides._get_current_function_mode() is None
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    failing.fails = False
    assert [call.path for call in seen(module, torch.zeros(1, 2)).calls] == ["", "0", "1", "1.linear"]


def test_a_forward_that_catches_an_error_inside_goes_on_being_observed() -> None:
    """A module that raised inside a forward which carries on leaves no call open."""

    class Catching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bad, self.good = Failing(), nn.Linear(2, 3)

        def forward(self, sample: Tensor) -> Tensor:
            try:
                return self.bad(sample)
            except RuntimeError:
                return self.good(sample)

    found = seen(Catching(), torch.zeros(1, 2))

    assert [(call.path, call.out_shape) for call in found.calls] == [("", (1, 3)), ("bad", None), ("good", (1, 3))]


def test_an_in_place_addition_keeps_the_skip_and_what_it_came_from() -> None:
    """T2I-Adapter adds its features to the last skip in place: the tensor is still the block's."""

    class InPlace(TinyU):
        def forward(self, sample: Tensor) -> Tensor:
            sample = self.conv_in(sample)
            skips: tuple[Tensor, ...] = (sample,)
            for block in self.down_blocks:
                sample, made = block(sample)
                sample += 1.0
                skips += made
            return self.up_blocks[0](sample, skips)

    assert pairs(InPlace(mid=False))[0] == (("down_blocks.1.resnets.0",), "up_blocks.0.resnets.0")
