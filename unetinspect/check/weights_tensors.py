"""The tensors of a file and those of a UNet, held against each other by name and shape. Knows neither torch nor diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from unetinspect.record import Shape
from unetinspect.record.check import TensorDifference

Kind = Literal["missing", "unexpected", "mismatched"]
KINDS: tuple[Kind, ...] = ("mismatched", "missing", "unexpected")


class FileTensor(NamedTuple):
    """A tensor as a file has it.

    Attributes:
        name: Its name in the file.
        shape: Its shape.
        piece: Which piece of it, where diffusers splits it in several.
    """

    name: str
    shape: Shape
    piece: int = 0

    def chunk(self, pieces: int, axis: int = 0) -> tuple[FileTensor, ...]:
        """Split it as `torch.Tensor.chunk` does, which diffusers' converters call: queries, keys and values lie in one tensor there."""
        before, side, after = self.shape[:axis], self.shape[axis], self.shape[axis + 1 :]
        length = -(-side // pieces)
        sides = [min(length, side - start) for start in range(0, side, length or 1)]
        return tuple(FileTensor(self.name, (*before, part, *after), index) for index, part in enumerate(sides))


class FileTensors(NamedTuple):
    """The tensors of a file's UNet, by the names that diffusers gives them; `untaken` are those that it has no name for."""

    named: dict[str, FileTensor]
    untaken: dict[str, FileTensor] = {}  # noqa: RUF012  a default, which nothing changes


class Difference(NamedTuple):
    """A tensor that a file and a UNet do not have alike.

    Attributes:
        kind: What it is: missing from the file, unexpected in it, or of another shape.
        name: As diffusers names it; as the file does, where diffusers has no name for it.
        tensor: What the file has; None: nothing.
        expected: Its shape in the UNet; None: the UNet has none.
    """

    kind: Kind
    name: str
    tensor: FileTensor | None
    expected: Shape | None

    @property
    def identity(self) -> tuple[str, int]:
        """What it is known by when the UNet changes: its place in the file; in the UNet, where the file has none."""
        return (self.name, -1) if self.tensor is None else (self.tensor.name, self.tensor.piece)

    def example(self) -> TensorDifference:
        """Return it as the record shows it."""
        original = self.tensor.name if self.tensor is not None and self.tensor.name != self.name else None
        found = None if self.tensor is None else self.tensor.shape
        return TensorDifference(name=self.name, original_name=original, found=found, expected=self.expected)


class Comparison(NamedTuple):
    """How a file's tensors and a UNet's compare: how many are alike, and every one that is not."""

    matched: int
    differences: tuple[Difference, ...]

    def count(self, kind: Kind) -> int:
        """Return how many differ in that way."""
        return sum(difference.kind == kind for difference in self.differences)


def compare_tensors(found: FileTensors, expected: Mapping[str, Shape]) -> Comparison:
    """Compare names and shapes; the differences are in the order of the UNet, then in that of the file."""
    differences: list[Difference] = []
    for name, shape in expected.items():
        tensor = found.named.get(name)
        if tensor is None or tensor.shape != shape:
            differences.append(Difference("missing" if tensor is None else "mismatched", name, tensor, shape))
    matched = len(expected) - len(differences)
    differences += [Difference("unexpected", name, tensor, None) for name, tensor in found.named.items() if name not in expected]
    differences += [Difference("unexpected", name, tensor, None) for name, tensor in found.untaken.items()]
    return Comparison(matched, tuple(differences))
