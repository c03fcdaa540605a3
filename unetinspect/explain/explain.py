"""Finds the errors in a text, and explains each."""

from __future__ import annotations

import re
from functools import cache
from operator import attrgetter
from typing import NamedTuple

from msgspec.structs import replace

from unetinspect.catalog import load_catalog
from unetinspect.errors import UsageError
from unetinspect.explain import answers, atlas, weights
from unetinspect.explain.recogniser import Recogniser, Scene, message
from unetinspect.explain.text import Frame, find_frames, plain_text
from unetinspect.record import ErrorExplanation, ErrorExplanations

_MOST_ERRORS = 20
_NEARBY_CHARACTERS = 8000
_CODE_CHARACTERS = 300
# Before a message that stands in a line of code which a traceback shows.
_CODE = re.compile(r"\b(?:raise|assert)\b|\bf[\"']")
_HINT = (
    "paste the line that starts with the error's name, or the whole traceback on stdin; known are the errors of diffusers' UNets, "
    "ControlNets and adapters, and of checkpoints and LoRAs that do not fit"
)


class _Found(NamedTuple):
    """A message in the text, and the place in the list of the recogniser that knows it."""

    match: re.Match[str]
    rank: int


@cache
def _recognisers() -> tuple[Recogniser, ...]:
    """List what recognises messages: where two know the same one, the earlier is asked first."""
    return (*weights.RECOGNISERS, *answers.recognisers("tools.toml"), *answers.recognisers("diffusers.toml"), *atlas.recognisers())


def explain_error(text: str) -> ErrorExplanations:
    """Explain every error of a text that is known: a message, a whole traceback, or a log with several.

    MODEL in a command to type is the catalog model whose hub ID the text has, if it has one.

    Raises:
        UsageError: The text is empty, or no error of a UNet is known in it.
    """
    plain = plain_text(text)
    if not plain.strip():
        raise UsageError("there is no text to explain", hint='`unetinspect explain-error "MESSAGE"`, or a traceback on stdin')
    places = _find(plain)
    frames = find_frames(plain) if places else []
    explanations: list[ErrorExplanation] = []
    for place, matches in reversed(list(enumerate(places))):
        before = max(one.match.end() for one in places[place - 1]) if place else 0
        after = places[place + 1][0].match.start() if place + 1 < len(places) else len(plain)
        tried = (
            _recognisers()[rank].explain(match, _scene(plain, frames, match, (before, after)))
            for match, rank in sorted(matches, key=attrgetter("rank"))
        )
        explanations += [explanation for explanation in tried if explanation is not None][:1]
        if len(explanations) == _MOST_ERRORS:
            break
    if not explanations:
        raise UsageError("no known UNet error found", hint=_HINT)
    places_on_the_hub = ((place.id.lower(), entry.name) for entry in load_catalog().values() for place in entry.hub)
    model = next((name for place, name in places_on_the_hub if place in plain.lower()), "MODEL")
    named = (replace(one, changes=tuple(change.replace("MODEL", model) for change in one.changes)) for one in explanations)
    return ErrorExplanations(explanations=tuple(named))


def _find(text: str) -> list[list[_Found]]:
    """Find the messages, those that overlap together; one that is there often counts where it stands last."""
    last: dict[tuple[int, str], _Found] = {}
    for rank, recogniser in enumerate(_recognisers()):
        if recogniser.word not in text:
            continue
        pattern = message(recogniser.pattern) if isinstance(recogniser.pattern, str) else recogniser.pattern
        for match in pattern.finditer(text):
            if _CODE.search(text, max(text.rfind("\n", 0, match.start()), match.start() - _CODE_CHARACTERS, 0), match.start()):
                continue
            last[rank, " ".join(match[0].split())] = _Found(match, rank)
    places: list[list[_Found]] = []
    end = 0
    for found in sorted(last.values(), key=lambda found: found.match.start()):
        if not places or found.match.start() >= end:
            places.append([])
        places[-1].append(found)
        end = max(end, found.match.end())
    return places


def _scene(text: str, frames: list[Frame], match: re.Match[str], limits: tuple[int, int]) -> Scene:
    """Return the traceback of a message: that before it, or, where a tool prints the message first, that behind it.

    Without one, a line of code may still stand on either side of the message.
    """
    spans = (
        (max(limits[0], match.start() - _NEARBY_CHARACTERS), match.start()),
        (match.end(), min(limits[1], match.end() + _NEARBY_CHARACTERS)),
    )
    for start, end in spans:
        own = tuple(frame for frame in frames if start <= frame.start < end)
        if own:
            last = next((frame for frame in reversed(own) if frame.home is not None), own[-1])
            after = next((frame.start for frame in own if frame.start > last.start), end)
            return Scene(text[start:end], own, text[last.end : min(after, last.end + _CODE_CHARACTERS)])
    before, behind = (text[start:end] for start, end in spans)
    return Scene(before, code=f"{before[-_CODE_CHARACTERS:]}\n{behind[:_CODE_CHARACTERS]}")
