"""What was captured of a live pipeline: records of attention maps, features and skips, to select from, to see and to save."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal
from zipfile import ZipFile

import msgspec
from msgspec import Meta, Struct

from unetinspect.capturing.heat import Heat, heat_map
from unetinspect.capturing.words import Prompt, positions_of
from unetinspect.errors import SourceError, UsageError, nearest_names
from unetinspect.record import Shape
from unetinspect.record.selection import Selection
from unetinspect.source.place import is_weights, read_header
from unetinspect.streams import save_file
from unetinspect.units import format_size, parse_size, plural

CAPTURE_SCHEMA: Literal["unetinspect.capture/1"] = "unetinspect.capture/1"
_GROUPS = ("maps", "features", "skips")
_AXES = ("step", "image", "head", "query", "token")
# The JSON text in a .npz file; in a .safetensors file its key is `CAPTURE_SCHEMA`.
_META = "meta"
_NUMPY_DTYPES = ("float64", "float32", "float16")


class StoredTensor(Struct, frozen=True):
    """A tensor in the file of a capture.

    Attributes:
        name: Its name in the file.
        shape: Its shape.
        dtype: Its dtype.
    """

    name: str
    shape: Shape
    dtype: str


@dataclass(frozen=True, eq=False)
class Captured:
    """What was captured of one layer.

    Attributes:
        path: The attention layer; of a feature, the module; of a skip, the module that consumes it.
        kind: The kind of attention; of a feature "output" or "input"; "skip".
        stage: Its stage.
        axes: The axes of the tensor: of a map, those of step, image, head, query and token that were kept; of features and skips,
            "step", if it was kept, and then those of the module's tensor: "image", "channel", "y", "x".
        tensor: The tensor. The probabilities of a map's query sum to 1 over all its tokens. In JSON, where it is in the file.
        grid: (height, width) of the queries; None: they are not a grid.
        calls: The calls of the UNet that are in it, from 0.
        timesteps: The timesteps of these calls, if known.
        product: What the keys are: 0 is the text or the hidden states, 1 and more are image adapters.
        execution: Which execution of the layer in one pass of the UNet, from 0.
        source: Of a skip, the module that produced it.
        tokens: The positions of the kept tokens; None: all.
        queries: The kept queries, (y, x); None: all, or their axis was folded.
        tap: Which of the taps of `capture` took it, from 0.
    """

    path: str
    kind: str
    stage: str
    axes: tuple[str, ...]
    tensor: Annotated[Any, Meta(extra_json_schema={"$ref": "#/$defs/StoredTensor"})]
    grid: tuple[int, int] | None
    calls: tuple[int, ...]
    timesteps: tuple[float, ...]
    product: int = 0
    execution: int = 0
    source: str = ""
    tokens: tuple[int, ...] | None = None
    queries: tuple[tuple[int, int], ...] | None = None
    tap: int = 0

    def __repr__(self) -> str:
        """Return one line, without the values of the tensor."""
        shape = ", ".join(f"{axis} {length}" for axis, length in zip(self.axes, self.tensor.shape, strict=True))
        return f"<Captured {self.kind} of {self.path or 'the UNet'}: {shape}>"

    @property
    def kept_tokens(self) -> Sequence[int]:
        """The positions of the tokens that a map has."""
        return range(self.tensor.shape[-1]) if self.tokens is None else self.tokens

    @property
    def query_tokens(self) -> int | None:
        """The number of queries that the layer has, whether they were kept or not; None: unknown."""
        if self.grid is not None:
            return prod(self.grid)
        whole = "query" in self.axes and self.queries is None
        return int(self.tensor.shape[self.axes.index("query")]) if whole else None


@dataclass(frozen=True, eq=False, kw_only=True)
class Captures:
    """Everything that was captured.

    Attributes:
        schema: The version of this record.
        maps: Attention maps, in execution order.
        features: Inputs or outputs of modules.
        skips: Skips as they entered the concatenation.
        prompts: The prompts that were encoded, in that order.
    """

    schema: Literal["unetinspect.capture/1"] = CAPTURE_SCHEMA
    maps: tuple[Captured, ...] = ()
    features: tuple[Captured, ...] = ()
    skips: tuple[Captured, ...] = ()
    prompts: tuple[Prompt, ...] = ()

    def __repr__(self) -> str:
        """Return one line, without the values of the tensors."""
        return f"<{type(self).__name__}: {', '.join(plural(len(getattr(self, group)), group[:-1]) for group in _GROUPS)}>"

    def select(
        self,
        kind: Any = None,
        stage: Any = None,
        tokens_at: Any = None,
        paths: Any = None,
        product: int | None = None,
        tap: int | None = None,
    ) -> tuple[Captured, ...]:
        """Return the maps that match. The words are those of `maps` and `unetinspect attn`; None matches all.

        `tap` is the place of a `maps(...)` among the taps of `capture`.

        Raises:
            UsageError: No map matches, a kind does not exist, or `tokens_at` is not a size.
        """
        wanted = Selection.of(kind=kind, stage=stage, tokens_at=tokens_at, paths=paths)
        found = tuple(
            seen
            for seen in self.maps
            if wanted.takes(seen)  # type: ignore[arg-type]  # it has the kind, stage and path of an attention layer
            and wanted.takes_size(seen.query_tokens or 0, seen.grid)
            and product in (None, seen.product)
            and tap in (None, seen.tap)
        )
        if self.maps and not found:
            close = [name for path in wanted.paths for name in nearest_names(path, {seen.path for seen in self.maps}, count=1)]
            kinds, stages = (dict.fromkeys(getattr(seen, field) for seen in self.maps) for field in ("kind", "stage"))
            sizes = dict.fromkeys(format_size(seen.grid) if seen.grid else str(seen.query_tokens) for seen in self.maps)
            has = f"the capture has {', '.join(kinds)} maps of {', '.join(sizes)} queries in {', '.join(stages)}"
            raise UsageError("no captured map matches", hint=f"did you mean {close[0]}?" if close else has)
        return found

    def heat(
        self,
        tokens: str | int | Iterable[str | int],
        size: int | str | tuple[int, int] | None = None,
        *,
        image: int | None = None,
        prompt: int | None = None,
        kind: Any = "cross",
        stage: Any = None,
        tokens_at: Any = None,
        paths: Any = None,
        tap: int | None = None,
    ) -> Heat:
        """Return where in the image the attention to some tokens is, as a mean over layers, heads, steps and these tokens.

        Maps whose queries are not a grid are left out, and so are those of image adapters.

        Args:
            tokens: A word or phrase of the prompt, a token position, or several of them.
            size: The size of the heat map, N or (height, width); None: that of the largest grid.
            image: Which image of the batch, if several were captured.
            prompt: In which prompt to find a word, if its positions differ between them.
            kind: As in `select`.
            stage: As in `select`.
            tokens_at: As in `select`.
            paths: As in `select`.
            tap: As in `select`.

        Raises:
            UsageError: A word, token, image or layer was not captured, or it is ambiguous.
        """
        found = [seen for seen in self.select(kind, stage, tokens_at, paths, product=0, tap=tap) if seen.grid is not None]
        if not found:
            raise UsageError("no captured map on a grid matches", hint="seen.maps lists what was captured")
        taps = sorted({seen.tap for seen in found})
        if len(taps) > 1:
            what = f"taps {', '.join(map(str, taps))} of the capture took these maps, each folded in its own way"
            raise UsageError(what, hint=f"choose one: tap={taps[0]}")
        positions = positions_of(self.prompts, tokens, prompt=prompt)
        if not positions:
            raise UsageError("heat needs at least one token", hint="give a word of the prompt or a position")
        height, width = parse_size(size, option="size") or max((seen.grid for seen in found if seen.grid), key=prod)
        return heat_map(found, positions, (height, width), image)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to a .safetensors or .npz file, whole or not at all.

        Raises:
            UsageError: The file has another extension, or cannot be written; an existing file is unchanged.
        """
        suffix = Path(path).suffix.lower()
        if suffix not in (".safetensors", ".npz"):
            raise UsageError(f"unsupported file extension {suffix!r}: {os.fspath(path)}", hint="use .safetensors or .npz")
        import torch

        tensors = dict[str, torch.Tensor]()
        stored = dict[str, Any](prompts=self.prompts)
        for group in _GROUPS:
            infos = []
            for number, seen in enumerate(getattr(self, group)):
                tensor = torch.as_tensor(seen.tensor).detach().cpu()
                dtype = str(tensor.dtype).removeprefix("torch.")
                if suffix == ".npz" and dtype not in _NUMPY_DTYPES:
                    tensor, dtype = tensor.float(), "float32"
                name = f"{group}.{number}.{seen.path}"
                tensors[name] = tensor.clone(memory_format=torch.contiguous_format)  # safetensors refuses tensors that share memory
                infos.append(replace(seen, tensor=StoredTensor(name, tuple(tensor.shape), dtype)))
            stored[group] = tuple(infos)
        meta = msgspec.json.encode(Captures(**stored)).decode()
        if suffix == ".npz":
            import numpy as np

            content = BytesIO()
            arrays: dict[str, Any] = {_META: np.array(meta), **{name: tensor.numpy() for name, tensor in tensors.items()}}
            np.savez(content, **arrays)
            save_file(path, content.getvalue())
        else:
            from safetensors.torch import save

            save_file(path, save(tensors, metadata={CAPTURE_SCHEMA: meta}))


