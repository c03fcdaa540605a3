"""Bytes -> text -> a mapping or a value. Data only: nothing that is read is executed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from unetinspect.errors import ConfigError, SourceError, UsageError

MAX_BYTES = 8 * 1024 * 1024

_MAX_NODES = 1_000_000
_MAX_DEPTH = 100
# Python writes at most 4,300 digits, but YAML reads longer numbers in hexadecimal.
_MAX_BITS = 4096
_A_CONFIG = "give the config.json of a UNet: {...} in JSON, or the same in YAML"
_PYTHON_DICT = re.compile(r"(?:\w+\.)*(?:\w*[Dd]ict)\((.*)\)", re.DOTALL)
# What a console has around it: the line that was typed, and IPython's number of the answer.
_PROMPT = re.compile(r"^(?:(?:>>>|\.\.\.|In \[\d+\]:)(?: .*)?(?:\n|\Z)|Out\[\d+\]: ?)", re.MULTILINE)
_PYTHON_MODULE = re.compile(r"\w+\(\n\s*\(\w+\): \w+\(")
# As on the command line of a training script: --image_size 64 --class_cond True
_FLAG = re.compile(r"--([A-Za-z]\w*)[ =]+(\"[^\"]*\"|'[^']*'|[^\s\"']+)")


def decode(raw: bytes, *, what: str) -> str:
    """Decode UTF-8 of at most `MAX_BYTES`; `what` names it in errors.

    Raises:
        SourceError: It is bigger, or is not UTF-8.
    """
    refuse_big(len(raw), what=what)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{what} is not UTF-8 text: byte {error.start} is 0x{raw[error.start]:02x}",
            hint="save it as UTF-8 (PowerShell's `>` writes UTF-16), or give the config.json of a UNet",
        ) from None


def read_file(path: Path, *, what: str = "") -> str:
    """Read and decode a file of at most `MAX_BYTES`."""
    try:
        with path.open("rb") as stream:
            return decode(stream.read(MAX_BYTES + 1), what=what or str(path))
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or type(error).__name__}", hint="check that you may read it") from None


def refuse_big(size: int | None, *, what: str) -> None:
    """Refuse more than `MAX_BYTES`; None: the size is unknown."""
    if size is not None and size > MAX_BYTES:
        raise SourceError(f"{what} is bigger than {MAX_BYTES // 1024**2} MB, too big for a config", hint=_A_CONFIG)


def parse_mapping(text: str, *, what: str, is_yaml: bool | None = None) -> dict[str, Any]:
    """Parse a mapping in JSON, in YAML or as Python prints it; `is_yaml` None: JSON where the text starts with a bracket, else YAML.

    Raises:
        ConfigError: It is none of these, or not a mapping.

    >>> parse_mapping('{"sample_size": 64}', what="stdin")
    {'sample_size': 64}
    >>> parse_mapping("sample_size: 64", what="stdin")
    {'sample_size': 64}
    >>> parse_mapping("FrozenDict([('sample_size', 64), ('dropout', None)])", what="stdin")
    {'sample_size': 64, 'dropout': None}
    """
    if not text.strip():
        raise ConfigError(f"{what} is empty", hint=_A_CONFIG)
    if text.lstrip().startswith((">>> ", "In [", "Out[")):
        text = _PROMPT.sub("", text)
    if _PYTHON_MODULE.match(text.lstrip()):
        raise ConfigError(f"{what} is what print(unet) prints: its modules, not its config", hint="save what print(unet.config) prints")
    if is_yaml is None:
        is_yaml = not text.lstrip().startswith(("{", "["))
    try:
        value = _load(text, what, is_yaml=is_yaml)
    except RecursionError:
        raise ConfigError(f"{what} is nested too deeply to be a config", hint=_A_CONFIG) from None
    if isinstance(value, str) and len(flags := _FLAG.findall(value)) > 1:
        value = {key: parse_value(given.strip("\"'"), what=what, hint=_A_CONFIG) for key, given in flags}
    if not isinstance(value, dict):
        names = {list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number", type(None): "nothing"}
        kind = names.get(type(value), f"a {type(value).__name__}")
        raise ConfigError(f"{what} contains {kind}; a config is a mapping of keys to values", hint=_A_CONFIG)
    return {str(key): inner for key, inner in value.items()}


def key_lines(text: str) -> dict[str, int]:
    r"""Return the line of each key in a mapping in JSON or YAML, counted from 1; of a key at several levels, the outermost.

    >>> key_lines("sample_size: 64\nunet: {act_fn: silu,\n  sample_size: 32}")
    {'sample_size': 1, 'unet': 2, 'act_fn': 2}
    """
    import yaml

    found: dict[str, int] = {}
    try:
        level = [_loader()(text.replace("\t", " ")).get_single_node()]  # YAML refuses tabs, which JSON is indented with
    except yaml.YAMLError:
        return found
    while level:
        pairs = [pair for node in level if isinstance(node, yaml.MappingNode) for pair in node.value]
        for key, _ in pairs:
            found.setdefault(str(key.value), key.start_mark.line + 1)
        level = [value for _, value in pairs]
    return found


def parse_value(text: str, *, what: str, hint: str) -> Any:
    """Parse one value that was typed as JSON or YAML: 3, true, null, [320, 640], text.

    Raises:
        UsageError: It cannot be read, or is nested too deeply.
    """
    try:
        with suppress(ConfigError):  # first: what is both is the same, and this is faster
            return _load_json(text, what)
        return _load_yaml(text, what)
    except (ConfigError, RecursionError):
        raise UsageError(f"{what}: the value cannot be read", hint=hint) from None


def _load(text: str, what: str, *, is_yaml: bool) -> Any:
    wrapped = _PYTHON_DICT.fullmatch(text.strip())
    if wrapped is not None:
        return _load_python(wrapped[1], what)
    if text.lstrip().startswith("{"):
        try:
            return _load_json(text, what)
        except ConfigError:
            with suppress(ConfigError):
                return _load_python(text, what)
            if not is_yaml:
                raise
    return _load_yaml(text, what) if is_yaml else _load_json(text, what)


def _load_python(text: str, what: str) -> Any:
    """Read a dict, or its items, as Python prints them; nothing is executed."""
    import ast

    try:
        value = _json_types(dict(ast.literal_eval(text.strip())))
    except (ValueError, TypeError, SyntaxError, MemoryError):
        raise ConfigError(
            f"{what} is not a dict of plain values, as print(unet.config) prints it",
            hint="the values must be strings, numbers, lists, True, False or None, none of them left out",
        ) from None
    _refuse_bomb(value, what)
    return value


def _json_types(value: Any) -> Any:
    """Return a value with lists for tuples; raises ValueError where JSON has nothing like it."""
    if isinstance(value, dict):
        return {key: _json_types(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_json_types(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError


def _load_json(text: str, what: str) -> Any:
    import json  # here, as yaml below: a catalog name needs neither

    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        hint = "fix it there; JSON allows no comments and no trailing commas: delete them"
        if error.msg.startswith("Expecting ',' delimiter"):  # it is reported where the next token starts
            line = text[: error.pos].rstrip().count("\n") + 1
            hint = f"a comma may be missing at the end of line {line}"
        raise ConfigError(f"{what} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}", hint=hint) from None
    except ValueError as error:  # an integer of thousands of digits
        raise ConfigError(f"{what} contains a number that cannot be read: {_first_clause(error)}", hint=_A_CONFIG) from None


def _load_yaml(text: str, what: str) -> Any:
    import yaml

    loader = _loader()
    try:
        _refuse_deep(yaml.parse(text, Loader=loader))
        value = loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where, hint = (f" at line {mark.line + 1}, column {mark.column + 1}", "fix it there") if mark else ("", _A_CONFIG)
        raise ConfigError(f"{what} is not valid YAML: {error.problem or error.context}{where}", hint=hint) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{what} is not valid YAML: {_first_clause(error)}", hint=_A_CONFIG) from None
    _refuse_bomb(value, what)
    return value


@cache
def _loader() -> Any:
    """Make a safe loader that reads 1e-05 as a number, as YAML 1.2 and JSON do; PyYAML follows YAML 1.1."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        pass

    number = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)[eE][-+]?[0-9]+")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader


def _refuse_deep(events: Iterator[Any]) -> None:
    # libyaml's composer recurses in C: a hundred thousand brackets would crash the process.
    depth = 0
    for event in events:
        name = type(event).__name__
        depth += name.endswith(("SequenceStartEvent", "MappingStartEvent")) - name.endswith(("SequenceEndEvent", "MappingEndEvent"))
        if depth > _MAX_DEPTH:
            raise RecursionError


def _refuse_bomb(value: Any, what: str) -> None:
    # YAML's aliases turn a short text into a value that is endless when written out.
    pending, seen = [value], 0
    while pending:
        seen += 1
        inner = pending.pop()
        if isinstance(inner, dict):
            pending.extend(inner.values())
        elif isinstance(inner, list | tuple | set):
            pending.extend(inner)
        elif isinstance(inner, int) and inner.bit_length() > _MAX_BITS:  # JSON's own are refused as they are read
            raise ConfigError(f"{what} contains a number of more than a thousand digits", hint=_A_CONFIG)
        if seen + len(pending) > _MAX_NODES:
            raise ConfigError(f"{what} contains aliases that expand to a million values", hint="write them out without `&` and `*`")


def _first_clause(error: Exception) -> str:
    return " ".join(str(error).split(";")[0].split())
