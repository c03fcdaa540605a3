"""The options of a forward pass, before any model is known: sizes, batch, device.

Sizes are (height, width). Nothing here knows torch or diffusers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import inf
from typing import Any, get_args

from msgspec import Struct
from msgspec.structs import replace

from unetinspect.errors import UsageError
from unetinspect.record.sections import Optimizer
from unetinspect.units import MAX_SIDE, parse_size, split_commas

Size = tuple[int, ...]
FreeU = tuple[float, float, float, float]

DTYPES = ("float32", "float16", "bfloat16", "float64")
_SHORT_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp64": "float64", "half": "float16", "float": "float32"}
_DEVICE = re.compile(r"auto|meta|cpu|cuda(:\d+)?")
_BYTES = re.compile(r"(\d+(?:\.\d+)?) ?([kmgt]?)(i?)b")
_MOST_BYTES = 1 << 50


class Request(Struct, frozen=True, kw_only=True):
    """The options that decide a forward pass.

    Attributes:
        res: Size of the image in pixels.
        latent: Size of the `sample` itself; `res` and `latent` exclude each other.
        batch: Images; the forward batch is twice that under CFG.
        cfg: Classifier-free guidance; None: where the UNet is conditioned.
        tokens: Tokens of `encoder_hidden_states`; None: the default of the class.
        frames: Frames of a video UNet; None: those of its config.
        device: "auto", "meta", "cpu", "cuda" or "cuda:N".
        dtype: A name of `DTYPES`; None: float32, or a live module's own.
        vae_scale: Pixels per sample cell along one side, instead of the model's own factor.
        freeu: FreeU's factors b1, b2, s1, s2; None: not changed.
        training: Whether a training step runs too, of one sample for each image.
        optimizer: Whose state is counted; None without training.
        gradient_checkpointing: Whether the training step runs with diffusers' gradient checkpointing.
    """

    res: Size | None = None
    latent: Size | None = None
    batch: int = 1
    cfg: bool | None = None
    tokens: int | None = None
    frames: int | None = None
    device: str = "auto"
    dtype: str | None = None
    vae_scale: int | None = None
    freeu: FreeU | None = None
    training: bool = False
    optimizer: Optimizer | None = None
    gradient_checkpointing: bool = False


def make_request(**options: Any) -> Request:
    """Check the options of a pass together: those that `Request` has, as they were typed.

    Raises:
        UsageError: One of them is out of range, or two contradict each other.
    """
    request = Request(**options)
    if request.res is not None and request.latent is not None:
        raise UsageError("--res and --latent both give a size", hint="give one: --res is in pixels, --latent is the sample itself")
    for name in ("batch", "tokens", "frames", "vae_scale"):
        count = getattr(request, name)
        if count is not None and (type(count) is not int or not 1 <= count <= MAX_SIDE):
            raise UsageError(f"--{name.replace('_', '-')}: {count!r} is not a whole number from 1 to {MAX_SIDE}")
    if not request.training and (request.optimizer is not None or request.gradient_checkpointing):
        option = "--gradient-checkpointing" if request.optimizer is None else "--optimizer"
        raise UsageError(f"{option} is an option of training", hint="add --training")
    if request.training and request.cfg:
        raise UsageError("--cfg and --training exclude each other", hint="classifier-free guidance is for sampling: leave out --cfg")
    if request.optimizer not in (None, *get_args(Optimizer)):
        raise UsageError(f"unknown optimizer {request.optimizer!r}", hint=f"use {', '.join(get_args(Optimizer))}")
    if not _DEVICE.fullmatch(str(request.device)):
        raise UsageError(f"unknown device {str(request.device)!r}", hint="use auto, meta, cpu, cuda or cuda:N")
    return replace(
        request,
        optimizer=request.optimizer or ("adamw" if request.training else None),
        res=parse_size(request.res, option="--res"),
        latent=parse_size(request.latent, option="--latent"),
        device=str(request.device),
        dtype=_parse_dtype(request.dtype),
        freeu=_parse_freeu(request.freeu),
    )


def parse_sizes(value: Sequence[str] | None, *, option: str) -> list[Size]:
    """Read one size or several, from an option that may be given several times: each once.

    Raises:
        UsageError: One of them is not a size.

    >>> parse_sizes(["256,512x768", "256"], option="--res")
    [(256, 256), (512, 768)]
    """
    parts = split_commas(value or ())
    if value is not None and not all(parts):
        raise UsageError(f"{option}: {','.join(value)!r} is not a comma-separated list of sizes", hint=f"{option} 512,768x512")
    return list(dict.fromkeys(size for part in parts if (size := parse_size(part, option=option)) is not None))


def parse_counts(value: Sequence[str], *, option: str) -> list[int]:
    """Read one whole number or several, from an option that may be given several times: each once.

    Raises:
        UsageError: One of them is not a whole number above 0.

    >>> parse_counts(["1,2", "4"], option="--batch")
    [1, 2, 4]
    """
    parts = split_commas(value)
    if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= MAX_SIDE for part in parts):
        listed = ",".join(value)
        raise UsageError(
            f"{option}: {listed!r} is not a comma-separated list of whole numbers from 1 to {MAX_SIDE}", hint=f"{option} 1,2,4"
        )
    return list(dict.fromkeys(map(int, parts)))


def parse_bytes(value: Any, *, option: str) -> int | None:
    """Read an amount of memory: "24GiB", "24 GB", a number of bytes.

    Raises:
        UsageError: It is none of these, 0, or more than a PiB.

    >>> parse_bytes("1.5GiB", option="--fit"), parse_bytes("24 gb", option="--fit")
    (1610612736, 24000000000)
    """
    if value is None:
        return None
    match = _BYTES.fullmatch(value.strip().lower()) if isinstance(value, str) else None
    size = value if type(value) is int else 0
    if match is not None:
        number, prefix, binary = match.groups()
        size = int(float(number) * (1024 if binary else 1000) ** " kmgt".index(prefix or " "))
    if not 0 < size <= _MOST_BYTES:
        raise UsageError(f"{option}: {value!r} is not an amount of memory", hint=f"write a number and its unit: {option} 24GiB")
    return size


def _parse_dtype(dtype: Any) -> str | None:
    """Return the full name of a dtype: "fp16" and `torch.float16` are "float16".

    Raises:
        UsageError: diffusers does not run in it.

    >>> _parse_dtype("bf16")
    'bfloat16'
    """
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    name = _SHORT_DTYPES.get(name, name)
    if name not in DTYPES:
        raise UsageError(f"unknown dtype {name!r}", hint=f"use {', '.join(DTYPES)} or {', '.join(_SHORT_DTYPES)}")
    return name


def _parse_freeu(value: Any) -> FreeU | None:
    """Read FreeU's factors: "1.2,1.4,0.9,0.2" or four numbers, b1, b2, s1, s2 as its paper has them.

    Raises:
        UsageError: They are not four numbers above 0.

    >>> _parse_freeu("1.2,1.4,0.9,0.2")
    (1.2, 1.4, 0.9, 0.2)
    """
    if value is None:
        return None
    parts = value.split(",") if isinstance(value, str) else value
    try:
        b1, b2, s1, s2 = (float(part) for part in parts)
    except (TypeError, ValueError):
        b1 = b2 = s1 = s2 = 0.0
    if not all(0 < factor < inf for factor in (b1, b2, s1, s2)):
        raise UsageError(f"--freeu: {value!r} is not four numbers above 0", hint="b1,b2,s1,s2: --freeu 1.2,1.4,0.9,0.2")
    return b1, b2, s1, s2
