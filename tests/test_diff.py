"""What `compare` finds in published UNets: facts that others published, and both sides of every number."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
import pytest

from tests.tiny import condition, traced, traced_once
from unetinspect.compare import compare
from unetinspect.compare.parts import compare_skips
from unetinspect.record import to_json
from unetinspect.record.diff import Diff, LayerDiff, NameCounts, StageDiff


@cache
def diff_of(a: str, b: str) -> Diff:
    """Compare two catalog models, once."""
    return compare(traced(a), traced(b))


def stages_of(diff: Diff, change: str) -> list[str]:
    """Name the stages of a change, as A does where it has them."""
    return [side.name for stage in diff.stages if stage.change == change and (side := stage.a or stage.b)]


def layers_of(diff: Diff, change: str) -> list[LayerDiff]:
    """List the layers of a change, of all stages."""
    return [layer for stage in diff.stages for layer in stage.layers if layer.change == change]


def stage_of(diff: Diff, name: str) -> StageDiff:
    """Find a stage by its name in A."""
    return next(stage for stage in diff.stages if stage.a is not None and stage.a.name == name)


def copied_from(diff: Diff, path: str) -> str:
    """Return the layer of A that corresponds to a layer of B in the comparison."""
    stages = {stage.b.name: stage.a.name for stage in diff.stages if stage.a and stage.b}
    layers = {layer.b.path: layer.a.path for stage in diff.stages for layer in stage.layers if layer.a and layer.b}
    stage = ".".join(path.split(".")[:2])
    return layers.get(path, f"{stages[stage]}{path[len(stage) :]}")


# What BK-SDM initialises its students with: where a student's layer is called otherwise than the teacher's that it is copied from
# (copy_weight_from_teacher in Nota-NetsPresso/BK-SDM, src/kd_train_text_to_image.py). All others are copied from their own name.
BK_UP = (("resnets.0", "resnets.0"), ("attentions.0", "attentions.0"), ("resnets.1", "resnets.2"), ("attentions.1", "attentions.2"))
BK_SMALL = {f"up_blocks.{block}.{mine}": f"up_blocks.{block}.{theirs}" for block in (1, 2, 3) for mine, theirs in BK_UP}
BK_SMALL |= {"up_blocks.0.resnets.0": "up_blocks.0.resnets.0", "up_blocks.0.resnets.1": "up_blocks.0.resnets.2"}
BK_TINY = {f"up_blocks.{block}.{mine}": f"up_blocks.{block + 1}.{theirs}" for block in (0, 1, 2) for mine, theirs in BK_UP}
BK_TINY |= {f"up_blocks.{block}.upsamplers.0": f"up_blocks.{block + 1}.upsamplers.0" for block in (0, 1)}
BK_DOWN = {f"down_blocks.{block}.{layer}.0": f"down_blocks.{block}.{layer}.0" for block in (0, 1, 2) for layer in ("resnets", "attentions")}


@pytest.mark.parametrize(("student", "copied"), [("bk-sdm-small", BK_SMALL | BK_DOWN), ("bk-sdm-tiny", BK_TINY | BK_DOWN)])
def test_layers_are_paired_as_the_authors_of_bk_sdm_copied_them(student: str, copied: dict[str, str]) -> None:
    """Every layer of a student corresponds to the teacher's layer whose weights its authors copied."""
    diff = diff_of("sd15", student)

    assert {path: copied_from(diff, path) for path in copied} == copied
    assert not layers_of(diff, "added")
    assert not stages_of(diff, "added")


def test_bk_sdm_tiny_lost_the_innermost_level() -> None:
    """Gone are the innermost level and the middle; in each block that is left a resnet and an attention, and one downsampler."""
    diff = diff_of("sd15", "bk-sdm-tiny")
    removed = [layer.a.path for layer in layers_of(diff, "removed") if layer.a]
    pairs = [f"{block}.{layer}.1" for block in ("down_blocks.0", "down_blocks.1", "down_blocks.2") for layer in ("resnets", "attentions")]
    pairs += [f"{block}.{layer}.1" for block in ("up_blocks.1", "up_blocks.2", "up_blocks.3") for layer in ("resnets", "attentions")]

    assert stages_of(diff, "removed") == ["down_blocks.3", "mid_block", "up_blocks.0"]
    assert sorted(removed) == sorted([*pairs, "down_blocks.2.downsamplers.0"])
    assert stages_of(diff, "same") == ["time_proj", "time_embedding", "conv_in", "conv_norm_out", "conv_act", "conv_out"]
    assert diff.totals.params.difference == 323_384_964 - 859_520_964
    assert diff.totals.params.ratio == 323_384_964 / 859_520_964
    assert msgspec.json.decode(to_json(diff), type=Diff) == diff


