"""Names and shapes of tensors as a tree: what lies under a module, and how many items a list has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

from unetinspect.record import Shape
from unetinspect.units import format_shape


class UnclearError(Exception):
    """Raised when names and shapes are those of no UNet that can be read; its text says which, in half a sentence."""


class Names:
    """The tensors of a module, by their names in it.

    Attributes:
        shapes: The shape of each tensor.
        path: Where the module is; "" is the UNet itself.
    """

    def __init__(self, shapes: Mapping[str, Shape], path: str = "") -> None:
        self.shapes = shapes
        self.path = path

    def __contains__(self, name: object) -> bool:
        """Tell whether it has this tensor."""
        return name in self.shapes

    def __bool__(self) -> bool:
        """Tell whether it has any tensor."""
        return bool(self.shapes)

    @cached_property
    def children(self) -> dict[str, Names]:
        """The modules right in it, by name."""
        grouped: dict[str, dict[str, Shape]] = {}
        for name, shape in self.shapes.items():
            head, dot, rest = name.partition(".")
            if dot:
                grouped.setdefault(head, {})[rest] = shape
        return {head: Names(shapes, f"{self.path}.{head}".lstrip(".")) for head, shapes in grouped.items()}

    def under(self, path: str) -> Names:
        """Return what lies in a module deeper down, nothing where there is none."""
        found = self
        for part in path.split("."):
            found = found.children.get(part) or Names({}, f"{found.path}.{part}".lstrip("."))
        return found

    def listed(self, path: str) -> list[Names]:
        """Return the items of a list of modules, in order.

        Raises:
            UnclearError: They are not numbered from 0 on without a gap.
        """
        children = self.under(path).children
        expected = [str(index) for index in range(len(children))]
        if sorted(children) != sorted(expected):
            raise UnclearError(f"the items of {f'{self.path}.{path}'.lstrip('.')!r} are not numbered from 0 on without a gap")
        return [children[index] for index in expected]

    def shape(self, name: str, axes: int) -> Shape:
        """Return the shape of a tensor that has so many axes.

        Raises:
            UnclearError: It is missing, or has more or fewer of them.
        """
        full = f"{self.path}.{name}".lstrip(".")
        if name not in self.shapes:
            raise UnclearError(f"there is no tensor {full!r}")
        shape = self.shapes[name]
        if len(shape) != axes or 0 in shape:
            raise UnclearError(f"{full!r} of shape {format_shape(shape)} does not have {axes} sides")
        return shape

    def words(self) -> Iterator[str]:
        """Yield each part of each name."""
        for name in self.shapes:
            yield from name.split(".")
