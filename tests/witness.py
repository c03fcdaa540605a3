"""An independent witness: a pass of a model that is observed by torch's own hooks and modes, and by nothing of this package."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from tests.tiny import Config
from unetinspect import Trace
from unetinspect.run.build import make_inputs, named_tensors
from unetinspect.run.resolve import diffusers_class
from unetinspect.unets import InputSpec

Shapes = tuple[tuple[int, ...], ...]


def by_hand(config: Config, record: Trace, device: str = "meta") -> tuple[nn.Module, Callable[[], Any]]:
    """Build the model of a config as diffusers does; return it, and how to run it with the inputs that a record lists."""
    with torch.device(device):
        model = diffusers_class(config["_class_name"]).from_config(config).eval()
    specs = [InputSpec.of(given) for given in record.run.inputs]
    inputs = make_inputs(specs, device=torch.device(device), dtype=torch.float32)

    def run() -> Any:
        with torch.no_grad():
            return model(**inputs)

    return model, run


class Witness(TorchFunctionMode):
    """What torch's hooks and modes see of one pass, where attention is computed as two products, which torch's counter knows.

    Attributes:
        params: How many parameters the model has.
        returned: The shape of every tensor that it returned.
        calls: How often each module ran, by path.
        shapes: The shapes of what each module returned at its first call, by path.
        operands: The shapes of query, key and value of each scaled-dot-product attention.
        kinds: What each diffusers `Attention` was given keys of, by its arguments: (path, kind).
        concats: The channels of the two operands of each `torch.cat` inside an up block: (hidden, skip).
        flops: What torch's own counter counted.
    """

    def __init__(self, config: Config, record: Trace, device: str = "meta") -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.shapes: dict[str, Shapes] = {}
        self.operands: list[Shapes] = []
        self.kinds: list[tuple[str, str]] = []
        self.concats: list[tuple[int, int]] = []
        self.flops = FlopCounterMode(display=False)
        self._open: list[str] = []
        self.model, run = by_hand(config, record, device)
        self.params = sum(parameter.numel() for parameter in self.model.parameters())
        for path, module in self.model.named_modules():
            module.register_forward_pre_hook(partial(self._enter, path), with_kwargs=True)
            module.register_forward_hook(partial(self._leave, path))
        with self, self.flops, sdpa_kernel(SDPBackend.MATH) if device != "meta" else nullcontext():
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
        if (
            func is torch.cat
            and kwargs.get("dim") == 1
            and args[0][0].ndim == 4
            and any(path.startswith("up_blocks.") for path in self._open)
        ):
            hidden, skip = args[0]
            self.concats.append((hidden.shape[1], skip.shape[1]))
        return func(*args, **kwargs)


def _shapes(output: Any) -> Shapes:
    return tuple(tuple(tensor.shape) for _, tensor in named_tensors(output))
