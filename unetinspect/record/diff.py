"""The `Diff`: two records held against each other, part by part. Every part of either side stands in it exactly once.

A is the first UNet and B the second; every difference is B - A.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from unetinspect.record.run import Shape, Source
from unetinspect.record.sections import AttentionKind, Stage

DIFF_SCHEMA: Literal["unetinspect.diff/1"] = "unetinspect.diff/1"
Change = Literal["same", "renamed", "changed", "added", "removed"]
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


class LayerSide(Struct, frozen=True, kw_only=True):
    """A layer as one side has it.

    Attributes:
        path: Its name in `named_modules()`.
        class_name: Its class.
        detail: What its class says of itself in `print(module)`.
        params: Its parameters and those of its children.
    """

    path: str
    class_name: str
    detail: str
    params: int


class LayerDiff(Struct, frozen=True, kw_only=True):
    """A module inside a stage that is not the same on both sides.

    What was added or removed is the outermost such module; what is changed is the innermost. A module of another class
    is changed as a whole, and what lies in it is not listed.

    Attributes:
        change: "renamed" where nothing but its number in the list differs.
        a: The module in A; None: added.
        b: The module in B; None: removed.
        differs: What differs: "class_name", "detail" (kernel size, epsilon, ...), "tensors" (the shapes of its own weights).
        params: Parameters by which it differs, `b - a`; of a changed one, its own alone unless its class differs.
    """

    change: Change
    a: LayerSide | None
    b: LayerSide | None
    differs: tuple[str, ...]
    params: int


class StageDiff(Struct, frozen=True, kw_only=True):
    """A stage of A and the stage of B that stands in its place.

    Attributes:
        change: "renamed" where nothing but the name differs.
        a: The stage in A; None: added.
        b: The stage in B; None: removed.
        differs: The fields of a stage that differ, `name` included; and "layers" where `layers` names what changed in it.
        params: `b - a`; a side that is absent has none.
        macs: `b - a`, likewise; None where either was not counted.
        layers: What differs inside it; empty for an added or removed stage.
    """

    change: Change
    a: Stage | None
    b: Stage | None
    differs: tuple[str, ...]
    params: int
    macs: int | None
    layers: tuple[LayerDiff, ...] = ()


class SkipSide(Struct, frozen=True, kw_only=True):
    """A skip as one side has it; its fields are those of a trace's `skips`.

    Attributes:
        source: The module that produced the tensor.
        target: The module that took the concatenation.
        call: Which execution of the target it was, from 0.
        shape: The tensor, (batch, channels, ...).
        hidden_channels: Channels of the features that came up from below.
        skip_channels: Channels of the skip.
        concat_channels: Channels of the concatenation.
        out_channels: Channels of what the target returned.
        combine: How the two were joined.
        changes: What happened to the tensor on its way, kind by kind.
    """

    source: str
    target: str
    call: int
    shape: Shape
    hidden_channels: int
    skip_channels: int
    concat_channels: int
    out_channels: int | None
    combine: Literal["concat", "add"]
    changes: tuple[str, ...]


class SkipDiff(Struct, frozen=True, kw_only=True):
    """A skip of A and the skip of B whose target stands in the same place.

    Attributes:
        change: "renamed" where nothing but the modules' names differs.
        a: The skip in A; None: added.
        b: The skip in B; None: removed.
        differs: What differs: "target" (its name), "source" (it comes from another place), or another field of a side.
    """

    change: Change
    a: SkipSide | None
    b: SkipSide | None
    differs: tuple[str, ...]


class AttentionSide(Struct, frozen=True, kw_only=True):
    """One execution of an attention layer as one side has it; its fields are those of a trace's `attentions`.

    Attributes:
        path: The module that holds the layer's projections.
        stage: Its stage.
        call: Which execution of the layer it was, from 0.
        kind: Where its keys come from.
        processor: The class that computed it; None: the module itself does.
        heads: Heads.
        head_dim: Channels of one head.
        query_tokens: Tokens that ask.
        key_tokens: Tokens that are asked.
        map_shape: (batch * heads, query_tokens, key_tokens).
        macs: Multiply-accumulates of its two products.
    """

    path: str
    stage: str
    call: int
    kind: AttentionKind
    processor: str | None
    heads: int
    head_dim: int
    query_tokens: int
    key_tokens: int
    map_shape: tuple[int, int, int]
    macs: int | None


class AttentionDiff(Struct, frozen=True, kw_only=True):
    """An attention layer of A and the layer of B that stands in its place.

    Attributes:
        change: "renamed" where nothing but the path differs.
        a: The layer in A; None: added.
        b: The layer in B; None: removed.
        differs: The fields of a side that differ; of a path, only where the layer's number in a list or its stage's does.
    """

    change: Change
    a: AttentionSide | None
    b: AttentionSide | None
    differs: tuple[str, ...]


class InputDiff(Struct, frozen=True, kw_only=True):
    """An argument of `forward` that is not the same on both sides.

    Attributes:
        name: The argument.
        change: "added", "removed", or "changed": another shape or dtype.
        a: Its shape in A; None where it is absent or no tensor.
        b: Its shape in B, likewise.
    """

    name: str
    change: Change
    a: Shape | None
    b: Shape | None


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
