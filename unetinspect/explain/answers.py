"""The tables written by hand: what a message or a cause means, and what to change."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from unetinspect.catalog import load_catalog
from unetinspect.checkpoint.catalog_tensors import having
from unetinspect.errors import nearest_names
from unetinspect.explain.recogniser import Recogniser, Scene, message
from unetinspect.record import ErrorExplanation, ModelMatch, NumberMeaning
from unetinspect.unets.unknown_keys import explain_key

_SHOWN_CHARACTERS = 300
# Of the line around a match: the error's name, a message that has only words before the match, and what a log or JSON ends it with.
_ERROR_NAME = re.compile(r"\w(?:Error|Exception|Warning)\b[:\s]{0,5}")
_WORDS = re.compile(r"[\w' ]{0,60}")
_REST = re.compile(r"[^\n]{0,300}?(?=\n|$|\"\s*[,}\]]|\\n)")
UNDECIDED = " Nothing in the {} says which model this is."
PASTE = "paste the whole traceback: the lines above the error say which layer it is"


class Answer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a message, or a cause in the atlas, means.

    In `meaning` and `changes`, {name} is a named number or word; {name_is} says whose embedding is so wide, and {name_use} what
    takes so many channels. What stands in [brackets] goes where one of its names is not known.

    Attributes:
        text: The message as a regular expression; a space is any white space.
        cause: Which causes of the atlas it explains: "size encoder_hidden_states *", with * for anything.
        kind: The kind of the explanation.
        meaning: What it means.
        changes: What to change, most likely first.
        needs: Words of which one must stand around the message, if there are any.
        sure: Whether the message itself says that it is about a UNet, or about something made for one.
        general: Whether the answer is the same for any model.
        let: Further numbers, computed from the named ones.
        where: What must hold of the numbers.
        numbers: What named numbers are.
        models: Numbers by which models of the catalog are named: "*.attn2.to_k.weight/1" is the second axis of such a tensor.
        example: Such a message.
    """

    text: str = ""
    cause: str = ""
    kind: str
    meaning: str
    changes: tuple[str, ...]
    needs: tuple[str, ...] = ()
    sure: bool = False
    general: bool = False
    let: dict[str, str] = {}
    where: str = ""
    numbers: dict[str, str] = {}
    models: dict[str, str] = {}
    example: str = ""

    def explain(self, match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
        """Explain a message of another tool, or of diffusers itself."""
        around = scene.nearby + match[0]
        related = self.sure or any(word in around for word in self.needs)
        if not related and (self.needs or (scene.part == "other" and not self.general)):
            return None
        values = self.known({name: int(text) if text.isdigit() else text for name, text in match.groupdict("").items()})
        if values is None:
            return None
        decided = related or scene.part in ("UNet", "VAE")
        undecided = "" if decided or self.general else UNDECIDED.format("traceback" if scene.frames else "text")
        return ErrorExplanation(
            kind=self.kind,
            error=shown(match),
            module=scene.module,
            decided_by="text" if decided else "nothing",
            meaning=fill(self.meaning, values) + undecided,
            numbers=tuple(
                NumberMeaning(value=values[name], meaning=fill(words, values)) for name, words in self.numbers.items() if name in values
            ),
            models=tuple(self.named_models(values)),
            changes=(
                *((PASTE,) if undecided and not scene.frames else ()),
                *_meant_blocks(values),
                *(_meant_keys(values) or (fill(change, values) for change in self.changes)),
            ),
        )

    def named_models(self, values: Mapping[str, Any]) -> Iterator[ModelMatch]:
        """Name the catalog models that have its numbers at an axis of a tensor, as many attention layers, or simply such a tensor."""
        for name, place in self.models.items():
            pattern, _, axis = place.partition("/")
            if place == "attention_layers" and name in values:
                yield from models_with_layers(values[name], f"has {values[name]} attention layers")
            for model, paths in having(pattern, {int(axis): values[name]} if axis else {}).items():
                yield ModelMatch(name=model, role=f"takes {values[name]}" if axis else "has such a layer", where=tuple(paths))

    def known(self, values: dict[str, Any]) -> dict[str, Any] | None:
        """Return the values with those that are computed from them, or None where they do not hold what they must."""
        try:
            if self.where and not compute(self.where, values):
                return None
            return values | {name: compute(formula, values) for name, formula in self.let.items()}
        except (NameError, ZeroDivisionError, TypeError):  # a number is not in the message
            return None


def models_with_layers(count: int, role: str) -> Iterator[ModelMatch]:
    """Name the catalog models with so many attention layers."""
    yield from (ModelMatch(name=name, role=role) for name, one in load_catalog().items() if one.attention_layers == count)


def _meant_blocks(values: Mapping[str, Any]) -> list[str]:
    """Say which blocks may have been meant by one that does not exist."""
    configs = [entry.config for entry in load_catalog().values()]
    blocks = {str(block) for config in configs for way in ("down", "up") for block in config.get(f"{way}_block_types") or ()}
    near = nearest_names(str(values["block"]), sorted(blocks)) if "block" in values else []
    return [f"did you mean {' or '.join(near)}?"] if near else []


def _meant_keys(values: Mapping[str, Any]) -> list[str]:
    """Say what the keys that a class ignores were meant for, if that is known of all: then the class is the right one."""
    with warnings.catch_warnings(action="ignore"):  # of a backslash in the text
        try:
            given = ast.literal_eval(str(values.get("keys", "")))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # no Python, or cut
            return []
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        return []
    entries = [entry for entry in load_catalog().values() if entry.class_name.lower() == str(values.get("class")).lower()]
    own = {key: value for entry in entries for key, value in entry.config.items()}
    explained = [explain_key(key, own, given=given) for key in given]
    if not explained or not all(one.change for one in explained):
        return []
    meant = [f"{', '.join(f'{key}: {json.dumps(value)}' for key, value in one.change.items())} (for {one.key})" for one in explained]
    return [f"in the config, set {'; '.join(meant)}", "`unetinspect check CONFIG` shows which keys matter"]


class Dialect(Struct, frozen=True):
    """A message of another version of torch or Python, or of another device, and how the CPU says the same now.

    Attributes:
        text: The message as a regular expression.
        now: The message that the atlas knows, with the groups of `text` in it: "{}" in their order, "{name}" by name.
    """

    text: str
    now: str

    @property
    def known(self) -> str:
        """The message as the atlas has it, each number as #."""
        return re.sub(r"\{\w*\}|\b[0-9]\b", "#", self.now)

    def explain(self, atlas: Mapping[str, Recogniser], match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
        """Explain the message as the one that the atlas knows."""
        canonical = self.now.format(*match.groups(), **match.groupdict())
        known = message(str(atlas[self.known].pattern)).search(canonical)
        explanation = atlas[self.known].explain(known, scene) if known else None
        return explanation and replace(explanation, error=shown(match))


class Facts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of numbers and words, what messages mean in any model, and the answers by cause."""

    common: frozenset[str]
    widths: dict[str, str]
    channels: dict[str, str]
    how: dict[str, str]
    dtypes: dict[str, str]
    vae: Answer
    dialect: tuple[Dialect, ...]
    generic: tuple[Answer, ...]
    message: tuple[Answer, ...]


@cache
def facts() -> Facts:
    """Return the widths and channels that are known, and the answers by cause."""
    return msgspec.toml.decode(Path(__file__).with_name("causes.toml").read_bytes(), type=Facts)


def recognisers(table: str) -> list[Recogniser]:
    """Return what recognises the messages of a table."""
    answers = msgspec.toml.decode(Path(__file__).with_name(table).read_bytes(), type=dict[str, list[Answer]])["message"]
    return [Recogniser(word_of(answer.text), answer.text, answer.explain) for answer in answers]


def word_of(pattern: str) -> str:
    r"""Return the longest word that a pattern spells out.

    >>> word_of(r"lora key not loaded: (?P<key>\\S{1,200})")
    'loaded'
    """
    if "|" in pattern or ")?" in pattern or "(?i" in pattern:
        pattern = re.sub(r"\((?:[^()]|\([^()]*\))*\)\??|\(\?i\)", " ", pattern)
        if "|" in pattern or "(?i" in pattern:
            return ""
    plain = re.sub(r"\(\?P<\w+>|\\.|\[[^\]]*\]|\{[0-9,]*\}|\w\?", " ", pattern)
    return max(re.findall(r"[A-Za-z_]+", plain), key=len, default="")


def compute(formula: str, values: Mapping[str, Any]) -> Any:
    """Compute a formula of the tables from the numbers of a message, by their names.

    Formulas are this package's own; what is explained gives numbers and words, never a formula.

    >>> compute("size // rows", {"size": 491520, "rows": 640}), compute("abs(a - b) == 1", {"a": 2, "b": 3})
    (768, True)
    """
    return eval(formula, {"__builtins__": {"abs": abs}}, dict(values))  # noqa: S307


def fill(template: str, values: Mapping[str, Any]) -> str:
    """Write values into a template, without the [brackets] in which a name is not known.

    >>> fill("takes text[ {width} wide{width_is}][ of {model}]", {"width": 2816})
    'takes text 2816 wide (SDXL: 1280 + 6 time_ids x 256)'
    """

    def written(name: re.Match[str]) -> str:
        plain, _, what = name[1].rpartition("_")
        table = {"is": facts().widths, "use": facts().channels}.get(what)
        if table is None:
            return str(values[name[1]])
        known = table.get(str(values.get(plain)))
        return f" ({known})" if known else ""

    def optional(segment: re.Match[str]) -> str:
        names = re.findall(r"\{(\w+?)(?:_is|_use)?\}", segment[1])
        return re.sub(r"\{(\w+)\}", written, segment[1]) if all(values.get(name, "") != "" for name in names) else ""

    return re.sub(r"\{(\w+)\}", written, re.sub(r"\[([^\[\]]*\{\w+\}[^\[\]]*)\]", optional, template))


def shown(match: re.Match[str]) -> str:
    """Return the whole message of a match, from the error's name to the end of its line, in one line; cut where it is very long."""
    text, start = match.string, match.start()
    before = text[max(text.rfind("\n", 0, start) + 1, start - _SHOWN_CHARACTERS) : start]
    named = [*_ERROR_NAME.finditer(before)]
    if named or _WORDS.fullmatch(before):
        start -= len(before) - (named[-1].end() if named else 0)
    rest = _REST.match(text, match.end())
    line = " ".join(text[start : rest.end() if rest else match.end()].split())
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS]} ..."