def test_ssd_1b_lost_transformer_blocks_and_most_of_the_middle() -> None:
    """SDXL's depths 10, 10 | 10 | 10, 10, 10 | 2, 2, 2 became 4, 4 | none | 4, 4, 10 | 2, 1, 1."""
    diff = diff_of("sdxl", "ssd-1b")
    removed = [layer.a.path for layer in layers_of(diff, "removed") if layer.a]
    deep = [f"{stage}.attentions.{layer}" for stage in ("down_blocks.2", "up_blocks.0") for layer in (0, 1)]
    blocks = [f"{layer}.transformer_blocks.{block}" for layer in deep for block in range(4, 10)]
    blocks += [f"up_blocks.1.attentions.{layer}.transformer_blocks.1" for layer in (1, 2)]

    assert sorted(removed) == sorted([*blocks, "mid_block.resnets.1", "mid_block.attentions.0"])
    assert stage_of(diff, "mid_block").differs[0] == "class_name"
    assert diff.totals.transformer_blocks.difference == -(len(blocks) + 10)
    assert not [skip for skip in diff.skips if skip.change != "same"]


def test_sd21_has_other_heads_text_and_projections() -> None:
    """The U of SD 2.1 is that of SD 1.5: no stage or layer is added or removed; key and value take 1024, projections are linear."""
    diff = diff_of("sd15", "sd21")
    changed = {layer.a.path.rpartition(".")[2] for layer in layers_of(diff, "changed") if layer.a}
    heads = {(layer.a.heads, layer.b.heads) for layer in diff.attentions if layer.a and layer.b}

    assert {stage.change for stage in diff.stages} == {"same", "changed"}
    assert changed == {"proj_in", "proj_out", "to_k", "to_v"}
    assert heads == {(8, 5), (8, 10), (8, 20)}
    keys = {"sample_size", "cross_attention_dim", "attention_head_dim", "use_linear_projection", "upcast_attention"}
    assert {key.key for key in diff.config} == keys
    assert diff.tensors.total.changed == 16 * 4  # a transformer block's to_k and to_v, and its two projections
    assert diff.tensors.total.same == 686 - 64


def test_inpainting_differs_in_conv_in_alone() -> None:
    """Nine channels for four: 5 * 320 * 3 * 3 weights more, and the same U behind them."""
    diff = diff_of("sd15", "sd15-inpaint")
    (stage,) = (stage for stage in diff.stages if stage.change != "same")
    (layer,) = stage.layers

    assert (stage.a and stage.a.name, stage.params) == ("conv_in", 5 * 320 * 3 * 3)
    assert (layer.a and layer.a.path, layer.differs) == ("conv_in", ("detail", "tensors"))
    assert [(key.key, key.a, key.b) for key in diff.config] == [("in_channels", 4, 9)]
    assert [(info.name, info.a, info.b) for info in diff.inputs] == [("sample", (2, 4, 64, 64), (2, 9, 64, 64))]
    assert (diff.tensors.total.changed, diff.tensors.stages["conv_in"].changed) == (1, 1)
    assert {skip.change for skip in diff.skips} == {layer.change for layer in diff.attentions} == {"same"}


def test_the_refiner_has_one_level_more() -> None:
    """SDXL's refiner halves once more, so a block is added on either way, outside of nothing that SDXL has."""
    diff = diff_of("sdxl", "sdxl-refiner")
    partners = {stage.a.name: stage.b.name for stage in diff.stages if stage.a and stage.b and stage.a.role == "up"}

    assert stages_of(diff, "added") == ["down_blocks.3", "up_blocks.0"]
    assert partners == {"up_blocks.0": "up_blocks.1", "up_blocks.1": "up_blocks.2", "up_blocks.2": "up_blocks.3"}


