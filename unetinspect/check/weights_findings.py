"""The sentences that say how a checkpoint differs from a UNet, one for each cause. Knows neither torch nor diffusers."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from unetinspect.check.weights_tensors import KINDS, Difference, FileTensors, Kind
from unetinspect.record.check import Finding
from unetinspect.units import format_shape, plural, visible

EXAMPLES = 3
# A damaged file can have thousands of patterns; beyond these they are told by their first part, and the smallest together.
_MOST_GROUPS = 8
# Only a damaged file has deeper names; a prefix of each of a million parts would fill the memory.
_DEEPEST = 24
_LONGEST = 200


class Extra(NamedTuple):
    """Tensors that say by their names what they are.

    Attributes:
        marks: What such a name has one of, with a dot before and behind it.
        what: What they are.
        advice: What to do about it.
        apart: Whether they are no part of a UNet's config: no key of it could explain them.
    """

    marks: tuple[str, ...]
    what: str
    advice: str | None = None
    apart: bool = False


EXTRAS = (
    Extra(
        ("to_k_ip.", "to_v_ip.", ".ip_adapter.", ".image_proj."),
        "an IP-Adapter's",
        "an IP-Adapter is loaded on top of a UNet, by `load_ip_adapter` of the pipeline",
        apart=True,
    ),
    Extra((".lora_", ".lora."), "a LoRA's", "a LoRA is loaded on top of a UNet, by `load_lora_weights` of the pipeline", apart=True),
    Extra(
        (".motion_modules.",),
        "motion modules, as AnimateDiff adds to a UNet",
        "`UNetMotionModel.from_unet2d(unet, motion_adapter)` puts both together",
        apart=True,
    ),
    Extra((".position_net.", ".fuser."), 'GLIGEN\'s, which attention_type "gated" or "gated-text-image" asks for'),
    Extra((".time_embedding.cond_proj.",), "the guidance embedding of latent consistency models: time_cond_proj_dim"),
    Extra((".add_k_proj.", ".add_v_proj."), "attention to more than the text: addition_embed_type and encoder_hid_dim_type ask for it"),
    Extra((".encoder_hid_proj.",), "a projection of encoder_hidden_states, which encoder_hid_dim_type asks for"),
    Extra((".controlnet_", ".input_hint_block.", ".zero_convs.", ".middle_block_out."), "a ControlNet's"),
    Extra((".temp_convs.", ".temp_attentions.", ".temporal", ".time_stack.", ".time_mixer."), "layers over time, as video UNets have"),
    Extra((".add_embedding.",), "an embedding that addition_embed_type asks for"),
    Extra((".class_embedding.",), "an embedding that class_embed_type or num_class_embeds asks for"),
    Extra((".label_emb.",), "an embedding that addition_embed_type, class_embed_type or num_class_embeds asks for"),
)

_IN_CHANNELS = {
    9: "an inpainting checkpoint: latent 4 + mask 1 + latent of the masked image 4",
    8: "a checkpoint that is also given an image's latent, as instruct-pix2pix is: latent 4 + image 4",
    7: "an upscaler: latent 4 + low-resolution image 3",
    5: "a depth checkpoint: latent 4 + depth map 1",
    4: "a checkpoint that is given a latent alone: latent 4",
}
_MEANINGS = {
    "time_cond_proj_dim": "the guidance embedding of latent consistency models",
    "attention_type": "GLIGEN",
}
# What no tensor shows: it goes along where blocks change, and explains nothing.
_UNSEEN = ("attention_head_dim", "num_attention_heads")


class Change(NamedTuple):
    """What a config key is in the file, and what it is in this UNet."""

    found: Any
    expected: Any


def key_finding(changes: Mapping[str, Change], differences: Sequence[Difference]) -> Finding:
    """Say that config keys explain these tensors."""
    shown = {key: change for key, change in changes.items() if key not in _UNSEEN} or dict(changes)
    found = ", ".join(f"{key} {_value(change.found)}" for key, change in shown.items())
    single = len(shown) == 1
    here = ", ".join(_value(change.expected) if single else f"{key} {_value(change.expected)}" for key, change in shown.items())
    notes = [note for key, change in shown.items() if (note := _meaning(key, change))]
    what = f"{plural(len(differences), 'tensor')}: {found}, expected {here}" + "".join(f" ({note})" for note in notes)
    options = " ".join(f"--set {shlex.quote(f'{key}={_json(change.found)}')}" for key, change in changes.items())
    return _finding(_main_kind(differences), what, differences, where=tuple(shown), advice=f"`{options}` says what the file has")


def class_finding(found: str, expected: str, differences: Sequence[Difference]) -> Finding:
    """Say that these tensors differ because the file is of another class."""
    what = f"{plural(len(differences), 'tensor')}: the file is of a {found}, and this UNet is a {expected}"
    return _finding(_main_kind(differences), what, differences, where=("_class_name",), advice=f"`--set _class_name={found}` asks for it")


def content_finding(content: str, tensors: int, missing: int) -> Finding:
    """Say that a checkpoint holds no UNet at all: all its tensors are unexpected, and all of the UNet's missing."""
    what, advice = _CONTENTS.get(content, _UNKNOWN)
    return Finding(
        about="weights",
        kind="unexpected",
        what=f"this is {what} of {plural(tensors, 'tensor')}, and no UNet: all {missing} tensors of this UNet are missing",
        advice=advice,
        count=tensors + missing,
    )


