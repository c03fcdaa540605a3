"""The shape of an input builder, and what a builder is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeGuard, TypeVar

from msgspec import Struct

from unetinspect.record import Constant, InputInfo, Medium, Shape
from unetinspect.unets.request import Size

Config = Mapping[str, Any]
_Value = TypeVar("_Value")


class Given(NamedTuple, Generic[_Value]):
    """A value, and what it was given by: "config", "--latent"."""

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


class InputSpec(Struct, frozen=True):
    """One argument of `forward`: its name, its shape with named axes, and what asks for it.

    A dotted name lies inside a dict or, where a number follows the dot, in a list: "added_cond_kwargs.text_embeds",
    "controlnet_cond.0". A shape of None stands for an argument that is no tensor: `value` is passed as it is.
    """

    name: str
    shape: Shape | None
    axes: tuple[str, ...] = ()
    config_key: str | None = None
    dtype: Literal["float", "int64"] = "float"
    value: Constant = None

    @classmethod
    def of(cls, given: InputInfo) -> InputSpec:
        """Return the argument as a record has it."""
        return cls(given.name, given.shape, given.axes, given.config_key, "int64" if given.dtype == "int64" else "float", given.value)


class Adapted(NamedTuple):
    """A config as it can be built, and what was changed in it for that."""

    config: dict[str, Any]
    notes: tuple[str, ...] = ()


class Builder:
    """What is known of one UNet class: its arguments, and the values that its config may hold.

    Attributes:
        class_name: The diffusers class, as in the config's `_class_name`.
        module: Where it is imported from.
        what: What it is, in a few words, for `models --classes`.
        default_tokens: Tokens of `encoder_hidden_states` where none are asked for.
        size_axes: The axes of `sample` that a size decides.
        default_size: Their lengths where neither the user nor the config says.
        medium: What the pixels of the model make up.
        plugs_into: For a class whose outputs go into a UNet: which argument takes each of them. "" is the whole output.
    """

    class_name: ClassVar[str]
    module: ClassVar[str] = "diffusers"
    what: ClassVar[str]
    default_tokens: ClassVar[int] = 77
    size_axes: ClassVar[tuple[str, ...]] = ("height", "width")
    default_size: ClassVar[Size] = (64, 64)
    medium: ClassVar[Medium] = "image"
    plugs_into: ClassVar[Mapping[str, str]] = {}

    def adapted(self, config: Config) -> Adapted:
        """Return the config that is built in place of this one, which diffusers cannot run as it is.

        `config` holds what was given alone. Most classes have nothing to adapt.
        """
        return Adapted(dict(config))

    def condition(self, config: Config) -> str | None:
        """Return the argument that guidance would leave out or swap ("encoder_hidden_states"), None: there is none."""
        raise NotImplementedError

    def inputs(self, config: Config, plan: Plan) -> list[InputSpec]:
        """List the arguments of `forward`, in the order of its signature.

        `config` holds every key, defaults filled in.

        Raises:
            ConfigError: The config asks for inputs that cannot all be given.
            UsageError: The sizes asked for cannot be this UNet's.
        """
        raise NotImplementedError

    def problems(self, config: Config) -> list[str]:
        """List every mistake in `config` that would stop the class from being built or run, one sentence each."""
        raise NotImplementedError

    def assumed_vae_scale(self, config: Config) -> int | None:
        """Return the VAE factor to assume where nothing says: 1 is a UNet that works on pixels, None: nobody can tell."""
        raise NotImplementedError

    def frames(self, config: Config) -> Given[int] | None:
        """Return how many frames the class is run with, and what says so; None: it has no frames."""
        return None

    def sample_size(self, config: Config) -> Given[Size]:
        """Return the sample's size where the user gives none, and what says so."""
        size = config.get("sample_size")
        if size is None:
            return Given(self.default_size, "taken for granted: the config has no sample_size")
        sides = tuple(size) if is_list(size) else (size,)
        return Given(sides[:1] if len(self.size_axes) == 1 else (sides[0], sides[-1]), "config")

    def halvings(self, config: Config) -> int:
        """Return how often the sample is halved at most, on its way down."""
        return len(config["block_out_channels"])


def per_block(value: Any, blocks: int) -> list[Any]:
    """Return one value for each down block: a list as it is, a single value repeated.

    >>> per_block(8, 3), per_block([5, 10, 20], 3)
    ([8, 8, 8], [5, 10, 20])
    """
    return list(value) if is_list(value) else [value] * blocks


def is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    """Tell whether a config value is a list, as JSON has them, or a tuple, as Python's defaults are."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def is_count(value: Any) -> TypeGuard[int]:
    """Tell whether a config value is a whole number above 0; JSON's true is none."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
