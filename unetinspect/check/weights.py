"""A checkpoint held against a built UNet, tensor by tensor, by its header alone. Imports torch and diffusers.

What differs is told by its cause: the config key whose value in the checkpoint, once the UNet is built with it, makes the tensors alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from diffusers.loaders import single_file_utils
from torch import nn

from unetinspect.catalog import load_catalog
from unetinspect.check.weights_causes import find_causes, read_keys, split_solved
from unetinspect.check.weights_findings import class_finding, content_finding, group_by_module, key_finding, place, split_extras
from unetinspect.check.weights_tensors import Comparison, Difference, FileTensor, FileTensors, compare_tensors
from unetinspect.checkpoint.config_keys import DEFAULTS
from unetinspect.checkpoint.header import Header
from unetinspect.errors import ConfigError, UnetInspectError
from unetinspect.record import Shape
from unetinspect.record.check import Finding, WeightsCheck
from unetinspect.record.checkpoint import Checkpoint
from unetinspect.run.build import build_unet, quiet_diffusers
from unetinspect.run.resolve import resolve_config
from unetinspect.units import plural

# What can be held against a UNet; of what is unknown, only the comparison tells.
_COMPARED = ("pipeline", "unet", "controlnet", "unknown")
_OTHER_PARTS = ("vae", "text_encoder", "ema")
_BLOCKS = ("input_blocks", "middle_block", "output_blocks")
# Keys that change names or shapes, and that a config found from a header leaves out where they are at their defaults.
_SHOWN_BY_TENSORS = (
    *("use_linear_projection", "transformer_layers_per_block", "reverse_transformer_layers_per_block", "layers_per_block"),
    *("addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim", "class_embed_type"),
    *("num_class_embeds", "time_cond_proj_dim", "encoder_hid_dim", "encoder_hid_dim_type", "attention_type", "mid_block_type"),
    *("conv_in_kernel", "conv_out_kernel"),
)
# diffusers' converter looks at every tensor for every block; no UNet has more than 40.
_MOST_BLOCKS = 400
# A trial compares them all; no UNet has as many, and what a damaged file has is told by names alone.
_MOST_TENSORS = 20_000


class WeightsReport(NamedTuple):
    """How a checkpoint fits a UNet, and a finding for each cause of what does not."""

    check: WeightsCheck
    findings: tuple[Finding, ...]


def compare_weights(unet: nn.Module, config: Mapping[str, Any], header: Header, checkpoint: Checkpoint) -> WeightsReport:
    """Compare a checkpoint with a UNet by names and shapes.

    `unet` is built on any device, `config` is its whole config; `checkpoint` is what the header says it is. The counts of
    all findings together are what is missing, unexpected and mismatched.
    """
    if checkpoint.content not in _COMPARED:
        return _no_unet(unet, header, checkpoint)
    part = unet_tensors(header, checkpoint)
    found, comparison = _compare(unet, config, part, checkpoint)
    if checkpoint.content == "unknown" and comparison.matched == 0:
        return _no_unet(unet, header, checkpoint)
    findings: list[Finding] = []
    fits: tuple[str, ...] = ()
    if comparison.differences:
        findings = _explain(unet, config, part, checkpoint, (found, comparison))
        fits = _fitting_models(part, checkpoint)
    check = WeightsCheck(
        name=checkpoint.name,
        layout=checkpoint.layout,
        tensors=len(found.named) + len(found.untaken),
        matched=comparison.matched,
        missing=comparison.count("missing"),
        unexpected=comparison.count("unexpected"),
        mismatched=comparison.count("mismatched"),
        fits=fits,
    )
    return WeightsReport(check, tuple(sorted(findings, key=lambda finding: -(finding.count or 0))))


def verify_weights(unet: nn.Module, config: Mapping[str, Any], header: Header, checkpoint: Checkpoint) -> str:
    """Return a note that the file's tensors are those of the UNet, name for name and shape for shape.

    Raises:
        ConfigError: They are not; its problems are what differs.
    """
    check, findings = compare_weights(unet, config, header, checkpoint)
    if findings:
        differ = check.missing + check.unexpected + check.mismatched
        raise ConfigError(
            f"{checkpoint.name} does not fit the {type(unet).__name__} of its config: {plural(differ, 'tensor')} "
            f"{'differs' if differ == 1 else 'differ'}",
            problems=[finding.what for finding in findings],
            hint=_advice(check.fits),
        )
    return f"{plural(check.matched, 'tensor')} of {checkpoint.name} are those of this UNet, name for name and shape for shape"


def tensor_shapes(unet: nn.Module) -> dict[str, Shape]:
    """Return the shape of every tensor that a checkpoint of the UNet has: parameters and persistent buffers."""
    return {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}


def unet_tensors(header: Header, checkpoint: Checkpoint) -> dict[str, FileTensor]:
    """Return the tensors of a checkpoint's UNet by their names without the prefix that they have beside other models."""
    wanted = "controlnet" if checkpoint.content == "controlnet" else "unet"
    own = [part.prefix for part in checkpoint.parts if part.name == wanted][:1]
    own = own or [part.prefix for part in checkpoint.parts if part.name not in _OTHER_PARTS][:1] or [""]
    others = {part.prefix for part in checkpoint.parts} - set(own)
    found = {}
    for name, spec in header.tensors.items():
        prefix = max((prefix for prefix in (*own, *others) if name.startswith(prefix)), key=len, default=None)
        if prefix in own:
            found[name.removeprefix(prefix)] = FileTensor(name, spec.shape)
    return found


