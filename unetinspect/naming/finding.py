"""Which modules and tensors a name means, whichever tool wrote it."""

from __future__ import annotations

from unetinspect.errors import UsageError
from unetinspect.naming.all_names import items_of, names_of
from unetinspect.naming.hints import unknown
from unetinspect.naming.spellings import block_number, flat, ip_adapter_number, spellings, without_dots
from unetinspect.record import Trace
from unetinspect.record.checkpoint import Name


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
        # What the lists of the original layout hold, which diffusers has no module for.
        self._inside: dict[str, list[Name]] = {}
        self._by_copy: dict[str, list[Name]] = {}
        for name in self.names:
            self._by_path.setdefault(flat(name.path), []).append(name)
            if name.original:
                self._add(name, name.original)

    def _add(self, name: Name, original: str) -> None:
        self._by_original.setdefault(flat(original), []).append(name)
        self._by_copy.setdefault(original.replace(".", ""), []).append(name)
        parts = original.split(".")
        for count in range(1, len(parts)):
            self._inside.setdefault("_".join(parts[:count]), []).append(name)

    def find(self, text: str) -> tuple[Name, ...]:
        """Return what a name means, as `find_names` does.

        Raises:
            UsageError: Nothing of this UNet is called so.
        """
        typed = text.strip().strip("\"'").strip(".")
        if not typed:
            raise UsageError("the name is empty", hint=f"`unetinspect names {self._trace.model.name}` lists what the UNet has")
        found = self._exact(typed) or self._by_number(typed) or self._in_list(typed) or self._by_copy.get(without_dots(typed) or "")
        if not found:
            raise unknown(self._trace, self.names, text, typed)
        return tuple(found)

    def _exact(self, typed: str) -> list[Name]:
        for spelling in spellings(typed):
            hits = self._by_path.get(flat(spelling)) or self._by_original.get(flat(spelling))
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

    def _in_list(self, typed: str) -> list[Name]:
        return next((self._inside[flat(spelling)] for spelling in spellings(typed) if flat(spelling) in self._inside), [])
