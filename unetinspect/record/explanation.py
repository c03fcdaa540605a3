"""What an error message means for a UNet."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from unetinspect.record.run import Shape


class NumberMeaning(Struct, frozen=True, kw_only=True):
    """A number or shape in an error message, and what it is: "154 = 2 x 77 tokens of encoder_hidden_states"."""

    value: int | Shape
    meaning: str


class ModelMatch(Struct, frozen=True, kw_only=True):
    """A model of the catalog that has a number of the message.

    Attributes:
        name: The catalog name.
        role: Which side of the error it is: "its encoder_hidden_states are 2048 wide".
        where: Where in it: config keys, modules with repeats as *.
    """

    name: str
    role: str
    where: tuple[str, ...] = ()


class ErrorExplanation(Struct, frozen=True, kw_only=True):
    """One error that was recognised in a text.

    Attributes:
        kind: What it is: "cross_attention_width", "skip_size", "in_channels", "added_cond_kwargs", "class_labels", "head_count",
            "checkpoint", ...
        error: The message as it stood in the text.
        module: The module or function that raised it, where the text has a traceback that tells.
        meaning: What it means for a UNet, in a few sentences.
        numbers: Its numbers.
        models: The models of the catalog that have them.
        changes: What to change, most likely first.
    """

    kind: str
    error: str
    module: str | None = None
    meaning: str
    numbers: tuple[NumberMeaning, ...] = ()
    models: tuple[ModelMatch, ...] = ()
    changes: tuple[str, ...] = ()


class ErrorExplanations(Struct, frozen=True, kw_only=True):
    """Every error that was recognised, the one that was raised last first."""

    schema: Literal["unetinspect.errors/1"] = "unetinspect.errors/1"
    explanations: tuple[ErrorExplanation, ...]
