"""LoRAs and their relatives: which models of the catalog their layers fit, where in them, and what a file is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from unetinspect.catalog import Entry, load_catalog
from unetinspect.checkpoint.adapters import FAMILIES, Found, quoted
from unetinspect.checkpoint.catalog_tensors import flat_names_of, tensors_of
from unetinspect.checkpoint.infer import known_first
from unetinspect.checkpoint.lora_layers import READERS, Layer, faults_of, prefix_words, read_layers, without_prefix
from unetinspect.checkpoint.original_layout import block_of
from unetinspect.checkpoint.safetensors_header import Header
from unetinspect.record import Shape
from unetinspect.record.checkpoint import Lora, LoraBlock, LoraFormat, LoraGroup
from unetinspect.units import plural

_FORMATS: tuple[tuple[str, LoraFormat], ...] = (
    (r"lycoris_", "lycoris"),
    (r"(?:lora|oft)_(?:unet|te[123]?|prior|transformer)_", "kohya"),
    (r"diffusion_model\.", "comfyui"),
    (r".*(?:_lora|lora_linear_layer|\.lora)\.(?:down|up)\b", "diffusers"),
    (r".*\.(?:lora_[ABE]|lora_embedding_[AB]|lora_magnitude_vector|hada_|lokr_|oft_R|boft_|ia3_l|vera_|glora_)", "peft"),
)
_CONTROLNET = re.compile(r"controlnet_|input_hint_block|zero_convs")
_UNET = re.compile(rf"(?:^|_)(?:down|up|mid|input|output|middle)_blocks?_|{_CONTROLNET.pattern}")
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


class Place(NamedTuple):
    """Where a layer belongs in a UNet: the module, its name in the original layout, its weight's shape; and whether it fits."""

    path: str
    original: str
    shape: Shape
    fits: bool


def find_places(layers: Iterable[Layer], shapes: Mapping[str, Shape], names: Mapping[str, tuple[str, str]]) -> dict[str, Place]:
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
    layers = read_layers(header)
    outside = [layer for layer in layers if layer.part == "unet"]
    models, places = _fitting(outside)
    if not places and (bare := without_prefix(layers)):
        of_bare = _fitting([layer for layer in bare if layer.part == "unet"])
        if 2 * sum(place.fits for place in of_bare[1].values()) > len(outside):
            layers, (models, places) = bare, of_bare
    if not any(layer.name in places or _UNET.search(layer.flat) for layer in outside):
        is_transformer = any(_TRANSFORMER.search(layer.flat) for layer in outside)
        other = "unet" if any(layer.name.startswith(("lora_unet_", "oft_unet_")) for layer in outside) else "other"
        part = "transformer" if is_transformer else other
        layers = [layer._replace(part=part) if layer.part == "unet" else layer for layer in layers]
    return layers, models, places


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
    names = [layer.tensors[kind] for kind in (*READERS, *layer.tensors) if kind in layer.tensors]
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
