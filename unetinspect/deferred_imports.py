"""Keeps out of this program's own process what diffusers imports and a trace never uses. It is most of the time of `import diffusers`.

- `torch._dynamo` (torch.compile, and sympy with it) is imported by diffusers for two decorators: `allow_in_graph` and `disable`. A
  stand-in takes note of what they are given. The moment anything else is asked of it, or a submodule is imported, the real module
  takes its place and is told the same.
- `diffusers.models.transformers` imports a hundred models when one of its modules is imported, and requests is imported for downloads
  that this program does not make. They run when something in them is asked for.
- transformers, accelerate and peft are optional for diffusers, and no UNet class needs them to be built and run.

Only `__main__` calls this: a program that imports `unetinspect` keeps its imports as they are. The finders and loaders here have no
base class, since `importlib.abc` takes longer to import than `--version` takes to answer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_NAME = "torch._dynamo"
_OPTIONAL = ("transformers", "accelerate", "peft")
_LAZY = ("diffusers.models.transformers", "requests")


def defer_imports() -> None:
    """Put off what is named above, as far as it is not imported yet."""
    for package in _OPTIONAL:
        sys.modules.setdefault(package, None)  # type: ignore[arg-type]  # None: importing it fails as if it were not installed
    sys.meta_path.insert(0, _LazyFinder())
    if _NAME not in sys.modules:
        sys.meta_path.insert(0, _Finder())


class _StandIn(ModuleType):
    """Answers for `torch._dynamo` until it is really used.

    Attributes:
        told: What to do once with the real module.
    """

    def __init__(self) -> None:
        super().__init__(_NAME)
        self.told: list[Callable[[Any], object]] = []

    def allow_in_graph(self, fn: Any) -> Any:
        self.told.append(lambda dynamo: dynamo.allow_in_graph(fn))
        return fn

    def disable(self, fn: Any = None, *args: Any, **kwargs: Any) -> Any:
        if fn is None:
            return lambda fn: self.disable(fn, *args, **kwargs)
        current = fn  # as long as there is no compiler, there is nothing to keep from it

        def become_real(dynamo: Any) -> None:
            nonlocal current
            current = dynamo.disable(fn, *args, **kwargs)

        @wraps(fn)
        def call(*given: Any, **named: Any) -> Any:
            return current(*given, **named)

        self.told.append(become_real)
        return call

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import system looks for
            raise AttributeError(name)
        return getattr(self.hand_over(), name)

    def hand_over(self) -> ModuleType:
        """Put the real module into this one's place, and tell it what this one was told."""
        if sys.modules.get(_NAME) is self:
            sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
            del sys.modules[_NAME], sys.modules["torch"]._dynamo  # its own modules reach it by either while they are imported
            dynamo = import_module(_NAME)
            for tell in self.told:
                tell(dynamo)
        return sys.modules[_NAME]


class _Finder:
    """Finds the stand-in under the name of `torch._dynamo`; whoever wants a submodule gets the real one."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == _NAME or name.startswith(f"{_NAME}."):
            return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        if spec.name == _NAME:
            return _StandIn()
        sys.modules[_NAME].hand_over()
        module = import_module(spec.name)
        spec.loader_state = module.__spec__  # which the import system replaces now
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Run nothing: the stand-in needs nothing, and a submodule is the real one, which has run already."""
        if module.__spec__ is not None and module.__spec__.loader_state is not None:
            module.__spec__ = module.__spec__.loader_state


class _LazyPackage(ModuleType):
    """A package whose `__init__` runs when a name is asked for that is none of its modules; those are found without it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not isinstance(self.__loader__, _LazyLoader):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__loader__ = self.__spec__.loader = self.__loader__.loader
        self.__loader__.exec_module(self)
        return getattr(self, name)


class _LazyLoader:
    """Makes a lazy package, and runs nothing of it.

    Attributes:
        loader: What runs it later.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _LazyPackage(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Run nothing."""


class _LazyFinder:
    """Finds the lazy packages where they are."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in _LAZY else None
        if spec is not None and spec.loader is not None:
            spec.loader = _LazyLoader(spec.loader)  # type: ignore[assignment]
        return spec