def _compare(
    unet: nn.Module, config: Mapping[str, Any], part: dict[str, FileTensor], checkpoint: Checkpoint
) -> tuple[FileTensors, Comparison]:
    """Compare; the names of an original checkpoint depend on the config, so its own is tried where the UNet's does not fit."""
    expected = tensor_shapes(unet)
    if checkpoint.layout != "original":
        found = _renamed(unet, part)
        return found, compare_tensors(found, expected)
    best: tuple[FileTensors, Comparison] | None = None
    for each in (config, checkpoint.config):
        if each is not None and (best is None or best[1].differences):
            found = _converted(part, each, checkpoint.class_name or type(unet).__name__)
            comparison = compare_tensors(found, expected)
            if best is None or len(comparison.differences) < len(best[1].differences):
                best = found, comparison
    assert best is not None  # noqa: S101  the UNet's own config is always there
    return best


def _renamed(unet: nn.Module, part: dict[str, FileTensor]) -> FileTensors:
    """Give old diffusers names of attention layers (`query`, `proj_attn`) the present ones, as diffusers does on loading."""
    named = dict(part)
    rename = getattr(unet, "_fix_state_dict_keys_on_load", None)
    if rename is not None:
        rename(named)
    return _with_untaken(named, part)


def _converted(part: dict[str, FileTensor], config: Mapping[str, Any], class_name: str) -> FileTensors:
    """Give the tensors of an original checkpoint diffusers' names, by diffusers' own converters; where those fail, no tensor has one."""
    try:
        with quiet_diffusers():
            named = _convert(part, _for_the_converter(config), class_name) if _can_be_converted(part) else {}
    except Exception:  # the converters read keys of a config that another checkpoint would have
        named = {}
    return _with_untaken({name: tensor for name, tensor in named.items() if isinstance(tensor, FileTensor)}, part)


def _convert(part: dict[str, FileTensor], config: dict[str, Any], class_name: str) -> dict[str, Any]:
    converters: Any = single_file_utils
    named: dict[str, Any]
    if class_name.startswith("ControlNet"):
        named = converters.convert_controlnet_checkpoint(part, config)
    elif class_name == "StableCascadeUNet":
        named = converters.convert_stable_cascade_unet_single_file_to_diffusers(part)
    else:
        prefixed = {converters.LDM_UNET_KEY + name: tensor for name, tensor in part.items()}
        named = converters.convert_ldm_unet_checkpoint(prefixed, config)
    return named


def _can_be_converted(part: Iterable[str]) -> bool:
    blocks = {name.split(".", 2)[1] for name in part if name.startswith(_BLOCKS) and "." in name}
    return len(blocks) <= _MOST_BLOCKS


