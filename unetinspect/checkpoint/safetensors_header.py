"""The header of a safetensors file: names, shapes and dtypes of its tensors. Of weights, only the alphas of LoRAs are read.

The format: 8 bytes, little-endian, say how long the header is; then comes the header, a JSON object of
`name: {"dtype", "shape", "data_offsets": [begin, end]}` and `__metadata__`, a mapping of texts; then the tensors without a gap.
Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from math import isfinite, prod
from typing import BinaryIO, NamedTuple

import msgspec
from msgspec import Struct

from unetinspect.errors import SourceError
from unetinspect.record import Shape

PREFIX_BYTES = 8
# The limit of the hub's own client; the header of a Stable Diffusion checkpoint with all its parts has 0.3 MB.
MAX_HEADER_BYTES = 25_000_000

# GGUF's types, in blocks of 32 to 256 values with scales of their own.
BLOCK_BITS = {
    **dict.fromkeys(("Q4_0", "Q4_K", "IQ4_NL", "NVFP4"), 4.5),
    **dict.fromkeys(("Q3_K", "IQ3_S"), 3.4375),
    **dict.fromkeys(("IQ2_XXS", "TQ2_0"), 2.0625),
    **dict.fromkeys(("IQ4_XS", "MXFP4"), 4.25),
    **dict.fromkeys(("Q5_0", "Q5_K"), 5.5),
    "Q8_K": 9.125,
    "Q8_1": 10.0,
    "Q8_0": 8.5,
    "Q6_K": 6.5625,
    "Q5_1": 6.0,
    "Q4_1": 5.0,
    "Q2_K": 2.625,
    "Q1_0": 1.125,
    "IQ3_XXS": 3.0625,
    "IQ2_S": 2.5625,
    "IQ2_XS": 2.3125,
    "IQ1_M": 1.75,
    "IQ1_S": 1.5625,
    "TQ1_0": 1.6875,
}
_BITS = {
    **BLOCK_BITS,
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
# A LoRA's alpha is one number for each layer; how it is packed, by its dtype.
_PACKED = {"F64": "<d", "F32": "<f", "F16": "<e", "I64": "<q", "I32": "<i", "BF16": "<f"}
_MAX_SIDE = 1 << 40
DAMAGED = "download it again, and compare its size with that on its page"


class TensorSpec(NamedTuple):
    """One tensor of a checkpoint: its shape, and its dtype as the format writes it ("F16", "BF16", "Q4_K")."""

    shape: Shape
    dtype: str

    @property
    def elements(self) -> int:
        """The number of its values."""
        return prod(self.shape)

    @property
    def bytes(self) -> int | None:
        """Its size; None for a dtype that this version does not know."""
        bits = _BITS.get(self.dtype)
        return None if bits is None else int(-(-self.elements * bits // 8))


class Header(Struct, frozen=True, kw_only=True):
    """The tensors of a checkpoint, in one file or in all the files of an index.

    Attributes:
        name: Its path, "org/name/unet/diffusion_pytorch_model.safetensors".
        tensors: Every tensor by its name, in the order of the header.
        metadata: The texts that its writer added.
        bytes: The size of all tensors.
        files: The number of files.
        alphas: The alphas of a LoRA's layers, as far as they were read, by tensor; "": that of all layers without such a tensor.
    """

    name: str
    tensors: dict[str, TensorSpec]
    metadata: dict[str, str] = {}
    bytes: int = 0
    files: int = 1
    alphas: dict[str, float] = {}


class _Entry(Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def header_length(prefix: bytes, *, what: str, file_bytes: int | None) -> int:
    """Return how long the header is, from the first 8 bytes of a file; `file_bytes` is the file's size, if known.

    Raises:
        SourceError: No header is that long, or the file is too short.
    """
    if len(prefix) < PREFIX_BYTES:
        raise SourceError(f"{what} is not a safetensors file: it has {len(prefix)} bytes", hint=DAMAGED)
    (length,) = struct.unpack("<Q", prefix[:PREFIX_BYTES])
    if length > MAX_HEADER_BYTES or length < 2:
        known = _what_else(prefix)
        why = "" if known else f": its header would have {length} bytes"
        raise SourceError(f"{what} is not a safetensors file{why}", hint=known or DAMAGED)
    if file_bytes is not None and PREFIX_BYTES + length > file_bytes:
        raise SourceError(
            f"{what} is cut off: its header has {length} bytes, but only {max(file_bytes - PREFIX_BYTES, 0)} are left for it",
            hint=DAMAGED,
        )
    return int(length)


def parse_header(raw: bytes, *, what: str, file_bytes: int | None, stream: BinaryIO | None = None) -> Header:
    """Parse a header without its 8 bytes of length, and check it against the size of the file, if known; from `stream`, read alphas.

    Raises:
        SourceError: It is damaged, impossible, or not of a file of this size.
    """
    entries, metadata = _decode(raw, what)
    size = _check_offsets(entries, what)
    expected = PREFIX_BYTES + len(raw) + size
    if file_bytes is not None and file_bytes != expected:
        rest = "is cut off" if file_bytes < expected else "is longer than its header says"
        raise SourceError(f"{what} {rest}: its tensors end at byte {expected}, the file at {file_bytes}", hint=DAMAGED)
    tensors = {name: TensorSpec(entry.shape, entry.dtype) for name, entry in entries.items()}
    alphas = {} if stream is None else dict(_read_alphas(entries, stream, PREFIX_BYTES + len(raw)))
    return Header(name=what, tensors=tensors, metadata=metadata, bytes=size, alphas=alphas)


def _read_alphas(entries: Mapping[str, _Entry], stream: BinaryIO, start: int) -> Iterator[tuple[str, float]]:
    """Yield the alphas of a LoRA's layers, a few bytes each; 0, which none has, is left out."""
    for name, entry in entries.items():
        if name.endswith(".alpha") and prod(entry.shape) == 1 and entry.dtype in _PACKED:
            begin, end = entry.data_offsets
            stream.seek(start + begin)
            raw = stream.read(end - begin)
            if len(raw) == end - begin:  # the file may have become shorter
                (value,) = struct.unpack(_PACKED[entry.dtype], raw.rjust(4, b"\0") if entry.dtype == "BF16" else raw)
                if value and isfinite(value):
                    yield name, float(value)


