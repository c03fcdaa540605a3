"""What names and shapes say of a 2D UNet in diffusers' layout: its blocks, their resnets, attention layers and samplers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeVar

from msgspec import Struct

from unetinspect.checkpoint.names import Names, UnclearError

AttentionKind = Literal["transformer", "simple", "k", "plain"]
Sampler = Literal["conv", "resnet", "skip"]
_MAX_BLOCKS = 32
_Value = TypeVar("_Value", bound=object)


class AttentionShape(Struct, frozen=True, kw_only=True):
    """One of the attention modules of a block.

    Attributes:
        kind: "transformer" has transformer blocks, "simple" takes the text into its own keys (`add_k_proj`), "k" is that of
            the K-blocks, "plain" has no text.
        context: How wide the text is; None: it takes none.
        depth: How many transformer blocks it has.
        linear: Whether `proj_in` is linear, None where there is none.
        crosses_only: Whether what would be self-attention takes the text, None where widths do not tell.
        norm_cross: How wide the norm of the text is, None: it has none.
        gated: Whether it has GLIGEN's fusers.
        normed: Whether it has a group norm of its own.
    """

    kind: AttentionKind
    context: int | None = None
    depth: int = 1
    linear: bool | None = None
    crosses_only: bool | None = None
    norm_cross: int | None = None
    gated: bool = False
    normed: bool = True


class BlockShape(Struct, frozen=True, kw_only=True):
    """One block: down, mid or up.

    Attributes:
        channels: How many its resnets give.
        layers: How many resnets it has.
        attentions: Its attention modules.
        sampler: What makes it smaller or larger, None: nothing.
        adaptive: Whether its norms take the time (K-blocks).
        time_in: How wide the time embedding is that its resnets take, None: they take none.
        time_out: What they make of it, in multiples of their channels.
    """

    channels: int
    layers: int
    attentions: tuple[AttentionShape, ...]
    sampler: Sampler | None = None
    adaptive: bool = False
    time_in: int | None = None
    time_out: int = 1

    @property
    def attention(self) -> AttentionShape | None:
        """The first of its attention modules, which the others are like."""
        return self.attentions[0] if self.attentions else None


class UNetShape(Struct, frozen=True, kw_only=True):
    """A whole UNet.

    Attributes:
        down: Its down blocks.
        mid: Its mid block, None: it has none.
        up: Its up blocks.
    """

    down: tuple[BlockShape, ...]
    mid: BlockShape | None
    up: tuple[BlockShape, ...]

    @property
    def blocks(self) -> tuple[BlockShape, ...]:
        """All blocks, in the order of a pass."""
        return (*self.down, *((self.mid,) if self.mid else ()), *self.up)

    @property
    def attentions(self) -> tuple[AttentionShape, ...]:
        """All attention modules, in the order of a pass."""
        return tuple(attention for block in self.blocks for attention in block.attentions)


def read_structure(names: Names) -> UNetShape:
    """Read the blocks of a UNet.

    Raises:
        UnclearError: A block has what no 2D UNet has, or lacks what each has.
    """
    down, up = names.listed("down_blocks"), names.listed("up_blocks")
    if not down or len(down) != len(up):
        raise UnclearError(f"it has {len(down)} down blocks and {len(up)} up blocks")
    if len(down) > _MAX_BLOCKS:
        raise UnclearError(f"{len(down)} down blocks are more than any UNet has")
    mid = names.under("mid_block")
    return UNetShape(
        down=tuple(_read_block(block, "downsamplers.0", "resnet_down") for block in down),
        mid=_read_block(mid, "", "") if mid else None,
        up=tuple(_read_block(block, "upsamplers.0", "resnet_up") for block in up),
    )


def _read_block(block: Names, sampler: str, skip: str) -> BlockShape:
    resnets = block.listed("resnets")
    if not resnets:
        raise UnclearError(f"{block.path!r} has no resnets")
    first = resnets[0]
    channels = first.shape("conv1.weight", 4)[0]
    adaptive = "norm1.linear.weight" in first
    time_out, time_in = first.shape("time_emb_proj.weight", 2) if "time_emb_proj.weight" in first else (channels, None)
    return BlockShape(
        channels=channels,
        layers=len(resnets),
        attentions=tuple(_read_attention(attention) for attention in block.listed("attentions")),
        sampler=_read_sampler(block, sampler, skip) if sampler else None,
        adaptive=adaptive,
        time_in=first.shape("norm1.linear.weight", 2)[1] if adaptive else time_in,
        time_out=time_out // channels,
    )


def _read_sampler(block: Names, sampler: str, skip: str) -> Sampler | None:
    if block.under(skip):
        return "skip"
    found = block.under(sampler)
    if "conv.weight" in found:
        return "conv"
    return "resnet" if "conv1.weight" in found else None


def _read_attention(attention: Names) -> AttentionShape:
    if attention.under("transformer_blocks"):
        return _read_transformer(attention)
    if "add_k_proj.weight" in attention:
        norm = attention.shapes.get("norm_cross.weight", ())
        return AttentionShape(
            kind="simple",
            context=attention.shape("add_k_proj.weight", 2)[1],
            crosses_only="to_k.weight" not in attention,
            norm_cross=norm[0] if norm else None,
        )
    if attention.under("attn2"):
        return AttentionShape(kind="k", context=attention.shape("attn2.to_k.weight", 2)[1])
    attention.shape("to_q.weight", 2)
    return AttentionShape(kind="plain", normed="group_norm.weight" in attention)


def _read_transformer(attention: Names) -> AttentionShape:
    blocks = attention.listed("transformer_blocks")
    own = blocks[0].shape("attn1.to_q.weight", 2)[1]
    context = blocks[0].shape("attn2.to_k.weight", 2)[1]
    keys = blocks[0].shape("attn1.to_k.weight", 2)[1]
    return AttentionShape(
        kind="transformer",
        context=context,
        depth=len(blocks),
        linear=len(attention.shapes.get("proj_in.weight", ())) == 2,
        crosses_only=None if context == own else keys == context,
        gated=bool(blocks[0].under("fuser")),
    )


def one_of(values: Iterable[_Value | None], what: str) -> _Value | None:
    """Return the value that all that is known agrees on, None where nothing is.

    Raises:
        UnclearError: There are several.
    """
    known = list(dict.fromkeys(value for value in values if value is not None))
    if len(known) > 1:
        raise UnclearError(f"{what} is {known[0]} in one place and {known[1]} in another")
    return known[0] if known else None
