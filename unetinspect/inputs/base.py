"""The shape of an input builder, and what a builder is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeGuard

from msgspec import Struct

from unetinspect.record import Shape

Config = Mapping[str, Any]


class Plan(Struct, frozen=True, kw_only=True):
    """The sizes of one forward pass, decided.

    Attributes:
        batch: The forward batch, CFG included.
        size: (height, width) of `sample`.
        tokens: Tokens of `encoder_hidden_states`, None: the class's own number.
        frames: Frames, None: the config's own number.
    """

    batch: int
    size: tuple[int, int]
    tokens: int | None = None
    frames: int | None = None


class InputSpec(Struct, frozen=True):
    """One argument of `forward`: its name, its shape with named axes, and what asks for it.

    A dotted name lies inside a dict: "added_cond_kwargs.text_embeds". A shape of None stands for passing None.
    """

    name: str
    shape: Shape | None
    axes: tuple[str, ...] = ()
    config_key: str | None = None
    dtype: Literal["float", "int64"] = "float"


class Builder:
    """What is known of one UNet class: its arguments, and the values that its config may hold.

    Attributes:
        class_name: The diffusers class, as in the config's `_class_name`.
        default_tokens: Tokens of `encoder_hidden_states` where none are asked for.
        default_size: Side of `sample` where neither the user nor the config says.
        takes_frames: Whether `sample` has an axis of frames.
    """

    class_name: ClassVar[str]
    default_tokens: ClassVar[int] = 77
    default_size: ClassVar[int] = 64
    takes_frames: ClassVar[bool] = False

    def condition(self, config: Config) -> str | None:
        """Return the argument that guidance would leave out or swap ("encoder_hidden_states"), None: there is none."""
        raise NotImplementedError

    def inputs(self, config: Config, plan: Plan) -> list[InputSpec]:
        """List the arguments of `forward`, in the order of its signature.

        `config` holds every key, defaults filled in.

        Raises:
            ConfigError: The config asks for inputs that cannot all be given.
        """
        raise NotImplementedError

    def problems(self, config: Config) -> list[str]:
        """List every mistake in `config` that would stop the class from being built or run, one sentence each."""
        raise NotImplementedError

    def assumed_vae_scale(self, config: Config) -> int:
        """Return the VAE factor to assume where nothing says: 1 is a UNet that works on pixels."""
        raise NotImplementedError


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
