"""The errors that a user can fix, and the exit code of each.

    UnetInspectError
    ├── UsageError     2  a bad argument, option or value
    ├── ConfigError    2  a config of an unknown class, or one that cannot be built
    ├── SourceError    3  the model could not be read: not found, gated, offline
    └── ForwardError   4  the forward pass failed

Any other exception is a bug, and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from shlex import quote
from types import MappingProxyType
from typing import Any, NamedTuple

# Words that YAML does not read as strings.
_JSON_WORDS = ("true", "false", "null", "True", "False", "None", "yes", "no", "on", "off", "y", "n")


class UnetInspectError(Exception):
    """Raised when the user's input cannot be processed.

    Attributes:
        message: One sentence on what is wrong.
        hint: What to type instead, or None; a traceback shows it too.
        exit_code: The exit code of the command line.
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def hint(self) -> str | None:
        """What to type instead, or None."""
        return self._hint

    @hint.setter
    def hint(self, hint: str | None) -> None:
        self._hint = hint
        self.__notes__: list[str] = []
        if hint:
            self.add_note(f"hint: {hint}")


class UsageError(UnetInspectError):
    """Raised when an argument, an option or a value is invalid."""


class Problem(NamedTuple):
    """A mistake in a config.

    Attributes:
        keys: The keys to blame.
        what: One sentence on what is wrong with them.
        change: Values with which the UNet runs; empty if none were found.
    """

    keys: tuple[str, ...]
    what: str
    change: Mapping[str, Any] = MappingProxyType({})

    @property
    def options(self) -> str:
        """The change as it is typed: "--set act_fn=silu"."""
        return " ".join(f"--set {quote(f'{key}={_written(value)}')}" for key, value in self.change.items())


def _written(value: Any) -> str:
    """Write a value as `--set` reads it: JSON, but words without quotes."""
    import json  # here: few answers need it

    plain = isinstance(value, str) and value.isidentifier() and value not in _JSON_WORDS
    return str(value) if plain else json.dumps(value)


class ConfigError(UnetInspectError):
    """Raised when a config cannot be built or run.

    Attributes:
        mistakes: Every mistake that was found in the config.
        problems: One sentence on each thing that is wrong.
    """

    def __init__(self, message: str, *, problems: Sequence[Problem | str] = (), hint: str | None = None) -> None:
        self.mistakes = tuple(problem for problem in problems if isinstance(problem, Problem))
        self.problems = tuple(problem.what if isinstance(problem, Problem) else problem for problem in problems)
        super().__init__("\n".join([message, *(f"  - {problem}" for problem in self.problems)]), hint=hint)

    @property
    def change(self) -> dict[str, Any]:
        """Values of config keys with which the UNet runs; empty if none were found."""
        return {key: value for mistake in self.mistakes for key, value in mistake.change.items()}


class SourceError(UnetInspectError):
    """Raised when the model could not be read."""

    exit_code = 3


class ForwardError(UnetInspectError):
    """Raised when the UNet was built and its forward pass failed."""

    exit_code = 4


def nearest_names(name: str, known: Iterable[str], *, count: int = 3, cutoff: float = 0.5) -> list[str]:
    """Return up to `count` of the `known` names, those most similar to `name`, best first; none whose similarity is below `cutoff`.

    >>> nearest_names("sdlx", ["sd15", "sdxl", "ddpm-cat-256"], count=1)
    ['sdxl']
    """
    by_lower = {candidate.lower(): candidate for candidate in known}
    found = get_close_matches(name.lower(), by_lower, n=count, cutoff=cutoff)
    return [by_lower[key] for key in found]
