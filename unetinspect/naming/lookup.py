"""Which modules and tensors a name means, whichever tool wrote it; and of a name that means nothing, what there is instead."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence

from unetinspect.checkpoint.original_layout import is_original
from unetinspect.errors import UsageError, nearest_names
from unetinspect.naming.all_names import absent, is_sdxl, items_of, names_of
from unetinspect.naming.spellings import block_number, elsewhere, flat, ip_adapter_number, spellings, without_dots
from unetinspect.record import Trace
from unetinspect.record.checkpoint import Name


def find_names(trace: Trace, text: str) -> tuple[Name, ...]:
    """Return what a name means: by any naming, with or without the prefixes and endings that tools put around it.

    A block's number, a list or a block gives everything inside it.

    Raises:
        UsageError: Nothing of this UNet has that name; the hint says what has.
    """
    return NameIndex(trace).find(text)


class NameIndex:
    """All names of one UNet, to look up many.

    Attributes:
        names: All of them.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self.names = names_of(trace)
        self._items = items_of(trace)
        self._by_path: dict[str, list[Name]] = {}
        self._by_original: dict[str, list[Name]] = {}
        # What is in the lists of the original layout, for which diffusers has no module.
        self._inside: dict[str, list[Name]] = {}
        self._by_copy: dict[str, list[Name]] = {}
        for name in self.names:
            self._by_path.setdefault(flat(name.path), []).append(name)
            if name.original:
                self._by_original.setdefault(flat(name.original), []).append(name)
                self._by_copy.setdefault(name.original.replace(".", ""), []).append(name)
                for outer in _outer(name.original):
                    self._inside.setdefault(flat(outer), []).append(name)

    def find(self, text: str) -> tuple[Name, ...]:
        """Return what a name means, as `find_names` does.

        Raises:
            UsageError: Nothing of this UNet has that name.
        """
        typed = text.strip().strip("\"'").strip(".")
        if not typed:
            raise UsageError("the name is empty", hint=_list_all(self._trace))
        found = self._exact(typed) or self._by_number(typed) or self._in_list(typed) or self._by_copy.get(without_dots(typed) or "")
        if not found:
            raise _unknown(self._trace, self.names, text, typed)
        return tuple(found)

    def _exact(self, typed: str) -> list[Name]:
        for spelling in spellings(typed):
            hits = self._by_path.get(flat(spelling)) or self._by_original.get(flat(spelling))
            if hits:
                return self._with_content(hits)
        return []

    def _with_content(self, hits: list[Name]) -> list[Name]:
        """Add what is in a block or list, which means its resnets and transformers, not itself alone."""
        outer = tuple(f"{hit.path}." for hit in hits if hit.kind == "module")
        if outer and any(item.startswith(outer) for item in self._items):
            return [name for name in self.names if name in hits or name.path.startswith(outer)]
        return hits

    def _by_number(self, typed: str) -> list[Name]:
        block, number = block_number(typed), ip_adapter_number(typed)
        if block:
            return [name for name in self.names if name.block == block]
        return [name for name in self.names if name.ip_adapter == number] if number is not None else []

    def _in_list(self, typed: str) -> list[Name]:
        return next((self._inside[flat(spelling)] for spelling in spellings(typed) if flat(spelling) in self._inside), [])


def _outer(name: str) -> Iterator[str]:
    """Yield the modules and lists that something is in, the outermost first."""
    yield from (name[: dot.start()] for dot in re.finditer(r"\.", name))


def _list_all(trace: Trace) -> str:
    return f"`unetinspect names {trace.model.name}` lists all names"


def _unknown(trace: Trace, names: Sequence[Name], text: str, typed: str) -> UsageError:
    """Say that nothing of a UNet has a name, typed as `text`, and what there is instead."""
    model = trace.model.name
    if other := elsewhere(typed):
        return UsageError(f"{text!r} is part of {other}, not of the UNet", hint=_list_all(trace))
    block, number = block_number(typed), ip_adapter_number(typed)
    if typed.upper() == "BASE":
        return UsageError(f"{text!r} is the text encoder in a block merge, not a block of the UNet", hint=_known_blocks(trace, names))
    if block:
        return UsageError(f"{model} has no block {block}", hint=_known_blocks(trace, names))
    if number is not None:
        return _no_ip_adapter(trace, names, text, number)
    return UsageError(f"{model} has nothing called {text!r}", hint=_nearest(trace, names, typed))


