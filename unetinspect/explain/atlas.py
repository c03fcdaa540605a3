"""The atlas of errors that were provoked from diffusers: which of their causes a message has.

`atlas.jsonl` has a row for each message, place and cause; `python -m tests.atlas` writes it. Small models whose sizes are distinct
primes were run with one mistake at a time, so that each number of a message says itself what it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache, partial
from itertools import combinations, takewhile
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from unetinspect.checkpoint.catalog_tensors import having
from unetinspect.explain.answers import Answer, facts, fill, shown, word_of
from unetinspect.explain.recogniser import Recogniser, Scene, of_unets
from unetinspect.record import ErrorExplanation, ModelMatch, NumberMeaning, OtherCause

ATLAS = Path(__file__).with_name("atlas.jsonl")
_MOST_OTHERS, _MOST_WORD = 4, 200
_LARGEST_WIDTH = 1280  # of the blocks of UNets that people have; wider layers are those of transformers
_CLASS_CHARACTERS = 40  # before a message, for the name of a class
_TOKENS = 77  # of CLIP's text encoders
_SMALL = 16  # up to it, and as a power of two, a size says nothing: layers of any model have it
_FEWEST_SHARED = 3  # a third of the names in a line of code
_WORD = re.compile(r"\b(?!self\b)[A-Za-z_]\w{2,}")


class Row(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message that diffusers, or torch below it, was seen to raise, and what caused it.

    Attributes:
        text: The message, each number as #, each word that varies as @.
        numbers: What each number is: "given", "expected", "weight.0" of the module, "sample.batch"; "=1": always 1; "": unknown.
        frames: The frames of diffusers, outermost first: "attention_processor.__call__"; the model's own file is *.
        code: The line of code of the innermost frame.
        module: The path of the innermost module that ran, each index as *.
        cause: What was wrong: "size", "order", "missing", ...
        about: With which input, or config key.
        axis: Along which axis, or how.
        classes: The classes in which it was seen.
        own: Whether diffusers itself says it, and not torch or Python below.
    """

    text: str
    numbers: tuple[str, ...] = ()
    frames: tuple[str, ...] = ()
    code: str = ""
    module: str = ""
    cause: str
    about: str = ""
    axis: str = ""
    classes: tuple[str, ...] = ()
    own: bool = False


class Candidate(NamedTuple):
    """A cause that a message can have, and what speaks for it, the strongest first.

    Attributes:
        row: The row of the atlas.
        answer: What it means.
        values: The numbers of the message by name, and words.
        numbers: The numbers of the message in their order.
        frames: How many of the innermost frames agree.
        line: Whether the innermost line of code names the same things; 1: it names the input.
        named: How many parts of the module's path the lines of code of the traceback call.
        published: Whether the catalog has such a module; 2: and what was given fits another model there.
        holds: Whether the answer asks something of the numbers, which holds; 2: and that decides.
        chance: How many equal numbers of the message would be so by chance.
        order: The place of the answer in its table, which has the commonest causes first.
    """

    row: Row
    answer: Answer
    values: dict[str, Any]
    numbers: list[int]
    frames: int
    line: int
    named: int
    published: int
    holds: int
    chance: int
    order: int

    @property
    def evidence(self) -> tuple[int, ...]:
        """What speaks for it in the traceback, and then in the numbers. A wrong config that builds is rarer than wrong inputs."""
        place, config = (self.frames > 0) + (self.line > 1), self.row.cause == "config" and not self.row.own
        return (place - config, -config, self.line, self.named, self.frames, self.published + self.holds, -self.chance)

    @property
    def cause(self) -> OtherCause:
        """What it means, and what to change."""
        changes = tuple(filter(None, (fill(change, self.values) for change in self.answer.changes)))
        return OtherCause(kind=self.answer.kind, meaning=fill(self.answer.meaning, self.values), changes=changes)

    @property
    def is_common(self) -> bool:
        """Whether it may be named where no traceback leads there: not a rare class or input, no config, no layer of unknown sizes."""
        sizes = _sizes(self.values)
        rare = self.row.cause == "config" or "gligen" in self.row.about or facts().common.isdisjoint(self.row.classes)
        return bool(
            self.row.own or (not rare and (self.published or self.holds or len(sizes) < 2 or max(sizes.values()) <= _LARGEST_WIDTH))
        )

    def speaks_like(self, first: Candidate) -> bool:
        """Whether the text leaves it possible beside the first."""
        if first.frames:
            far = self.row.cause == "config" and not self.row.own and self.frames < first.frames
            return self.line >= first.line and self.frames > 0 and not far
        if first.line:
            return self.line >= first.line and self.line > 1
        return self.published + self.holds >= first.published + first.holds