def merge_headers(headers: Iterable[Header], *, name: str) -> Header:
    """Return the headers of several files as one, as a sharded checkpoint has them.

    Raises:
        SourceError: Two files contain a tensor of the same name.
    """
    tensors: dict[str, TensorSpec] = {}
    alphas: dict[str, float] = {}
    size = files = 0
    for header in headers:
        twice = next((tensor for tensor in header.tensors if tensor in tensors), None)
        if twice is not None:
            raise SourceError(f"{name}: two of its files contain the tensor {twice!r}", hint=DAMAGED)
        tensors |= header.tensors
        alphas |= header.alphas
        size += header.bytes
        files += header.files
    return Header(name=name, tensors=tensors, bytes=size, files=files, alphas=alphas)


def _decode(raw: bytes, what: str) -> tuple[dict[str, _Entry], dict[str, str]]:
    try:
        parts = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        metadata = msgspec.json.decode(parts.pop("__metadata__", msgspec.Raw(b"{}")), type=dict[str, str] | None)
        entries = {name: msgspec.json.decode(part, type=_Entry) for name, part in parts.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise SourceError(f"the header of {what} is damaged: {str(error).partition(chr(10))[0]}", hint=DAMAGED) from None
    return entries, metadata or {}


def _check_offsets(entries: Mapping[str, _Entry], what: str) -> int:
    """Check that the tensors follow each other without a gap, each as long as its shape and dtype say; return where they end."""
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        begin, end = entry.data_offsets
        size = TensorSpec(entry.shape, entry.dtype).bytes
        wrong_shape = any(not 0 <= side <= _MAX_SIDE for side in entry.shape) or len(entry.shape) > 8
        if wrong_shape or begin != position or end < begin or (size is not None and end - begin != size):
            raise SourceError(
                f"the header of {what} is damaged: {name!r} of shape {list(entry.shape)} in {entry.dtype} cannot be bytes {begin} to {end}",
                hint=DAMAGED,
            )
        position = end
    return position


def _what_else(prefix: bytes) -> str | None:
    """Say what a file is by its first bytes, for types that are often mistaken for this one."""
    kinds = {
        b"PK\x03\x04": "a zip archive, as torch.save writes",
        b"\x80": "a pickle",
        b"GGUF": "a GGUF file, which is read only from a local path",
    }
    found = next((kind for start, kind in kinds.items() if prefix.startswith(start)), None)
    if found is None and prefix.startswith(b"version "):
        found = "a Git LFS pointer: `git lfs pull` fetches the file itself"
    if found is None and prefix.lstrip().startswith((b"<!", b"<h", b"<H")):
        found = "a web page (an error or login page)"
    if found is None and prefix.lstrip().startswith(b"{"):
        found = "JSON: for a config, use `unetinspect check` or `unetinspect config`"
    return f"the file is {found}" if found else None
