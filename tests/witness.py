"""An independent witness: a pass of a model on the CPU that is observed by torch's own hooks and modes, and by nothing of this package."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from unetinspect import Trace
from unetinspect.run.build import make_inputs, named_tensors
from unetinspect.run.resolve import diffusers_class

Shapes = tuple[tuple[int, ...], ...]


def by_hand(record: Trace) -> tuple[nn.Module, Callable[..., Any]]:
    """Build the model of a record as diffusers does; return it, and how to run it with the inputs that the record lists."""
    model = diffusers_class(record.model.class_name).from_config(record.model.given_config).eval()
    inputs = make_inputs(record.run.inputs, device=torch.device("cpu"), dtype=torch.float32)

    def run(*, grad: bool = False) -> Any:
        with torch.set_grad_enabled(grad):
            return model(**inputs)

    return model, run


class Witness(TorchFunctionMode):
    """What hooks and modes see of one pass in which attention is computed as two products, which torch's counter knows.

    Attributes:
        returned: The shape of every tensor that the model returned.
        calls: How often each module ran, by path.
        shapes: The shapes of what each module returned at its first call, by path.
        operands: The shapes of query, key and value of each scaled-dot-product attention.
        kinds: The kind of each call of a diffusers `Attention`, by its arguments: (path, kind).
        concats: The channels of the two operands of each `torch.cat` inside an up block: (hidden, skip).
        flops: What torch's own counter counted.
    """

    def __init__(self, record: Trace) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.shapes: dict[str, Shapes] = {}
        self.operands: list[Shapes] = []
        self.kinds: list[tuple[str, str]] = []
        self.concats: list[tuple[int, int]] = []
        self.flops = FlopCounterMode(display=False)
        self._open: list[str] = []
        self.model, run = by_hand(record)
        for path, module in self.model.named_modules():
            module.register_forward_pre_hook(partial(self._enter, path), with_kwargs=True)
            module.register_forward_hook(partial(self._leave, path))
        with self, self.flops, sdpa_kernel(SDPBackend.MATH):
            self.returned = _shapes(run())

    def _enter(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._open.append(path)
        if isinstance(module, Attention):
            hidden = args[0] if args else kwargs["hidden_states"]
            other = args[1] if len(args) > 1 else kwargs.get("encoder_hidden_states")
            # Stable Cascade's block puts its own hidden states before the text, and passes both as one.
            own = getattr(self.model.get_submodule(path.rpartition(".")[0]), "self_attn", False)
            self.kinds.append((path, "self" if other is None or other is hidden else "joint" if own else "cross"))

    def _leave(self, path: str, module: nn.Module, args: Any, output: Any) -> None:
        self._open.pop()
        self.calls[path] += 1
        self.shapes.setdefault(path, _shapes(output))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            named = {**dict(zip(("query", "key", "value"), args, strict=False)), **kwargs}
            self.operands.append(tuple(tuple(named[name].shape) for name in ("query", "key", "value")))
        is_in_up_block = any(path.startswith("up_blocks.") for path in self._open)
        if func is torch.cat and kwargs.get("dim") == 1 and args[0][0].ndim == 4 and is_in_up_block:
            hidden, skip = args[0]
            self.concats.append((hidden.shape[1], skip.shape[1]))
        return func(*args, **kwargs)


def _shapes(output: Any) -> Shapes:
    return tuple(tuple(tensor.shape) for _, tensor in named_tensors(output))


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of what operations create while it is alive, by finalizers of the storages, and how often each operation ran."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.operations: Counter[str] = Counter()
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations[str(func.overloadpacket)] += 1
        before = [leaf.untyped_storage() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, torch.Tensor) and not any(leaf.untyped_storage() is storage for storage in before):
                self._add(leaf.untyped_storage())
        del before
        self.peak = max(self.peak, self.now)
        return output

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._known:
            self._known.add(storage)
            self.now += storage.nbytes()
            weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, size: int) -> None:
        self.now -= size