_UNKNOWN = ("a file", "`unetinspect identify FILE` shows what is in it")
_ON_TOP = "it is loaded on top of a UNet; what can be checked here is the UNet's own file"
_CONTENTS = {
    "lora": ("a LoRA", _ON_TOP),
    "ip_adapter": ("an IP-Adapter", _ON_TOP),
    "motion_adapter": ("a motion adapter", _ON_TOP),
    "t2i_adapter": ("a T2I-Adapter", "it runs beside a UNet; what can be checked here is the UNet's own file"),
    "vae": ("a VAE", "in a pipeline's repository the UNet's file lies in the folder `unet`"),
    "text_encoder": ("a text encoder", "in a pipeline's repository the UNet's file lies in the folder `unet`"),
    "textual_inversion": ("a textual inversion", "it belongs to a text encoder, and changes no UNet"),
    "transformer": ("a diffusion transformer", "its model has a transformer where others have a UNet"),
}


class Placed(NamedTuple):
    """A difference, and the pattern of the module that it belongs to: "down_blocks.*.motion_modules", with a `*` for each number."""

    pattern: str
    difference: Difference


def place(differences: Iterable[Difference], found: FileTensors, expected: Iterable[str]) -> list[Placed]:
    """Put every difference in a module: of what one side lacks, the largest that it has nothing of."""
    in_file, in_unet = _prefixes(found.named), _prefixes(expected)
    placed = []
    for difference in differences:
        if difference.kind == "mismatched":
            module = _parent(difference.name)
        else:
            module = _first_absent(difference.name, in_file if difference.kind == "missing" else in_unet)
        placed.append(Placed(_starred(module), difference))
    return placed


def split_extras(placed: Iterable[Placed]) -> tuple[list[Finding], list[Placed]]:
    """Return a finding for each kind of tensors that no config key could explain (a LoRA's, an IP-Adapter's), and what is left."""
    left: list[Placed] = []
    apart: dict[tuple[Extra, Kind], list[Placed]] = {}
    for item in placed:
        extra = _extra_of(item.difference.name)
        group = left if extra is None or not extra.apart else apart.setdefault((extra, item.difference.kind), [])
        group.append(item)
    return [_group_finding(kind, group) for (_, kind), group in apart.items()], left


def group_by_module(placed: Iterable[Placed]) -> list[Finding]:
    """Return a finding for each pattern of modules; what stands in down blocks, in the middle and in up blocks is told once."""
    findings: list[Finding] = []
    for kind in KINDS:
        groups: dict[str, list[Placed]] = {}
        for item in placed:
            if item.difference.kind == kind:
                groups.setdefault(_without_stage(item.pattern), []).append(item)
        findings += [_group_finding(kind, group) for group in _fewer(groups)]
    return findings


def _fewer(groups: dict[str, list[Placed]]) -> Iterable[list[Placed]]:
    """Return the groups; where they are too many, others by the first part of the names, the smallest of them together."""
    if len(groups) <= _MOST_GROUPS:
        return groups.values()
    coarse: dict[str, list[Placed]] = {}
    for item in (item for group in groups.values() for item in group):
        first, second, *_ = [*item.pattern.split(".", 2), ""]
        pattern = f"{first}.*" if second == "*" else first
        coarse.setdefault(pattern, []).append(Placed(pattern, item.difference))
    largest = sorted(coarse.values(), key=len, reverse=True)
    rest = [item for group in largest[_MOST_GROUPS - 1 :] for item in group]
    return largest if len(largest) <= _MOST_GROUPS else [*largest[: _MOST_GROUPS - 1], rest]


