"""Finds the errors in a text, and explains each."""

from __future__ import annotations

import re
from typing import NamedTuple

from unetinspect.errors import UsageError
from unetinspect.explain import arguments, blocks, broadcast, channels, checkpoint, concat, config, heads, linear, placement
from unetinspect.explain.recogniser import Recogniser, Scene
from unetinspect.explain.text import Frame, find_frames, has_frames, last_home, plain_text
from unetinspect.record import ErrorExplanation, ErrorExplanations

# Where two stand at one place of the text, the earlier in this list explains it.
_RECOGNISERS: tuple[Recogniser, ...] = (
    *checkpoint.RECOGNISERS,
    *linear.RECOGNISERS,
    *concat.RECOGNISERS,
    *broadcast.RECOGNISERS,
    *channels.RECOGNISERS,
    *arguments.RECOGNISERS,
    *heads.RECOGNISERS,
    *config.RECOGNISERS,
    *blocks.RECOGNISERS,
    *placement.RECOGNISERS,
)
_MOST_ERRORS = 20
_NEARBY_CHARACTERS = 8000
_KNOWN = (
    "it knows size mismatches in skips, cross-attention width, input channels, missing added_cond_kwargs or class_labels, "
    "head counts, configs, dtypes, and checkpoints that do not fit: paste the line that starts with the error's name, or "
    "the whole traceback on stdin"
)


class _Found(NamedTuple):
    """A message in the text, and the recogniser that knows it: its place in the list."""

    match: re.Match[str]
    rank: int


def explain_error(text: str) -> ErrorExplanations:
    """Explain every error of a text that is known: a message, a whole traceback, or a log with several.

    Raises:
        UsageError: The text is empty, or holds no error that is known.
    """
    plain = plain_text(text)
    if not plain.strip():
        raise UsageError("there is no text to explain", hint='`unetinspect explain-error "MESSAGE"`, or a traceback on stdin')
    found = _find(plain)
    frames = find_frames(plain) if found else []
    explanations: list[ErrorExplanation] = []
    for place, one in enumerate(found):
        before = found[place + 1].match.end() if place + 1 < len(found) else 0
        after = found[place - 1].match.start() if place else len(plain)
        explanation = _RECOGNISERS[one.rank].explain(one.match, _scene(plain, frames, one.match, (before, after)))
        if explanation is not None:
            explanations.append(explanation)
        if len(explanations) == _MOST_ERRORS:
            break
    if not explanations:
        raise UsageError("the text holds no error of a UNet that is known here", hint=_KNOWN)
    return ErrorExplanations(explanations=tuple(explanations))


def _find(text: str) -> list[_Found]:
    """Find each message, the last in the text first; one that is there often counts where it stands last."""
    last: dict[tuple[int, str], _Found] = {}
    for rank, recogniser in enumerate(_RECOGNISERS):
        for match in recogniser.pattern.finditer(text):
            last[rank, " ".join(match[0].split())] = _Found(match, rank)
    kept: list[_Found] = []
    for one in sorted(last.values(), key=lambda found: (-found.match.start(), found.rank)):
        if not kept or one.match.end() <= kept[-1].match.start():
            kept.append(one)
        elif one.rank < kept[-1].rank:
            kept[-1] = one
    return kept


def _scene(text: str, frames: list[Frame], match: re.Match[str], limits: tuple[int, int]) -> Scene:
    """Return the traceback of a message: that before it, or, where a tool prints the message first, that behind it."""
    start, end = max(limits[0], match.start() - _NEARBY_CHARACTERS), match.start()
    if not has_frames(frames, start, end):
        behind = min(limits[1], match.end() + _NEARBY_CHARACTERS)
        start, end = (match.end(), behind) if has_frames(frames, match.end(), behind) else (start, end)
    return Scene(text[start:end], last_home(frames, start, end))
