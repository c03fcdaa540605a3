"""The base class of input builders: a table of the arguments of `forward`, and other facts on the class."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import ceil, prod
from operator import index
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeGuard, TypeVar

from msgspec import Struct

from unetinspect.record import Constant, InputInfo, Medium
from unetinspect.unets.request import Size

Config = Mapping[str, Any]
_Value = TypeVar("_Value")


class Given(NamedTuple, Generic[_Value]):
    """A value and where it comes from: "config", "--latent"."""

    value: _Value
    said_by: str


class Plan(Struct, frozen=True, kw_only=True):
    """The sizes of one forward pass, decided.

    Attributes:
        batch: The forward batch, CFG included.
        size: The sample's size along the class's `size_axes`: (height, width), or (length,).
        tokens: Tokens of `encoder_hidden_states`, None: the class's own number.
        frames: Frames; None: the class has none.
    """

    batch: int
    size: Size
    tokens: int | None = None
    frames: int | None = None


class Arg:
    """An argument of `forward`, declared by its axes, written as einops writes them: "batch in_channels height width".

    An axis is a size of the pass (batch, height, width, length, frames, tokens), a config key, or a name in `lengths`, which
    override the config; in parentheses, a sum, product or quotient of these and of numbers: "(8 * height)".
    `tokens` in `lengths` is the default number of tokens. An argument without axes (None) is not a tensor: `value` is passed as
    it is. `asks` names the config keys that require the argument.
    """

    def __init__(
        self,
        name: str,
        axes: str | None,
        asks: str | None = None,
        *,
        dtype: Literal["float", "int64"] = "float",
        value: Constant = None,
        **lengths: Any,
    ) -> None:
        self.name, self.axes, self.asks = name, axes, asks
        self.dtype, self.value, self.lengths = dtype, value, lengths

    def shaped(self, lengths: Mapping[str, Any]) -> InputInfo:
        """Return the argument with its shape; `lengths` has a length for each name in its axes."""
        if self.axes is None:
            return InputInfo(name=self.name, shape=None, dtype=None, config_key=self.asks, value=self.value)
        axes = tuple(axis.strip("()") for axis in re.findall(r"\(.*?\)|\S+", self.axes))
        shape = tuple(_length(axis, lengths) for axis in axes)
        return InputInfo(name=self.name, shape=shape, dtype=self.dtype, axes=axes, config_key=self.asks)


def _length(axis: str, lengths: Mapping[str, Any]) -> int:
    """Return the length of an axis; a bool is 0 or 1, as in torch, and whatever is not an integer raises.

    >>> _length("8 * height", {"height": 64}), _length("height / 10.67", {"height": 256})
    (512, 24)
    """
    side, _, divisor = axis.partition(" / ")
    if divisor:
        return ceil(int(lengths[side]) / float(divisor))
    length = 0
    for product in axis.split(" + "):
        length += prod(int(term) if term.isdigit() else index(lengths[term]) for term in product.split(" * "))
    return length


def nest(named: Mapping[str, Any]) -> Any:
    """Put values with dotted names into dicts; where all names at one place are numbers, into a list.

    >>> nest({"sample": 1, "added_cond_kwargs.time_ids": 2, "controlnet_cond.0": 3})
    {'sample': 1, 'added_cond_kwargs': {'time_ids': 2}, 'controlnet_cond': [3]}
    """
    inside: dict[str, dict[str, Any]] = {}
    for name, value in named.items():
        first, _, rest = name.partition(".")
        inside.setdefault(first, {})[rest] = value
    nested = {first: values[""] if "" in values else nest(values) for first, values in inside.items()}
    return list(nested.values()) if nested and all(key.isdigit() for key in nested) else nested


TIMESTEP = Arg("timestep", "", dtype="int64")


class Adapted(NamedTuple):
    """Config keys to replace so that diffusers can run a config, and notes on why."""

    changes: Mapping[str, Any] = MappingProxyType({})
    notes: tuple[str, ...] = ()


# Guidance leaves out or swaps the first of these that `forward` has.
_GUIDED = ("encoder_hidden_states", "encoder_hidden_states_1", "clip_text_pooled", "added_cond_kwargs", "class_labels")


class Builder:
    """One UNet class: the arguments of its `forward`, and their default sizes.

    A config may contain anything: if no input can be made from it, methods raise whatever Python raises.

    Attributes:
        class_name: The diffusers class, as in the config's `_class_name`.
        module: Where it is imported from.
        what: What it is, in a few words, for `models --classes`.
        default_tokens: The default number of tokens of `encoder_hidden_states`.
        size_axes: The axes of `sample` that a size decides.
        default_size: Their lengths if neither the user nor the config gives them.
        vae_scale: The VAE factor to assume: 1 is a UNet that works on pixels, None: unknown.
        medium: What the pixels of the model make up.
        plugs_into: For a class whose outputs go into a UNet: which argument takes each of them. "" is the whole output.
    """

    class_name: ClassVar[str]
    module: ClassVar[str] = "diffusers"
    what: ClassVar[str]
    default_tokens: ClassVar[int] = 77
    size_axes: ClassVar[tuple[str, ...]] = ("height", "width")
    default_size: ClassVar[Size] = (64, 64)
    vae_scale: ClassVar[int | None] = 8
    medium: ClassVar[Medium] = "image"
    plugs_into: ClassVar[Mapping[str, str]] = {}

    def args(self, config: Config) -> Iterable[Arg]:
        """Declare the arguments of `forward`, in the order of its signature. `config` holds every key, defaults filled in."""
        raise NotImplementedError

    def inputs(self, config: Config, plan: Plan) -> list[InputInfo]:
        """List the arguments of `forward` with their shapes; "float" stands for the dtype of the pass."""
        sizes = {"batch": plan.batch, "frames": plan.frames or 1, **dict(zip(self.size_axes, plan.size, strict=True))}
        if plan.tokens is not None:
            sizes["tokens"] = plan.tokens
        return [row.shaped({"tokens": self.default_tokens, **config, **row.lengths, **sizes}) for row in self.args(config)]

    def condition(self, config: Config) -> str | None:
        """Return the argument that guidance would leave out or swap ("encoder_hidden_states"); None: unconditional."""
        given = {row.name.partition(".")[0] for row in self.args(config) if row.axes is not None and "unread" not in row.lengths}
        return next((name for name in _GUIDED if name in given), None)

    def adapted(self, config: Config) -> Adapted:
        """Return what to replace in a config that diffusers cannot run as it is: nothing, in most classes."""
        return Adapted()

    def assumed_vae_scale(self, config: Config) -> int | None:
        """Return the VAE factor to assume if it is unknown."""
        return self.vae_scale

    def frames(self, config: Config) -> Given[int] | None:
        """Return the default number of frames; None: the class has no frames."""
        return None

    def sample_size(self, config: Config) -> Given[Size]:
        """Return the default size of the sample."""
        size = config.get("sample_size")
        sides: list[Any] = list(size) if is_list(size) else [size]
        if sides and all(map(is_count, sides)):
            return Given((sides[0], sides[-1])[: len(self.size_axes)], "config")
        return Given(self.default_size, f"assumed: {'the config has no sample_size' if size is None else f'sample_size is {size!r}'}")

    def sizes_to_try(self, config: Config) -> Iterator[Given[Size]]:
        """Yield default sizes, the best first: the first that runs is used."""
        yield self.sample_size(config)

    def halvings(self, config: Config) -> int:
        """Return how often the sample is halved at most in the down path."""
        return len(config["block_out_channels"])


def is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    """Whether a config value is a list, or a tuple as in a live module's config."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def is_count(value: Any) -> TypeGuard[int]:
    """Whether a config value is an integer above 0; true is not one."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def leaves(value: Any) -> list[Any]:
    """List the entries of nested lists; of another value, itself."""
    return [entry for each in value for entry in leaves(each)] if is_list(value) else [value]


def words_in(value: Any) -> list[str]:
    """List the strings in nested lists, or a value that is one."""
    return [word for word in leaves(value) if isinstance(word, str)]