def _for_the_converter(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config with one number for `layers_per_block`, where a list says the same: the converters take no list."""
    layers = config.get("layers_per_block")
    same = isinstance(layers, list | tuple) and len(set(layers)) == 1
    return {**config, "layers_per_block": layers[0]} if same and layers else dict(config)


def _with_untaken(named: dict[str, FileTensor], part: Mapping[str, FileTensor]) -> FileTensors:
    taken = {tensor.name for tensor in named.values()}
    return FileTensors(named, {name: tensor for name, tensor in part.items() if tensor.name not in taken})


def _explain(
    unet: nn.Module,
    config: Mapping[str, Any],
    part: dict[str, FileTensor],
    checkpoint: Checkpoint,
    compared: tuple[FileTensors, Comparison],
) -> list[Finding]:
    """Return a finding for each cause: what no config key explains, then the class, then keys, then modules by their names."""
    (found, comparison), expected = compared, tensor_shapes(unet)
    findings, placed = split_extras(place(comparison.differences, found, expected))
    left = tuple(item.difference for item in placed)
    apart = {difference.identity for difference in comparison.differences} - {difference.identity for difference in left}

    def attempt(values: Mapping[str, Any]) -> tuple[Difference, ...] | None:
        built = _build(values)
        if built is None:
            return None
        return tuple(each for each in _compare(built, values, part, checkpoint)[1].differences if each.identity not in apart)

    here, tried = type(unet).__name__, len(part) <= _MOST_TENSORS
    if tried and checkpoint.class_name not in (None, here):
        still = attempt({**(checkpoint.config or {}), "_class_name": checkpoint.class_name})
        solved, left = split_solved(left, left if still is None else still)
        findings += [class_finding(str(checkpoint.class_name), here, solved)] if solved else []
    elif tried:
        told = {**read_keys(found, config), **_told_by(checkpoint)}
        causes, left = find_causes(left, {**config, "_class_name": here}, told, attempt)
        findings += [key_finding(cause.changes, cause.differences) for cause in causes]
    kept = {difference.identity for difference in left}
    return findings + group_by_module([item for item in placed if item.difference.identity in kept])


def _told_by(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the config that the header tells, with diffusers' defaults for the keys that it would show if they were other."""
    if checkpoint.config is None:
        return {}
    defaults = DEFAULTS.get(checkpoint.class_name or "", {})
    return {**{key: defaults[key] for key in _SHOWN_BY_TENSORS if key in defaults}, **checkpoint.config}


def _build(values: Mapping[str, Any]) -> nn.Module | None:
    """Build a UNet on meta; None: diffusers cannot, or it would take too long."""
    try:
        resolved = resolve_config(values)
        return build_unet(resolved, device=torch.device("meta"), dtype=torch.float32, name="the checkpoint's UNet")
    except UnetInspectError:
        return None


def _fitting_models(part: dict[str, FileTensor], checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return the models of the catalog that the file fits to the last tensor; those of one config are built once."""
    fits: list[str] = []
    known: dict[str, bool] = {}
    for name in checkpoint.models:
        entry = load_catalog().get(name)
        if entry is None:
            continue
        config = {key: value for key, value in entry.config.items() if key == "_class_name" or not key.startswith("_")}
        structure = repr(sorted((key, value) for key, value in config.items() if key not in ("sample_size", "upcast_attention")))
        if structure not in known:
            built = _build(config)
            known[structure] = built is not None and not _compare(built, config, part, checkpoint)[1].differences
        fits += [name] if known[structure] else []
    return tuple(fits)


def _no_unet(unet: nn.Module, header: Header, checkpoint: Checkpoint) -> WeightsReport:
    expected, tensors = tensor_shapes(unet), len(header.tensors)
    check = WeightsCheck(
        name=checkpoint.name, layout=checkpoint.layout, tensors=0, matched=0, missing=len(expected), unexpected=tensors, mismatched=0
    )
    return WeightsReport(check, (content_finding(checkpoint.content, tensors, len(expected)),))


def _advice(fits: tuple[str, ...]) -> str | None:
    return f"it fits {', '.join(fits)} of the catalog" if fits else "`unetinspect identify FILE` shows what its header tells"
