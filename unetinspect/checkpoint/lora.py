"""LoRAs and their relatives: what each layer of a file adds to which module, in which form, and which models of the catalog it fits."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isqrt, prod
from typing import NamedTuple

from unetinspect.catalog import Entry, load_catalog
from unetinspect.checkpoint.adapters import FAMILIES, Found, quoted
from unetinspect.checkpoint.affixes import LAYER_PREFIXES, LONGEST_ENDING, LORA_EXTRAS, LORA_MATRIX, TEXT_ENCODER
from unetinspect.checkpoint.catalog_tensors import flat_names_of, tensors_of
from unetinspect.checkpoint.infer import known_first
from unetinspect.checkpoint.original_layout import block_of
from unetinspect.checkpoint.safetensors_header import Header
from unetinspect.record import Shape
from unetinspect.record.checkpoint import Lora, LoraBlock, LoraFormat, LoraGroup
from unetinspect.units import joined, plural

_FLAT = ("lora_", "oft_", "lycoris_")  # names whose layer is written without dots, so that the first dot ends it
_PREFIX = re.compile(rf"\A(?:{'|'.join(map(re.escape, LAYER_PREFIXES))})+")
_FORMATS: tuple[tuple[str, LoraFormat], ...] = (
    (r"lycoris_", "lycoris"),
    (r"(?:lora|oft)_(?:unet|te[123]?|prior|transformer)_", "kohya"),
    (r"diffusion_model\.", "comfyui"),
    (r".*(?:_lora|lora_linear_layer|\.lora)\.(?:down|up)\b", "diffusers"),
    (r".*\.(?:lora_[ABE]|lora_embedding_[AB]|lora_magnitude_vector|hada_|lokr_|oft_R|boft_|ia3_l|vera_|glora_)", "peft"),
)
_CONTROLNET = re.compile(r"controlnet_|input_hint_block|zero_convs")
_UNET = re.compile(rf"(?:^|_)(?:down|up|mid|input|output|middle)_blocks?_|{_CONTROLNET.pattern}")
_BLOCK = re.compile(r"(?:down|up|input|output)_blocks_\d|mid_block_|middle_block_")
_TRANSFORMER = re.compile(r"(?:^|_)blocks_\d+_|^layers_\d+_(?:attention|feed_forward|adaLN)|(?:double|single)_layers_")
# The families of diffusion transformers, by the name that one layer has ("." is a dot or an underscore) and how many inputs it has
# (None: any). Most names are of several families, so the first row that fits any layer counts, and there may be none.
_FAMILIES_OF_TRANSFORMERS = (
    (r"double_blocks.\d+.(?:img|txt)_(?:mlp.fc|mod.linear)|modulation.linear$", None, "HunyuanVideo"),
    (r"double_blocks.19.|single_(?:transformer_)?blocks.3[89].", 3072, "HunyuanVideo"),  # FLUX.1 has 19 and 38
    (r"joint_transformer_blocks.|double_layers.|single_layers.", None, "AuraFlow"),
    (r"transformer_blocks.\d+.(?:img|txt)_m(?:lp|od).", None, "Qwen-Image"),
    (r"double_blocks.\d+.(?:(?:img|txt)_(?:mlp.[02]$|mod.lin$|attn\.)|.*_lora[12]$)|modulation.lin$", 3072, "FLUX.1"),
    (r"single_transformer_blocks.", 3072, "FLUX.1"),
    (r"joint_blocks.", None, "Stable Diffusion 3"),
    (r"transformer_blocks.\d+.(?:attn[._]|ff_context|norm1_context)", 1536, "Stable Diffusion 3"),
    (r"transformer_blocks.\d+.(?:attn[._]|ff_context|norm1_context)", 2432, "Stable Diffusion 3"),
    (r"(?:^|[._])blocks.\d+.(?:(?:self|cross)_attn.(?:[qkvo]|norm_[qk]|[kv]_img)|ffn.[02])$", None, "Wan"),
    (r"transformer_blocks.\d+.attn2.to_[kv]$", 2048, "LTX-Video"),
    (r"(?:^|[._])layers.\d+.attention.", 3840, "Z-Image"),
)
# The type of a layer, by its name without dots: the first that matches.
_TYPES = {
    "temporal": r"motion_modules|temporal|temp_",
    "self-attention": r"attn1_|attentions_\d+_to_[qkv]|attentions_\d+_to_out",
    "cross-attention": r"attn2_|add_[kv]_proj",
    "feed-forward": r"_ff_",
    "proj_in/out": r"_proj_(?:in|out)$",
    "resnets": r"resnets_|(?:in|out|emb)_layers_|skip_connection",
    "samplers": r"samplers_|_0_op$",
    "time embedding": r"^(?:time|add|class)_embedding|^time_embed|^label_emb",
    "conv_in/out": r"^conv_(?:in|out)",
}
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


class Place(NamedTuple):
    """Where a layer belongs in a UNet: the module, its name in the original layout, its weight's shape; and whether it fits."""

    path: str
    original: str
    shape: Shape
    fits: bool


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


