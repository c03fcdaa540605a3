"""The blocks of a 2D UNet in diffusers' layout, by names and shapes: their resnets, attention layers and samplers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Literal, NamedTuple, TypeVar

from unetinspect.record import Shape
from unetinspect.units import format_shape

_MAX_BLOCKS = 32
_Value = TypeVar("_Value", bound=object)


class UnclearError(Exception):
    """Raised when names and shapes are not those of a UNet that can be read; its text says why."""


class TensorTree:
    """The tensors of a module, by their names in it.

    Attributes:
        shapes: The shape of each tensor.
        path: Where the module is; "" is the UNet itself.
    """

    def __init__(self, shapes: Mapping[str, Shape], path: str = "") -> None:
        self.shapes = shapes
        self.path = path

    def __contains__(self, name: object) -> bool:
        """Say whether it has this tensor."""
        return name in self.shapes

    @cached_property
    def children(self) -> dict[str, TensorTree]:
        """The modules directly in it, by name."""
        grouped: dict[str, dict[str, Shape]] = {}
        for name, shape in self.shapes.items():
            head, dot, rest = name.partition(".")
            if dot:
                grouped.setdefault(head, {})[rest] = shape
        return {head: TensorTree(shapes, self.path_of(head)) for head, shapes in grouped.items()}

    def path_of(self, name: str) -> str:
        """Return the whole path of what has this name in it."""
        return f"{self.path}.{name}".lstrip(".")

    def under(self, path: str) -> TensorTree:
        """Return the module at a path, an empty one where there is none."""
        found = self
        for part in path.split("."):
            found = found.children.get(part) or TensorTree({}, found.path_of(part))
        return found

    def listed(self, path: str) -> list[TensorTree]:
        """Return the items of a list of modules, in order.

        Raises:
            UnclearError: They are not numbered from 0 without a gap.
        """
        children = self.under(path).children
        expected = [str(index) for index in range(len(children))]
        if sorted(children) != sorted(expected):
            raise UnclearError(f"the items of {self.path_of(path)!r} are not numbered from 0 without a gap")
        return [children[index] for index in expected]

    def shape(self, name: str, axes: int) -> Shape:
        """Return the shape of a tensor that must have so many axes.

        Raises:
            UnclearError: It is missing, or has more or fewer axes, or one of size 0.
        """
        shape = self.shapes.get(name)
        if shape is None:
            raise UnclearError(f"tensor {self.path_of(name)!r} is missing")
        if len(shape) != axes or 0 in shape:
            raise UnclearError(f"{self.path_of(name)!r} is {format_shape(shape)}, expected {axes} axes")
        return shape


class Attention(NamedTuple):
    """One of the attention modules of a block."""

    # "simple" reads the text with keys of its own (`add_k_proj`), "k" is that of the K-blocks, "plain" reads no text.
    kind: Literal["transformer", "simple", "k", "plain"]
    context: int | None = None  # the width of the text embeddings; None: it reads none
    depth: int = 1  # the number of its transformer blocks
    linear: bool = False  # whether proj_in is a linear layer
    crosses_only: bool | None = None  # whether attn1 reads the text too; None: the widths do not show it
    norm_cross: int | None = None  # the width of the norm of the text; None: it has none
    normed: bool = True  # whether it has a group norm of its own


class Block(NamedTuple):
    """One block: down, mid or up."""

    channels: int  # of its resnets' outputs
    layers: int  # the number of its resnets
    attentions: list[Attention]
    sampler: Literal["conv", "resnet", "skip", None]
    adaptive: bool  # whether its norms read the time embedding (K-blocks)
    time_in: int | None  # the width of the time embedding that its resnets read; None: they read none
    time_out: int  # what they make of it, in multiples of their channels

    @property
    def attention(self) -> Attention | None:
        """The first of its attention modules; the others are alike."""
        return self.attentions[0] if self.attentions else None


class Structure(NamedTuple):
    """The blocks of a whole UNet."""

    down: list[Block]
    mid: Block | None
    up: list[Block]

    @property
    def blocks(self) -> list[Block]:
        """All blocks, in the order of a pass."""
        return [*self.down, *([self.mid] if self.mid else []), *self.up]

    @property
    def attentions(self) -> list[Attention]:
        """All attention modules, in the order of a pass."""
        return [attention for block in self.blocks for attention in block.attentions]


def read_structure(tree: TensorTree) -> Structure:
    """Read the blocks of a UNet.

    Raises:
        UnclearError: A block has what no 2D UNet has, or lacks what each has.
    """
    down, up = tree.listed("down_blocks"), tree.listed("up_blocks")
    if not down or len(down) != len(up):
        raise UnclearError(f"it has {len(down)} down blocks and {len(up)} up blocks")
    if len(down) > _MAX_BLOCKS:
        raise UnclearError(f"it has {len(down)} down blocks, more than any UNet")
    mid = tree.under("mid_block")
    return Structure(
        down=[_read_block(block, "down") for block in down],
        mid=_read_block(mid, "") if mid.shapes else None,
        up=[_read_block(block, "up") for block in up],
    )


def _read_block(block: TensorTree, way: str) -> Block:
    resnets = block.listed("resnets")
    if not resnets:
        raise UnclearError(f"{block.path!r} has no resnets")
    first = resnets[0]
    channels = first.shape("conv1.weight", 4)[0]
    adaptive = "norm1.linear.weight" in first
    time_out, time_in = first.shape("time_emb_proj.weight", 2) if "time_emb_proj.weight" in first else (channels, None)
    return Block(
        channels=channels,
        layers=len(resnets),
        attentions=[_read_attention(attention) for attention in block.listed("attentions")],
        sampler=_read_sampler(block, way),
        adaptive=adaptive,
        time_in=first.shape("norm1.linear.weight", 2)[1] if adaptive else time_in,
        time_out=time_out // channels,
    )


def _read_sampler(block: TensorTree, way: str) -> Literal["conv", "resnet", "skip", None]:
    if block.under(f"resnet_{way}").shapes:
        return "skip"
    found = block.under(f"{way}samplers.0")
    if "conv.weight" in found:
        return "conv"
    return "resnet" if "conv1.weight" in found else None


def _read_attention(attention: TensorTree) -> Attention:
    if attention.under("transformer_blocks").shapes:
        return _read_transformer(attention)
    if "add_k_proj.weight" in attention:
        norm = attention.shapes.get("norm_cross.weight", ())
        return Attention(
            kind="simple",
            context=attention.shape("add_k_proj.weight", 2)[1],
            crosses_only="to_k.weight" not in attention,
            norm_cross=norm[0] if norm else None,
        )
    if attention.under("attn2").shapes:
        return Attention(kind="k", context=attention.shape("attn2.to_k.weight", 2)[1])
    attention.shape("to_q.weight", 2)
    return Attention(kind="plain", normed="group_norm.weight" in attention)


def _read_transformer(attention: TensorTree) -> Attention:
    blocks = attention.listed("transformer_blocks")
    own = blocks[0].shape("attn1.to_q.weight", 2)[1]
    context = blocks[0].shape("attn2.to_k.weight", 2)[1]
    keys = blocks[0].shape("attn1.to_k.weight", 2)[1]
    return Attention(
        kind="transformer",
        context=context,
        depth=len(blocks),
        linear=len(attention.shapes.get("proj_in.weight", ())) == 2,
        crosses_only=None if context == own else keys == context,
    )


def one_of(values: Iterable[_Value | None], what: str) -> _Value | None:
    """Return the value on which all that are known agree, None where none is.

    Raises:
        UnclearError: There are several.
    """
    known = list(dict.fromkeys(value for value in values if value is not None))
    if len(known) > 1:
        raise UnclearError(f"{what} is {known[0]} in one place and {known[1]} in another")
    return known[0] if known else None
