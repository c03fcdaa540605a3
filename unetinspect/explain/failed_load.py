"""What a text says of a file of weights that does not fit a model: each tensor that it names, as the file and as the model has it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from math import prod
from operator import ne
from typing import NamedTuple

from unetinspect.checkpoint.affixes import LORA_MATRIX
from unetinspect.checkpoint.catalog_tensors import ABSENT, PRESENT, Wanted
from unetinspect.checkpoint.original_layout import diffusers_name
from unetinspect.explain.recogniser import shape_of
from unetinspect.naming.spellings import spellings

_SIZE = r"(?:torch\.Size\(|tensor\([^)]{0,80}?size=)?[\[(]([0-9,\s]{0,80})[\])]{1,2}"
_NAME = r"([A-Za-z0-9_][\w.\-]{0,200})"
# How torch and diffusers write a tensor's shapes in file and model; the last has the model's first.
_COPYING = (
    rf"size mismatch for\s+{_NAME}:\s+copying a param with shape\s+{_SIZE}\s+from checkpoint,\s+the shape in current model is\s+{_SIZE}"
)
_FOUND = rf"- {_NAME}: found shape {_SIZE} in the checkpoint and {_SIZE} in the model"
_HAS = rf"Cannot load {_NAME} because it has shape {_SIZE} in the checkpoint but shape {_SIZE}"
_EXPECTED = rf"because\s+{_NAME}\s+expected\s+shape\s+{_SIZE},?\s+but\s+got\s+{_SIZE}"
# Lists of names, as torch, diffusers and other tools write them.
_ITEM = r"[A-Za-z0-9_]{1,60}(?:\.[\w\-]{1,60}){1,20}"
_LIST = rf"[\s\[({{'\"]{{0,40}}(?:dict_keys[(\['\"]{{1,3}})?((?:(?:{_ITEM}|(?<=[\"'])\w{{1,60}}(?=[\"']))[\s'\",]{{0,12}})++)"
_KEYS = r"(?:[ _]keys?)?(?:\(s\))?(?: (?:in|from|when|not|found)\b[\w ]{0,60}+)?"
_MISSING = rf"(?:[Mm]issing{_KEYS}|keys\s{{1,9}}are\s{{1,9}}missing|newly initialized) ?[:=]{_LIST}"
_UNEXPECTED = rf"(?:[Uu]nexpected{_KEYS} ?[:=]|not used when initializing \w{{1,80}}:?|left over keys ?:|Target modules){_LIST}"
_LINES = r"\n[^\n]{0,80}?(?:size mismatch for|Missing key\(s\)|Unexpected key\(s\)|You may consider)[^\n]*"
_MORE_KEYS = r"\n[ \t]{0,20}(?:\"[\w.\-]{1,200}\",?[ \t]{0,9})++"
_MESSAGES = (
    rf"Error\(s\) in loading state_dict for (?![{{%])[^\n]*+(?:{_LINES}|{_MORE_KEYS})*+",
    rf"size mismatch for {_NAME}: copying a param[^\n]*+(?:{_LINES})*+",
    rf"the shapes did not\s+match:(?:\s{{1,9}}{_FOUND}[^\n]*+)++",
    *(_HAS, _EXPECTED),
    rf"(?:{_MISSING}|{_UNEXPECTED})(?:[\s\S]{{0,160}}?(?:{_MISSING}|{_UNEXPECTED}))*+",
)
# One pattern for all, so that no message is found inside another.
MESSAGE = re.compile("|".join(_MESSAGES))
_CLASS = re.compile(r"state_dict for (\w{1,80})|<class '[\w.\-]{0,200}?(\w{1,80})'>|(?:initializing|Some weights of) ([A-Z]\w{1,80})")
_HEAD_CHARACTERS, _LORA_CHARACTERS = 400, 160
_MOST_TENSORS = 10_000  # more than any two models of the catalog differ in


class Named(NamedTuple):
    """A tensor that the text names.

    Attributes:
        text: Its name in the text.
        name: Its name without the prefixes that tools put before it.
        own: Its name in diffusers; of one in a list of the original layout, that of one of the same kind.
        file: What the text says of it in the file, None: nothing.
        model: What it says of it in the model, None: nothing.
    """

    text: str
    name: str
    own: str
    file: Wanted | None
    model: Wanted | None

    @property
    def shapes(self) -> tuple[Wanted, Wanted] | None:
        """Its shapes in both, where the text says them."""
        return (self.file, self.model) if self.file and self.model and not {ABSENT, PRESENT} & {self.file, self.model} else None

    @property
    def differing(self) -> int:
        """How many axes differ; another number of axes counts as one."""
        file, model = self.shapes or ((), ())
        return sum(map(ne, file, model)) if len(file) == len(model) else 1

    @property
    def storage(self) -> str:
        """How the file stores it: "empty", "packed" (two values of 4 bits in a byte, all in one row), or ""."""
        file, model = ([length for length in shape if length is not None] for shape in self.shapes or ((), ()))
        if file == [0]:
            return "empty"
        in_row = len(file) == 1 or file[1:] == [1]
        return "packed" if len(model) > 1 and in_row and 2 * prod(file) == prod(model) else ""

    @property
    def matrix(self) -> str:
        """Which matrix of a LoRA it is, "" if it is none."""
        found = LORA_MATRIX.search(self.text[-_LORA_CHARACTERS:])
        return found[1] if found else ""

    @property
    def layer(self) -> Named:
        """The weight of the layer that a LoRA's matrix is for: the first matrix has its inputs, the second its outputs."""
        file, model = self.file if self.file == PRESENT else None, None
        if self.shapes and "lokr" not in self.matrix and min(map(len, self.shapes)) > 1:
            is_first = self.matrix.endswith(("down", "A", "_b"))
            file, model = ((None, shape[1]) if is_first else (shape[0], None) for shape in self.shapes)
        return self._replace(name=f"{self.name}.weight", own=f"{self.own}.weight", file=file, model=model)


def read_class(match: re.Match[str]) -> str:
    """Return the class of the model that is loaded, "" where the text does not name it."""
    head = match.string[max(0, match.start() - _HEAD_CHARACTERS) : match.start()] + match[0][:_HEAD_CHARACTERS]
    return next(("".join(found) for found in reversed(_CLASS.findall(head))), "")


def read_tensors(text: str) -> list[Named]:
    """Return the tensors that a message names.

    >>> [(one.name, one.file, one.model) for one in read_tensors("Missing keys: ['unet.conv_in.bias']")]
    [('conv_in.bias', (-1,), (None,))]
    """
    told = list(dict.fromkeys(islice(_read(text), _MOST_TENSORS)))
    plain = {name: name if name[0].isdigit() else min(spellings(name.replace("base_layer.", "")), key=len) for name, *_ in told}
    return [Named(name, plain[name], diffusers_name(plain[name]), file, model) for name, file, model in told]


def _read(text: str) -> Iterator[tuple[str, Wanted, Wanted]]:
    for pattern in (_COPYING, _FOUND, _HAS, _EXPECTED):
        for name, *shapes in re.findall(pattern, text):
            first, second = map(shape_of, shapes)
            yield (name, second, first) if pattern is _EXPECTED else (name, first, second)
    for pattern, sides in ((_MISSING, (ABSENT, PRESENT)), (_UNEXPECTED, (PRESENT, ABSENT))):
        yield from ((name, *sides) for keys in re.findall(pattern, text) for name in re.findall(r"[\w.\-]+", keys))