def load_capture(path: str | os.PathLike[str]) -> Captures:
    """Read what `seen.save(path)` wrote, with tensors of torch on the CPU.

    Raises:
        SourceError: The file cannot be read, is damaged, or is not a capture.
    """
    captures = read_capture(path)
    maps, features, skips = (with_tensors(path, getattr(captures, group), framework="pt") for group in _GROUPS)
    return replace(captures, maps=maps, features=features, skips=skips)


def read_capture(path: str | os.PathLike[str]) -> Captures:
    """Read what `seen.save(path)` wrote, except the tensors: of each, its name, shape and dtype.

    Raises:
        SourceError: The file cannot be read, is damaged, or is not a capture.
    """
    what = os.fspath(path)
    if not Path(path).is_file():
        raise SourceError(f"there is no file {what}", hint="check the path")
    meta = _read_meta(path)
    if meta is None:
        identify = f"; `unetinspect identify {what}` shows what this is" if is_weights(what) else ""
        raise SourceError(f"{what} is not a capture", hint=f"`seen.save()` writes captures, .safetensors or .npz{identify}")
    try:
        captures = msgspec.json.decode(meta, type=Captures)
        maps, features, skips = (
            tuple(replace(seen, tensor=msgspec.convert(seen.tensor, StoredTensor)) for seen in getattr(captures, group))
            for group in _GROUPS
        )
    except msgspec.MsgspecError as error:
        raise SourceError(f"{what} is damaged, or from a newer version: {error}", hint="save the capture again") from None
    wrong = next((seen for seen in maps if not _fits(seen)), None)
    if wrong is not None:
        raise _damaged(what, wrong.tensor.name)
    return replace(captures, maps=maps, features=features, skips=skips)


