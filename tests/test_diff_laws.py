"""Laws of `compare`, over small UNets of every kind: it has each part once, B to A mirrors A to B, the numbers add up."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import ALL, OTHER, traced_once
from unetinspect.compare import compare
from unetinspect.compare.align import Place, align, level, merged
from unetinspect.record import Trace
from unetinspect.record.diff import Diff

# Kinds that are unlike each other: other blocks, levels and classes, no middle, no skips, lists of lists.
UNLIKE = (
    *("conditioned", "plain", "k-blocks", "no-mid-block", "nested-transformer-depths", "skip-blocks", "text-time"),
    *("unet3d", "motion", "svd", "controlnet", "unet1d-audio", "kandinsky3-one-level", "cascade-decoder", "uvit"),
)
PART_KINDS = ("stages", "skips", "attentions")
few = settings(max_examples=10)


@cache
def record(kind: str) -> Trace:
    """Trace a kind once, as the tests of its class do."""
    return traced_once(ALL[kind], **({"latent": 8} if kind in OTHER and not kind.startswith("unet1d") else {}))


@cache
def diff(a: str, b: str) -> Diff:
    """Compare two kinds once."""
    return compare(record(a), record(b))


pairs = given(a=st.sampled_from(UNLIKE), b=st.sampled_from(UNLIKE))


@pytest.mark.parametrize("kind", UNLIKE)
def test_a_record_is_the_same_as_itself(kind: str) -> None:
    """Nothing is added, removed or changed, no number differs, and every tensor fits."""
    found = diff(kind, kind)

    assert found.same
    assert all(part.change == "same" and part.a == part.b for name in PART_KINDS for part in getattr(found, name))
    assert (found.config, found.inputs, found.notes) == ((), (), ())
    assert found.totals.params.difference == 0
    assert found.tensors.total.same == sum(len(module.tensors) for module in record(kind).modules)


@pairs
@few
def test_every_part_of_both_is_in_it_once(a: str, b: str) -> None:
    """No stage, skip or attention layer of either side is lost or listed twice; A keeps its order."""
    found = diff(a, b)
    keys = {"stages": lambda part: part.name, "skips": lambda part: (part.target, part.source, part.call)}
    keys["attentions"] = lambda part: (part.path, part.call)
    for name, key in keys.items():
        for side, kind in (("a", a), ("b", b)):
            listed = [key(part) for pair in getattr(found, name) if (part := getattr(pair, side)) is not None]
            real = [key(part) for part in getattr(record(kind), name)]

            assert Counter(listed) == Counter(real)
            assert side == "b" or listed == real  # in A's order


@pairs
@few
def test_the_other_way_round_is_the_mirror(a: str, b: str) -> None:
    """What is added from A to B is removed from B to A; what changes, changes in the same fields, by the opposite number."""
    there, back = diff(a, b), diff(b, a)
    turned = {"added": "removed", "removed": "added"}
    for name in PART_KINDS:
        mirrored = Counter(repr((part.b, part.a, turned.get(part.change, part.change), part.differs)) for part in getattr(back, name))

        assert Counter(repr((part.a, part.b, part.change, part.differs)) for part in getattr(there, name)) == mirrored
    assert there.same == back.same
    assert {key.key: (key.a, key.b) for key in there.config} == {key.key: (key.b, key.a) for key in back.config}
    assert Counter(layer for stage in there.stages for layer in map(_turned, stage.layers)) == Counter(
        (layer.a and layer.a.path, layer.b and layer.b.path, layer.differs, layer.params) for stage in back.stages for layer in stage.layers
    )
    assert (there.totals.params.difference or 0) == -(back.totals.params.difference or 0)
    assert (there.tensors.total.same, there.tensors.total.added) == (back.tensors.total.same, back.tensors.total.removed)


def _turned(layer: Any) -> tuple[Any, ...]:
    return layer.b and layer.b.path, layer.a and layer.a.path, layer.differs, -layer.params


@pairs
@few
def test_differences_add_up(a: str, b: str) -> None:
    """Of the layers to those of their stage, of the stages to those of the two UNets; of the tensors' names to all names."""
    found = diff(a, b)
    for stage in found.stages:
        if stage.a is not None and stage.b is not None:
            assert sum(layer.params for layer in stage.layers) == stage.params, stage
            assert stage.params == stage.b.params - stage.a.params
    sums = [sum(stage.params for stage in record(kind).stages) for kind in (a, b)]
    macs = [sum(stage.macs or 0 for stage in record(kind).stages) for kind in (a, b)]

    assert sum(stage.params for stage in found.stages) == sums[1] - sums[0]
    assert sum(stage.macs or 0 for stage in found.stages) == macs[1] - macs[0]
    assert found.totals.params.difference == record(b).totals.params - record(a).totals.params
    counts = found.tensors.stages.values()
    for name in ("same", "changed", "added", "removed"):
        assert sum(getattr(count, name) for count in counts) == getattr(found.tensors.total, name)
    total = found.tensors.total
    assert total.same + total.changed + total.removed == sum(len(module.tensors) for module in record(a).modules)


