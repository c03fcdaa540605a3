"""The texts that diffusers' source raises where a user of a UNet can meet them, read with `ast`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from tests.atlas.bases import TABLES
from unetinspect.explain.atlas import Row

_OTHER_CLASSES = re.compile(r"(?!StableDiffusion)\w+LoraLoaderMixin")
_ABOUT_A_UNET = re.compile(
    r"unet|prompt_embeds|pooled|image|mask|height|width|latent|frame|adapter|controlnet|control_|guess|"
    r"motion|generators|noise_level|class_labels|strength|guidance|cross_attention|channels|time_ids|shape|negative_",
)
_IGNORED = re.compile(
    r"ignor|not work|will not|won't|no effect|not supported|not expected|not (?:be )?used|is deprecated|cannot|not initialized"
    r"|keys (?:found )?in the model"
)
_PROCESSORS = re.compile(
    r"set_\w*processors?|set_attention_slice|set_\w*xformers|set_use_\w+|set_attention_backend|\w*fuse_\w*projections|\w*forward_chunking"
)
_BUILDERS = re.compile(r"_?get_(?!timestep_embedding)\w+")
_COUNT = re.compile(
    r"\blen\(|\.shape\[[^:\]]+\]|\.size\(\w|\.ndim\b|\.dim\(\)|_size$|(?:sliceable_head_dim|context_length|_add_embed_dim)$"
    r"|^(?:height|width|count|size|dim|batch_size|time_embed_dim|num_(?:frames|layers|channels_\w+)|total_\w+)$"
    r"|config\.(?:in_channels|latent_channels|num_train_timesteps|num_control_type)$"
)


class _Place(NamedTuple):
    """Where in a file a statement stands."""

    file: str
    owner: ast.ClassDef | None = None
    function: ast.FunctionDef | None = None
    test: ast.expr | None = None


class _Text(NamedTuple):
    """A message as `Row` has it: its text and the expression of each '#'."""

    text: str
    numbers: tuple[str, ...] = ()

    def __add__(self, other: tuple[object, ...]) -> _Text:
        """Append another text."""
        assert isinstance(other, _Text)
        return _Text(self.text + other.text, self.numbers + other.numbers)


def raised_rows() -> list[Row]:
    """List every text that the installed diffusers raises, asserts or warns with where a user of a UNet can meet it."""
    spec = find_spec("diffusers")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    rows: dict[tuple[str, ...], Row] = {}
    for prefix, patterns in TABLES["files"].items():
        files = {path for pattern in patterns.split() for path in root.glob(pattern)}
        for path in sorted(files):
            if prefix == "pipeline" and any(fnmatch(path.name, name) for name in TABLES["no_unet"].split()):
                continue
            for row in _rows_of(path, prefix):
                # Pipelines are copies of each other: a text is one row, whichever of them says it.
                key = (row.text,) if prefix == "pipeline" else (row.text, *row.frames)
                known = rows.get(key, row)
                about = " ".join(sorted({*known.about.split(), *row.about.split()}))
                rows[key] = replace(known, about=about, classes=tuple(sorted({*known.classes, *row.classes})))
    return list(rows.values())


def _rows_of(path: Path, prefix: str) -> Iterator[Row]:
    for place, expression in _messages(ast.parse(path.read_text(encoding="utf-8")), _Place(path.stem)):
        text = _text(expression, place, before=expression.lineno)
        shown = " ".join(text.text.split())
        if place.owner is not None and _OTHER_CLASSES.fullmatch(place.owner.name):
            continue
        if not re.search("[A-Za-z]", shown) or (prefix == "pipeline" and not _ABOUT_A_UNET.search(shown)):
            continue
        yield Row(
            text=shown,
            numbers=text.numbers,
            frames=(f"{place.file}.{place.function.name if place.function else '<module>'}",),
            cause="raises",
            about=" ".join(_about(shown, place)),
            axis=_stage(place, prefix),
            classes=(place.owner.name,) if place.owner else (),
        )


def _messages(node: ast.AST, place: _Place) -> Iterator[tuple[_Place, ast.expr]]:
    """Walk a file: yield the expression of each message, and where it is raised."""
    match node:
        case ast.ClassDef():
            place = _Place(place.file, node)
        case ast.FunctionDef():
            place = place._replace(function=node, test=None)
        case ast.If(test=test):
            place = place._replace(test=test)
        case ast.Raise(exc=ast.Call(args=[first, *_])):
            yield place, first
        case ast.Assert(test=test, msg=ast.expr() as message):
            yield place._replace(test=test), message
        case (
            ast.Call(func=ast.Attribute(value=ast.Name(id="logger"), attr="warning" | "warning_once"), args=[first, *_])
            | ast.Call(func=ast.Name(id="deprecate"), args=[_, _, first, *_])
        ) if _IGNORED.search(_text(first, place, before=first.lineno).text):
            yield place, first
    for child in ast.iter_child_nodes(node):
        yield from _messages(child, place)


def _text(node: ast.expr, place: _Place, *, before: int) -> _Text:
    """Return the text that an expression makes, as far as the source tells."""
    match node:
        case ast.Constant(value=str(value)):
            return _Text(value.replace("#", "@"))  # in an address; '#' is for numbers that vary
        case ast.JoinedStr(values=values):
            return sum((_text(value, place, before=before) for value in values), _Text(""))
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return _text(left, place, before=before) + _text(right, place, before=before)
        case ast.BinOp(op=ast.Mod(), left=ast.Constant(value=str(value)), right=right):
            fields = right.elts if isinstance(right, ast.Tuple) else [right]
            return _filled(re.split(r"%[sdr]", value), fields)
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(value)), attr="format"), args=args):
            return _filled(re.split(r"\{[^{}]*\}", value), args)
        case ast.Name(id=name) if place.function is not None:
            return _assigned(name, place, before=before) or _field(node)
    return _field(node.value if isinstance(node, ast.FormattedValue) else node)


def _field(value: ast.expr) -> _Text:
    source = ast.unparse(value)
    return _Text("#", (source,)) if _COUNT.search(source) else _Text("@")


def _filled(parts: list[str], fields: list[ast.expr]) -> _Text:
    text = _Text(parts[0])
    for index, part in enumerate(parts[1:]):
        text = text + (_field(fields[index]) if index < len(fields) else _Text("@")) + _Text(part)
    return text


def _assigned(name: str, place: _Place, *, before: int) -> _Text | None:
    """Return the text that a name was bound to before a line, with what was appended to it since."""
    found: _Text | None = None
    assert place.function is not None
    statements = (node for node in ast.walk(place.function) if isinstance(node, ast.Assign | ast.AugAssign) and node.lineno < before)
    for statement in sorted(statements, key=lambda node: node.lineno):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        if not any(isinstance(target, ast.Name) and target.id == name for target in targets):
            continue
        # A name that is bound to itself in another form would never end: only lines above count.
        text = _text(statement.value, place, before=statement.lineno)
        found = text if isinstance(statement, ast.Assign) or found is None else found + text
    return found


def _about(text: str, place: _Place) -> list[str]:
    """Return the config keys and arguments that the text or the condition around it names."""
    words = set(re.findall(r"[A-Za-z_]\w*", text))
    if place.test is not None:
        words.update(re.findall(r"[A-Za-z_]\w*", ast.unparse(place.test)))
    functions = [place.function] if place.function else []
    if place.owner:
        functions += [node for node in place.owner.body if isinstance(node, ast.FunctionDef) and node.name in {"__init__", "forward"}]
    known = {argument.arg for function in functions for argument in ast.walk(function.args) if isinstance(argument, ast.arg)}
    return sorted(words & known - {"self", "cls"})


def _stage(place: _Place, prefix: str) -> str:
    """Return when a user meets the text: as the model is built, called, loaded, or as a pipeline is."""
    name = place.function.name if place.function else ""
    if prefix != "models":
        return prefix
    if _PROCESSORS.fullmatch(name) or (place.owner and "Processor" in place.owner.name and name in {"__init__", "__new__"}):
        return "processors"
    if name.startswith(("from_", "load_", "save_")):
        return "load"
    building = _called_from_init(place.owner) if place.owner else set()
    if name in building or (place.owner is None and _BUILDERS.fullmatch(name)):
        return "config"
    return "forward"


def _called_from_init(owner: ast.ClassDef) -> set[str]:
    """Return __init__ and the methods of the class that it calls, also through each other."""
    methods = {node.name: node for node in owner.body if isinstance(node, ast.FunctionDef)}
    reached: set[str] = set()
    waiting = ["__init__"]
    while waiting:
        name = waiting.pop()
        if name in reached or name not in methods:
            continue
        reached.add(name)
        waiting += [node.attr for node in ast.walk(methods[name]) if isinstance(node, ast.Attribute)]
    return reached
