"""What a recogniser is: the pattern of a message, and the words for what it means."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from unetinspect.record import ErrorExplanation, ModelMatch, NumberMeaning, Shape

NUMBER = r"([0-9]{1,12})"
SHAPE = r"(?:torch\.Size)?[\[(]{1,2}([0-9,\s]{1,80})[\])]{1,2}"
_SHOWN_CHARACTERS = 300
_WORD_CHARACTERS = 60
_LAST_WORD = re.compile(r"\w{1,60}[. ]?$")


class Scene(NamedTuple):
    """What stands around a message in the text.

    Attributes:
        nearby: The traceback that it belongs to, as far as it was found: frames and the lines of code that they show.
        module: The innermost module and function of diffusers, or of a tool that runs UNets, in that traceback.
    """

    nearby: str = ""
    module: str | None = None

    def shows(self, *words: str) -> bool:
        """Tell whether the traceback holds any of the words."""
        return any(word in self.nearby for word in words)


class Recogniser(NamedTuple):
    """One message, and how to explain it; `explain` returns None where the numbers say that it is another error."""

    pattern: re.Pattern[str]
    explain: Callable[[re.Match[str], Scene], ErrorExplanation | None]


class Said(NamedTuple):
    """The words of an explanation, before they are joined with where the error stood."""

    kind: str
    meaning: str
    numbers: Iterable[NumberMeaning] = ()
    models: Iterable[ModelMatch] = ()
    changes: Iterable[str] = ()


def message(text: str) -> re.Pattern[str]:
    r"""Compile the pattern of a message, in which a line may break at any space.

    Every repetition in it must have an upper bound, so that no text can make it slow.

    >>> bool(message(f"Expected size {NUMBER} but got").search("Expected size 24\n  but got"))
    True
    """
    return re.compile(text.replace(" ", r"\s{1,9}"))


def word_before(match: re.Match[str]) -> str:
    """Return the word that stands right before the match, with the dots and spaces between them; "" where none does.

    A pattern that began with any word would try every word of a long log.
    """
    before = match.string[max(0, match.start() - _WORD_CHARACTERS) : match.start()]
    word = _LAST_WORD.search(before)
    return word[0] if word else ""


def explained(match: re.Match[str], scene: Scene, said: Said, *, front: str = "") -> ErrorExplanation:
    """Return the record of an explanation; the error is shown in one line, `front` before it, and cut where it is very long."""
    error = " ".join((front + match[0]).split())
    return ErrorExplanation(
        kind=said.kind,
        error=error if len(error) <= _SHOWN_CHARACTERS else f"{error[:_SHOWN_CHARACTERS]} ...",
        module=scene.module,
        meaning=said.meaning,
        numbers=tuple(said.numbers),
        models=tuple(said.models),
        changes=tuple(said.changes),
    )


def meant(value: int | Shape, meaning: str) -> NumberMeaning:
    """Say what a number or a shape is."""
    return NumberMeaning(value=value, meaning=meaning)


def shape_of(text: str) -> Shape:
    """Read the numbers of a shape as a message writes it.

    >>> shape_of("320, 4, 3, 3"), shape_of("2,")
    ((320, 4, 3, 3), (2,))
    """
    return tuple(int(number) for number in re.findall(r"[0-9]{1,12}", text))


def names(models: Iterable[ModelMatch], *, limit: int = 3) -> str:
    """Name a few of the models: "sd14, sd15, ... (13 in the catalog)"."""
    unique = list(dict.fromkeys(model.name for model in models))
    if len(unique) <= limit:
        return ", ".join(unique)
    return f"{', '.join(unique[:limit])}, ... ({len(unique)} in the catalog)"