@pairs
@few
def test_stages_without_a_differing_layer_have_the_same_weights(a: str, b: str) -> None:
    """Each module of such a stage has the tensors of its partner."""
    tensors = [{module.path: module.tensors for module in record(kind).modules} for kind in (a, b)]
    for stage in diff(a, b).stages:
        if stage.a and stage.b and not stage.layers and stage.change != "changed":
            own, other = (
                {path.removeprefix(side.name): named[path] for path in named if f"{path}.".startswith(f"{side.name}.")}
                for side, named in zip((stage.a, stage.b), tensors, strict=True)
            )
            assert own == other


places = st.builds(
    Place,
    name=st.sampled_from([f"blocks.{number}" for number in range(4)]),
    class_name=st.sampled_from(["X", "Y"]),
    in_level=st.sampled_from([None, 0.0, 1.0, 2.0]),
    out_level=st.sampled_from([None, 0.0, 1.0]),
    in_channels=st.sampled_from([None, 32, 64]),
    out_channels=st.sampled_from([32, 640]),
)
sequences = st.lists(places, max_size=5, unique_by=lambda place: place.name)


@given(a=sequences, b=sequences)
def test_an_alignment_keeps_both_orders_and_has_a_mirror(a: list[Place], b: list[Place]) -> None:
    """Whatever the costs, each side is in it whole and in order, and swapping the sides mirrors it."""
    found = align(a, b)

    assert [one for one, _ in found if one is not None] == a
    assert [two for _, two in found if two is not None] == b
    mirrored = {(two, one) for one, two in align(b, a) if one and two}
    assert {(one, two) for one, two in found if one and two} == mirrored


@given(a=st.lists(st.integers(0, 9), unique=True), b=st.lists(st.integers(0, 9), unique=True))
def test_merging_keeps_what_either_has(a: list[int], b: list[int]) -> None:
    """Every key of both is in one order, once: A's order, and B's for what B alone has between two of A."""
    found = merged(dict(zip(a, a, strict=True)), dict(zip(b, b, strict=True)), {key: key for key in a if key in b})

    assert [one for one, _ in found if one is not None] == a
    assert sorted(two for _, two in found if two is not None) == sorted(b)
    assert all(one is not None or two is not None for one, two in found)
    places = [next(place for place, pair in enumerate(found) if pair[1] == key) for key in b]
    assert all(before < place for before, place, key in zip(places, places[1:], b[1:], strict=False) if key not in a)


@pytest.mark.parametrize(
    ("shape", "size", "halvings"), [((2, 8, 16, 16), (64, 64), 2), ((50, 8, 48, 72), (96, 144), 1), ((2, 8, 4), (64,), 4)]
)
def test_a_level_is_how_often_the_sample_was_halved(shape: tuple[int, ...], size: tuple[int, ...], halvings: int) -> None:
    """Of images, of frames, of signals."""
    assert level(shape, size) == halvings