def _read_layers(header: Header) -> list[Layer]:
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
            made = next((read(shapes) for marker, read in _READERS.items() if marker in shapes), Made("", None))
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
    compared = []
    for layer in layers:
        made, missing = layer.made, layer.missing
        if made.form:
            missing += tuple(sorted(in_all[layer.part, made.form.removeprefix("Ada")] - layer.tensors.keys()))
        elif like := next((other for other in whole if other.tensors.keys() & layer.tensors.keys()), None):
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
_READERS: dict[str, Callable[[_Tensors], Made]] = {
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


def find_places(layers: Iterable[Layer], shapes: _Tensors, names: Mapping[str, tuple[str, str]]) -> dict[str, Place]:
    """Return the place of each layer whose module a UNet has, by the layer's name; `names` are the UNet's as `flat_names` gives them."""
    places = {}
    for layer in layers:
        both = names.get(f"{layer.flat}_weight")
        if both is not None:
            path, original = (name.removesuffix(".weight") for name in both)
            places[layer.name] = Place(path, original, shapes[both[0]], layer.made.fits(shapes[both[0]]))
    return places


def read_lora(header: Header) -> tuple[list[Layer], tuple[str, ...], dict[str, Place]]:
    """Return the layers of a LoRA, the models of the catalog that most of those in a UNet fit, and their places in the first of these.

    Where none has a UNet's name, they are a transformer's, or of what is not known.
    """
    layers = _read_layers(header)
    outside = [layer for layer in layers if layer.part == "unet"]
    models, places = _fitting(outside)
    if not places and (bare := _without_prefix(layers)):
        of_bare = _fitting([layer for layer in bare if layer.part == "unet"])
        if 2 * sum(place.fits for place in of_bare[1].values()) > len(outside):
            layers, (models, places) = bare, of_bare
    if not any(layer.name in places or _UNET.search(layer.flat) for layer in outside):
        is_transformer = any(_TRANSFORMER.search(layer.flat) for layer in outside)
        other = "unet" if any(layer.name.startswith(("lora_unet_", "oft_unet_")) for layer in outside) else "other"
        part = "transformer" if is_transformer else other
        layers = [layer._replace(part=part) if layer.part == "unet" else layer for layer in layers]
    return layers, models, places


def _without_prefix(layers: Sequence[Layer]) -> list[Layer]:
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


def find_lora(header: Header) -> Found | None:
    """Say whether a file is a LoRA or one of its relatives, of which model, and what it changes there."""
    layers, models, places = read_lora(header)
    if not layers:
        return None
    family, why = _trained_for(layers, models, header)
    inside = [layer for layer in layers if layer.part == "unet"]
    faults, prefixed = faults_of(layers), [layer for layer in inside if layer.prefix]
    fitting = sum(layer.name in places and places[layer.name].fits and not layer.missing for layer in inside)
    made = layers[0].made
    matrix = f"{made.form or 'LoRA'} tensor" + (f" of rank {made.rank}" if made.rank else "")
    groups = _groups(layers, places)
    lora = Lora(
        format=next((form for pattern, form in _FORMATS if any(re.match(pattern, layer_name) for layer_name in header.tensors)), None),
        forms=tuple(dict.fromkeys(group.form for group in groups)),
        dora=any({"dora_scale", "lora_magnitude_vector"} & layer.tensors.keys() for layer in layers),
        rank=groups[0].ranks[-1] if groups[0].ranks else None,
        alpha=groups[0].alphas[-1] if groups[0].alphas else None,
        groups=groups,
        layers=len(layers),
        text_encoders=tuple(sorted({layer.part for layer in layers if layer.part.startswith("text_encoder")})),
        types=_counted(inside, places),
        blocks=_blocks(inside, places),
        faults=(
            *([": ".join(prefix_words(prefixed))] if prefixed else []),
            *(f"{fault.what} ({'' if len(fault.layers) == 1 else 'first: '}{fault.layers[0].name})" for fault in faults),
        ),
    )
    untold = []
    if not family and inside:
        families = list(dict.fromkeys(load_catalog()[model].family for model in models))
        untold.append(f"base model: {' or '.join(families)}; these layers fit each" if families else "base model: no width shows it")
    if lora.rank and not any(group.alphas for group in groups):
        or_peft = ", or lora_alpha of the adapter_config.json beside it" if layers[0].name.startswith("base_model.model.") else ""
        untold.append(f"alpha: not in the file; loaders take the rank{or_peft}")
    if fitting:
        why.append(f"{fitting} of {len(inside)} layers match {models[0]} by name and shape (catalog)")
    tensors = {name: layer.part for layer in layers for name in layer.tensors.values()}
    return Found(
        content="lora",
        summary=_summary(lora, layers, family),
        family=family,
        models=models if fitting == len(inside) and not lora.faults else (),
        lora=lora,
        parts={name: tensors.get(name, "other") for name in header.tensors},
        evidence=(f"{_quoted(layers[0], header)}: {matrix}", *why),
        untold=tuple(untold),
    )


def _summary(lora: Lora, layers: Sequence[Layer], family: str | None) -> str:
    parts = list(dict.fromkeys(layer.part for layer in layers))
    kind = "motion LoRA" if all(".motion_modules." in layer.name for layer in layers) else "LoRA"
    words, what = form_words(lora).removeprefix("LoRA, "), ""
    if "transformer" in parts:
        return f"a LoRA ({words}) of a diffusion transformer{f' ({family})' if family else ''}, not of a UNet"
    if "other" in parts:
        return f"a LoRA ({words}) of an unknown model"
    if any(_CONTROLNET.match(layer.flat) for layer in layers):
        what = " of a ControlNet"
    elif parts != ["unet"]:
        what = f" of {'the UNet and ' if 'unet' in parts else ''}{plural(len(lora.text_encoders), 'text encoder')}"
    return f"a {kind} ({words}){what}{f' for {family}' if family else ''}"


def _fitting(inside: Sequence[Layer]) -> tuple[tuple[str, ...], dict[str, Place]]:
    """Return the models of the catalog that most layers fit, the best known first, and the places of the layers in the first."""
    tried: dict[int, dict[str, Place]] = {}  # models with the same tensors are tried once
    found: dict[tuple[int, int], list[tuple[Entry, dict[str, Place]]]] = {}
    for entry in sorted(known_first(load_catalog().values()), key=lambda entry: entry.class_name != "UNet2DConditionModel"):
        shapes = tensors_of(entry.name)
        if id(shapes) not in tried:
            tried[id(shapes)] = find_places(inside, shapes, flat_names_of(entry.name))
        places = tried[id(shapes)]
        found.setdefault((sum(place.fits for place in places.values()), len(places)), []).append((entry, places))
    (first, places), *_ = best = found[max(found)]
    return tuple(entry.name for entry, _ in best if places and entry.class_name == first.class_name), places


def transformer_family(inputs_of: Mapping[str, int | None]) -> tuple[str, str] | None:
    """Return the family of a diffusion transformer and the layer that shows it, by the layers' names and their inputs; None: unknown."""
    for pattern, inputs, family in _FAMILIES_OF_TRANSFORMERS:
        for name, found in inputs_of.items():
            if inputs in (None, found) and re.search(pattern, name):
                return family, name
    return None


def _trained_for(layers: Sequence[Layer], models: Sequence[str], header: Header) -> tuple[str | None, list[str]]:
    """Return the family of a LoRA and what shows it: the width of the text embeddings, names, or all models that it fits."""
    inputs_of = {layer.name: next((axes[1] for axes in layer.made.weights if len(axes) > 1), None) for layer in layers}
    for layer in layers:
        inputs = inputs_of[layer.name]
        if layer.part == "unet" and re.search(r"attn2_to_[kv]$", layer.flat) and inputs in FAMILIES:
            return FAMILIES[inputs], [f"{_quoted(layer, header)}: cross-attends to {inputs}-dim text embeddings"]
    outside = [layer.name for layer in layers if layer.part == "transformer"]
    if (shown := transformer_family({name: inputs_of[name] for name in outside})) is not None:
        family, name = shown
        return family, [f"{name!r} is a {family} name"]
    families = {load_catalog()[model].family for model in models}
    if len(families) == 1:
        return families.pop(), []
    # The width of the text encoder, where the UNet's layers leave several open. The first of SDXL, SD 3 and FLUX.1 has that of SD 1, so
    # without layers of a UNet the name must be the one that trainers use where there is only one.
    for layer in layers if len(encoders := {layer.part for layer in layers} - {"unet"}) == 1 and "text_encoder" in encoders else ():
        width = next((axis for axes in layer.made.weights for axis in axes if axis), None)
        of_text = FAMILIES.get(width or 0)
        is_alone = re.match(r"(?:lora|oft)_te_", layer.name)
        if re.search(r"self_attn_[qkv]_proj$", layer.flat) and of_text and (of_text in families or is_alone):
            return of_text, [f"{_quoted(layer, header)}: a text encoder of width {width}"]
    second = next((layer for layer in layers if layer.part == "text_encoder_2"), None)
    if second and all(layer.part.startswith("text_encoder") for layer in layers):
        return "Stable Diffusion XL", [f"{second.name!r} is a layer of the second text encoder"]
    return None, []


def _quoted(layer: Layer, header: Header) -> str:
    """Quote the tensor of a layer that shows its form: a matrix or a vector, not a number such as its alpha."""
    names = [layer.tensors[kind] for kind in (*_READERS, *layer.tensors) if kind in layer.tensors]
    name = next((name for name in names if header.tensors[name].shape), names[0])
    return quoted(name, header.tensors[name])


def _counted(layers: Iterable[Layer], places: Mapping[str, Place]) -> dict[str, int]:
    paths = (places[layer.name].path.replace(".", "_") if layer.name in places else layer.flat for layer in layers)
    counts = Counter(next((name for name, pattern in _TYPES.items() if re.search(pattern, path)), "other") for path in paths)
    return {name: counts[name] for name in (*_TYPES, "other") if counts[name]}


def _blocks(layers: Iterable[Layer], places: Mapping[str, Place]) -> tuple[LoraBlock, ...]:
    """Return the resnets, transformers and samplers that the layers are in, by their numbers in the original layout."""
    inside: dict[tuple[str, str | None], list[Layer]] = {}
    for layer in layers:
        if layer.name in places:
            place = places[layer.name]
            item = re.match(r"(?:(?:down|up)_blocks\.\d+|mid_block)(?:\.\w+\.\d+)?|\w+", place.path)
            inside.setdefault((item[0] if item else place.path, block_of(place.original)), []).append(layer)
    blocks = [LoraBlock(block=block, path=path, layers=len(own), types=_counted(own, places)) for (path, block), own in inside.items()]
    way = {"I": 0, "M": 1, "O": 2}
    return tuple(sorted(blocks, key=lambda one: (way.get((one.block or "?")[0], 3), one.block or "", one.path)))


def _groups(layers: Iterable[Layer], places: Mapping[str, Place]) -> tuple[LoraGroup, ...]:
    """Return the layers by model, linear or convolution, and form; the UNet's linear layers first."""
    found: dict[tuple[bool, str, bool, str], list[Layer]] = {}
    for layer in layers:
        weights = [places[layer.name].shape] if layer.name in places else layer.made.weights
        is_convolution = any(side and side > 1 for axes in weights for side in axes[2:])
        key = (layer.part.startswith("text_encoder"), layer.part, is_convolution, layer.made.form)
        found.setdefault(key, []).append(layer)
    return tuple(
        LoraGroup(
            part=part,
            kind="convolution" if is_convolution else "linear",
            form=form,
            ranks=tuple(sorted({layer.made.rank for layer in own if layer.made.rank is not None})),
            alphas=tuple(sorted({layer.alpha for layer in own if layer.alpha is not None})),
            layers=len(own),
        )
        for (_, part, is_convolution, form), own in sorted(found.items(), key=lambda item: (*item[0][:3], -len(item[1])))
    )


def form_words(lora: Lora) -> str:
    """Say in which form a LoRA is, with rank and alpha, and with those of other groups where they differ.

    >>> group = LoraGroup(part="unet", kind="linear", form="LoRA", ranks=(32,), alphas=(16.0,), layers=192)
    >>> form_words(Lora(format="kohya", forms=("LoRA",), rank=32, alpha=16.0, groups=(group,), layers=192))
    'LoRA, rank 32, alpha 16'
    """
    named = {"full": "full difference", "norm": "norms", "": "unknown form"}
    forms = [named.get(form, form) for form in lora.forms]
    if lora.dora:
        forms[0] = "DoRA" if forms[0] == "LoRA" else f"{forms[0]} with DoRA"
    elif forms[0] == "LoRA" and lora.format in ("kohya", "lycoris") and any(group.kind == "convolution" for group in lora.groups):
        forms[0] = "LoCon"
    first, *others = map(group_words, lora.groups)
    more = {
        f"{'convolutions' if group.kind == 'convolution' else group.part.replace('_', ' ')} {words}": None
        for group, words in zip(lora.groups[1:], others, strict=True)
        if words not in (first, "")
    }
    return "; ".join([", ".join(filter(None, [" and ".join(forms), first])), *more])


def group_words(group: LoraGroup) -> str:
    """Write the ranks and alphas of a group: "rank 4 to 16, alpha 8"."""
    numbers = {"rank": group.ranks, "alpha": group.alphas}
    spans = {name: dict.fromkeys((values[0], values[-1])) for name, values in numbers.items() if values}
    return ", ".join(f"{name} {' to '.join(f'{value:g}' for value in span)}" for name, span in spans.items())