def recognisers() -> list[Recogniser]:
    """Return what recognises each message of the atlas."""
    rows: dict[str, list[Row]] = {}
    for row in msgspec.json.Decoder(Row).decode_lines(ATLAS.read_bytes()):
        rows.setdefault(row.text, []).append(row)
    known = [Recogniser(word_of(re.escape(text)), pattern_of(text), partial(explain, own)) for text, own in rows.items()]
    by_text = dict(zip(rows, known, strict=True))
    older = [Recogniser(word_of(one.text), one.text, partial(one.explain, by_text)) for one in facts().dialect if one.known in by_text]
    generic = [Recogniser(word_of(one.text), one.text, one.explain) for one in facts().generic]
    return [*known, *older, *generic]


def pattern_of(text: str) -> str:
    r"""Return the regular expression of a message of the atlas, from its first constant word on: a group for each number and each word.

    >>> pattern_of("@ got # channels of @")
    'got ([0-9]{1,12}) channels of (\\S{0,60})'
    """
    escaped = re.sub(r"[^\w\s#@]", lambda sign: re.escape(sign[0]), text.lstrip("@ "))
    if escaped.endswith("@"):
        escaped = escaped[:-1] + r"(\S{0,60})"
    return escaped.replace("#", "([0-9]{1,12})").replace("@", rf"(.{{0,{_MOST_WORD}}}?)")


