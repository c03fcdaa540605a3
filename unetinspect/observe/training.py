"""One observed training step: a forward pass that autograd records and its backward pass; and the state of optimizers.

Only lifetimes are followed, as in `memory`: what is alive when the forward pass returns is what autograd keeps, and the output. On
meta, fused attention is torch's own operation, so autograd keeps its operands, its output and the log-sum-exp instead of the map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from math import ceil, prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from unetinspect.errors import UsageError
from unetinspect.observe import meta_kernels
from unetinspect.observe.memory import PeakWatch
from unetinspect.observe.tensors import tensors_in
from unetinspect.record import Optimizer

_SET_FOR_TRAINING = ("training", "gradient_checkpointing", "_gradient_checkpointing_func")
_8BIT_LEAST, _8BIT_BLOCK = 4096, 256


class TrainingStep(NamedTuple):
    """What was seen of one forward and backward pass.

    Attributes:
        kept: The bytes that were alive when the forward pass had returned: kept for the backward pass, and the output.
        peak: The most bytes that were alive at once, of all that the two passes created, without the gradients of `trained`.
        trained: The tensors that got a gradient.
    """

    kept: int
    peak: int
    trained: Sequence[Tensor]


def watch_training(run: Callable[[], Any], root: nn.Module, trained: Sequence[Tensor], *, checkpointing: bool) -> TrainingStep:
    """Run the forward pass of `root` in train mode by calling `run`, then the backward pass; afterwards `root` is as it was.

    The gradients of `trained` exist before, as they do when they are accumulated over several batches.

    Raises:
        UsageError: `checkpointing` is wanted, and the class does not support it.
    """
    watch = PeakWatch()
    reached: list[Tensor] = []
    kept = 0

    def go_back(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal kept
        kept = watch.now
        outputs = [tensor for tensor in tensors_in(output) if tensor.requires_grad]
        if outputs:
            torch.autograd.backward(outputs, [torch.empty_like(tensor) for tensor in outputs])

    with ExitStack() as on:
        on.enter_context(_in_train_mode(root, checkpointing=checkpointing))
        for tensor in trained:
            tensor.grad = torch.empty_like(tensor)
            on.callback(setattr, tensor, "grad", None)
            on.callback(tensor.register_post_accumulate_grad_hook(reached.append).remove)  # type: ignore[no-untyped-call]
        for mode in (torch.enable_grad(), watch, _FusedAttention()):
            on.enter_context(mode)
        # In a hook, because blocks that run again need the tensors that `functional_call` gives a live module.
        on.callback(root.register_forward_hook(go_back).remove)
        run()
    return TrainingStep(kept, watch.peak, reached)


def optimizer_bytes(optimizer: Optimizer, trained: Iterable[Tensor]) -> int:
    """Return the bytes of an optimizer's state on the device: of torch's, and of bitsandbytes' AdamW8bit."""
    return sum(map(_STATE_BYTES[optimizer], trained))


def step_bytes(optimizer: Optimizer, trained: Iterable[Tensor]) -> int:
    """Return the bytes that an optimizer's step creates: torch's AdamW updates all tensors at once on CUDA, with one copy of each."""
    return sum(tensor.nbytes for tensor in trained) if optimizer == "adamw" else 0


def _adafactor_bytes(tensor: Tensor) -> int:
    """Return the bytes of the mean squares of rows and columns, the last two axes."""
    if tensor.ndim < 2:
        return tensor.nbytes
    *outer, rows, columns = tensor.shape
    return prod(outer) * (rows + columns) * tensor.element_size()


def _8bit_bytes(tensor: Tensor) -> int:
    """Return the bytes of two moments, each with one float32 scale a block; small tensors have float32 moments."""
    count = tensor.numel()
    return 2 * (4 * count if count < _8BIT_LEAST else count + 4 * ceil(count / _8BIT_BLOCK))


_STATE_BYTES: dict[Optimizer, Callable[[Tensor], int]] = {
    "adamw": lambda tensor: 2 * tensor.nbytes,
    "sgd": lambda tensor: 0,
    "adafactor": _adafactor_bytes,
    "8bit": _8bit_bytes,
}


class _FusedAttention(TorchFunctionMode):
    """Runs attention on meta by the operation that torch runs on the CPU; on meta torch would decompose it, and keep the map."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
            named = {**dict(zip(names, args, strict=False)), **kwargs}
            query, key, value, mask = named["query"], named["key"], named["value"], named.get("attn_mask")
            one_width = query.shape[-1] == value.shape[-1]
            if one_width and not named.get("dropout_p") and meta_kernels.is_fused(query, key, value, mask):
                fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
                return fused(query, key, value, 0.0, named.get("is_causal", False), attn_mask=mask, scale=named.get("scale"))[0]
        return func(*args, **kwargs)


def _checkpoint(module: nn.Module, *args: Any) -> Any:
    """Run a module as diffusers does under gradient checkpointing. The backward pass, which runs it again, has no function modes."""
    return checkpoint(module.__call__, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), _FusedAttention()))


@contextmanager
def _in_train_mode(root: nn.Module, *, checkpointing: bool) -> Iterator[None]:
    before = [(vars(module), {name: vars(module)[name] for name in _SET_FOR_TRAINING if name in vars(module)}) for module in root.modules()]
    try:
        for attributes, own in before:
            attributes.update({"training": True} | ({"gradient_checkpointing": False} if "gradient_checkpointing" in own else {}))
        if checkpointing:
            try:
                root.enable_gradient_checkpointing(_checkpoint)  # type: ignore[operator]
            except ValueError:
                name = type(root).__name__
                raise UsageError(f"{name} does not support gradient checkpointing", hint="leave out --gradient-checkpointing") from None
        yield
    finally:
        for attributes, own in before:
            for name in _SET_FOR_TRAINING:
                attributes.pop(name, None)
            attributes.update(own)
