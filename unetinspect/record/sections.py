"""What was observed: totals, stages, skips, attention layers, modules; and where other models can be attached."""

from __future__ import annotations

from typing import ClassVar, Literal

from msgspec import Struct

from unetinspect.record.run import Excerpt, Shape

Role = Literal["embed", "in", "down", "mid", "up", "out"]
PortKind = Literal["controlnet", "t2i-adapter", "ip-adapter"]
AttentionKind = Literal["self", "cross", "joint", "temporal", "pooling"]
Optimizer = Literal["adamw", "sgd", "adafactor", "8bit"]


class AttentionCounts(Struct, frozen=True, kw_only=True, rename={"self_": "self"}):
    """Attention layers by kind; a layer that runs twice counts once.

    `total` is `self + cross + joint + temporal`: the layers with an attention processor (`unet.attn_processors`), as other tools
    count them. Two counts are not part of it:

    pooling            attention that pools the text into one embedding, outside the U
    without_processor  layers that compute attention themselves, of any kind (`SelfAttention1d` of UNet1DModel)
    """

    self_: int = 0
    cross: int = 0
    joint: int = 0
    temporal: int = 0
    pooling: int = 0
    without_processor: int = 0
    total: int = 0


class SkipCounts(Struct, frozen=True, kw_only=True):
    """Skip tensors that the UNet produced, and how many of them were concatenated; 0 and 0 if none was."""

    produced: int
    consumed: int


class MacsByKind(Struct, frozen=True, kw_only=True):
    """Multiply-accumulates by the kind of operation.

    Attributes:
        conv: Of convolutions.
        linear: Of matrix products, except those of attention.
        attention: Of the two products of attention, Q Kᵀ and that of the map with V; its projections are linear.
    """

    conv: int
    linear: int
    attention: int


class Uncounted(Struct, frozen=True, kw_only=True):
    """An operation without a FLOP formula, and how often it was called."""

    op: str
    calls: int