def explain(rows: Iterable[Row], match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    """Explain a message by the causes that it was seen to have."""
    found = sorted(_candidates(rows, match, scene), key=lambda one: (*one.evidence, -one.order, len(one.values)), reverse=True)
    if not any(one.frames or one.line > 1 for one in found):
        found = [one for one in found if one.is_common]
    if not found:
        return None
    first, cause = found[0], found[0].cause
    decided = _decided_by(first, match, scene)
    if scene.part == "other" and decided != "text":
        return None
    if scene.part == "VAE" and "channels" in match[0]:
        return facts().vae.explain(match, scene)
    if decided == "nothing" or scene.part == "VAE":
        return _undecided(found, match, scene)
    return ErrorExplanation(
        kind=cause.kind,
        error=shown(match),
        module=scene.module,
        decided_by=decided,
        meaning=cause.meaning,
        numbers=tuple(_numbers(first)),
        models=tuple(_models(first)),
        changes=cause.changes,
        others=_others([one for one in found if one.speaks_like(first)], cause.kind),
    )


def _others(candidates: Sequence[Candidate], kind: str) -> tuple[OtherCause, ...]:
    """Return the best candidate of each other kind."""
    kinds = {one.answer.kind: one for one in reversed(candidates) if one.answer.kind != kind}
    return tuple(one.cause for one in candidates if kinds.get(one.answer.kind) is one)[:_MOST_OTHERS]


def _undecided(candidates: Sequence[Candidate], match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    """Say what a message means in any model, and the causes that it has in a UNet."""
    plain = " ".join(match[0].split())
    for answer in facts().generic:
        if (known := re.search(answer.text, plain)) and (explanation := answer.explain(known, scene)):
            if scene.part == "VAE":
                return replace(explanation, meaning=f"{explanation.meaning} The VAE raised this, not the UNet.")
            return replace(explanation, decided_by="nothing", others=() if answer.where else _others(candidates, explanation.kind))
    return None


def _decided_by(first: Candidate, match: re.Match[str], scene: Scene) -> Literal["text", "traceback", "numbers", "nothing"]:
    row = first.row
    before = match.string[max(0, match.start() - _CLASS_CHARACTERS) : match.start()] if row.text.startswith("@") else ""
    named = any(name in before + match[0] for name in row.classes) or any("_" in name and name in row.text for name in row.about.split())
    if named or of_unets(row.text) or (row.own and scene.part == "UNet"):
        return "text"
    if first.frames or first.line or (first.named and first.published):
        return "traceback"
    telling = any(size > _SMALL and size & (size - 1) for size in _sizes(first.values).values())
    known_width = str(first.values.get("given")) in facts().widths
    fits = first.published + first.holds + known_width > 1 or "conv" in _last(row.module)
    return "numbers" if first.answer.sure or (first.published and telling and fits) else "nothing"


def _candidates(rows: Iterable[Row], match: re.Match[str], scene: Scene) -> Iterator[Candidate]:
    for row in rows:
        groups = list(zip(re.findall("[#@]", row.text.lstrip("@ ")), match.groups(), strict=True))
        numbers = [int(group) for sign, group in groups if sign == "#"]
        values = _values(row, numbers)
        if values is None:
            continue
        values |= {
            f"w{place}": word
            for place, word in enumerate(facts().dtypes.get(group, group) for sign, group in groups if sign == "@")
            if word
        }
        for order, answer in enumerate(facts().message):
            known = answer.known(values) if fnmatchcase(f"{row.cause} {row.about} {row.axis}", answer.cause) else None
            if known is not None:
                speaks_for_it = (
                    *_in_traceback(row, scene),
                    _published(row, values),
                    bool(answer.where) + answer.sure,
                    _by_chance(row, numbers),
                )
                yield Candidate(row, answer, known, numbers, *speaks_for_it, order)
                break


def _values(row: Row, numbers: list[int]) -> dict[str, Any] | None:
    """Return the numbers by what they are, or None where they cannot be that."""
    values: dict[str, Any] = {
        "about": row.about,
        "axis": row.axis.replace("<->", " and "),
        "how": facts().how.get(row.axis.partition(" ")[0] if row.own else "", "does not fit what is passed"),
        "module": row.module,
        "classes": " or ".join(row.classes[:2]),
    }
    for role, number in zip(row.numbers, numbers, strict=True):
        for name in filter(None, role.split("|")):
            if (name.startswith("=") and name != f"={number}") or values.setdefault(re.sub(r"\W", "_", name), number) != number:
                return None
    varying = (number for role, number in zip(row.numbers, numbers, strict=True) if not role.startswith("="))
    values |= {f"n{place}": number for place, number in enumerate(varying)}
    unnamed = [number for role, number in zip(row.numbers, numbers, strict=True) if not role]
    if len(unnamed) == 1:
        values["unnamed"] = unnamed[0]
    return None if "given" in values and values["given"] == values.get("expected") else values


def _in_traceback(row: Row, scene: Scene) -> tuple[int, int, int]:
    """Return how many of the innermost frames agree, whether their line of code does, and how much of the module's path is called."""
    pairs = zip(reversed(row.frames), reversed(scene.places), strict=False)
    shared = sum(1 for _ in takewhile(lambda pair: _is_same(*pair, row.classes), pairs))
    names, shown = set(_WORD.findall(row.code)), set(_WORD.findall(scene.code))
    about = row.about.rpartition(".")[2].rstrip("s")
    line = 2 if names and names <= shown else int(about != "sample" and about in {name.rstrip("s") for name in shown})
    if shown and not line and _FEWEST_SHARED * len(names & shown) < len(names):
        shared = 0  # the traceback was cut, or it is another line of a long forward
    return shared, line, sum(f".{name}(" in scene.nearby for name in row.module.split(".") if name != "*")


def _is_same(frame: str, place: str, classes: Iterable[str]) -> bool:
    """Whether a place is a row's frame; "*.forward" is forward in the file of one of the row's classes, as unet_2d_condition is."""
    file, _, function = place.partition(".")
    parts = file.replace("modeling_", "").replace("sparsectrl", "sparse").split("_")
    own = frame == f"*.{function}" and any(all(part in name.lower() for part in parts) for name in classes)
    return frame == place or own


def _by_chance(row: Row, numbers: list[int]) -> int:
    """Count the pairs of equal numbers that a row does not say to be the same."""
    pairs = combinations(zip(row.numbers, numbers, strict=True), 2)
    return sum(number == other and not set(role.split("|")) & set(another.split("|")) - {""} for (role, number), (another, other) in pairs)


def _published(row: Row, values: Mapping[str, Any]) -> int:
    """Count the evidence of the catalog: the module exists with these sizes, and with what was given."""
    sizes = _sizes(values)
    if not row.module or len(sizes) < 2 or not _at(row.module, tuple(sizes.items())):
        return 0
    return 1 + bool(_also_published(row, values))


def _also_published(row: Row, values: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the models in which the module takes what was given here: what the row says is given, or the one number it cannot name."""
    given = values.get("given", values.get("unnamed"))
    return _at(row.module, ((1, given),)) if given is not None and values["weight_1"] != given else {}


def _sizes(values: Mapping[str, Any]) -> dict[int, int]:
    return {int(name[-1]): value for name, value in values.items() if name in ("weight_0", "weight_1")}


def _last(module: str) -> str:
    return module.rpartition("*.")[2]


@cache
def _at(module: str, sizes: tuple[tuple[int, int], ...]) -> dict[str, list[str]]:
    """Return the catalog models that have such a module, in whichever block, with these sizes."""
    return having(f"*.{_last(module)}.weight" if "*." in module else f"{module}.weight", dict(sizes))


def _numbers(candidate: Candidate) -> Iterator[NumberMeaning]:
    """Say what each number of the message is, once."""
    row, said = candidate.row, dict[int, str]()
    words = {
        "given": f"{row.axis} of {row.about} that was given",
        "expected": f"expected {row.axis} of {row.about}",
        "weight.0": f"output features of {_last(row.module)}",
        "weight.1": f"input features of {_last(row.module)}",
        **dict.fromkeys(("weight.2", "weight.3"), "kernel size"),
    }
    for role, number in zip((role.partition("|")[0] for role in row.numbers), candidate.numbers, strict=True):
        if role and not role.startswith("="):
            meaning = " x ".join(words.get(part) or " of ".join(reversed(part.split("."))) for part in role.split("*"))
            tokens = f": {number // _TOKENS} x {_TOKENS} tokens" if "tokens" in role and number % _TOKENS == 0 else ""
            width = facts().widths.get(str(number), "") if role in ("given", "expected") else ""
            said.setdefault(number, meaning + (tokens or (width and f": {width}")))
    yield from (NumberMeaning(value=value, meaning=meaning) for value, meaning in said.items())


def _models(candidate: Candidate) -> Iterator[ModelMatch]:
    """Name the models that have a module of these sizes, and those that have one for what was given."""
    values, module, sizes = candidate.values, candidate.row.module, _sizes(candidate.values)
    if candidate.published:
        for name, paths in _at(module, tuple(sizes.items())).items():
            yield ModelMatch(name=name, role=f"{_last(module)} of {sizes[1]} -> {sizes[0]}", where=tuple(paths))
        for name, paths in _also_published(candidate.row, values).items():
            yield ModelMatch(
                name=name, role=f"{_last(module)} takes {values.get('given', values.get('unnamed'))}, as was given", where=tuple(paths)
            )
    yield from candidate.answer.named_models(values)
