"""The header of a GGUF file: names, shapes and types of its tensors, as ComfyUI-GGUF and stable-diffusion.cpp write UNets.

The format: "GGUF", a version, how many tensors and how many values of metadata there are; then each of these, and each tensor's name,
sides (the last axis first), type and place. Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from math import prod
from typing import Any

from unetinspect.checkpoint.safetensors_header import DAMAGED, MAX_HEADER_BYTES, Header, TensorSpec
from unetinspect.errors import SourceError

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
# The types of tensors by their numbers. Those in blocks have their bits per value in `BLOCK_BITS`.
_TYPES = {
    **dict(enumerate(("F32", "F16", "Q4_0", "Q4_1"))),
    **dict(enumerate(("Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K"), 6)),
    **dict(enumerate(("IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS"), 16)),
    **dict(enumerate(("I8", "I16", "I32", "I64", "F64", "IQ1_M", "BF16"), 24)),
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
    41: "Q1_0",
}
_NUMBERS = dict(enumerate("BbHhIif?", 0)) | dict(enumerate("Qqd", 10))
_STRING, _ARRAY = 8, 9
_ORIGINAL_SHAPE = "comfy.gguf.orig_shape."  # of a tensor whose rows ComfyUI-GGUF has made as long as a block


def parse_gguf(raw: bytes, *, what: str, file_bytes: int) -> Header:
    """Parse the first bytes of a GGUF file; its size must be known, since its last tensor ends there.

    Raises:
        SourceError: It is damaged, of another version, or its header is too long.
    """
    try:
        return _parse(raw, what, file_bytes)
    except (struct.error, UnicodeDecodeError, KeyError, ValueError) as error:
        is_cut = isinstance(error, struct.error) and len(raw) >= MAX_HEADER_BYTES
        why = f"damaged, or longer than {MAX_HEADER_BYTES:,} bytes" if is_cut else "damaged"
        raise SourceError(f"the GGUF header of {what} is {why}", hint=DAMAGED) from None


def _parse(raw: bytes, what: str, file_bytes: int) -> Header:
    reader = _Reader(raw, len(MAGIC))
    version = reader.number("I")
    if version not in _VERSIONS:
        raise SourceError(f"{what} is a GGUF file of version {version}: versions 2 and 3 are read", hint=DAMAGED)
    tensor_count, value_count = reader.number("Q"), reader.number("Q")
    values = {}
    for _ in range(value_count):
        key = reader.text()
        values[key] = reader.value(reader.number("I"))
    tensors: dict[str, TensorSpec] = {}
    ends = [0]
    for _ in range(tensor_count):
        name = reader.text()
        sides = reader.numbers("Q", reader.number("I"))
        kind = reader.number("I")
        tensor = TensorSpec(tuple(reversed(sides)), _TYPES.get(kind, f"GGML type {kind}"))
        ends.append(reader.number("Q") + (tensor.bytes or 0))
        shape = values.get(_ORIGINAL_SHAPE + name)
        if isinstance(shape, tuple) and prod(shape) == tensor.elements:
            tensor = TensorSpec(shape, tensor.dtype)
        if name in tensors or max(sides, default=0) > 1 << 40:
            raise ValueError(name)
        tensors[name] = tensor
    if reader.position + max(ends) > file_bytes:
        raise SourceError(
            f"{what} is cut off: its tensors end at byte {reader.position + max(ends)} or later, the file at {file_bytes}", hint=DAMAGED
        )
    texts = {key: str(value) for key, value in values.items() if not key.startswith(_ORIGINAL_SHAPE) and not isinstance(value, tuple)}
    return Header(name=what, tensors=tensors, metadata=texts, bytes=sum(tensor.bytes or 0 for tensor in tensors.values()))


class _Reader:
    """Reads numbers and texts one after another.

    Attributes:
        position: Where the next one begins.
    """

    def __init__(self, raw: bytes, position: int) -> None:
        self._raw = raw
        self.position = position

    def numbers(self, code: str, count: int) -> tuple[Any, ...]:
        form = f"<{count}{code}"
        found = struct.unpack_from(form, self._raw, self.position)
        self.position += struct.calcsize(form)
        return found

    def number(self, code: str) -> Any:
        return self.numbers(code, 1)[0]

    def text(self) -> str:
        return str(self.numbers("s", self.number("Q"))[0], "utf-8")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.number(_NUMBERS[kind])
        kind, count = self.number("I"), self.number("Q")
        return tuple(self.text() for _ in range(count)) if kind == _STRING else self.numbers(_NUMBERS[kind], count)