@pytest.mark.parametrize("other", ["svd-xt", "ddpm-cat-256"])
def test_other_classes_are_paired_level_by_level(other: str) -> None:
    """Blocks of different classes correspond where they work at the same level."""
    a, b = traced("sd15"), traced(other)
    sizes = {"down": lambda stage: stage.in_shape, "up": lambda stage: stage.out_shape}
    for stage in compare(a, b).stages:
        if stage.a and stage.b and stage.a.role in sizes:
            shapes = [sizes[stage.a.role](side) for side in (stage.a, stage.b)]
            halvings = [run.sample_size[-1] // shape[-1] for run, shape in zip((a.run, b.run), shapes, strict=True)]

            assert halvings[0] == halvings[1], stage


def test_the_same_model_under_another_name_is_the_same() -> None:
    """SD 1.4 and SD 1.5 are one architecture: names and sources do not make two UNets different."""
    diff = diff_of("sd14", "sd15")

    assert diff.same
    assert (diff.a.name, diff.b.name) == ("sd14", "sd15")
    assert (diff.config, diff.inputs) == ((), ())


@pytest.mark.parametrize(
    ("model", "options"),
    [("sd15", {"latent": 16}), ("conditioned", {"latent": "13x40", "force": True}), ("plain", {"latent": 2}), ("plain", {"batch": 3})],
    ids=str,
)
def test_at_another_size_nothing_is_added_or_removed(model: str, options: dict[str, Any]) -> None:
    """Two sizes of one UNet: shapes and MACs differ, and nothing of the UNet does."""
    diff = compare(traced(model), traced(model, **options))

    assert not diff.same
    assert diff.config == ()
    changes = [part.change for parts in (diff.stages, diff.skips, diff.attentions) for part in parts]
    assert {*changes} <= {"same", "changed"}
    assert all(stage.resized and not stage.layers for stage in diff.stages if stage.change == "changed")
    assert all((stage.a and stage.a.name) == (stage.b and stage.b.name) for stage in diff.stages)
    assert diff.totals.params.difference == 0
    assert diff.tensors.total == NameCounts(same=diff.tensors.total.same)


def test_pairs_do_not_depend_on_the_size() -> None:
    """Levels are counted from the sample, so two UNets are paired alike at one size and at two."""
    small = compare(traced("sd15", latent=16), traced("bk-sdm-tiny"))
    pairs = [
        [(stage.a and stage.a.name, stage.b and stage.b.name) for stage in diff.stages] for diff in (small, diff_of("sd15", "bk-sdm-tiny"))
    ]

    assert pairs[0] == pairs[1]


def test_a_dtype_and_freeu_are_differences() -> None:
    """Another dtype halves the bytes; FreeU filters the two skips of each of two blocks; either makes the two differ, config or not."""
    half = compare(traced("sd15"), traced("sd15", dtype="float16"))
    freeu = compare(traced_once(condition()), traced_once(condition(), freeu=(1.1, 1.2, 0.9, 0.2)))

    assert not half.same
    assert half.totals.weight_bytes.ratio == 0.5
    assert {(info.a_dtype, info.b_dtype) for info in half.inputs} == {("float32", "float16")}
    assert not freeu.same
    assert [skip.differs for skip in freeu.skips if skip.change == "changed"] == [("changes",)] * 4


def test_what_makes_the_batch_is_a_note_and_no_difference() -> None:
    """A batch of 2, and one of 1 that guidance doubles, run the same pass."""
    diff = compare(traced("conditioned", batch=2, cfg=False), traced("conditioned", batch=1, cfg=True))

    assert diff.same
    assert diff.notes == ("both run a batch of 2: A 2, without CFG, B 1, doubled for CFG",)


def test_a_skip_from_the_partner_of_its_source_is_renamed() -> None:
    """Another name of the same place is not another source."""
    skip = traced("conditioned").skips[0]
    other = msgspec.structs.replace(skip, source="down_blocks.9")
    for partner, differs in (("down_blocks.9", "names"), (skip.source, "source")):
        (found,) = compare_skips([skip], [other], {skip.target: skip.target, skip.source: partner})

        assert found.differs == (differs,)


def test_versions_and_devices_are_notes() -> None:
    """Another version or device that observed the same is not a difference."""
    record = traced("conditioned")
    run = msgspec.structs.replace(record.run, device="cpu", versions={**record.run.versions, "torch": "0.0"})
    diff = compare(record, msgspec.structs.replace(record, run=run))

    assert diff.same
    assert diff.notes == (
        "run on different devices: A on meta, B on cpu",
        f"traced with different versions of torch: A with {record.run.versions['torch']}, B with 0.0",
    )


def test_a_key_that_has_no_effect_differs_all_the_same() -> None:
    """`norm_eps` leaves every shape as it is: the config differs, each norm's settings do, and no weight."""
    diff = compare(traced("conditioned"), traced_once(condition(norm_eps=0.001)))
    (key,) = diff.config

    assert not diff.same
    assert (key.key, key.a, key.b, key.a_origin, key.b_origin) == ("norm_eps", 1e-05, 0.001, "default", "given")
    assert {layer.differs for layer in layers_of(diff, "changed")} == {("detail",)}
    assert diff.tensors.total.changed == diff.totals.params.difference == 0
