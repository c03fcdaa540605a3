"""Bytes -> text -> a mapping or a value. Data only: nothing that is read is executed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from unetinspect.errors import ConfigError, SourceError, UsageError

MAX_BYTES = 8 * 1024 * 1024

_MAX_NODES = 1_000_000
_MAX_DEPTH = 100
# Python writes at most 4,300 digits, but YAML reads longer numbers in hexadecimal.
_MAX_BITS = 4096
_A_CONFIG = "give the config.json of a UNet: {...} in JSON, or the same in YAML"


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
    """Parse a JSON or YAML mapping; `is_yaml` None: JSON where the text starts with a bracket, else YAML.

    Raises:
        ConfigError: It is neither, or not a mapping.

    >>> parse_mapping('{"sample_size": 64}', what="stdin")
    {'sample_size': 64}
    >>> parse_mapping("sample_size: 64", what="stdin")
    {'sample_size': 64}
    """
    if not text.strip():
        raise ConfigError(f"{what} is empty", hint=_A_CONFIG)
    if is_yaml is None:
        is_yaml = not text.lstrip().startswith(("{", "["))
    try:
        value = _load_yaml(text, what) if is_yaml else _load_json(text, what)
    except RecursionError:
        raise ConfigError(f"{what} is nested too deeply to be a config", hint=_A_CONFIG) from None
    if not isinstance(value, dict):
        names = {list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number", type(None): "nothing"}
        kind = names.get(type(value), f"a {type(value).__name__}")
        raise ConfigError(f"{what} contains {kind}; a config is a mapping of keys to values", hint=_A_CONFIG)
    return {str(key): inner for key, inner in value.items()}


def parse_value(text: str, *, what: str, hint: str) -> Any:
    """Parse one value that was typed as JSON or YAML: 3, true, null, [320, 640], text.

    Raises:
        UsageError: It cannot be read, or is nested too deeply.
    """
    try:
        with suppress(ConfigError):  # first, because YAML reads 1e-05 as a string
            return _load_json(text, what)
        return _load_yaml(text, what)
    except (ConfigError, RecursionError):
        raise UsageError(f"{what}: the value cannot be read", hint=hint) from None


def _load_json(text: str, what: str) -> Any:
    import json  # here, as yaml below: a catalog name needs neither

    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{what} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}",
            hint="fix it there; JSON allows no comments and no trailing comma (YAML does: name the file .yaml)",
        ) from None
    except ValueError as error:  # an integer of thousands of digits
        raise ConfigError(f"{what} contains a number that cannot be read: {_first_clause(error)}", hint=_A_CONFIG) from None


def _load_yaml(text: str, what: str) -> Any:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _refuse_deep(yaml.parse(text, Loader=loader))
        value = loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{what} is not valid YAML: {error.problem or error.context}{where}", hint=_A_CONFIG) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{what} is not valid YAML: {_first_clause(error)}", hint=_A_CONFIG) from None
    _refuse_bomb(value, what)
    return value


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
