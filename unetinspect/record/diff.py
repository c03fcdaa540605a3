"""The `Diff`: two records held against each other, part by part. Every part of either side stands in it exactly once.

A is the first UNet and B the second; every difference is B - A.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from unetinspect.record.diff_parts import AttentionDiff, Change, SkipDiff, StageDiff
from unetinspect.record.run import Shape, Source

DIFF_SCHEMA: Literal["unetinspect.diff/1"] = "unetinspect.diff/1"
Origin = Literal["given", "default", "override", "absent"]


class DiffSide(Struct, frozen=True, kw_only=True):
    """One of the two: which UNet it is, and how its forward pass was run.

    Attributes:
        name: What it is called.
        class_name: Its diffusers class.
        source: Where its config was read.
        params: Parameters, each counted once.
        sample_size: (height, width) of `sample`; (length,) of a signal.
        image_size: (height, width) in pixels; None where unknown.
        batch: The user's batch.
        cfg: Whether classifier-free guidance doubled it.
        forward_batch: The batch that went through the UNet.
        frames: Frames of a video; None: the class has none.
        dtype: The dtype of the parameters.
        device: The device of the pass.
        freeu: The factors of FreeU, None where it is off.
        plugged: What was plugged in, None: nothing.
        versions: Of unetinspect, torch and diffusers.
        overrides: The config keys that were overridden, as `--set` does, with the values that they have now.
    """

    name: str
    class_name: str
    source: Source
    params: int
    sample_size: Shape
    image_size: Shape | None
    batch: int
    cfg: bool
    forward_batch: int
    frames: int | None
    dtype: str
    device: str
    freeu: tuple[float, float, float, float] | None
    plugged: str | None
    versions: dict[str, str]
    overrides: dict[str, Any] = {}


class ConfigDiff(Struct, frozen=True, kw_only=True):
    """A config key whose value is not the same on both sides; keys that begin with "_" are left out.

    Attributes:
        key: The key.
        a: Its value in A, None where it is absent too.
        b: Its value in B, likewise.
        a_origin: Whether A's config gave it, diffusers filled it in, it was overridden, or A's class has no such key.
        b_origin: The same of B.
    """

    key: str
    a: Any
    b: Any
    a_origin: Origin
    b_origin: Origin


class Quantity(Struct, frozen=True, kw_only=True):
    """A number on both sides.

    Attributes:
        a: In A; None where it was not counted.
        b: In B, likewise.
        difference: `b - a`.
        ratio: `b / a`; None where `a` is 0.
    """

    a: int | None
    b: int | None
    difference: int | None
    ratio: float | None


class TotalsDiff(Struct, frozen=True, kw_only=True):
    """The totals of both.

    Attributes:
        params: Parameters, each counted once.
        weight_bytes: Their bytes.
        macs: Multiply-accumulates of the pass, of the whole `forward_batch`.
        flops: `2 * macs`.
        peak_activation_bytes: The most bytes of activations that lived at once.
        peak_activation_bytes_with_maps: The same, if every attention held its map.
        attention: Attention layers by kind, under the names of `totals.attention` in a trace: "self", "cross", ..., "total".
        transformer_blocks: Transformer blocks that ran.
        resnets: Resnets that ran.
        skips_produced: Skips that were produced.
        skips_consumed: Skips that were consumed.
    """

    params: Quantity
    weight_bytes: Quantity
    macs: Quantity
    flops: Quantity
    peak_activation_bytes: Quantity
    peak_activation_bytes_with_maps: Quantity
    attention: dict[str, Quantity]
    transformer_blocks: Quantity
    resnets: Quantity
    skips_produced: Quantity
    skips_consumed: Quantity


class InputDiff(Struct, frozen=True, kw_only=True):
    """An argument of `forward` that is not the same on both sides.

    Attributes:
        name: The argument.
        change: "added", "removed", or "changed": another shape or dtype.
        a: Its shape in A; None where it is absent or no tensor.
        b: Its shape in B, likewise.
        a_dtype: Its dtype in A; None where it is absent or no tensor.
        b_dtype: Its dtype in B, likewise.
    """

    name: str
    change: Change
    a: Shape | None
    b: Shape | None
    a_dtype: str | None
    b_dtype: str | None


class NameCounts(Struct, frozen=True, kw_only=True):
    """How many things that have names are the same on both sides, paired by name and by nothing else.

    Attributes:
        same: Of the same name and shape.
        changed: Of the same name and another shape.
        added: Names of B alone.
        removed: Names of A alone.
    """

    same: int = 0
    changed: int = 0
    added: int = 0
    removed: int = 0


class TensorsDiff(Struct, frozen=True, kw_only=True):
    """Whether a checkpoint of A would load into B: the keys of both `state_dict()`s, by name, as checkpoints are loaded.

    Attributes:
        total: Of all tensors.
        stages: The same by stage, under the stage's name; "" are the tensors that stand in none.
    """

    total: NameCounts
    stages: dict[str, NameCounts]


class Diff(Struct, frozen=True, kw_only=True):
    """Two records compared. "Same" is what the two passes show: see `same`.

    Attributes:
        same: Whether class, config, stages, skips, attention layers, inputs, ports, tensors and totals are all the same. Names,
            sources, devices and versions may differ.
        a: The first.
        b: The second.
        notes: What differs and is no difference of the UNets: versions, devices, how the batch is made.
        config: The keys that differ.
        totals: Totals of both.
        stages: Every stage of both: in A's order, what was added where it stands in B.
        skips: Every skip of both, likewise.
        attentions: Every attention layer of both, likewise.
        inputs: The arguments of `forward` that differ.
        tensors: Whether weights of the one load into the other.
        ports: What can be plugged in, by kind and by the port's name.
    """

    schema: Literal["unetinspect.diff/1"] = DIFF_SCHEMA
    same: bool
    a: DiffSide
    b: DiffSide
    notes: tuple[str, ...]
    config: tuple[ConfigDiff, ...]
    totals: TotalsDiff
    stages: tuple[StageDiff, ...]
    skips: tuple[SkipDiff, ...]
    attentions: tuple[AttentionDiff, ...]
    inputs: tuple[InputDiff, ...]
    tensors: TensorsDiff
    ports: dict[str, NameCounts]
