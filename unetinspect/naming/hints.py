"""What to say of a name that nothing in a UNet has: why, and what there is in its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from unetinspect.errors import UsageError, nearest_names
from unetinspect.naming.all_names import absent, is_sdxl
from unetinspect.naming.spellings import block_number, elsewhere, flat, ip_adapter_number, spellings
from unetinspect.record import Trace
from unetinspect.record.checkpoint import Name


def unknown(trace: Trace, names: Sequence[Name], text: str, typed: str) -> UsageError:
    """Say of a text, and of what was taken from it as a name, that none of the names of a UNet is meant by it."""
    return _Unknown(trace, names).error(text, typed)


class _Unknown:
    """A UNet and its names, to say what is near to a text."""

    def __init__(self, trace: Trace, names: Sequence[Name]) -> None:
        self._trace = trace
        self._names = names

    def error(self, text: str, typed: str) -> UsageError:
        """Return what to raise."""
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
        known = dict.fromkeys(name.block for name in self._names if name.block)
        ways = [[block for block in known if str(block).startswith(way)] for way in ("IN", "M", "OUT")]
        listed = ", ".join(str(way[0]) if len(way) == 1 else f"{way[0]} to {way[-1]}" for way in ways if way)
        return f"its blocks are {listed}" if listed else absent(self._trace).get("block", "it has none")

    def _no_ip_adapter(self, text: str, number: int) -> UsageError:
        numbers = [name.ip_adapter for name in self._names if name.ip_adapter is not None]
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
        copy = typed.startswith("model_ema.")
        if "original" in (reasons := absent(self._trace)) and (copy or _looks_original(typed)):
            return reasons["original"]
        if copy:
            model = self._trace.model.name
            return f"an EMA copy's keys have lost their dots: behind model_ema.diffusion_model no original name of {model} reads so"
        holding = self._holding(typed)
        if holding:
            return holding + self._question(typed)
        shortest = min(spellings(typed), key=len)
        style = _like(shortest)
        known = dict.fromkeys(style(name) for name in self._names if name.kind == "module" and style(name))
        close = nearest_names(shortest, map(str, known))
        return f"did you mean {', '.join(close)}?" if close else f"`unetinspect names {self._trace.model.name}` lists what it has"

    def _holding(self, typed: str) -> str | None:
        """Say what stands in the longest part of a name that the UNet has, whether it has dots or underscores."""
        known = self._held()
        words = {child for held in known.values() for child in held if not child.isdigit()}
        outers = {flat(outer): outer for outer in known}
        for spelling in map(flat, spellings(typed)):
            for end in reversed([found.start() for found in re.finditer("_", spelling)]):
                if spelling[:end] in outers:
                    outer, rest = outers[spelling[:end]], f"{spelling[end + 1 :]}_"
                    asked = [word for word in words if rest.startswith(f"{word}_")]
                    return _in_words(outer, list(known[outer]), max(asked, key=len, default=""))
        return None

    def _held(self) -> dict[str, dict[str, None]]:
        """Return what stands directly in each module and list: its children's names or numbers, in order."""
        held: dict[str, dict[str, None]] = {}
        for names in ((name.path for name in self._names), (name.original for name in self._names)):
            for parts in (name.split(".") for name in names if name):
                for count in range(1, len(parts)):
                    held.setdefault(".".join(parts[:count]), {})[parts[count]] = None
        return held

    def _question(self, typed: str) -> str:
        """Ask whether a key of kohya-ss is one for another UNet: those for SDXL have the original layout, others have diffusers'."""
        if not typed.startswith("lora_unet_") or "kohya" in absent(self._trace) or _looks_original(typed) == is_sdxl(self._trace):
            return ""
        return f"; is it a key of a LoRA for {'SD 1.x or 2.x' if is_sdxl(self._trace) else 'SDXL'}?"


def _in_words(outer: str, held: Sequence[str], missing: str) -> str:
    if len(held) == 1:
        return f"{outer} holds {outer}.{held[0]} alone"
    return f"{outer} holds {_listed(held)}{f', and no {missing}' if missing else ''}"


def _looks_original(typed: str) -> bool:
    shortest = flat(min(spellings(typed), key=len))
    return shortest.startswith(("input_blocks", "output_blocks", "middle_block", "time_embed_", "label_emb", "out_"))


def _like(typed: str) -> Callable[[Name], str | None]:
    """Return how to write each name so that it can be compared with what was typed."""
    dotless = "." not in typed
    original = _looks_original(typed)

    def style(name: Name) -> str | None:
        chosen = name.original if original else name.path
        return flat(chosen) if dotless and chosen else chosen

    return style


def _listed(held: Sequence[str]) -> str:
    """Write the children of a module; numbers in a row as "0 to 11"."""
    numbers = [int(child) for child in held if child.isdigit()]
    if len(numbers) == len(held) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(held)
