"""From an observation to the sections of the record. Reads the module tree, changes nothing. Imports torch."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from math import prod
from typing import get_args

from torch import Tensor, nn

from unetinspect.observe import Observation
from unetinspect.observe.calls import ModuleCall
from unetinspect.observe.macs import MacKind, attention_macs
from unetinspect.observe.tensors import dtype_name
from unetinspect.observe.training import TrainingStep, optimizer_bytes, step_bytes
from unetinspect.record import (
    Attention,
    AttentionCounts,
    AttentionKind,
    MacsByKind,
    Module,
    Optimizer,
    Shape,
    Skip,
    SkipCounts,
    Stage,
    Totals,
    TrainingMemory,
    Uncounted,
)
from unetinspect.record.stages import StageOf, paths_above, roles_of, stage_finder

_RESNETS = ("resnets",)  # and Kandinsky 3's resnets_in and resnets_out
_TRANSFORMERS = ("transformer_blocks", "temporal_transformer_blocks", "transformer_layers")  # images, videos, aMUSEd


def stage_finder_of(root: nn.Module) -> StageOf:
    """Return the function that returns the stage of a path in this module tree."""
    return stage_finder({name for name, child in root.named_children() if isinstance(child, nn.ModuleList)})


def make_modules(root: nn.Module, seen: Observation) -> tuple[Module, ...]:
    """Describe every module of the tree, in the order of `named_modules()`."""
    calls: dict[str, list[ModuleCall]] = defaultdict(list)
    for call in seen.calls:
        calls[call.path].append(call)
    params, tensors = count_params(root), _own_tensors(root)
    macs, peaks = _costs(seen)
    return tuple(
        Module(
            path=path,
            class_name=type(module).__name__,
            detail=module.extra_repr(),
            in_shape=calls[path][0].in_shape if calls[path] else None,
            out_shape=calls[path][0].out_shape if calls[path] else None,
            params=params[path],
            calls=len(calls[path]),
            step=calls[path][0].step if calls[path] else None,
            tensors=tensors[path],
            macs=macs[path].total(),
            macs_by_kind=MacsByKind(conv=macs[path]["conv"], linear=macs[path]["linear"], attention=macs[path]["attention"]),
            flops=2 * macs[path].total(),
            activation_bytes=peaks[path],
        )
        for path, module in root.named_modules()
    )


def make_attentions(root: nn.Module, seen: Observation, stage_of: StageOf) -> tuple[Attention, ...]:
    """Describe every attention that was computed, in the order of computation."""
    # The order of `attn_processors`, which the keys of an IP-Adapter follow.
    with_processor = (path for path, module in root.named_modules() if hasattr(type(module), "get_processor"))
    index = {path: place for place, path in enumerate(with_processor)}
    attentions = []
    for product in seen.attentions:
        path = product.owner.path
        batch, heads, queries, head_dim = product.query_shape
        map_shape = (batch * heads, queries, product.key_shape[2])
        attentions.append(
            Attention(
                path=path,
                stage=stage_of(path) or path,
                index=index.get(path),
                kind=product.kind,
                processor=product.processor,
                heads=heads,
                head_dim=head_dim,
                query_shape=product.query_shape,
                key_shape=product.key_shape,
                value_shape=product.value_shape,
                map_shape=map_shape,
                map_bytes=prod(map_shape) * product.itemsize,
                materialised=product.materialised,
                call=product.owner.number,
                macs=attention_macs(product.query_shape, product.key_shape, product.value_shape),
            )
        )
    return tuple(attentions)


def make_skips(seen: Observation, stage_of: StageOf) -> tuple[Skip, ...]:
    """Describe every skip, in the order in which they were consumed."""
    index = {sources: place for place, sources in enumerate(seen.produced)}
    skips = []
    for order, link in enumerate(seen.skips):
        source, target = link.sources[-1], link.target or link.executing
        skips.append(
            Skip(
                index=index[link.sources],
                order=order,
                source=source.path,
                source_stage=stage_of(source.path) or source.path,
                source_step=source.step,
                sources=tuple(call.path for call in link.sources),
                shape=link.skip_shape,
                target=target.path,
                target_stage=stage_of(target.path) or target.path,
                target_step=target.step,
                combine="concat",
                hidden_channels=link.hidden_channels,
                skip_channels=link.skip_shape[1],
                concat_channels=link.concat_channels,
                out_channels=target.out_shape[1] if target.out_shape is not None and len(target.out_shape) > 1 else None,
                conv_channels=link.conv_channels,
                shortcut=link.shortcut.path if link.shortcut else None,
                call=target.number,
                concat_in=link.executing.path,
                changes=link.changes,
            )
        )
    return tuple(skips)


def make_stages(modules: Iterable[Module], seen: Observation, attentions: Iterable[Attention], stage_of: StageOf) -> tuple[Stage, ...]:
    """Describe every stage that ran, in execution order: its module, its costs, and what it contains."""
    attentions, module_at = tuple(attentions), {module.path: module for module in modules}
    calls: dict[str, list[ModuleCall]] = defaultdict(list)
    for call in seen.calls:
        stage = stage_of(call.path)
        if stage:
            calls[stage].append(call)
    from_sample = {stage for stage, inside in calls.items() if any(call.step in seen.from_main_input for call in inside)}
    return tuple(
        Stage.of(
            module_at[stage],
            name=stage,
            role=role,
            in_shape=inside[0].in_shape,
            out_shape=_outermost(inside)[-1].out_shape,
            resnets=_items_of_lists(inside, _RESNETS),
            transformer_blocks=_items_of_lists(inside, _TRANSFORMERS),
            attention=count_attention(attention for attention in attentions if attention.stage == stage),
        )
        for (stage, inside), role in zip(calls.items(), roles_of(list(calls), from_sample), strict=True)
    )


def make_training(root: nn.Module, step: TrainingStep, optimizer: Optimizer, *, checkpointing: bool) -> TrainingMemory:
    """Add up the memory of a training step."""
    gradients, state = sum(tensor.nbytes for tensor in step.trained), optimizer_bytes(optimizer, step.trained)
    created = step_bytes(optimizer, step.trained)
    return TrainingMemory(
        optimizer=optimizer,
        gradient_checkpointing=checkpointing,
        gradient_bytes=gradients,
        optimizer_bytes=state,
        kept_bytes=step.kept,
        peak_activation_bytes=step.peak,
        step_bytes=created,
        total_bytes=sum(weight.nbytes for weight in root.parameters()) + gradients + state + max(step.peak, created),
    )


def make_totals(
    root: nn.Module, seen: Observation, attentions: Iterable[Attention], whole: Module, training: TrainingMemory | None = None
) -> Totals:
    """Add up the whole UNet, which `whole` describes as a module."""
    weights: Counter[str] = Counter()
    for parameter in root.parameters():
        weights[dtype_name(parameter.dtype)] += parameter.numel() * parameter.element_size()
    return Totals.of(
        whole,
        weight_bytes=weights.total(),
        weight_bytes_by_dtype=dict(weights),
        peak_activation_bytes=seen.peak.size,
        peak_activation_in=seen.peak.call.path if seen.peak.call else None,
        peak_activation_bytes_with_maps=seen.peak_with_maps.size,
        peak_activation_in_with_maps=seen.peak_with_maps.call.path if seen.peak_with_maps.call else None,
        inference_bytes=weights.total() + seen.peak.size,
        training=training,
        uncounted=tuple(
            Uncounted(op=op, calls=calls) for op, calls in sorted(seen.uncounted.items(), key=lambda item: (-item[1], item[0])) if calls
        ),
        attention=count_attention(attentions),
        # A model without up blocks has no skips: what its down blocks return are residuals (ControlNet).
        skips=SkipCounts(produced=len(seen.produced) if seen.skips else 0, consumed=len({link.sources for link in seen.skips})),
    )


def count_attention(attentions: Iterable[Attention]) -> AttentionCounts:
    """Count attention layers by kind; a layer that ran several times counts once."""
    layers = {(attention.path, attention.kind): attention.processor is not None for attention in attentions}
    pooling = sum(kind == "pooling" for _, kind in layers)
    kinds: Mapping[AttentionKind, int] = Counter(kind for (_, kind), has_processor in layers.items() if has_processor and kind != "pooling")
    counts = {kind: kinds.get(kind, 0) for kind in get_args(AttentionKind) if kind != "pooling"}
    without = len(layers) - pooling - sum(kinds.values())
    return AttentionCounts(self_=counts.pop("self"), **counts, pooling=pooling, without_processor=without, total=sum(kinds.values()))


def count_params(root: nn.Module) -> Counter[str]:
    """Count the parameters of every module with its children, by path; a shared parameter counts once in each."""
    sizes: dict[int, int] = {}
    holders: dict[int, set[str]] = defaultdict(set)
    for name, parameter in root.named_parameters(remove_duplicate=False):
        sizes[id(parameter)] = parameter.numel()
        holders[id(parameter)].update(paths_above(name))
    counts: Counter[str] = Counter()
    for parameter_id, paths in holders.items():
        for path in paths:
            counts[path] += sizes[parameter_id]
    return counts


def _own_tensors(root: nn.Module) -> dict[str, dict[str, Shape]]:
    """List the shapes of the tensors in the UNet's `state_dict()` that belong to each module itself, by its path."""
    found: dict[str, dict[str, Shape]] = defaultdict(dict)
    for name, tensor in root.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):  # `get_extra_state` may return anything
            path, _, own = name.rpartition(".")
            found[path][own] = tuple(tensor.shape)
    return found


def _costs(seen: Observation) -> tuple[dict[str, Counter[MacKind]], Counter[str]]:
    """Return the MACs and the peak of live bytes of each module with its children, by path; "" is the whole UNet."""
    around = {call.path: (call.path, *paths_above(call.path)) for call in seen.calls}
    macs: dict[str, Counter[MacKind]] = defaultdict(Counter)
    for count in seen.macs:
        for path in around[count.call.path] if count.call else ():
            macs[path][count.kind] += count.macs
    peaks: Counter[str] = Counter()
    for call in seen.calls:
        for path in around[call.path]:
            peaks[path] = max(peaks[path], call.live_bytes)
    return macs, peaks


def _items_of_lists(calls: list[ModuleCall], names: tuple[str, ...]) -> int:
    """Count the modules that ran and are items of a list whose name begins with one of these."""
    found = set()
    for call in calls:
        *_, holder, item = ("", *call.path.split("."))
        if holder.startswith(names) and item.isdigit():
            found.add(call.path)
    return len(found)


def _outermost(inside: list[ModuleCall]) -> list[ModuleCall]:
    """Return the calls of a stage that are not made inside another call of it."""
    steps = {call.step for call in inside}
    return [call for call in inside if call.parent is None or call.parent.step not in steps]
