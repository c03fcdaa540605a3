"""Keeps modules that diffusers imports and a trace never uses out of this program's own process. They are most of `import diffusers`.

- `torch._dynamo` (torch.compile, and sympy with it) is imported by diffusers for two decorators: `allow_in_graph` and `disable`. A
  stand-in records their calls. When anything else in it is used, or a submodule is imported, the real module replaces it and the
  calls are repeated.
- `diffusers.models.transformers` imports a hundred models when one of its modules is imported, and requests is imported for downloads
  that this program does not make. Their code runs when a name in them is used.
- transformers, accelerate, peft and bitsandbytes are optional for diffusers, and no UNet class needs them to be built and run.

Only `__main__` calls this: a program that imports `unetinspect` keeps its imports as they are. The finders and loaders here have no
base class, because `importlib.abc` takes longer to import than `--version` takes to answer.
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
_OPTIONAL = ("transformers", "accelerate", "peft", "bitsandbytes")
_LAZY = ("diffusers.models.transformers", "requests")


def defer_imports() -> None:
    """Defer the modules above, unless they are imported already."""
    for package in _OPTIONAL:
        sys.modules.setdefault(package, None)  # type: ignore[arg-type]  # None: as if it were not installed
    sys.meta_path.insert(0, _LazyFinder())
    if _NAME not in sys.modules:
        sys.meta_path.insert(0, _Finder())


class _StandIn(ModuleType):
    """Takes the place of `torch._dynamo` until it is used.

    Attributes:
        calls: The calls to repeat with the real module.
    """

    def __init__(self) -> None:
        super().__init__(_NAME)
        self.calls: list[Callable[[Any], object]] = []

    def allow_in_graph(self, fn: Any) -> Any:
        self.calls.append(lambda dynamo: dynamo.allow_in_graph(fn))
        return fn

    def disable(self, fn: Any = None, *args: Any, **kwargs: Any) -> Any:
        if fn is None:
            return lambda fn: self.disable(fn, *args, **kwargs)
        current = fn  # without a compiler there is nothing to disable

        def repeat(dynamo: Any) -> None:
            nonlocal current
            current = dynamo.disable(fn, *args, **kwargs)

        @wraps(fn)
        def call(*given: Any, **named: Any) -> Any:
            return current(*given, **named)

        self.calls.append(repeat)
        return call

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system asks for these
            raise AttributeError(name)
        return getattr(self.load_real(), name)

    def load_real(self) -> ModuleType:
        """Replace this module with the real one, and repeat the calls."""
        if sys.modules.get(_NAME) is self:
            sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
            del sys.modules[_NAME], sys.modules["torch"]._dynamo  # its own modules use both while they are imported
            dynamo = import_module(_NAME)
            for call in self.calls:
                call(dynamo)
        return sys.modules[_NAME]


class _Finder:
    """Finds the stand-in as `torch._dynamo`; an import of a submodule loads the real module."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == _NAME or name.startswith(f"{_NAME}."):
            return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        if spec.name == _NAME:
            return _StandIn()
        sys.modules[_NAME].load_real()
        module = import_module(spec.name)
        spec.loader_state = module.__spec__  # the import system replaces it now
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Run nothing: the stand-in has no code, and the code of a real submodule has run already."""
        if module.__spec__ is not None and module.__spec__.loader_state is not None:
            module.__spec__ = module.__spec__.loader_state


class _LazyPackage(ModuleType):
    """A package whose `__init__` runs when a name other than its submodules is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not isinstance(self.__loader__, _LazyLoader):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__loader__ = self.__spec__.loader = self.__loader__.loader
        self.__loader__.exec_module(self)
        return getattr(self, name)


class _LazyLoader:
    """Creates a lazy package; `loader` runs its code later."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _LazyPackage(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Run nothing."""


class _LazyFinder:
    """Finds the lazy packages."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in _LAZY else None
        if spec is not None and spec.loader is not None:
            spec.loader = _LazyLoader(spec.loader)  # type: ignore[assignment]
        return spec
