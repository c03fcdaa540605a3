"""`tree`: the module tree as `print(module)` shows it, repeats folded, with the observed shapes; and the same modules as a list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct, structs

from unetinspect.record import Module, Trace
from unetinspect.units import format_bytes, format_count, format_shape, format_si, plural
from unetinspect.views.header import header
from unetinspect.views.table import Column, Table

# Heading, empty lines, what is said below, a hint and the next prompt.
_LINES_AROUND = 7


class _Node(Struct):
    """A module with its children; `name` is its own, or a range of names if `count` equal siblings were folded.

    Nodes with the same `key` differ only in their place in the tree.
    """

    name: str
    module: Module
    children: list[_Node] = []
    count: int = 1
    key: Any = None


class TreeLine(Struct, frozen=True):
    """One line of the tree: the guides and name, and the module (of several folded ones, the first)."""

    label: str
    module: Module
    ran: bool
    count: int = 1
    level: int = 0


def tree_table(
    trace: Trace,
    modules: Sequence[Module] | None = None,
    *,
    depth: int | None = None,
    height: int | None = None,
    fold: bool = True,
    unicode: bool = True,
) -> Table:
    """Show the tree of these modules (None: all), down to `depth` levels below those that are in none of the others.

    Without `depth`, as many levels as fit a screen of `height` lines, but at least one; None is all levels.
    """
    modules = trace.modules if modules is None else modules
    roots = _grow(modules)
    lines = _lines([_fold(root) for root in roots] if fold else roots, unicode=unicode)
    above = header(trace.model, trace.run)
    deepest = max(line.level for line in lines)
    if depth is None and height is not None:
        room = height - len(above) - _LINES_AROUND
        depth = max((level for level in range(1, deepest + 1) if sum(line.level <= level for line in lines) <= room), default=1)
    # Cut only now: siblings that differ below `depth` must not be folded above it.
    lines = [line for line in lines if depth is None or line.level <= depth]
    idle = sum(not line.ran for line in lines)
    below = [f"{plural(idle, 'module')} did not run in this pass"] if idle else []
    if depth is not None and depth < deepest:
        below.append(f"{depth} of {plural(deepest, 'level')} shown: --depth {deepest} shows all")
    return Table(
        columns=(
            Column("module", lambda line: line.label),
            Column("detail", lambda line: line.module.detail, drop=9),
            *_COSTS,
        ),
        rows=lines,
        above=above,
        below=below,
        records=within_depth(modules, depth),
        name="path",
    )


def modules_table(trace: Trace) -> Table:
    """Show every module below the UNet with its whole path, in the order of `named_modules()`."""
    modules = [module for module in trace.modules if module.path]
    return Table(
        columns=(
            Column("module", lambda line: line.label, path=True),
            Column(
                "class", lambda line: f"{line.module.class_name}({line.module.detail})" if line.module.detail else line.module.class_name
            ),
            *_COSTS,
            Column.number("calls", lambda line: line.module.calls),
        ),
        rows=[TreeLine(module.path, module, _is_run(module)) for module in modules],
        records=modules,
    )


def within_depth(modules: Sequence[Module], depth: int | None) -> tuple[Module, ...]:
    """Return the modules at most `depth` levels below those of them that are in none of the others."""
    levels: dict[str, int] = {}
    for module in modules:
        levels[module.path] = levels.get(module.path.rpartition(".")[0], -1) + 1
    return tuple(module for module in modules if depth is None or levels[module.path] <= depth)


def _grow(modules: Sequence[Module]) -> list[_Node]:
    """Return the modules that are in none of the others, with the others in them."""
    roots: list[_Node] = []
    nodes: dict[str, _Node] = {}
    for module in modules:
        parent, _, name = module.path.rpartition(".")
        above = nodes.get(parent)
        nodes[module.path] = _Node(module.path if above is None else name, module)
        (roots if above is None else above.children).append(nodes[module.path])
    return roots


def _fold(node: _Node) -> _Node:
    """Fold numbered siblings that are equal down to the last shape, as `print(module)` folds equal list items."""
    folded: list[_Node] = []
    for child in map(_fold, node.children):
        last = folded[-1] if folded else None
        if last is not None and child.name.isdigit() and last.name[0].isdigit() and last.key == child.key:
            first = last.name.partition("-")[0]
            folded[-1] = _merged(last, child, name=f"{first}-{child.name}")
        else:
            folded.append(child)
    # Without path, step and peak, which grows with the skips before it.
    anywhere = structs.replace(node.module, path="", step=None, activation_bytes=None)
    key = anywhere, [(child.name, child.count, child.key) for child in folded]
    return _Node(node.name, node.module, folded, node.count, key)


def _merged(one: _Node, other: _Node, *, name: str) -> _Node:
    """Return one node for two that are alike; it and its children have the larger peak of both."""
    peaks = [node.module.activation_bytes for node in (one, other) if node.module.activation_bytes is not None]
    children = [_merged(a, b, name=a.name) for a, b in zip(one.children, other.children, strict=True)]
    count = one.count + other.count if name != one.name else one.count
    return _Node(name, structs.replace(one.module, activation_bytes=max(peaks, default=None)), children, count, one.key)


def _lines(roots: Sequence[_Node], *, unicode: bool) -> list[TreeLine]:
    branch, last_branch, bar = ("├─ ", "└─ ", "│  ") if unicode else ("|- ", "`- ", "|  ")
    lines: list[TreeLine] = []

    def add(node: _Node, guides: str, hanging: str, level: int) -> None:
        times = f"{node.count} x " if node.count > 1 else ""
        label = f"{node.name}: {times}{node.module.class_name}" if node.name else node.module.class_name
        lines.append(TreeLine(guides + label, node.module, _ran(node), node.count, level))
        for child in node.children:
            is_last = child is node.children[-1]
            add(child, hanging + (last_branch if is_last else branch), hanging + ("   " if is_last else bar), level + 1)

    for root in roots:
        add(root, "", "", 0)
    return lines


def _ran(node: _Node) -> bool:
    return _is_run(node.module) or any(map(_ran, node.children))


def _is_run(module: Module) -> bool:
    return bool(module.calls) or module.class_name == "ModuleList"


def _shape(line: TreeLine, shape: tuple[int, ...] | None) -> str:
    if not line.ran:
        return "not run"
    return format_shape(shape) if shape is not None else ""


def _each(write: Callable[[int | None], str], value: Callable[[Module], int | None]) -> Callable[[TreeLine], str]:
    """Return a function that writes a cost of a line, with "each" if the line is of several folded modules."""

    def show(line: TreeLine) -> str:
        text = write(value(line.module)) if value(line.module) else ""
        return f"{text} each" if text and line.count > 1 else text

    return show


_COSTS = (
    Column("in", lambda line: _shape(line, line.module.in_shape), drop=4),
    Column("out", lambda line: _shape(line, line.module.out_shape)),
    Column("params", _each(format_count, lambda module: module.params), right=True, drop=2, value=lambda line: line.module.params),
    Column("MACs", _each(format_si, lambda module: module.macs), right=True, drop=5, value=lambda line: line.module.macs),
    Column.number("peak", lambda line: line.module.activation_bytes, format_bytes, drop=6),
)
