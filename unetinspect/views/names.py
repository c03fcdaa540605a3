"""`names`: one module or tensor, and its name in each tool."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from unetinspect.naming import absent, by_rule, items_of, names_of
from unetinspect.record import Trace
from unetinspect.record.checkpoint import Name
from unetinspect.units import format_shape, plural
from unetinspect.views.header import header
from unetinspect.views.table import Column, Table


def names_table(trace: Trace, names: Sequence[Name], *, asked: str | None) -> Table:
    """Show one module or tensor with all its names, several as a table; of a block, its resnets, transformers and samplers.

    `names` are those of `find_names`, or all; `asked` is the typed name, None: nothing was typed.
    """
    shown = _shown(trace, names)
    everything = names if asked is None else names_of(trace)
    if asked is not None and len(shown) == 1:
        return Table(
            columns=(Column("naming", lambda row: row[0], in_heading=True), Column("name", lambda row: row[1])),
            rows=[(naming, text) for naming, text in _rows(shown[0], everything) if text],
            above=header(trace.model),
            below=list(_reasons(trace, shown[0], everything)),
            group=lambda row: row[0],  # a long name is not broken: it is copied
            records=names,
        )
    inside = {name.path: _ip_adapter_inside(name, everything) for name in shown}
    return Table(
        columns=tuple(_columns(shown, inside)),
        rows=shown,
        above=header(trace.model),
        below=list(_below(trace, shown, names, asked)),
        group=_group,
        records=names,
    )


def _shown(trace: Trace, names: Sequence[Name]) -> list[Name]:
    """Return the items among several names, in execution order; all of them where no item is among them."""
    if len(names) == 1:
        return list(names)
    by_path = {name.path: name for name in names if name.kind == "module"}
    return [by_path[path] for path in items_of(trace) if path in by_path] or list(names)


def _columns(shown: Sequence[Name], inside: Mapping[str, str]) -> Iterator[Column]:
    """Yield a column for each naming that has a name for any of them."""
    yield Column("diffusers", lambda name: name.path, path=True)
    if any(name.original for name in shown):
        yield Column("original", lambda name: name.original or "-")
    if any(name.block for name in shown):
        yield Column("block", lambda name: name.block or "-")
    if any(inside.values()):
        yield Column("IP-Adapter", lambda name: inside[name.path] or "-", drop=5)
    yield Column("class", lambda name: name.class_name, drop=8)


def _group(name: Name) -> str:
    """Return the block of a resnet, transformer or sampler: two parts of its path, one for the mid block."""
    first, *rest = name.path.split(".")
    block = [first, rest[0]] if rest and rest[0].isdigit() else [first]
    return ".".join(block) if len(rest) > len(block) - 1 else ""


def _ip_adapter_inside(of: Name, everything: Sequence[Name]) -> str:
    """Write the numbers of the cross-attention layers in a module in an IP-Adapter's keys: "3", "1, 3", "9, 11 .. 27"."""
    inside = [name for name in everything if f"{name.path}.".startswith(f"{of.path}.")]
    listed = [str(number) for number in sorted(name.ip_adapter for name in inside if name.ip_adapter is not None)]
    return ", ".join(listed) if len(listed) <= 2 else f"{listed[0]}, {listed[1]} .. {listed[-1]}"


def _below(trace: Trace, shown: Sequence[Name], names: Sequence[Name], asked: str | None) -> Iterator[str]:
    reasons = absent(trace)
    modules = sum(name.kind == "module" for name in names)
    within = plural(modules, "module") + " and " + plural(len(names) - modules, "tensor")
    what = "in all" if asked is None else f"in {asked}"
    yield f"{within} {what}" + ("; --json and --format csv list all of them" if len(shown) < len(names) else "")
    if asked is None:
        yield f"`unetinspect names {trace.model.name} NAME` lists all names of one"
    for field in ("original", "block", "ip_adapter"):
        if field in reasons and not any(getattr(name, field) is not None for name in shown):
            yield reasons[field]
    if (rule := by_rule(trace)) and any(name.original for name in shown):
        yield rule


def _rows(name: Name, everything: Sequence[Name]) -> Iterator[tuple[str, str | None]]:
    """Yield each naming with its name, or that of the layer of a tensor."""
    holder, _, own = name.path.rpartition(".")
    if name.kind == "module":
        layer: Name | None = name
    else:  # a LoRA leaves biases alone
        layer = next((other for other in everything if other.path == holder), None) if own == "weight" else None
    of = "" if layer is name else " of its layer"
    yield "diffusers", name.path
    yield name.kind, f"{name.class_name} {format_shape(name.shape)}" if name.shape is not None else name.class_name
    yield "original", name.original
    yield "in a checkpoint", name.comfyui
    yield "block", name.block
    if layer is None:
        return
    yield f"kohya-ss LoRA{of}", layer.kohya
    yield f"PEFT LoRA{of}", layer.peft
    yield "processor", layer.processor
    number = layer.ip_adapter
    yield "IP-Adapter", None if number is None else f"{number}.to_k_ip.weight, {number}.to_v_ip.weight"
    inside = [other for other in everything if other.path.startswith(f"{layer.path}.")] if layer is name else []
    modules = sum(other.kind == "module" for other in inside)
    if modules:
        yield "inside", f"{plural(modules, 'module')}, {plural(len(inside) - modules, 'tensor')}"
        if number is None:
            yield "IP-Adapter inside", _ip_adapter_inside(layer, everything)


def _reasons(trace: Trace, name: Name, everything: Sequence[Name]) -> Iterator[str]:
    """Write why a naming has no name for it: no part of this UNet has one, or not this module."""
    reasons = absent(trace)
    if name.original is None:
        yield reasons.get("original", f"no original name: {_why_not(trace, name, everything)}")
    elif name.block is None:
        yield reasons.get("block", "no block number: tools disagree on modules outside input_blocks, middle_block and output_blocks")
    if name.original is not None and (rule := by_rule(trace)):
        yield rule
    if name.kohya is not None:
        yield "kohya-ss suffixes: .lora_down.weight, .lora_up.weight, .alpha"
        yield "PEFT suffixes: .lora_A.weight, .lora_B.weight"
    elif name.kind == "module" and name.peft is None:
        yield reasons.get("peft", "no LoRA key: only Linear and Conv layers have one")


def _why_not(trace: Trace, name: Name, everything: Sequence[Name]) -> str:
    originals = [found.original for found in everything if found.original and found.path.startswith(f"{name.path}.")]
    places = list(dict.fromkeys(".".join(original.split(".")[:2]) for original in originals))
    if places:
        return f"in the original's flat lists it is {places[0]}" + (f" to {places[-1]}" if len(places) > 1 else "")
    module = next((module for module in trace.modules if module.path == name.path), None)
    if module is not None and not module.params:
        return "it has no parameters, so it is in no checkpoint"
    return "the original code has no such layer"
