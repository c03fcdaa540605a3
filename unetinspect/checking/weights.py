"""A checkpoint compared with a built UNet, tensor by tensor, by its header alone. Imports torch and diffusers.

A difference is explained by its cause: the config key with which the tensors match once the UNet is built with the checkpoint's value.
Causes are found by trying.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

import torch
from msgspec.structs import replace
from torch import nn

from unetinspect.catalog import load_catalog
from unetinspect.checking.weight_findings import (
    Change,
    Difference,
    class_finding,
    content_finding,
    group_by_module,
    key_finding,
    model_finding,
    place,
    split_extras,
)
from unetinspect.checkpoint.config_from_shapes import HEADS, NOT_IN_TENSORS, defaults_of, read_sides
from unetinspect.checkpoint.file_parts import find_parts, shard_of
from unetinspect.checkpoint.original_layout import FileTensor, diffusers_tensors
from unetinspect.checkpoint.safetensors_header import Header
from unetinspect.errors import ConfigError, UnetInspectError
from unetinspect.record import Shape
from unetinspect.record.check import Finding, WeightsCheck
from unetinspect.record.checkpoint import Checkpoint
from unetinspect.run.build import build_unet
from unetinspect.run.resolve import resolve_config
from unetinspect.unets import plug_classes
from unetinspect.units import plural

# Contents that can be compared with a UNet, or with what attaches to one; "unknown" ones are compared to find out.
_COMPARED = ("pipeline", "unet", "unknown")
_COMPARED_ATTACHED = ("controlnet", "t2i_adapter", "unknown")
_OTHER_PARTS = ("vae", "text_encoder", "ema")
# A trial compares them all; no UNet has as many, so a damaged file is explained by names alone.
_MOST_TENSORS = 20_000
_BLOCKS = (
    *("block_out_channels", "down_block_types", "up_block_types", "mid_block_type", "layers_per_block"),
    *("transformer_layers_per_block", *HEADS, "only_cross_attention"),
)
# Keys that only work together; in the first two families the first key needs the rest.
_FAMILIES = (
    ("addition_embed_type", "addition_time_embed_dim", "addition_embed_type_num_heads", "projection_class_embeddings_input_dim"),
    ("class_embed_type", "projection_class_embeddings_input_dim", "class_embeddings_concat"),
    ("encoder_hid_dim_type", "encoder_hid_dim", "cross_attention_dim"),
    _BLOCKS,
)
Differences = tuple[Difference, ...]


class WeightsReport(NamedTuple):
    """How a checkpoint fits a UNet, and a finding for each cause of what does not."""

    check: WeightsCheck
    findings: tuple[Finding, ...]


def compare_weights(unet: nn.Module, config: Mapping[str, Any], header: Header, checkpoint: Checkpoint) -> WeightsReport:
    """Compare a checkpoint with a UNet by names and shapes.

    `unet` is built on any device, `config` is its whole config; `checkpoint` is what the header says it is. The counts of
    all findings together are what is missing, unexpected and mismatched.
    """
    file = _File(header, checkpoint)
    found, differences = file.compare(unet)
    counts = Counter(difference.kind for difference in differences)
    matched = len(found) - counts["unexpected"] - counts["mismatched"]
    comparable = _COMPARED_ATTACHED if type(unet).__name__ in plug_classes() else _COMPARED
    if checkpoint.content not in comparable or (checkpoint.content == "unknown" and matched == 0):
        return _not_a_unet(unet, header, checkpoint)
    findings: list[Finding] = []
    fits: tuple[str, ...] = ()
    if differences:
        findings = _explain(unet, config, file, found, differences)
        fits = _fitting_models(file)
    check = WeightsCheck(
        name=checkpoint.name,
        layout=checkpoint.layout,
        tensors=len(found),
        matched=matched,
        missing=counts["missing"],
        unexpected=counts["unexpected"],
        mismatched=counts["mismatched"],
        fits=fits,
        family=checkpoint.family,
        notes=file.notes,
    )
    findings.sort(key=lambda finding: -(finding.count or 0))
    if fits and len(findings) > 1:  # one cause says more than which model it is: inpainting, another width of the text
        findings = [model_finding(fits[0], checkpoint.family), *(replace(finding, follows=True) for finding in findings)]
    return WeightsReport(check, tuple(findings))


def verify_weights(unet: nn.Module, config: Mapping[str, Any], header: Header, checkpoint: Checkpoint) -> str:
    """Return a note that the file's tensors match those of the UNet, or of what attaches to one, in name and shape.

    Raises:
        ConfigError: They do not; its problems are what differs.
    """
    check, findings = compare_weights(unet, config, header, checkpoint)
    class_name = type(unet).__name__
    if findings:
        differ = check.missing + check.unexpected + check.mismatched
        fits = f"it fits {', '.join(check.fits)} of the catalog" if check.fits else "`unetinspect identify FILE` shows what its header says"
        raise ConfigError(
            f"{checkpoint.name} does not fit the {class_name} of its config: {plural(differ, 'tensor')} "
            f"{'differs' if differ == 1 else 'differ'}",
            problems=[finding.what for finding in findings],
            hint=fits,
        )
    compared = f"the {class_name} of its config" if class_name in plug_classes() else "this UNet"
    return f"all {plural(check.matched, 'tensor')} of {checkpoint.name} match {compared} in name and shape"


def tensor_shapes(unet: nn.Module) -> dict[str, Shape]:
    """Return the shape of every tensor that a checkpoint of the UNet has: parameters and persistent buffers."""
    return {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}


class _File:
    """The tensors of a file's UNet or ControlNet, to compare them with those of built UNets."""

    def __init__(self, header: Header, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        parts = find_parts(header.tensors)
        wanted = "controlnet" if checkpoint.content == "controlnet" else "unet"
        own = [part for part in parts if part.name == wanted] or [part for part in parts if part.name not in _OTHER_PARTS]
        self.tensors = own[0].tensors if own else {}
        self.names = own[0].names if own else {}
        self.flat = own[0].flat if own else ()
        self.notes = own[0].remarks if own else ()
        if own and own[0].form:
            self.notes += (f"quantized: {own[0].form}, compared by the shapes of the unpacked weights",)
        if number := shard_of(checkpoint.name):
            self.notes += (f"{number}: the others have the rest; give the .safetensors.index.json beside them",)
        self.notes += tuple(f"{plural(len(part.stored), 'tensor')} of a LoRA in it, not compared" for part in parts if part.name == "lora")

    def compare(self, unet: nn.Module) -> tuple[dict[str, FileTensor], Differences]:
        """Return the file's tensors by the names that diffusers has for them, and every one that differs from the UNet's."""
        expected = tensor_shapes(unet)
        found = diffusers_tensors(self.tensors, self.checkpoint.layout, names=self.names, expected=expected)
        differences = []
        for name, shape in expected.items():
            tensor = found.get(name)
            if tensor is None:
                differences.append(Difference("missing", name, None, shape))
            elif tensor.shape != shape and not (tensor.name in self.flat and prod(tensor.shape) == prod(shape)):
                differences.append(Difference("mismatched", name, tensor, shape))
        differences += [Difference("unexpected", name, tensor, None) for name, tensor in found.items() if name not in expected]
        return found, tuple(differences)

    def attempt(self, values: Mapping[str, Any]) -> Differences | None:
        """Build the UNet of a config on meta and return how the file differs from it; None: diffusers cannot, or it is too large."""
        try:
            unet = build_unet(resolve_config(values), device=torch.device("meta"), dtype=torch.float32, name="the checkpoint's UNet")
        except UnetInspectError:
            return None
        return self.compare(unet)[1]


def _explain(
    unet: nn.Module, config: Mapping[str, Any], file: _File, found: Mapping[str, FileTensor], differences: Differences
) -> list[Finding]:
    """Return a finding for each cause: what no config key explains, then the class, then keys, then modules by their names."""
    findings, placed = split_extras(place(differences, found, tensor_shapes(unet)))
    left = tuple(item.difference for item in placed)
    apart = {difference.identity for difference in differences} - {difference.identity for difference in left}

    def attempt(values: Mapping[str, Any]) -> Differences | None:
        differ = file.attempt(values)
        return None if differ is None else tuple(each for each in differ if each.identity not in apart)

    here, there = type(unet).__name__, file.checkpoint.class_name
    tried = len(file.tensors) <= _MOST_TENSORS
    if tried and there not in (None, here):
        still = attempt({**(file.checkpoint.config or {}), "_class_name": there})
        solved, left = _split_solved(left, left if still is None else still)
        findings += [class_finding(str(there), here, solved)] if solved else []
    elif tried:
        shapes = {name: tensor.shape for name, tensor in found.items()}
        inferred = file.checkpoint.config
        # A config that is inferred leaves out keys at their defaults.
        known = read_sides(shapes) if inferred is None else {**defaults_of(there), **read_sides(shapes), **inferred}
        causes, left = _find_causes(left, {**config, "_class_name": here}, known, attempt)
        findings += [key_finding(changes, solved) for changes, solved in causes]
    kept = {difference.identity for difference in left}
    return findings + group_by_module([item for item in placed if item.difference.identity in kept])


def _find_causes(
    differences: Differences,
    config: Mapping[str, Any],
    known: Mapping[str, Any],
    attempt: Callable[[Mapping[str, Any]], Differences | None],
) -> tuple[list[tuple[dict[str, Change], Differences]], Differences]:
    """Return the causes among the keys that are known of the checkpoint, and the differences that none of them explains.

    Keys are tried alone first, then with those that they belong to, at last all together; each that helps stays.
    """
    tried = {key: value for key, value in known.items() if key in config and key not in NOT_IN_TENSORS and not key.startswith("_")}
    pending = {key: value for key, value in tried.items() if value != config[key]}
    applied, left, now = dict(config), differences, len(differences)
    causes: list[tuple[dict[str, Change], Differences]] = []
    progress = True
    while pending and left and progress:
        progress = False
        for group in list(_groups(pending, applied)):
            values = {key: pending[key] for key in group if key in pending}
            trial = {**applied, **values}
            still = attempt(trial) if values and left else None
            if still is None or len(still) >= now:
                continue
            solved, left = _split_solved(left, still)
            if solved:
                causes.append(({key: Change(value, config.get(key)) for key, value in values.items()}, solved))
            applied, now, progress = trial, len(still), True
            pending = {key: value for key, value in pending.items() if key not in values}
            if len(values) > 1:
                break  # keys that were in each other's way may now help alone
    return causes, left


def _split_solved(differences: Differences, still: Differences) -> tuple[Differences, Differences]:
    """Return the differences that are no longer there, and those that still are."""
    known = {difference.identity for difference in still}
    solved = tuple(difference for difference in differences if difference.identity not in known)
    return solved, tuple(difference for difference in differences if difference.identity in known)


def _groups(pending: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the keys to try together: those that can be tried alone, then the families, then all."""
    levels = [len(values.get("block_out_channels") or ()) for values in (pending, config)]
    together = {*HEADS, *(_BLOCKS if levels[0] not in (0, levels[1]) else ())}
    together |= {key for first, *rest in _FAMILIES[:2] if first in pending for key in rest}
    yield from ((key,) for key in pending if key not in together)
    yield from (group for family in _FAMILIES if len(group := tuple(key for key in family if key in pending)) > 1)
    yield tuple(pending)


def _fitting_models(file: _File) -> tuple[str, ...]:
    """Return the models of the catalog that the file fits to the last tensor; those of one structure are built once."""
    fits: list[str] = []
    known: dict[str, bool] = {}
    for entry in filter(None, map(load_catalog().get, file.checkpoint.models)):
        config = {key: value for key, value in entry.config.items() if key == "_class_name" or not key.startswith("_")}
        structure = repr(sorted((key, value) for key, value in config.items() if key not in NOT_IN_TENSORS))
        if structure not in known:
            known[structure] = file.attempt(config) == ()
        if known[structure]:
            fits.append(entry.name)
    return tuple(fits)


def _not_a_unet(unet: nn.Module, header: Header, checkpoint: Checkpoint) -> WeightsReport:
    missing, tensors, class_name = len(tensor_shapes(unet)), len(header.tensors), type(unet).__name__
    check = WeightsCheck(
        name=checkpoint.name, layout=checkpoint.layout, tensors=tensors, matched=0, missing=missing, unexpected=tensors, mismatched=0
    )
    expected = class_name if class_name in plug_classes() else None
    return WeightsReport(check, (content_finding(checkpoint.content, tensors, missing, expected),))
