"""Which modules and tensors a name means, whichever tool wrote it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from unetinspect.errors import UsageError, nearest_names
from unetinspect.naming.all_names import absent, items_of, names_of
from unetinspect.naming.spellings import block_number, elsewhere, ip_adapter_number, spellings
from unetinspect.record import Trace
from unetinspect.record.names import Name


def find_names(trace: Trace, text: str) -> tuple[Name, ...]:
    """Return what a name means: by any naming, with or without the prefixes and endings that tools put around it.

    A block's number, a list or a block gives everything inside it.

    Raises:
        UsageError: Nothing of this UNet is called so; the hint says what is.
    """
    return NameIndex(trace).find(text)


class NameIndex:
    """All names of one UNet, to look up many.

    Attributes:
        names: What is looked through.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self.names = names_of(trace)
        self._items = items_of(trace)
        self._by_path: dict[str, list[Name]] = {}
        self._by_original: dict[str, list[Name]] = {}
        for name in self.names:
            self._by_path.setdefault(_flat(name.path), []).append(name)
            if name.original:
                self._by_original.setdefault(_flat(name.original), []).append(name)

    def find(self, text: str) -> tuple[Name, ...]:
        """Return what a name means, as `find_names` does.

        Raises:
            UsageError: Nothing of this UNet is called so.
        """
        typed = text.strip().strip("\"'").strip(".")
        if not typed:
            raise UsageError("the name is empty", hint=f"`unetinspect names {self._trace.model.name}` lists what the UNet has")
        found = self._exact(typed) or self._by_number(typed) or self._inside(typed)
        if not found:
            raise self._unknown(text, typed)
        return tuple(found)

    def _exact(self, typed: str) -> list[Name]:
        for spelling in spellings(typed):
            hits = self._by_path.get(_flat(spelling)) or self._by_original.get(_flat(spelling))
            if hits:
                return self._with_content(hits)
        return []

    def _with_content(self, hits: list[Name]) -> list[Name]:
        """Add what lies inside a block or list: it stands for its resnets and transformers, not for itself alone."""
        outer = tuple(f"{hit.path}." for hit in hits if hit.kind == "module")
        if outer and any(item.startswith(outer) for item in self._items):
            return [name for name in self.names if name in hits or name.path.startswith(outer)]
        return hits

    def _by_number(self, typed: str) -> list[Name]:
        block, number = block_number(typed), ip_adapter_number(typed)
        if block:
            return [name for name in self.names if name.block == block]
        return [name for name in self.names if name.ip_adapter == number] if number is not None else []

    def _inside(self, typed: str) -> list[Name]:
        """Find what lies in a list of the original layout, which diffusers has no module for."""
        for spelling in spellings(typed):
            hits = [name for name in self.names if name.original and _lies_in(name.original, spelling)]
            if hits:
                return hits
        return []

    def _unknown(self, text: str, typed: str) -> UsageError:
        model = self._trace.model.name
        other = elsewhere(typed)
        if other:
            return UsageError(f"{text!r} is of {other}, not of the UNet", hint=f"`unetinspect names {model}` lists what it has")
        block, number = block_number(typed), ip_adapter_number(typed)
        if block or typed.upper() == "BASE":
            return self._no_block(text, block)
        if number is not None:
            return self._no_ip_adapter(text, number)
        return UsageError(f"{model} has nothing called {text!r}", hint=self._nearest(typed))

    def _no_block(self, text: str, block: str | None) -> UsageError:
        model = self._trace.model.name
        if block is None:
            return UsageError(f"{text!r} is the text encoder's share of a merge, no block of the UNet", hint=self._blocks())
        return UsageError(f"{model} has no block {block}", hint=self._blocks())

    def _blocks(self) -> str:
        known = dict.fromkeys(name.block for name in self.names if name.block)
        ways = [[block for block in known if str(block).startswith(way)] for way in ("IN", "M", "OUT")]
        listed = ", ".join(str(way[0]) if len(way) == 1 else f"{way[0]} to {way[-1]}" for way in ways if way)
        return f"its blocks are {listed}" if listed else absent(self._trace).get("block", "it has none")

    def _no_ip_adapter(self, text: str, number: int) -> UsageError:
        numbers = [name.ip_adapter for name in self.names if name.ip_adapter is not None]
        model = self._trace.model.name
        if not numbers:
            return UsageError(f"{model} has no layer for the key {text!r}", hint=absent(self._trace)["ip_adapter"])
        why = "; even numbers are self-attention, which an IP-Adapter leaves alone" if number % 2 == 0 and number < max(numbers) else ""
        return UsageError(
            f"no layer of {model} has the number {number} in an IP-Adapter's keys{why}",
            hint=f"its cross-attention layers have {numbers[0]}, {numbers[0] + 2}, ... {numbers[-1]}",
        )

    def _nearest(self, typed: str) -> str:
        """Say what there is where the name seems to point: what its longest known part holds, or else what looks like it."""
        if "original" in (reasons := absent(self._trace)) and _looks_original(typed):
            return reasons["original"]
        for spelling in spellings(typed):
            parts = spelling.split(".")
            for count in range(len(parts) - 1, 0, -1):
                outer = ".".join(parts[:count])
                held = self._held(outer)
                if held:
                    return f"{outer} holds {_listed(held)}" if len(held) > 1 else f"{outer} holds {outer}.{held[0]} alone"
        shortest = min(spellings(typed), key=len)
        style = _like(shortest)
        known = dict.fromkeys(style(name) for name in self.names if name.kind == "module" and style(name))
        close = nearest_names(shortest, map(str, known))
        return f"did you mean {', '.join(close)}?" if close else f"`unetinspect names {self._trace.model.name}` lists what it has"

    def _held(self, outer: str) -> list[str]:
        """Return what stands directly in a module or list: its children's names or numbers."""
        for names in ((name.path for name in self.names), (name.original for name in self.names)):
            inner = [name[len(outer) + 1 :] for name in names if name and _lies_in(name, outer)]
            if inner:
                return list(dict.fromkeys(rest.partition(".")[0] for rest in inner))
        return []


def _flat(name: str) -> str:
    """Write a name as kohya-ss does, without dots: every spelling of it is the same then."""
    return name.replace(".", "_")


def _lies_in(name: str, outer: str) -> bool:
    return name[len(outer) : len(outer) + 1] == "." and _flat(name).startswith(_flat(outer))


def _looks_original(typed: str) -> bool:
    flat = _flat(min(spellings(typed), key=len))
    return flat.startswith(("input_blocks", "output_blocks", "middle_block", "time_embed_", "label_emb", "out_"))


def _like(typed: str) -> Callable[[Name], str | None]:
    """Return how to write each name so that it can be compared with what was typed."""
    flat = "." not in typed
    original = _looks_original(typed)

    def style(name: Name) -> str | None:
        chosen = name.original if original else name.path
        return _flat(chosen) if flat and chosen else chosen

    return style


def _listed(held: Iterable[str]) -> str:
    """Write the children of a module; numbers in a row as "0 to 11"."""
    listed = list(held)
    numbers = [int(child) for child in listed if child.isdigit()]
    if len(numbers) == len(listed) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(listed)