def with_tensors(
    path: str | os.PathLike[str], stored: Sequence[Captured], *, framework: Literal["np", "pt"] = "np"
) -> tuple[Captured, ...]:
    """Add the tensors to what `read_capture` returned: arrays of numpy ("np"), or tensors of torch ("pt").

    Raises:
        SourceError: The file is damaged.
    """
    if not all(seen.tensor.dtype in _NUMPY_DTYPES for seen in stored):
        framework = "pt"  # numpy has no bfloat16
    names = [seen.tensor.name for seen in stored]
    try:
        if _is_npz(path):
            tensors = _read_npz(path, names)
            if framework == "pt":
                import torch

                tensors = [torch.from_numpy(array) for array in tensors]
        else:
            from safetensors import safe_open

            with safe_open(path, framework) as file:
                tensors = [file.get_tensor(name) for name in names]
    except Exception as error:  # whatever a damaged file raises
        raise _damaged(path, error) from None
    for seen, tensor in zip(stored, tensors, strict=True):
        if tuple(tensor.shape) != seen.tensor.shape:
            raise _damaged(path, seen.tensor.name)
    return tuple(replace(seen, tensor=tensor) for seen, tensor in zip(stored, tensors, strict=True))


def _read_meta(path: str | os.PathLike[str]) -> str | None:
    """Return the JSON text in a file; None: it is not a capture."""
    if not _is_npz(path):
        if not is_weights(os.fspath(path)):
            return None
        header = read_header(Path(path), what=os.fspath(path))
        return next((text for key, text in (header.metadata if header else {}).items() if key.startswith("unetinspect.capture/")), None)
    try:
        return str(_read_npz(path, [_META])[0])
    except KeyError:
        return None
    except Exception as error:  # whatever a damaged file raises
        raise _damaged(path, error) from None


def _read_npz(path: str | os.PathLike[str], names: Sequence[str]) -> list[Any]:
    import numpy as np

    arrays = []
    with ZipFile(path) as archive:
        for name in names:
            with archive.open(f"{name}.npy") as member:
                arrays.append(np.lib.format.read_array(member, allow_pickle=False))
    return arrays


def _is_npz(path: str | os.PathLike[str]) -> bool:
    return Path(path).suffix.lower() == ".npz"


def _fits(seen: Captured) -> bool:
    """Return whether the axes of a map, its kept queries and tokens, and its grid are those of its shape."""
    shape = seen.tensor.shape
    if seen.axes != tuple(axis for axis in _AXES if axis in seen.axes) or len(seen.axes) != len(shape) or 0 in shape:
        return False
    sides = dict(zip(seen.axes, shape, strict=True))
    queries = seen.query_tokens if seen.queries is None else len(seen.queries)
    return sides.get("token") == len(seen.kept_tokens) and sides.get("query", queries) == queries


def _damaged(path: str | os.PathLike[str], why: object) -> SourceError:
    return SourceError(f"{os.fspath(path)} is damaged: {str(why).partition(chr(10))[0]}", hint="save the capture again")
