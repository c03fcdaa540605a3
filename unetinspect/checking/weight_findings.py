"""The differences between a checkpoint and a UNet, and a finding for each cause of them. Knows neither torch nor diffusers."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from unetinspect.checkpoint.config_from_shapes import HEADS
from unetinspect.checkpoint.file_parts import CONTENT_WORDS
from unetinspect.checkpoint.original_layout import FileTensor
from unetinspect.record import Shape
from unetinspect.record.check import Finding, TensorDifference
from unetinspect.record.checkpoint import Content
from unetinspect.units import format_shape, plural, visible

Kind = Literal["missing", "unexpected", "mismatched"]
KINDS: tuple[Kind, ...] = ("mismatched", "missing", "unexpected")
EXAMPLES = 3
# A damaged file can have thousands of patterns; beyond these they are grouped by their first part, and the smallest together.
_MOST_GROUPS = 8
# Only a damaged file has deeper names; a prefix of each of a million parts would fill the memory.
_DEEPEST = 24
_LONGEST = 200


class Extra(NamedTuple):
    """Tensors that show by their names what they are.

    Attributes:
        marks: What such a name has one of, with a dot before and after it.
        what: What they are.
        advice: What to do about it.
        apart: Whether they are not part of a UNet's config: no key of it could explain them.
    """

    marks: tuple[str, ...]
    what: str
    advice: str | None = None
    apart: bool = False


EXTRAS = (
    Extra(
        ("to_k_ip.", "to_v_ip.", ".ip_adapter.", ".image_proj."),
        "IP-Adapter",
        "load an IP-Adapter on top of a UNet, with `load_ip_adapter` of the pipeline",
        apart=True,
    ),
    Extra((".lora_", ".lora."), "LoRA", "load a LoRA on top of a UNet, with `load_lora_weights` of the pipeline", apart=True),
    Extra(
        (".motion_modules.",),
        "AnimateDiff's motion modules",
        "add them to a UNet with `UNetMotionModel.from_unet2d(unet, motion_adapter)`",
        apart=True,
    ),
    Extra((".position_net.", ".fuser."), 'GLIGEN: attention_type "gated" or "gated-text-image"'),
    Extra((".time_embedding.cond_proj.",), "guidance embedding of latent consistency models: time_cond_proj_dim"),
    Extra((".add_k_proj.", ".add_v_proj."), "attention to more than the text: addition_embed_type, encoder_hid_dim_type"),
    Extra((".encoder_hid_proj.",), "projection of encoder_hidden_states: encoder_hid_dim_type"),
    Extra((".controlnet_", ".input_hint_block.", ".zero_convs.", ".middle_block_out."), "ControlNet"),
    Extra((".temp_convs.", ".temp_attentions.", ".temporal", ".time_stack.", ".time_mixer."), "temporal layers of video UNets"),
    Extra((".add_embedding.",), "embedding of addition_embed_type"),
    Extra((".class_embedding.",), "embedding of class_embed_type or num_class_embeds"),
    Extra((".label_emb.",), "embedding of addition_embed_type, class_embed_type or num_class_embeds"),
)

_IN_CHANNELS = {
    9: "inpainting: latent 4 + mask 1 + masked image 4",
    8: "image editing, as instruct-pix2pix: latent 4 + image 4",
    7: "upscaling: latent 4 + low-resolution image 3",
    5: "depth: latent 4 + depth map 1",
    4: "latent only",
}
_MEANINGS = {"time_cond_proj_dim": "guidance embedding of latent consistency models", "attention_type": "GLIGEN"}

_CONTENT_ADVICE: dict[Content, str] = {
    **dict.fromkeys(
        ("lora", "control_lora", "controlnet_lllite", "motion_adapter"), "it is loaded on top of a UNet; check the UNet's own file"
    ),
    **dict.fromkeys(("controlnet", "t2i_adapter", "ip_adapter"), "`unetinspect ports MODEL --with FILE` checks whether it fits a UNet"),
    **dict.fromkeys(("vae", "text_encoder"), "in a pipeline's repository, the UNet's file is in the folder `unet`"),
    "textual_inversion": "it belongs to a text encoder and does not change the UNet",
    "transformer": "its model has a transformer instead of a UNet",
}


class Difference(NamedTuple):
    """A tensor that differs between a file and a UNet.

    Attributes:
        kind: Whether it is missing from the file, unexpected in it, or has another shape.
        name: As diffusers names it; as the file does, if diffusers has no name for it.
        tensor: What the file has; None: nothing.
        expected: Its shape in the UNet; None: the UNet has none.
    """

    kind: Kind
    name: str
    tensor: FileTensor | None
    expected: Shape | None

    @property
    def identity(self) -> tuple[str, int]:
        """What it is known by when the UNet changes: its place in the file, or in the UNet if the file has none."""
        return (self.name, -1) if self.tensor is None else (self.tensor.name, self.tensor.piece)

    def example(self) -> TensorDifference:
        """Return it as the record shows it."""
        original = self.tensor.name if self.tensor is not None and self.tensor.name != self.name else None
        found = None if self.tensor is None else self.tensor.shape
        return TensorDifference(name=self.name, original_name=original, found=found, expected=self.expected)


class Change(NamedTuple):
    """What a config key is in the file, and what it is in this UNet."""

    found: Any
    expected: Any


def key_finding(changes: Mapping[str, Change], differences: Sequence[Difference]) -> Finding:
    """Say that config keys explain these tensors; heads, which no tensor shows, only go along where blocks change."""
    shown = {key: change for key, change in changes.items() if key not in HEADS} or dict(changes)
    values = "; ".join(f"{key} {_value(change.found)}, expected {_value(change.expected)}" for key, change in shown.items())
    notes = [note for key, change in shown.items() if (note := _meaning(key, change))]
    what = f"{_counted(differences)}: {values}" + "".join(f" ({note})" for note in notes)
    options = " ".join(f"--set {shlex.quote(f'{key}={json.dumps(change.found)}')}" for key, change in changes.items())
    return finding_of(what, differences, where=tuple(shown), advice=f"to match the file, use `{options}`")


def class_finding(found: str, expected: str, differences: Sequence[Difference]) -> Finding:
    """Say that these tensors differ because the file is of another class."""
    what = f"{_counted(differences)}: class {found}, expected {expected}"
    advice = f"to match the file, use `--set _class_name={found}`"
    return finding_of(what, differences, where=("_class_name",), advice=advice)


def model_finding(fits: str, family: str | None) -> Finding:
    """Say that a checkpoint is one of another model, which it fits to the last tensor: all that differs follows from that."""
    what = f"a checkpoint of another model: {fits}{f' ({family})' if family else ''}"
    return Finding(about="weights", kind="mismatched", what=what, advice=f"use another file, or {fits} as MODEL")


def _counted(differences: Sequence[Difference]) -> str:
    """Count the tensors, and those of each kind where there are several."""
    counts = Counter(difference.kind for difference in differences)
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    return plural(len(differences), "tensor") + (f" ({kinds})" if len(counts) > 1 else "")


def content_finding(content: Content, tensors: int, missing: int, expected: str | None) -> Finding:
    """Say that a checkpoint contains no UNet, or no `expected` (the class of what attaches to one): nothing in it matches."""
    words = {"unet": "a UNet", "pipeline": "a whole checkpoint", **CONTENT_WORDS}
    what = f"{words.get(content, 'a file')} ({plural(tensors, 'tensor')}), not {f'a {expected}' if expected else 'a UNet'}"
    return Finding(
        about="weights",
        kind="unexpected",
        what=f"{what}: all {missing} tensors of this {expected or 'UNet'} are missing",
        advice=_CONTENT_ADVICE.get(content, "`unetinspect identify FILE` shows what is in it"),
        count=tensors + missing,
    )


class Placed(NamedTuple):
    """A difference, and the module that it belongs to.

    Attributes:
        pattern: The module's path with a `*` for each number: "down_blocks.*.motion_modules".
        module: The path itself.
        alike: All modules of this pattern in the UNet; of what is unexpected, in the file.
        difference: The difference.
    """

    pattern: str
    module: str
    alike: frozenset[str]
    difference: Difference


def place(differences: Iterable[Difference], found: Iterable[str], expected: Iterable[str]) -> list[Placed]:
    """Put every difference in a module: of what one side lacks, the largest that it has nothing of."""
    in_file, in_unet = ({outer for name in names for outer in _prefixes(name)} for names in (found, expected))
    modules = []
    for difference in differences:
        name = difference.name
        if difference.kind == "mismatched":
            module = name.rpartition(".")[0] or name
        else:
            known = in_file if difference.kind == "missing" else in_unet
            module = next((prefix for prefix in _prefixes(name) if prefix not in known), name)
        modules.append((_short(module), difference))
    alike: dict[tuple[bool, str], set[str]] = {}
    for is_of_file, names in ((True, in_file), (False, in_unet)):
        for short in map(_short, names):
            alike.setdefault((is_of_file, _pattern(short)), set()).add(short)
    frozen = {key: frozenset(names) for key, names in alike.items()}
    return [
        Placed(pattern, module, frozen[difference.kind == "unexpected", pattern], difference)
        for module, difference in modules
        for pattern in (_pattern(module),)
    ]


def _short(module: str) -> str:
    return module if len(module) <= _LONGEST else module[:_LONGEST] + "…"


def _pattern(module: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in module.split("."))


def _names_of(modules: Collection[str], alike: Collection[str]) -> list[str]:
    """Name modules of one pattern: with a `*` where all numbers of those that are alike are among them, else number by number.

    >>> _names_of({"up.0.resnets.0", "up.1.resnets.0", "up.1.resnets.1"}, {f"up.{a}.resnets.{b}" for a in (0, 1) for b in (0, 1)})
    ['up.0.resnets.0', 'up.1.resnets.*']
    """
    columns = [set(column) for column in zip(*(name.split(".") for name in alike), strict=True)]
    if len(modules) == len(alike):
        return [".".join(column.pop() if len(column) == 1 else "*" for column in columns)]
    place = next(index for index, column in enumerate(columns) if len(column) > 1)
    branches: dict[str, tuple[list[str], list[str]]] = {
        number: ([], []) for number in sorted(columns[place], key=lambda one: (len(one), one))
    }
    for side, names in enumerate((modules, alike)):
        for name in names:
            branches[name.split(".")[place]][side].append(name)
    return [name for own, all_of_them in branches.values() if own for name in _names_of(own, all_of_them)]


def split_extras(placed: Iterable[Placed]) -> tuple[list[Finding], list[Placed]]:
    """Return a finding for each kind of tensors that no config key could explain (a LoRA's, an IP-Adapter's), and what is left."""
    left: list[Placed] = []
    apart: dict[tuple[Extra, Kind], list[Placed]] = {}
    for item in placed:
        extra = _extra_of(item.difference.name)
        group = left if extra is None or not extra.apart else apart.setdefault((extra, item.difference.kind), [])
        group.append(item)
    return [_group_finding(kind, group) for (_, kind), group in apart.items()], left


def group_by_module(placed: Iterable[Placed], *, noun: str = "tensor") -> list[Finding]:
    """Return a finding for each pattern of modules, one for what is in down blocks, the mid block and up blocks alike."""
    findings: list[Finding] = []
    for kind in KINDS:
        groups: dict[str, list[Placed]] = {}
        for item in placed:
            if item.difference.kind == kind:
                in_stage = re.sub(r"^(?:(?:down_blocks|up_blocks)\.\*|mid_block)\.", "", item.pattern)
                groups.setdefault(in_stage, []).append(item)
        findings += [_group_finding(kind, group, noun) for group in _fewer(groups)]
    return findings


def _fewer(groups: dict[str, list[Placed]]) -> Iterable[list[Placed]]:
    """Return the groups; if they are too many, groups by the first part of the names, the smallest of them together."""
    if len(groups) <= _MOST_GROUPS:
        return groups.values()
    coarse: dict[str, list[Placed]] = {}
    known: dict[str, frozenset[str]] = {}  # by pattern, since thousands of tensors may be alike
    for item in (item for group in groups.values() for item in group):
        depth = 2 if item.pattern.split(".")[1:2] == ["*"] else 1
        if item.pattern not in known:
            known[item.pattern] = frozenset(".".join(name.split(".")[:depth]) for name in item.alike)
        pattern, module = (".".join(name.split(".")[:depth]) for name in (item.pattern, item.module))
        coarse.setdefault(pattern, []).append(Placed(pattern, module, known[item.pattern], item.difference))
    largest = sorted(coarse.values(), key=len, reverse=True)
    rest = [item for group in largest[_MOST_GROUPS - 1 :] for item in group]
    return largest if len(largest) <= _MOST_GROUPS else [*largest[: _MOST_GROUPS - 1], rest]


def _group_finding(kind: Kind, group: Sequence[Placed], noun: str = "tensor") -> Finding:
    modules: dict[str, set[str]] = {}
    alike: dict[str, set[frozenset[str]]] = {}
    for item in group:
        modules.setdefault(item.pattern, set()).add(item.module)
        alike.setdefault(item.pattern, set()).add(item.alike)
    where = tuple(name for pattern, own in modules.items() for name in _names_of(own, frozenset().union(*alike[pattern])))
    differences = [item.difference for item in group]
    extras = {_extra_of(difference.name) for difference in differences}
    extra = extras.pop() if len(extras) == 1 else None
    names = visible(", ".join(where[:EXAMPLES]))
    names += f" and {len(where) - EXAMPLES} more" if len(where) > EXAMPLES else ""
    tensors, one = plural(len(group), noun), len(group) == 1
    if kind == "mismatched":
        what = f"{tensors} {'has' if one else 'have'} a different shape: {names}"
        pairs = {(difference.tensor and difference.tensor.shape, difference.expected) for difference in differences}
        if len(pairs) == 1:
            found, expected = map(format_shape, pairs.pop())
            what += f", {found} in the file, expected {expected}"
    else:
        what = f"{tensors} {'is' if one else 'are'} {kind}: {names}"
    what += f" ({extra.what})" if extra is not None else ""
    return finding_of(what, differences, where=where, advice=extra.advice if extra is not None else None)


def finding_of(what: str, group: Sequence[Difference], *, where: tuple[str, ...], advice: str | None) -> Finding:
    """Return what is wrong with tensors: as most of them differ, with the first few of them."""
    counts = Counter(difference.kind for difference in group)
    kind = max(KINDS, key=lambda kind: counts[kind])
    examples = tuple(difference.example() for difference in group[:EXAMPLES])
    return Finding(about="weights", kind=kind, what=what, where=where, advice=advice, count=len(group), examples=examples)


def _extra_of(name: str) -> Extra | None:
    dotted = f".{name[:_LONGEST]}."
    return next((extra for extra in EXTRAS for mark in extra.marks if mark in dotted), None)


def _meaning(key: str, change: Change) -> str | None:
    if key == "in_channels":
        return _IN_CHANNELS.get(change.found)
    if key == "use_linear_projection":
        shapes = ("(C, C)", "(C, C, 1, 1)")
        return "proj_in and proj_out are {} in the file, expected {}".format(*shapes if change.found else reversed(shapes))
    return _MEANINGS.get(key)


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return visible(value) if isinstance(value, str) else json.dumps(value)


def _prefixes(name: str) -> list[str]:
    """Return every module that a tensor is in, the outermost first, and the tensor."""
    parts = name.split(".", _DEEPEST)
    return [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