def _known_blocks(trace: Trace, names: Sequence[Name]) -> str:
    known = list(dict.fromkeys(name.block for name in names if name.block))
    ways = [[block for block in known if block.startswith(way)] for way in ("IN", "M", "OUT")]
    listed = ", ".join(way[0] if len(way) == 1 else f"{way[0]} to {way[-1]}" for way in ways if way)
    return f"its blocks are {listed}" if listed else absent(trace).get("block", "it has none")


def _no_ip_adapter(trace: Trace, names: Sequence[Name], text: str, number: int) -> UsageError:
    numbers = [name.ip_adapter for name in names if name.ip_adapter is not None]
    if not numbers:
        return UsageError(f"{trace.model.name} has no layer for the key {text!r}", hint=absent(trace)["ip_adapter"])
    why = " (even numbers are self-attention, which an IP-Adapter does not change)" if number % 2 == 0 and number < max(numbers) else ""
    return UsageError(
        f"{trace.model.name} has no layer with the IP-Adapter number {number}{why}",
        hint=f"its cross-attention layers have the numbers {numbers[0]}, {numbers[0] + 2}, ... {numbers[-1]}",
    )


def _nearest(trace: Trace, names: Sequence[Name], typed: str) -> str:
    """Say what there is where the name seems to point: what its longest known part contains, or else what looks like it."""
    shortest = min(spellings(typed), key=len)
    original, is_copy, reasons = is_original(shortest), typed.startswith("model_ema."), absent(trace)
    if "original" in reasons and (is_copy or original):
        return reasons["original"]
    if is_copy:
        return f"no original name of {trace.model.name} matches; keys of an EMA copy are original names without their dots"
    if content := _content_of_known_part(names, typed):
        # A LoRA of kohya-ss for SDXL has original names, one for SD 1.x or 2.x those of diffusers.
        other = typed.startswith("lora_unet_") and "kohya" not in reasons and original != is_sdxl(trace)
        return content + (f"; is it a key of a LoRA for {'SD 1.x or 2.x' if is_sdxl(trace) else 'SDXL'}?" if other else "")
    write: Callable[[str], str] = str if "." in shortest else flat
    chosen = (name.original if original else name.path for name in names if name.kind == "module")
    close = nearest_names(shortest, list(dict.fromkeys(write(name) for name in chosen if name)))
    return f"did you mean {', '.join(close)}?" if close else _list_all(trace)


def _content_of_known_part(names: Sequence[Name], typed: str) -> str | None:
    """Say what is in the longest part of a name that the UNet has, whether it has dots or underscores."""
    children: dict[str, dict[str, None]] = {}
    for name in (*(name.path for name in names), *(name.original for name in names if name.original)):
        for outer in _outer(name):
            children.setdefault(outer, {})[name[len(outer) + 1 :].partition(".")[0]] = None
    words = {child for inside in children.values() for child in inside if not child.isdigit()}
    outers = {flat(outer): outer for outer in children}
    for spelling in map(flat, spellings(typed)):
        for end in reversed([found.start() for found in re.finditer("_", spelling)]):
            if spelling[:end] in outers:
                outer, rest = outers[spelling[:end]], f"{spelling[end + 1 :]}_"
                missing = max((word for word in words if rest.startswith(f"{word}_")), key=len, default="")
                return _in_words(outer, list(children[outer]), missing)
    return None


def _in_words(outer: str, inside: Collection[str], missing: str) -> str:
    numbers = [int(child) for child in inside if child.isdigit()]
    if len(inside) == 1:
        return f"{outer} contains only {outer}.{next(iter(inside))}"
    if len(numbers) == len(inside) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{outer} contains {numbers[0]} to {numbers[-1]}"
    return f"{outer} contains {', '.join(inside)}{f', but no {missing}' if missing else ''}"
