"""The layers of LoRAs and their relatives: what each adds to which module, in which form, and what it lacks to be usable."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isqrt, prod
from typing import NamedTuple

from unetinspect.checkpoint.affixes import LAYER_PREFIXES, LONGEST_ENDING, LORA_EXTRAS, LORA_MATRIX, TEXT_ENCODER
from unetinspect.checkpoint.safetensors_header import Header
from unetinspect.record import Shape
from unetinspect.units import joined, plural

_FLAT = ("lora_", "oft_", "lycoris_")  # names whose layer is written without dots, so that the first dot ends it
_PREFIX = re.compile(rf"\A(?:{'|'.join(map(re.escape, LAYER_PREFIXES))})+")
_BLOCK = re.compile(r"(?:down|up|input|output)_blocks_\d|mid_block_|middle_block_")
_Tensors = Mapping[str, Shape]
# Lengths of a weight's axes, None where the file does not show one.
_Axes = tuple[int | None, ...]


class Made(NamedTuple):
    """What the matrices of a layer make: in which form, of what rank, and the first axes of the weight that it changes (any of several).

    `is_whole`: these are all its axes; `is_flat`: all axes after the first are one.
    """

    form: str
    rank: int | None
    weights: tuple[_Axes, ...] = ()
    is_whole: bool = False
    is_flat: bool = False

    def fits(self, shape: Shape) -> bool:
        """Say whether it can be added to a weight of this shape."""
        seen = (*shape[:1], prod(shape[1:])) if self.is_flat else shape
        return any(
            len(axes) <= len(seen)
            and (not self.is_whole or len(axes) == len(seen))
            and all(axis in (None, length) for axis, length in zip(axes, seen, strict=False))
            for axes in self.weights
        )


class Layer(NamedTuple):
    """What a LoRA adds to one module, whose name without prefix and dots is `flat`; `tensors` are the file's, by what they are in it.

    `missing` are the tensors without which it is not usable, `ranks` the matrices that cannot be multiplied, both as the file spells them.
    `prefix` is what no tool is known to put before the name.
    """

    name: str
    part: str
    flat: str
    made: Made
    alpha: float | None
    tensors: dict[str, str]
    missing: tuple[str, ...] = ()
    ranks: tuple[str, ...] = ()
    prefix: str = ""


class Fault(NamedTuple):
    """What makes layers unusable in any model, and these layers."""

    what: str
    layers: list[Layer]


def split_key(name: str) -> tuple[str, str] | None:
    """Split the name of a tensor in a LoRA into its layer and which tensor of it it is; None: no LoRA has such a name.

    >>> split_key("lora_unet_mid_block_resnets_0_conv1.lora_down.weight"), split_key("unet.conv_in.lora_A.default.weight")
    (('lora_unet_mid_block_resnets_0_conv1', 'down'), ('unet.conv_in', 'down'))
    """
    if name.startswith(_FLAT) and "." in name:
        layer, _, rest = name.partition(".")
        found = LORA_MATRIX.search(f".{rest[-LONGEST_ENDING:]}")
        matrix = found[1] if found else rest.removesuffix(".weight")
    elif found := LORA_MATRIX.search(name[-LONGEST_ENDING:]):
        layer, matrix = name[: len(name) - len(found[0])], found[1]
    else:
        layer, _, matrix = name.rpartition(".")
        if f".{matrix}" not in LORA_EXTRAS or matrix == "bias" or not layer:
            return None
    if matrix.startswith("lora") and (role := re.search(r"(?:down|up|mid|A|B)$", matrix)):
        matrix = {"A": "down", "B": "up"}.get(role[0], role[0])
    return layer, matrix


def module_of(layer: str) -> str:
    """Return the module that a layer of a LoRA belongs to, as diffusers spells it: without prefix and processor.

    >>> module_of("unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out")
    'mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0'
    """
    module = without_processor(_PREFIX.sub("", layer))
    # AnimateDiff's own names; source: `MotionAdapter`'s converter in diffusers' `convert_animatediff_motion_module_to_diffusers.py`.
    module = module.replace(".temporal_transformer.", ".")
    return module.replace(".attention_blocks.0.", ".attn1.").replace(".attention_blocks.1.", ".attn2.")


def without_processor(layer: str) -> str:
    """Return the layer that an old LoRA of diffusers means: its layers belong to the processor, which has one module less."""
    return layer.replace(".processor.", ".") + (".0" if layer.endswith(".to_out") else "")


def read_layers(header: Header) -> list[Layer]:
    """Return the layers of a LoRA, in the order of the file; nothing where most tensors are none of a LoRA."""
    named: dict[str, dict[str, str]] = {}
    others = 0
    for name in header.tensors:
        found = split_key(name)
        if found:
            named.setdefault(found[0], {})[found[1]] = name
        others += found is None and not name.endswith(LORA_EXTRAS)
    with_matrix = {layer: tensors for layer, tensors in named.items() if set(tensors) - {"alpha", "scale", "bias"}}
    if not with_matrix or sum(map(len, with_matrix.values())) < others or any(".base_layer." in name for name in header.tensors):
        return []
    defaults, layers = _alphas_of(header.metadata), []
    for layer, tensors in named.items():
        # An alpha alone is what is left of a layer; in names with dots it may be a parameter of something else.
        if layer not in with_matrix and not (layer.startswith(_FLAT) and "alpha" in tensors):
            continue
        shapes = {kind: header.tensors[tensor].shape for kind, tensor in tensors.items()}
        try:
            made = next((read(shapes) for marker, read in READERS.items() if marker in shapes), Made("", None))
        except (IndexError, KeyError, TypeError):  # a tensor is missing, or has too few axes
            made = Made("", None)
        encoder = TEXT_ENCODER.match(layer)
        number = (encoder[1] or encoder[2] or "1") if encoder else ""
        part = ("text_encoder" if number == "1" else f"text_encoder_{number}") if encoder else "unet"
        alpha = header.alphas.get(tensors.get("alpha", ""), defaults.get(part, defaults.get("")))
        alpha = alpha if made.rank else None  # it is divided by the rank; without one it is of no use, or bounds a rotation (OFT)
        flat, ranks = module_of(layer).replace(".", "_"), _unequal_ranks(shapes, tensors)
        layers.append(Layer(layer, part, flat, made, alpha, tensors, _missing(tensors), ranks))
    return _compared(layers)


# What a layer needs that has a tensor of such a name, or else no loader can use it; "|" is "or".
_NEEDED = (
    (r"down|up|mid|lora_E", ("down", "up")),
    (r"hada_.*", ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")),
    (r"hada_t[12]", ("hada_t1", "hada_t2")),
    (r"lokr_.*", ("lokr_w1|lokr_w1_a|lokr_w1_b", "lokr_w2|lokr_w2_a|lokr_w2_b")),
    (r"lokr_w1_[ab]", ("lokr_w1_a", "lokr_w1_b")),
    (r"lokr_w2_[ab]|lokr_t2", ("lokr_w2_a", "lokr_w2_b")),
    (r"[ab][12]", ("a1", "a2", "b1", "b2")),
    (r"boft_[Rs]", ("boft_R", "boft_s")),
    (r"vera_lambda_[bd]", ("vera_lambda_b", "vera_lambda_d")),
    (r"lambda_layer|[pq]_layer", ("lambda_layer", "p_layer", "q_layer")),
)
# What all layers of a form have if one of them does: the magnitudes of DoRA, the singular values of AdaLoRA.
_IN_ALL_OR_NONE = {"dora_scale", "lora_magnitude_vector", "lora_E"}
# Matrices that are multiplied, so that the columns of the first are as many as the rows of the second; with the third, the rows of both.
_PRODUCTS = (
    ("up", "down", ""),
    ("hada_w1_a", "hada_w1_b", "hada_t1"),
    ("hada_w2_a", "hada_w2_b", "hada_t2"),
    ("lokr_w1_a", "lokr_w1_b", ""),
    ("lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    ("a1", "a2", ""),
    ("b1", "b2", ""),
)


def _missing(tensors: Mapping[str, str]) -> tuple[str, ...]:
    needed = dict.fromkeys(one for pattern, names in _NEEDED if any(re.fullmatch(pattern, kind) for kind in tensors) for one in names)
    return tuple(_spelled(one.partition("|")[0], tensors) for one in needed if not tensors.keys() & set(one.split("|")))


def _unequal_ranks(shapes: _Tensors, tensors: Mapping[str, str]) -> tuple[str, ...]:
    for first, second, core in _PRODUCTS:
        one, other = shapes.get(first, ()), shapes.get(second, ())
        if len(one) > 1 and len(other) > 1 and (rank := one[0 if core in shapes else 1]) != other[0]:
            return f"{_spelled(second, tensors)} {other[0]}", f"{_spelled(first, tensors)} {rank}"
    return ()


def _spelled(matrix: str, tensors: Mapping[str, str]) -> str:
    """Return what the file calls a matrix of a layer, or would by the name of the other: "down" is "lora_A" beside "lora_B"."""
    opposite = {"down": "up", "up": "down", "A": "B", "B": "A"}
    for known in (matrix, opposite[matrix]) if matrix in opposite else ():
        name = LORA_MATRIX.search(tensors.get(known, "")[-LONGEST_ENDING:])
        if name and known == matrix:
            return name[1]
        if name:
            return re.sub(r"(?:down|up|A|B)$", lambda role: opposite[role[0]], name[1])
    return f"lora_{matrix}" if matrix in opposite else matrix


def _compared(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers with what they lack by comparison with others, and with their form if they lack too much to show it."""
    in_all: dict[tuple[str, str], set[str]] = {}
    for layer in layers:  # AdaLoRA without its singular values looks like LoRA
        key = layer.part, layer.made.form.removeprefix("Ada")
        in_all.setdefault(key, set()).update(_IN_ALL_OR_NONE & layer.tensors.keys())
    whole = [layer for layer in layers if layer.made.form and not layer.missing]
    # The first whole layer with a tensor of each kind: a file may have a hundred thousand layers.
    first_with = {kind: place for place, layer in reversed([*enumerate(whole)]) for kind in layer.tensors}
    compared = []
    for layer in layers:
        made, missing = layer.made, layer.missing
        if made.form:
            missing += tuple(sorted(in_all[layer.part, made.form.removeprefix("Ada")] - layer.tensors.keys()))
        elif known := layer.tensors.keys() & first_with.keys():
            like = whole[min(map(first_with.__getitem__, known))]
            made = made._replace(form=like.made.form)
            if layer.tensors.keys() <= {"alpha", *_IN_ALL_OR_NONE}:
                rest = like.tensors.keys() - layer.tensors.keys() - {"alpha", "bias", "mid"}
                missing = tuple(sorted(_spelled(kind, like.tensors) for kind in rest))
        compared.append(layer._replace(made=made, missing=missing))
    return compared