def _group_finding(kind: Kind, group: Sequence[Placed]) -> Finding:
    where = tuple(dict.fromkeys(item.pattern for item in group))
    differences = [item.difference for item in group]
    extra = _shared_extra(differences)
    names = visible(", ".join(where[:EXAMPLES]))
    names += f" and {len(where) - EXAMPLES} more" if len(where) > EXAMPLES else ""
    tensors, one = plural(len(group), "tensor"), len(group) == 1
    if kind == "mismatched":
        what = f"{tensors} {'has' if one else 'have'} another shape than in this UNet: {names}{_shapes(differences)}"
    elif kind == "missing":
        what = f"{tensors} of this UNet {'is' if one else 'are'} missing: {names}"
    else:
        what = f"{tensors} {'is' if one else 'are'} unexpected, as this UNet has none of that name: {names}"
    what += f" ({extra.what})" if extra is not None else ""
    return _finding(kind, what, differences, where=where, advice=extra.advice if extra is not None else None)


def _shapes(group: Sequence[Difference]) -> str:
    """Return both shapes, where they are the same for all."""
    pairs = {(difference.tensor.shape if difference.tensor else None, difference.expected) for difference in group}
    if len(pairs) > 1:
        return ""
    ((found, expected),) = pairs
    return f", {format_shape(found)} in the file and {format_shape(expected)} here"


def _finding(kind: Kind, what: str, group: Sequence[Difference], *, where: tuple[str, ...], advice: str | None) -> Finding:
    examples = tuple(difference.example() for difference in group[:EXAMPLES])
    return Finding(about="weights", kind=kind, what=what, where=where, advice=advice, count=len(group), examples=examples)


def _main_kind(differences: Sequence[Difference]) -> Kind:
    counts = Counter(difference.kind for difference in differences)
    return max(KINDS, key=lambda kind: counts[kind])


def _extra_of(name: str) -> Extra | None:
    dotted = f".{name[:_LONGEST]}."
    return next((extra for extra in EXTRAS for mark in extra.marks if mark in dotted), None)


def _shared_extra(group: Sequence[Difference]) -> Extra | None:
    """Return what all of them are, where they are all the same."""
    first = _extra_of(group[0].name)
    return first if first is not None and all(_extra_of(difference.name) is first for difference in group) else None


def _meaning(key: str, change: Change) -> str | None:
    if key == "in_channels":
        return _IN_CHANNELS.get(change.found)
    if key == "use_linear_projection":
        shapes = ("(C, C)", "(C, C, 1, 1)")
        return "proj_in and proj_out are {} in the file and {} here".format(*shapes if change.found else reversed(shapes))
    return _MEANINGS.get(key)


def _json(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return visible(value) if isinstance(value, str) else _json(value)


def _parts(name: str) -> list[str]:
    return name.split(".", _DEEPEST)


def _parent(name: str) -> str:
    return name.rpartition(".")[0] or name


def _prefixes(names: Iterable[str]) -> set[str]:
    """Return every module that has one of the tensors in it, and every tensor."""
    return {".".join(parts[:depth]) for parts in map(_parts, names) for depth in range(1, len(parts) + 1)}


def _first_absent(name: str, known: set[str]) -> str:
    """Return the largest module with this tensor in it that the other side has nothing of."""
    parts = _parts(name)
    prefixes = (".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
    return next((prefix for prefix in prefixes if prefix not in known), name)


def _starred(name: str) -> str:
    """Put a star for every number: "down_blocks.*.attentions.*"."""
    short = name if len(name) <= _LONGEST else name[:_LONGEST] + "…"
    return ".".join("*" if part.isdigit() else part for part in short.split("."))


def _without_stage(pattern: str) -> str:
    """Leave out the stage, so that what is in the down blocks, the middle and the up blocks is told once."""
    return re.sub(r"^(?:(?:down_blocks|up_blocks)\.\*|mid_block)\.", "", pattern)
