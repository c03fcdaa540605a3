"""The words of a prompt and the positions of their tokens, found by decoding: for every tokenizer, whatever its pieces are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import Any

from msgspec import Struct

from unetinspect.errors import UsageError, nearest_names
from unetinspect.units import plural

# What decoders write for the bytes of a character that is not yet complete.
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class Prompt(Struct, frozen=True):
    """A prompt as the text encoder received it.

    Attributes:
        text: The prompt, as its tokens are decoded.
        spans: For each token position, (start, end) of its characters in `text`; (0, 0) for special tokens.
    """

    text: str
    spans: tuple[tuple[int, int], ...]

    @property
    def words(self) -> list[str]:
        """Its words, each once, in lower case."""
        return list(dict.fromkeys(re.findall(r"\w+", self.text.lower())))

    def find(self, word: str) -> tuple[int, ...]:
        """Return the positions of the tokens of all occurrences of a word or phrase; empty: there is none.

        >>> Prompt("a zebra", ((0, 0), (0, 1), (2, 5), (5, 7), (0, 0))).find("Zebra")
        (2, 3)
        """
        parts = re.findall(r"\w+|[^\w\s]", word)  # decoders put blanks where the user has none: "don 't"
        if not parts:
            return ()
        pattern = r"(?<!\w)" * parts[0].isalnum() + r"\s*".join(map(re.escape, parts)) + r"(?!\w)" * parts[-1].isalnum()
        found = [match.span() for match in re.finditer(pattern, self.text, re.IGNORECASE)]
        touches = (any(start < last and first < end for first, last in found) for start, end in self.spans)
        return tuple(position for position, touched in enumerate(touches) if touched)


def read_prompt(tokenizer: Any, text: str, *, length: int | None = None) -> Prompt:
    """Read a prompt before a pipeline runs, to give `maps` the positions of a word: `read_prompt(pipe.tokenizer, text).find("zebra")`.

    Args:
        tokenizer: The pipeline's, from transformers.
        text: The prompt.
        length: The tokens to which the pipeline pads it; None: the tokenizer's own `model_max_length`.
    """
    ids = tokenizer(text, padding="max_length", max_length=length or tokenizer.model_max_length, truncation=True).input_ids
    return _read_prompt(tokenizer, ids)


def read_prompts(tokenizer: Any, input_ids: Any) -> tuple[Prompt, ...]:
    """Find which characters each token stands for, by decoding ever more tokens of a prompt.

    Args:
        tokenizer: A tokenizer of transformers, or an object with its `decode` and `all_special_ids`.
        input_ids: (prompt, token), a tensor or lists.
    """
    rows: list[list[int]] = input_ids.tolist() if hasattr(input_ids, "tolist") else input_ids
    return tuple(_read_prompt(tokenizer, row) for row in rows)


def _read_prompt(tokenizer: Any, ids: Sequence[int]) -> Prompt:
    special = set(tokenizer.all_special_ids)
    known: list[int] = []
    text, spans = "", list[tuple[int, int]]()
    for token in ids:
        if token in special:
            spans.append((0, 0))
            continue
        known.append(token)
        longer = tokenizer.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        same = takewhile(lambda pair: pair[0] == pair[1], zip(text.rstrip(_INCOMPLETE), longer, strict=False))
        start = sum(1 for _ in same)
        spans.append((start, len(longer.rstrip(_INCOMPLETE)) + longer.endswith(_INCOMPLETE)))
        text = longer
    return Prompt(text, tuple(spans))


def positions_of(prompts: Sequence[Prompt], tokens: str | int | Iterable[str | int], *, prompt: int | None = None) -> tuple[int, ...]:
    """Return token positions: those given, and those of every occurrence of the words and phrases given.

    Args:
        prompts: The prompts that were captured.
        tokens: A word or phrase, a position, or several of them.
        prompt: Which of the prompts; None: all, in which a word must have the same positions.

    Raises:
        UsageError: A word is in none of the prompts, or its positions differ between them; there is no such prompt.
    """
    searched = choose_prompt(prompts, prompt)
    several = [tokens] if isinstance(tokens, str | int) else tokens
    return tuple(dict.fromkeys(position for one in several for position in ([one] if isinstance(one, int) else _find(searched, one))))


def choose_prompt(prompts: Sequence[Prompt], prompt: int | None) -> Sequence[Prompt]:
    """Return one of the prompts; None: all.

    Raises:
        UsageError: There is no such prompt.
    """
    if prompt is not None and prompt not in range(len(prompts)):
        raise UsageError(f"there is no prompt {prompt}", hint=f"the capture has {plural(len(prompts), 'prompt')}, counted from 0")
    return prompts if prompt is None else [prompts[prompt]]


def _find(prompts: Sequence[Prompt], word: str) -> Iterator[int]:
    found = dict.fromkeys(positions for prompt in prompts if (positions := prompt.find(word)))
    if not prompts:
        raise UsageError(f"the capture has no prompt in which to find {word!r}", hint="give token positions")
    if not found:
        known = dict.fromkeys(known for prompt in prompts for known in prompt.words)
        listed = dict.fromkeys([*nearest_names(word, known), *known])
        raise UsageError(f"no prompt contains the word {word!r}", hint=f"its words: {', '.join(listed)}")
    if len(found) > 1:
        listed = dict.fromkeys(map(str, found))
        raise UsageError(
            f"{word!r} has different token positions in different prompts", hint=f"choose one with prompt=0, or give {' or '.join(listed)}"
        )
    return iter(next(iter(found)))