def faults_of(layers: Iterable[Layer]) -> list[Fault]:
    """Return what makes layers unusable in any model: matrices that are missing, or that cannot be multiplied."""
    halves: list[Layer] = []
    incomplete: list[Layer] = []
    unequal: list[Layer] = []
    for layer in layers:
        if layer.missing:
            is_half = ("down" in layer.tensors) != ("up" in layer.tensors)
            (halves if is_half else incomplete).append(layer)
        elif layer.ranks:
            unequal.append(layer)
    faults = []
    for group, one, several in (
        (halves, "has only one of its two matrices", "have only one of their two matrices"),
        (incomplete, "is incomplete", "are incomplete"),
        (unequal, "has matrices of different ranks", "have matrices of different ranks"),
    ):
        if group:
            details = _ranks_words(group) if group is unequal else _missing_words(group)
            faults.append(Fault(f"{plural(len(group), 'layer')} {one if len(group) == 1 else several}: {details}", group))
    return faults


def prefix_words(layers: Sequence[Layer]) -> tuple[str, str]:
    """Say which unknown prefix these layers have, and what to rename it to: kohya's names have no dots."""
    known = "unet." if "." in layers[0].name else "lora_unet_"
    return f"unknown prefix {layers[0].prefix!r} on {plural(len(layers), 'layer')}", f"rename it to {known!r}"


