"""Keeps out of this program's own process what diffusers imports and a trace never uses. It is most of the time of `import diffusers`.

- `torch._dynamo` (torch.compile, and sympy with it) is imported by diffusers for two decorators: `allow_in_graph` and `disable`. A
  stand-in takes note of what they are given. The moment anything else is asked of it, or a submodule is imported, the real module
  takes its place and is told the same.
- transformers, accelerate and peft are optional for diffusers, and no UNet class needs them to be built and run.

Only `__main__` calls this: a program that imports `unetinspect` keeps its imports as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_NAME = "torch._dynamo"
_OPTIONAL = ("transformers", "accelerate", "peft")


def defer_imports() -> None:
    """Hide the optional packages that are not imported yet, and let a stand-in answer the first import of `torch._dynamo`."""
    for package in _OPTIONAL:
        sys.modules.setdefault(package, None)  # type: ignore[arg-type]  # None: importing it fails as if it were not installed
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


class _Finder(MetaPathFinder, Loader):
    """Finds the stand-in under the name of `torch._dynamo`; whoever wants a submodule gets the real one."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == _NAME or name.startswith(f"{_NAME}."):
            return ModuleSpec(name, self, is_package=True)
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
