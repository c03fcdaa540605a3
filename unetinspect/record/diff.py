"""The `Diff`: two records compared, part by part. Every part of either side is in it exactly once.

A is the first UNet and B the second; every difference is B - A.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from msgspec import Struct, field

from unetinspect.record.run import Excerpt, ModelInfo, Run, Shape, Source
from unetinspect.record.sections import Attention, AttentionKind, Module, Skip, Stage, Totals

DIFF_SCHEMA: Literal["unetinspect.diff/1"] = "unetinspect.diff/1"
Origin = Literal["given", "default", "override", "absent"]
Change = Literal["same", "renamed", "changed", "added", "removed"]


class DiffSide(Excerpt, frozen=True, kw_only=True):
    """One of the two: which UNet it is, and how its forward pass was run.

    Attributes:
        overrides: The config keys that were overridden (`--set`), with their values.
    """

    fields_of: ClassVar = (ModelInfo, Run)

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
    overrides: dict[str, Any] = field(default_factory=dict)


class ConfigDiff(Struct, frozen=True, kw_only=True):
    """A config key whose values differ; keys that begin with "_" are left out.

    Attributes:
        key: The key.
        a: Its value in A; None also if it is absent.
        b: Its value in B, likewise.
        a_origin: Whether A's config has it, diffusers filled it in, it was overridden, or A's class has no such key.
        b_origin: The same for B.
    """

    key: str
    a: Any
    b: Any
    a_origin: Origin
    b_origin: Origin


class Quantity(Struct, frozen=True, kw_only=True):
    """A number on both sides.

    Attributes:
        a: In A; None if it was not counted.
        b: In B, likewise.
        difference: `b - a`.
        ratio: `b / a`; None if `a` is 0.
    """

    a: int | None
    b: int | None
    difference: int | None
    ratio: float | None


class TotalsDiff(Excerpt, frozen=True, kw_only=True):
    """The totals of both.

    Attributes:
        attention: Attention layers by kind, under the names of `totals.attention` in a trace: "self", "cross", ..., "total".
        transformer_blocks: Transformer blocks that ran.
        resnets: Resnets that ran.
        skips_produced: Skips that were produced.
        skips_consumed: Skips that were consumed.
    """

    fields_of: ClassVar = (Totals,)

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
    """An argument of `forward` that differs.

    Attributes:
        name: The argument.
        change: "added", "removed", or "changed": a different shape, dtype or value.
        a: Its shape in A; None if it is absent or not a tensor.
        b: Its shape in B, likewise.
        a_dtype: Its dtype in A; None if it is absent or not a tensor.
        b_dtype: Its dtype in B, likewise.
    """

    name: str
    change: Change
    a: Shape | None
    b: Shape | None
    a_dtype: str | None
    b_dtype: str | None


class NameCounts(Struct, frozen=True, kw_only=True):
    """Counts of named things, paired by name.

    Attributes:
        same: With the same name and shape.
        changed: With the same name and a different shape.
        added: Only in B.
        removed: Only in A.
    """

    same: int = 0
    changed: int = 0
    added: int = 0
    removed: int = 0


class TensorsDiff(Struct, frozen=True, kw_only=True):
    """Whether a checkpoint of A would load into B: the keys of both `state_dict()`s, paired by name.

    Attributes:
        total: All tensors.
        stages: The same by stage; "" is all tensors outside the stages.
    """

    total: NameCounts
    stages: dict[str, NameCounts]


class LayerSide(Excerpt, frozen=True, kw_only=True):
    """A layer of one side."""

    fields_of: ClassVar = (Module,)

    path: str
    class_name: str
    detail: str
    params: int


class LayerDiff(Struct, frozen=True, kw_only=True):
    """A module inside a stage that differs.

    Of added or removed modules it is the outermost, of changed ones the innermost. A module whose class differs is changed as
    a whole; the modules in it are not listed.

    Attributes:
        change: "renamed" if only its number in the list differs.
        a: The module in A; None: added.
        b: The module in B; None: removed.
        differs: What differs: "class_name", "detail" (kernel size, epsilon, ...), "tensors" (the shapes of its own weights).
        params: The difference in parameters, `b - a`; of a changed module only its own, unless its class differs.
    """

    change: Change
    a: LayerSide | None
    b: LayerSide | None
    differs: tuple[str, ...]
    params: int


class StageDiff(Struct, frozen=True, kw_only=True):
    """A stage of A and the stage of B in the same place.

    Attributes:
        change: "renamed" if only the name differs.
        a: The stage in A; None: added.
        b: The stage in B; None: removed.
        differs: The fields of a stage that differ, including `name`; and "layers" if `layers` is not empty. `activation_bytes` is
            not compared: it includes what is alive beside the stage.
        params: `b - a`; an absent side has 0.
        macs: `b - a`, likewise; None if either was not counted.
        layers: What differs inside it; empty for an added or removed stage.
        resized: Whether only shapes and MACs differ, and only because batch or sample size differ: channels and resolution
            relative to the sample are the same.
    """

    change: Change
    a: Stage | None
    b: Stage | None
    differs: tuple[str, ...]
    params: int
    macs: int | None
    layers: tuple[LayerDiff, ...] = ()
    resized: bool = False


class SkipSide(Excerpt, frozen=True, kw_only=True):
    """A skip of one side.

    Attributes:
        changes: The kinds of the changes to the tensor on its way.
    """

    fields_of: ClassVar = (Skip,)

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
    """A skip of A and the skip of B whose target is in the same place.

    Attributes:
        change: "renamed" if only the names of its modules differ.
        a: The skip in A; None: added.
        b: The skip in B; None: removed.
        differs: What differs: "names" (the same places with other names), "source" (it comes from another place), or another
            field of a side.
    """

    change: Change
    a: SkipSide | None
    b: SkipSide | None
    differs: tuple[str, ...]


class AttentionSide(Excerpt, frozen=True, kw_only=True):
    """One execution of an attention layer of one side.

    Attributes:
        query_tokens: Tokens of the query.
        key_tokens: Tokens of the key.
    """

    fields_of: ClassVar = (Attention,)

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
    """An attention layer of A and the layer of B in the same place.

    Attributes:
        change: "renamed" if only the path differs.
        a: The layer in A; None: added.
        b: The layer in B; None: removed.
        differs: The fields of a side that differ.
    """

    change: Change
    a: AttentionSide | None
    b: AttentionSide | None
    differs: tuple[str, ...]


class Diff(Struct, frozen=True, kw_only=True):
    """Two records compared.

    Attributes:
        same: Whether class, config, stages, skips, attention layers, inputs, ports, tensors and totals are all the same. Names,
            sources, devices and versions may differ.
        a: The first.
        b: The second.
        notes: Differences between the passes, not the UNets: versions, devices, how the batch is made up.
        config: The keys that differ.
        totals: Totals of both.
        stages: Every stage of both, in A's order; added ones after the stage that they follow in B.
        skips: Every skip of both, likewise.
        attentions: Every attention layer of both, likewise.
        inputs: The arguments of `forward` that differ.
        tensors: Whether the weights of one load into the other.
        ports: Counts of the ports of each kind, paired by name.
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