def _missing_words(layers: Sequence[Layer]) -> str:
    counts = Counter(name for layer in layers for name in layer.missing)
    if set(counts.values()) == {len(layers)}:
        return f"{joined(counts)} {'is' if len(counts) == 1 else 'are'} missing"
    return joined(f"{name} is missing from {count}" for name, count in counts.most_common())


def _ranks_words(layers: Sequence[Layer]) -> str:
    first, *others = Counter(", ".join(layer.ranks) for layer in layers)
    return first + (f", or {plural(len(others), 'other pair')}" if others else "")


def _low_rank(t: _Tensors) -> Made:
    down, up = t.get("down"), t.get("up")
    if down and up:
        weight = (up[0], down[1], *t.get("mid", down)[2:])
        return Made("AdaLoRA" if "lora_E" in t else "LoRA", down[0], (weight,) if down[0] == up[1] else (), is_whole=True)
    return Made("LoRA", down[0], ((None, down[1]),)) if down else Made("LoRA", t["up"][1], ((t["up"][0],),))


def _hadamard(t: _Tensors) -> Made:
    a, b, core = t["hada_w1_a"], t["hada_w1_b"], t.get("hada_t1", ())
    return Made("LoHa", b[0], ((a[1] if core else a[0], b[1], *core[2:]),), is_whole=bool(core), is_flat=not core)


