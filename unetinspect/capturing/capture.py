"""Captures maps, features and skips of a live UNet: hooks on, the caller's block, hooks off. Imports torch.

A hook on each selected attention layer switches a function mode on only while that layer runs. The mode sees the operands of
its products, and lets the very same call go through. The layers are those of a trace of the UNet's config; which of them
have a size, and on which grid, is seen when they run.
"""

from __future__ import annotations

import inspect
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from unetinspect.capturing.folds import axes_of, folded, kept_tokens
from unetinspect.capturing.plan import Plan, check_taps
from unetinspect.capturing.products import Product, ProductWatch, own_arithmetic
from unetinspect.capturing.rows import check_rows, rows_of
from unetinspect.capturing.seen import Seen
from unetinspect.capturing.taps import At, FeatureTap, MapTap, SkipTap, Tap
from unetinspect.errors import ForwardError, UsageError
from unetinspect.observe.tensors import tensors_in
from unetinspect.record import Attention, Skip, Trace
from unetinspect.record.selection import grid_of, no_match
from unetinspect.record.stages import paths_above
from unetinspect.units import plural

# The axes of a feature, by how many it has.
_AXES = {
    2: ("image", "channel"),
    3: ("image", "token", "channel"),
    4: ("image", "channel", "y", "x"),
    5: ("image", "channel", "frame", "y", "x"),
}
_CATS = {torch.cat, torch.concat, torch.concatenate}
# The captures whose block is open, the outermost first.
_open: list[Run] = []


@contextmanager
def capture(target: Any, *taps: Tap, rows: str | slice = "all", budget: int = 64 * 1024**2, plan: Trace | None = None) -> Iterator[Seen]:
    """Capture what `taps` name (`maps`, `features`, `skips`) in each call of a UNet inside the block.

    The UNet's output is bit-identical, unless a tap changes it. Afterwards the UNet is as it was.

    target  a pipeline with a `.unet`, or a UNet; compiled modules run without the compiler in the block
    rows    the rows of the batch to keep: "all", a slice, or for known pipelines "cond" or "uncond"
    budget  bytes of probabilities to compute at once, in float32
    plan    a `Trace` of the UNet; default: one is made on meta, from its config

    Raises:
        UsageError: A tap selects nothing, or names something that the UNet does not have.
        ConfigError: The UNet differs from its config.
        ForwardError: A selected layer ran on a kernel whose product cannot be seen, or the UNet was not called.
    """
    check_taps(taps)
    pipeline = target if hasattr(target, "unet") else None
    run = Run(Plan.of(target, plan), taps, pipeline, check_rows(rows, pipeline), budget)
    with run.watch():
        yield run.seen
        run.check()
        run.seen.finish()


