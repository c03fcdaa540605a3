"""What was observed: totals, stages, skips, attention layers, modules; and where other models can be attached."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from unetinspect.record.run import Shape

Role = Literal["embed", "in", "down", "mid", "up", "out"]
PortKind = Literal["controlnet", "t2i-adapter", "ip-adapter"]
AttentionKind = Literal["self", "cross", "joint", "temporal", "pooling"]


class AttentionCounts(Struct, frozen=True, kw_only=True, rename={"self_": "self"}):
    """How many attention layers there are, by kind; a layer that runs twice is one layer.

    `total` is `self + cross + joint + temporal`: what others count as a UNet's attention layers, those that have an
    attention processor (`unet.attn_processors`). Two kinds are not in it, but observed and listed all the same:

    pooling            attention that pools the text into one embedding, which is not a layer of the U
    without_processor  layers that compute attention themselves, of whatever kind (`SelfAttention1d` of UNet1DModel)
    """

    self_: int = 0
    cross: int = 0
    joint: int = 0
    temporal: int = 0
    pooling: int = 0
    without_processor: int = 0
    total: int = 0


class SkipCounts(Struct, frozen=True, kw_only=True):
    """Skip tensors that the UNet produced, and how many of them were concatenated; none at all where nothing concatenates any."""

    produced: int
    consumed: int


class MacsByKind(Struct, frozen=True, kw_only=True):
    """Multiply-accumulates by the kind of operation.

    Attributes:
        conv: Of convolutions.
        linear: Of matrix products, but for those of attention.
        attention: Of the two products of attention, Q Kᵀ and that of the map with V; its projections are linear.
    """

    conv: int
    linear: int
    attention: int


class Uncounted(Struct, frozen=True, kw_only=True):
    """An operation that no formula counts, and how often it was called."""

    op: str
    calls: int


class Totals(Struct, frozen=True, kw_only=True):
    """The whole UNet in a few numbers. Costs are None in records of versions that did not count them.

    Attributes:
        params: Parameters, each counted once.
        weight_bytes: Bytes of the parameters.
        weight_bytes_by_dtype: The same, by dtype.
        macs: Multiply-accumulates of the pass, of all of `run.forward_batch`.
        macs_by_kind: What they are made of.
        flops: `2 * macs`.
        peak_activation_bytes: The most bytes that lived at once of what the pass made: no weights, no inputs. Fused attention
            materializes no map, other attention its own.
        peak_activation_in: The module whose own forward ran then.
        peak_activation_bytes_with_maps: The same, as if torch's math attention ran in place of each fused one: it materializes maps.
        peak_activation_in_with_maps: The module whose own forward ran then.
        attention: Attention layers by kind.
        skips: Skips.
        uncounted: Operations that no formula counts.
    """

    params: int
    weight_bytes: int
    weight_bytes_by_dtype: dict[str, int] | None = None
    macs: int | None = None
    macs_by_kind: MacsByKind | None = None
    flops: int | None = None
    peak_activation_bytes: int | None = None
    peak_activation_in: str | None = None
    peak_activation_bytes_with_maps: int | None = None
    peak_activation_in_with_maps: str | None = None
    attention: AttentionCounts
    skips: SkipCounts
    uncounted: tuple[Uncounted, ...] = ()


class Stage(Struct, frozen=True, kw_only=True):
    """A top-level module of the UNet, or one item of a top-level list, that ran.

    Attributes:
        name: "down_blocks.0", "mid_block", "time_embedding".
        role: Its place in the U.
        class_name: Its class.
        in_shape: The first tensor that it was given.
        out_shape: The first tensor that it returned.
        resnets: Modules of its `resnets` lists that ran.
        transformer_blocks: Modules of `transformer_blocks`, `temporal_transformer_blocks` and `transformer_layers` lists that ran.
        attention: Its attention layers.
        params: Its parameters.
        macs: Multiply-accumulates of everything that ran in it.
        macs_by_kind: What they are made of.
        flops: `2 * macs`.
        activation_bytes: The most bytes of activations that lived at once while it ran, those made before it and still
            needed (skips) included.
    """

    name: str
    role: Role
    class_name: str
    in_shape: Shape | None
    out_shape: Shape | None
    resnets: int
    transformer_blocks: int
    attention: AttentionCounts
    params: int
    macs: int | None = None
    macs_by_kind: MacsByKind | None = None
    flops: int | None = None
    activation_bytes: int | None = None


ChangeKind = Literal["sum", "filter", "reshape", "cast", "slice", "other"]


class SkipChange(Struct, frozen=True, kw_only=True, rename={"with_": "with"}):
    """What happened to a skip tensor between the module that produced it and the concatenation.

    Attributes:
        kind: A sum with something else; a filter in the Fourier domain (FreeU); another shape or dtype; a part of the tensor.
        with_: For a sum, what was added: paths of modules, names of inputs ("down_block_additional_residuals.3").
        shape: The tensor afterwards.
        ops: The operations, as torch names them.
    """

    kind: ChangeKind
    with_: tuple[str, ...] = ()
    shape: Shape
    ops: tuple[str, ...]


class Skip(Struct, frozen=True, kw_only=True):
    """One skip connection: a tensor that one module produced and a much later one concatenated to its input.

    Attributes:
        index: Its place in the order in which skips were produced, from 0.
        order: Its place in the order in which they were consumed, from 0.
        source: The module that produced the tensor.
        source_stage: The stage of that module.
        source_step: Which module call produced it, counting every call of the pass from 0.
        sources: All modules whose outputs make up the tensor, where it is a sum; else just `source`.
        shape: The tensor, (batch, channels, ...).
        target: The module that took the concatenation.
        target_stage: The stage of that module.
        target_step: Which module call took it.
        combine: How the two were joined.
        hidden_channels: Channels of the features that came up from below.
        skip_channels: Channels of the skip.
        concat_channels: Channels of the concatenation, as observed.
        out_channels: Channels of what the target returned; None where it returned no tensor.
        conv_channels: Input channels of the first convolution in the target, as its weight has them; None: it has none.
        shortcut: The 1x1 convolution that brings the concatenation to `out_channels` for the target's residual add, or None.
        call: Which execution of the target this was, from 0.
        concat_in: The module whose own forward concatenated; "" is the UNet itself.
        changes: What happened to the tensor on its way.
    """

    index: int
    order: int
    source: str
    source_stage: str
    source_step: int
    sources: tuple[str, ...]
    shape: Shape
    target: str
    target_stage: str
    target_step: int
    combine: Literal["concat", "add"]
    hidden_channels: int
    skip_channels: int
    concat_channels: int
    out_channels: int | None
    conv_channels: int | None
    shortcut: str | None
    call: int
    concat_in: str | None = None
    changes: tuple[SkipChange, ...] = ()

    @property
    def adds_up(self) -> bool:
        """Whether hidden + skip is what was concatenated, and what the first convolution takes."""
        channels = self.hidden_channels + self.skip_channels
        return channels == self.concat_channels and self.conv_channels in (None, channels)


class Attention(Struct, frozen=True, kw_only=True):
    """One execution of one attention layer.

    Attributes:
        path: The module with the layer's projections.
        stage: Its stage.
        index: Its place among the modules that have an attention processor, which is that in `unet.attn_processors` where the class
            has these; None where it has no processor.
        kind: Where its keys come from: the hidden states ("self"), another input ("cross"), both ("joint"), the same
            place in other frames ("temporal"); "pooling" has one query for all.
        processor: The class that computed it, None where the module itself does.
        heads: Heads.
        head_dim: Channels of one head.
        query_shape: (batch, heads, query_tokens, head_dim).
        key_shape: (batch, heads, key_tokens, head_dim).
        value_shape: (batch, heads, key_tokens, value_dim).
        map_shape: (batch * heads, query_tokens, key_tokens).
        map_bytes: What the whole map takes, or would take, in the dtype of the query.
        materialised: Whether this pass held the map in memory; scaled-dot-product attention does not.
        call: Which execution of the layer this was, from 0.
        macs: Multiply-accumulates of its two products, Q Kᵀ and that of the map with V.
    """

    path: str
    stage: str
    index: int | None
    kind: AttentionKind
    processor: str | None
    heads: int
    head_dim: int
    query_shape: tuple[int, int, int, int]
    key_shape: tuple[int, int, int, int]
    value_shape: tuple[int, int, int, int]
    map_shape: tuple[int, int, int]
    map_bytes: int
    materialised: bool
    call: int
    macs: int | None = None


class Module(Struct, frozen=True, kw_only=True):
    """One module of the tree, called or not, in the order of `named_modules()`; "" is the UNet itself.

    Attributes:
        path: Its name in `named_modules()`.
        class_name: Its class.
        detail: What its class says of itself in `print(module)`: "320, 640, kernel_size=(3, 3)".
        in_shape: The first tensor of its first call, None where it was given none or never called.
        out_shape: The first tensor that its first call returned.
        params: Its parameters and those of its children.
        calls: How often it ran.
        macs: Multiply-accumulates of everything that ran in it and in its children.
        macs_by_kind: What they are made of.
        flops: `2 * macs`.
        activation_bytes: The most bytes of activations that lived at once while it or one of its children ran.
        step: Which module call of the pass was its first, counting every call from 0; None where it never ran.
        tensors: The shapes of its own parameters and buffers, as `state_dict()` names them ("weight"); those of its children
            are theirs.
    """

    path: str
    class_name: str
    detail: str
    in_shape: Shape | None
    out_shape: Shape | None
    params: int
    calls: int
    macs: int | None = None
    macs_by_kind: MacsByKind | None = None
    flops: int | None = None
    activation_bytes: int | None = None
    step: int | None = None
    tensors: dict[str, Shape] = {}


class Port(Struct, frozen=True, kw_only=True):
    """A place where a tensor of another model joins the UNet.

    Attributes:
        kind: The kind of model that it is for.
        name: The argument of `forward`, with its place in the list; for IP-Adapter's weights, their key: "1.to_k_ip".
        shape: What the UNet takes there at this size; of a weight, (out_features, in_features).
        joins: The module whose output it is added to, or the attention layer that reads it.
        stage: The stage of that module.
    """

    kind: PortKind
    name: str
    shape: Shape
    joins: str
    stage: str