class Module(Struct, frozen=True, kw_only=True):
    """One module of the tree, called or not, in the order of `named_modules()`; "" is the UNet itself.

    Attributes:
        path: Its name in `named_modules()`.
        class_name: Its class.
        detail: Its arguments as in `print(module)`: "320, 640, kernel_size=(3, 3)".
        in_shape: The first input tensor of its first call, or None.
        out_shape: The first tensor that its first call returned, or None.
        params: Its parameters and those of its children.
        calls: How often it ran.
        macs: Multiply-accumulates of everything that ran in it and in its children.
        macs_by_kind: The same by kind of operation.
        flops: `2 * macs`.
        activation_bytes: The peak of live activation bytes while it or one of its children ran.
        step: The number of its first call among all module calls of the pass, from 0; None: it did not run.
        tensors: The shapes of its own parameters and buffers, without those of its children, as `state_dict()` names them.
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


class TrainingMemory(Struct, frozen=True, kw_only=True):
    """The memory of one training step, in bytes: a forward and a backward pass in train mode, and the optimizer's step.

    Attributes:
        optimizer: "adamw", "sgd" (without momentum) or "adafactor" of torch, or "8bit": AdamW8bit of bitsandbytes.
        gradient_checkpointing: Whether blocks ran again in the backward pass instead of keeping their activations.
        gradient_bytes: The gradients of the parameters that are trained.
        optimizer_bytes: The optimizer's state.
        kept_bytes: What the forward pass keeps for the backward pass, and its output.
        peak_activation_bytes: The peak of what the two passes create: `kept_bytes`, and what the backward pass adds to it.
        step_bytes: What the optimizer's step creates, when the activations are freed.
        total_bytes: Weights, gradients and state, and the larger of `peak_activation_bytes` and `step_bytes`.
    """

    optimizer: Optimizer
    gradient_checkpointing: bool
    gradient_bytes: int
    optimizer_bytes: int
    kept_bytes: int
    peak_activation_bytes: int
    step_bytes: int
    total_bytes: int


class Totals(Excerpt, frozen=True, kw_only=True):
    """The whole UNet in a few numbers. Costs are None in records of old versions, which did not count them.

    Attributes:
        params: Parameters, each counted once.
        weight_bytes: Bytes of the parameters.
        weight_bytes_by_dtype: The same, by dtype.
        macs: Multiply-accumulates of the pass, for the whole `run.forward_batch`.
        peak_activation_bytes: The peak of live bytes that the pass created: without weights and inputs. Fused attention
            materializes no map, other attention its own.
        peak_activation_in: The module whose forward ran then.
        peak_activation_bytes_with_maps: The same if torch's math attention, which materializes maps, replaced fused attention.
        peak_activation_in_with_maps: The module whose forward ran then.
        inference_bytes: Weights and the peak of activations: `weight_bytes + peak_activation_bytes`.
        training: The memory of a training step; None if it was not asked for.
        attention: Attention layers by kind.
        skips: Skips.
        uncounted: Operations without a FLOP formula.
    """

    fields_of: ClassVar = (Module,)

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
    inference_bytes: int | None = None
    training: TrainingMemory | None = None
    attention: AttentionCounts
    skips: SkipCounts
    uncounted: tuple[Uncounted, ...] = ()


class Stage(Excerpt, frozen=True, kw_only=True):
    """A top-level module of the UNet, or one item of a top-level list, that ran.

    Attributes:
        name: "down_blocks.0", "mid_block", "time_embedding".
        role: Its place in the U.
        in_shape: Its first input tensor.
        out_shape: The first tensor that it returned.
        resnets: Modules of its `resnets` lists that ran.
        transformer_blocks: Modules of `transformer_blocks`, `temporal_transformer_blocks` and `transformer_layers` lists that ran.
        attention: Its attention layers.
        activation_bytes: The peak of live activation bytes while it ran, including those created before it and still needed
            (skips).
    """

    fields_of: ClassVar = (Module,)

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
    """A change of a skip tensor between the module that produced it and the concatenation.

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
        sources: All modules whose outputs make up the tensor if it is a sum; else only `source`.
        shape: The tensor, (batch, channels, ...).
        target: The module that took the concatenation.
        target_stage: The stage of that module.
        target_step: Which module call took it.
        combine: How the two were joined.
        hidden_channels: Channels of the hidden states.
        skip_channels: Channels of the skip.
        concat_channels: Channels of the concatenation, as observed.
        out_channels: Channels of the target's output; None if it returned no tensor.
        conv_channels: Input channels of the first convolution in the target, from its weight; None: it has none.
        shortcut: The 1x1 convolution that brings the concatenation to `out_channels` for the target's residual add, or None.
        call: Which execution of the target this was, from 0.
        concat_in: The module whose forward concatenates; "" is the UNet itself.
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
        """Whether hidden + skip matches the concatenation and the first convolution's input channels."""
        channels = self.hidden_channels + self.skip_channels
        return channels == self.concat_channels and self.conv_channels in (None, channels)


class Attention(Struct, frozen=True, kw_only=True):
    """One execution of one attention layer.

    Attributes:
        path: The module with the layer's projections.
        stage: Its stage.
        index: Its place among the modules with an attention processor, as in `unet.attn_processors`; None: it has no processor.
        kind: Where its keys come from: the hidden states ("self"), another input ("cross"), both ("joint"), the same
            place in other frames ("temporal"); "pooling" has a single query.
        processor: The class that computed it; None: the module itself.
        heads: Heads.
        head_dim: Channels of one head.
        query_shape: (batch, heads, query_tokens, head_dim).
        key_shape: (batch, heads, key_tokens, head_dim).
        value_shape: (batch, heads, key_tokens, value_dim).
        map_shape: (batch * heads, query_tokens, key_tokens).
        map_bytes: The bytes that the whole map takes, or would take, in the dtype of the query.
        materialised: Whether the map was in memory; with scaled-dot-product attention it is not.
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


class Port(Struct, frozen=True, kw_only=True):
    """A place where a tensor of another model is attached to the UNet.

    Attributes:
        kind: The kind of model that it is for.
        name: The argument of `forward`, with its place in the list; for IP-Adapter's weights, their key: "1.to_k_ip".
        shape: The shape that fits at this size; of a weight, (out_features, in_features).
        joins: The module whose output it is added to, or the attention layer that reads it.
        stage: The stage of that module.
    """

    kind: PortKind
    name: str
    shape: Shape
    joins: str
    stage: str