class Run:
    """One block: its hooks, the pass that is running, and what was captured so far.

    Attributes:
        seen: What the caller gets.
    """

    def __init__(self, plan: Plan, taps: Sequence[Tap], pipeline: Any, rows: str | slice, budget: int) -> None:
        self.seen = Seen(taps, getattr(pipeline, "tokenizer", None))
        self._plan = plan
        self._pipeline = pipeline
        self._rows = rows
        self._budget = budget
        self._map_taps: dict[str, list[MapTap]] = defaultdict(list)
        self._taps = taps
        self._arguments = [*inspect.signature(type(plan.root).forward).parameters][1:]
        # Taps that need each block to run once: backward under gradient checkpointing runs it again, after the call, without them.
        self._runs_once = any(tap.change or getattr(tap, "grad", False) or getattr(tap, "scale", None) is not None for tap in taps)
        self._calls = 0
        # Of the call of the UNet that is running:
        self._is_open = False
        self._timestep: Any = None
        self._batch = 1
        self._grids: dict[str, tuple[int, int]] = {}
        self._executions: Counter[str] = Counter()
        self._modes: list[tuple[nn.Module, TorchFunctionMode]] = []
        self._changed: set[str] = set()
        # Of all calls: the layers that ran; those whose product was seen, with its number of queries and their grid; the taps of maps
        # that had a layer of their size.
        self._entered: dict[str, nn.Module] = {}
        self._queries: dict[str, int] = {}
        self._grids_of: dict[str, tuple[int, int]] = {}
        self._matched: set[int] = set()

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Put hooks on what the taps name while the block runs."""
        taps = self._taps
        with ExitStack() as stack:
            hook = partial(_hook, stack)
            root = self._plan.root
            hook(root.register_forward_pre_hook, self._begin)
            self._hook_maps(hook, [tap for tap in taps if isinstance(tap, MapTap)])
            self._hook_features(hook, [tap for tap in taps if isinstance(tap, FeatureTap)])
            self._hook_skips(hook, [tap for tap in taps if isinstance(tap, SkipTap)])
            hook(root.register_forward_hook, self._end, always_call=True)
            encoder = getattr(self._pipeline, "text_encoder", None)
            if getattr(self._pipeline, "tokenizer", None) is not None and isinstance(encoder, nn.Module):
                hook(encoder.register_forward_pre_hook, self._on_text)
            if self._plan.is_compiled:
                self.seen.notes = ("compiled modules run without the compiler while they are captured",)
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.callback(self._close)
            _open.append(self)
            stack.callback(_open.remove, self)
            yield

    def check(self) -> None:
        """Check, after the block, that all that was selected was captured.

        Raises:
            ForwardError: The UNet was not called, or a selected layer ran on a kernel whose product cannot be seen.
            UsageError: A tap selected no call, or no layer at the sizes of this pass.
        """
        if not self._calls:
            raise ForwardError("the UNet was not called inside the block", hint="run the pipeline, or the UNet, inside the block")
        unseen = next((path for path in self._entered if path not in self._queries), None)
        if unseen is not None:
            processor = type(getattr(self._entered[unseen], "processor", self._entered[unseen])).__name__
            undo = "pipe.disable_xformers_memory_efficient_attention()" if "XFormers" in processor else "unet.set_default_attn_processor()"
            raise ForwardError(f"{unseen} ran on a kernel whose maps cannot be seen ({processor})", hint=undo)
        for tap in self._taps:
            if not any(map(tap.takes_call, range(self._calls))):
                raise UsageError(f"calls={tap.calls!r}: the UNet was called {plural(self._calls, 'time')}", hint="calls are counted from 0")
            if isinstance(tap, MapTap) and id(tap) not in self._matched:
                ran = [layer for layer in self._plan.record.attentions if layer.path in self._queries and tap.selection.takes(layer)]
                sized = [
                    (replace(layer, query_shape=(1, 1, self._queries[layer.path], 1)), self._grids_of.get(layer.path)) for layer in ran
                ]
                said, meant = no_match(sized, tap.selection)
                raise UsageError(said, hint=meant)

    def _hook_maps(self, hook: Callable[..., None], taps: Sequence[MapTap]) -> None:
        layers: dict[str, Attention] = {}
        for tap in taps:
            found = self._plan.layers(tap)
            layers |= found
            for path in found:
                self._map_taps[path].append(tap)
        for around in dict.fromkeys(around for path in layers for around in (*paths_above(path), path)):
            hook(self._plan.modules[around].register_forward_pre_hook, partial(self._note_grid, around))
        for path, layer in layers.items():
            hook(self._plan.modules[path].register_forward_pre_hook, partial(self._enter_layer, layer))
            hook(self._plan.modules[path].register_forward_hook, self._leave, always_call=True)

    def _hook_features(self, hook: Callable[..., None], taps: Sequence[FeatureTap]) -> None:
        for tap in taps:
            for path, module in self._plan.features(tap).items():
                register = module.register_forward_hook if tap.of == "output" else module.register_forward_pre_hook
                hook(register, partial(self._on_feature, path, tap))

    def _hook_skips(self, hook: Callable[..., None], taps: Sequence[SkipTap]) -> None:
        at_target: dict[str, list[tuple[Skip, SkipTap]]] = defaultdict(list)
        for tap in taps:
            for skip in self._plan.skips(tap):
                at_target[skip.target].append((skip, tap))
        for path, found in at_target.items():
            target = self._plan.modules[path]
            hook(target.register_forward_pre_hook, partial(self._enter_target, path, found))
            hook(target.register_forward_hook, self._leave, always_call=True)

    def _begin(self, root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._close()
        self._is_open = True
        self._calls += 1
        given = {**dict(zip(self._arguments, args, strict=False)), **kwargs}
        self._timestep = next((value for name, value in given.items() if name.startswith("timestep") and value is not None), None)
        self._batch = tensors_in([*args, *kwargs.values()])[0].shape[0]
        self._grids.clear()
        self._executions.clear()
        if (
            self._runs_once
            and torch.is_grad_enabled()
            and any(getattr(module, "gradient_checkpointing", False) for module in root.modules())
        ):
            what = "changes and grad=True need a UNet without gradient checkpointing"
            raise UsageError(what, hint="unet.disable_gradient_checkpointing()")

    def _end(self, root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self._is_open = False

    def _close(self) -> None:
        """Switch off the modes that an interrupt left on: torch calls no hook then."""
        while self._modes:
            self._modes.pop()[1].__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def _on_text(self, encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for tensor in tensors_in([*args, *kwargs.values()])[:1]:
            self.seen.read(tensor)

    def _note_grid(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for tensor in tensors_in([*args, *kwargs.values()])[:1]:
            if tensor.ndim in (4, 5):
                self._grids[path] = (tensor.shape[-2], tensor.shape[-1])

    def _enter_layer(self, layer: Attention, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        taps = [tap for tap in self._map_taps[layer.path] if tap.takes_call(self._calls - 1)]
        if not self._is_open or not taps:
            return
        self._entered[layer.path] = module
        execution = self._executions[layer.path]
        self._executions[layer.path] += 1
        products: list[Product] = []

        def on_product(product: Product) -> Callable[[Tensor], Tensor] | None:
            products.append(product)
            return self._on_product(layer, taps, product, len(products) - 1, execution)

        heads = next((getattr(module, name) for name in ("heads", "num_heads") if hasattr(module, name)), 1)
        batch = tensors_in([*args, *kwargs.values()])[0].shape[0]
        changes = any(tap.change for tap in taps)
        self._switch_on(module, ProductWatch(on_product, batch=batch, heads=heads, changes=changes))

    def _switch_on(self, module: nn.Module, mode: TorchFunctionMode) -> None:
        mode.__enter__()  # type: ignore[no-untyped-call]
        self._modes.append((module, mode))

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not self._modes or self._modes[-1][0] is not module:
            return
        mode = self._modes.pop()[1]
        mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        if isinstance(mode, ProductWatch) and not (output is None and sys.exception()):  # also called for a layer that raised
            mode.finish()
        self._changed.clear()

    def _on_product(
        self, layer: Attention, taps: Sequence[MapTap], product: Product, number: int, execution: int
    ) -> Callable[[Tensor], Tensor] | None:
        batch, heads, query_tokens, _ = product.shape
        grid = grid_of(layer, query_tokens, self._grids)
        self._queries[layer.path] = query_tokens
        if grid is not None:
            self._grids_of[layer.path] = grid
        rows = self._rows_in(batch, f"the maps of {layer.path}")
        at = At(layer.path, layer.kind, layer.stage, self._calls - 1, self._timestep, number, grid, heads)
        taps = [tap for tap in taps if tap.selection.takes_size(query_tokens, grid)]
        self._matched.update(map(id, taps))
        for tap in (tap for tap in taps if tap.keep and rows):
            tokens = kept_tokens(tap, product, number)
            queries = None if tap.queries == "mean" else tap.queries
            with own_arithmetic(product.query.device, grad=tap.grad and torch.is_grad_enabled()):
                kept = folded(product, rows, tap, tokens, grid, self._budget)
                self.seen.keep(tap, at, kept, axes_of(tap), execution=execution, tokens=tokens, queries=queries)
        changes = [tap.change for tap in taps if tap.change is not None]
        if not changes:
            return None
        others = [run for run in _open if run is not self and layer.path in run._changed and run._plan.root is self._plan.root]
        if len(changes) > 1 or others:
            raise UsageError(f"two taps change the maps of {layer.path}", hint="combine them in one change")
        self._changed.add(layer.path)

        def changed(probs: Tensor) -> Tensor:
            new = _same_shape(changes[0](probs, at), probs, f"the maps of {layer.path}")
            return probs if new is None else new

        return changed

    def _rows_in(self, batch: int, what: str) -> range:
        """Return the rows to keep of a tensor, whose batch may be that of the pass times the frames, or the pixels, of a video."""
        if self._rows == "all":
            return range(batch)
        rows = rows_of(self._rows, self._pipeline, self._batch)
        if batch % self._batch == 0:
            each = batch // self._batch
            return range(rows.start * each, rows.stop * each)
        if getattr(self._pipeline, "do_perturbed_attention_guidance", False):
            return range(rows.start, min(rows.stop, batch))  # the perturbed rows come last, and have no maps
        raise UsageError(f"{what} have {plural(batch, 'row')}, the pass has {self._batch}", hint='rows="all"')

    def _take(self, tap: Tap, at: At, tensor: Tensor, *, scale: float | None = None, **more: Any) -> Tensor | None:
        """Keep a feature or a skip, and return what takes its place, if anything does."""
        if tap.keep:
            with own_arithmetic(tensor.device, grad=False):
                rows = self._rows_in(tensor.shape[0], f"the tensors of {at.path}")
                kept = tensor[rows.start : rows.stop].detach()
                kept = tap.fold(kept) if isinstance(tap, FeatureTap) and tap.fold is not None else kept
                axes = _AXES.get(kept.ndim, tuple(f"axis_{place}" for place in range(kept.ndim)))
                self.seen.keep(tap, at, kept.clone(), axes, **more)
        if scale is not None:
            return tensor * scale
        if tap.change is None:
            return None
        with torch._C.DisableTorchFunction():  # inside an attention layer, the caller's arithmetic is not one of its products
            return _same_shape(tap.change(tensor, at), tensor, at.path)

    def _on_feature(self, path: str, tap: FeatureTap, module: nn.Module, args: Any, kwargs: Any, *output: Any) -> Any:
        if not self._is_open or not tap.takes_call(self._calls - 1):
            return None
        execution = self._executions[f"{tap.of} of {path}"]
        self._executions[f"{tap.of} of {path}"] += 1
        at = At(path, tap.of, self._plan.stage_of(path), self._calls - 1, self._timestep)
        value = output[0] if output else (args, kwargs)
        return _with_first(value, path, lambda tensor: self._take(tap, at, tensor, execution=execution))

    def _enter_target(self, path: str, found: Sequence[tuple[Skip, SkipTap]], module: nn.Module, args: Any, kwargs: Any) -> Any:
        if not self._is_open:
            return None
        execution = self._executions[f"skips of {path}"]
        self._executions[f"skips of {path}"] += 1
        found = [(skip, tap) for skip, tap in found if skip.call == execution and tap.takes_call(self._calls - 1)]
        if not found:
            return None
        skip = found[0][0]

        def changed(tensor: Tensor) -> Tensor | None:
            at = At(path, "skip", skip.target_stage, self._calls - 1, self._timestep)
            more = {"execution": skip.call, "source": skip.source}
            new = [self._take(tap, at, tensor, scale=tap.scale, **more) for _, tap in found]
            replaced = [tensor for tensor in new if tensor is not None]
            if len(replaced) > 1:
                raise UsageError(f"two taps change the skip of {path}", hint="combine them in one change")
            return replaced[0] if replaced else None

        if skip.concat_in == path:
            self._switch_on(module, _CatWatch(skip, changed))
            return None

        def joined(tensor: Tensor) -> Tensor | None:
            if tensor.shape[1] != skip.concat_channels:
                what = f"{path} was given {tensor.shape[1]} channels instead of {skip.concat_channels}"
                raise ForwardError(what, hint="pass plan=unetinspect.trace(unet)")
            new = changed(tensor[:, skip.hidden_channels :])
            if new is None:
                return None
            replaced = tensor.clone()  # in the same memory format, in which the convolution computes the same to the last bit
            replaced[:, skip.hidden_channels :] = new
            return replaced

        return _with_first((args, kwargs), path, joined)


class _CatWatch(TorchFunctionMode):
    """Sees the concatenation of a skip while a target that concatenates itself runs (Stable Cascade)."""

    def __init__(self, skip: Skip, changed: Callable[[Tensor], Tensor | None]) -> None:
        super().__init__()
        self._channels = [skip.hidden_channels, skip.skip_channels]
        self._change = changed

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _CATS:
            tensors = [*(args[0] if args else kwargs["tensors"])]
            if [tensor.shape[1] for tensor in tensors if tensor.ndim > 1] == self._channels:
                new = self._change(tensors[-1])
                return func([*tensors[:-1], tensors[-1] if new is None else new], dim=1)
        return func(*args, **kwargs)


def _same_shape(new: Tensor | None, old: Tensor, what: str) -> Tensor | None:
    if new is not None and new.shape != old.shape:
        raise UsageError(f"change returned {tuple(new.shape)} for {what}, {tuple(old.shape)}", hint="return a tensor of the same shape")
    return new


def _with_first(value: Any, path: str, changed: Callable[[Tensor], Tensor | None]) -> Any:
    """Return what a module was given or returned with its first tensor replaced; None if nothing takes its place."""
    leaves, structure = tree_flatten(value)
    place = next((place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)), None)
    if place is None:
        raise UsageError(f"{path} was given, or returned, no tensor", hint="capture another module")
    new = changed(leaves[place])
    return None if new is None else tree_unflatten([*leaves[:place], new, *leaves[place + 1 :]], structure)


def _hook(stack: ExitStack, register: Callable[..., Any], hook: Callable[..., Any], **options: Any) -> None:
    stack.callback(register(hook, with_kwargs=True, **options).remove)
