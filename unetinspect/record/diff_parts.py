"""Parts of two UNets, side by side: stages, the layers in them, skips, attention layers.

A is the first UNet and B the second; every difference is B - A.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from unetinspect.record.run import Shape
from unetinspect.record.sections import AttentionKind, Stage

Change = Literal["same", "renamed", "changed", "added", "removed"]


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
        differs: The fields of a stage that differ, `name` included; and "layers" where `layers` names what changed in it. What
            lives beside a stage while it runs is no part of it: `activation_bytes` is not compared.
        params: `b - a`; a side that is absent has none.
        macs: `b - a`, likewise; None where either was not counted.
        layers: What differs inside it; empty for an added or removed stage.
        resized: Whether nothing differs but shapes and MACs, and these as the batch and the size of the sample do: the channels
            are the same, and how often the sample was halved.
    """

    change: Change
    a: Stage | None
    b: Stage | None
    differs: tuple[str, ...]
    params: int
    macs: int | None
    layers: tuple[LayerDiff, ...] = ()
    resized: bool = False


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
        differs: What differs: "names" (its modules stand in the same places under other names), "source" (it comes from another
            place), or another field of a side.
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
        differs: The fields of a side that differ.
    """

    change: Change
    a: AttentionSide | None
    b: AttentionSide | None
    differs: tuple[str, ...]