def _kronecker(t: _Tensors) -> Made:
    rank = next((t[matrix][0] for matrix in ("lokr_w2_b", "lokr_w1_b") if matrix in t), None)
    one = t.get("lokr_w1") or (t["lokr_w1_a"][0], t["lokr_w1_b"][1])
    is_flat = "lokr_w2" not in t and "lokr_t2" not in t
    two = t.get("lokr_w2") or (t["lokr_w2_a"][1 if "lokr_t2" in t else 0], t["lokr_w2_b"][1], *t.get("lokr_t2", ())[2:])
    return Made("LoKr", rank, ((one[0] * two[0], one[1] * two[1], *two[2:]),), is_whole=not is_flat, is_flat=is_flat)


def _scaling(vector: Shape) -> Made:
    """Return what a vector makes that scales inputs or outputs: which of them is a value, not a shape."""
    others = (None,) * (len(vector) - 2)
    return Made("IA3", None, ((prod(vector), None, *others), (None, prod(vector), *others)), is_whole=True)


def _rotation(blocks: Shape) -> Made:
    return Made("BOFT" if len(blocks) == 4 else "OFT", None, ((blocks[-3] * blocks[-1],),))


def _rotation_of_inputs(count: int, values: int) -> Made:
    """Return what PEFT's OFT makes, of whose blocks the upper triangles are saved; a block that all share does not show the width."""
    side = (1 + isqrt(1 + 8 * values)) // 2
    return Made("OFT", None, ((None, count * side if count > 1 else None),), is_flat=True)


# What makes what a layer adds, by a tensor that it has: the first that is there. Another form is another row.
# Source: LyCORIS' modules and PEFT's tuners, one class each.
READERS: dict[str, Callable[[_Tensors], Made]] = {
    "down": _low_rank,
    "up": _low_rank,
    "hada_w1_a": _hadamard,
    **dict.fromkeys(("lokr_w1", "lokr_w1_a", "lokr_w2", "lokr_w2_a"), _kronecker),
    "a1": lambda t: Made("GLoRA", t["a2"][0], ((t["b1"][0], t["b2"][1], *t.get("bm", t["b2"])[2:]),), is_whole=True),
    "diff": lambda t: Made("full" if len(t["diff"]) > 1 else "norm", None, (t["diff"],), is_whole=True),
    "diff_b": lambda t: Made("full", None, (t["diff_b"],)),
    "w_norm": lambda t: Made("norm", None, (t["w_norm"],), is_whole=True),
    "b_norm": lambda t: Made("norm", None, (t["b_norm"],), is_whole=True),
    "on_input": lambda t: _scaling(t["weight"]),
    "ia3_l": lambda t: _scaling(t["ia3_l"]),
    "oft_blocks": lambda t: _rotation(t["oft_blocks"]),
    "oft_diag": lambda t: _rotation(t["oft_diag"]),
    "oft_R": lambda t: _rotation_of_inputs(*t["oft_R"]),
    "boft_R": lambda t: Made("BOFT", None, ((None, t["boft_R"][1] * t["boft_R"][-1]),), is_flat=True),
    "vera_lambda_b": lambda t: Made("VeRA", t["vera_lambda_d"][0], ((t["vera_lambda_b"][0],),)),
    "lambda_layer": lambda t: Made("T-LoRA", t["lambda_layer"][-1], ((t["p_layer"][0], t["q_layer"][1]),)),
    "glora_A": lambda t: Made("GLoRA", None),
}


def _alphas_of(metadata: Mapping[str, str]) -> dict[str, float]:
    """Return the alphas that metadata has for all layers of a part, "" for those of any: kohya's, and that of diffusers and PEFT."""
    try:
        written = {"lora_alpha": metadata.get("ss_network_alpha"), **json.loads(metadata.get("lora_adapter_metadata", "{}"))}
        return {key.rpartition(".")[0]: float(value) for key, value in written.items() if key.endswith("lora_alpha") and value is not None}
    except (ValueError, TypeError, RecursionError):
        return {}


def without_prefix(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers of a UNet named without what all have before the name of a block; [] where there is no such prefix."""
    starts = {layer.flat[: found.start()] for layer in layers if layer.part == "unet" and (found := _BLOCK.search(layer.flat))}
    flat = starts.pop() if len(starts) == 1 else ""
    if not flat:
        return []
    return [
        layer._replace(flat=layer.flat.removeprefix(flat), prefix=_PREFIX.sub("", layer.name)[: len(flat)])
        if layer.part == "unet" and layer.flat.startswith(flat)
        else layer
        for layer in layers
    ]
